# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=False
"""The gate between Python objects and the core: arenas, transactions, handles.

Every operation on an arena goes through gate(): it finds out who is asking (the current transaction of this thread and
contextvars context, or nobody), has the core mount that transaction or take the lock, and waits for the lock without the
GIL when another process or thread has it.
"""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from recoverable._native.core cimport *

from copy import deepcopy
from types import GenericAlias

from recoverable import errors as _errors

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8(object text) except NULL
    int Py_EnterRecursiveCall(const char *where) except -1
    void Py_LeaveRecursiveCall()


cdef enum:
    NAME = 40 # RCV_HANDLER_NAME


cdef int fail(int rc) except -1:
    """Raise the exception of a negative core result."""
    text = rcv_error_text().decode("utf-8", "replace")
    raise _errors.error_from(rc, text, rcv_error_errno())


cdef class NativeArena:
    """An open arena's core half: the pointer that ctypes' rcv_open gave, until mark_closed()."""

    def __init__(self, address: int) -> None:
        self.a = <rcv_arena *><size_t>address
        self.closed = False
        self.views = 0
        self.owner = None
        self.give_way = []
        self.tallies = {}

    def __dealloc__(self):
        for i in range(LATE_KEYS):
            if self.late_keys[i].text != NULL:
                Py_DECREF(self.late_keys[i].text)

    @property
    def _as_parameter_(self):
        """What ctypes passes to the core for it. It asks in the very call, so nobody can close the arena in between."""
        if self.closed:
            closed_error(self)
        return <size_t>self.a

    cdef int wait(self) noexcept:
        """Wait for the lock, without the GIL; whoever closes the arena meanwhile is refused."""
        cdef int rc
        rcv_use(self.a)
        with nogil:
            rc = rcv_lock_wait(self.a)
        rcv_unuse(self.a)
        return rc

    def check_open(self) -> None:
        """Raise TransactionClosedError if it is closed."""
        if self.closed:
            closed_error(self)

    def wait_for_lock(self) -> None:
        """Wait for the lock and keep it for this thread's next call that wants it.

        Raises:
            ArenaBusyError: others have had it for `busy_timeout`.
        """
        self.check_open()
        cdef int rc = self.wait()
        if rc:
            fail(rc)

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
        self._root = bind(self, type(of_kind(rc)), h)
        return self._root

    def close(self) -> None:
        """Roll back what is in flight and unmap the segment: from now on every handle raises instead of touching it.

        Raises:
            TransactionError: somebody is using it; it stays open.
        """
        cdef rcv_frame *f = settle()
        if self.closed:
            return
        while f != NULL:
            if f.owner != NULL and (<Transaction>f.owner).arena is self and not f.left and is_alive(<Transaction>f.owner):
                raise _errors.TransactionError(
                    "an arena cannot be closed by a transaction on it; nothing was closed: close it after the handler has ended")
            f = f.below
        cdef int rc = rcv_close(self.a)
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
        return not self.closed and rcv_pending(self.a) != 0

    def pending(self) -> bool:
        """Return whether a step may have found something that Arena._report_found() has an event for."""
        return self.has_pending()

    @property
    def address(self) -> int:
        return <size_t>self.a

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


# -- the gate ------------------------------------------------------------------------------------------------

cdef int closed_error(NativeArena arena) except -1:
    name = getattr(arena.owner, "name", None) if arena is not None else None
    raise _errors.TransactionClosedError(
        f"the arena {name!r} is closed; what was committed is kept: open it again with Arena.open()")


cdef int gate(NativeArena arena, bint write, rcv_txn **t) except -1:
    """Begin one operation: mounts the current transaction (*t), or takes the lock for a read outside any (*t NULL).

    Pair with done().
    """
    if arena is None or arena.closed:
        closed_error(arena)
    cdef void *context = rcv_context()
    cdef int rc = rcv_access(arena.a, context, write, t)
    while rc == RCV_ERR_AGAIN:
        rc = arena.wait()
        if rc == 0:
            rc = rcv_access(arena.a, context, write, t)
            if rc: # it may be for something else, and the lock was kept for us
                rcv_wait_over(arena.a)
    if rc:
        fail(rc)
    return 0


