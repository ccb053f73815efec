# cython: language_level=3, boundscheck=False, wraparound=False
"""The journal's files, the thread that writes them, and copies that are brought forward by them, for recoverable.journal."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from recoverable._native.core cimport *
from recoverable._native.feed cimport Restore, rcv_restore
from recoverable._native.runtime cimport NativeArena, Transaction, closed_error, done, fail, gate

from time import monotonic, sleep
from typing import NamedTuple

from recoverable._native.feed import state as feed_state

cdef extern from "feed.h" nogil:
    struct rcv_feed_state:
        uint64_t id[2]
        uint64_t epoch, size, tail, head, seq, at
    struct rcv_sink_state:
        char name[24]
        uint64_t cursor, seq, since, pid
        bint required, lost

cdef extern from "flusher.h" nogil:
    struct rcv_search:
        uint64_t position, end, seq_from, seq_to, at_from, at_to
        const char *handler
        const char *id
        bint anywhere
        const uint64_t *containers
        uint64_t n_containers
        const uint64_t *keys
        uint64_t n_keys
        uint64_t most
    struct rcv_hit:
        uint64_t offset, length, position
    int rcv_journal_search_batch(const void *records, uint64_t length, uint64_t position, const rcv_search *s, rcv_hit **out, uint64_t *n)
    int rcv_journal_search(rcv_journal_file *f, const rcv_search *s, rcv_hit **out, uint64_t *n)
    void rcv_journal_hits_free(rcv_hit *found)
    struct rcv_journal_start:
        uint64_t id[2]
        uint64_t number, size, epoch, position, seq, at
        uint32_t chain
    struct rcv_journal_batch:
        uint64_t offset, position, end, seq, at
        uint32_t records, chain
        const void *data
    ctypedef struct rcv_journal_file:
        pass
    int rcv_journal_open_file(int folder, const char *where, uint64_t number, rcv_journal_file **out)
    void rcv_journal_close_file(rcv_journal_file *f)
    void rcv_journal_get_start(const rcv_journal_file *f, rcv_journal_start *out)
    int rcv_journal_next(rcv_journal_file *f, rcv_journal_batch *out)
    int rcv_journal_next_of_tail(rcv_journal_file *f, rcv_journal_batch *out)
    void rcv_journal_go_on(rcv_journal_file *f, uint64_t offset, uint64_t position, uint32_t chain)
    uint64_t rcv_journal_offset(const rcv_journal_file *f)
    uint64_t rcv_journal_torn(const rcv_journal_file *f)
    ctypedef struct rcv_writer:
        pass
    int rcv_journal_spare(const char *where)
    int rcv_journal_settle(const char *where, rcv_journal_start *out)
    int rcv_writer_create(const char *where, const rcv_journal_start *start, rcv_writer **out)
    void rcv_writer_close(rcv_writer *w)
    void rcv_journal_file_size(uint64_t bytes)
    enum:
        RCV_SNAPSHOT_PARTS
    uint64_t RCV_SNAPSHOT_PIECE
    struct rcv_snapshot_part:
        uint64_t off, size
    void rcv_snapshot_parts(const rcv_arena *a, rcv_snapshot_part *parts)
    uint64_t rcv_snapshot_size(const rcv_arena *a)
    void rcv_snapshot_read(const rcv_arena *a, uint64_t off, uint64_t size, void *to)
    int rcv_snapshot_write(const rcv_arena *a, int fd, const char *where)
    int rcv_snapshot_apply(int fd, uint64_t size, const char *where, const void *records, uint64_t length, uint8_t *touched,
                           uint64_t *seq, uint64_t *at)
    struct rcv_until:
        uint64_t position, seq, at
    struct rcv_replayed:
        uint64_t records, bytes, position, seq, at
        uint32_t chain
        int reached
    int rcv_journal_replay(rcv_journal_file *f, rcv_restore *to, uint64_t start, const rcv_until *until, uint64_t most, rcv_replayed *out)
    uint32_t rcv_crc32c(uint32_t before, const void *bytes, uint64_t n)
    ctypedef struct rcv_flusher:
        pass
    int rcv_journal_lock(const char *where, void **lock)
    void rcv_journal_unlock(const char *where, void *lock)
    int rcv_journal_host(char *out, size_t size)
    int rcv_flusher_begin(rcv_arena *a, const char *where, uint64_t delay, void *lock, rcv_flusher **out)
    int rcv_flusher_again(rcv_flusher *f)
    void rcv_flusher_end(rcv_flusher *f)
    int rcv_flusher_over(rcv_flusher *f, uint64_t nanos)
    void rcv_flusher_free(rcv_flusher *f)
    bint rcv_flusher_serves(const rcv_flusher *f)
    uint64_t rcv_durable(const rcv_arena *a)
    int rcv_processes(rcv_arena *a, uint64_t *pids, int max)
    int rcv_journal_goes_on(rcv_arena *a, uint64_t position)
    int rcv_journal_attach(rcv_arena *a, uint64_t position, uint64_t seq)
    void rcv_journal_note_snapshot(rcv_arena *a, uint64_t seq, uint64_t at, uint64_t bytes)
    int rcv_durable_ask(rcv_flusher *f, uint64_t position, int pipe)
    void rcv_durable_enough(rcv_flusher *f, int pipe, uint64_t device, uint64_t inode)
    int rcv_durable_wait(rcv_flusher *f, uint64_t position, uint64_t nanos)
    enum:
        RCV_FLUSH_CLASSES
    struct rcv_journal_state:
        uint64_t batches, records, bytes, nanos, worst
        uint64_t in_class[24]
        uint64_t at, number
        int stopped, delayed
        uint64_t snapshot_seq, snapshot_at, snapshot_bytes
    int rcv_journal_get(const rcv_arena *a, rcv_journal_state *out)
    struct rcv_feed_seen:
        rcv_feed_state feed
        uint64_t sinks
        rcv_sink_state sink[8]
        uint64_t written
        rcv_journal_state journal
    int rcv_peek_feed(int fd, const char *name, rcv_feed_seen *out)
    const char *rcv_flusher_error(rcv_flusher *f, char *out, size_t size)


include "journal_file.pxi"


def make_spare(str where not None) -> None:
    """Make what the next file in that folder is made of, beforehand. It is only for speed: nothing comes of a failure."""
    raw = where.encode("utf-8", "surrogateescape")
    cdef const char *path = raw
    with nogil:
        rcv_journal_spare(path)


def settle(str where not None) -> Start:
    """Have what the last file in that folder has be on the disk, wherever it was; return what a file that goes on from there would say,
    but with the number of the last one. Who has read the file has read what the machine has in memory.

    Raises:
        ArenaFullError, ArenaSystemError: The disk does not take it.
    """
    cdef rcv_journal_start s
    cdef int rc
    raw = where.encode("utf-8", "surrogateescape")
    cdef const char *path = raw
    with nogil:
        rc = rcv_journal_settle(path, &s)
    if rc:
        fail(rc)
    return start_of(&s)


def create_file(str where not None, start not None) -> None:
    """Make the file of the journal in that folder which goes on from there. Durable when it returns, and so is what is before it."""
    cdef rcv_writer *w
    cdef rcv_journal_start s
    raw = where.encode("utf-8", "surrogateescape")
    s.id[0], s.id[1] = int(start.arena[:16], 16), int(start.arena[16:], 16)
    s.number, s.epoch, s.position = start.number - 1, start.epoch, start.position
    s.seq, s.at, s.chain = start.seq, start.at, start.chain
    cdef const char *path = raw
    cdef int rc
    with nogil:
        rc = rcv_writer_create(path, &s, &w)
    if rc:
        fail(rc)
    rcv_writer_close(w)


def file_size(unsigned long long size) -> None:
    """Give files that are made from now on this size."""
    rcv_journal_file_size(size)


cdef class Lock:
    """The right to write in a folder, which one process has at a time. Ends with the process, or with release().

    Raises:
        ArenaBusyError: Another process has it.
    """
    cdef void *page
    cdef bytes where

    def __cinit__(self, str where not None):
        self.where = where.encode("utf-8", "surrogateescape")
        cdef int rc = rcv_journal_lock(self.where, &self.page)
        if rc:
            fail(rc)

    def __dealloc__(self):
        self.release()

    def release(self) -> None:
        """Let go of it; twice is fine."""
        cdef void *page = self.page
        self.page = NULL
        if page != NULL:
            rcv_journal_unlock(self.where, page)


def host() -> str:
    """Return what tells this machine, since it was started, from others."""
    cdef char text[160]
    rcv_journal_host(text, sizeof(text))
    return (<bytes>text).decode("utf-8", "replace")


def crc32c(unsigned int before, const uint8_t[::1] data not None) -> int:
    """Return the CRC32C of what came before and these bytes."""
    cdef uint32_t crc
    cdef uint64_t n = <uint64_t>data.shape[0]
    if n == 0:
        return before
    with nogil:
        crc = rcv_crc32c(before, &data[0], n)
    return crc


include "snapshot.pxi"


# -- what is told of it ---------------------------------------------------------------------------------------------------

class State(NamedTuple):
    """What the writer has done so far, and whether it still does.

    Attributes:
        batches, records, bytes: What it has written; `nanos` what that took in all, `worst` the longest.
        in_class: Batches by what they took: class i is below 2 ** (i + 8) ns.
        at: When the last one was durable, nanoseconds since the epoch.
        number: Of the file in use; 0: it has failed before it was known.
        stopped: The errno that it has failed by, for good; 0: it has not. `delayed`: that of a disk that is full.
        snapshot: The last commit of the last snapshot, when that was, and its bytes on the disk; zeros: not known.
    """

    batches: int
    records: int
    bytes: int
    nanos: int
    worst: int
    in_class: tuple[int, ...]
    at: int
    number: int
    stopped: int
    delayed: int
    snapshot: tuple[int, int, int]


cdef object state_of(rcv_journal_state *s):
    classes = tuple([s.in_class[i] for i in range(RCV_FLUSH_CLASSES)])
    return State(s.batches, s.records, s.bytes, s.nanos, s.worst, classes, s.at, s.number, s.stopped, s.delayed,
                 (s.snapshot_seq, s.snapshot_at, s.snapshot_bytes))


def durable(NativeArena arena not None) -> int:
    """Return up to which position of its feed an arena is durable."""
    if arena.closed:
        closed_error(arena)
    return rcv_durable(arena.a)


def goes_on(NativeArena arena not None, unsigned long long position) -> bool:
    """Return whether its journal, whose files end at that position, goes on as it did. If so, nothing is to be done: what is beyond
    durable() becomes durable, and is told, by whoever writes next."""
    if arena.closed:
        closed_error(arena)
    return rcv_journal_goes_on(arena.a, position) != 0


def attach(NativeArena arena not None, unsigned long long position, unsigned long long seq) -> None:
    """Have its journal go on from that position, which is up to commit `seq`, whatever became of the journal before. All of it up to
    there is durable."""
    cdef rcv_txn *t
    if arena.closed:
        closed_error(arena)
    gate(arena, False, &t)
    cdef int rc = rcv_journal_attach(arena.a, position, seq)
    done(arena, t)
    if rc:
        fail(rc)


def note_snapshot(NativeArena arena not None, unsigned long long seq, unsigned long long at, unsigned long long size) -> None:
    """Have all who look learn of its last snapshot."""
    if arena.closed:
        closed_error(arena)
    rcv_journal_note_snapshot(arena.a, seq, at, size)


def state(NativeArena arena not None):
    """Return what has been written of this arena, by whatever process; None: nothing yet, and nobody has failed to."""
    cdef rcv_journal_state s
    if arena.closed:
        closed_error(arena)
    return state_of(&s) if rcv_journal_get(arena.a, &s) else None


def identity(int fd, str name not None) -> str | None:
    """Return which arena's the segment behind `fd` is, as the head of a file of its journal says it; None: it has no feed."""
    cdef rcv_feed_seen s
    raw = name.encode()
    cdef int rc = rcv_peek_feed(fd, raw, &s)
    if rc:
        fail(rc)
    cdef rcv_feed_state *f = &s.feed
    return f"{f.id[0]:016x}{f.id[1]:016x}" if f.size else None


def peek(int fd, str name not None) -> tuple:
    """Return, of the segment behind `fd` and without attaching, what feed.state(), feed.sinks() and state() say of an open one.

    Of feed.state() without the identity; of feed.sinks() without the number.
    """
    cdef rcv_feed_seen s
    raw = name.encode()
    cdef int rc = rcv_peek_feed(fd, raw, &s)
    if rc:
        fail(rc)
    f = s.feed
    sinks = [(s.sink[i].name.decode("utf-8", "replace"), s.sink[i].cursor, s.sink[i].seq, s.sink[i].pid, bool(s.sink[i].required),
              bool(s.sink[i].lost), s.sink[i].since) for i in range(s.sinks)]
    feed = (f.epoch, f.size, f.tail, f.head, f.seq, f.at) if f.size else None
    return feed, sinks, state_of(&s.journal) if s.written else None


include "flusher.pxi"
