# route.pxi -- what stands between a web framework and the handler of a route: it says which request the running code answers,
# calls the handler, and hands on failures of ours as responses. Part of runtime.pyx, since each request comes by here.
#
# What we want: a healthy request pays for one call and one object more. A middleware of the framework's does the same
# (recoverable.middleware), but having any at all may cost more than all the rest of us; so this stands in the place of the
# handler itself, behind the middlewares of the program.
#
# The object that is awaited is also what the context variable holds: the Running. It is set by the first step and not by the
# call, since a middleware may call the handler in one task and await it in another. When the handler has ended, it loses its
# request; the tasks that the handler has started keep it all the same. The variable itself is set back only where it was set
# before: the context is that of one request, and who asks for a request there finds it otherwise.
from cpython.contextvars cimport PyContextVar_Set

cdef extern from *:
    """
    typedef PyObject *(*recoverable_step)(PyObject *, PyObject *, PyObject *, PySendResult *);
    static recoverable_step serving_step; /* Serving's step(): NULL with an error set, or what it yields or returns */

    static PySendResult serving_send(PyObject *self, PyObject *value, PyObject **result)
    {
        PySendResult how = PYGEN_ERROR;
        *result = serving_step(self, value, Py_None, &how);
        return *result == NULL ? PYGEN_ERROR : how;
    }

    /* A StopIteration whose value is None need not be made. */
    static PyObject *serving_next(PyObject *self)
    {
        PySendResult how = PYGEN_ERROR;
        PyObject *result = serving_step(self, Py_None, Py_None, &how);
        if (result == NULL || how == PYGEN_NEXT)
            return result;
        if (result != Py_None) { /* called: a tuple or an exception is not to be taken for its arguments */
            PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result);
            if (stop != NULL) {
                PyErr_SetObject(PyExc_StopIteration, stop);
                Py_DECREF(stop);
            }
        }
        Py_DECREF(result);
        return NULL;
    }

    static void serving_slots(PyTypeObject *type, recoverable_step step)
    {
        serving_step = step;
        type->tp_as_async->am_send = serving_send;
        type->tp_iternext = serving_next;
    }

    /* A call without a tuple of arguments: *offset bytes into each object of the type is the function for it. */
    static void served_calls(PyTypeObject *type, Py_ssize_t offset)
    {
        type->tp_vectorcall_offset = offset;
        type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
        type->tp_call = PyVectorcall_Call;
    }

    /* PyContextVar_Reset(), but where it can't be done nothing is: in another context than the one that it was set in. */
    static void reset_if_here(PyObject *var, PyObject *token)
    {
        if (PyContextVar_Reset(var, token) < 0)
            PyErr_Clear();
    }
    """
    ctypedef PyObject *(*recoverable_step)(PyObject *, PyObject *, PyObject *, PySendResult *)
    ctypedef PyObject *(*vectorcallfunc)(PyObject *, PyObject *const *, size_t, PyObject *)
    void serving_slots(PyTypeObject *type, recoverable_step step)
    void served_calls(PyTypeObject *type, Py_ssize_t offset)
    void reset_if_here(object var, object token)
    bint PyCoro_CheckExact(object o)
    void PyObject_GC_UnTrack(PyObject *o)
    Py_ssize_t PyVectorcall_NARGS(size_t nargsf)

cdef tuple _failures = ()
cdef object _leaving = None, _watch_handler = None


def set_boundary(*, failures, leaving) -> None:
    """Say what becomes of our failures where they leave a handler. recoverable.middleware does, when it is imported.

    Args:
        failures: the classes of those that become responses.
        leaving: leaving(adapter, request, error) is what is raised in the place of one of them.
    """
    global _failures, _leaving
    _failures, _leaving = failures, leaving


def watch_routes(hook) -> None:
    """Have hook(request, function, handler) say what is called in the place of each handler; None: no more."""
    global _watch_handler
    _watch_handler = hook


