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
    Py_ssize_t Py_REFCNT(PyObject *o)
    int Py_EnterRecursiveCall(const char *where) except -1
    void Py_LeaveRecursiveCall()


cdef enum:
    NAME = 40 # RCV_HANDLER_NAME


cdef int fail(int rc) except -1:
    """Raise the exception of a negative core result."""
    text = rcv_error_text().decode("utf-8", "replace")
    raise _errors.error_from(rc, text, rcv_error_errno())


cdef enum:
    HELDS = 5 # runs of a request that end because others hold the lock; the next one waits on the spot, lest it never ends

cdef double UNLUCKY = 0.02 # seconds of looking at the lock alone, after which one stands in its queue for longer
unlucky = UNLUCKY

cdef double LATE = 0.1 # seconds that a request waits for others before that is told
late = LATE


cdef tuple holder_of(const rcv_holder *holder):
    text = holder.handler.decode("utf-8", "replace") # of the segment: may be anything
    return holder.pid, "".join([letter if letter.isprintable() else "?" for letter in text])


cdef class NativeArena:
    """An open arena's core half: the pointer that ctypes' rcv_open gave, until mark_closed()."""

    def __init__(self, address: int) -> None:
        self.a = <rcv_arena *><size_t>address
        self.closed = False
        self.views = 0
        self.owner = None
        self.give_way = []
        self.tallies = {}
        self.lines = {}
        self.habits = {}
        self.watches = {}
        self.watched = set()
        self.waits = {}
        self.places = {}

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
        cdef Transaction t = request_of(running(), self)
        cdef rcv_holder holder
        cdef double begun = rcv_monotonic(), seconds
        rcv_lock_holder(self.a, &holder)
        if t is not None:
            t.blocked = begun
        rcv_use(self.a)
        with nogil:
            rc = rcv_lock_wait(self.a)
        rcv_unuse(self.a)
        if t is not None:
            t.blocked = 0
            self.waited(t, rcv_monotonic() - begun, &holder)
        return rc

    cdef void waited(self, Transaction t, double seconds, rcv_holder *holder):
        """A request has waited for the lock in the middle of an operation: what there is to tell is told when its step is over."""
        t.wait_time += seconds
        if t.wait_told or t.wait_time < LATE:
            return
        t.wait_told = True
        if self.untold is None:
            self.untold = []
        self.untold.append((t, t.wait_time, holder_of(holder)))

    def take_untold(self) -> list:
        """Return, once, (transaction, seconds, holder) of those whose threads have stood still for the lock for long, and which
        nobody was told of."""
        found, self.untold = self.untold, None
        return found or []

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
        if not self.closed and not rcv_notes_listen(self.a, on) and on:
            gate(self, False, &reader) # a forked child is in the process table from its first use of the arena on
            done(self, reader)
            rcv_notes_listen(self.a, on)

    def await_question(self, goes_on) -> bool:
        """Sleep, without the GIL, until somebody asks for this process's requests, or goes_on() has become false: False."""
        cdef uint32_t seen
        if self.closed:
            return False
        seen = rcv_notes_seen(self.a)
        if not goes_on():
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

    cdef int wait_here(self) except? -100:
        """wait(), but where an event loop runs, and what runs here can begin again, only briefly: its transaction is doomed then,
        and its next access says so."""
        cdef int rc
        if _running_loop() is None:
            return self.wait()
        rc = self.wait_briefly()
        if rc != RCV_ERR_AGAIN:
            return rc
        t = rerunnable(self)
        if t is None:
            return self.wait()
        if t.t != NULL: # _may_rerun() may do anything
            rcv_txn_doom(t.t, RCV_ERR_HELD)
        return 0

    cdef int wait_briefly(self) noexcept:
        cdef int rc
        cdef Transaction t = running()
        cdef bint patient = t is not None and t.arena is self and t.lock_time > UNLUCKY
        t = request_of(t, self)
        cdef rcv_holder holder
        cdef double begun = rcv_monotonic()
        rcv_lock_holder(self.a, &holder)
        rcv_use(self.a)
        with nogil:
            rc = rcv_lock_wait_briefly(self.a, patient)
        rcv_unuse(self.a)
        if t is not None:
            self.waited(t, rcv_monotonic() - begun, &holder)
        return rc

    cdef bint may_look(self) noexcept:
        """Can what is only good to know be read now? Not in an event loop that would stand still for it: the lock may be stuck."""
        return _running_loop() is None or rcv_lock_is_free(self.a) or self.wait_briefly() == 0

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
        cdef int rc = self.wait_briefly()
        if rc == RCV_ERR_AGAIN:
            return False
        if rc:
            fail(rc)
        rcv_wait_over(self.a)
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
        rc = arena.wait_here()
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


include "transaction.pxi"
include "inflight.pxi"


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


cdef Transaction request_of(Transaction t, NativeArena arena):
    """The one around it that is its whole request, or None: it is of another arena."""
    if t is None or t.arena is not arena:
        return None
    while t.parent is not None:
        t = t.parent
    return t


cdef Transaction rerunnable(NativeArena arena):
    """The Transaction of that arena that runs in this thread and context, if its run may be ended here and begin again; or None."""
    cdef rcv_frame *f = settle()
    cdef void *context = rcv_context()
    cdef Transaction t
    while f.owner != NULL and f.context == context:
        t = <Transaction>f.owner
        if t.arena is arena:
            return t if t.reruns and t.t != NULL and is_alive(t) and rcv_txn_state(t.t) == RCV_ACTIVE and _may_rerun(t) else None
        f = f.below
    return None


def current_transaction(arena: NativeArena | None = None):
    """Return the Transaction that runs in this thread and context (on that arena), or None."""
    t = running()
    return t if arena is None or t is None or t.arena is arena else None


include "upcalls.pxi"
include "tally.pxi"
include "block.pxi"
include "turn.pxi"
include "request.pxi"
include "timelimit.pxi"
include "driver.pxi"
include "outcome.pxi"
include "park.pxi"
include "handler.pxi"
include "call.pxi"
include "route.pxi"
