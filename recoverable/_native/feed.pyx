# cython: language_level=3, boundscheck=False, wraparound=False
"""The commit feed: its records as Python sees them, and a segment that is brought forward by them."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from recoverable._native.core cimport *
from recoverable._native.runtime cimport NativeArena, closed_error, done, fail, gate

from recoverable import errors as _errors

cdef extern from "feed.h" nogil:
    enum:
        RCV_COMMIT_SLICE
        RCV_COMMIT_UNITS_CUT
        RCV_SINKS
    struct rcv_commit:
        uint16_t flags
        uint32_t length
        uint64_t seq, at, containers, claimed, token, serial
        uint32_t ranges
        uint16_t units
        uint8_t name, id
    struct rcv_commit_unit:
        uint64_t where, id, arg
    const uint64_t *rcv_commit_ranges(const rcv_commit *head, uint64_t room)
    uint64_t RCV_RANGE_OFF(uint64_t)
    uint64_t RCV_RANGE_LEN(uint64_t)
    bint RCV_RANGE_ZEROS(uint64_t)
    struct rcv_feed_state:
        uint64_t id[2]
        uint64_t epoch, size, tail, head, seq, at
    bint rcv_feed_get(const rcv_arena *a, rcv_feed_state *out)
    int64_t rcv_feed_read(rcv_arena *a, uint64_t at, void *to, uint64_t room, uint64_t *need)
    int rcv_feed_seek(rcv_arena *a, uint64_t seq, uint64_t *at)
    uint32_t rcv_feed_bell(const rcv_arena *a)
    void rcv_feed_wait(rcv_arena *a, uint32_t seen, uint64_t nanos)
    void rcv_feed_wake(rcv_arena *a)
    struct rcv_sink_state:
        char name[24]
        uint64_t cursor, seq, since, pid
        bint required, lost
    int rcv_sink_open(rcv_arena *a, const char *name, bint required, uint32_t *sink)
    int rcv_sink_close(rcv_arena *a, uint32_t sink)
    bint rcv_sink_get(const rcv_arena *a, uint32_t sink, rcv_sink_state *out)
    int rcv_sink_serve(rcv_arena *a, uint32_t sink)
    int rcv_sink_taken(rcv_arena *a, uint32_t sink, uint64_t cursor, uint64_t seq)
    int rcv_sink_renew(rcv_arena *a, uint32_t sink, uint64_t cursor, uint64_t seq)
    int rcv_mirror_begin(rcv_arena *a)
    int rcv_past_begin(int fd, uint64_t length, const char *name, rcv_restore **out)
    int rcv_past_open(rcv_restore *r, rcv_arena **out)
    int rcv_restore_open(int fd, const char *name, rcv_restore **out)
    int rcv_restore_apply(rcv_restore *r, const void *records, uint64_t length, uint64_t *at)
    int rcv_restore_back(rcv_restore *r) nogil
    int rcv_restore_renew(rcv_restore *r)
    void rcv_restore_finish(rcv_restore *r, uint64_t position, uint64_t epoch)
    void rcv_restore_close(rcv_restore *r)


cdef rcv_arena *open_one(NativeArena arena) except NULL:
    if arena is None or arena.closed:
        closed_error(arena)
    return arena.a


# -- reading ---------------------------------------------------------------------------------------------------------

def state(NativeArena arena not None) -> tuple | None:
    """Return (identity, epoch, size of the ring, tail, head, number and time of the newest commit), or None: it has no feed."""
    cdef rcv_feed_state s
    if not rcv_feed_get(open_one(arena), &s):
        return None
    return f"{s.id[0]:016x}{s.id[1]:016x}", s.epoch, s.size, s.tail, s.head, s.seq, s.at


def seek(NativeArena arena not None, unsigned long long seq) -> int:
    """Return the position of the first record behind a commit, or where it will be."""
    cdef uint64_t at = 0
    cdef int rc = rcv_feed_seek(open_one(arena), seq, &at)
    if rc:
        fail(rc)
    return at


def read(NativeArena arena not None, unsigned long long at, Py_ssize_t room) -> bytes:
    """Return whole records from a position on: at most `room` bytes, or one record if the first is longer; b"" at the end of the feed."""
    cdef rcv_arena *a = open_one(arena)
    cdef uint64_t need = 0
    cdef bytes out = PyBytes_FromStringAndSize(NULL, room)
    cdef int64_t n = rcv_feed_read(a, at, PyBytes_AS_STRING(out), <uint64_t>room, &need)
    if n == 0 and need > <uint64_t>room:
        out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>need)
        n = rcv_feed_read(open_one(arena), at, PyBytes_AS_STRING(out), need, &need) # another thread may have closed it meanwhile
    if n < 0:
        fail(<int>n)
    return out[:n]


def parse(bytes records not None, make, unsigned long long position=0) -> list:
    """Return make(seq, at, handler, request_id, units, ranges, slice, cut, length) of each record.

    `units`: (container, id, kind, arg) of each; `ranges`: (offset, bytes), or (offset, how many zeros). `position`: of the first.

    Raises:
        ArenaCorruptError: One of them is no record; make() was called for those before it.
    """
    cdef const char *at = PyBytes_AS_STRING(records)
    cdef const char *end = at + len(records)
    cdef const char *p
    cdef const char *data
    cdef rcv_commit head
    cdef rcv_commit_unit unit
    cdef uint64_t word
    cdef uint32_t i
    found = []
    while at < end:
        if rcv_commit_ranges(<const rcv_commit *>at, <uint64_t>(end - at)) == NULL:
            raise _errors.ArenaCorruptError(
                f"the record at {position + <unsigned long long>(at - PyBytes_AS_STRING(records))} of a feed does not add up; what was read before "
                "it is sound; begin with a copy of the state")
        memcpy(&head, at, sizeof(head))
        p = at + sizeof(head)
        handler = PyUnicode_DecodeUTF8(p, head.name, "replace")
        p += (head.name + 7) & ~7
        request = PyUnicode_DecodeUTF8(p, head.id, "replace") if head.id else None
        p += (head.id + 7) & ~7
        units = []
        for i in range(head.units):
            memcpy(&unit, p, sizeof(unit))
            units.append((unit.where >> 8, unit.id, unit.where & 0xff, unit.arg))
            p += sizeof(unit)
        ranges = []
        data = p + 8 * <size_t>head.ranges
        for i in range(head.ranges):
            memcpy(&word, p, 8)
            p += 8
            if RCV_RANGE_ZEROS(word):
                ranges.append((RCV_RANGE_OFF(word), RCV_RANGE_LEN(word)))
            else:
                ranges.append((RCV_RANGE_OFF(word), PyBytes_FromStringAndSize(data, <Py_ssize_t>RCV_RANGE_LEN(word))))
                data += RCV_RANGE_LEN(word)
        found.append(make(head.seq, head.at, handler, request, tuple(units), tuple(ranges), (head.flags & RCV_COMMIT_SLICE) != 0,
                          (head.flags & RCV_COMMIT_UNITS_CUT) != 0, head.length))
        at += head.length
    return found


def bell(NativeArena arena not None) -> int:
    """Return what moves with each commit, and whenever a sink has taken something; 0 of a closed arena."""
    return 0 if arena.closed else rcv_feed_bell(arena.a)


def wait(NativeArena arena not None, uint32_t seen, double seconds) -> None:
    """Sleep, without the GIL, until the bell is not `seen` any more, for so long at most."""
    cdef rcv_arena *a = open_one(arena)
    cdef uint64_t nanos = <uint64_t>(seconds * 1e9)
    rcv_use(a)
    with nogil:
        rcv_feed_wait(a, seen, nanos)
    rcv_unuse(a)


def wake(NativeArena arena not None) -> None:
    """Have all who sleep in wait() look again, those of other processes too."""
    if not arena.closed:
        rcv_feed_wake(arena.a)


# -- sinks -------------------------------------------------------------------------------------------------------------

def open_sink(NativeArena arena not None, str name not None, bint required) -> int:
    """Return the number of the sink of that name, made if need be."""
    cdef uint32_t sink = 0
    raw = name.encode()
    cdef int rc = rcv_sink_open(open_one(arena), raw, required, &sink)
    try:
        while rc == RCV_ERR_AGAIN:
            arena.wait_for_lock()
            rc = rcv_sink_open(open_one(arena), raw, required, &sink)
    finally:
        arena.wait_over() # another thread may have opened it meanwhile: it needs no lock then
    if rc:
        fail(rc)
    return sink


def close_sink(NativeArena arena not None, uint32_t sink) -> None:
    """Have nobody wait for it any more."""
    cdef int rc = rcv_sink_close(open_one(arena), sink)
    if rc:
        fail(rc)


def sinks(NativeArena arena not None) -> list:
    """Return (number, name, cursor, seq, pid of who serves it or 0, required, lost, time of the first it has not taken or 0) of each."""
    cdef rcv_sink_state s
    cdef uint32_t i
    found = []
    for i in range(RCV_SINKS):
        if rcv_sink_get(open_one(arena), i, &s):
            found.append((i, s.name.decode("utf-8", "replace"), s.cursor, s.seq, s.pid, bool(s.required), bool(s.lost),
                          s.since))
    return found


def serve_sink(NativeArena arena not None, uint32_t sink) -> bool:
    """Take it over, unless another process that lives has it: say whether it is ours."""
    cdef rcv_txn *t
    open_one(arena)
    gate(arena, False, &t) # a forked child joins by its first use of the arena
    cdef int rc = rcv_sink_serve(arena.a, sink)
    done(arena, t)
    return rc != 0 if rc >= 0 else fail(rc)


def sink_taken(NativeArena arena not None, uint32_t sink, unsigned long long cursor, unsigned long long seq) -> None:
    """Move a sink's cursor: it has processed every record before that position, up to commit `seq`.

    Raises:
        StaleReferenceError: It has lost something.
        TransactionError: This process does not serve it, or it can't have taken that.
    """
    cdef int rc = rcv_sink_taken(open_one(arena), sink, cursor, seq)
    if rc:
        fail(rc)


def renew_sink(NativeArena arena not None, uint32_t sink, unsigned long long cursor, unsigned long long seq) -> None:
    """Mark a lost sink as caught up to a position and a commit.

    Raises:
        StaleReferenceError: That is overwritten by now.
        TransactionError: This process does not serve it, or it can't have taken that.
    """
    cdef int rc = rcv_sink_renew(open_one(arena), sink, cursor, seq)
    try:
        while rc == RCV_ERR_AGAIN:
            arena.wait_for_lock()
            rc = rcv_sink_renew(open_one(arena), sink, cursor, seq)
    finally:
        arena.wait_over()
    if rc:
        fail(rc)


def mirror(NativeArena arena not None) -> None:
    """Builds for tests: have each commit of this process compared with a copy that only the feed brings forward."""
    cdef rcv_txn *t
    open_one(arena)
    gate(arena, False, &t)
    cdef int rc = rcv_mirror_begin(arena.a)
    done(arena, t)
    if rc:
        fail(rc)


# -- bringing a copy forward ---------------------------------------------------------------------------------------------

cdef uint64_t LONG = 64 << 10 # bytes of records that are applied without the GIL; for less than that it would be taken back all the time


cdef class Restore:
    """A segment that nobody is attached to, behind a descriptor on which the caller holds an flock.

    `past`: so many bytes of the file, in this process's own memory: it stays as it is, and need only be readable. 0: no such one.

    Raises:
        ArenaBusyError: Somebody is attached to it.
        ArenaCorruptError: It is damaged.
    """
    def __cinit__(self, int fd, str name not None, uint64_t past=0):
        raw = name.encode()
        cdef int rc = rcv_past_begin(fd, past, raw, &self.r) if past else rcv_restore_open(fd, raw, &self.r)
        if rc:
            fail(rc)

    def __dealloc__(self):
        rcv_restore_close(self.r)

    def apply(self, bytes records not None) -> None:
        """Apply whole records.

        Raises:
            ArenaCorruptError: A record is damaged or out of order; those before it have been applied.
        """
        cdef const char *data = PyBytes_AS_STRING(records)
        cdef uint64_t at = 0, length = <uint64_t>len(records)
        cdef int rc
        if self.busy:
            raise RuntimeError("another thread is bringing this copy forward")
        if length < LONG:
            rc = rcv_restore_apply(self.r, data, length, &at)
        else:
            self.busy = True
            with nogil:
                rc = rcv_restore_apply(self.r, data, length, &at)
            self.busy = False
        if rc:
            fail(rc)

    def back(self) -> None:
        """Put memory behind all of it that is to have some, before anything is stored there.

        Raises:
            ArenaFullError: There is not enough in /dev/shm.
        """
        cdef int rc
        with nogil:
            rc = rcv_restore_back(self.r)
        if rc:
            fail(rc)

    def finish(self, unsigned long long position, unsigned long long epoch) -> None:
        """Make it one that is served from: its feed goes on at that position, in that epoch."""
        rcv_restore_finish(self.r, position, epoch)

    def renew(self) -> None:
        """Make it another arena than the one that it is a copy of: with an identity and a feed of its own, which nobody takes anything from."""
        cdef int rc = rcv_restore_renew(self.r)
        if rc:
            fail(rc)

    def past(self) -> NativeArena:
        """Return it as an arena that can only be read, if it was begun as a `past`. Nobody may read it while it is brought forward."""
        cdef rcv_arena *a
        cdef int rc = rcv_past_open(self.r, &a)
        if rc:
            fail(rc)
        cdef NativeArena native = NativeArena(<size_t>a)
        native.past = True
        return native

    def close(self) -> None:
        """Unmap it; closing twice is fine."""
        if self.busy:
            raise RuntimeError("another thread is bringing this copy forward")
        rcv_restore_close(self.r)
        self.r = NULL
