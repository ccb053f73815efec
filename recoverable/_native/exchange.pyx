# cython: language_level=3, boundscheck=False, wraparound=False
"""A request in ASGI, as far as each one comes by: what stands around an application, and in the way of what that sends.

What we want: a request that ends well pays for one more coroutine and one more object. What only some requests need (bodies, held
answers, re-runs) is in Python, in the subclass of `Exchanged`. `Serve` hands everything but a plain HTTP request to Python.
"""
cimport cython
from cpython.contextvars cimport PyContextVar_Set, get_value
from cpython.dict cimport PyDict_Copy, PyDict_DelItem, PyDict_GetItemWithError, PyDict_SetItem
from cpython.object cimport PyObject

from recoverable._native.runtime cimport RequestBefore, Requests, Running

from copy import deepcopy

from recoverable._native.runtime import running_request

cdef extern from *:
    """
    /* Make one of a class that inherits Exchanged; its __init__ is not called. */
    static PyObject *made(PyObject *cls, PyObject *none)
    {
        return ((PyTypeObject *)cls)->tp_new((PyTypeObject *)cls, none, NULL);
    }
    """
    object made(object cls, tuple none)

cdef object _running_request = running_request
cdef object _reset_running = running_request.reset
cdef bint _watched = False
cdef object _hand_on = None


def watch_exchanges(bint watched) -> None:
    """Say whether something is called in the place of each handler. recoverable.middleware does."""
    global _watched
    _watched = watched


def hand_on_watched(hand_on) -> None:
    """Have hand_on(exchange, app) serve what an Innermost would hand on to the application below, while that is so."""
    global _hand_on
    _hand_on = hand_on


#: Where a scope has the outermost Exchange of its request.
KEY = "recoverable.exchange"
cdef str _KEY = KEY
#: The messages of an answer.
ANSWER = frozenset({
    "http.response.start", "http.response.body", "http.response.pathsend", "http.response.zerocopysend", "http.response.trailers",
})
cdef frozenset _ANSWER = ANSWER


cdef class Exchanged:
    """What each request needs of an Exchange; `recoverable._asgi` says what it is."""
    cdef public object app, scope, raised
    cdef public object raised_at # the traceback that it had
    cdef public object raised_as # the status of what its framework has made of it, or None: not known
    cdef object around # the outermost one, or None: it is that itself
    cdef public Py_ssize_t read, passed, sent, limit
    cdef public bint over
    cdef public bint crashed # what is raised now is what its framework has made an answer of, which is held
    cdef public bint withholds # answers of 500 and above, until it is known what was raised
    cdef readonly object from_client, to_client # what the outermost application was called with
    cdef public object _receive, _send # and what leads there from here
    cdef public list _messages # of the body; None: there were none so far
    cdef public Py_ssize_t _first # the number of the first of them
    cdef public Py_ssize_t _size
    cdef public object _whole # the transaction that all of it is
    cdef public object _start # of an answer that is held
    cdef public list _held # and what followed it
    cdef public Py_ssize_t _held_size # bytes of its body
    cdef object __weakref__

    def __init__(self, app, scope, receive, send, Py_ssize_t limit):
        fill(self, app, scope, receive, send, limit)

    @property
    def outermost(self):
        return self if self.around is None else self.around

    @property
    def holds(self):
        """Whether an answer is held."""
        return self._start is not None

    # What middlewares are given until the request is met behind them: it is only counted what comes by.

    def pass_received(self):
        self.passed += 1
        return self.from_client()

    def pass_sent(self, message):
        if self._send is self.to_client: # else it is counted there
            count(self, message)
        return self.to_client(message)

    def keep(self, message) -> None:
        """Remember a message that it gives, to be given again, as long as there is room for the body."""
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size <= self.limit:
                if self._messages is None:
                    self._messages = []
                self._messages.append(dict(message))
            else:
                self._messages = None
                self._first = self.read + 1
            self.read += 1
        elif self.scope["type"] == "websocket":
            self.sent += 1

    def send(self, message):
        """Take a message for the client: it is sent on, or held."""
        if self._whole is not None or self.withholds:
            return self.hold(message)
        count(self, message)
        return self._send(message)

    def end(self, scope) -> None:
        """Its application has ended. What has led to it, and to where it leads, does so no more: they would keep each other."""
        ended(self, scope)


cdef int ended(Exchanged e, scope) except -1:
    e.over = True
    e._receive, e._send = e.from_client, e.to_client
    e._whole = e.raised = e.raised_at = None # which hold it, or frames that do
    if e.around is None:
        forget(scope)
    return 0


cdef int count(Exchanged e, message) except -1:
    if message["type"] in _ANSWER or e.scope["type"] == "websocket":
        e.sent += 1
    return 0


cdef int fill(Exchanged e, app, scope, receive, send, Py_ssize_t limit) except -1:
    cdef PyObject *found
    e.app, e.scope, e._receive, e._send, e.limit = app, scope, receive, send, limit
    e.from_client, e.to_client = receive, send
    if type(scope) is dict:
        found = PyDict_GetItemWithError(scope, _KEY)
        if found != NULL:
            e.around = <object>found
        else:
            PyDict_SetItem(scope, _KEY, e)
    else:
        e.around = scope.get(_KEY)
        if e.around is None:
            scope[_KEY] = e
    return 0


cdef int forget(scope) except -1:
    """Take it out of a scope, if it is still there."""
    if type(scope) is dict and PyDict_GetItemWithError(scope, _KEY) != NULL:
        return PyDict_DelItem(scope, _KEY)
    scope.pop(_KEY, None)
    return 0


