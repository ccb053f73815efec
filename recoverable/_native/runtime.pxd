# runtime.pxd -- what the other Cython modules share of runtime.pyx.
from recoverable._native.core cimport rcv_arena, rcv_handle, rcv_off, rcv_txn, rcv_txn_report

cdef class NativeArena:
    cdef rcv_arena *a
    cdef readonly bint closed
    cdef public object public
    cdef readonly Py_ssize_t views
    cdef object __weakref__
    cdef Container _root

cdef class Container:
    cdef NativeArena arena
    cdef rcv_handle h
    cdef int plant(self, NativeArena arena, rcv_txn *t, list planted, rcv_off *out) except -1
    cdef void unplant(self) noexcept
    cdef void rooted(self) noexcept
    cpdef object to_python(self)

cdef class Transaction:
    cdef rcv_txn *t
    cdef readonly NativeArena arena
    cdef readonly str handler
    cdef readonly bint one_step
    cdef public object hooks
    cdef public int attempt
    cdef public int open_blocks
    cdef readonly bint conflicted
    cdef str _ended
    cdef bint _touched, _wrote
    cdef rcv_txn_report kept
    cdef rcv_txn *before_txn
    cdef void *before_context
    cdef void *before_owner
    cdef bint entered
    cdef object __weakref__
    cdef int check(self) except -1
    cdef void end(self, str how) noexcept
    cdef int try_commit(self) except? -100
    cdef int commit_failed(self, int rc) except -1
    cdef object make_report(self)

cdef int fail(int rc) except -1
cdef void *current_context()
cdef int gate(NativeArena arena, bint write, rcv_txn **t) except -1
cdef int begin(Container c, bint write, rcv_txn **t) except -1
cdef void done(NativeArena arena, rcv_txn *t) noexcept
cdef Container bind(NativeArena arena, object cls, rcv_handle h)
cdef object container_class(int kind)