@cython.final
cdef class Served:
    """The handler of a route, as an application whose requests use an arena calls it.

    Whatever else is done with it is done with the handler: it has its attributes, its class, and is equal to it.

    Args:
        handler: what it stands for.
        arena: the application's.
        requests: those of the framework.
        straight_from: the application whose requests come here straight from its router, unless that is a part of another one's.
            None: others may have seen them before.
        placeholders: are there any in the route's path?
    """
    cdef vectorcallfunc vectorcall
    cdef object handler, arena, __weakref__
    cdef Requests requests
    cdef Handler decorated # where the handler is what @recoverable made, or a method that is
    cdef object bound # and whose
    cdef object straight_from
    cdef bint straight, placeholders

    def __cinit__(self, handler, arena, Requests requests not None, straight_from=None, bint placeholders=True):
        self.handler, self.arena, self.requests = handler, arena, requests
        self.straight_from, self.placeholders = straight_from, placeholders
        self.vectorcall = <vectorcallfunc><void *>call_served
        if type(handler) is Handler:
            self.decorated = handler
        elif type(handler) is MethodType and type(handler.__func__) is Handler:
            self.decorated, self.bound = handler.__func__, handler.__self__

    def __call__(self, *args, **kwargs): # replaced by served_calls() below
        return self.call(args, kwargs)

    cdef object call(self, tuple args, dict kwargs):
        """As frameworks do, with a request, or as middlewares of the program do with whatever its handlers take."""
        request = self.requests.find(args, kwargs)
        awaitable = self.handler(*args, **kwargs)
        return awaitable if request is None else new_serving(self, request, awaitable)

    cdef bint comes_straight(self, object request) except -1:
        """Has nobody but the framework seen a request that it calls this with? Which application is the outermost is known by the
        first one."""
        if self.straight_from is not None:
            outermost = self.requests.adapter.outermost(request)
            if outermost is not None:
                self.straight = outermost is self.straight_from
                self.straight_from = None
        return self.straight

    @property
    def __wrapped__(self):
        """The handler."""
        return self.handler

    @property
    def __class__(self):
        return type(self.handler)

    @property
    def __doc__(self):
        return self.handler.__doc__

    @property
    def __module__(self):
        return self.handler.__module__

    def __getattr__(self, name):
        return getattr(self.handler, name)

    def __setattr__(self, name, value):
        setattr(self.handler, name, value)

    def __delattr__(self, name):
        delattr(self.handler, name)

    def __eq__(self, other):
        return self.handler == (other.__wrapped__ if type(other) is Served else other)

    def __hash__(self):
        return hash(self.handler)

    def __reduce__(self): # copied or pickled, it is the handler
        return _itself, (self.handler,)

    def __repr__(self):
        return f"<served {self.handler!r}>"


def _itself(handler):
    return handler


cdef object call_served(Served self, PyObject *const *args, size_t nargsf, PyObject *names):
    if names == NULL and PyVectorcall_NARGS(nargsf) == 1 and self.requests.is_one(<object>args[0]):
        if self.decorated is not None and _watch_handler is None:
            return call_decorated(self, <object>args[0])
        return new_serving(self, <object>args[0], None)
    cdef Py_ssize_t i, n = PyVectorcall_NARGS(nargsf)
    by_name = {} if names == NULL else {name: <object>args[n + i] for i, name in enumerate(<tuple>names)}
    return self.call(tuple([<object>args[i] for i in range(n)]), by_name)


cdef Call call_decorated(Served served, object request):
    """A call of what @recoverable made: it tells the Serving of its beginning and its end, which is awaited by nobody then."""
    cdef Call call
    if served.bound is None:
        call = served.decorated.call_alone(request)
    else:
        call = served.decorated.call((served.bound, request), None)
    call.here = new_serving(served, request, None)
    return call


def serving(Served served not None, request, awaitable):
    """Return what awaits something as the handling of a request, where the handler is called by the framework itself."""
    return new_serving(served, request, awaitable)


cdef Serving new_serving(Served served, object request, object awaitable):
    cdef Serving s = <Serving>rcv_unpark(&rcv_servings) if rcv_servings.n > 0 else Serving.__new__(Serving)
    s.served, s.request, s.coroutine = served, request, awaitable
    s.arena, s.requests, s.at = served.arena, served.requests, NOT_BEGUN
    return s


cdef enum: # where a Serving is
    NOT_BEGUN, SUSPENDED, RUNNING, ENDED


