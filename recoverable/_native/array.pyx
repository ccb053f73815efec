# cython: language_level=3, boundscheck=False, wraparound=False
"""Array's native half: items by announced access, memory by raw buffers."""
cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.float cimport PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.number cimport PyIndex_Check, PyNumber_AsSsize_t
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.math cimport isinf
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strlen
from recoverable._native.core cimport *
from recoverable._native.runtime cimport Container, Mark, NativeArena, Transaction, begin, done, fail

from recoverable import errors as _errors
from recoverable._native.runtime import current_transaction

cdef extern from "containers/array.h" nogil:
    struct rcv_array_info:
        uint64_t data, nbytes
        uint32_t itemsize, ndim
        uint64_t shape[8]
        char dtype[232]
    int rcv_array_new(rcv_txn *t, const rcv_array_info *info, const void *items, rcv_off *out)
    int rcv_array_get_info(rcv_arena *a, rcv_off array, rcv_array_info *out)
    int rcv_array_read(rcv_arena *a, rcv_txn *t, rcv_off array, uint64_t at, uint64_t len, void *out)
    int rcv_array_write(rcv_txn *t, rcv_off array, uint64_t at, uint64_t len, const void *bytes)
    int rcv_array_fill(rcv_txn *t, rcv_off array, const void *item)

cdef extern from "../src/segment/layout.h" nogil:
    enum:
        RCV_K_ARRAY


include "raw_buffer.pxi"


cdef enum:
    TYPES = 256 # a program has few
    DIMENSIONS = 8

cdef dict _types = {} # as the arena has them -> what _describe() is told of their items: each new handle asks
cdef dict _scalars = {} # _dtype -> the numpy type of an item by itself; None: there is no numpy
cdef dict _arrays = {} # _dtype -> numpy's ndarray, and its dtype; None: there is no numpy, or the dtype can be changed


