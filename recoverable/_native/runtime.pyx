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
from recoverable._keys import spelled_key

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8(object text) except NULL
    Py_ssize_t Py_REFCNT(PyObject *o)
    unsigned long PyThread_get_thread_ident()
    int Py_EnterRecursiveCall(const char *where) except -1
    void Py_LeaveRecursiveCall()


cdef int fail(int rc) except -1:
    """Raise the exception of a negative core result."""
    text = rcv_error_text().decode("utf-8", "replace")
    raise _errors.error_from(rc, text, rcv_error_errno())


include "arena.pxi"
include "waiting.pxi"


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
    if rc == RCV_ERR_ASK:
        rc = ask(arena, context, write, t)
    while rc == RCV_ERR_AGAIN:
        rc = wait_here(arena, here_on(arena))
        if arena.closed:
            closed_error(arena)
        if rc == 0:
            rc = rcv_access(arena.a, context, write, t)
            if rc == RCV_ERR_ASK:
                rc = ask(arena, context, write, t)
            if rc: # it may be for something else, and the lock was kept for us
                rcv_wait_over(arena.a)
    if rc:
        try:
            fail(rc)
        finally:
            if t[0] == NULL:
                tell_late(arena) # it may have waited in vain
    return 0


cdef int ask(NativeArena arena, void *context, bint write, rcv_txn **t) except? -100:
    """rcv_access(), where the context may have an ambient transaction."""
    cdef int rc = RCV_ERR_ASK
    try:
        entered = enter_ambient(arena)
    except BaseException:
        wait_over(arena)
        raise
    if arena.closed: # entering may have waited
        closed_error(arena)
    if entered is not None:
        rc = rcv_access(arena.a, context, write, t)
    return rcv_access_outside(arena.a, write, t) if rc == RCV_ERR_ASK else rc


cdef int done(NativeArena arena, rcv_txn *t) except -1:
    if t != NULL:
        return 0 # which is in the arena until its step ends
    cdef int rc = rcv_access_end(arena.a, t)
    if rc == 0 and arena.untold is None:
        return 0
    try:
        return 0 if rc == 0 else fail(rc) # what was read may not have been one state
    finally:
        tell_late(arena)


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


cdef object _fault_run, _fault_write, _around_calls


def set_fault_hooks(run, write) -> None:
    """For recoverable.faults: run(coroutine, transaction) gives what a StepDriver drives in place of a handler's coroutine;
    write(container) is called before writes to an arena that watch_writes() is on for. None, None: neither."""
    global _fault_run, _fault_write
    _fault_run, _fault_write = run, write


def set_around_calls(around) -> None:
    """For recoverable.capsules: around(handler, args, kwargs) gives what is awaited in the place of a call that is about to begin a
    transaction, or None: the call itself. None: nobody is asked."""
    global _around_calls
    _around_calls = around


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
        try:
            fail(rc)
        finally:
            done(arena, t[0])
    return 0


include "transaction.pxi"
include "inflight.pxi"


cdef class OpenArenas:
    """Which arena a handler means that names none, for recoverable._registry: `only`, or None where its request has to be asked."""
    cdef public NativeArena only


cdef OpenArenas open_arenas = OpenArenas()
open_arenas_state = open_arenas


include "running.pxi"
include "ambient.pxi"
include "upcalls.pxi"
include "tally.pxi"
include "block.pxi"
include "async_block.pxi"
include "turn.pxi"
include "request.pxi"
include "timelimit.pxi"
include "driver.pxi"
include "outcome.pxi"
include "park.pxi"
include "handler.pxi"
include "call.pxi"
include "plain.pxi"
include "route.pxi"
