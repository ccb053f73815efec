# request.pxi -- the web request that a run belongs to, and what it was like when the run began. Part of runtime.pyx, since
# each request comes by here; what is done about it when a run is to begin again is the web framework's adapter's.
from cpython.contextvars cimport get_value
from cpython.dict cimport PyDict_Copy, PyDict_Size

cdef extern from *:
    """
    /* isinstance(), but for classes that claim instances which are not theirs: an ABC asks for long. */
    static inline int is_instance(PyObject *o, PyObject *cls)
    {
        return PyObject_TypeCheck(o, (PyTypeObject *)cls);
    }
    """
    bint is_instance(object o, object cls)

cdef object _request_class, _view_class, _no_body, _running, _search
cdef bint _heads_wait


def watch_requests(request, view, no_body, running, search, heads_wait) -> None:
    """Have runs keep what their requests were like.

    Args:
        request: the class of requests.
        view: the class of handlers that have theirs in `_request`.
        no_body: the class of the body that is none.
        running: a context variable, of a Running or None.
        search: search(args, kwargs) looks for a request where that variable is not set.
        heads_wait: does the head of a response wait in its writer until the body comes?
    """
    global _request_class, _view_class, _no_body, _running, _search, _heads_wait
    _view_class, _no_body, _running, _search, _heads_wait = view, no_body, running, search, heads_wait
    _request_class = request


cdef class Running:
    """The request that a task, and the tasks that it starts, belong to: what the context variable holds.

    Attributes:
        request: it, or None once it has been answered; those tasks may live on.
        arena: its application's.
        whole: all of its handling is one transaction.
    """
    cdef public object request
    cdef readonly object arena
    cdef readonly bint whole

    def __cinit__(self, object request, object arena, bint whole):
        self.request = request
        self.arena = arena
        self.whole = whole


@cython.freelist(8)
cdef class RequestBefore:
    """A request as it was when a run began.

    Attributes:
        request: it.
        state: a copy of its mapping, or None: empty.
        match: a copy of its match info's mapping, or None: empty.
        read: how many bytes of its body had been consumed.
        sent: how many bytes of an answer had been sent, or None: it is not known.
        head: the head of an answer that waited to be sent, or None.
    """
    cdef readonly object request, head, read, sent
    cdef readonly dict state, match


cpdef object request_before(tuple args, dict kwargs):
    """Return the request of a run with these arguments as it is now: a RequestBefore, or None."""
    cdef RequestBefore before
    if _request_class is None:
        return None
    request = find_request(args, kwargs)
    if request is None:
        return None
    before = RequestBefore.__new__(RequestBefore)
    before.request = request
    before.state = items_of(request._state)
    before.match = items_of(getattr(request, "_match_info", None))
    writer = request._payload_writer
    before.sent = getattr(writer, "output_size", None) # a test's own writer has none
    if _heads_wait:
        before.head = getattr(writer, "_headers_buf", None)
    body = request._payload
    before.read = 0 if type(body) is _no_body else getattr(body, "_cursor", 0)
    return before


cdef dict items_of(object mapping):
    """A plain copy of a dict, of a subclass perhaps; None where there is nothing to copy."""
    return PyDict_Copy(mapping) if isinstance(mapping, dict) and PyDict_Size(mapping) else None


cpdef object find_request(tuple args, dict kwargs):
    """Return the request among a call's arguments, else the one that the running code belongs to, or None."""
    cdef Py_ssize_t i
    for i in range(min(len(args), 2)): # a handler's request, a View's self, a method's self and request
        if is_instance(args[i], _request_class):
            return args[i]
        if is_instance(args[i], _view_class):
            return args[i]._request
    running = get_value(_running)
    return (<Running>running).request if running is not None else _search(args, kwargs)
