# cython: language_level=3, boundscheck=False, wraparound=False
"""Record's native half: fields at fixed slots; which is which is read from the schema that the arena keeps."""
from libc.stdint cimport uint32_t, uint64_t
from recoverable._native.codec cimport KeyBuffer, decode, describe, encode, encode_key, put
from recoverable._native.core cimport *
from recoverable._native.dict cimport rcv_dict_get, rcv_dict_set
from recoverable._native.runtime cimport Container, NativeArena, begin, bind, done, fail, gate, hold, unhold

cdef extern from "containers/record.h" nogil:
    int rcv_record_new(rcv_txn *t, uint64_t schema, uint32_t fields, rcv_off *out)
    int rcv_record_fill(rcv_txn *t, rcv_off r, uint32_t i, const rcv_value *value)
    int rcv_record_info(rcv_arena *a, rcv_off r, uint64_t *schema, uint32_t *fields)
    int rcv_record_get(rcv_arena *a, rcv_txn *t, rcv_off r, uint32_t i, rcv_value *out)
    int rcv_record_set(rcv_txn *t, rcv_off r, uint32_t i, const rcv_value *value)
    int rcv_record_seen(rcv_arena *a, rcv_txn *t, rcv_off r)
    int rcv_record_migrate(rcv_txn *t, rcv_off r, uint64_t schema, uint32_t fields)

cdef extern from "../src/segment/layout.h" nogil:
    enum:
        RCV_K_RECORD


cdef int put_field(rcv_txn *t, rcv_off r, uint64_t i, const rcv_value *value) noexcept:
    cdef int rc = rcv_record_set(t, r, <uint32_t>i, value)
    return rc if rc else 1


cdef int store_schema(NativeArena arena, rcv_txn *t, object id, object text) except -1:
    """See to it that the arena keeps the schema's text. None is ever deleted, so that it is there needs no looking again."""
    cdef KeyBuffer k
    cdef rcv_value v
    cdef int rc = rcv_system_make(t)
    if rc:
        fail(rc)
    kept_key = encode_key(arena, id, &k)
    rc = rcv_dict_get(arena.a, NULL, rcv_system(arena.a), &k.key, &v)
    if rc == 0:
        kept = encode(text, &v)
        rc = rcv_dict_set(t, rcv_system(arena.a), &k.key, &v)
    if rc < 0:
        fail(rc)
    return 0


cdef dict _classes = {} # schema -> class


def forget_record_classes() -> None:
    """A class was defined: look again."""
    global _classes
    _classes = {} # who is looking right now keeps what it finds in the old one


include "record_layout.pxi"