@cython.final
cdef class Serving(Running):
    """The handling of one request by a route's handler: a coroutine, to whoever awaits it."""
    cdef Served served
    cdef object coroutine, token
    cdef int at
    cdef bint inside # a middleware or an application around this one, which answers for failures and has its faults
    cdef bint within # any other handler
    cdef object kept # for before(); None: it can't say

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self): # replaced by serving_slots() below
        return self.send(None)

    def send(self, value):
        cdef PySendResult how
        result = step_of(self, value, None, &how)
        return stop(result) if how == PYGEN_RETURN else result

    def throw(self, kind, value=None, traceback=None):
        cdef PySendResult how
        value = thrown(kind, value, traceback)
        if self.at == NOT_BEGUN:
            self.end(None)
            raise value
        result = step_of(self, None, value, &how)
        return stop(result) if how == PYGEN_RETURN else result

    def close(self):
        if self.at == RUNNING:
            raise ValueError("coroutine already executing")
        coroutine, begun = self.coroutine, self.at == SUSPENDED
        try:
            if begun:
                coroutine.close()
        finally:
            self.end(None)

    @property
    def cr_await(self):
        """What it waits for: the handler's coroutine, for who looks where a task stands."""
        return self.coroutine

    @property
    def __name__(self):
        return self.served.__name__

    @property
    def __qualname__(self):
        return self.served.__qualname__

    cdef int begin(self) except -1:
        """From here on it is what runs."""
        cdef Running outer = get_value(_running_request)
        token = PyContextVar_Set(_running_request, self)
        if outer is not None:
            self.token = token
            self.within = outer.request is not None
            if self.within and self.requests.adapter.same(outer.request, self.request):
                self.inside = True
                self.whole = outer.whole
        return 0

    cdef bint says_later(self) except -1:
        if not self.within and (self.served.straight or self.served.comes_straight(self.request)):
            self.kept = self.requests.kept_of(self.request, self.served.placeholders)
        return self.kept is not None

    cdef object before(self):
        return None if self.request is None else self.requests.unseen(self.request, self.kept)

    cdef object end(self, object error):
        """It is over, by an error that is not None: what is raised in its place."""
        try:
            if error is not None and not self.inside and isinstance(error, _failures):
                error = _leaving(self.requests.adapter, self.request, error)
        finally:
            self.at = ENDED
            self.request = self.coroutine = None # tasks that it has started may live on
            if self.token is not None:
                reset_if_here(_running_request, self.token)
                self.token = None
        return error

    cdef int call(self) except -1:
        """Call the handler."""
        awaitable = self.coroutine
        if _watch_handler is not None and not self.inside:
            awaitable = _watch_handler(self.request, self.served.handler, self.served.handler if awaitable is None else given(awaitable))(
                self.request)
        elif awaitable is None:
            awaitable = self.served.handler(self.request)
        self.coroutine = awaitable if PyCoro_CheckExact(awaitable) or type(awaitable) is Call else _await(awaitable)
        return 0


cdef object given(object awaitable):
    """What is called in a handler's place where that was called already."""
    return lambda request: awaitable


async def _await(awaitable):
    return await awaitable # what a handler gives may be awaitable, but no coroutine


cdef object step_of(Serving self, object value, object error, PySendResult *how):
    """Run to the next suspension, or to the end: what is yielded or returned."""
    if self.at == SUSPENDED:
        self.at = RUNNING
    elif self.at == NOT_BEGUN:
        if value is not None:
            raise TypeError("can't send non-None value to a just-started coroutine")
        self.at = RUNNING
        try:
            self.begin()
            self.call()
        except BaseException as failed:
            raise self.end(failed)
    elif self.at == RUNNING:
        raise ValueError("coroutine already executing")
    else:
        raise RuntimeError("cannot reuse already awaited coroutine")
    outcome = resume(self.coroutine, value, error, how)
    if how[0] == PYGEN_NEXT:
        self.at = SUSPENDED
        return outcome
    if how[0] == PYGEN_ERROR:
        raise self.end(outcome)
    # The handler has committed, and its response has not left: what is to be awaited in between becomes the coroutine here.
    self.end(None)
    return outcome


cdef void served_out(PyObject *o) noexcept:
    """Serving's tp_dealloc."""
    PyObject_GC_UnTrack(o) # what follows may run anything
    (<Serving>o).coroutine = (<Serving>o).request = (<Serving>o).token = (<Serving>o).kept = None
    (<Serving>o).served = None
    (<Serving>o).arena = None
    (<Serving>o).requests = None
    (<Serving>o).inside = (<Serving>o).within = (<Serving>o).whole = False
    rcv_park(&rcv_servings, o)


cdef Served example = Served.__new__(Served, None, None, Requests())
served_calls(<PyTypeObject *>Served, <Py_ssize_t>(<size_t>&example.vectorcall - <size_t><void *>example))
serving_slots(<PyTypeObject *>Serving, <recoverable_step><void *>step_of)
rcv_parks(<PyTypeObject *>Serving, &rcv_servings, <destructor>served_out)
