# journal_file.pxi -- a file of a journal, read batch by batch, replayed and searched (src/journal/). Part of journal.pyx.

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