cdef class RecordHandle(Container):
    """What `recoverable.Record` builds on. The class gives `_layout`."""
    _kind = RCV_K_RECORD
    cdef public list _pending # the fields' values; None once it is stored
    cdef uint64_t schema
    cdef Layout layout # whose …
    cdef tuple slots # … fields lie where in a record of that schema; -1: not stored yet

    def __init__(self, *args, **values):
        cdef Layout layout = type(self)._layout
        self._pending = layout.values(args, values)

    @property
    def _stored(self):
        return self.arena is not None

    cdef int materialize(self, NativeArena arena, rcv_txn *t, list made, rcv_off *out) except -1:
        cdef rcv_value v
        if self.arena is not None:
            return Container.materialize(self, arena, t, made, out)
        cdef Layout layout = type(self)._layout
        store_schema(arena, t, layout.id, layout.text)
        cdef int rc = rcv_record_new(t, layout.number, <uint32_t>len(layout.fields), out)
        if rc:
            fail(rc)
        rc = rcv_handle_open(arena.a, out[0], &self.h)
        if rc < 0:
            fail(rc)
        self.arena = arena
        self.slots = None
        made.append(self)
        cdef uint32_t i = 0
        for value in self.waiting(layout):
            kept = describe(arena, t, value, &v, made)
            rc = rcv_record_fill(t, out[0], i, &v)
            if rc:
                fail(rc)
            i += 1
        return 0

    cdef list waiting(self, Layout layout):
        """The values of one that is not stored yet, one a field of its class."""
        if self._pending is None or len(self._pending) != len(layout.fields): # its class was assigned to, say
            raise TypeError(f"a {type(self).__name__} without values; nothing was changed: its __init__() has to call that of Record")
        return self._pending

    cdef void rooted(self) noexcept:
        self._pending = None

    cdef Py_ssize_t slot(self, Field field) except? -2:
        """Where the field lies; -1: not stored yet. Under begin()."""
        cdef uint64_t schema
        cdef uint32_t n
        cdef int rc = rcv_record_info(self.arena.a, self.h.off, &schema, &n)
        if rc:
            fail(rc)
        cdef uint64_t held
        if self.slots is None or schema != self.schema or self.layout is not field.layout:
            if schema == field.layout.number:
                self.slots = field.layout.straight
            else:
                held = hold(self.arena)
                try:
                    self.slots = field.layout.cls._map_of(schema, self)
                finally:
                    unhold(self.arena, held)
            self.schema = schema
            self.layout = field.layout
        cdef Py_ssize_t at = self.slots[field.index]
        return at

    def _schema_text(self, uint64_t schema):
        """Return the text of a schema that the arena keeps, or None."""
        cdef rcv_txn *t
        cdef KeyBuffer k
        cdef rcv_value v
        cdef int rc = 0
        gate(self.arena, False, &t)
        try:
            kept = encode_key(self.arena, schema, &k)
            if rcv_system(self.arena.a) != 0:
                rc = rcv_dict_get(self.arena.a, t, rcv_system(self.arena.a), &k.key, &v)
            if rc < 0:
                fail(rc)
            return decode(self.arena, &v) if rc == 1 else None
        finally:
            done(self.arena, t)

    def _stored_schema(self):
        """Return the id of the schema that it is stored with."""
        cdef rcv_txn *t
        cdef uint64_t schema
        cdef uint32_t n
        begin(self, False, &t)
        try:
            rc = rcv_record_info(self.arena.a, self.h.off, &schema, &n)
            if rc:
                fail(rc)
            return schema
        finally:
            done(self.arena, t)

    def _slot_value(self, uint32_t i):
        """Return what a slot holds."""
        cdef rcv_txn *t
        cdef rcv_value v
        begin(self, False, &t)
        try:
            rc = rcv_record_get(self.arena.a, t, self.h.off, i, &v)
            if rc:
                fail(rc)
            return decode(self.arena, &v)
        finally:
            done(self.arena, t)

    cdef object read(self, Field field):
        cdef rcv_txn *t
        if self.arena is None:
            return self.waiting(type(self)._layout)[self.place(field)]
        begin(self, False, &t)
        if t != NULL:
            return self.fetch(t, field) # nothing to end
        try:
            return self.fetch(t, field)
        finally:
            done(self.arena, t)

    cdef Py_ssize_t place(self, Field field) except -1:
        """Where its class has the field, which may be one of a base class or of a stranger."""
        if field.layout.cls is type(self):
            return field.index
        names = type(self)._schema.names
        if field.name not in names:
            raise AttributeError(f"{field.name!r} of another class than {type(self).__name__!r}; nothing was changed")
        return names.index(field.name)

    cdef object fetch(self, rcv_txn *t, Field field):
        cdef rcv_value v
        cdef int rc
        cdef Py_ssize_t i = self.slot(field)
        if i < 0: # its class has gained the field since
            rc = rcv_record_seen(self.arena.a, t, self.h.off)
            if rc:
                fail(rc)
            return field.default if field.shared else field.fresh()
        rc = rcv_record_get(self.arena.a, t, self.h.off, <uint32_t>i, &v)
        if rc:
            fail(rc)
        return decode(self.arena, &v)

    cdef int write(self, Field field, object value) except -1:
        cdef rcv_txn *t
        cdef rcv_value v
        cdef Py_ssize_t i
        cdef int rc
        value = field.checked(value)
        if self.arena is None:
            self.waiting(type(self)._layout)[self.place(field)] = value
            return 0
        kept = encode(value, &v)
        begin(self, True, &t)
        i = self.slot(field)
        if i < 0:
            self.place(field)
            self.migrate(t)
            i = self.slot(field)
        rc = rcv_record_set(t, self.h.off, <uint32_t>i, &v) if v.tag != 0 else put(self, t, value, put_field, <uint64_t>i)
        if rc < 0:
            fail(rc)
        return 0

    cdef int migrate(self, rcv_txn *t) except -1:
        """Give it the slots of the fields that its class has gained, holding their defaults: all of it or nothing."""
        cdef rcv_mark mark
        cdef rcv_value v
        cdef int rc
        cdef uint64_t held = hold(self.arena)
        made = []
        rcv_op_begin(t, &mark)
        try:
            schema, added = self._merged(self.schema)
            store_schema(self.arena, t, schema.id, schema.text)
            rc = rcv_record_migrate(t, self.h.off, schema.id, len(schema.names))
            if rc:
                fail(rc)
            for i, name in added:
                kept = describe(self.arena, t, (<Field?>getattr(type(self), name)).fresh(), &v, made)
                rc = rcv_record_set(t, self.h.off, <uint32_t>i, &v)
                if rc:
                    fail(rc)
        except BaseException:
            rcv_op_fail(t, &mark)
            raise
        finally:
            unhold(self.arena, held)
        return 0

    cdef object class_at(self, NativeArena arena, const rcv_handle *h):
        """The class of the Record there, by the schema that it was stored with."""
        cdef uint64_t schema
        cdef uint32_t fields
        cdef int rc = rcv_record_info(arena.a, h.off, &schema, &fields)
        if rc:
            fail(rc)
        cdef dict known = _classes
        cls = known.get(schema)
        if cls is None:
            cls = self._class_of(bind(arena, type(self), h[0]), schema)
            known[schema] = cls
        return cls

    cdef object field_name(self, uint64_t slot):
        """The name of a field, or None where its schema does not tell."""
        cdef KeyBuffer k
        cdef rcv_value v
        cdef uint64_t schema
        cdef uint32_t fields
        if rcv_system(self.arena.a) == 0 or rcv_record_info(self.arena.a, self.h.off, &schema, &fields) != 0:
            return None
        kept = encode_key(self.arena, schema, &k)
        if rcv_dict_get(self.arena.a, NULL, rcv_system(self.arena.a), &k.key, &v) != 1:
            return None
        names = self._names_of(decode(self.arena, &v))
        return names[slot] if slot < len(names) else None

    cdef object slot_text(self, rcv_off slot):
        return f".{self.field_name(slot) or '?'}"

    cdef object unit_text(self, unsigned unit, uint64_t arg):
        return self.field_name(arg) if unit == RCV_UNIT_KEY else "its fields"

    def _same(self, other):
        """Are both handles of one container?"""
        return self is other or (isinstance(other, RecordHandle) and self.arena is not None
                                 and (<RecordHandle>other).arena is self.arena and (<RecordHandle>other).h.id == self.h.id)

    __hash__ = None
