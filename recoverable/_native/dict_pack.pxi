# dict_pack.pxi -- a plain dict or set of plain values, made in one block: what most requests store. Part of codec.pyx.

from cpython.bool cimport PyBool_Check
from cpython.dict cimport PyDict_CheckExact, PyDict_Copy

cdef extern from "../src/segment/layout.h" nogil:
    enum:
        RCV_ROWS_MOST

cdef extern from "containers/set.h" nogil:
    struct rcv_item:
        rcv_key key
        rcv_value value
    int rcv_dict_pack(rcv_txn *t, const rcv_item *items, uint32_t n, rcv_off *out)
    int rcv_set_pack(rcv_txn *t, const rcv_item *items, uint32_t n, rcv_off *out)


cdef inline bint no_container(object value):
    """Is it a value that needs no container of its own, or one that can't be stored?"""
    return PyLong_CheckExact(value) or PyUnicode_CheckExact(value) or PyFloat_CheckExact(value) or value is None or \
        PyBool_Check(value) or not isinstance(value, (Container, dict, list, set, frozenset))


cdef int pack_dict(NativeArena arena, rcv_txn *t, dict items, rcv_off *out) except -1:
    """Make a Dict at once; `items` is nobody else's. 0: nothing was made, since these are too many, or no plain values."""
    cdef KeyBuffer key[RCV_ROWS_MOST]
    cdef rcv_item item[RCV_ROWS_MOST]
    cdef uint32_t n = 0
    if not 0 < len(items) <= RCV_ROWS_MOST:
        return 0
    for value in items.values(): # before any codec is asked: it is asked once
        if not no_container(value):
            return 0
    kept = []
    for k, value in items.items():
        kept.append(encode_key(arena, k, &key[n]))
        kept.append(encode(value, &item[n].value))
        if item[n].value.tag == 0:
            return 0
        item[n].key = key[n].key
        n += 1
    return packed_is(rcv_dict_pack(t, item, n, out))


cdef int pack_set(NativeArena arena, rcv_txn *t, list items, rcv_off *out) except -1:
    """Make a Set at once, as pack_dict() does."""
    cdef KeyBuffer key[RCV_ROWS_MOST]
    cdef rcv_item item[RCV_ROWS_MOST]
    cdef uint32_t n = 0
    if not 0 < len(items) <= RCV_ROWS_MOST:
        return 0
    kept = []
    for k in items:
        kept.append(encode_key(arena, k, &key[n]))
        encode(None, &item[n].value)
        item[n].key = key[n].key
        n += 1
    return packed_is(rcv_set_pack(t, item, n, out))


cdef inline int packed_is(int rc) except -1:
    if rc < 0:
        fail(rc)
    return rc == 0
