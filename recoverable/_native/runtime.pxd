# runtime.pxd -- what the other Cython modules share of runtime.pyx.
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t
from recoverable._native.core cimport rcv_arena, rcv_begin, rcv_frame, rcv_handle, rcv_hold, rcv_key, rcv_mark, rcv_off, rcv_txn, \
    rcv_txn_report, rcv_unhold

cdef extern from *:
    """
    #include <Python.h>
    /* The identity of the running task: each asyncio task runs in a contextvars.Context of its own. Read from the thread
     * state (public in cpython/pystate.h), because PyContext_CopyCurrent() would copy it. */
    static inline void *rcv_context(void)
    {
        PyThreadState *state = PyThreadState_Get();
        if (state->context == NULL) { /* no task here yet: make the thread's own, so that it stays the same */
            PyObject *copy = PyContext_CopyCurrent();
            Py_XDECREF(copy);
        }
        return (void *)state->context;
    }
    """
    void *rcv_context()

cdef enum:
    LATE_KEYS = 256

cdef struct late_key: # a str that was a key lately, and how the core sees it
    PyObject *text
    rcv_key key

cdef class NativeArena:
    cdef rcv_arena *a
    cdef late_key late_keys[LATE_KEYS] # by the address of the str
    cdef readonly bint closed
    cdef int attention # not 0: it is closed, or its writes are watched; what begin() asks instead of `closed`
    cdef public object owner # the Arena that was opened first of those that share it
    cdef public bint past # a state of the past, which is only read, and goes with the last that uses it
    cdef readonly Py_ssize_t views
    cdef int materializing # containers in each other that are being stored: describe()
    cdef object __weakref__
    cdef Container _root
    cdef dict tallies # what meter() has counted: Tally by handler, the rest under None
    cdef readonly dict lines # recoverable.contention: who waits for its turn, by spot and event loop,
    cdef readonly dict fronts # recoverable.turns: those of this process that stand at a spot, by unit
    cdef readonly dict habits # what becomes of first runs
    cdef readonly dict watches # and which handlers lose often,
    cdef readonly set watched # the names of those that are watched because of it
    cdef public list give_way # futures of those who wait for the privileged run to end
    cdef readonly dict waits # recoverable.waits: what requests wait for, by event loop,
    cdef readonly bint has_feed
    cdef public object bell # recoverable.bell: who waits for its feed, or None
    cdef public object journal # recoverable.journal.gate: who waits for its journal, or None
    cdef public object capsules # recoverable.capsules: what keeps requests that crashed, or None
    cdef public bint gated # requests whose options do not say otherwise wait for it
    cdef public object listener # recoverable.inflight: what tells others of its requests, or None
    cdef public double let_in # when one who had looked at the lock in vain was last let go on, to wait where the lock is needed
    cdef readonly dict places # and where hot spots are, in words, by unit
    cdef readonly dict standing # since when threads stand for the lock outside of any transaction, by their identifiers
    cdef list untold # (Transaction or the name of a function, seconds, holder) of those that have stood for long, untold; or None
    cdef bint has_pending(self) noexcept

cdef class Container:
    cdef NativeArena arena
    cdef rcv_handle h
    cdef int materialize(self, NativeArena arena, rcv_txn *t, list made, rcv_off *out) except -1
    cdef void discard(self) noexcept
    cdef void rooted(self) noexcept
    cpdef object to_python(self)
    cdef object class_at(self, NativeArena arena, const rcv_handle *h)
    cdef object slot_text(self, rcv_off slot)
    cdef object slot_key(self, rcv_off slot, rcv_off child)
    cdef object unit_text(self, unsigned unit, uint64_t arg)

cdef class Mark:
    cdef rcv_mark mark

