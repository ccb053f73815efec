# tuple.pxi -- tuples of the core's own types to and from the bytes of recoverable.codecs. Part of codec.pyx: rows and points are
# tuples, and reading a list of them is mostly this. What is not here (dates, decimals, users' types, damage) is left to that
# module, which is the specification: the bytes are the same.

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.list cimport PyList_AsTuple

cdef enum:
    PART_NONE = 0
    PART_FALSE = 1
    PART_TRUE = 2
    PART_INT = 3
    PART_FLOAT = 4
    PART_STR = 5
    PART_BYTES = 6
    PART_TUPLE = 7
    PART_HEAD = 5 # a tag, and the payload's length in four bytes
    PART_DEPTH = 50

cdef object OTHER = object() # not one of these


cdef inline void put_head(uint8_t *to, int tag, uint64_t size) noexcept:
    cdef int i
    to[0] = <uint8_t>tag
    for i in range(4):
        to[1 + i] = <uint8_t>(size >> 8 * i)


cdef uint8_t *part_room(bytearray out, int tag, uint64_t size) except NULL:
    """Append a head and room for a payload; returns where that begins."""
    cdef Py_ssize_t at = PyByteArray_GET_SIZE(out)
    if size > 0xffffffff:
        raise _errors.ArenaFullError("a tuple with a part of more than 4 GiB; nothing was changed")
    PyByteArray_Resize(out, at + PART_HEAD + <Py_ssize_t>size)
    cdef uint8_t *head = <uint8_t *>PyByteArray_AS_STRING(out) + at
    put_head(head, tag, size)
    return head + PART_HEAD


cdef int int_size(int64_t word) noexcept:
    """value.bit_length() // 8 + 1, as codecs has it."""
    cdef uint64_t magnitude = <uint64_t>word if word >= 0 else 0 - <uint64_t>word
    cdef int bits = 0
    while magnitude:
        bits += 1
        magnitude >>= 1
    return bits // 8 + 1


cdef bint append_part(bytearray out, object value, bint key, int depth) except -1:
    """Append a value; false: it is OTHER, and what was appended is of no use. `key`: equal numbers must get equal bytes."""
    cdef const uint8_t *ptr
    cdef uint64_t size
    cdef int64_t word
    cdef int n, overflow = 0
    cdef double number
    cdef Py_ssize_t at
    kind = type(value)
    if kind is int:
        word = PyLong_AsLongLongAndOverflow(value, &overflow)
        n = int_size(word)
        if overflow or n > 8:
            return False
        memcpy(part_room(out, PART_INT, n), &word, n) # little endian, which siphash.h makes sure of
    elif kind is str:
        kept = text_bytes(value, &ptr, &size)
        memcpy(part_room(out, PART_STR, size), ptr, size)
    elif kind is bytes:
        size = PyBytes_GET_SIZE(value)
        memcpy(part_room(out, PART_BYTES, size), PyBytes_AS_STRING(value), size)
    elif value is None:
        part_room(out, PART_NONE, 0)
    elif kind is tuple:
        if depth == PART_DEPTH:
            return False
        at = PyByteArray_GET_SIZE(out)
        part_room(out, PART_TUPLE, 0)
        for item in <tuple>value:
            if not append_part(out, item, key, depth + 1):
                return False
        size = <uint64_t>(PyByteArray_GET_SIZE(out) - at - PART_HEAD)
        if size > 0xffffffff:
            return False
        put_head(<uint8_t *>PyByteArray_AS_STRING(out) + at, PART_TUPLE, size)
    elif key:
        return False
    elif kind is float:
        number = PyFloat_AS_DOUBLE(value)
        memcpy(part_room(out, PART_FLOAT, 8), &number, 8)
    elif kind is bool:
        part_room(out, PART_TRUE if value else PART_FALSE, 0)
    else:
        return False
    return True


cpdef object tuple_bytes(object value, bint key=False):
    """Return what codecs.pack(value), or pack_key(value), would; None: ask them."""
    if type(value) is not tuple or not _no_codec_of_core_types():
        return None
    out = bytearray()
    if not append_part(out, value, key, 0):
        return None
    return PyBytes_FromStringAndSize(PyByteArray_AS_STRING(out), PyByteArray_GET_SIZE(out))


cdef bint _no_codec_of_core_types():
    """No user has registered a codec for a type that is packed here: theirs would win."""
    return not _by_type or _by_type.keys().isdisjoint(_CORE_TYPES)

_CORE_TYPES = (int, str, bytes, type(None), tuple, float, bool)


cdef object read_part(const uint8_t *at, const uint8_t *end, const uint8_t **after, int depth):
    """The value of the part at `at`, and where it ends; OTHER: no such part, or damage."""
    cdef uint64_t length = 0, word = 0
    cdef double number
    cdef int tag, i
    if end - at < PART_HEAD or depth > PART_DEPTH:
        return OTHER
    tag = at[0]
    for i in range(4):
        length |= <uint64_t>at[1 + i] << 8 * i
    at += PART_HEAD
    if length > <uint64_t>(end - at):
        return OTHER
    after[0] = at + length
    if tag == PART_INT and 0 < length <= 8:
        if at[length - 1] & 0x80:
            word = 0xffffffffffffffff
        memcpy(&word, at, length)
        return PyLong_FromLongLong(<int64_t>word)
    if tag == PART_STR:
        return text_of(at, length)
    if tag == PART_TUPLE:
        items = []
        end = at + length
        while at < end:
            item = read_part(at, end, &at, depth + 1)
            if item is OTHER:
                return OTHER
            items.append(item)
        return PyList_AsTuple(items)
    if tag == PART_NONE and length == 0:
        return None
    if tag == PART_FLOAT and length == 8:
        memcpy(&number, at, 8)
        return PyFloat_FromDouble(number)
    if tag == PART_BYTES:
        return PyBytes_FromStringAndSize(<char *>at, length)
    if tag == PART_TRUE and length == 0:
        return True
    if tag == PART_FALSE and length == 0:
        return False
    return OTHER


cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030C0000
    #define no_collection() PyGC_Disable()
    #define collection() PyGC_Enable()
    #else /* the collector waits for the next bytecode */
    #define no_collection() 0
    #define collection() ((void)0)
    #endif
    """
    int no_collection() noexcept
    void collection() noexcept


cdef object unpacked(const uint8_t *ptr, uint64_t size):
    """What codecs.unpack() makes of these bytes. Nothing but this runs as long as they are looked at in place."""
    cdef const uint8_t *after = ptr
    cdef bint collects
    value = OTHER
    if size and ptr[0] == PART_TUPLE:
        collects = no_collection() # whose finalisers would run in between
        try:
            value = read_part(ptr, ptr + size, &after, 0)
        finally:
            if collects:
                collection()
    if value is OTHER or after != ptr + size:
        return _codecs.unpack(PyBytes_FromStringAndSize(<char *>ptr, size))
    return value


def tuple_of(data: bytes) -> object:
    """Return what codecs.unpack(data) does, or raise what it raises."""
    return unpacked(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
