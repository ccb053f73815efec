# list_pack.pxi -- a plain list of plain values, stored without a handle in between. Part of codec.pyx.

cdef extern from "containers/list.h" nogil:
    int rcv_list_make(rcv_txn *t, uint64_t n, rcv_off *out)
    int rcv_list_fill(rcv_txn *t, rcv_off l, uint64_t i, const rcv_value *value)


cdef int pack_list(rcv_txn *t, list items, rcv_off *out) except -1:
    """Make a List; `items` is nobody else's. 0: nothing was made, since there are containers among them."""
    cdef rcv_value v
    cdef uint64_t i = 0
    for value in items:
        if not no_container(value):
            return 0
    cdef int rc = rcv_list_make(t, len(items), out)
    if rc:
        fail(rc)
    for value in items:
        kept = encode(value, &v)
        if v.tag == 0:
            raise unsupported(value)
        rc = rcv_list_fill(t, out[0], i, &v)
        if rc:
            fail(rc)
        i += 1
    return 1
