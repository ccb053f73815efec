# block.pxi -- `with arena.transaction():`, the healthy path of it. Part of runtime.pyx. A transaction of one write takes less
# time than a Python method of a few lines, so what every block does is native; what few do is recoverable.transaction's:
# upcalls.pxi has its functions.

cdef extern from *:
    """
    /* The name of the running function, as a borrowed reference; NULL if no function runs. */
    static inline PyObject *rcv_caller(void)
    {
        PyFrameObject *frame = PyEval_GetFrame();
        if (frame == NULL)
            return NULL;
        PyCodeObject *code = PyFrame_GetCode(frame);
        PyObject     *name = code->co_qualname; /* the code object outlives this: its frame runs */
        Py_DECREF(code);
        return name;
    }
    """
    PyObject *rcv_caller()

# These leave an event, or become another exception.
cdef tuple _reported = (_errors.ArenaFullError, _errors.ArenaBusyError, _errors.ArenaCorruptError, _errors._Doomed)

cdef bint is_reported(object error) noexcept:
    for kind in _reported:
        if is_instance(error, kind):
            return True
    return False


cdef object _running_loop
from asyncio import _get_running_loop as _running_loop # returns None outside a loop; documented for this use


cdef int refuse_blocks(Transaction outer) except -1:
    if outer.open_blocks != 0:
        raise _errors.TransactionError(
            "an independent transaction inside a savepoint, an edit or a nested transaction block: these are part of one step; "
            "nothing was begun: end the block first")
    return 0


cdef int left_astray(Transaction t, object error) except -1:
    """A block can't be left here: end its transaction, whose lock is free then, and say so."""
    if t.runs_elsewhere():
        what = "in another thread than the one that entered it"
    elif t.entered:
        what = "before a transaction or a step that began inside it"
    else:
        what = "twice, or after the step that entered it has ended"
    t.cause = BY_ERROR
    t.rollback(error)
    t.step_down()
    if error is None or isinstance(error, Exception):
        raise _errors.TransactionError(
            f"a transaction block was left {what} (in {t.handler}); it is rolled back, nothing of it was committed, and the "
            "arena is free: leave blocks in the reverse of the order they were entered in, and in the same thread; a generator "
            "that others run in a pool of threads can't hold one") from error
    return 0


cdef int follow(Transaction t) except -1:
    """Do what follows a commit. A signal that came meanwhile has its handler run by the first Python function that is called:
    where that raises, those that have not been called yet are called before it goes on."""
    try:
        _run_hooks(t)
    except BaseException:
        if t.hooks is not None:
            _run_hooks(t)
        raise
    return 0


@cython.freelist(16)
@cython.final
cdef class Nested:
    """A savepoint in a running transaction, for both kinds of block, and for plain functions. Native, because a block's end is its own
    thread's to say: an interrupt must not find it before it has begun."""
    cdef Transaction outer
    cdef Mark mark
    cdef Py_ssize_t hooks

    cdef int end(self, object error) except -1:
        """Keep what was done since, or undo it; a transaction that has ended meanwhile is left to its owner."""
        cdef Transaction outer = self.outer
        if error is None:
            outer.release(self.mark)
            return 0
        try:
            outer.rollback_to(self.mark)
        except _errors.TransactionError as astray: # left out of order
            raise astray from error
        if outer.hooks is not None and outer.t != NULL and rcv_txn_state(outer.t) == RCV_ACTIVE:
            del outer.hooks[self.hooks:]
        return 0


cdef Nested nest(Transaction outer):
    """Begin a savepoint."""
    cdef Nested nested = Nested.__new__(Nested)
    nested.hooks = 0 if outer.hooks is None else len(outer.hooks)
    nested.outer = outer
    nested.mark = outer.savepoint()
    return nested


cdef class SavepointBlock:
    """What `arena.savepoint()` returns: a context manager for one use."""
    cdef NativeArena arena
    cdef Nested nested

    def __init__(self, NativeArena arena not None):
        self.arena = arena

    def __enter__(self):
        cdef Transaction outer = nearest_on(self.arena)
        if outer is None:
            raise _errors.NoTransactionError(
                "arena.savepoint() needs a running transaction, and there is none here. Nothing was begun. Use it "
                "inside a @recoverable handler, arena.run() or `with arena.transaction():`.")
        self.nested = nest(outer)

    def __exit__(self, kind, error, trace):
        if self.nested is None:
            raise _errors.TransactionError("A savepoint was left that has not been entered. Nothing was changed.")
        self.nested.end(error)


