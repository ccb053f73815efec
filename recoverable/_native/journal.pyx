# cython: language_level=3, boundscheck=False, wraparound=False
"""The journal's files, the thread that writes them, and copies that are brought forward by them, for recoverable.journal."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from recoverable._native.core cimport *
from recoverable._native.feed cimport Restore, rcv_restore
from recoverable._native.runtime cimport NativeArena, Transaction, closed_error, done, fail, gate

from typing import NamedTuple

from recoverable._native.feed import state as feed_state

cdef extern from "flusher.h" nogil:
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
    uint64_t rcv_journal_offset(const rcv_journal_file *f)
    uint64_t rcv_journal_torn(const rcv_journal_file *f)
    ctypedef struct rcv_writer:
        pass
    int rcv_writer_create(const char *where, const rcv_journal_start *start, rcv_writer **out)
    void rcv_writer_close(rcv_writer *w)
    void rcv_journal_file_size(uint64_t bytes)
    int rcv_snapshot_write(rcv_arena *a, int fd)
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
    uint64_t rcv_durable(const rcv_arena *a)
    int rcv_journal_attach(rcv_arena *a, uint64_t position, uint64_t seq)
    int rcv_durable_ask(rcv_flusher *f, uint64_t position, int pipe)
    void rcv_durable_enough(rcv_flusher *f, int pipe)
    int rcv_durable_wait(rcv_flusher *f, uint64_t position, uint64_t nanos)
    enum:
        RCV_FLUSH_CLASSES
    struct rcv_journal_state:
        uint64_t batches, records, bytes, nanos, worst
        uint64_t in_class[24]
        uint64_t at, number
        int stopped, delayed
    int rcv_journal_get(const rcv_arena *a, rcv_journal_state *out)
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

    def __dealloc__(self):
        rcv_journal_close_file(self.f)

    def start(self) -> Start:
        """Return what its head says."""
        cdef rcv_journal_start s
        rcv_journal_get_start(self.f, &s)
        return Start(f"{s.id[0]:016x}{s.id[1]:016x}", s.number, s.size, s.epoch, s.position, s.seq, s.at, s.chain)

    def next(self, bint data=False):
        """Return the next batch, or None at the end; with `data`, it and its records as bytes."""
        cdef rcv_journal_batch b
        cdef int rc
        with nogil:
            rc = rcv_journal_next(self.f, &b)
        if rc < 0:
            fail(rc)
        if rc == 0:
            return None
        found = Batch(b.offset, b.position, b.end, b.seq, b.at, b.records, b.chain)
        return (found, (<const char *>b.data)[:b.end - b.position]) if data else found

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


def create_file(str where not None, start not None) -> None:
    """Make the file of the journal in that folder which goes on from there. Durable when it returns."""
    cdef rcv_writer *w
    cdef rcv_journal_start s
    raw = where.encode("utf-8", "surrogateescape")
    s.id[0], s.id[1] = int(start.arena[:16], 16), int(start.arena[16:], 16)
    s.number, s.epoch, s.position = start.number - 1, start.epoch, start.position
    s.seq, s.at, s.chain = start.seq, start.at, start.chain
    cdef int rc = rcv_writer_create(raw, &s, &w)
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


def write_snapshot(NativeArena arena not None, int fd) -> tuple:
    """Write the arena as it is into an empty file, holding its lock meanwhile: what feed.state() says of that moment."""
    cdef rcv_txn *t
    cdef int rc
    if arena.closed:
        closed_error(arena)
    gate(arena, False, &t)
    try:
        state = feed_state(arena)
        with nogil:
            rc = rcv_snapshot_write(arena.a, fd)
    finally:
        done(arena, t)
    if rc:
        fail(rc)
    return state


# -- the thread, and who waits --------------------------------------------------------------------------------------------

class State(NamedTuple):
    """What the writer has done so far, and whether it still does.

    Attributes:
        batches, records, bytes: What it has written; `nanos` what that took in all, `worst` the longest.
        in_class: Batches by what they took: class i is below 2 ** (i + 8) ns.
        at: When the last one was durable, nanoseconds since the epoch.
        number: Of the file in use.
        stopped: The errno that it has failed by, for good; 0: it has not. `delayed`: that of a disk that is full.
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


