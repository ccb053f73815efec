# arena.pxi -- an open arena, as the gate and Python see it. Part of runtime.pyx.

cdef enum:
    NAME = 40 # RCV_HANDLER_NAME


cdef class NativeArena:
    """An open arena's core half: the pointer that ctypes' rcv_open gave, until mark_closed()."""

    def __init__(self, address: int) -> None:
        self.a = <rcv_arena *><size_t>address
        self.has_feed = rcv_has_feed(self.a)
        self.closed = False
        self.views = 0
        self.owner = None
        self.give_way = []
        self.tallies = {}
        self.lines = {}
        self.fronts = {}
        self.habits = {}
        self.watches = {}
        self.watched = set()
        self.waits = {}
        self.standing = {}
        self.places = {}

    def __dealloc__(self):
        if self.past and not self.closed:
            rcv_close(self.a)
        for i in range(LATE_KEYS):
            if self.late_keys[i].text != NULL:
                Py_DECREF(self.late_keys[i].text)

    @property
    def _as_parameter_(self):
        """What ctypes passes to the core for it. It asks in the very call, so nobody can close the arena in between."""
        if self.closed:
            closed_error(self)
        return <size_t>self.a

    def take_untold(self) -> list:
        """Return, once, (transaction, seconds, holder) of those whose threads have stood still for the lock for long, and which
        nobody was told of; of an access outside of any transaction the code of the functions that ran, the innermost first."""
        found, self.untold = self.untold, None
        return found or []

    def tell_late(self) -> None:
        """Have those told of, where no operation goes on."""
        tell_late(self)

    def queues(self) -> tuple[int, int]:
        """Return how many requests stand at hot spots, of all processes, and how many of them in the longest queue."""
        cdef int longest = 0, in_all = 0
        if not self.closed:
            in_all = rcv_turn_queues(self.a, &longest)
        return in_all, longest

    def transactions(self) -> list:
        """Return the Transactions in flight of this process, the youngest first."""
        return transactions_of(self)

    def listen(self, on: bool) -> None:
        """Say that this process tells of its requests when it is asked, or that it does not."""
        cdef rcv_txn *reader
        if self.closed or rcv_notes_listen(self.a, on) or not on:
            return
        # A forked child is in the process table from its first try for the lock on, which another may have for long.
        if rcv_access(self.a, NULL, False, &reader) == 0:
            done(self, reader)
        if self.closed or rcv_notes_listen(self.a, on):
            return
        gate(self, False, &reader) # another process is attaching
        done(self, reader)
        if not self.closed:
            rcv_notes_listen(self.a, on)

    def await_question(self, goes_on) -> bool:
        """Sleep, without the GIL, until somebody asks for this process's requests, or goes_on() has become false: False."""
        cdef uint32_t seen
        if self.closed:
            return False
        seen = rcv_notes_seen(self.a)
        if not goes_on() or self.closed:
            return False
        rcv_use(self.a)
        with nogil:
            rcv_notes_await(self.a, seen)
        rcv_unuse(self.a)
        return not self.closed and goes_on()

    def ask(self) -> None:
        """Ask all processes for their requests."""
        if not self.closed:
            rcv_notes_ask(self.a)

    def tell(self, list texts not None, in_all: int) -> int:
        """Answer with these texts, bytes, the most important first, and how many requests there are; how many had room."""
        return 0 if self.closed else tell_notes(self, texts, in_all)

    def lock_holder(self) -> tuple[int, str] | None:
        """Return process and handler of who has the lock, as far as known: 0, "" where not; None: nobody has it."""
        cdef rcv_holder holder
        return None if self.closed or not rcv_lock_holder(self.a, &holder) else holder_of(&holder)

    def privilege_holder(self) -> tuple[int, str] | None:
        """Return the same of the privileged run."""
        cdef rcv_holder holder
        return None if self.closed or not rcv_privilege_holder(self.a, &holder) else holder_of(&holder)

    def lock_is_free(self) -> bool:
        """Return whether the lock could be taken now, as far as a look at it tells."""
        return self.closed or rcv_lock_is_free(self.a) != 0

    def lock_moves(self) -> int:
        """Return a number that changes when steps that write end, and when the lock goes to another process."""
        return 0 if self.closed else rcv_lock_moves(self.a)

    def lock_is_stuck(self) -> bool:
        """Return whether somebody here has waited for it in vain just now."""
        return not self.closed and rcv_lock_is_stuck(self.a) != 0

    def try_lock(self) -> bool:
        """Wait for the lock for some milliseconds, on the spot, and let go of it: return whether that went well.

        False at once where somebody here has tried in vain just now.
        """
        self.check_open()
        cdef int rc = wait_briefly(self, here_on(self))
        if rc == RCV_ERR_AGAIN:
            return False
        if rc:
            fail(rc)
        wait_over(self)
        return True

    def note_lock_wait(self, double seconds) -> None:
        """Count that somebody has waited for the lock for so long while an event loop went on."""
        if not self.closed:
            rcv_lock_waited(self.a, <uint64_t>(seconds * 1e9))

    def raise_busy(self) -> None:
        """Raise the ArenaBusyError of one that has waited for the lock for `busy_timeout`."""
        self.check_open()
        fail(rcv_lock_busy(self.a))

    def check_open(self) -> None:
        """Raise TransactionClosedError if it is closed."""
        if self.closed:
            closed_error(self)

    def wait_for_lock(self) -> None:
        """Wait for the lock and keep it for this thread's next call that wants it; wait_over() follows, whatever happens.

        Raises:
            ArenaBusyError: others have had it for `busy_timeout`.
        """
        self.check_open()
        cdef int rc = wait_for_lock(self, here_on(self))
        if rc:
            fail(rc)

    def wait_over(self) -> None:
        """Let go of what wait_for_lock() has kept, if that was not wanted."""
        wait_over(self)

    def root(self) -> Container:
        """Return the root Dict's handle; make the root Dict first when the segment is new.

        Raises:
            ArenaFullError: no room for it.
        """
        cdef Transaction t
        cdef rcv_handle h
        cdef rcv_txn *reader
        if self._root is not None:
            return self._root
        gate(self, False, &reader)
        try:
            made = rcv_root(self.a) != 0
        finally:
            done(self, reader)
        if not made:
            t = Transaction(self, "(making the root)", True)
            t.mount()
            rc = rcv_root_make(t.t)
            if rc:
                t.rollback()
                fail(rc)
            t.commit()
        gate(self, False, &reader)
        try:
            rc = rcv_handle_open(self.a, rcv_root(self.a), &h)
            if rc < 0:
                fail(rc)
        finally:
            done(self, reader)
        cdef Container root = bind(self, type(of_kind(rc)), h)
        if not self.past: # which goes with the last handle on it
            self._root = root
        return root

    def close(self, bint leave=False) -> None:
        """Roll back what is in flight and unmap the segment: from now on every handle raises instead of touching it.

        With `leave` it stays mapped until the process ends: the thread that writes its journal is still there.

        Raises:
            TransactionError: somebody is using it; it stays open.
        """
        cdef rcv_frame *f = settle()
        if self.closed:
            return
        while f != NULL:
            if not f.left and f.owner != NULL and (<Transaction>f.owner).arena is self and is_alive(<Transaction>f.owner):
                raise _errors.TransactionError(
                    "an arena cannot be closed by a transaction on it; nothing was closed: close it after the handler has ended")
            f = f.below
        cdef int rc = rcv_leave(self.a) if leave else rcv_close(self.a)
        if rc:
            fail(rc)
        self.mark_closed()

    def mark_closed(self) -> None:
        """What it was of is not there any more, or is about to go."""
        self.a = NULL
        self.closed = True
        self.attention |= 1

    def recorded(self):
        """Return a copy of the recording so far: (ends, pages, handlers, names, whether steps are missing), bytes the first
        three of 32-bit numbers; None where nothing is being recorded."""
        self.check_open()
        cdef const rcv_recording *r = rcv_recording_get(self.a)
        cdef uint32_t n, i
        if r == NULL:
            return None
        n = r.stream.n # bytes objects alone until all is copied: nobody else runs before
        ends = PyBytes_FromStringAndSize(<const char *>r.stream.ends, n * 4)
        pages = PyBytes_FromStringAndSize(<const char *>r.stream.pages, r.stream.ends[n - 1] * 4 if n else 0)
        handlers = PyBytes_FromStringAndSize(<const char *>r.handlers, n * 4)
        names = PyBytes_FromStringAndSize(r.names, r.n_names * NAME)
        truncated = r.truncated != 0
        return ends, pages, handlers, [names[i * NAME:(i + 1) * NAME].split(b"\0")[0] for i in range(len(names) // NAME)], truncated

    def watch_writes(self, on: bool) -> None:
        """Have set_fault_hooks()'s `write` called before each operation of a container that writes, or no more."""
        self.attention = (self.attention & 1) | (2 if on else 0)

    def raw_count(self) -> int:
        """Return how many buffers over this arena's memory are alive: views, memoryviews, ctypes structures."""
        return self.views

    cdef bint has_pending(self) noexcept:
        return not self.closed and (rcv_pending(self.a) != 0 or self.untold is not None)

    def pending(self) -> bool:
        """Return whether a step may have found something that Arena._report_found() has an event for."""
        return self.has_pending()

    @property
    def address(self) -> int:
        return <size_t>self.a

    @property
    def commits(self) -> int:
        """How many there were since the arena was made, in all processes."""
        return 0 if self.closed else rcv_commits(self.a)

    @property
    def busy_timeout(self) -> float:
        """Seconds that whoever waits for others waits at most."""
        return 0.0 if self.closed else rcv_busy_timeout(self.a)

    def read_tallies(self) -> dict:
        """Return what meter() has counted here, by handler; None: of all those that were too many to tell apart."""
        cdef Tally tally
        return {handler: tally.read() for handler, tally in list(self.tallies.items())}

    def drop_tallies(self) -> None:
        """Count from 0."""
        self.tallies = {}

    def privileged_here(self) -> bool:
        """Is there a privileged transaction, and in this process?"""
        return not self.closed and rcv_privileged_here(self.a)
