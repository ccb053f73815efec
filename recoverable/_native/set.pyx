# cython: language_level=3, boundscheck=False, wraparound=False
"""Set's native half: a Dict without values."""
cimport cython
from libc.stdint cimport uint64_t
from recoverable._native.codec cimport KeyBuffer, decode_key, encode_key, is_plain_key, pack_set
from recoverable._native.core cimport *
from recoverable._native.dict cimport *
from recoverable._native.runtime cimport Container, NativeArena, begin, begin_slow, done, fail, hold, rcv_context, unhold

cdef extern from "containers/set.h" nogil:
    int rcv_set_new(rcv_txn *t, rcv_off *out)
    int rcv_set_add(rcv_txn *t, rcv_off s, const rcv_key *key)

cdef extern from "../src/segment/layout.h" nogil:
    enum:
        RCV_K_SET


cdef class SetHandle(Container):
    """What `recoverable.Set` builds the set's methods on."""
    _kind = RCV_K_SET
    cdef public dict _pending # a dict without values keeps the order; None once it is stored

    def __init__(self, items=()):
        self._pending = dict.fromkeys(items)

    @property
    def _stored(self):
        return self.arena is not None

    cdef int materialize(self, NativeArena arena, rcv_txn *t, list made, rcv_off *out) except -1:
        if self.arena is not None:
            return Container.materialize(self, arena, t, made, out)
        items = list(self._pending or ())
        cdef int rc = 0
        cdef bint packed = pack_set(arena, t, items, out)
        if not packed:
            rc = rcv_set_new(t, out)
        if rc:
            fail(rc)
        rc = rcv_handle_open(arena.a, out[0], &self.h)
        if rc < 0:
            fail(rc)
        self.arena = arena
        made.append(self)
        cdef KeyBuffer k
        for item in () if packed else items:
            kept = encode_key(arena, item, &k)
            self.insert(t, out[0], &k)
        return 0

    cdef void rooted(self) noexcept:
        self._pending = None

    cdef int insert(self, rcv_txn *t, rcv_off d, const KeyBuffer *k) except -1:
        cdef int rc = rcv_set_add(t, d, &k.key)
        if rc < 0:
            fail(rc)
        return 0

    def add(self, item):
        """Put an item in; a no-op when it is there."""
        cdef rcv_txn *t
        cdef KeyBuffer k
        if self.arena is None:
            self._pending[item] = None
            return
        if self.arena.closed:
            begin(self, True, &t)
        kept = encode_key(self.arena, item, &k) # may run user code
        begin(self, True, &t)
        self.insert(t, self.h.off, &k)

    def _discard(self, item):
        """Take an item out; was it there?"""
        cdef rcv_txn *t
        cdef KeyBuffer k
        if self.arena is None:
            there = item in self._pending
            self._pending.pop(item, None)
            return there
        if self.arena.closed:
            begin(self, True, &t)
        kept = encode_key(self.arena, item, &k)
        begin(self, True, &t)
        rc = rcv_dict_del(t, self.h.off, &k.key)
        if rc < 0:
            fail(rc)
        return rc == 1

    def __contains__(self, item):
        cdef rcv_txn *t
        cdef KeyBuffer k
        cdef rcv_value v
        if self.arena is None:
            return item in self._pending
        if self.arena.closed:
            begin(self, False, &t)
        kept = encode_key(self.arena, item, &k)
        begin(self, False, &t)
        try:
            rc = rcv_dict_get(self.arena.a, t, self.h.off, &k.key, &v)
            if rc < 0:
                fail(rc)
            return rc == 1
        finally:
            done(self.arena, t)

    def __len__(self):
        cdef rcv_txn *t
        cdef uint64_t n
        if self.arena is None:
            return len(self._pending)
        begin(self, False, &t)
        try:
            rc = rcv_dict_len(self.arena.a, t, self.h.off, &n)
            if rc:
                fail(rc)
            return n
        finally:
            done(self.arena, t)

    def clear(self):
        """Take everything out."""
        cdef rcv_txn *t
        if self.arena is None:
            self._pending.clear()
            return
        begin(self, True, &t)
        rc = rcv_dict_clear(t, self.h.off)
        if rc < 0:
            fail(rc)

    def __iter__(self):
        return iter(self._pending) if self.arena is None else SetIterator(self, False)

    def __reversed__(self):
        return reversed(self._pending) if self.arena is None else SetIterator(self, True)

    cpdef object to_python(self):
        """Return a plain list of the items, in insertion order."""
        return list(self)

    cdef object unit_text(self, unsigned unit, uint64_t arg):
        return dict_unit_text(self, unit, arg)

    def _unit_of(self, key):
        return dict_unit_of(self, key)

    def _as_kept(self, key):
        return dict_as_kept(self, key)

    def _written(self, before, units):
        return dict_written(self, before, units)

    def _same(self, other):
        """Are both handles of one container?"""
        return self is other or (isinstance(other, SetHandle) and self.arena is not None
                                 and (<SetHandle>other).arena is self.arena and (<SetHandle>other).h.id == self.h.id)

    __hash__ = None


@cython.final
cdef class SetIterator:
    """The items in insertion order; RuntimeError when they change meanwhile."""
    cdef SetHandle s
    cdef rcv_dict_iter at

    def __cinit__(self, SetHandle s not None, bint reverse):
        cdef rcv_txn *t
        self.s = s
        self.at.reverse = reverse # the rest is zero
        begin(s, False, &t)
        try:
            rc = rcv_dict_version(s.arena.a, t, s.h.off, &self.at.version)
            if rc:
                fail(rc)
        finally:
            done(s.arena, t)

    def __iter__(self):
        return self

    def __next__(self):
        cdef rcv_txn *t
        cdef rcv_value key
        cdef int rc = RCV_ITER_REFUSED
        cdef SetHandle s = self.s # another thread may be at the end, and clear it, while this one waits for the lock
        if s is None:
            raise StopIteration
        cdef NativeArena arena = s.arena
        if arena is not None and arena.attention == 0:
            rc = rcv_dict_step(arena.a, rcv_context(), &s.h, &t, &self.at, RCV_ITER_KEYS, &key, NULL)
        if rc == RCV_ITER_REFUSED:
            begin_slow(s, False, &t)
            rc = rcv_dict_go_on(arena.a, t, s.h.off, &self.at, RCV_ITER_KEYS, &key, NULL)
        if rc == 1 and t != NULL:
            return self.give(arena, &key) # nothing to end
        try:
            if rc == 1:
                return self.give(arena, &key)
            if rc < 0:
                fail(rc)
            self.s = None
            if rc == RCV_ITER_CHANGED:
                raise RuntimeError("Set changed size during iteration")
        finally:
            done(arena, t)
        raise StopIteration

    cdef object give(self, NativeArena arena, const rcv_value *key):
        cdef uint64_t held
        if is_plain_key(key):
            return decode_key(key)
        held = hold(arena)
        try:
            return decode_key(key)
        finally:
            unhold(arena, held)
