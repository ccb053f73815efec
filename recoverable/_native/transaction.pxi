# transaction.pxi -- class Transaction: one run of a handler, on top of the core's half of it. Part of runtime.pyx, so that its
# driver, its Call and the gate use its fields without a call.

cdef str COMMITTED = "committed"


cdef class Mark:
    """A savepoint: where rollback_to() goes back to."""


@cython.freelist(64)
@cython.no_gc_clear # __dealloc__ needs what it holds
cdef class Transaction:
    """One run of a handler against the arena; touches nothing until the first access.

    Args:
        arena: the arena.
        handler: its name, for messages (its last 39 bytes).
        one_step: it is never suspended, so its reads need not be recorded.
    """

    def __init__(self, NativeArena arena not None, str handler not None, bint one_step):
        if self.arena is not None:
            raise _errors.TransactionError("a transaction begins once; this one has begun already and goes on")
        begin_transaction(self, arena, handler, NULL, one_step)

    def __dealloc__(self):
        if self.t != NULL: # in whatever thread: it takes what it has out of the arena, and gives the lock back
            rcv_txn_free(self.t)

    cdef int check(self) except -1:
        """Raise unless it can still run."""
        if self.arena is None or self.arena.closed:
            closed_error(self.arena)
        if self.t == NULL:
            raise _errors.TransactionClosedError(
                f"the transaction is already {self._ended.replace('_', ' ')}; the arena holds committed state: begin another")
        return 0

    cdef void end(self, str how) noexcept:
        """Keep what is asked for later and give the core's half back."""
        self._ended = how
        if rcv_txn_touched(self.t):
            self._touched = True
            self._wrote = rcv_txn_wrote(self.t)
            rcv_txn_get_report(self.t, &self.kept)
        if self.arena.has_feed:
            self.seen_to = max(self.seen_to, rcv_txn_position(self.t))
        rcv_txn_free(self.t) # stores NULL there
        self.coroutine = None
        if self.ambient is not None:
            (<Ambient>self.ambient).is_over()
            self.ambient = None
        if metered:
            count(self, how is COMMITTED)
        if self.privileged:
            self.wake()

    cdef void wake(self) noexcept:
        """It was the privileged one: whoever gave way goes on."""
        waiting, self.arena.give_way = self.arena.give_way, []
        if waiting:
            _wake(waiting)

    cdef void renew(self) noexcept:
        """Make it what a new one is: it has ended, and nobody has it but the Call that uses it again."""
        if self._touched:
            memset(&self.kept, 0, sizeof(self.kept))
        self._touched = self._wrote = self.conflicted = self.locked_out = self.privileged = self.closed = self.left = self.settled = False
        self.cause = self.open_blocks = self.early = self.parts = 0
        self.seen_to = 0
        self.thread = 0
        self.wait_time = 0
        self.wait_told = False
        self.lock_time = self.feed_time = 0
        self.helds = 0
        self.arena = None
        self.handler = self._ended = self.coroutine = None
        self.before = None # which may run anything, as those below
        if self.hooks is not None or self.limit is not None or self.rerun is not None or self.request_id is not None:
            self.hooks = self.limit = self.rerun = self.request_id = None
        if self.parent is not None or self.around is not None:
            self.parent = self.around = None

    def set_parent(self, Transaction parent not None) -> None:
        """Say that it is an independent one inside `parent`: its commit leaves what the parent has read valid."""
        self.check()
        parent.check()
        rcv_txn_inside(self.t, parent.t)
        self.parent = parent

    def set_route(self, str route not None) -> None:
        """Say by which route and method the request came: its handler has a working set for each."""
        self.check()
        rcv_txn_route(self.t, PyUnicode_AsUTF8(route))

    def rename(self, str handler not None) -> None:
        """Say whose it is, where that has turned out after it had begun. Without effect once it has ended."""
        if self.t != NULL:
            rcv_txn_rename(self.t, PyUnicode_AsUTF8(handler))
            self.handler = handler

    def take_privilege(self) -> bool:
        """Have commits that would make it invalid wait until it ends. False: another one has this privilege, ask again.

        Also True, without the privilege, where its handler is known to write nothing: it would hold others up for no good.
        """
        self.check()
        cdef int how = rcv_privilege_take(self.t)
        self.privileged = how == RCV_PRIVILEGED
        return how != RCV_AWAIT_PRIVILEGE

    cdef bint has_to_wait(self) noexcept:
        return self.t != NULL and rcv_must_wait(self.t)

    def must_wait(self) -> bool:
        """Would its commit make the privileged transaction invalid? Then it has been suspended, and is to wait."""
        return self.has_to_wait()

    def another(self, str rerun not None) -> Transaction:
        """Return a fresh one for the next run of its handler, which it is run again for: "rerun", "retry" or "held"."""
        cdef Transaction t = begin_run(Transaction.__new__(Transaction), self.arena, self.handler, NULL, self.request, self.parent)
        t.attempt = self.attempt + 1
        t.limit = self.limit
        t.begun = self.begun
        t.wait_time, t.wait_told, t.request_id = waited(self), self.wait_told, self.request_id
        t.rerun = rerun
        t.seen_to = self.seen_to
        t.helds = self.helds + (rerun == "held")
        t.reruns = self.reruns and t.helds < HELDS
        if rerun == "held":
            t.lock_time = self.lock_time
        return t

    def remount(self, error=None) -> None:
        """What was in its place has ended, by an error perhaps. Raw writes may follow, where there are raw buffers: they must find
        it mounted, unless it is others who have ended that. Where that fails its next access says so: an interrupt that is on its way
        is not lost for that."""
        if self.t != NULL and rcv_raw_count(self.arena.a) != 0 and running_on(self.arena) is self:
            try:
                self.mount()
            except BaseException:
                if error is None or isinstance(error, Exception):
                    raise

    cdef bint runs_elsewhere(self) noexcept:
        """Is it current in another thread?"""
        return self.thread != 0 and self.thread != rcv_thread() and not (
            self.ambient is not None and (<Ambient>self.ambient).come_back())

    cdef bint comes_here(self) noexcept:
        """Is it not current in another thread, or no more when that has come to the end of an operation or a block?"""
        if not self.runs_elsewhere():
            return True
        if self.ambient is None:
            return False
        try:
            (<Ambient>self.ambient).wait_for_step()
        except BaseException:
            return False
        return not self.runs_elsewhere()

    cdef int make_current(self) except -1:
        """Make it the current transaction of this thread and context."""
        if self.entered:
            raise _errors.TransactionError("the transaction is current already")
        self.check()
        settle()
        rcv_frame_init(&self.frame, &self.t, rcv_context(), <void *>self)
        rcv_current()[0] = &self.frame
        self.entered = True
        self.thread = rcv_thread()
        Py_INCREF(<PyObject *>self)
        if rcv_raw_count(self.arena.a) != 0:
            # Raw writes are possible: they must find the transaction mounted, touched or not.
            try:
                self.mount()
            except BaseException:
                self.step_down()
                raise
        return 0

    def leave(self) -> None:
        """Make current again what was before make_current()."""
        self.step_down()

    cdef void step_down(self) noexcept:
        cdef rcv_frame **link = rcv_current()
        if not self.entered:
            return
        while link[0] != &self.frame:
            link = &link[0].below
            if link[0] == NULL: # another thread's: that one takes it off its stack when it looks there
                rcv_frame_leave(&self.frame)
                return
        link[0] = self.frame.below
        self.off_stack()

    cdef void off_stack(self) noexcept:
        self.entered = False
        self.thread = 0
        Py_DECREF(<PyObject *>self)

    def mount(self) -> None:
        """Put its writes into the arena and take the lock. A no-op when it is mounted."""
        self.check()
        cdef int rc = self.mount_here()
        while rc == RCV_ERR_AGAIN:
            rc = wait_here(self.arena, self)
            if rc == 0:
                try:
                    self.check() # another thread may have ended it meanwhile
                    rc = self.mount_here()
                    if rc:
                        wait_over(self.arena)
                except BaseException:
                    wait_over(self.arena)
                    raise
        if rc:
            self.check()
            fail(rc)

    cdef int mount_here(self) except? -100:
        """Mount it without waiting: what the core says."""
        if self.ambient is not None and self.thread != rcv_thread(): # its step was ended since it became current here
            (<Ambient>self.ambient).enter()
            self.check()
        return rcv_txn_mount(self.t)

    def suspend(self) -> None:
        """End a step: its writes leave the arena, and the lock is dropped. A no-op when it is not mounted."""
        self.check()
        cdef int rc = rcv_txn_suspend(self.t)
        if rc:
            fail(rc)

    cdef int try_commit(self, bint awaits=False) except? -100:
        """Commit; what the core says. On anything but 0, commit_failed() is next; RCV_ERR_AGAIN only where the lock is another's for
        long, and who calls can await that. RCV_ERR_FEED where it is still active: it may await room in the feed, too."""
        if self.arena.has_feed:
            name_request(self)
        if self.ambient is not None:
            rcv_ambient_take(self.t) # from a thread that has left it mounted
        cdef int rc = rcv_txn_commit(self.t)
        while rc == RCV_ERR_AGAIN:
            rc = wait_briefly(self.arena, self) if awaits and _running_loop() is not None else wait_for_lock(self.arena, self)
            if rc == RCV_ERR_AGAIN:
                return rc
            if rc == 0:
                rc = rcv_txn_commit(self.t) if self.t != NULL else RCV_ERR_CLOSED
                if rc:
                    wait_over(self.arena)
        if rc == 0:
            self.end(COMMITTED)
        return rc

    cdef int commit_failed(self, int rc) except -1:
        """Roll back and raise."""
        try:
            self.check()
            fail(rc)
        finally:
            self.conflicted = rc == RCV_ERR_CONFLICT
            self.cause = cause_of_code(rc)
            self.rollback()

    cdef bint lacks_room(self, int rc) noexcept:
        """Has its commit said so because the feed has no room for it yet, and is it to be tried again?"""
        return rc == RCV_ERR_FEED and self.t != NULL and rcv_txn_state(self.t) == RCV_ACTIVE

    def commit(self) -> None:
        """Commit, once there is room in the feed. On any failure it has been rolled back."""
        self.check()
        cdef int rc = self.try_commit()
        cdef rcv_frame nobody
        while self.lacks_room(rc):
            rcv_frame_init(&nobody, NULL, rcv_context(), NULL)
            rcv_current()[0] = &nobody
            try:
                _room_here(self)
            finally:
                leave_frame(&nobody)
            self.check()
            rc = self.try_commit()
        if rc:
            self.commit_failed(rc)

    def commit_at_once(self) -> bool:
        """Commit, unless that has to wait for something: False, and nothing has changed. On any failure it has been rolled back."""
        self.check()
        if self.has_to_wait():
            return False
        cdef int rc = self.try_commit(True)
        if rc == RCV_ERR_AGAIN or self.lacks_room(rc):
            return False
        if rc:
            self.commit_failed(rc)
        return True

    def commit_early(self) -> bool:
        """Commit while its coroutine goes on, from here on outside of it. What fails is for its driver to end.

        False: the feed has no room yet, or another holds the lock for long; nothing has changed.
        """
        self.check()
        cdef int rc = self.try_commit(True)
        if rc == RCV_ERR_AGAIN or self.lacks_room(rc):
            return False
        if rc:
            if self.t == NULL or rcv_txn_state(self.t) != RCV_ACTIVE:
                self.early = rc
            fail(rc)
        self.left = True
        return True

    def rollback(self, error=None) -> None:
        """Undo all its writes, because of an error. Never fails; a no-op when it has ended."""
        self.undo(error)

    cdef int undo(self, object error) except -1:
        if self.t == NULL:
            return 0
        if metered and error is not None:
            self.cause = cause_of(self, error)
        rcv_txn_rollback(self.t)
        self.end("rolled_back")
        return 0

    def has_feed_room(self) -> bool:
        """Return whether the feed has room for what it would commit, as far as can be told before; or it has ended."""
        return self.t == NULL or rcv_feed_room(self.t)

    @property
    def feed_ticket(self) -> int:
        """Its place in the line of those who wait for that; 0: it does not stand there."""
        return 0 if self.t == NULL else rcv_feed_ticket(self.t)

    def wait_alone(self) -> None:
        """It waits for that where nobody could wake it in its turn: it does not stand in line."""
        self.check()
        rcv_feed_alone(self.t)

    def insist_on_feed(self) -> None:
        """It has waited for that long enough: commit if there is room for its very record, or fail by FeedFullError."""
        self.check()
        rcv_feed_insist(self.t)

    def doom(self, *, conflict: bool = False) -> None:
        """It can only roll back from now on; as by a conflict, or as one that was ended."""
        if self.t != NULL:
            rcv_txn_doom(self.t, RCV_ERR_CONFLICT if conflict else RCV_ERR_CLOSED)

    def savepoint(self) -> Mark:
        """Mark where rollback_to() goes back to. No await until it is released."""
        cdef Mark m = Mark.__new__(Mark)
        self.mount()
        cdef int rc = rcv_savepoint(self.t, &m.mark)
        if rc:
            fail(rc)
        self.open_blocks += 1
        return m

    def rollback_to(self, Mark mark not None) -> None:
        """Undo what was done since the mark, and release it. Where it can only roll back, its next access says so, and not this."""
        cdef int rc
        if self.is_active_at_end():
            rc = rcv_rollback_to(self.t, &mark.mark)
            if rc:
                fail(rc)

    def release(self, Mark mark not None) -> None:
        """Keep what was done since the mark. Where it can only roll back, as rollback_to()."""
        cdef int rc
        if self.is_active_at_end():
            rc = rcv_release(self.t, &mark.mark)
            if rc:
                fail(rc)

    cdef bint is_active_at_end(self) noexcept:
        """A block of it ends, an edit or a savepoint: is there anything to keep, or to undo?"""
        if self.t == NULL:
            return False
        self.open_blocks -= 1
        if rcv_txn_state(self.t) == RCV_ACTIVE:
            return True
        rcv_lapse(self.t)
        return False

    def report(self) -> dict:
        """Return what it did or undid: pages, bytes, records, micros; and where it lost, if it did, in numbers.

        `conflict_kind` is 0 where it lost nowhere; recoverable._native.paths has words for the others. `winner` is text or None.
        """
        cdef rcv_txn_report r = self.kept
        if self.t != NULL:
            rcv_txn_get_report(self.t, &r)
        return {
            "pages": r.pages, "bytes": r.bytes, "records": r.records, "micros": r.micros,
            "conflict_kind": r.conflict_kind, "conflict_container": r.conflict_container, "conflict_id": r.conflict_id,
            "conflict_arg": r.conflict_arg, "winner": r.winner.decode("utf-8", "replace") or None,
        }

    @property
    def request(self):
        """The request as it was before all its runs, or None."""
        if isinstance(self.before, Running):
            self.before = (<Running>self.before).before()
        return self.before

    @property
    def age(self) -> float:
        """How many seconds ago its request began."""
        return max(0.0, rcv_coarse() - self.begun)

    @property
    def waited(self) -> float:
        """For how many seconds its request has waited for others so far, in all of its runs; in one look."""
        return waited(self)

    @property
    def ident(self) -> int:
        """The identifier of the thread that its code runs in just now; 0: none, or not known."""
        return rcv_thread_ident(self.thread)

    @property
    def step(self) -> int:
        """Which of its steps that use the arena it is in, or before, from 1."""
        return rcv_txn_step(self.t) if self.t != NULL else 0

    def take_stood_on(self) -> tuple | None:
        """Return the newest commit when it was first mounted since this was last asked, and its position in the feed. None: it was not,
        or there is no feed."""
        cdef uint64_t seq = 0, position = 0
        if self.t == NULL or not rcv_txn_stood_on(self.t, &seq, &position):
            return None
        return seq, position

    @property
    def blocked(self) -> bool:
        """Whether a thread stands still for the lock, in it or in an independent one inside it."""
        return self.standing != 0

    @property
    def driven(self):
        """The handler's coroutine while the run goes on, or None."""
        return self.coroutine

    @property
    def answers(self):
        """(adapter, request) of the request that it answers, as that is now, or None: for a look at it, in whatever thread."""
        before = self.before
        if isinstance(before, Running):
            request = (<Running>before).request
            return None if request is None else ((<Running>before).requests.adapter, request)
        return None if before is None else (before.adapter, before.request)

    @property
    def state(self) -> str:
        if self.t == NULL:
            return self._ended or "rolled_back" # by closing its arena
        return {RCV_ACTIVE: "active", RCV_DOOMED: "doomed", RCV_COMMITTED: "committed"}.get(rcv_txn_state(self.t), "rolled_back")

    cdef bint is_late(self) noexcept:
        return self.t != NULL and rcv_txn_doom_code(self.t) == RCV_ERR_TOO_LONG

    @property
    def late(self) -> bool:
        """Whether the watchdog has stopped it, and it has not ended yet."""
        return self.is_late()

    cdef bint has_seen(self) noexcept:
        """Is there something that whoever is answered may know of, and a power loss could take back?"""
        return self.seen_to != 0 or (self.t != NULL and self.arena.has_feed and rcv_txn_position(self.t) != 0)

    @property
    def position(self) -> int:
        """Of the feed: behind all that it, its earlier runs and independent ones inside them have seen and committed. 0: nothing."""
        return max(self.seen_to, rcv_txn_position(self.t) if self.t != NULL and self.arena.has_feed else 0)

    cdef bint has_touched(self) noexcept:
        return rcv_txn_touched(self.t) if self.t != NULL else self._touched

    @property
    def touched(self) -> bool:
        return self.has_touched()

    cdef bint has_written(self) noexcept:
        return rcv_txn_wrote(self.t) if self.t != NULL else self._wrote

    @property
    def wrote(self) -> bool:
        return self.has_written()