cdef int done(NativeArena arena, rcv_txn *t) except -1:
    cdef int rc = rcv_access_end(arena.a, t)
    return 0 if rc == 0 else fail(rc) # what was read may not have been one state


include "container.pxi"


cdef class whole:
    """Run a block of operations on a stored container as one operation: a failure undoes all of them.

    Native, because from its first line to its last the transaction may not give way, and an exception that a signal handler
    raises must not get in between.
    """
    cdef Container container
    cdef rcv_txn *t
    cdef rcv_mark mark
    cdef uint64_t held

    def __cinit__(self, Container container not None):
        self.container = container

    def __enter__(self):
        begin(self.container, True, &self.t)
        rcv_op_begin(self.t, &self.mark)
        self.held = hold(self.container.arena)

    def __exit__(self, kind, error, trace):
        if kind is not None:
            rcv_op_fail(self.t, &self.mark)
        unhold(self.container.arena, self.held)


cdef extern from *:
    """
    #ifndef RCV_FAULT_HOOKS
    #define RCV_FAULT_HOOKS 1 /* how often a hook asks: see src/base/base.h */
    #endif
    #if RCV_FAULT_HOOKS == 1
    #define fault_hooked(run) ((run) != Py_None)
    #else
    static int fault_hooked(PyObject *run)
    {
        int on = 0;
        for (unsigned n = RCV_FAULT_HOOKS; n-- > 0;)
            on |= *(PyObject *volatile *)&run != Py_None;
        return on;
    }
    #endif
    """
    bint fault_hooked(object run) noexcept


cdef object _fault_run, _fault_write


def set_fault_hooks(run, write) -> None:
    """For recoverable.faults: run(coroutine, transaction) gives what a StepDriver drives in place of a handler's coroutine;
    write(container) is called before writes to an arena that watch_writes() is on for. None, None: neither."""
    global _fault_run, _fault_write
    _fault_run, _fault_write = run, write


cdef int begin_slow(Container c, bint write, rcv_txn **t) except -1:
    """begin(), where it takes more than a glance: the arena is closed, its lock is another's, its writes are watched."""
    if write and _fault_write is not None and c.arena is not None and c.arena.attention & 2:
        _fault_write(c)
    cdef NativeArena arena = c.arena
    gate(arena, write, t)
    if c.arena is not arena: # the wait for the lock was without the GIL
        done(arena, t[0])
        raise _errors.TransactionError(
            "the container was not stored after all: what was storing it has failed in another thread. Nothing was changed here. "
            "Store it again, then use it.")
    cdef int rc = rcv_handle_check(arena.a, t[0], &c.h)
    if rc:
        done(arena, t[0])
        fail(rc)
    return 0


