# cython: language_level=3, boundscheck=False, wraparound=False
"""Dict's native half: a handle on a Dict in the arena, or, before it is stored, a plain dict that waits for it."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_CheckExact
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from recoverable._native.codec cimport (
    KeyBuffer, decode, decode_key, describe, encode, encode_key, is_plain_key, pack_dict, plain_items, rcv_item, shown)
from recoverable._native.core cimport *
from recoverable._native.runtime cimport Container, NativeArena, begin, begin_slow, done, fail, hold, rcv_context, unhold

cdef extern from "../src/segment/layout.h" nogil:
    enum:
        RCV_K_DICT
        RCV_ROWS_MOST

cdef extern from "containers/dict.h" nogil:
    int rcv_dict_set_packed(rcv_txn *t, rcv_off d, const rcv_key *key, const rcv_item *items, uint32_t n)

cdef extern from "Python.h":
    int Py_EnterRecursiveCall(const char *where) except -1
    void Py_LeaveRecursiveCall()

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void *at) nogil

    dict new_dict "__Pyx_PyDict_NewPresized"(Py_ssize_t size)

cdef enum:
    SOME = 16 # items that are looked at together
    MOST_AHEAD = 100000 # items that a dict is made for at once
    KEYS = 1
    VALUES = 2
    ITEMS = 3

_MISSING = object()


cdef int raise_key_error(object key) except -1:
    raise KeyError(key)


cdef object dict_unit_text(Container c, unsigned unit, uint64_t arg):
    """unit_text() of a Dict or a Set."""
    cdef rcv_value key
    if unit == RCV_UNIT_KEY and rcv_dict_key_of_hash(c.arena.a, c.h.off, arg, &key) == 1:
        return shown(&key)
    return {RCV_UNIT_MEMBERSHIP: "its keys", RCV_UNIT_CONTENT: "its values"}.get(unit)


cdef object dict_unit_of(Container c, object key):
    """_unit_of() of a Dict or a Set."""
    cdef rcv_txn *t
    cdef KeyBuffer k
    begin(c, False, &t)
    try:
        kept = encode_key(c.arena, key, &k)
        return k.key.hash
    finally:
        done(c.arena, t)


cdef object dict_as_kept(Container c, object key):
    """_as_kept() of a Dict or a Set."""
    for kept in key_of_hash(c, dict_unit_of(c, key)):
        if kept == key: # another key may have the same hash
            return kept
    return key


cdef object dict_written(Container c, Container before, list units):
    """_written() of a Dict or a Set."""
    hashes = [arg for kind, arg in units if kind == RCV_UNIT_KEY]
    return [key for each in hashes for key in key_of_hash(c, each) or key_of_hash(before, each)] if hashes else None


cdef tuple key_of_hash(Container c, uint64_t arg):
    """The key, as it is now, that such a unit is: one or none."""
    cdef rcv_txn *t
    cdef rcv_value key
    begin(c, False, &t)
    cdef uint64_t held = hold(c.arena)
    try:
        return (decode_key(&key),) if rcv_dict_key_of_hash(c.arena.a, c.h.off, arg, &key) == 1 else ()
    finally:
        try:
            unhold(c.arena, held)
        finally:
            done(c.arena, t)


cdef inline object fetch(DictHandle d, rcv_txn *t, KeyBuffer *k, object default):
    cdef rcv_value v
    cdef int rc = rcv_dict_get(d.arena.a, t, d.h.off, &k.key, &v)
    if rc == 1:
        return decode(d.arena, &v)
    if rc < 0:
        fail(rc)
    return default


cdef class DictHandle(Container):
    """What `recoverable.Dict` adds the mapping's plain methods to."""
    _kind = RCV_K_DICT

    def __init__(self, *args, **kwargs):
        self.pending = dict(*args, **kwargs)

    # -- storing -------------------------------------------------------------------------------------------------

    cdef int materialize(self, NativeArena arena, rcv_txn *t, list made, rcv_off *out) except -1:
        if self.arena is not None:
            return Container.materialize(self, arena, t, made, out)
        items = dict(self.pending or {}) # a copy, so that a mapping that changes while we store it is not our problem
        cdef int rc = 0
        cdef bint packed = pack_dict(arena, t, items, out)
        if not packed:
            rc = rcv_dict_new(t, out)
        if rc:
            fail(rc)
        rc = rcv_handle_open(arena.a, out[0], &self.h)
        if rc < 0:
            fail(rc)
        self.arena = arena
        made.append(self)
        if packed:
            return 0
        Py_EnterRecursiveCall(" while storing a nested value in an arena")
        try:
            for key, value in items.items():
                self.store(t, out[0], key, value, made)
        finally:
            Py_LeaveRecursiveCall()
        return 0

    cdef int store(self, rcv_txn *t, rcv_off d, object key, object value, list made) except -1:
        """Set one key, making the containers that the value needs."""
        cdef KeyBuffer k
        cdef rcv_value v
        kept_key = encode_key(self.arena, key, &k)
        kept = describe(self.arena, t, value, &v, made)
        cdef int rc = rcv_dict_set(t, d, &k.key, &v)
        if rc:
            fail(rc)
        return 0

    cdef bint store_plain(self, rcv_txn *t, const rcv_key *key, dict value) except -1:
        """Set one key to what is made at once, as most are; False: it can't be, and nothing was done."""
        cdef rcv_item item[RCV_ROWS_MOST]
        cdef int n = plain_items(value, item)
        if n == 0:
            return False
        cdef int rc = rcv_dict_set_packed(t, self.h.off, key, item, n)
        if rc < 0:
            fail(rc)
        return rc == 0

    cdef int store_container(self, rcv_txn *t, object key, object value) except -1:
        """Set one key to a container: all of it, or nothing."""
        cdef rcv_mark mark
        made = []
        rcv_op_begin(t, &mark)
        cdef uint64_t held = hold(self.arena)
        try:
            try:
                self.store(t, self.h.off, key, value, made)
            except BaseException:
                rcv_op_fail(t, &mark)
                raise
            finally:
                unhold(self.arena, held)
        except BaseException:
            for child in made:
                (<Container>child).discard()
            raise
        for child in made:
            (<Container>child).rooted()
        return 0

    cdef void rooted(self) noexcept:
        self.pending = None

    # -- the mapping -----------------------------------------------------------------------------------------------

    def __getitem__(self, key):
        value = self.lookup(key, _MISSING)
        if value is _MISSING:
            missing = getattr(type(self), "__missing__", None)
            if missing is not None:
                return missing(self, key)
            raise_key_error(key)
        return value

    cdef object lookup(self, object key, object default):
        cdef rcv_txn *t
        cdef KeyBuffer k
        if self.arena is None:
            return self.unstored().get(key, default)
        if self.arena.closed:
            begin(self, False, &t)
        kept = encode_key(self.arena, key, &k)
        begin(self, False, &t)
        if t != NULL:
            return fetch(self, t, &k, default) # nothing to end
        try:
            return fetch(self, t, &k, default)
        finally:
            done(self.arena, t)

    def get(self, key, default=None):
        """Return the value of a key, or the default."""
        return self.lookup(key, default)

    def __contains__(self, key):
        cdef rcv_txn *t
        cdef KeyBuffer k
        cdef rcv_value v
        if self.arena is None:
            return key in self.unstored()
        if self.arena.closed:
            begin(self, False, &t)
        kept = encode_key(self.arena, key, &k)
        begin(self, False, &t)
        try:
            rc = rcv_dict_get(self.arena.a, t, self.h.off, &k.key, &v)
            if rc < 0:
                fail(rc)
            return rc == 1
        finally:
            done(self.arena, t)

    def __setitem__(self, key, value):
        cdef rcv_txn *t
        cdef KeyBuffer k
        cdef rcv_value v
        if self.arena is None:
            self.unstored()[key] = value
            return
        if self.arena.closed:
            begin(self, True, &t)
        kept_key = encode_key(self.arena, key, &k)
        kept = encode(value, &v)
        begin(self, True, &t)
        if v.tag == 0:
            if not PyDict_CheckExact(value) or not self.store_plain(t, &k.key, <dict>value):
                self.store_container(t, key, value)
            return
        rc = rcv_dict_set(t, self.h.off, &k.key, &v)
        if rc:
            fail(rc)

    def __delitem__(self, key):
        if not self.remove(key):
            raise_key_error(key)

    cdef bint remove(self, object key) except -1:
        """Delete a key; was it there?"""
        cdef rcv_txn *t
        cdef KeyBuffer k
        if self.arena is None:
            there = key in self.unstored() # raises for an unhashable key; pop() of an empty dict would not
            self.pending.pop(key, None)
            return there
        if self.arena.closed:
            begin(self, True, &t)
        kept = encode_key(self.arena, key, &k)
        begin(self, True, &t)
        rc = rcv_dict_del(t, self.h.off, &k.key)
        if rc < 0:
            fail(rc)
        return rc == 1

    def pop(self, key, default=_MISSING):
        """Remove a key and return its value (a container's as a plain copy); without one, the default or a KeyError."""
        value = self.lookup(key, _MISSING)
        if value is _MISSING:
            if default is _MISSING:
                raise_key_error(key)
            return default
        if isinstance(value, Container) and self.arena is not None:
            value = (<Container>value).to_python()
        self.remove(key)
        return value

    def popitem(self):
        """Remove the item that was inserted last and return it as (key, value)."""
        for key in iterator(self, KEYS, True):
            return key, self.pop(key)
        raise KeyError("popitem(): dictionary is empty")

    def setdefault(self, key, default=None):
        """Return the value of a key; without one, insert the default first."""
        value = self.lookup(key, _MISSING)
        if value is not _MISSING:
            return value
        self[key] = default
        return self[key]

    def clear(self):
        """Remove everything."""
        cdef rcv_txn *t
        if self.arena is None:
            self.unstored().clear()
            return
        begin(self, True, &t)
        rc = rcv_dict_clear(t, self.h.off)
        if rc < 0:
            fail(rc)

    def __len__(self):
        cdef rcv_txn *t
        cdef uint64_t n
        if self.arena is None:
            return len(self.unstored())
        begin(self, False, &t)
        try:
            rc = rcv_dict_len(self.arena.a, t, self.h.off, &n)
            if rc:
                fail(rc)
            return n
        finally:
            done(self.arena, t)

    def __bool__(self):
        return len(self) != 0

    def __iter__(self):
        return iterator(self, KEYS, False)

    def __reversed__(self):
        return iterator(self, KEYS, True)

    def _iterate(self, int what, bint reverse=False):
        """Return an iterator of keys (1), values (2) or items (3), in insertion order."""
        return iterator(self, what, reverse)

    # -- as a whole --------------------------------------------------------------------------------------------------

    def __eq__(self, other):
        cdef DictHandle that
        if isinstance(other, DictHandle):
            that = <DictHandle>other
            if self is that or (self.arena is not None and that.arena is self.arena and self.h.id == that.h.id):
                return True
            return self.to_python() == that.to_python()
        if isinstance(other, dict):
            return self.to_python() == other
        return NotImplemented

    __hash__ = None

    cdef object slot_text(self, rcv_off slot):
        cdef rcv_value key
        return f"[{shown(&key)}]" if rcv_dict_key_at(self.arena.a, slot, &key) == 0 else "[?]"

    cdef object unit_text(self, unsigned unit, uint64_t arg):
        return dict_unit_text(self, unit, arg)

    cdef object slot_key(self, rcv_off slot, rcv_off child):
        cdef rcv_value key
        return decode_key(&key) if rcv_dict_key_at(self.arena.a, slot, &key) == 0 else NotImplemented

    def _unit_of(self, key):
        return dict_unit_of(self, key)

    def _as_kept(self, key):
        return dict_as_kept(self, key)

    def _written(self, before, units):
        return dict_written(self, before, units)

    cpdef object to_python(self):
        """Return a plain deep copy: dicts, numbers, text."""
        if self.arena is not None:
            out = self.flat()
            if out is not None:
                return out
        out = {}
        Py_EnterRecursiveCall(" while copying a nested value out of an arena")
        try:
            for key, value in iterator(self, ITEMS, False):
                out[key] = (<Container>value).to_python() if isinstance(value, Container) else value
        finally:
            Py_LeaveRecursiveCall()
        return out

    cdef dict flat(self):
        """to_python() under one gate, where all is numbers and text; None: something's decoding may run Python code."""
        cdef rcv_txn *t
        cdef rcv_value key[SOME]
        cdef rcv_value value[SOME]
        cdef rcv_dict_iter at
        cdef uint64_t size, held
        cdef int i, n = SOME
        memset(&at, 0, sizeof(at))
        begin(self, False, &t)
        try:
            rc = rcv_dict_len(self.arena.a, t, self.h.off, &size)
            if rc:
                fail(rc)
            held = hold(self.arena) # the collector may run
            try:
                out = new_dict(<Py_ssize_t>size if size <= MOST_AHEAD else 0)
            finally:
                unhold(self.arena, held)
            while n == SOME:
                n = rcv_dict_some(self.arena.a, t, self.h.off, &at, key, value, SOME)
                if n < 0:
                    fail(n)
                for i in range(n): # on their way into the cache while the first are made
                    if value[i].tag > RCV_T_BYTES or not is_plain_key(&key[i]):
                        return None
                    prefetch(value[i].ptr)
                    prefetch(value[i].ptr + 64)
                for i in range(n):
                    out[decode_key(&key[i])] = decode(self.arena, &value[i])
            return out
        finally:
            done(self.arena, t)

    def _flat(self):
        return None if self.arena is None else self.flat()

    def __repr__(self):
        name = type(self).__name__
        if self.arena is not None and self.arena.closed:
            return f"<{name} of a closed arena>"
        return f"{name}({self.to_python()!r})"

    cdef dict unstored(self):
        if self.pending is None:
            self.pending = {}
        return self.pending


include "dict_walk.pxi"
