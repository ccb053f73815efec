# text.pxi -- UTF-8 in the arena to str. Part of codec.pyx: reading records is mostly this, so the common case is native.

cdef extern from *:
    """
    #include <string.h>
    #include <stdint.h>

    static inline uint64_t rcv_word(const unsigned char *p)
    {
        uint64_t word;
        memcpy(&word, p, 8);
        return word;
    }

    static inline int rcv_is_ascii(const unsigned char *p, size_t n)
    {
        uint64_t high = 0;
        size_t   i = 0;
        if (n < 8) {
            for (; i < n; i++)
                high |= p[i];
            return (high & 0x80) == 0;
        }
        for (; i + 32 <= n; i += 32)
            high |= rcv_word(p + i) | rcv_word(p + i + 8) | rcv_word(p + i + 16) | rcv_word(p + i + 24);
        for (; i + 8 <= n; i += 8)
            high |= rcv_word(p + i);
        high |= rcv_word(p + n - 8); /* the rest, and some of it again */
        return (high & UINT64_C(0x8080808080808080)) == 0;
    }

    /* A str of ASCII bytes, which most text is: half the time of PyUnicode_DecodeUTF8. NULL without an exception: it is none,
     * or a single character, which Python keeps ready-made. */
    static PyObject *rcv_ascii(const unsigned char *p, size_t n)
    {
        if (n < 2 || n > 65536 || !rcv_is_ascii(p, n))
            return NULL;
        PyObject *text = PyUnicode_New((Py_ssize_t)n, 127);
        if (text == NULL)
            PyErr_Clear(); /* the long way says so again */
        else
            memcpy(PyUnicode_1BYTE_DATA(text), p, n);
        return text;
    }

    /* Point at the UTF-8 of a str that has it ready, being ASCII. */
    static inline int rcv_plain_text(PyObject *text, const unsigned char **ptr, uint64_t *size)
    {
        if (!PyUnicode_IS_COMPACT_ASCII(text))
            return 0;
        *ptr = PyUnicode_1BYTE_DATA(text);
        *size = (uint64_t)PyUnicode_GET_LENGTH(text);
        return 1;
    }

    /* Keys that were read lately. Records have the same few field names: the str that is there already needs no memory, and
     * has its hash with it. */
    static PyObject *rcv_known_keys[256];

    static PyObject *rcv_ascii_key(const unsigned char *p, size_t n)
    {
        if (n < 2 || n > 32)
            return rcv_ascii(p, n);
        uint64_t mix = n >= 8 ? rcv_word(p) ^ rcv_word(p + n - 8) << 1 : p[0] | p[n / 2] << 8 | p[n - 1] << 16;
        mix = (mix ^ n << 56) * UINT64_C(0x9e3779b97f4a7c15);
        PyObject **slot = &rcv_known_keys[mix >> 56], *known = *slot;
        if (known != NULL && (size_t)PyUnicode_GET_LENGTH(known) == n && memcmp(PyUnicode_1BYTE_DATA(known), p, n) == 0)
            return Py_NewRef(known);
        PyObject *text = rcv_ascii(p, n);
        if (text != NULL) {
            *slot = Py_NewRef(text);
            Py_XDECREF(known);
        }
        return text;
    }
    """
    PyObject *rcv_ascii(const unsigned char *p, size_t n)
    PyObject *rcv_ascii_key(const unsigned char *p, size_t n)
    bint rcv_plain_text(object text, const unsigned char **ptr, uint64_t *size)


cdef object text_of(const uint8_t *ptr, uint64_t size):
    """Make the str of UTF-8 in the arena."""
    cdef PyObject *ascii = rcv_ascii(ptr, size)
    return decode_text(ptr, size) if ascii == NULL else owned(ascii)


cdef object key_text(const uint8_t *ptr, uint64_t size):
    """text_of(), for a key."""
    cdef PyObject *ascii = rcv_ascii_key(ptr, size)
    return decode_text(ptr, size) if ascii == NULL else owned(ascii)


cdef inline object owned(PyObject *new):
    """Take over a new reference."""
    out = <object>new
    Py_DECREF(out)
    return out


cdef object decode_text(const uint8_t *ptr, uint64_t size):
    try:
        return PyUnicode_DecodeUTF8(<char *>ptr, size, "surrogatepass")
    except UnicodeDecodeError as error:
        raise _errors.ArenaCorruptError(f"a text in the arena is no UTF-8 ({error.reason}); nothing was changed: run arena.verify()")
