# block.pxi -- `with arena.transaction():`, the healthy path of it. Part of runtime.pyx. A transaction of one write takes less
# time than a Python method of a few lines, so what every block does is native; what few do is recoverable.transaction's,
# which gives its functions to set_block_helpers().

cdef extern from *:
    """
    /* The name of the function that runs, as a borrowed reference; NULL where there is none. */
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

cdef tuple _told_of = (_errors.ArenaFullError, _errors._Doomed) # leave an event, or become another exception
cdef object _running_loop, _watch_block, _nest_block, _end_block, _run_hooks


def set_block_helpers(running_loop, watch, nest, end, run_hooks) -> None:
    """Say who does the rest: see recoverable.transaction, which calls this when it is imported."""
    global _running_loop, _watch_block, _nest_block, _end_block, _run_hooks
    _running_loop, _watch_block, _nest_block, _end_block, _run_hooks = running_loop, watch, nest, end, run_hooks


@cython.freelist(16)
cdef class TransactionBlock:
    """What `arena.transaction()` returns: a context manager for one use."""
    cdef NativeArena arena
    cdef Transaction t
    cdef object nested, watch
    cdef bint used
    cdef readonly bint abandoned

    def __init__(self, NativeArena arena not None):
        self.arena = arena

    @property
    def transaction(self):
        """Its transaction, once it has begun one of its own."""
        return self.t

    def __enter__(self):
        if self.used:
            raise _errors.TransactionError(
                "a transaction block is for one use; this one has been entered before. Nothing was begun. "
                "Write `with arena.transaction():` each time.")
        cdef rcv_current_s *cur = rcv_current()
        if cur.owner != NULL and (<Transaction>cur.owner).arena is self.arena and cur.context == rcv_context():
            self.nested = _nest_block(<Transaction>cur.owner)
            self.used = True
            return
        cdef PyObject *name = rcv_caller()
        cdef Transaction t = new_transaction(self.arena, <str>name if name != NULL else "(unknown)", True)
        t.make_current()
        self.t = t
        self.used = True
        loop = _running_loop()
        if loop is not None:
            self.watch = _watch_block(self, loop)

    def __exit__(self, kind, error, trace):
        cdef Transaction t = self.t
        cdef int rc
        if self.watch is not None and not self.abandoned:
            self.watch.remove(self)
        if t is None or t.t == NULL or self.arena.closed or isinstance(error, _told_of):
            return _end_block(self, self.nested, error, None)
        if error is not None:
            t.rollback()
            t.step_down()
            if self.arena.views:
                self.arena.public._report_strays()
            return
        rc = t.try_commit()
        if rc == 0:
            t.step_down()
            if self.arena.views or t.hooks is not None:
                _run_hooks(t)
            return
        try:
            t.commit_failed(rc)
        except BaseException as failed:
            return _end_block(self, None, None, failed)

    def abandon(self) -> None:
        """Roll back, because the event loop went on while the block was open."""
        self.abandoned = True
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
            independent: Commit apart from the transaction around; not in this version yet.
        """
        if self._closed or independent:
            return self._transaction_else(independent)
        cdef TransactionBlock block = TransactionBlock.__new__(TransactionBlock)
        block.arena = self.native
        return block
