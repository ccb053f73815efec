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

_MOST = (1 << 64) - 1
cdef uint64_t PART = 16 << 20 # bytes of records that are replayed without the GIL at a time


class Start(NamedTuple):
    """What the head of a file of the journal says.

    Attributes:
        arena: The arena's identity, in 32 hex digits.
        epoch: How often its state was restored before.
        position: Where in the feed its first record begins.
        seq: The number of the last commit before it, `at` its time in nanoseconds since the epoch.
        chain: The checksum that its first batch goes on from.
    """

    arena: str
    number: int
    size: int
    epoch: int
    position: int
    seq: int
    at: int
    chain: int


class Batch(NamedTuple):
    """A batch of commits that became durable together; `position` to `end` of the feed."""

    offset: int
    position: int
    end: int
    seq: int
    at: int
    records: int
    chain: int


class Replayed(NamedTuple):
    """What has been replayed so far: records and bytes in all, and what the last record was."""

    records: int
    bytes: int
    position: int
    seq: int
    at: int
    chain: int
    reached: bool
    more: bool


cdef object start_of(const rcv_journal_start *s):
    return Start(f"{s.id[0]:016x}{s.id[1]:016x}", s.number, s.size, s.epoch, s.position, s.seq, s.at, s.chain)


cdef class File:
    """A file of a journal, to be read batch by batch.

    Raises:
        ArenaNotFoundError: There is no such file.
        ArenaVersionError: Another format.
        ArenaCorruptError: Its head is damaged. From the other methods: what follows is damaged; what came before is sound.
    """
    cdef rcv_journal_file *f
    cdef rcv_replayed replayed

    def __cinit__(self, int folder, str where not None, unsigned long long number):
        raw = where.encode("utf-8", "surrogateescape")
        cdef int rc = rcv_journal_open_file(folder, raw, number, &self.f)
        if rc:
            fail(rc)
        cdef rcv_journal_start s
        rcv_journal_get_start(self.f, &s)
        self.replayed.chain = s.chain # until a batch was replayed

    def __dealloc__(self):
        rcv_journal_close_file(self.f)

    def start(self) -> Start:
        """Return what its head says."""
        cdef rcv_journal_start s
        rcv_journal_get_start(self.f, &s)
        return start_of(&s)

    def next(self, bint data=False, bint tail=False, unsigned long long beyond=0):
        """Return the next batch, or None at the end; with `data`, it and its records as bytes, which are left out of one that does not go
        beyond a position. `tail`: what is not sound may be being written, and is not taken for damage."""
        cdef rcv_journal_batch b
        cdef int rc
        with nogil:
            rc = rcv_journal_next_of_tail(self.f, &b) if tail else rcv_journal_next(self.f, &b)
        if rc < 0:
            fail(rc)
        if rc == 0:
            return None
        found = Batch(b.offset, b.position, b.end, b.seq, b.at, b.records, b.chain)
        if not data:
            return found
        return found, (<const char *>b.data)[:b.end - b.position] if b.end > beyond else b""

    def go_on(self, unsigned long long offset, unsigned long long position, unsigned int chain) -> None:
        """Go on behind a batch that another File of this file has read: its `offset` then, the end of the batch in the feed, its chain."""
        rcv_journal_go_on(self.f, offset, position, chain)

    def replay(self, Restore to, unsigned long long start, unsigned long long position=_MOST, unsigned long long seq=_MOST,
               unsigned long long at=_MOST) -> Replayed:
        """Bring a copy forward by some of what is left of it: by its records from position `start` on, up to the first one at or
        behind `position`, or behind a number or a time. Without a copy, they are only looked at."""
        cdef rcv_until until = rcv_until(position, seq, at)
        cdef rcv_restore *copy = NULL if to is None else to.r
        cdef rcv_replayed *r = &self.replayed
        cdef int rc
        with nogil:
            rc = rcv_journal_replay(self.f, copy, start, &until, PART, r)
        if rc < 0:
            fail(rc)
        return Replayed(r.records, r.bytes, r.position, r.seq, r.at, r.chain, bool(r.reached), rc == 1 and not r.reached)

    def search(self, unsigned long long position, unsigned long long end, seqs, times, str handler, str request, places) -> list:
        """Return (offset in the file, length, position) of the records that are looked for, in the order of the commits.

        `position` up to `end` of the feed; `seqs` and `times`: the first and the last; `handler`, `request`: whose, None: whoever's;
        `places`: where it has written, None: anywhere; or an array of the numbers of containers, sorted, and one of such a number and
        the hash of a key, in turn, sorted by both.
        """
        return search_in(self.f, None, 0, position, end, seqs, times, handler, request, places, 0)

    @property
    def replayed_seq(self) -> int:
        """The number of the last commit that was replayed, also where replay() has failed; 0: none."""
        return self.replayed.seq

    @property
    def offset(self) -> int:
        """Where it has come to: the end of the last batch that was read."""
        return rcv_journal_offset(self.f)

    @property
    def torn(self) -> int:
        """The size in bytes of an unfinished last batch; 0 if there is none."""
        return rcv_journal_torn(self.f)

    def close(self) -> None:
        """Close it; twice is fine."""
        rcv_journal_close_file(self.f)
        self.f = NULL


