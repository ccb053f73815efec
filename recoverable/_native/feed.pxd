# feed.pxd -- what other modules take from the feed's.

cdef extern from "feed.h" nogil:
    ctypedef struct rcv_restore:
        pass


cdef class Restore:
    cdef rcv_restore *r
    cdef bint busy # bringing it forward, without the GIL
