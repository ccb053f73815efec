# dict.pxd
from recoverable._native.codec cimport KeyBuffer
from recoverable._native.core cimport rcv_off, rcv_txn
from recoverable._native.runtime cimport Container, NativeArena

cdef class DictHandle(Container):
    cdef dict pending
    cdef int store(self, rcv_txn *t, rcv_off d, object key, object value, list made) except -1
    cdef int store_container(self, rcv_txn *t, object key, object value) except -1
    cdef object lookup(self, object key, object default)
    cdef object fetch(self, rcv_txn *t, KeyBuffer *k, object default)
    cdef bint remove(self, object key) except -1
    cdef dict flat(self)
    cdef dict unstored(self)