@cython.final
cdef class Kept(RequestBefore):
    """An Exchange as it was when a run began.

    Attributes:
        scope: what its scope was.
        written: the dicts in it that handlers write to, with what was in each, and with its attributes or None.
        read: how much it had given.
        passed: how much had come by it.
        sent: how much of an answer had left.
        others: what puts back what else a framework has of it, or None; each may return why it can't.
    """
    cdef readonly dict scope
    cdef readonly list written, others
    cdef readonly Py_ssize_t read, passed, sent


cdef str _SESSION = "session"
cdef tuple _WRITTEN = ("state", _SESSION) # what in a scope is a dict that handlers write to


def whole_copy(session):
    """The items of a session, and what lies in them, which is to be in a cookie or a store."""
    if not session:
        return {}
    try:
        return deepcopy(dict(session))
    except Exception: # something in it can't be copied
        return dict(session)


#: What frameworks have of a request beside its scope: remember(exchange) returns what says how that is put back (`Back`), or None.
remembering = []
cdef list _remembering = remembering


@cython.final
cdef class ExchangeRequests(Requests):
    """How ASGI's requests are kept: as a `Kept`."""

    cdef object before(self, object request):
        cdef Kept kept = Kept.__new__(Kept)
        kept.request, kept.adapter = request, self.adapter
        keep(kept, <Exchanged?>request)
        return kept


cdef int keep(Kept kept, Exchanged exchange) except -1:
    cdef PyObject *found
    kept.read, kept.passed, kept.sent, kept.written = exchange.read, exchange.passed, exchange.sent, []
    scope = exchange.scope
    kept.scope = PyDict_Copy(scope) if type(scope) is dict else dict(scope)
    for name in _WRITTEN:
        found = PyDict_GetItemWithError(kept.scope, name)
        if found == NULL:
            continue
        mapping = <object>found
        if type(mapping) is dict:
            kept.written.append((mapping, whole_copy(mapping) if name is _SESSION else PyDict_Copy(mapping), None))
        elif isinstance(mapping, dict):
            attributes = getattr(mapping, "__dict__", None)
            items = whole_copy(mapping) if name is _SESSION else dict(mapping)
            kept.written.append((mapping, items, None if attributes is None else dict(attributes)))
    if _remembering:
        kept.others = [back for remember in _remembering if (back := remember(exchange)) is not None]
    return 0


cdef int back(token) except -1:
    """Have the request around be the running one again, if this is still the context."""
    try:
        _reset_running(token)
    except ValueError: # closed elsewhere
        pass
    return 0


@cython.final
cdef class Serve:
    """An application below which requests use an arena, and only what is decorated is a transaction.

    Args:
        app: the application below.
        kind: the class of Exchanges.
        arena: the arena.
        requests: ASGI's.
        limit: how much of a body is kept.
        withholds: answers of 500 are withheld until it is known what was raised.
        later: an Innermost is below.
        failed: await failed(exchange, error, inside): was an answer made of what was raised? `inside`: there is one around.
        otherwise: the application for what is no request, and for those that have something called in the place of handlers.
        begin: what is to be done before the first of them.
    """
    cdef object app, kind, arena, failed, otherwise, begin
    cdef Requests requests
    cdef Py_ssize_t limit
    cdef bint withholds, later

    def __init__(self, app, kind, arena, Requests requests not None, Py_ssize_t limit, bint withholds, bint later, failed, otherwise, begin):
        self.app, self.kind, self.arena, self.requests, self.limit = app, kind, arena, requests, limit
        self.withholds, self.later, self.failed, self.otherwise, self.begin = withholds, later, failed, otherwise, begin

    async def __call__(self, scope, receive, send):
        if _watched or scope["type"] != "http":
            await self.otherwise(scope, receive, send)
            return
        if self.begin is not None:
            self.begin()
            self.begin = None
        cdef Exchanged exchange = <Exchanged>made(self.kind, ())
        fill(exchange, self.app, scope, receive, send, self.limit)
        exchange.withholds = self.withholds
        cdef Running outer = get_value(_running_request)
        inside = outer is not None and getattr(outer.request, "outermost", None) is exchange.outermost
        cdef Running here = Running.__new__(Running)
        here.request, here.arena, here.whole, here.requests = exchange, self.arena, inside and outer.whole, self.requests
        token = PyContextVar_Set(_running_request, here)
        try:
            try:
                if self.later:
                    await self.app(scope, exchange.pass_received, exchange.pass_sent)
                else:
                    await self.app(scope, exchange.receive, exchange.send)
            finally:
                here.request = None # tasks that it has started may live on
                if outer is not None:
                    back(token)
            if exchange._start is not None:
                await exchange.flush()
        except BaseException as error:
            if not await self.failed(exchange, error, inside):
                raise
        finally:
            ended(exchange, scope)
            if outer is None and get_value(_running_request) is here: # the next request may come in this very context
                PyContextVar_Set(_running_request, None)


@cython.final
cdef class Innermost:
    """Where a request is met again, behind all middlewares of an application: what handlers receive and send comes by here."""
    cdef readonly object app
    cdef object kind, arena

    def __init__(self, app, kind, arena):
        self.app, self.kind, self.arena = app, kind, arena

    def __call__(self, scope, receive, send):
        cdef Running here = get_value(_running_request)
        if here is not None and here.arena is self.arena and type(here.request) is self.kind:
            kind = scope["type"]
            if kind == "http" or kind == "websocket":
                exchange = <Exchanged>here.request # it stands there from now on
                exchange.scope, exchange._receive, exchange._send = scope, receive, send
                if _watched:
                    return _hand_on(exchange, self.app)
                receive, send = exchange.receive, exchange.send
        return self.app(scope, receive, send)
