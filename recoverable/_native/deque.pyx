# cython: language_level=3, boundscheck=False, wraparound=False
"""Deque's native half: a handle on a Deque in the arena, or, before it is stored, a collections.deque that waits for it."""
from collections import deque
from operator import index
from sys import maxsize as MOST

from libc.stdint cimport uint64_t
from recoverable._native.codec cimport decode, describe, encode, put
from recoverable._native.core cimport *
from recoverable._native.runtime cimport Container, NativeArena, begin, done, fail, hold, unhold

cdef extern from "containers/deque.h" nogil:
    enum:
        RCV_LEFT
        RCV_RIGHT
    int rcv_deque_new(rcv_txn *t, uint64_t maxlen, rcv_off *out)
    int rcv_deque_len(rcv_arena *a, rcv_txn *t, rcv_off d, uint64_t *out)
    int rcv_deque_maxlen(rcv_arena *a, rcv_off d, uint64_t *out)
    int rcv_deque_push(rcv_txn *t, rcv_off d, int side, const rcv_value *value)
    int rcv_deque_peek(rcv_arena *a, rcv_txn *t, rcv_off d, int side, rcv_value *out)
    int rcv_deque_pop(rcv_txn *t, rcv_off d, int side)
    int rcv_deque_clear(rcv_txn *t, rcv_off d)
    int rcv_deque_reverse(rcv_txn *t, rcv_off d)
    int rcv_deque_rotate(rcv_txn *t, rcv_off d, int side, uint64_t n)
    int rcv_deque_get(rcv_arena *a, rcv_txn *t, rcv_off d, uint64_t i, rcv_value *out)
    int rcv_deque_set(rcv_txn *t, rcv_off d, uint64_t i, const rcv_value *value)
    int rcv_deque_find(rcv_arena *a, rcv_off d, rcv_off child, uint64_t *out)
    int rcv_deque_ends(rcv_arena *a, rcv_txn *t, rcv_off d, uint64_t *left, uint64_t *right)

cdef extern from "../src/segment/layout.h" nogil:
    enum:
        RCV_K_DEQUE

cdef extern from "Python.h":
    int Py_EnterRecursiveCall(const char *where) except -1
    void Py_LeaveRecursiveCall()

cdef uint64_t UNBOUNDED = 0xffffffffffffffff


cdef int put_end(rcv_txn *t, rcv_off d, uint64_t side, const rcv_value *value) noexcept:
    cdef int rc = rcv_deque_push(t, d, <int>side, value)
    return rc if rc else 1


cdef int put_at(rcv_txn *t, rcv_off d, uint64_t i, const rcv_value *value) noexcept:
    return rcv_deque_set(t, d, i, value)


