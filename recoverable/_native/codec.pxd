# codec.pxd -- Python values to and from the core's.
from libc.stdint cimport int64_t
from recoverable._native.core cimport rcv_key, rcv_value
from recoverable._native.runtime cimport NativeArena

cdef struct KeyBuffer:
    rcv_key key
    int64_t word

cdef object encode(object value, rcv_value *out)
cdef object decode(NativeArena arena, const rcv_value *value)
cdef object encode_key(NativeArena arena, object key, KeyBuffer *out)
cdef object decode_key(const rcv_value *key)
