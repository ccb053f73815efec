# request.pxi -- the web request that a run belongs to, and what it was like when the run began. Part of runtime.pyx, since
# each request comes by here; what is done about it when a run is to begin again is the web framework's adapter's.
from cpython.contextvars cimport get_value
from cpython.dict cimport PyDict_Copy, PyDict_Size
from cpython.tuple cimport PyTuple_GET_ITEM
from contextvars import ContextVar

cdef extern from *:
    """
    /* isinstance(), but for classes that claim instances which are not theirs: an ABC asks for long. */
    static inline int is_instance(PyObject *o, PyObject *cls)
    {
        return PyObject_TypeCheck(o, (PyTypeObject *)cls);
    }
    """
    bint is_instance(object o, object cls)

#: What the running code belongs to, a Running or None: set around a handler (route.pxi, recoverable.middleware), inherited
#: by tasks.
running_request = ContextVar("recoverable.request", default=None)
cdef object _running_request = running_request
cdef Requests _watched = None # the first of the frameworks whose requests are kept


def watch_requests(Requests requests not None) -> None:
    """Have runs keep what the requests of a framework were like. For recoverable.web.register()."""
    global _watched
    requests.next = _watched
    _watched = requests


cdef tuple _responses = () # the classes that most responses are of,
cdef tuple _response_statuses = () # and the name of the attribute that has the status, for each


def know_responses(tuple classes not None, str status not None) -> None:
    """Have the default commit rule know, natively, classes that most responses are of. For recoverable.web.register().

    Args:
        classes: they; what is of a subclass is asked for its status in Python.
        status: the name of the attribute that has the status.
    """
    global _responses, _response_statuses
    _responses += classes
    _response_statuses += (status,) * len(classes)


cdef object status_of(object result):
    """The status of a response of one of these classes; None: it is of none."""
    cdef Py_ssize_t i
    for i in range(len(_responses)):
        if type(result) is <object>PyTuple_GET_ITEM(_responses, i):
            return getattr(result, <str>_response_statuses[i], None)
    return None


cdef bint _tuples = False # may one be a response?


def know_tuples() -> None:
    """Have the default commit rule ask in Python whether a tuple is a response. For recoverable.web.register()."""
    global _tuples
    _tuples = True


cdef extern from *:
    """
    /* What is no response, whichever framework asks. */
    static inline int is_plain(PyObject *o)
    {
        return o == Py_None || PyUnicode_CheckExact(o) || PyDict_CheckExact(o) || PyList_CheckExact(o) || PyLong_CheckExact(o) ||
               PyBool_Check(o) || PyTuple_CheckExact(o) || PyBytes_CheckExact(o) || PyFloat_CheckExact(o);
    }
    """
    bint is_plain(object o)


cdef class Requests:
    """How the requests of one web framework are found, and kept as they were before a run.

    This class itself is for a framework with a middleware that says which request runs: nothing else is searched for it.

    Args:
        snapshot: snapshot(request) gives what the adapter's restore() needs, as `RequestBefore.kept`.
    """

    def __init__(self, snapshot=None):
        self.snapshot = snapshot

    def find(self, tuple args, dict kwargs):
        """Return the request among a call's arguments, or one that these belong to, or None."""
        request = self.among(args)
        return request if request is not None else self.search(args, kwargs)

    cdef bint is_one(self, object o) noexcept:
        """Is it a request?"""
        return False

    cdef object among(self, tuple args):
        """The request that a handler is called with, or None."""
        return None

    cdef object search(self, tuple args, dict kwargs):
        """The request of a call where nothing has said which it is, or None."""
        return None

    cdef object kept_of(self, object request, bint placeholders):
        """What has to be looked at now of a request that nobody but the framework has seen, for unseen() to say later what it was
        like; None: all of it."""
        return None

    cdef object unseen(self, object request, object kept):
        """before(), of such a request, after its run."""
        return None

    cdef object before(self, object request):
        cdef RequestBefore before = RequestBefore.__new__(RequestBefore)
        before.request = request
        before.adapter = self.adapter
        before.kept = None if self.snapshot is None else self.snapshot(request)
        return before


cdef class Running:
    """The request that a task, and the tasks that it starts, belong to: what the context variable holds.

    Attributes:
        request: it, or None once its handler has ended; those tasks may live on.
        arena: its application's.
        whole: all of its handling is one transaction.

    One that is set for a single Call (`Call.here`) is told when that begins and ends, so that who sets it needs no coroutine around.
    """

    def __init__(self, object request, object arena, bint whole, Requests requests not None):
        self.request = request
        self.arena = arena
        self.whole = whole
        self.requests = requests

    cdef int begin(self) except -1:
        """Its call begins, in the task that awaits it."""
        return 0

    cdef bint says_later(self) except -1:
        """Can before() say after the run what the request was like when that began?"""
        return False

    cdef object before(self):
        return None

    cdef object end(self, object error):
        """Its call has ended, by an error that is not None: what is raised instead."""
        self.request = None # tasks that it has started may live on
        return error


