# cython: language_level=3, boundscheck=False, wraparound=False
"""The codec: which Python values an arena can hold, and how they look to the core.

`None bool int float str bytes` are the core's own; the others go through recoverable.codecs, and so do subclasses of these,
whose methods are not asked. Text is UTF-8; lone surrogates are kept ("surrogatepass").
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact, PyFloat_FromDouble
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.list cimport PyList_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact, PyLong_FromLongLong
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from recoverable._native.core cimport *
from recoverable._native.runtime cimport LATE_KEYS, Container, NativeArena, late_key, bind, done, fail, gate, hold, of_kind, \
    unhold, unstored

from recoverable import codecs as _codecs
from recoverable import errors as _errors

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size)
    void PyErr_Clear()

cdef dict _by_type = _codecs._by_type

cdef enum:
    DEEPEST = 1000 # containers in each other that are stored at once: each takes the processor's stack
    SHOWN = 200 # characters of a key that a text shows

cdef object MOST_FLOAT = int(1.7976931348623157e308)

_HOW = ("nothing was stored; register_codec() teaches arenas an immutable type of yours, "
        "and for the rest store its parts, or text such as json.dumps() makes")


cdef object text_bytes(object text, const uint8_t **ptr, uint64_t *size):
    """Point at the UTF-8 of a str, not a subclass. Returns what must stay alive meanwhile."""
    cdef Py_ssize_t n = 0
    if rcv_plain_text(text, ptr, size):
        return text
    cdef const char *utf8 = PyUnicode_AsUTF8AndSize(text, &n)
    if utf8 == NULL:
        PyErr_Clear() # lone surrogates
        kept = text.encode("utf-8", "surrogatepass")
        ptr[0] = <const uint8_t *>PyBytes_AS_STRING(kept)
        size[0] = PyBytes_GET_SIZE(kept)
        return kept
    ptr[0] = <const uint8_t *>utf8
    size[0] = n
    return text


include "text.pxi"
include "tuple.pxi"


cdef bytes int_bytes(object value):
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


cdef object encode(object value, rcv_value *out):
    """Describe a value to the core; `out.tag` is 0 for what is not a scalar (a container, or nothing that can be stored).

    Returns what must stay alive while `out` is used.
    """
    cdef int overflow = 0
    cdef double number
    out.ptr = NULL
    out.len = 0
    out.word = 0
    if _by_type and type(value) in _by_type: # of a user's own type, which may be an int's or a str's subclass
        packed = _codecs.pack(value)
        out.tag = RCV_T_CUSTOM
        out.ptr = <const uint8_t *>PyBytes_AS_STRING(packed)
        out.len = PyBytes_GET_SIZE(packed)
        return packed
    if value is None:
        out.tag = RCV_T_NONE
    elif value is True:
        out.tag = RCV_T_TRUE
    elif value is False:
        out.tag = RCV_T_FALSE
    elif PyLong_CheckExact(value):
        out.word = <uint64_t>PyLong_AsLongLongAndOverflow(value, &overflow)
        out.tag = RCV_T_INT
        if overflow:
            kept = int_bytes(value)
            out.tag = RCV_T_BIGINT
            out.ptr = <const uint8_t *>PyBytes_AS_STRING(kept)
            out.len = PyBytes_GET_SIZE(kept)
            return kept
    elif PyUnicode_CheckExact(value):
        out.tag = RCV_T_STR
        return text_bytes(value, &out.ptr, &out.len)
    elif PyFloat_CheckExact(value):
        out.tag = RCV_T_FLOAT
        number = PyFloat_AS_DOUBLE(value)
        memcpy(&out.word, &number, 8)
    elif PyBytes_CheckExact(value):
        out.tag = RCV_T_BYTES
        out.ptr = <const uint8_t *>PyBytes_AS_STRING(value)
        out.len = PyBytes_GET_SIZE(value)
    elif isinstance(value, (Container, dict, list, set, frozenset)):
        out.tag = 0
    else:
        packed = tuple_bytes(value)
        if packed is None:
            plain = _codecs.plain(value)
            if plain is not value and plain is not None: # of a subclass
                return encode(plain, out)
            packed = _codecs.pack(value)
        out.tag = 0
        if packed is not None:
            out.tag = RCV_T_CUSTOM
            out.ptr = <const uint8_t *>PyBytes_AS_STRING(packed)
            out.len = PyBytes_GET_SIZE(packed)
            return packed
    return value


include "dict_pack.pxi"
include "list_pack.pxi"


cdef object describe(NativeArena arena, rcv_txn *t, object value, rcv_value *out, list made):
    """encode(), and make the containers that the value needs. Returns what must stay alive while `out` is used."""
    kept = encode(value, out)
    if out.tag != 0:
        return kept
    if PyDict_CheckExact(value) and pack_dict(arena, t, <dict>value, &out.word):
        out.tag = RCV_T_REF
        return None
    if PyList_CheckExact(value) and pack_list(t, (<list>value)[:], &out.word):
        out.tag = RCV_T_REF
        return None
    if arena.materializing == DEEPEST:
        raise RecursionError(f"a value with more than {DEEPEST} containers in each other can't be stored at once; nothing was "
                             "stored: store the outer ones first, and each of the inner ones in the one around it")
    cdef Container child = <Container>value if isinstance(value, Container) else unstored(value)
    if child is None:
        raise unsupported(value)
    out.tag = RCV_T_REF
    arena.materializing += 1
    try:
        child.materialize(arena, t, made, &out.word)
    finally:
        arena.materializing -= 1
    return child


cdef int put(Container c, rcv_txn *t, object value, putter apply, uint64_t argument) except? -100:
    """Store a value with containers in it by apply(): all of it or nothing. Returns what apply() gave: 1, or 0: no such place,
    and nothing is stored."""
    cdef rcv_mark mark
    cdef rcv_value v
    cdef int rc
    made = []
    rcv_op_begin(t, &mark)
    cdef uint64_t held = hold(c.arena)
    try:
        try:
            kept = describe(c.arena, t, value, &v, made)
            rc = apply(t, c.h.off, argument, &v)
            if rc < 0:
                fail(rc)
        except BaseException:
            rcv_op_fail(t, &mark)
            raise
        finally:
            unhold(c.arena, held)
    except BaseException:
        for child in made:
            (<Container>child).discard()
        raise
    if rc == 0:
        rcv_op_fail(t, &mark)
    for child in made:
        if rc == 0:
            (<Container>child).discard()
        else:
            (<Container>child).rooted()
    return rc


cdef object decode(NativeArena arena, const rcv_value *value):
    """Make the Python value; a container gives a live handle. Call it under gate()."""
    cdef double number
    cdef uint64_t held
    cdef int tag = value.tag
    if tag == RCV_T_INT:
        return PyLong_FromLongLong(<int64_t>value.word)
    if tag == RCV_T_STR:
        return text_of(value.ptr, value.len)
    if tag == RCV_T_NONE:
        return None
    if tag == RCV_T_TRUE:
        return True
    if tag == RCV_T_FALSE:
        return False
    if tag == RCV_T_FLOAT:
        memcpy(&number, &value.word, 8)
        return PyFloat_FromDouble(number)
    if tag == RCV_T_BYTES:
        return PyBytes_FromStringAndSize(<char *>value.ptr, value.len)
    held = hold(arena)
    try:
        return decode_by_code(arena, value)
    finally:
        unhold(arena, held)


cdef object decode_by_code(NativeArena arena, const rcv_value *value):
    """decode(), where Python code runs: a codec's, a class', or a finaliser's. The value's bytes are not looked at after that."""
    cdef rcv_handle h
    cdef int kind
    cdef int tag = value.tag
    if tag == RCV_T_BIGINT:
        return int.from_bytes(PyBytes_FromStringAndSize(<char *>value.ptr, value.len), "little", signed=True)
    if tag == RCV_T_CUSTOM:
        return unpacked(value.ptr, value.len)
    if tag == RCV_T_REF:
        kind = rcv_handle_open(arena.a, value.word, &h)
        if kind < 0:
            fail(kind)
        return bind(arena, of_kind(kind).class_at(arena, &h), h)
    raise _errors.ArenaVersionError(
        f"the arena holds a value of type {tag}, which this version does not know; nothing was changed: "
        "attach with the version that wrote it")


cdef object encode_key(NativeArena arena, object key, KeyBuffer *out):
    """Describe a key: its canonical bytes and their keyed hash. Returns what must stay alive while `out` is used."""
    cdef double number
    if _by_type and type(key) in _by_type:
        hash(key)
        return custom_key(arena, _codecs.pack_key(key), out)
    cdef late_key *late = &arena.late_keys[(<size_t><PyObject *>key >> 4 ^ <size_t><PyObject *>key >> 12) & LATE_KEYS - 1]
    if late.text == <PyObject *>key: # `d[k] += 1` brings it twice, field names come again and again
        out.key = late.key
        return key
    if PyUnicode_CheckExact(key):
        return text_key(arena, key, late, out)
    if PyLong_CheckExact(key) or key is True or key is False:
        return int_key(arena, key, out)
    if PyBytes_CheckExact(key):
        out.key.ptr = <const uint8_t *>PyBytes_AS_STRING(key)
        return ready(arena, key, KEY_BYTES, RCV_T_BYTES, PyBytes_GET_SIZE(key), out)
    out.key.ptr = <const uint8_t *>&out.word
    if PyFloat_CheckExact(key):
        if key.is_integer():
            kept = encode_key(arena, int(key), out)
            out.key.tag = RCV_T_FLOAT
            return kept
        number = PyFloat_AS_DOUBLE(key)
        memcpy(&out.word, &number, 8)
        return ready(arena, key, KEY_FLOAT, RCV_T_FLOAT, 8, out)
    if key is None:
        return ready(arena, key, KEY_NONE, RCV_T_NONE, 0, out)
    return other_key(arena, key, out)


cdef inline object ready(NativeArena arena, object kept, uint8_t kind, uint8_t tag, uint64_t size, KeyBuffer *out):
    """Complete the description of a key whose bytes are known."""
    if size > 0xffffffff:
        raise _errors.ArenaFullError("a key of more than 4 GiB; nothing was changed")
    out.key.kind = kind
    out.key.tag = tag
    out.key.len = <uint32_t>size
    rcv_key_hash(arena.a, &out.key)
    return kept


cdef inline object text_key(NativeArena arena, object key, late_key *late, KeyBuffer *out):
    """encode_key() of a str, which is kept for the next time if it is short."""
    cdef uint64_t size
    kept = key if rcv_plain_text(key, &out.key.ptr, &size) else text_bytes(key, &out.key.ptr, &size)
    ready(arena, kept, KEY_STR, RCV_T_STR, size, out)
    if kept is key and size <= 64:
        Py_INCREF(key)
        if late.text != NULL:
            Py_DECREF(<object>late.text)
        late.text = <PyObject *>key
        late.key = out.key
    return kept


cdef inline object int_key(NativeArena arena, object key, KeyBuffer *out):
    """encode_key() of an int or a bool."""
    cdef int overflow = 0
    out.word = PyLong_AsLongLongAndOverflow(key, &overflow)
    if overflow:
        kept = int_bytes(key)
        out.key.ptr = <const uint8_t *>PyBytes_AS_STRING(kept)
        return ready(arena, kept, KEY_BIGINT, RCV_T_BIGINT, PyBytes_GET_SIZE(kept), out)
    out.key.ptr = <const uint8_t *>&out.word
    return ready(arena, key, KEY_INT, RCV_T_TRUE if key is True else RCV_T_FALSE if key is False else RCV_T_INT, 8, out)


cdef object custom_key(NativeArena arena, bytes packed, KeyBuffer *out):
    """The key that codecs.pack_key() has made bytes of."""
    out.key.ptr = <const uint8_t *>PyBytes_AS_STRING(packed)
    return ready(arena, packed, KEY_CUSTOM, RCV_T_CUSTOM, PyBytes_GET_SIZE(packed), out)


cdef object other_key(NativeArena arena, object key, KeyBuffer *out):
    """encode_key() of what recoverable.codecs knows."""
    hash(key) # an unhashable one gets the exception that a dict would give
    packed = tuple_bytes(key, True)
    if packed is not None:
        return custom_key(arena, packed, out)
    plain = _codecs.plain(key)
    if plain is not key and plain is not None: # of a subclass
        return encode_key(arena, plain, out)
    packed = _codecs.pack_key(key)
    if packed is None:
        raise TypeError(f"a key of type {type(key).__name__!r} can't be stored in an arena; nothing was changed: "
                        "use an immutable type that arenas know, or register_codec()")
    if packed[0] in (3, 4): # a Decimal that an int or a float equals is their key
        return encode_key(arena, _codecs.unpack(packed), out)
    return custom_key(arena, packed, out)


cdef object decode_key(const rcv_value *key):
    """Make the Python key; `word` holds its canonical kind."""
    cdef double number
    cdef int64_t word
    cdef int kind = <int>key.word
    if kind == KEY_STR:
        return key_text(key.ptr, key.len)
    if kind == KEY_BYTES:
        return PyBytes_FromStringAndSize(<char *>key.ptr, key.len)
    if kind == KEY_NONE:
        return None
    if kind == KEY_INT and key.len == 8:
        memcpy(&word, key.ptr, 8)
        if key.tag == RCV_T_TRUE:
            return True
        if key.tag == RCV_T_FALSE:
            return False
        return float(word) if key.tag == RCV_T_FLOAT else word
    if kind == KEY_BIGINT:
        big = int.from_bytes(PyBytes_FromStringAndSize(<char *>key.ptr, key.len), "little", signed=True)
        if key.tag != RCV_T_FLOAT:
            return big
        if -MOST_FLOAT <= big <= MOST_FLOAT:
            return float(big)
    if kind == KEY_FLOAT and key.len == 8:
        memcpy(&number, key.ptr, 8)
        return number
    if kind == KEY_CUSTOM:
        return unpacked(key.ptr, key.len)
    raise _errors.ArenaCorruptError(f"a key of unknown kind {kind}; nothing was changed: run arena.verify()")


cdef object shown(const rcv_value *key):
    """The key's repr(), cut. What a key is must not stand in the way of saying where it is: never raises."""
    try:
        text = spelled(decode_key(key))
    except Exception: # of its own __repr__ or codec
        return "?"
    return text if len(text) <= SHOWN else text[:SHOWN - 1] + "\u2026"


cdef object spelled(object key):
    """repr(), but not of all that is too long to be shown; of an int of so many digits that Python refuses, hex()."""
    if type(key) is int and key.bit_length() > 4 * SHOWN:
        return hex(key)
    if type(key) is tuple:
        return f"({', '.join([spelled(item) for item in key[:SHOWN]])}{',' if len(key) == 1 else ''})"
    return repr(key[:SHOWN + 1] if type(key) in (str, bytes) else key)


def unsupported(value: object) -> TypeError:
    """Return the error for a value that can't be stored: names the way out."""
    if type(value) is tuple:
        for item in value:
            if isinstance(item, Container) or unstored(item) is not None:
                return TypeError(f"a tuple with a {type(item).__name__!r} in it can't be stored in an arena: nothing was stored; a tuple "
                                 "is one immutable value: use a list, or a Record, whose items may be containers")
            if _codecs.pack(item) is None:
                return unsupported(item)
    how = "nothing was stored; store its .item()" if type(value).__module__ == "numpy" and hasattr(value, "item") else _HOW
    return TypeError(f"a value of type {type(value).__name__!r} can't be stored in an arena: {how}")
