# cython: language_level=3, boundscheck=False, wraparound=False
"""List's native half: a handle on a List in the arena, or, before it is stored, a plain list that waits for it."""
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.number cimport PyNumber_Index
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from recoverable._native.codec cimport decode, describe, encode, put
from recoverable._native.core cimport *
from recoverable._native.runtime cimport Container, NativeArena, begin, done, fail, hold, unhold

cdef extern from "containers/list.h" nogil:
    enum:
        RCV_LIST_UNIT
    int rcv_list_make(rcv_txn *t, uint64_t n, rcv_off *out)
    int rcv_list_fill(rcv_txn *t, rcv_off l, uint64_t i, const rcv_value *value)
    int rcv_list_len(rcv_arena *a, rcv_txn *t, rcv_off l, uint64_t *out)
    int rcv_list_get(rcv_arena *a, rcv_txn *t, rcv_off l, uint64_t i, rcv_value *out)
    int rcv_list_set(rcv_txn *t, rcv_off l, uint64_t i, const rcv_value *value)
    int rcv_list_append(rcv_txn *t, rcv_off l, const rcv_value *value)
    int rcv_list_extend(rcv_txn *t, rcv_off l, const rcv_value *values, uint64_t n)
    int rcv_list_insert(rcv_txn *t, rcv_off l, uint64_t i, uint64_t n)
    int rcv_list_delete(rcv_txn *t, rcv_off l, uint64_t i, uint64_t n)
    int rcv_list_find(rcv_arena *a, rcv_off l, rcv_off child, uint64_t *out)
    int rcv_list_permute(rcv_txn *t, rcv_off l, const uint64_t *order, uint64_t n)
    int rcv_list_scan(rcv_arena *a, rcv_txn *t, rcv_off l)

cdef extern from "../src/segment/layout.h" nogil:
    enum:
        RCV_K_LIST

cdef extern from "Python.h":
    int Py_EnterRecursiveCall(const char *where) except -1
    void Py_LeaveRecursiveCall()
    Py_ssize_t PyNumber_AsSsize_t(object index, void *overflow) except? -1 # NULL: what is too large becomes the largest


cdef int put_at(rcv_txn *t, rcv_off l, uint64_t i, const rcv_value *value) noexcept:
    return rcv_list_set(t, l, i, value)


cdef int put_last(rcv_txn *t, rcv_off l, uint64_t i, const rcv_value *value) noexcept:
    cdef int rc = rcv_list_append(t, l, value)
    return rc if rc else 1