# -- transactions -----------------------------------------------------------------------------------------------

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
        rcv_txn_free(self.t) # stores NULL there
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
        self._touched = self._wrote = self.conflicted = self.privileged = self.closed = self.left = self.settled = False
        self.cause = self.open_blocks = self.early = self.parts = 0
        self.thread = 0
        self.arena = None
        self.handler = self._ended = None
        self.before = None # which may run anything, as those below
        if self.hooks is not None or self.limit is not None or self.rerun is not None:
            self.hooks = self.limit = self.rerun = None
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
        """Return a fresh one for the next run of its handler, which it is run again for: "rerun" or "retry"."""
        cdef Transaction t = begin_run(Transaction.__new__(Transaction), self.arena, self.handler, NULL, self.request, self.parent)
        t.attempt = self.attempt + 1
        t.limit = self.limit
        t.rerun = rerun
        return t

    def remount(self) -> None:
        """Raw writes may follow, where there are raw buffers: they must find it mounted."""
        if self.t != NULL and rcv_raw_count(self.arena.a) != 0:
            self.mount()

    cdef bint runs_elsewhere(self) noexcept:
        """Is it current in another thread?"""
        return self.thread != 0 and self.thread != rcv_thread()

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
        cdef int rc = rcv_txn_mount(self.t)
        while rc == RCV_ERR_AGAIN:
            rc = self.arena.wait()
            if rc == 0:
                rc = rcv_txn_mount(self.t) if self.t != NULL else RCV_ERR_CLOSED # another thread has ended it meanwhile
                if rc:
                    rcv_wait_over(self.arena.a)
        if rc:
            self.check()
            fail(rc)

    def suspend(self) -> None:
        """End a step: its writes leave the arena, and the lock is dropped. A no-op when it is not mounted."""
        self.check()
        cdef int rc = rcv_txn_suspend(self.t)
        if rc:
            fail(rc)

    cdef int try_commit(self) except? -100:
        """Commit; what the core says. On anything but 0, commit_failed() is next."""
        cdef int rc = rcv_txn_commit(self.t)
        while rc == RCV_ERR_AGAIN:
            rc = self.arena.wait()
            if rc == 0:
                rc = rcv_txn_commit(self.t) if self.t != NULL else RCV_ERR_CLOSED
                if rc:
                    rcv_wait_over(self.arena.a)
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

    def commit(self) -> None:
        """Commit. On any failure it has been rolled back."""
        self.check()
        cdef int rc = self.try_commit()
        if rc:
            self.commit_failed(rc)

    def commit_early(self) -> None:
        """Commit while its coroutine goes on, from here on outside of it. What fails is for its driver to end."""
        self.check()
        cdef int rc = self.try_commit()
        if rc:
            if self.t == NULL or rcv_txn_state(self.t) != RCV_ACTIVE:
                self.early = rc
            fail(rc)
        self.left = True

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
        """Undo what was done since the mark, and release it."""
        if self.t == NULL:
            return
        self.open_blocks -= 1
        cdef int rc = rcv_rollback_to(self.t, &mark.mark)
        if rc:
            fail(rc)

    def release(self, Mark mark not None) -> None:
        """Keep what was done since the mark."""
        if self.t == NULL:
            return
        self.open_blocks -= 1
        cdef int rc = rcv_release(self.t, &mark.mark)
        if rc:
            fail(rc)

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
    def state(self) -> str:
        if self.t == NULL:
            return self._ended or "rolled_back" # by closing its arena
        return {RCV_ACTIVE: "active", RCV_DOOMED: "doomed", RCV_COMMITTED: "committed"}.get(rcv_txn_state(self.t), "rolled_back")

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
    return 0


cdef Transaction new_transaction(NativeArena arena, str handler, bint one_step):
    """Transaction(arena, handler, one_step), without the tuple of arguments."""
    cdef Transaction t = Transaction.__new__(Transaction)
    begin_transaction(t, arena, handler, NULL, one_step)
    return t


cdef class OpenArenas:
    """Which arena a handler means that names none, for recoverable._registry: `only`, or None where its request has to be asked."""
    cdef public NativeArena only


cdef OpenArenas open_arenas = OpenArenas()
open_arenas_state = open_arenas


# -- who is running ------------------------------------------------------------------------------------------------

cdef bint is_alive(Transaction t) noexcept:
    """False: its coroutine goes on without it, or it goes on in the process that this one was forked from."""
    return not t.left and (t.t == NULL or not rcv_txn_forked(t.t))


cdef void take_off(rcv_frame *f) noexcept:
    """Take whatever lies above a frame off this thread's stack: blocks that were left elsewhere, or not at all."""
    cdef rcv_frame **top = rcv_current()
    cdef rcv_frame *gone
    while top[0] != f:
        gone = top[0]
        top[0] = gone.below
        if gone.owner != NULL and gone == &(<Transaction>gone.owner).frame:
            (<Transaction>gone.owner).off_stack()


cdef rcv_frame *settle() noexcept:
    """The top of this thread's stack, once what was left in other threads is off it."""
    cdef rcv_frame *f = rcv_current()[0]
    while f.left:
        f = f.below
    take_off(f)
    return f


cdef Transaction running():
    """The Transaction that runs in this thread and context, or None."""
    cdef rcv_frame *f = settle()
    if f.owner == NULL or f.context != rcv_context() or not is_alive(<Transaction>f.owner):
        return None
    return <Transaction>f.owner


def current_transaction(arena: NativeArena | None = None):
    """Return the Transaction that runs in this thread and context (on that arena), or None."""
    t = running()
    return t if arena is None or t is None or t.arena is arena else None


include "upcalls.pxi"
include "tally.pxi"
include "block.pxi"
include "request.pxi"
include "timelimit.pxi"
include "driver.pxi"
include "park.pxi"
include "call.pxi"
include "route.pxi"
