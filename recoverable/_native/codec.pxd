# codec.pxd -- Python values to and from the core's.
from libc.stdint cimport int64_t, uint64_t
from recoverable._native.core cimport rcv_key, rcv_off, rcv_txn, rcv_value
from recoverable._native.runtime cimport Container, NativeArena

cdef extern from "containers/dict.h" nogil:
    struct rcv_item:
        rcv_key key
        rcv_value value

cdef struct KeyBuffer:
    rcv_key key
    int64_t word

# What a key is compared by: 1, 1.0 and True are one key.
cdef enum:
    KEY_INT = 1
    KEY_BIGINT = 2
    KEY_FLOAT = 3
    KEY_STR = 4
    KEY_BYTES = 5
    KEY_NONE = 6
    KEY_CUSTOM = 7

cdef inline bint is_plain_key(const rcv_value *key) noexcept:
    """Is it made without running code of others? A codec may run any, and to make a long integer the collector may run (Python 3.11)."""
    return key.word <= KEY_NONE and key.word != KEY_BIGINT

ctypedef int (*putter)(rcv_txn *t, rcv_off container, uint64_t argument, const rcv_value *value) noexcept

cdef object describe(NativeArena arena, rcv_txn *t, object value, rcv_value *out, list made)
cdef int put(Container c, rcv_txn *t, object value, putter apply, uint64_t argument) except? -100
cdef int plain_items(dict items, rcv_item *item) except -1
cdef int pack_dict(NativeArena arena, rcv_txn *t, dict items, rcv_off *out) except -1
cdef int pack_set(NativeArena arena, rcv_txn *t, list items, rcv_off *out) except -1
cdef object encode(object value, rcv_value *out)
cdef object decode(NativeArena arena, const rcv_value *value)
cdef object encode_key(NativeArena arena, object key, KeyBuffer *out)
cdef object decode_key(const rcv_value *key)
cdef object shown(const rcv_value *key)