cdef class ListHandle(Container):
    """What `recoverable.List` builds the sequence's methods on."""
    _kind = RCV_K_LIST
    cdef public list _pending # None once it is stored

    def __init__(self, items=()):
        self._pending = list(items)

    @property
    def _stored(self):
        return self.arena is not None

    cdef int materialize(self, NativeArena arena, rcv_txn *t, list made, rcv_off *out) except -1:
        cdef rcv_value v
        cdef uint64_t i = 0
        if self.arena is not None:
            return Container.materialize(self, arena, t, made, out)
        items = list(self._pending or ()) # a copy, so that it does not change while it is stored
        cdef int rc = rcv_list_make(t, len(items), out)
        if rc:
            fail(rc)
        rc = rcv_handle_open(arena.a, out[0], &self.h)
        if rc < 0:
            fail(rc)
        self.arena = arena
        made.append(self)
        Py_EnterRecursiveCall(" while storing a nested value in an arena")
        try:
            for value in items:
                kept = describe(arena, t, value, &v, made)
                rc = rcv_list_fill(t, out[0], i, &v)
                if rc:
                    fail(rc)
                i += 1
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
            rc = rcv_list_len(self.arena.a, t, self.h.off, &n)
            if rc:
                fail(rc)
            return n
        finally:
            done(self.arena, t)

    cdef Py_ssize_t position(self, object key) except? -1:
        """A position from the left; -2: before the first, or beyond any. Only a negative index looks at the length."""
        cdef int overflow = 0
        cdef Py_ssize_t i = PyLong_AsLongLongAndOverflow(key, &overflow)
        if overflow:
            return -2
        if i < 0:
            i += <Py_ssize_t>len(self)
        return i if i >= 0 else -2

    def __getitem__(self, key):
        if PyLong_CheckExact(key):
            return self.item(key)
        if isinstance(key, slice):
            return self._items()[key]
        return self.item(PyNumber_Index(key))

    def __setitem__(self, key, value):
        if PyLong_CheckExact(key):
            self.set_item(key, value)
        elif isinstance(key, slice):
            self._set_slice(key, value)
        else:
            self.set_item(PyNumber_Index(key), value)

    def __delitem__(self, key):
        cdef Py_ssize_t i, n
        if self.arena is None:
            del self._pending[key]
        elif isinstance(key, slice):
            self._delete_slice(key)
        else:
            i = PyNumber_AsSsize_t(key, NULL)
            n = len(self)
            i += n if i < 0 else 0
            if not 0 <= i < n:
                raise IndexError("list assignment index out of range")
            self.remove_run(i, 1, n)

    cdef object item(self, object key):
        """The item at an index."""
        return self._pending[key] if self.arena is None else self.at(self.position(key))

    cdef object at(self, Py_ssize_t i):
        cdef rcv_txn *t
        begin(self, False, &t)
        if t != NULL:
            return self.fetch(t, i) # nothing to end
        try:
            return self.fetch(t, i)
        finally:
            done(self.arena, t)

    cdef object fetch(self, rcv_txn *t, Py_ssize_t i):
        cdef rcv_value v
        cdef int rc = rcv_list_get(self.arena.a, t, self.h.off, <uint64_t>i, &v) if i >= 0 else 0
        if rc == 1:
            return decode(self.arena, &v)
        if rc < 0:
            fail(rc)
        raise IndexError("list index out of range")

    def __iter__(self):
        return ListIterator(self, 0, 1)

    def __reversed__(self):
        return ListIterator(self, <Py_ssize_t>len(self) - 1, -1)

    cdef int set_item(self, object key, object value) except -1:
        """Replace the item at an index."""
        cdef rcv_txn *t
        cdef rcv_value v
        cdef int rc
        if self.arena is None:
            self._pending[key] = value
            return 0
        cdef Py_ssize_t i = self.position(key)
        kept = encode(value, &v)
        begin(self, True, &t)
        if i < 0:
            rc = 0
        elif v.tag != 0:
            rc = rcv_list_set(t, self.h.off, <uint64_t>i, &v)
        else:
            rc = put(self, t, value, put_at, <uint64_t>i)
        if rc < 0:
            fail(rc)
        if rc == 0:
            raise IndexError("list assignment index out of range")
        return 0

    def append(self, value):
        """Add an item at the end."""
        cdef rcv_txn *t
        cdef rcv_value v
        if self.arena is None:
            self._pending.append(value)
            return
        kept = encode(value, &v)
        begin(self, True, &t)
        rc = rcv_list_append(t, self.h.off, &v) if v.tag != 0 else put(self, t, value, put_last, 0)
        if rc < 0:
            fail(rc)

    def extend(self, values):
        """Append every item of an iterable."""
        items = list(values) # first: it may be this List
        if self.arena is None:
            self._pending.extend(items)
        elif items:
            self.add(items)

    cdef int add(self, list items) except -1:
        """Append them: all of them, or nothing."""
        cdef rcv_txn *t
        cdef rcv_mark mark
        cdef Py_ssize_t i, n = len(items)
        cdef rcv_value *v = <rcv_value *>malloc(n * sizeof(rcv_value))
        cdef uint64_t held, length = 0
        if v == NULL:
            raise MemoryError
        made, kept = [], []
        try:
            begin(self, True, &t)
            rcv_op_begin(t, &mark)
            held = hold(self.arena)
            try:
                rc = rcv_list_len(self.arena.a, t, self.h.off, &length)
                for i in range(n):
                    kept.append(describe(self.arena, t, items[i], &v[i], made))
                self._expect(length)
                if rc == 0:
                    rc = rcv_list_extend(t, self.h.off, v, n)
                if rc:
                    fail(rc)
            except BaseException:
                rcv_op_fail(t, &mark)
                raise
            finally:
                unhold(self.arena, held)
        except BaseException:
            for child in made:
                (<Container>child).discard()
            raise
        finally:
            free(v)
        for child in made:
            (<Container>child).rooted()
        return 0

    def pop(self, index=-1):
        """Remove an item and return it (a container as a plain copy)."""
        if self.arena is None:
            return self._pending.pop(index)
        cdef Py_ssize_t i = PyNumber_AsSsize_t(index, NULL)
        cdef Py_ssize_t n = len(self)
        if n == 0:
            raise IndexError("pop from empty list")
        i += n if i < 0 else 0
        if not 0 <= i < n:
            raise IndexError("pop index out of range")
        value = self.at(i)
        if isinstance(value, Container):
            value = (<Container>value).to_python()
        self.remove_run(i, 1, n) # the item that was read, whatever its codec has done
        return value

    def _expect(self, uint64_t length):
        """Raise RuntimeError unless it has that length: code that an operation has called may have changed it, and positions
        that were worked out before mean other items now."""
        if <uint64_t>len(self) != length:
            raise RuntimeError("list changed size during one of its operations, by code that this called; of the operation nothing "
                               "is done: leave the list alone in codecs, comparisons and finalisers")

    def _gap(self, uint64_t i, uint64_t n, uint64_t length):
        """Put n times None before position i of so many."""
        cdef rcv_txn *t
        self._expect(length)
        begin(self, True, &t)
        rc = rcv_list_insert(t, self.h.off, i, n)
        if rc:
            fail(rc)

    def _remove(self, uint64_t i, uint64_t n, uint64_t length):
        """Delete n items from position i on, of so many."""
        self.remove_run(i, n, length)

    cdef int remove_run(self, uint64_t i, uint64_t n, uint64_t length) except -1:
        cdef rcv_txn *t
        if <uint64_t>len(self) != length:
            self._expect(length)
        begin(self, True, &t)
        rc = rcv_list_delete(t, self.h.off, i, n)
        if rc:
            fail(rc)
        return 0

    def _permute(self, order):
        """Reorder: the new item j is the old item order[j]. Nothing is copied, so containers stay who they are."""
        cdef rcv_txn *t
        cdef Py_ssize_t n = len(order)
        cdef uint64_t *positions = <uint64_t *>malloc((n + 1) * sizeof(uint64_t))
        if positions == NULL:
            raise MemoryError
        try:
            for i in range(n):
                positions[i] = order[i]
            begin(self, True, &t)
            rc = rcv_list_permute(t, self.h.off, positions, n)
            if rc:
                fail(rc)
        finally:
            free(positions)

    def _items(self):
        """Return all items in a plain list; containers are live handles."""
        cdef rcv_txn *t
        cdef rcv_value v
        cdef uint64_t i, n, held
        if self.arena is None:
            return list(self._pending)
        out = []
        begin(self, False, &t)
        try:
            held = hold(self.arena)
            try:
                rc = rcv_list_scan(self.arena.a, t, self.h.off)
                if rc == 0:
                    rc = rcv_list_len(self.arena.a, t, self.h.off, &n)
                if rc:
                    fail(rc)
                for i in range(n):
                    rc = rcv_list_get(self.arena.a, NULL, self.h.off, i, &v) # the scan has recorded the read
                    if rc < 0:
                        fail(rc)
                    if rc == 0:
                        raise RuntimeError("List changed size during iteration") # by a codec that decodes its items
                    out.append(decode(self.arena, &v))
                return out
            finally:
                unhold(self.arena, held)
        finally:
            done(self.arena, t)

    cpdef object to_python(self):
        """Return a plain deep copy."""
        Py_EnterRecursiveCall(" while copying a nested value out of an arena")
        try:
            return [(<Container>v).to_python() if isinstance(v, Container) else v for v in self._items()]
        finally:
            Py_LeaveRecursiveCall()

    cdef object unit_text(self, unsigned unit, uint64_t arg):
        if unit == RCV_UNIT_KEY:
            return f"items {arg * RCV_LIST_UNIT} to {arg * RCV_LIST_UNIT + RCV_LIST_UNIT - 1}"
        return {RCV_UNIT_MEMBERSHIP: "its length", RCV_UNIT_SHAPE: "its order", RCV_UNIT_CONTENT: "its items"}.get(unit)

    cdef object slot_key(self, rcv_off slot, rcv_off child):
        cdef uint64_t i = 0
        cdef int rc = rcv_list_find(self.arena.a, self.h.off, child, &i) # its slot is not known: items move
        if rc < 0:
            fail(rc)
        return i if rc == 1 else NotImplemented

    def _written(self, before, units):
        kinds = {kind for kind, _ in units}
        if RCV_UNIT_SHAPE in kinds or not kinds & {RCV_UNIT_KEY, RCV_UNIT_MEMBERSHIP}:
            return None # positions have moved
        lengths = len(before), len(self)
        found = set(range(min(lengths), max(lengths)))
        for kind, arg in units:
            if kind == RCV_UNIT_KEY:
                found.update(range(arg * RCV_LIST_UNIT, min((arg + 1) * RCV_LIST_UNIT, max(lengths))))
        return sorted(found)

    def _same(self, other):
        """Are both handles of one container?"""
        return self is other or (isinstance(other, ListHandle) and self.arena is not None
                                 and (<ListHandle>other).arena is self.arena and (<ListHandle>other).h.id == self.h.id)

    __hash__ = None


include "list_walk.pxi"
