# list_walk.pxi -- what an iterator of a List gives next. Part of list.pyx.

_END = object()


cdef class ListIterator:
    """What iter() and reversed() of a List give: like a list's, it goes by position and follows what changes meanwhile."""
    cdef ListHandle l # None: at its end, for good
    cdef Py_ssize_t i, step

    def __init__(self, ListHandle l, Py_ssize_t i, Py_ssize_t step):
        self.l, self.i, self.step = l, i, step

    def __iter__(self):
        return self

    def __next__(self):
        cdef rcv_txn *t
        cdef ListHandle l = self.l
        if l is None:
            raise StopIteration
        if l.arena is None:
            if 0 <= self.i < len(l._pending):
                self.i += self.step
                return l._pending[self.i - self.step]
        elif self.i >= 0:
            begin(l, False, &t)
            if t != NULL:
                value = self.fetch(l, t) # nothing to end
            else:
                try:
                    value = self.fetch(l, t)
                finally:
                    done(l.arena, t)
            if value is not _END:
                return value
        self.l = None
        raise StopIteration

    cdef inline object fetch(self, ListHandle l, rcv_txn *t):
        """The next item, or _END. While it waited for the lock, another thread may have been at the end, and cleared `self.l`."""
        cdef rcv_value v
        cdef int rc = rcv_list_get(l.arena.a, t, l.h.off, <uint64_t>self.i, &v)
        if rc == 1:
            self.i += self.step
            return decode(l.arena, &v)
        if rc < 0:
            fail(rc)
        return _END
