# dict.pxd -- what a Set, a Record's schema and others share of a Dict.
from libc.stdint cimport uint64_t
from recoverable._native.core cimport *
from recoverable._native.runtime cimport Container, NativeArena

cdef extern from "containers/dict.h" nogil:
    int rcv_dict_new(rcv_txn *t, rcv_off *out)
    int rcv_dict_get(rcv_arena *a, rcv_txn *t, rcv_off d, const rcv_key *key, rcv_value *out)
    int rcv_dict_set(rcv_txn *t, rcv_off d, const rcv_key *key, const rcv_value *value)
    int rcv_dict_del(rcv_txn *t, rcv_off d, const rcv_key *key)
    int rcv_dict_clear(rcv_txn *t, rcv_off d)
    int rcv_dict_len(rcv_arena *a, rcv_txn *t, rcv_off d, uint64_t *out)
    int rcv_dict_version(rcv_arena *a, rcv_txn *t, rcv_off d, uint64_t *out)
    struct rcv_dict_iter:
        rcv_off entry, own_entry
        uint64_t intent, serial
        uint32_t own, reverse
        uint64_t version
    enum:
        RCV_ITER_KEYS
        RCV_ITER_VALUES
        RCV_ITER_CHANGED
        RCV_ITER_REFUSED
    int rcv_dict_next(rcv_arena *a, rcv_txn *t, rcv_off d, rcv_dict_iter *it, unsigned what, rcv_value *key, rcv_value *value)
    int rcv_dict_some(rcv_arena *a, rcv_txn *t, rcv_off d, rcv_dict_iter *it, rcv_value *keys, rcv_value *values, int most)
    int rcv_dict_go_on(rcv_arena *a, rcv_txn *t, rcv_off d, rcv_dict_iter *it, unsigned what, rcv_value *key, rcv_value *value)
    int rcv_dict_step(rcv_arena *a, void *context, rcv_handle *h, rcv_txn **t, rcv_dict_iter *it, unsigned what, rcv_value *key,
                      rcv_value *value)
    int rcv_dict_key_at(rcv_arena *a, rcv_off slot, rcv_value *key)
    int rcv_dict_key_of_hash(rcv_arena *a, rcv_off d, uint64_t hash, rcv_value *key)

cdef object dict_unit_of(Container c, object key)
cdef object dict_as_kept(Container c, object key)
cdef object dict_written(Container c, Container before, list units)
cdef object dict_unit_text(Container c, unsigned unit, uint64_t arg)

cdef class DictHandle(Container):
    cdef dict pending
    cdef int store(self, rcv_txn *t, rcv_off d, object key, object value, list made) except -1
    cdef bint store_plain(self, rcv_txn *t, const rcv_key *key, dict value) except -1
    cdef int store_container(self, rcv_txn *t, object key, object value) except -1
    cdef object lookup(self, object key, object default)
    cdef bint remove(self, object key) except -1
    cdef dict flat(self)
    cdef dict unstored(self)