@cython.freelist(16)
@cython.no_gc_clear # __dealloc__ needs what it holds
cdef class TransactionBlock:
    """What `arena.transaction()` returns: a context manager for one use."""
    cdef NativeArena arena
    cdef Transaction t
    cdef Transaction outer # an independent one: the transaction around it
    cdef Nested nested # where it is a part of another one
    cdef object watch
    cdef AsyncBlock ambient # of `async with`
    cdef object context # where it is current: kept here, since another one could have its address, and be taken for it
    cdef bint used, independent
    cdef readonly bint abandoned

    def __init__(self, NativeArena arena not None):
        self.arena = arena

    def __dealloc__(self):
        if self.t is not None and self.t.entered: # never left; in whatever thread
            if self.outer is not None:
                self.outer.open_blocks -= 1
            self.t.rollback()
            self.t.step_down()

    @property
    def transaction(self):
        """Its transaction, once it has begun one of its own."""
        return self.t

    def __enter__(self):
        if self.used:
            raise _errors.TransactionError(
                "a transaction block is for one use; this one has been entered before. Nothing was begun. "
                "Write `with arena.transaction():` each time.")
        cdef Transaction outer = nearest_on(self.arena)
        if outer is not None:
            if not self.independent:
                self.nested = nest(outer)
                self.used = True
                return
            refuse_blocks(outer)
        cdef PyObject *name = rcv_caller()
        cdef Transaction t = new_transaction(self.arena, <str>name if name != NULL else "(unknown)", True)
        if outer is not None:
            t.set_parent(outer)
        t.make_current()
        self.context = <object>t.frame.context
        if outer is not None:
            outer.open_blocks += 1
            self.outer = outer
        self.t = t
        self.used = True
        loop = _running_loop()
        if loop is not None:
            self.watch = _watch_block(self, loop)

    def __aenter__(self):
        cdef PyObject *name = rcv_caller()
        if self.used:
            raise _errors.TransactionError(
                "a transaction block is for one use; this one has been entered before. Nothing was begun. "
                "Write `async with arena.transaction():` each time.")
        self.used = True
        cdef AsyncBlock ambient = AsyncBlock.__new__(AsyncBlock)
        ambient.arena, ambient.independent = self.arena, self.independent
        ambient.handler = <str>name if name != NULL else "(unknown)"
        self.ambient = ambient
        return ambient.enter()

    def __aexit__(self, kind, error, trace):
        if self.ambient is None:
            raise _errors.TransactionError("a transaction block was left that has not been entered; nothing was changed")
        return self.ambient.leave(error)

    def __exit__(self, kind, error, trace):
        cdef Transaction t = self.t
        cdef int rc
        if not self.used:
            raise _errors.TransactionError("a transaction block was left that has not been entered; nothing was changed")
        if self.watch is not None and not self.abandoned:
            self.watch.remove(self)
        if t is not None and not self.abandoned and rcv_current()[0] != &t.frame and below_ambient(&t.frame) != &t.frame:
            self.end_astray(error)
            return
        if self.nested is not None:
            self.nested.end(error)
            return
        if self.outer is not None:
            return self.leave_outer(error)
        if t is None or t.t == NULL or (error is not None and (is_reported(error) or t.is_late())):
            return self.end(error, None)
        if error is not None:
            t.undo(error)
            t.step_down()
            if self.arena.has_pending():
                self.arena.owner._report_found()
            return
        rc = t.try_commit()
        if rc == 0:
            t.step_down()
            if self.arena.has_pending() or t.hooks is not None:
                follow(t)
            return
        if t.lacks_room(rc):
            return self.end(None, None)
        try:
            t.commit_failed(rc)
        except BaseException as failed:
            return self.end(None, failed)

    cdef int end_astray(self, object error) except -1:
        """left_astray(), after which the transaction around an independent one goes on."""
        cdef Transaction outer = self.outer
        if outer is None:
            return left_astray(self.t, error)
        self.outer = None
        outer.open_blocks -= 1
        try:
            left_astray(self.t, error)
        finally:
            outer.remount(error)
        return 0

    cdef object end(self, object error, object failed):
        """_end_block(), but it has ended whatever that raises: a signal's handler may, or the watchdog, before it has begun."""
        try:
            return _end_block(self, error, failed)
        except BaseException as stopped:
            if self.t is not None:
                late = self.t.is_late() # else it has ended, perhaps by a commit, and what is raised is another one's
                self.t.rollback(stopped)
                self.t.step_down()
                if late and isinstance(stopped, _errors._TooLong):
                    raise _too_long(self.t, stopped) from None
                if self.t._ended is COMMITTED and self.t.hooks is not None:
                    follow(self.t)
            raise

    cdef object leave_outer(self, object error):
        """End an independent block: its callbacks run outside the transaction around it, which then goes on."""
        cdef Transaction outer = self.outer
        cdef rcv_frame nobody
        self.outer = None
        outer.open_blocks -= 1
        if outer.state == "doomed": # the way out is that one's
            self.t.rollback(error)
            self.t.step_down()
            return
        hooks, self.t.hooks = self.t.hooks, None
        try:
            try:
                self.end(error, None)
            finally:
                if self.t._ended == "committed" and hooks is not None:
                    rcv_frame_init(&nobody, NULL, rcv_context(), NULL)
                    rcv_current()[0] = &nobody
                    self.t.hooks = hooks
                    try:
                        follow(self.t)
                    finally:
                        leave_frame(&nobody)
        except BaseException as failed:
            outer.remount(failed)
            raise
        outer.remount(error)

    def abandon(self) -> None:
        """Roll back, because the event loop went on while the block was open."""
        self.abandoned = True
        self.t.cause = BY_AWAIT
        self.t.rollback()
        self.t.step_down()


cdef class ArenaBase:
    """What `Arena` inherits: the one method of it that is on the path of every transaction."""
    cdef public NativeArena native
    cdef public bint _closed

    def transaction(self, *, independent=False):
        """Run a `with` block as one transaction: it commits at a clean end and rolls back on any exception.

        It is one step: an `await` inside it is refused. Inside a running transaction of this arena the block is a part
        of that one, with a savepoint of its own.

        Args:
            independent: Commit apart from the transaction around, which goes on: for what must outlive its rollback.
                The block sees committed state, not what that one has written, and may not change what it has written.
                What that one has read stays valid, although the block changes it.
        """
        if self._closed:
            closed_error(self.native)
        cdef TransactionBlock block = TransactionBlock.__new__(TransactionBlock)
        block.arena = self.native
        block.independent = independent
        return block
