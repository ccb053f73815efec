# raw_buffer.pxi -- memory of an Array that is given out, and whose stores into it are. Part of array.pyx.

cdef extern from *:
    """
    /* Does Python have other threads? Those of native libraries don't count: they are done when a call returns; nor those of this
     * library, which store nothing here. */
    static inline int rcv_has_threads(void)
    {
        int            n = rcv_own_threads(0) + 1;
        PyThreadState *state = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
        while (state != NULL && n-- > 0)
            state = PyThreadState_Next(state);
        return state != NULL;
    }
    """
    bint rcv_has_threads() noexcept


cdef class RawBuffer:
    """Memory of an Array, as a buffer, in the view of the transaction that made it. While one is alive its arena cannot be closed."""
    cdef NativeArena arena
    cdef rcv_raw raw
    cdef Py_ssize_t size
    cdef bint writable

    @staticmethod
    cdef RawBuffer over(NativeArena arena, rcv_txn *t, rcv_off off, uint64_t size, bint writable):
        cdef RawBuffer b = RawBuffer.__new__(RawBuffer)
        cdef int rc
        b.size = size
        b.writable = writable
        if writable:
            if rcv_current()[0].keeper != NULL:
                raise _errors.TransactionError(
                    "a raw view in a transaction that is found by context (in `async with arena.transaction():`, or in a task or thread "
                    "of a request's): nothing could say when its steps end; nothing was done: use items and slices, or take the view "
                    "in the handler itself, in arena.run() or in `with arena.transaction():`")
            rc = rcv_raw_acquire(t, off, &b.raw)
            if rc:
                fail(rc)
            if rcv_has_threads():
                rcv_raw_threads(arena.a)
        else:
            b.raw.at = rcv_tracked(arena.a, off)
        b.arena = arena
        arena.views += 1
        return b

    def __dealloc__(self):
        if self.arena is None:
            return
        self.arena.views -= 1
        if self.writable and not self.arena.closed:
            if rcv_has_threads(): # begun since
                rcv_raw_threads(self.arena.a)
            rcv_raw_release(self.arena.a, &self.raw)

    def __getbuffer__(self, Py_buffer *view, int flags):
        if (flags & PyBUF_WRITABLE) and not self.writable:
            raise BufferError("this view is read-only: it was taken outside a transaction; take it inside one to write")
        PyBuffer_FillInfo(view, self, self.raw.at, self.size, not self.writable, flags)

    def __releasebuffer__(self, Py_buffer *view):
        pass

    def __len__(self):
        return self.size