def search(bytes records not None, unsigned long long begin, unsigned long long position, unsigned long long end, seqs, times,
           str handler, str request, places, unsigned long long most=0) -> list:
    """Return (offset, length, position) of those of a batch's records that are looked for, the first `most` of them; 0: all.

    The first record begins at `begin`, and one at `position`. Else as of a File.
    """
    return search_in(NULL, records, begin, position, end, seqs, times, handler, request, places, most)


cdef list search_in(rcv_journal_file *f, bytes records, uint64_t begin, uint64_t position, uint64_t end, seqs, times, str handler,
                    str request, places, uint64_t most):
    cdef rcv_search s
    cdef rcv_hit *found = NULL
    cdef uint64_t n = 0, i
    cdef const uint64_t[::1] ids, pairs
    cdef const char *data = NULL
    cdef uint64_t length = 0
    cdef int rc
    if records is not None:
        data, length = records, <uint64_t>len(records)
    name = None if handler is None else handler.encode("utf-8", "surrogatepass")
    id = None if request is None else request.encode("utf-8", "surrogatepass")
    s.position, s.end, s.most = position, end, most
    s.seq_from, s.seq_to = seqs
    s.at_from, s.at_to = times
    s.handler = NULL if name is None else <const char *>name
    s.id = NULL if id is None else <const char *>id
    s.anywhere = places is None
    s.containers, s.n_containers, s.keys, s.n_keys = NULL, 0, NULL, 0
    if places is not None:
        ids, pairs = places
        s.n_containers, s.n_keys = <uint64_t>ids.shape[0], <uint64_t>pairs.shape[0] // 2
        s.containers = &ids[0] if s.n_containers else NULL
        s.keys = &pairs[0] if s.n_keys else NULL
    if f == NULL:
        rc = rcv_journal_search_batch(data, length, begin, &s, &found, &n)
    else:
        with nogil:
            rc = rcv_journal_search(f, &s, &found, &n)
    try:
        if rc:
            fail(rc)
        return [(found[i].offset, found[i].length, found[i].position) for i in range(n)]
    finally:
        rcv_journal_hits_free(found)


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


def crc32c(unsigned int before, const uint8_t[::1] data not None) -> int:
    """Return the CRC32C of what came before and these bytes."""
    cdef uint32_t crc
    cdef uint64_t n = <uint64_t>data.shape[0]
    if n == 0:
        return before
    with nogil:
        crc = rcv_crc32c(before, &data[0], n)
    return crc


# -- the first snapshot ---------------------------------------------------------------------------------------------------

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


# -- the thread, and who waits --------------------------------------------------------------------------------------------

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


cdef double SLICE = 0.02 # seconds after which a thread that waits sees that it was ended, or has a signal's handler to run


