# dict_pack.pxi -- a plain dict or set of plain values, made in one block: what most requests store. Part of codec.pyx.

from cpython.bool cimport PyBool_Check
from cpython.dict cimport PyDict_CheckExact, PyDict_Copy, PyDict_Next, PyDict_Size

cdef extern from "../src/segment/layout.h" nogil:
    enum:
        RCV_ROWS_MOST
        RCV_ROW_KEY

cdef extern from "containers/set.h" nogil:
    int rcv_dict_pack(rcv_txn *t, const rcv_item *items, uint32_t n, rcv_off *out)
    int rcv_set_pack(rcv_txn *t, const rcv_item *items, uint32_t n, rcv_off *out)


cdef inline bint no_container(object value):
    """Is it a value that needs no container of its own, or one that can't be stored?"""
    return PyLong_CheckExact(value) or PyUnicode_CheckExact(value) or PyFloat_CheckExact(value) or value is None or \
        PyBool_Check(value) or not isinstance(value, (Container, dict, list, set, frozenset))


cdef inline bint plain_value(object value, rcv_value *out) except -1:
    """encode() of a number, ASCII text or bytes; False for anything else."""
    cdef int overflow = 0
    cdef double number
    if _by_type and type(value) in _by_type:
        return False
    out.ptr = NULL
    out.len = out.word = 0
    if PyLong_CheckExact(value):
        out.tag = RCV_T_INT
        out.word = <uint64_t>PyLong_AsLongLongAndOverflow(value, &overflow)
        return overflow == 0
    if PyUnicode_CheckExact(value):
        out.tag = RCV_T_STR
        return rcv_plain_text(value, &out.ptr, &out.len)
    if PyFloat_CheckExact(value):
        out.tag = RCV_T_FLOAT
        number = PyFloat_AS_DOUBLE(value)
        memcpy(&out.word, &number, 8)
        return True
    if PyBytes_CheckExact(value):
        out.tag = RCV_T_BYTES
        out.ptr = <const uint8_t *>PyBytes_AS_STRING(value)
        out.len = PyBytes_GET_SIZE(value)
        return True
    out.tag = RCV_T_NONE if value is None else RCV_T_TRUE if value is True else RCV_T_FALSE
    return value is None or value is True or value is False


cdef int plain_items(dict items, rcv_item *item) except -1:
    """Describe a small dict of ASCII keys and plain values, as most are: how many items it has; 0 for any other dict.

    Nothing is allocated, so that no code of users runs: nobody can change the dict before it is stored."""
    cdef PyObject *key
    cdef PyObject *value
    cdef rcv_value text
    cdef Py_ssize_t at = 0
    cdef int n = 0
    if not 0 < PyDict_Size(items) <= RCV_ROWS_MOST:
        return 0
    while PyDict_Next(items, &at, &key, &value):
        if not PyUnicode_CheckExact(<object>key) or not plain_value(<object>key, &text) or text.len > RCV_ROW_KEY:
            return 0
        if not plain_value(<object>value, &item[n].value):
            return 0
        item[n].key = rcv_key(tag=RCV_T_STR, kind=KEY_STR, ptr=text.ptr, len=<uint32_t>text.len, hash=0)
        n += 1
    return n


cdef int pack_dict(NativeArena arena, rcv_txn *t, dict items, rcv_off *out) except -1:
    """Make a Dict at once. 0: nothing was made, since these are too many, or no plain values."""
    cdef KeyBuffer key[RCV_ROWS_MOST]
    cdef rcv_item item[RCV_ROWS_MOST]
    cdef uint32_t n = plain_items(items, item)
    if n > 0:
        return packed_is(rcv_dict_pack(t, item, n, out))
    if not 0 < len(items) <= RCV_ROWS_MOST:
        return 0
    items = PyDict_Copy(items) # code of users may change the other one
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
