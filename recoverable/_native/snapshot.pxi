# snapshot.pxi -- what a snapshot is copied from, and brought forward by (src/journal/snapshot.c). Part of journal.pyx.

def snapshot_begin(NativeArena arena not None) -> tuple:
    """Return, as of one moment: what feed.state() says, the size of the segment, the parts that are small, as (offset, bytes), and
    where the others lie, as (offset, size)."""
    cdef rcv_txn *t
    cdef rcv_snapshot_part part[RCV_SNAPSHOT_PARTS]
    cdef unsigned i
    cdef bytes data
    if arena.closed:
        closed_error(arena)
    gate(arena, False, &t)
    try:
        state = feed_state(arena)
        rcv_snapshot_parts(arena.a, part)
        size = rcv_snapshot_size(arena.a)
        small = []
        for i in range(2):
            data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>part[i].size)
            rcv_snapshot_read(arena.a, part[i].off, part[i].size, PyBytes_AS_STRING(data))
            small.append((part[i].off, data))
    finally:
        done(arena, t)
    return state, size, small, [(part[i].off, part[i].size) for i in range(2, RCV_SNAPSHOT_PARTS)]


def snapshot_read(NativeArena arena not None, unsigned long long at, unsigned long long size, uint8_t[::1] to not None) -> None:
    """Copy a slice of the segment, between two steps."""
    cdef rcv_txn *t
    if arena.closed:
        closed_error(arena)
    if size == 0 or size > <uint64_t>to.shape[0]:
        raise ValueError("no room for that slice")
    gate(arena, False, &t)
    with nogil:
        rcv_snapshot_read(arena.a, at, size, &to[0])
    done(arena, t)


def snapshot_write(NativeArena arena not None, int fd, str where not None) -> tuple:
    """Write all of the segment into a file in that folder at once, and hold the lock meanwhile: what feed.state() says of that moment."""
    cdef rcv_txn *t
    cdef int rc
    raw = where.encode("utf-8", "surrogateescape")
    cdef const char *path = raw
    if arena.closed:
        closed_error(arena)
    gate(arena, False, &t)
    try:
        state = feed_state(arena)
        with nogil:
            rc = rcv_snapshot_write(arena.a, fd, path)
    finally:
        done(arena, t)
    if rc:
        fail(rc)
    return state


def snapshot_apply(
    int fd, unsigned long long size, str where not None, bytes records not None, uint8_t[::1] touched not None
) -> tuple:
    """Write records over what was copied into a file in that folder; return the number and the time of the last one.

    Where that writes to a piece of 256 KiB, its byte in `touched` becomes 1.
    """
    if <uint64_t>touched.shape[0] * RCV_SNAPSHOT_PIECE < size:
        raise ValueError("no room for all pieces")
    raw = where.encode("utf-8", "surrogateescape")
    cdef const char *path = raw
    cdef uint64_t seq = 0
    cdef uint64_t at = 0
    cdef const char *data = records
    cdef uint64_t n = <uint64_t>len(records)
    cdef int rc
    with nogil:
        rc = rcv_snapshot_apply(fd, size, path, data, n, &touched[0], &seq, &at)
    if rc:
        fail(rc)
    return seq, at
