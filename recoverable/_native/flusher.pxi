# flusher.pxi -- the thread that writes a journal, and who waits for the disk (src/journal/flusher.c). Part of journal.pyx.

cdef double SLICE = 0.02 # seconds after which a thread that waits sees that it was ended, or has a signal's handler to run


cdef class Flusher:
    """The thread of this process that takes an arena's commits to its journal, or watches whoever does."""
    cdef rcv_flusher *f
    cdef NativeArena arena
    cdef readonly str where
    cdef readonly bint ended # or it is about to: nobody begins to wait
    cdef int waiting # threads that wait in the core
    cdef int ending # of these, in end()
    cdef str said # by what kept it from writing, when it ended

    def __cinit__(self, NativeArena arena not None, str where not None, double delay, Lock lock=None):
        raw = where.encode("utf-8", "surrogateescape")
        cdef uint64_t nanos = <uint64_t>(delay * 1e9)
        if arena.closed:
            closed_error(arena)
        self.arena, self.where, self.said = arena, where, ""
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
        self.waiting = self.ending = 0
        self.check()

    def serves(self) -> bool:
        """Return whether it is the thread of this process that writes."""
        return self.f != NULL and not self.arena.closed and rcv_flusher_serves(self.f)

    def error(self) -> str:
        """Return what keeps it from writing, if this process has met that; else ""."""
        cdef char text[400]
        return self.said if self.f == NULL else rcv_flusher_error(self.f, text, sizeof(text)).decode("utf-8", "replace")

    def end(self, double seconds=-1) -> bool:
        """End it, with all that was committed written if this process writes; return whether it has ended. Twice is fine.

        With `seconds`, no longer than until nothing has become durable for so long: a disk may hang. Its thread goes on then.
        """
        cdef uint64_t slice = <uint64_t>(SLICE * 1e9)
        cdef uint64_t before
        cdef int over = 0
        self.ended = True
        while self.waiting > 0: # they use it
            sleep(SLICE / 4)
        if self.f == NULL or self.arena.closed:
            return self.f == NULL
        rcv_flusher_end(self.f)
        before, since = rcv_durable(self.arena.a), monotonic()
        self.ending += 1
        try:
            while True:
                with nogil:
                    over = rcv_flusher_over(self.f, slice)
                if self.f == NULL or over:
                    break
                PyErr_CheckSignals() # Ctrl-C ends the waiting, and no more
                if self.f == NULL or self.arena.closed: # by a handler, or by another thread
                    return self.f == NULL
                if rcv_durable(self.arena.a) != before:
                    before, since = rcv_durable(self.arena.a), monotonic()
                elif 0 <= seconds <= monotonic() - since:
                    return False
        finally:
            self.ending -= 1
        self.let_go()
        return True

    def is_over(self) -> bool:
        """Return whether its thread has ended, after an end() that was interrupted or has given up. It does not wait."""
        if self.f == NULL:
            return True
        if not self.ended or self.arena.closed or self.waiting > 0 or self.ending > 0:
            return False
        rcv_flusher_end(self.f) # it may have been interrupted before that
        if not rcv_flusher_over(self.f, 0):
            return False
        self.let_go()
        return True

    cdef int let_go(self) except -1:
        cdef rcv_flusher *f
        if self.f != NULL:
            self.said = self.error()
            f, self.f = self.f, NULL
            rcv_flusher_free(f)
        return 0


def is_left_behind(NativeArena arena not None) -> bool:
    """Return whether there are commits that are not on the disk, and no other process has the arena open, which would write them."""
    return not arena.closed and rcv_durable(arena.a) < feed_state(arena)[4] and rcv_processes(arena.a, NULL, 0) <= 1
