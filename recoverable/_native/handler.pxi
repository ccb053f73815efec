# handler.pxi -- what `@recoverable` makes: a Handler, which is a function to whoever looks, and gives a Call. Part of runtime.pyx,
# so that a call is one native function.
from types import FunctionType, MethodType

cdef extern from *:
    """
    static void rcv_set_call(PyTypeObject *type, ternaryfunc call) { type->tp_call = call; }
    """
    ctypedef PyObject *(*ternaryfunc)(PyObject *, PyObject *, PyObject *)
    void rcv_set_call(PyTypeObject *type, ternaryfunc call)


cdef enum: # what is special about a Handler
    LIMITED = 1 # its calls have a time limit
    WATCHED = 2 # its first runs are noted, and may have to wait for their turn: recoverable.contention
    GATED = 4 # its calls end when what they say is durable,
    UNGATED = 8 # or don't wait for that, whatever others on its arena do
    JOURNALED = 16 # what is said of them needs a journal


cdef class Handler:
    """A coroutine function that runs another as a transaction, again where its options say so.

    It is as good as a function to whoever looks: `inspect`, `asyncio` and frameworks ask for its code, and take what
    `functools.wraps` has given it.

    Args:
        fn: a coroutine function.
        name: its name in messages and events.
        options: recoverable.outcome.Options.
        function: what tools see of it: `fn`, or any coroutine function where that is a partial or an object that is called.
        arena: None: that of the request's application, or the only one that is open.
        joins: whether a call inside a transaction of the same arena has to do with that one: is a part of it, or independent.
        parent: the transaction around each call, of which it is independent.
    """
    cdef readonly object fn
    cdef readonly str name
    cdef readonly object options
    cdef object decide
    cdef object function
    cdef public NativeArena arena
    cdef Transaction parent
    cdef rcv_name prepared # its name, for the core
    cdef bint joins, reruns
    cdef int special # LIMITED, WATCHED
    cdef double seconds
    cdef dict __dict__ # what functools.wraps() gives it: its name, its module, what it says of itself
    cdef object __weakref__

    def __init__(self, fn not None, str name not None, options not None, function not None, NativeArena arena=None, *,
                 bint joins=True, Transaction parent=None):
        self.fn, self.name, self.options, self.arena, self.joins, self.parent = fn, name, options, arena, joins, parent
        rcv_name_set(&self.prepared, PyUnicode_AsUTF8(name))
        self.decide = options.decide
        self.reruns = options.max_conflicts > 0
        self.special = 0 if options.timeout is None else LIMITED
        if options.durable is not None:
            self.special |= GATED if options.durable == "disk" else UNGATED
            self.special |= JOURNALED if options.durable != "memory" else 0
            if arena is not None:
                check_journal(self, arena)
        if arena is not None and name in arena.watched: # one that is made for each call: arena.run()
            self.special |= WATCHED
        self.seconds = options.timeout or 0
        self.function = function
        setattr(self, "__name__", name)
        setattr(self, "__qualname__", name)

    def __call__(self, *args, **kwargs): # replaced by called() below
        return self.call(args, kwargs)

    cdef Call call(self, tuple args, dict kwargs):
        cdef Call call = self.call_alone(None)
        call.args, call.kwargs = args, kwargs
        return call

    cdef Call call_alone(self, object argument):
        """call() with that argument alone, without making a tuple of it."""
        if self.fn is None:
            raise TypeError("a Handler that was not initialised")
        cdef Call call = <Call>rcv_unpark(&rcv_calls) if rcv_calls.n > 0 else Call.__new__(Call)
        call.handler, call.argument, call.stage = self, argument, CALLED
        return call

    def watch(self, bint on) -> None:
        """Have its first runs noted, or no more: `in_line` of set_upcalls() drives them then."""
        self.special = (self.special & ~WATCHED) | (WATCHED if on else 0)

    def __get__(self, instance, owner):
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self):
        return self.__qualname__ # found by its name, as a function is

    @property
    def __recoverable__(self):
        """Its options: a framework that looks for this sees that a function is decorated."""
        return self.options

    def __repr__(self):
        return f"<recoverable function {self.__qualname__} at {<size_t><PyObject *>self:#x}>"

    @property
    def __class__(self):
        return FunctionType # as for wrapt's wrappers: a framework that takes functions asks isinstance()

    @property
    def __code__(self):
        return self.function.__code__

    @property
    def __defaults__(self):
        return self.function.__defaults__

    @property
    def __kwdefaults__(self):
        return self.function.__kwdefaults__

    @property
    def __globals__(self):
        return self.function.__globals__

    @property
    def __closure__(self):
        return self.function.__closure__


cdef int check_journal(Handler handler, NativeArena arena) except -1:
    """See that its calls can be as durable as they are said to be, before anything of them is run."""
    if handler.special & JOURNALED and arena.journal is None:
        raise _errors.JournalError(
            f'{handler.name} is durable="{handler.options.durable}", and arena {arena.owner.name!r} was opened without a journal. '
            "Nothing was run. Open the arena with journal=, the path of a folder, or leave durable= out.")
    return 0


cdef object called(PyObject *handler, PyObject *args, PyObject *kwargs):
    """Handler's tp_call: builds no dict of keywords for a call without any."""
    return (<Handler>handler).call(<tuple>args, None if kwargs == NULL or not <dict>kwargs else (<dict>kwargs).copy())


rcv_set_call(<PyTypeObject *>Handler, <ternaryfunc>called)