cdef class DequeHandle(Container):
    """What `recoverable.Deque` builds the deque's methods on."""
    _kind = RCV_K_DEQUE
    cdef public object _pending # None once it is stored

    def __init__(self, items=(), maxlen=None):
        self._pending = deque(items, maxlen)

    @property
    def _stored(self):
        return self.arena is not None

    cdef int materialize(self, NativeArena arena, rcv_txn *t, list made, rcv_off *out) except -1:
        cdef rcv_value v
        cdef uint64_t bound = UNBOUNDED
        if self.arena is not None:
            return Container.materialize(self, arena, t, made, out)
        if self._pending is not None and self._pending.maxlen is not None:
            bound = self._pending.maxlen
        cdef int rc = rcv_deque_new(t, bound, out)
        if rc:
            fail(rc)
        rc = rcv_handle_open(arena.a, out[0], &self.h)
        if rc < 0:
            fail(rc)
        self.arena = arena
        made.append(self)
        Py_EnterRecursiveCall(" while storing a nested value in an arena")
        try:
            for value in list(self._pending or ()):
                kept = describe(arena, t, value, &v, made)
                rc = rcv_deque_push(t, out[0], RCV_RIGHT, &v)
                if rc:
                    fail(rc)
        finally:
            Py_LeaveRecursiveCall()
        return 0

    cdef void rooted(self) noexcept:
        self._pending = None

    def __len__(self):
        cdef rcv_txn *t
        cdef uint64_t n
        if self.arena is None:
            return len(self._pending)
        begin(self, False, &t)
        try:
            rc = rcv_deque_len(self.arena.a, t, self.h.off, &n)
            if rc:
                fail(rc)
            return n
        finally:
            done(self.arena, t)

    @property
    def maxlen(self):
        """The bound of its length, or None."""
        cdef rcv_txn *t
        cdef uint64_t n
        if self.arena is None:
            return self._pending.maxlen
        begin(self, False, &t)
        try:
            rc = rcv_deque_maxlen(self.arena.a, self.h.off, &n)
            if rc:
                fail(rc)
            return None if n == UNBOUNDED else n
        finally:
            done(self.arena, t)

    cdef int push(self, int side, object value) except -1:
        cdef rcv_txn *t
        cdef rcv_value v
        kept = encode(value, &v)
        begin(self, True, &t)
        cdef uint64_t bound
        cdef int rc = rcv_deque_maxlen(self.arena.a, self.h.off, &bound)
        if rc == 0 and bound != 0:
            rc = rcv_deque_push(t, self.h.off, side, &v) if v.tag != 0 else put(self, t, value, put_end, <uint64_t>side)
        if rc < 0:
            fail(rc)
        return 0

    def append(self, value):
        """Add an item at the right end."""
        if self.arena is None:
            self._pending.append(value)
        else:
            self.push(RCV_RIGHT, value)

    def appendleft(self, value):
        """Add an item at the left end."""
        if self.arena is None:
            self._pending.appendleft(value)
        else:
            self.push(RCV_LEFT, value)

    cdef object take(self, int side):
        """Remove the item at an end and return it (a container as a plain copy)."""
        cdef rcv_txn *t
        cdef rcv_value v
        cdef uint64_t held, ends[2], now[2]
        begin(self, True, &t)
        held = hold(self.arena)
        try:
            rc = rcv_deque_peek(self.arena.a, t, self.h.off, side, &v)
            if rc < 0:
                fail(rc)
            if rc == 0:
                raise IndexError("pop from an empty deque")
            if v.tag > RCV_T_BYTES: # a codec, or what to_python() calls, may run code that changes the Deque
                rcv_deque_ends(self.arena.a, NULL, self.h.off, &ends[0], &ends[1])
                value = decode(self.arena, &v)
                if isinstance(value, Container):
                    value = (<Container>value).to_python()
                rcv_deque_ends(self.arena.a, NULL, self.h.off, &now[0], &now[1])
                if ends[0] != now[0] or ends[1] != now[1]:
                    raise RuntimeError("deque mutated while an item was taken out; the item is still there")
            else:
                value = decode(self.arena, &v)
            rc = rcv_deque_pop(t, self.h.off, side)
            if rc < 0:
                fail(rc)
            return value
        finally:
            unhold(self.arena, held)

    def pop(self):
        """Remove the rightmost item and return it (a container as a plain copy)."""
        return self._pending.pop() if self.arena is None else self.take(RCV_RIGHT)

    def popleft(self):
        """Remove the leftmost item and return it (a container as a plain copy)."""
        return self._pending.popleft() if self.arena is None else self.take(RCV_LEFT)

    def clear(self):
        """Delete everything."""
        cdef rcv_txn *t
        if self.arena is None:
            self._pending.clear()
            return
        begin(self, True, &t)
        rc = rcv_deque_clear(t, self.h.off)
        if rc:
            fail(rc)

    def reverse(self):
        """Turn the order round."""
        cdef rcv_txn *t
        if self.arena is None:
            self._pending.reverse()
            return
        begin(self, True, &t)
        rc = rcv_deque_reverse(t, self.h.off)
        if rc:
            fail(rc)

    def rotate(self, n=1):
        """Move n items from the right end to the left (negative: the other way)."""
        cdef rcv_txn *t
        if self.arena is None:
            self._pending.rotate(n)
            return
        n = index(n)
        length = len(self)
        if length < 2:
            return
        steps = n % length
        cdef int side = RCV_LEFT
        if steps > length // 2:
            steps, side = length - steps, RCV_RIGHT
        begin(self, True, &t)
        rc = rcv_deque_rotate(t, self.h.off, side, steps)
        if rc < 0:
            fail(rc)

    cdef Py_ssize_t position(self, object key) except? -1:
        key = index(key)
        if not -MOST <= key <= MOST:
            return -2
        cdef Py_ssize_t i = key
        if i < 0:
            i += <Py_ssize_t>len(self)
        return i if i >= 0 else -2

    def __getitem__(self, key):
        cdef rcv_txn *t
        cdef rcv_value v
        if self.arena is None:
            return self._pending[key]
        if not hasattr(key, "__index__"):
            raise TypeError(f"sequence index must be integer, not {type(key).__name__!r}")
        cdef Py_ssize_t i = self.position(key)
        begin(self, False, &t)
        try:
            if i >= 0:
                rc = rcv_deque_get(self.arena.a, t, self.h.off, <uint64_t>i, &v)
            else:
                rc = 0
            if rc == 1:
                return decode(self.arena, &v)
            if rc < 0:
                fail(rc)
        finally:
            done(self.arena, t)
        raise IndexError("deque index out of range")

    def __setitem__(self, key, value):
        cdef rcv_txn *t
        cdef rcv_value v
        if self.arena is None:
            self._pending[key] = value
            return
        cdef Py_ssize_t i = self.position(key)
        kept = encode(value, &v)
        begin(self, True, &t)
        if i < 0:
            rc = 0
        elif v.tag != 0:
            rc = rcv_deque_set(t, self.h.off, <uint64_t>i, &v)
        else:
            rc = put(self, t, value, put_at, <uint64_t>i)
        if rc < 0:
            fail(rc)
        if rc == 0:
            raise IndexError("deque index out of range")

    def _ends(self):
        """Positions of both ends: they move with every change of length."""
        cdef rcv_txn *t
        cdef uint64_t left, right
        begin(self, False, &t)
        try:
            rc = rcv_deque_ends(self.arena.a, t, self.h.off, &left, &right)
            if rc:
                fail(rc)
            return left, right
        finally:
            done(self.arena, t)

    cpdef object to_python(self):
        """Return a plain deep copy: a list."""
        Py_EnterRecursiveCall(" while copying a nested value out of an arena")
        try:
            return [(<Container>v).to_python() if isinstance(v, Container) else v for v in self]
        finally:
            Py_LeaveRecursiveCall()

    cdef object unit_text(self, unsigned unit, uint64_t arg):
        if unit == RCV_UNIT_SHAPE:
            return "the right end" if arg else "the left end"
        return "an item" if unit == RCV_UNIT_KEY else "its items"

    cdef object slot_key(self, rcv_off slot, rcv_off child):
        cdef uint64_t i = 0
        cdef int rc = rcv_deque_find(self.arena.a, self.h.off, child, &i) # its slot is not known: items move
        if rc < 0:
            fail(rc)
        return i if rc == 1 else NotImplemented

    def _same(self, other):
        """Are both handles of one container?"""
        return self is other or (isinstance(other, DequeHandle) and self.arena is not None
                                 and (<DequeHandle>other).arena is self.arena and (<DequeHandle>other).h.id == self.h.id)

    __hash__ = None