cdef class RequestBefore:
    """A request as it was when a run began.

    Attributes:
        request: it.
        adapter: of its framework.
        kept: what the framework's `Requests` has kept of it.
        args: the positional arguments of the run.
        kwargs: its keyword arguments, or None.
    """


cpdef object request_before(tuple args, dict kwargs):
    """Return the request of a run with these arguments as it is now: what its framework's Requests.before() gives; or None.

    It is the one among the arguments, else the one that the running code belongs to, else what a framework finds.
    """
    cdef Requests each = _watched
    if each is None:
        return None
    while each is not None:
        request = each.among(args)
        if request is not None:
            return before_with(each, request, args, kwargs)
        each = each.next
    running = get_value(_running_request)
    if running is not None and (<Running>running).request is not None:
        return before_with((<Running>running).requests, (<Running>running).request, args, kwargs)
    each = _watched
    while each is not None:
        request = each.search(args, {} if kwargs is None else kwargs)
        if request is not None:
            return before_with(each, request, args, kwargs)
        each = each.next
    return None


cdef object before_with(Requests requests, object request, tuple args, dict kwargs):
    before = requests.before(request)
    if is_instance(before, RequestBefore):
        (<RequestBefore>before).args, (<RequestBefore>before).kwargs = args, kwargs
    return before


# -- aiohttp's ---------------------------------------------------------------------------------------------------------

cdef class AiohttpRequests(Requests):
    """How aiohttp's requests are found, and kept: as an `AiohttpBefore`.

    Args:
        request: the class of requests.
        view: the class of handlers that have theirs in `_request`.
        no_body: the class that stands for an absent body.
        search: search(args, kwargs) looks for a request where nothing has said which it is.
        heads_wait: does the head of a response wait in its writer until the body comes?
        routed: the class of the requests that an application makes.
    """
    cdef object request_class, view_class, no_body, search_for, routed
    cdef bint heads_wait

    def __init__(self, request, view, no_body, search, bint heads_wait, routed):
        self.request_class, self.view_class, self.no_body, self.search_for = request, view, no_body, search
        self.heads_wait, self.routed = heads_wait, routed

    cdef bint is_one(self, object o) noexcept:
        return type(o) is self.routed or is_instance(o, self.request_class)

    cdef object among(self, tuple args):
        cdef Py_ssize_t i
        for i in range(min(len(args), 2)): # a handler's request, a View's self, a method's self and request
            if is_instance(args[i], self.request_class):
                return args[i]
            if is_instance(args[i], self.view_class):
                return args[i]._request
        return None

    cdef object search(self, tuple args, dict kwargs):
        return self.search_for(args, kwargs)

    # Each attribute of a request takes 150 instructions or more, and nearly no request is ever asked what it was like. One that
    # comes straight from the router has sent nothing, and nothing of its body was read.

    cdef object kept_of(self, object request, bint placeholders):
        if type(request) is not self.routed:
            return None
        state = request._state
        if type(state) is not dict or PyDict_Size(state): # it did not come so straight
            return None
        match = items_of(request._match_info) if placeholders else None
        return () if match is None else match

    cdef object unseen(self, object request, object kept):
        cdef AiohttpBefore before = AiohttpBefore.__new__(AiohttpBefore)
        before.request = request
        before.adapter = self.adapter
        before.match = kept if kept else None
        before.sent = before.read = 0
        return before

    cdef object before(self, object request):
        cdef AiohttpBefore before = AiohttpBefore.__new__(AiohttpBefore)
        before.request = request
        before.adapter = self.adapter
        before.state = items_of(request._state)
        before.match = items_of(getattr(request, "_match_info", None))
        writer = request._payload_writer
        before.sent = getattr(writer, "output_size", None) # a test's own writer has none
        if self.heads_wait:
            before.head = getattr(writer, "_headers_buf", None)
        body = request._payload
        before.read = 0 if type(body) is self.no_body else getattr(body, "_cursor", 0)
        return before


@cython.freelist(8)
cdef class AiohttpBefore:
    """A request of aiohttp's as it was when a run began: what a RequestBefore is for others.

    Attributes:
        request: it.
        adapter: aiohttp's.
        state: a copy of its mapping, or None: empty.
        match: a copy of its match info's mapping, or None: empty.
        read: how many bytes of its body had been consumed.
        sent: how many bytes of an answer had been sent, or None: it is not known.
        head: the head of an answer that waited to be sent, or None.
    """
    cdef readonly object request, adapter, head, read, sent
    cdef readonly dict state, match


cdef dict items_of(object mapping):
    """A plain copy of a dict, of a subclass perhaps; None where there is nothing to copy."""
    return PyDict_Copy(mapping) if isinstance(mapping, dict) and PyDict_Size(mapping) else None
