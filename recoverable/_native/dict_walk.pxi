# dict_walk.pxi -- iterators of a Dict, and what its views are made of. Part of dict.pyx.

cdef object decode_item(NativeArena arena, const rcv_value *key, const rcv_value *value):
    """(key, value), whose bytes are both read before a codec of users can change them."""
    cdef rcv_value copy
    if is_plain_key(key) or value.tag <= RCV_T_FLOAT: # a number
        k = decode_key(key)
        return k, decode(arena, value)
    copy = key[0]
    kept = PyBytes_FromStringAndSize(<const char *>key.ptr, key.len)
    copy.ptr = <const uint8_t *>PyBytes_AS_STRING(kept)
    v = decode(arena, value)
    return decode_key(&copy), v


cdef extern from *:
    """
    /* Make the tuple that was given last hold these, where nobody else has it any more: a dict's own iterator does so, too. What
     * it held was plain, so that no code runs. From 3.14 on a tuple may have kept its hash. */
    static inline int rcv_refill(PyObject *pair, PyObject *key, PyObject *value)
    {
    #if PY_VERSION_HEX < 0x030E0000
        if (Py_REFCNT(pair) == 1 && PyTuple_CheckExact(pair)) {
            PyObject *old_key = PyTuple_GET_ITEM(pair, 0), *old_value = PyTuple_GET_ITEM(pair, 1);
            PyTuple_SET_ITEM(pair, 0, Py_NewRef(key));
            PyTuple_SET_ITEM(pair, 1, Py_NewRef(value));
            Py_DECREF(old_key);
            Py_DECREF(old_value);
            return 1;
        }
    #endif
        return 0;
    }
    """
    bint rcv_refill(PyObject *pair, object key, object value) noexcept


@cython.final
cdef class DictIterator:
    """Keys, values or items in insertion order; RuntimeError when the keys change meanwhile."""
    cdef DictHandle d # None: at its end, for good, or `plain` goes on
    cdef object last # the pair given last, of a key and a value that are numbers or text; or None
    cdef int what
    cdef rcv_dict_iter at
    cdef object plain # the iterator of one that was not stored when this was made; or None

    def __iter__(self):
        return self

    def __next__(self):
        cdef rcv_txn *t
        cdef rcv_value key, value
        cdef rcv_value *wanted = NULL if self.what == KEYS else &value
        cdef unsigned reads = RCV_ITER_KEYS if self.what == KEYS else RCV_ITER_VALUES
        cdef int rc = RCV_ITER_REFUSED
        cdef NativeArena arena
        cdef DictHandle d = self.d # another thread may be at the end, and clear it, while this one waits for the lock
        if d is None:
            if self.plain is None:
                raise StopIteration
            return next(self.plain)
        arena = d.arena
        if arena is not None and arena.attention == 0:
            rc = rcv_dict_step(arena.a, rcv_context(), &d.h, &t, &self.at, reads, &key, wanted)
        if rc == RCV_ITER_REFUSED:
            begin_slow(d, False, &t)
            rc = rcv_dict_go_on(arena.a, t, d.h.off, &self.at, reads, &key, wanted)
        if rc == 1 and t != NULL:
            return self.give(arena, &key, &value) # nothing to end
        try:
            if rc == 1:
                return self.give(arena, &key, &value)
            if rc < 0:
                fail(rc)
            self.d = None
            if rc == RCV_ITER_CHANGED:
                raise RuntimeError("Dict changed its keys during iteration")
        finally:
            done(arena, t)
        raise StopIteration

    cdef object give(self, NativeArena arena, const rcv_value *key, const rcv_value *value):
        """What the caller gets of an item."""
        cdef uint64_t held
        if self.what == VALUES:
            return decode(arena, value)
        if is_plain_key(key):
            if self.what == KEYS:
                return decode_key(key)
            if value.tag <= RCV_T_BYTES:
                k, v = decode_key(key), decode(arena, value)
                if self.last is None or not rcv_refill(<PyObject *>self.last, k, v):
                    self.last = (k, v)
                return self.last
        held = hold(arena)
        try:
            if self.what == KEYS:
                return decode_key(key)
            return decode_item(arena, key, value)
        finally:
            unhold(arena, held)


cdef DictIterator iterator(DictHandle d, int what, bint reverse):
    cdef rcv_txn *t
    cdef DictIterator it = DictIterator.__new__(DictIterator) # all zero
    it.what = what
    it.at.reverse = reverse
    if d.arena is None:
        items = d.unstored()
        source = items.keys() if what == KEYS else items.values() if what == VALUES else items.items()
        it.plain = reversed(source) if reverse else iter(source)
        return it
    it.d = d
    begin(d, False, &t)
    try:
        rc = rcv_dict_version(d.arena.a, t, d.h.off, &it.at.version)
        if rc:
            fail(rc)
    finally:
        done(d.arena, t)
    return it


# -- what the views are made of ------------------------------------------------------------------------------------


def view_of(view, mapping):
    """__init__ of collections.abc.MappingView."""
    view._mapping = mapping


def view_keys(view):
    """__iter__ of a view of keys."""
    return iterator(<DictHandle?>view._mapping, KEYS, False)


def view_values(view):
    """__iter__ of a view of values."""
    return iterator(<DictHandle?>view._mapping, VALUES, False)


def view_items(view):
    """__iter__ of a view of items."""
    return iterator(<DictHandle?>view._mapping, ITEMS, False)
