# plain.pxi -- `@recoverable` on a plain function: its call is one step, and this here runs it. Part of runtime.pyx.
#
# What we want: a handler in a pool of threads, or a function of a script, that is a transaction as a coroutine function is: the
# same rule says whether it commits (outcome.pxi), the same ones what follows if not (recoverable.outcome), the same events tell of it.
#
# What does not work: a coroutine around it that somebody drives by hand. All that such a one awaits -- the lock, its turn, a
# privileged run, the disk, callbacks -- belongs to an event loop, and where one runs in this thread it stands still meanwhile.
#
# What does: all of it is one native call, in which the transaction is the current one, as in a step of a driver. It waits on the spot
# for the lock, and at its end for room in the feed, and goes ahead of privileged runs, as a block does. recoverable.plain has what
# follows a run that did not simply return.
#
# Such a step holds the arena from its first access to its end, so nobody commits in between, and it meets no conflict. But for where
# it gives the arena back before its end: to an independent transaction inside it, to an event loop or another context that it runs,
# or at its commit, while it waits for room in the feed. So it records what it reads, which a block does not: one that comes back
# then loses only if what it has seen has changed, and its ConflictError names the place.

cdef object _plain_again, _plain_after


def set_plain_upcalls(*, again, after) -> None:
    """Say who does what few calls of plain functions need. recoverable.plain does, when it is imported.

    Args:
        again: again(transaction, handler, args, kwargs, error) goes on after a first run that has raised, and returns its result.
        after: after(transaction, options, result) does what follows a first run that has returned.
    """
    global _plain_again, _plain_after
    _plain_again, _plain_after = again, after


cdef class PlainHandler(Handler):
    """A plain function that runs another as a transaction, again where its options say so.

    Args:
        fn: a plain function.
        function: what tools see of it: `fn`, or any plain function where that is a partial or an object that is called.

    The others are those of a Handler.
    """

    def __call__(self, *args, **kwargs): # replaced by called_plainly() below
        return call_plainly(self, args, kwargs)

    def run(self, Transaction transaction not None, tuple args not None, dict kwargs):
        """Run it once more, in that transaction: what the run returns. It has been committed or rolled back."""
        return one_step(self, transaction, args, kwargs)


cdef object call_plainly(PlainHandler handler, tuple args, dict kwargs):
    """Run it as a part of the transaction around, or as one of its own."""
    cdef NativeArena arena
    cdef Transaction outer, parent = handler.parent
    if handler.fn is None:
        raise TypeError("a PlainHandler that was not initialised")
    arena = arena_of_call(handler, args, kwargs)
    outer = nearest_on(arena) if handler.joins else None
    if outer is None:
        return run_plainly(handler, arena, args, kwargs, parent)
    if not handler.options.independent:
        return apply(handler.fn, args, kwargs) if rcv_current()[0].keeper == NULL else held_plainly(handler, outer, args, kwargs)
    refuse_blocks(outer)
    try:
        result = run_plainly(handler, arena, args, kwargs, outer)
    except BaseException as error:
        outer.remount(error)
        raise
    outer.remount()
    return result


cdef object held_plainly(PlainHandler handler, Transaction outer, tuple args, dict kwargs):
    """A part of an ambient transaction, which would give way between two operations: it holds the arena up to its end. Nothing is
    taken back there."""
    cdef Nested nested = nest(outer)
    try:
        return apply(handler.fn, args, kwargs)
    finally:
        nested.end(None)


cdef object run_plainly(PlainHandler handler, NativeArena arena, tuple args, dict kwargs, Transaction parent):
    """Run it as a transaction of its own."""
    cdef Transaction t = begin_run(Transaction.__new__(Transaction), arena, handler.name, &handler.prepared,
                                   request_before(args, kwargs), parent)
    cdef object failure = None
    try:
        result = one_step(handler, t, args, kwargs)
        if t.hooks is None and is_all_of(t, handler):
            return result
    except BaseException as failed: # of the run, or of a signal's handler after its end
        failure = failed
    if failure is not None: # outside of the `except`, which another run would have as the context of what it raises
        return _plain_again(t, handler, args, {} if kwargs is None else kwargs, failure)
    try:
        _plain_after(t, handler.options, result)
    except BaseException:
        if t.hooks is not None and t._ended is COMMITTED and (t.settled or t.has_touched()): # of a signal's handler meanwhile
            outside_of_all(_run_hooks, t)
        raise
    return result


cdef object one_step(PlainHandler handler, Transaction t, tuple args, dict kwargs):
    """One run, which is one step: what it returns. It has been committed or rolled back, as a driver's."""
    cdef StepDriver d = StepDriver.__new__(StepDriver)
    cdef rcv_frame frame
    cdef object failed = None, result = None
    d.t, d.decide = t, handler.decide
    t.plain = True
    rcv_frame_init(&frame, &t.t, rcv_context(), <void *>t)
    rcv_current()[0] = &frame
    t.thread = rcv_thread()
    if frame.below.owner != NULL and frame.below.context == frame.context:
        t.around = <Transaction>frame.below.owner
    try:
        try:
            if rcv_raw_count(t.arena.a) != 0: # raw writes are possible: they must find it mounted, touched or not
                t.mount()
            result = apply(handler.fn, args, kwargs)
            if not is_plain(result) and is_coroutine(result):
                result.close()
                raise TypeError(
                    f"{handler.name} is a plain function, and has returned a coroutine, which would run when its transaction has "
                    "ended. It is rolled back, and nothing of the coroutine was run. Write it with `async def`, so that it is awaited "
                    "inside of the transaction.")
        except BaseException as error:
            failed = error
        if failed is None:
            if ended_with_result(d, result):
                commit_here(d)
            return result
        if interrupts(failed):
            d.cancelled = failed
        if ended_with_error(d, failed):
            commit_here(d)
        raise failed
    finally:
        leave_frame(&frame)
        t.thread = 0


cdef int commit_here(StepDriver d) except -1:
    """finish_commit(), which waits on the spot: for the lock, and for room in the feed."""
    try:
        d.t.commit()
    except _errors._Doomed as doomed:
        raise_doomed(d, doomed)
    return 0


def outside(fn, argument):
    """Call fn(argument) outside of whatever transaction is running here."""
    return outside_of_all(fn, argument)


cdef object outside_of_all(fn, argument):
    cdef rcv_frame nobody
    rcv_frame_init(&nobody, NULL, rcv_context(), NULL)
    rcv_current()[0] = &nobody
    try:
        return fn(argument)
    finally:
        leave_frame(&nobody)


cdef extern from *:
    """
    static inline int rcv_is_awaitable(PyObject *o)
    {
        const PyAsyncMethods *async = Py_TYPE(o)->tp_as_async;
        return async != NULL && async->am_await != NULL;
    }
    """
    bint rcv_is_awaitable(object o) noexcept


cdef object _coroutine
from collections.abc import Coroutine as _coroutine


cdef bint is_coroutine(object result) except -1:
    """Does it run only when it is awaited? A Future, or a Task, runs by itself."""
    return rcv_is_awaitable(result) and isinstance(result, _coroutine)


cdef object called_plainly(PyObject *handler, PyObject *args, PyObject *kwargs):
    """PlainHandler's tp_call."""
    return call_plainly(<PlainHandler>handler, <tuple>args, None if kwargs == NULL or not <dict>kwargs else (<dict>kwargs).copy())


rcv_set_call(<PyTypeObject *>PlainHandler, <ternaryfunc>called_plainly)