cdef class Transaction:
    cdef rcv_txn *t
    cdef readonly NativeArena arena
    cdef readonly str handler
    cdef readonly bint one_step
    cdef readonly bint plain # of a plain function: one step, whose reads are recorded
    cdef public object hooks
    cdef public int attempt
    cdef public str rerun # why it was run again, if it was: "rerun" after a conflict, or "retry"
    cdef public object limit # the TimeLimit of all its runs together, if there is one
    cdef double wait_time # seconds that its request has waited for others in all runs, but for the wait that goes on
    cdef double wait_since # when that one began; 0: it does not wait
    cdef int waits # how many of its parts wait
    cdef public bint wait_told # that this is long was told
    cdef public str request_id # in the events of its request, once there were any
    cdef readonly double begun # when its request began, by rcv_coarse()
    cdef object coroutine # the handler's, until it has ended
    cdef int halted # threads that stand still for the lock in the middle of an operation of this very one
    cdef int standing # threads that do so in its request: this one, and independent ones inside it
    cdef int cause # of its rollback
    cdef public int open_blocks
    cdef readonly bint conflicted
    cdef readonly bint locked_out # it was ended because others hold the lock for long: neither a conflict nor a crash
    cdef public double feed_time # seconds that this run has waited for room in the feed
    cdef public double lock_time # seconds that its steps have waited for the lock, one after the other
    cdef int helds # runs of its request that were ended because of the lock
    cdef bint reruns # after a conflict its handler is run again, and so it may be after this
    cdef readonly bint privileged
    cdef readonly bint closed # its coroutine was, before the end: nobody waits for what might follow
    cdef readonly Transaction parent
    cdef readonly Transaction around # the one that was current when its driver took a step: of another arena, or its parent
    cdef object before # what the request was like before all its runs, the Running that says so when asked, or None
    cdef readonly bint left # it was committed early: the coroutine has gone on without it
    cdef public bint settled # runner has decided what follows its end
    cdef int early # what the commit failed with that was to be early
    cdef int parts # steps of parts of it that are running
    cdef int driven_steps # steps that drivers of it have begun, and that these say the end of
    cdef str _ended
    cdef bint _touched, _wrote
    cdef rcv_txn_report kept
    cdef uint64_t seen_to # of the feed: behind all that it, its earlier runs and what was independent inside them have seen and committed
    cdef bint has_seen(self) noexcept
    cdef rcv_frame frame # on its thread's stack while `entered`; that stack holds a reference then
    cdef bint entered
    cdef uint64_t thread # that it is current in, or 0
    cdef readonly object ambient # what it is found by, an Ambient, or None
    cdef object __weakref__
    cdef int check(self) except -1
    cdef bint runs_elsewhere(self) noexcept
    cdef bint comes_here(self) noexcept
    cdef int make_current(self) except -1
    cdef void step_down(self) noexcept
    cdef void off_stack(self) noexcept
    cdef bint is_late(self) noexcept
    cdef bint has_touched(self) noexcept
    cdef bint has_written(self) noexcept
    cdef void end(self, str how) noexcept
    cdef int undo(self, object error) except -1
    cdef int try_commit(self, bint awaits=*) except? -100
    cdef int commit_failed(self, int rc) except -1
    cdef bint lacks_room(self, int rc) noexcept
    cdef bint has_to_wait(self) noexcept
    cdef bint is_active_at_end(self) noexcept
    cdef int mount_here(self) except? -100
    cdef void wake(self) noexcept
    cdef void renew(self) noexcept

cdef class Requests:
    cdef Requests next
    cdef object snapshot
    cdef public object adapter # a recoverable.web.WebAdapter
    cdef bint is_one(self, object o) noexcept
    cdef object among(self, tuple args)
    cdef object search(self, tuple args, dict kwargs)
    cdef object kept_of(self, object request, bint placeholders)
    cdef object unseen(self, object request, object kept)
    cdef object before(self, object request)

cdef class RequestBefore:
    cdef readonly object request, adapter, kept
    cdef readonly tuple args
    cdef readonly dict kwargs

cdef class Running:
    cdef public object request
    cdef readonly object arena
    cdef readonly bint whole
    cdef Requests requests
    cdef int begin(self) except -1
    cdef bint says_later(self) except -1
    cdef object before(self)
    cdef object end(self, object error)

cdef int fail(int rc) except -1
cdef int closed_error(NativeArena arena) except -1
cdef int gate(NativeArena arena, bint write, rcv_txn **t) except -1
cdef int begin_slow(Container c, bint write, rcv_txn **t) except -1
cdef int done(NativeArena arena, rcv_txn *t) except -1
cdef int tell_late(NativeArena arena) except -1
cdef bint may_look(NativeArena arena, bint stands=*) noexcept
cdef PyObject *owner_of(rcv_txn **place) noexcept
cdef void *context_of_step(Transaction t) noexcept
cdef inline uint64_t hold(NativeArena arena) noexcept:
    """User code may run from here to unhold(), in the middle of an operation."""
    return rcv_hold(arena.a)

cdef inline int unhold(NativeArena arena, uint64_t held) except -1:
    """The operation goes on; raises where it can't. In a `finally`, before done()."""
    cdef int rc = rcv_unhold(arena.a, held)
    return 0 if rc == 0 else fail(rc)
cdef Container bind(NativeArena arena, object cls, rcv_handle h)
cdef Container of_kind(int kind)
cdef Container handle_at(NativeArena arena, rcv_off off)
cdef Container unstored(object value)


cdef inline int begin(Container c, bint write, rcv_txn **t) except -1:
    """gate(), and the handle's container is still there. Needs no done() where *t is not NULL."""
    if c.arena is not None and c.arena.attention == 0 and rcv_begin(c.arena.a, rcv_context(), write, &c.h, t) == 0:
        return 0
    return begin_slow(c, write, t)