cdef int name_request(Transaction t) except -1:
    """Let its record in the feed have the id that its request was sent with."""
    cdef Transaction root = request_of(t, t.arena)
    if t.t == NULL or not rcv_txn_touched(t.t):
        return 0
    given = root.request_id if root is not None else None
    if given is None and root is not None and root.before is not None:
        answers = root.answers
        given = None if answers is None else answers[0].request_id(answers[1])
        t.check() # another thread may have closed the arena
    if given is not None:
        rcv_txn_name_request(t.t, PyUnicode_AsUTF8(given))
    return 0


cdef int begin_transaction(Transaction t, NativeArena arena, str handler, const rcv_name *name, bint one_step) except -1:
    """Begin it. `name`: the handler's, prepared, or NULL."""
    cdef int rc
    if arena is None or arena.closed:
        closed_error(arena)
    cdef unsigned flags = RCV_TXN_ONE_STEP if one_step else 0
    if name == NULL:
        rc = rcv_txn_new(arena.a, flags, PyUnicode_AsUTF8(handler), &t.t)
        if rc == 0:
            rcv_txn_owned(t.t, &t.t)
    else:
        rc = rcv_txn_new_named(arena.a, flags, name, &t.t)
    if rc:
        fail(rc)
    t.arena = arena
    t.handler = handler
    t.one_step = one_step
    t.attempt = 1
    t.begun = rcv_coarse()
    return 0


cdef Transaction new_transaction(NativeArena arena, str handler, bint one_step):
    """Transaction(arena, handler, one_step), without the tuple of arguments."""
    cdef Transaction t = Transaction.__new__(Transaction)
    begin_transaction(t, arena, handler, NULL, one_step)
    return t