cdef class Flusher:
    """The thread of this process that takes an arena's commits to its journal, or watches whoever does."""
    cdef rcv_flusher *f
    cdef NativeArena arena
    cdef readonly str where
    cdef readonly bint ended # or it is about to: nobody begins to wait
    cdef int waiting # threads that wait in the core

    def __cinit__(self, NativeArena arena not None, str where not None, double delay, Lock lock=None):
        raw = where.encode("utf-8", "surrogateescape")
        cdef uint64_t nanos = <uint64_t>(delay * 1e9)
        if arena.closed:
            closed_error(arena)
        self.arena, self.where = arena, where
        cdef void *page = NULL if lock is None else lock.page
        cdef int rc = rcv_flusher_begin(arena.a, raw, nanos, page, &self.f)
        try:
            while rc == RCV_ERR_AGAIN:
                arena.wait_for_lock()
                if arena.closed:
                    closed_error(arena)
                rc = rcv_flusher_begin(arena.a, raw, nanos, page, &self.f)
        finally:
            arena.wait_over() # its sink may be open by now: it needs no lock then
        if rc:
            fail(rc)
        if lock is not None:
            lock.page = NULL

    cdef int check(self) except -1:
        if self.f == NULL or self.arena.closed: # closed with its thread still there, say: end() has given up
            closed_error(self.arena)
        cdef int rc = rcv_flusher_again(self.f)
        if rc:
            fail(rc)
        return 0

    def durable(self) -> int:
        """Return up to which position of the feed all is durable."""
        self.check()
        return rcv_durable(self.arena.a)

    def ask(self, unsigned long long position, int pipe) -> bool:
        """Return whether that position is durable; else it soon will be, and the pipe gets a byte whenever more is.

        Raises:
            ArenaSystemError: The journal has stopped.
        """
        self.check()
        cdef int rc = rcv_durable_ask(self.f, position, pipe)
        if rc < 0:
            fail(rc)
        return rc == 0

    def enough(self, int pipe, unsigned long long device, unsigned long long inode) -> None:
        """Write nothing more into that pipe; its number may be another's by now."""
        if self.f != NULL:
            rcv_durable_enough(self.f, pipe, device, inode)

    def wait(self, unsigned long long position, double seconds) -> bool:
        """Wait until that position is durable; return whether it is. Ended meanwhile, it says no soon."""
        cdef uint64_t slice
        cdef double left = seconds
        cdef int rc = 0
        if self.ended:
            return False
        self.check()
        end = monotonic() + seconds
        while rc == 0 and not self.ended and left >= 0:
            slice = <uint64_t>(min(left, SLICE) * 1e9)
            rcv_use(self.arena.a)
            self.waiting += 1
            with nogil:
                rc = rcv_durable_wait(self.f, position, slice)
            self.waiting -= 1
            rcv_unuse(self.arena.a)
            PyErr_CheckSignals() # Ctrl-C ends it; and a handler may close the arena
            left = end - monotonic()
        if rc < 0:
            fail(rc)
        return rc == 1

    def go_on(self) -> None:
        """In a forked child: begin the thread that it has not inherited, and forget those that waited."""
        self.waiting = 0
        self.check()

    def serves(self) -> bool:
        """Return whether it is the thread of this process that writes."""
        return self.f != NULL and not self.arena.closed and rcv_flusher_serves(self.f)

    def stopped(self) -> bool:
        """Return whether it has failed for good, in whatever process."""
        cdef rcv_journal_state s
        self.check()
        rcv_journal_get(self.arena.a, &s)
        return s.stopped != 0

    def error(self) -> str:
        """Return what keeps it from writing, if this process has met that; else ""."""
        cdef char text[400]
        return "" if self.f == NULL else rcv_flusher_error(self.f, text, sizeof(text)).decode("utf-8", "replace")

    def end(self, double seconds=-1) -> bool:
        """End it, with all that was committed written if this process writes; return whether it has ended. Twice is fine.

        With `seconds`, no longer than until nothing has become durable for so long: a disk may hang. Its thread goes on then.
        """
        cdef uint64_t slice = <uint64_t>(SLICE * 1e9)
        cdef uint64_t before
        cdef rcv_flusher *f
        cdef int over = 0
        self.ended = True
        while self.waiting > 0: # they use it
            sleep(SLICE / 4)
        if self.f == NULL or self.arena.closed:
            return self.f == NULL
        rcv_flusher_end(self.f)
        before, since = rcv_durable(self.arena.a), monotonic()
        while True:
            with nogil:
                over = rcv_flusher_over(self.f, slice)
            if over:
                break
            PyErr_CheckSignals() # Ctrl-C ends the waiting, and no more
            if self.f == NULL or self.arena.closed: # by a handler, or by another thread
                return self.f == NULL
            if rcv_durable(self.arena.a) != before:
                before, since = rcv_durable(self.arena.a), monotonic()
            elif 0 <= seconds <= monotonic() - since:
                return False
        f, self.f = self.f, NULL
        rcv_flusher_free(f)
        return True