def durable(NativeArena arena not None) -> int:
    """Return up to which position of its feed an arena is durable."""
    if arena.closed:
        closed_error(arena)
    return rcv_durable(arena.a)


def attach(NativeArena arena not None, unsigned long long position, unsigned long long seq) -> None:
    """Have its journal go on from that position, which is up to commit `seq`, whatever became of the journal before."""
    cdef rcv_txn *t
    if arena.closed:
        closed_error(arena)
    gate(arena, False, &t)
    cdef int rc = rcv_journal_attach(arena.a, position, seq)
    done(arena, t)
    if rc:
        fail(rc)


def state(NativeArena arena not None):
    """Return what has been written of this arena, by whatever process; None: nothing yet."""
    cdef rcv_journal_state s
    if arena.closed:
        closed_error(arena)
    if not rcv_journal_get(arena.a, &s):
        return None
    classes = tuple(s.in_class[i] for i in range(RCV_FLUSH_CLASSES))
    return State(s.batches, s.records, s.bytes, s.nanos, s.worst, classes, s.at, s.number, s.stopped, s.delayed)


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


cdef class Flusher:
    """The thread of this process that takes an arena's commits to its journal, or watches whoever does."""
    cdef rcv_flusher *f
    cdef NativeArena arena
    cdef readonly str where

    def __cinit__(self, NativeArena arena not None, str where not None, double delay, Lock lock=None):
        raw = where.encode("utf-8", "surrogateescape")
        cdef uint64_t nanos = <uint64_t>(delay * 1e9)
        if arena.closed:
            closed_error(arena)
        self.arena, self.where = arena, where
        cdef void *page = NULL if lock is None else lock.page
        cdef int rc = rcv_flusher_begin(arena.a, raw, nanos, page, &self.f)
        while rc == RCV_ERR_AGAIN:
            arena.wait_for_lock()
            rc = rcv_flusher_begin(arena.a, raw, nanos, page, &self.f)
        if rc:
            fail(rc)
        if lock is not None:
            lock.page = NULL

    cdef int check(self) except -1:
        if self.f == NULL:
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

    def enough(self, int pipe) -> None:
        """Write nothing more into that pipe."""
        if self.f != NULL:
            rcv_durable_enough(self.f, pipe)

    def wait(self, unsigned long long position, double seconds) -> bool:
        """Wait until that position is durable; return whether it is."""
        cdef uint64_t nanos = <uint64_t>(seconds * 1e9)
        cdef int rc
        self.check()
        rcv_use(self.arena.a)
        with nogil:
            rc = rcv_durable_wait(self.f, position, nanos)
        rcv_unuse(self.arena.a)
        if rc < 0:
            fail(rc)
        return rc == 1

    def go_on(self) -> None:
        """In a forked child: begin the thread that it has not inherited. Else nothing."""
        self.check()

    def stopped(self) -> bool:
        """Return whether it has failed for good, in whatever process."""
        cdef rcv_journal_state s
        self.check()
        rcv_journal_get(self.arena.a, &s)
        return s.stopped != 0

    def error(self) -> str:
        """Return what has failed last in this process, "": nothing."""
        cdef char text[400]
        return "" if self.f == NULL else rcv_flusher_error(self.f, text, sizeof(text)).decode("utf-8", "replace")

    def end(self) -> None:
        """End it, with all that was committed written if this process writes. Twice is fine."""
        cdef rcv_flusher *f = self.f
        self.f = NULL
        if f != NULL:
            with nogil:
                rcv_flusher_end(f)
