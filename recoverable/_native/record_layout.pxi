# record_layout.pxi -- what a class of Records says about its fields. Part of record.pyx.
#
# It is compiled once, to a Layout and a Field each; neither making a record nor using a field runs Python code after that, but for
# defaults that have to be copied.
from cpython.dict cimport PyDict_GetItemWithError
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject

from copy import deepcopy

# Of exactly these a value passes or not by its type alone; the defaults among them need no copy.
cdef frozenset _PLAIN = frozenset({int, float, bool, str, bytes, type(None)})

_MISSING = object()


cdef class Layout:
    """A class of Records, compiled: what `_layout` of it is.

    Args:
        cls: The class. It gives `_map_of()`, `_allowed()`, `_misfit()` and `_refuse…()` for what is not done here.
        schema: Its schema.
        defaults: By field.
    """
    cdef readonly object cls
    cdef readonly object id, text # of its schema
    cdef readonly tuple fields
    cdef uint64_t number # the id
    cdef tuple straight # the slots in a record that was stored with this very schema

    def __init__(self, cls, schema, defaults):
        self.cls = cls
        self.id, self.text = schema.id, schema.text
        self.number = self.id
        self.fields = tuple([Field(self, name, i, defaults.get(name, _MISSING)) for i, name in enumerate(schema.names)])
        self.straight = tuple(range(len(self.fields)))

    cdef list values(self, tuple args, dict given):
        """The fields' values, as they are given to the class when it is called."""
        cdef Field field
        cdef PyObject *value
        cdef Py_ssize_t i = 0, named = 0, n = len(args)
        out = []
        for field in self.fields:
            value = PyDict_GetItemWithError(given, field.name)
            if i < n:
                if value != NULL:
                    self.cls._misfit(args, given)
                out.append(field.checked(args[i]))
            elif value != NULL:
                named += 1
                out.append(field.checked(<object>value))
            elif field.default is _MISSING:
                self.cls._misfit(args, given)
            else:
                out.append(field.default if field.shared else field.fresh())
            i += 1
        if named != len(given) or n > i:
            self.cls._misfit(args, given)
        return out


cdef class Field:
    """A Record's attribute: reads and writes one slot. Each class has Fields of its own."""
    cdef Layout layout
    cdef readonly str name
    cdef readonly Py_ssize_t index # in the class's own schema
    cdef object default
    cdef bint proved # it is what the field can have
    cdef bint shared # … and needs no copy
    cdef object allowed # the classes of its values; None: not looked up yet
    cdef object known, known_too # plain types of values that have passed

    def __init__(self, Layout layout, name, index, default):
        self.layout = layout
        self.name = name
        self.index = index
        self.default = default

    def __get__(self, obj, cls):
        if obj is None:
            return self
        return (<RecordHandle?>obj).read(self)

    def __set__(self, obj, value):
        (<RecordHandle?>obj).write(self, value)

    def __delete__(self, obj):
        raise AttributeError(f"a field of a Record can't be deleted: {self.name!r}")

    def prove(self):
        """See to it that the default is what the field can have; TypeError if not."""
        fit = self.fitting(self.default)
        if fit is _MISSING:
            self.layout.cls._refuse_default(self.name, self.default)
        self.default = fit
        self.proved = True
        self.shared = type(self.default) in _PLAIN

    cdef object fresh(self):
        """The default, as a value that the record has for itself."""
        if not self.proved: # its annotation named what was not defined yet
            self.prove()
        return self.default if self.shared else deepcopy(self.default)

    cdef inline object checked(self, object value):
        """The value, as it is stored; TypeError if the field can't have it."""
        if type(value) is self.known or type(value) is self.known_too:
            return value
        return self.check(value)

    cdef object check(self, object value):
        fit = self.fitting(value)
        if fit is _MISSING:
            self.layout.cls._refuse(self.name, value)
        return fit

    cdef object fitting(self, object value):
        """The value, as it is stored; _MISSING if the field can't have it."""
        if self.allowed is None:
            self.allowed = self.layout.cls._allowed(self.name)
        if not isinstance(value, self.allowed):
            if float in self.allowed and isinstance(value, int):
                return float(value) if PyLong_CheckExact(value) else int.__float__(value)
            return _MISSING
        if type(value) in _PLAIN:
            self.known, self.known_too = type(value), self.known
        return value