cdef class ArrayHandle(Container):
    """What `recoverable.Array` builds on: bytes in, bytes out; shapes and dtypes are its business.

    `_format` is the struct code of an item ('d', 'q', …) where there is one, else "".
    """
    _kind = RCV_K_ARRAY
    cdef tuple extents # None: not read yet
    cdef readonly str _dtype
    cdef Py_ssize_t item_size
    cdef public bytes _source # items on their way into a new Array; None: zeros
    cdef readonly str _format
    cdef char item_code # the same, or 0
    cdef char code # … where an item can be asked for by one number, which takes one dimension; else 0
    cdef unsigned dimensions
    cdef uint64_t nbytes_, length
    cdef uint64_t extent[DIMENSIONS]

    def _describe(self, tuple shape, str dtype, Py_ssize_t itemsize, str format):
        """Say what the Array is (not stored yet)."""
        cdef uint64_t n = itemsize
        cdef unsigned d = 0
        for extent in shape:
            n *= <uint64_t>extent
            self.extent[d] = <uint64_t>extent
            d += 1
        self.dimensions = d
        self.extents = shape
        self._dtype = dtype
        self.item_size = itemsize
        self._format = format
        self.item_code = ord(format) if len(format) == 1 else 0
        self.code = self.item_code if d == 1 else 0
        self.nbytes_ = n
        self.length = <uint64_t>shape[0]

    @property
    def shape(self):
        """Its extents, one a dimension."""
        self._know()
        return self.extents

    @property
    def itemsize(self):
        """Bytes of one item."""
        self._know()
        return self.item_size

    @property
    def nbytes(self):
        """Bytes of all items."""
        self._know()
        return self.nbytes_

    @property
    def _stored(self):
        return self.arena is not None

    @property
    def _closed(self):
        return self.arena is not None and self.arena.closed

    cdef int materialize(self, NativeArena arena, rcv_txn *t, list made, rcv_off *out) except -1:
        cdef rcv_array_info info
        if self.arena is not None:
            return Container.materialize(self, arena, t, made, out)
        memset(&info, 0, sizeof(info))
        info.nbytes = self.nbytes_
        info.itemsize = <uint32_t>self.item_size
        info.ndim = <uint32_t>len(self.extents)
        for i, extent in enumerate(self.extents):
            info.shape[i] = <uint64_t>extent
        name = self._dtype.encode()
        memcpy(info.dtype, PyBytes_AS_STRING(name), len(name))
        cdef bytes initial = self._initial()
        cdef int rc = rcv_array_new(t, &info, NULL if initial is None else PyBytes_AS_STRING(initial), out)
        if rc:
            fail(rc)
        rc = rcv_handle_open(arena.a, out[0], &self.h)
        if rc < 0:
            fail(rc)
        self.arena = arena
        made.append(self)
        return 0

    cdef void rooted(self) noexcept:
        self._source = None

    def _initial(self):
        """Bytes to begin with, `nbytes` of them, or None for zeros."""
        return self._source

    cdef int known(self) except -1:
        """Read shape and dtype, once: they never change."""
        cdef rcv_txn *t
        cdef rcv_array_info info
        if self.extents is not None:
            return 0
        begin(self, False, &t)
        try:
            rc = rcv_array_get_info(self.arena.a, self.h.off, &info)
            if rc:
                fail(rc)
        finally:
            done(self.arena, t)
        name = info.dtype[:strlen(info.dtype)]
        shape = (info.shape[0],) if info.ndim == 1 else tuple([info.shape[i] for i in range(info.ndim)])
        item = _types.get(name)
        if item is not None and (<tuple>item)[1] == info.itemsize:
            self._describe(shape, (<tuple>item)[0], (<tuple>item)[1], (<tuple>item)[2])
            return 0
        try:
            self._load(shape, name.decode())
        except (TypeError, ValueError, SyntaxError, OverflowError) as error:
            self.extents = None
            raise _errors.ArenaCorruptError(
                f"an Array in the arena has items of type {name!r}, which is not a type ({error}); nothing was changed: "
                "run arena.verify()") from None
        if self.item_size != info.itemsize or self.nbytes_ != info.nbytes:
            self.extents = None
            raise _errors.ArenaCorruptError(
                f"an Array in the arena has items of {info.itemsize} bytes, but type {name!r}; nothing was changed: "
                "run arena.verify()")
        if len(_types) < TYPES:
            _types[name] = (self._dtype, self.item_size, self._format)
        return 0

    def _load(self, shape, dtype):
        """Describe an Array that was read from the arena: the Python half knows dtypes."""
        raise NotImplementedError

    @cython.final
    cdef inline int stored(self) except -1:
        return 0 if self.arena is not None and self.extents is not None else self.look()

    cdef int look(self) except -1:
        if self.arena is None:
            raise _errors.TransactionError(
                "this Array is not stored yet, so it has no items; store it in a container of the arena first: "
                "arena.root['name'] = array")
        return self.known()

    def _know(self):
        if self.arena is not None:
            self.known()

    def _read(self, uint64_t at, uint64_t size):
        """Return the bytes [at, at+size) of the items."""
        cdef rcv_txn *t
        self.stored()
        out = PyBytes_FromStringAndSize(NULL, size)
        begin(self, False, &t)
        try:
            rc = rcv_array_read(self.arena.a, t, self.h.off, at, size, PyBytes_AS_STRING(out))
            if rc:
                fail(rc)
        finally:
            done(self.arena, t)
        return out

    @property
    def _memory(self):
        cdef rcv_txn *t
        cdef rcv_array_info info
        self.stored()
        begin(self, False, &t)
        try:
            rc = rcv_array_get_info(self.arena.a, self.h.off, &info)
            if rc:
                fail(rc)
        finally:
            done(self.arena, t)
        return info.data, info.data + info.nbytes

    def _write(self, uint64_t at, const unsigned char[::1] data):
        """Write bytes at `at`: an announced write of exactly that range."""
        self.stored()
        self.put(at, data.shape[0], &data[0] if data.shape[0] != 0 else NULL)

    def _fill(self, const unsigned char[::1] item):
        cdef rcv_txn *t
        self.stored()
        begin(self, True, &t)
        rc = rcv_array_fill(t, self.h.off, &item[0])
        if rc:
            fail(rc)

    @cython.final
    cdef inline int index(self, object key, uint64_t *at) except -1:
        """The byte where item `key` of one dimension begins."""
        cdef int overflow = 1
        cdef Py_ssize_t i = PyLong_AsLongLongAndOverflow(key, &overflow) if PyLong_CheckExact(key) else 0
        if overflow:
            i = PyNumber_AsSsize_t(key, IndexError)
        if i < 0:
            i += self.length
        if i < 0 or <uint64_t>i >= self.length:
            raise IndexError(f"index {key} is out of bounds for an Array of {self.length} items")
        at[0] = <uint64_t>i * <uint64_t>self.item_size
        return 0

    cdef bint is_scalar(self, object key) except -1:
        """Is `key` an item, of one dimension, that has a struct code?"""
        if self.code != 0 and PyLong_CheckExact(key):
            return True
        if self.extents is None and self.arena is not None:
            self.known()
        return self.code != 0 and (PyLong_CheckExact(key) or is_index(key))

    def __len__(self):
        if self.arena is not None:
            self.known()
        return self.length

    @cython.final
    cdef bint is_place(self, object key, uint64_t *at) except -1:
        """Is `key` an item that has a struct code, by a number for each dimension? Fills where it begins."""
        cdef uint64_t item = 0
        cdef Py_ssize_t i
        cdef int overflow = 0
        cdef unsigned d
        if not PyTuple_CheckExact(key) or self.item_code == 0 or PyTuple_GET_SIZE(key) != self.dimensions:
            return False
        for d in range(self.dimensions):
            part = <object>PyTuple_GET_ITEM(key, d)
            if PyLong_CheckExact(part):
                i = PyLong_AsLongLongAndOverflow(part, &overflow)
            elif is_index(part):
                i = PyNumber_AsSsize_t(part, IndexError)
            else:
                return False
            if i < 0:
                i += self.extent[d]
            if overflow or i < 0 or <uint64_t>i >= self.extent[d]:
                raise IndexError(f"index {part} is out of bounds for dimension {d}, which has {self.extent[d]} items")
            item = item * self.extent[d] + <uint64_t>i
        at[0] = item * <uint64_t>self.item_size
        return True

    cdef object scalar_type(self):
        """The numpy type of an item by itself, or None without numpy."""
        try:
            return _scalars[self._dtype]
        except KeyError:
            found = self._scalar()
            if len(_scalars) < TYPES:
                _scalars[self._dtype] = found
            return found

    def _scalar(self):
        raise NotImplementedError

    def __getitem__(self, key):
        cdef uint64_t at
        if self.is_scalar(key):
            self.stored()
            self.index(key, &at)
            return self.item(at)
        if not self.is_place(key, &at):
            return self._get(key)
        self.stored()
        number = self.item(at)
        scalar = self.scalar_type()
        return number if scalar is None else scalar(number)

    def __setitem__(self, key, value):
        cdef uint64_t at
        cdef unsigned char raw[8]
        if self.is_scalar(key):
            self.stored()
            self.index(key, &at)
            self.pack(value, raw)
        elif not self.is_place(key, &at) or not self.packs(value, raw):
            self._set(key, value)
            return
        else:
            self.stored()
        self.put(at, self.item_size, raw)

    def __delitem__(self, key):
        raise TypeError("an Array keeps its shape: its items can't be deleted")

    @cython.final
    cdef object item(self, uint64_t at):
        """The item that begins at byte `at`; items have a struct code."""
        cdef rcv_txn *t
        cdef uint64_t raw = 0
        cdef float f4
        cdef double f8
        cdef int rc
        begin(self, False, &t)
        rc = rcv_array_read(self.arena.a, t, self.h.off, at, self.item_size, &raw)
        if rc or t == NULL:
            try:
                if rc:
                    fail(rc)
            finally:
                done(self.arena, t)
        if self.item_code == c'q':
            return <int64_t>raw
        if self.item_code == c'd':
            memcpy(&f8, &raw, 8)
            return f8
        if self.item_code == c'f':
            memcpy(&f4, &raw, 4)
            return <double>f4
        if self.item_code == c'i':
            return <int32_t>raw
        if self.item_code == c'Q':
            return raw
        if self.item_code == c'I':
            return <uint32_t>raw
        if self.item_code == c'h':
            return <int16_t>raw
        if self.item_code == c'H':
            return <uint16_t>raw
        if self.item_code == c'b':
            return <int8_t>raw
        if self.item_code == c'B':
            return <uint8_t>raw
        return bool(<uint8_t>raw)

    @cython.final
    cdef int pack(self, object value, unsigned char *raw) except -1:
        """Make an item of a number."""
        cdef int64_t q
        cdef uint64_t Q
        cdef double f8
        cdef float f4
        cdef char code = self.item_code
        if code == c'd':
            f8 = value
            memcpy(raw, &f8, 8)
        elif code == c'f':
            f4 = value
            memcpy(raw, &f4, 4)
        elif code == c'Q':
            Q = value
            memcpy(raw, &Q, 8)
        elif code == c'?':
            raw[0] = 1 if value else 0
        else:
            q = value
            if not fits(code, q):
                raise OverflowError(f"{value} does not fit an item of type {self._dtype}; nothing was written")
            memcpy(raw, &q, 8) # little endian: the low bytes come first
        return 0

    cdef bint packs(self, object value, unsigned char *raw) except -1:
        """Make an item of a number that needs no conversion. False: it needs one, or is no number: numpy decides."""
        cdef double f8
        cdef float f4
        cdef int64_t q
        cdef int overflow = 0
        cdef char code = self.item_code
        if not (PyFloat_CheckExact(value) or PyLong_CheckExact(value) or type(value) is self.scalar_type()):
            return False
        if code == c'd' or code == c'f':
            f8 = value
            f4 = <float>f8
            if code == c'f' and isinf(f4) and not isinf(f8):
                return False # numpy warns
        elif PyFloat_CheckExact(value) or code == c'?':
            return False
        else:
            q = PyLong_AsLongLongAndOverflow(value if PyLong_CheckExact(value) else int(value), &overflow)
            if overflow or (code == c'Q' and q < 0) or (code != c'Q' and not fits(code, q)):
                return False
        self.pack(value, raw)
        return True

    @cython.final
    cdef int put(self, uint64_t at, uint64_t size, const unsigned char *raw) except -1:
        """Write bytes at `at`: an announced write of exactly that range."""
        cdef rcv_txn *t
        begin(self, True, &t)
        cdef int rc = rcv_array_write(t, self.h.off, at, size, raw) if size != 0 else 0
        if rc:
            fail(rc)
        return 0

    def _gather(self, const int64_t[::1] places):
        """Return the bytes of the items with these numbers, one after the other: a read of exactly these."""
        cdef rcv_txn *t
        cdef uint64_t size = <uint64_t>self.item_size
        cdef Py_ssize_t i
        cdef int rc = 0
        self.stored()
        out = bytearray(<Py_ssize_t>(places.shape[0] * size))
        cdef char *to = out
        begin(self, False, &t)
        try:
            for i in range(places.shape[0]):
                rc = rcv_array_read(self.arena.a, t, self.h.off, <uint64_t>places[i] * size, size, to + i * size)
                if rc:
                    fail(rc)
        finally:
            done(self.arena, t)
        return out

    def _scatter(self, const int64_t[::1] places, const unsigned char[::1] raw):
        """Write items at these numbers: an announced write of each run of neighbours."""
        cdef uint64_t size = <uint64_t>self.item_size
        cdef Py_ssize_t first = 0, end, n = places.shape[0]
        self.stored()
        while first < n:
            end = first + 1
            while end < n and places[end] == places[end - 1] + 1:
                end += 1
            self.put(<uint64_t>places[first] * size, <uint64_t>(end - first) * size, &raw[first * size])
            first = end

    def _raw(self, bint write, uint64_t at, uint64_t size):
        """Return a RawBuffer over [at, at+size) of the items; `write`: writable, inside a transaction only."""
        cdef rcv_txn *t
        cdef rcv_array_info info
        self.stored()
        begin(self, write, &t)
        try:
            rc = rcv_array_get_info(self.arena.a, self.h.off, &info)
            if rc:
                fail(rc)
            if write:
                rcv_raw_viewed(self.arena.a, self.h.off)
            return RawBuffer.over(self.arena, t, info.data + at, size, write)
        finally:
            done(self.arena, t)

    def _view(self):
        """The memory of all items; writable inside a transaction."""
        self.stored()
        raw = self._raw(current_transaction(self.arena) is not None, 0, self.nbytes_)
        found = _arrays.get(self._dtype)
        if found is None:
            if self._dtype not in _arrays and len(_arrays) < TYPES:
                _arrays[self._dtype] = self._ndarray()
            return self._as_array(raw, self.extents)
        return (<tuple>found)[0](self.extents, (<tuple>found)[1], raw)

    def _ndarray(self):
        raise NotImplementedError

    def _as_array(self, raw, shape):
        raise NotImplementedError

    def _edit(self, uint64_t at, uint64_t size):
        """Begin an edit of [at, at+size): its transaction, and the mark that release() ends it with."""
        cdef rcv_txn *t
        cdef Transaction owner = current_transaction(self.arena)
        cdef Mark m = Mark.__new__(Mark)
        self.stored()
        begin(self, True, &t)
        rcv_raw_viewed(self.arena.a, self.h.off)
        rc = rcv_edit(t, self.h.off, at, size, &m.mark)
        if rc:
            fail(rc)
        owner.open_blocks += 1
        return owner, m

    cdef object unit_text(self, unsigned unit, uint64_t arg):
        cdef rcv_array_info info
        if unit == RCV_UNIT_BYTES and rcv_array_get_info(self.arena.a, self.h.off, &info) == 0:
            return f"item {(arg - info.data) // info.itemsize}"
        return None

    def __eq__(self, other):
        if isinstance(other, ArrayHandle):
            if self is other:
                return True
            if self.arena is not None and (<ArrayHandle>other).arena is self.arena:
                return self.h.id == (<ArrayHandle>other).h.id
            return False
        return NotImplemented

    __hash__ = None


cpdef bint is_index(object key) except -1:
    """Is it one position: an int, or what stands for one? A bool is a mask, an array of numbers a list of positions."""
    return PyIndex_Check(key) and not isinstance(key, bool) and not getattr(key, "ndim", 0)


cdef bint fits(char code, int64_t value):
    if code == c'q':
        return True
    if code == c'i':
        return -2147483648 <= value <= 2147483647
    if code == c'I':
        return 0 <= value <= 4294967295
    if code == c'h':
        return -32768 <= value <= 32767
    if code == c'H':
        return 0 <= value <= 65535
    if code == c'b':
        return -128 <= value <= 127
    return 0 <= value <= 255
