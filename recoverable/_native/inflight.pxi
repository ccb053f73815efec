# inflight.pxi -- the transactions of this process that have not ended, for whoever asks what they are at. Part of runtime.pyx.
#
# When a request began costs each of them a look at the kernel's coarse clock, a load from a page that is there already: it
# is right to some milliseconds.

cdef extern from *:
    """
    static inline double rcv_coarse(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    }
    """
    double rcv_coarse() noexcept

cdef enum:
    NOTES = 64 # RCV_NOTES

cdef Transaction outline = Transaction.__new__(Transaction)
cdef Py_ssize_t place_in = <Py_ssize_t>(<size_t>&outline.t - <size_t><void *>outline)


cdef PyObject *owner_of(rcv_txn **place) noexcept:
    """The Transaction that a core half lies in, by what that knows as its place."""
    return <PyObject *>(<char *>place - place_in)


cdef list transactions_of(NativeArena arena):
    cdef list found = []
    cdef rcv_txn *t
    cdef PyObject *o
    if arena.closed:
        return found
    t = rcv_txn_each(arena.a, NULL)
    while t != NULL: # nothing in here lets go of the GIL, or ends one
        if rcv_txn_place(t) != NULL and not rcv_txn_forked(t):
            o = owner_of(rcv_txn_place(t))
            if Py_REFCNT(o) > 0: # it is not being taken apart
                found.append(<object>o)
        t = rcv_txn_each(arena.a, t)
    return found


cdef int tell_notes(NativeArena arena, list texts, uint64_t in_all) except -1:
    cdef const char *at[NOTES]
    cdef uint32_t sizes[NOTES]
    cdef uint32_t n = 0
    cdef bytes text
    for text in texts[:NOTES]:
        at[n] = text # which the list keeps
        sizes[n] = <uint32_t>len(text)
        n += 1
    return rcv_notes_tell(arena.a, at, sizes, n, in_all)


def own_thread(int change) -> int:
    """Say that the library has one thread more, or less, that stores nothing through raw buffers; how many it has then."""
    return rcv_own_threads(change)


def own_threads_forked() -> None:
    """Say that this process was forked, and has none of those."""
    rcv_own_threads_forked()
