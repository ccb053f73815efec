# cython: language_level=3, boundscheck=False, wraparound=False
"""Counter's native half."""
from operator import index

from libc.stdint cimport int64_t, uint64_t
from recoverable._native.core cimport *
from recoverable._native.runtime cimport Container, NativeArena, begin, done, fail

cdef extern from "containers/counter.h" nogil:
    int rcv_counter_new(rcv_txn *t, int64_t value, rcv_off *out)
    int rcv_counter_add(rcv_txn *t, rcv_off c, int64_t n)
    int rcv_counter_get(rcv_arena *a, rcv_txn *t, rcv_off c, int64_t *out)

cdef extern from "../src/segment/layout.h" nogil:
    enum:
        RCV_K_COUNTER


cdef class CounterHandle(Container):
    """What `recoverable.Counter` builds on."""
    _kind = RCV_K_COUNTER
    cdef int64_t waiting

    def __init__(self, value=0):
        self.waiting = index(value)

    cdef int materialize(self, NativeArena arena, rcv_txn *t, list made, rcv_off *out) except -1:
        if self.arena is not None:
            return Container.materialize(self, arena, t, made, out)
        cdef int rc = rcv_counter_new(t, self.waiting, out)
        if rc:
            fail(rc)
        rc = rcv_handle_open(arena.a, out[0], &self.h)
        if rc < 0:
            fail(rc)
        self.arena = arena
        made.append(self)
        return 0

    def add(self, n=1):
        """Add an integer, which may be negative. Additions of different requests never conflict.

        Raises:
            OverflowError: n, or the sum, leaves the range of 64 bits; nothing was added.
        """
        cdef rcv_txn *t
        cdef int64_t amount = index(n)
        if self.arena is None:
            self.waiting = <object>self.waiting + <object>amount # as Python integers: an overflow raises
            return
        begin(self, True, &t)
        rc = rcv_counter_add(t, self.h.off, amount)
        if rc == RCV_ERR_MISUSE:
            raise OverflowError("the Counter would leave the range of 64 bits; nothing was added")
        if rc:
            fail(rc)

    @property
    def value(self):
        """The number, this request's own additions included. Reading it conflicts with other requests' additions."""
        cdef rcv_txn *t
        cdef int64_t now
        if self.arena is None:
            return self.waiting
        begin(self, False, &t)
        try:
            rc = rcv_counter_get(self.arena.a, t, self.h.off, &now)
            if rc:
                fail(rc)
            return now
        finally:
            done(self.arena, t)

    cpdef object to_python(self):
        """Return the number."""
        return self.value

    cdef object unit_text(self, unsigned unit, uint64_t arg):
        return "its value"

    def _same(self, other):
        """Are both handles of one container?"""
        return self is other or (isinstance(other, CounterHandle) and self.arena is not None
                                 and (<CounterHandle>other).arena is self.arena
                                 and (<CounterHandle>other).h.id == self.h.id)

    __hash__ = None
