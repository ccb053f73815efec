"""Record: an object with fixed, typed fields in the arena."""

from __future__ import annotations

import hashlib
import inspect
import json
import types
import typing
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, ClassVar

from recoverable._native.record import Layout, RecordHandle, forget_record_classes
from recoverable._native.runtime import Container, plain_classes, register_container
from recoverable.errors import ArenaCorruptError, SchemaError

__all__ = ["Record"]


@dataclass(frozen=True, slots=True)
class Schema:
    """Says which fields a record has, in the order of their slots.

    Attributes:
        names: The fields.
        types: Their types, as text.
        label: The class's name.
    """

    label: str
    names: tuple[str, ...]
    types: tuple[str, ...]

    @property
    def text(self) -> str:
        """What the arena keeps."""
        return json.dumps({"name": self.label, "fields": list(zip(self.names, self.types, strict=True))})

    @property
    def id(self) -> int:
        """Its key there: equal schemas have one."""
        return int.from_bytes(hashlib.sha256(self.text.encode()).digest()[:8], "little") >> 1

    @classmethod
    def read(cls, text: str) -> Schema:
        """Make a schema of what an arena keeps."""
        try:
            data = json.loads(text)
            pairs = [(str(field), str(kind)) for field, kind in data["fields"]]
            return cls(str(data["name"]), tuple(field for field, _ in pairs), tuple(kind for _, kind in pairs))
        except (ValueError, LookupError, TypeError) as error:
            raise ArenaCorruptError(
                "a Record's schema in the arena does not add up; nothing was changed: run arena.verify()"
            ) from error


_classes: dict[str, type[Record]] = {}


class _RecordType(type):
    """Gives Records no other attributes than their fields: a misspelt one must not vanish into a handle."""

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, Any], /, **kwargs: Any) -> type:
        body.setdefault("__slots__", ())
        return super().__new__(mcs, name, bases, body, **kwargs)

    def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any], /, **_: Any) -> None:
        super().__init__(name, bases, body)


class Record(RecordHandle, metaclass=_RecordType):
    """Is the base of classes whose instances live in an arena: fields at fixed slots, each its own conflict unit.

    For example::

        class Account(Record):
            owner: str
            balance: int = 0

    Field types: `int float bool str bytes`, `Optional` of them, the other value types, Records and containers. An int is
    taken for a float. Values are checked when they are set, defaults when the class is defined; a mutable default is copied
    for each record. `object` accepts everything that can be stored, and what is in a `list[str]` is not checked.

    The schema is kept in the arena by the class's name (`class Account(Record, name="account")` chooses another). A class
    that has gained fields with defaults reads old records; one whose field has changed its type, or that has gained a
    field without a default, gets a SchemaError that names the field. Fields that a class has lost stay stored.

    Raises:
        SchemaError: the stored record does not fit the class.
        TypeError: a value of another type than the field's, or a field that is missing or unknown.
    """

    _schema: ClassVar[Schema] = Schema("Record", (), ())
    _defaults: ClassVar[dict[str, Any]] = {}
    _maps: ClassVar[dict[int, tuple[int, ...]]] = {}
    _layout: ClassVar[Layout]
    _resolved: ClassVar[dict[str, Any] | None] = None  # its annotations, where they could be when it was defined
    __signature__: ClassVar[inspect.Signature] = inspect.signature(lambda *args, **values: None)

    def __init_subclass__(cls, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        label = name or cls.__qualname__.rpartition("<locals>.")[2]
        declared = dict(zip(cls._schema.names, cls._schema.types, strict=True))
        defaults = dict(cls._defaults)
        for field, hint in inspect.get_annotations(cls).items():
            text = hint if isinstance(hint, str) else _text(hint)
            if text.startswith(("ClassVar", "typing.ClassVar")):
                continue
            if field.startswith("_"):
                raise TypeError(f"{cls.__qualname__}.{field}: a Record's field can't begin with an underscore")
            declared[field] = _canonical(text)
            if field in cls.__dict__:
                defaults[field] = cls.__dict__[field]
        cls._schema = Schema(label, tuple(declared), tuple(declared.values()))
        cls._defaults = defaults
        cls._maps = {}
        cls._resolved = None
        cls._layout = Layout(cls, cls._schema, defaults)
        for member in cls._layout.fields:
            setattr(cls, member.name, member)
        cls._prove_defaults()
        _classes[label] = cls
        forget_record_classes()

    @classmethod
    def _prove_defaults(cls) -> None:
        """Raise TypeError for a default that its field can't have."""
        try:
            cls._resolved = _hints(cls)
        except Exception:
            return
        for member in cls._layout.fields:
            if member.name in cls._defaults:
                member.prove()

    # -- hooks of the native half -----------------------------------------------------------------------------

    @staticmethod
    def _class_of(handle: Record, schema: int) -> type[Record]:
        """Return the class that stands for records stored with that schema."""
        return _classes.get(_stored(handle, schema).label, _Unknown)

    @staticmethod
    def _names_of(schema: str) -> tuple[str, ...]:
        """Return the names of the fields, by slot, of a schema as the arena keeps it."""
        return Schema.read(schema).names

    @classmethod
    def _misfit(cls, args: tuple[Any, ...], values: dict[str, Any]) -> None:
        """Raise what is wrong with the arguments that the class was called with."""
        names = cls._schema.names
        if len(args) > len(names):
            raise TypeError(f"{cls.__name__}() takes {len(names)} fields, {len(args)} were given")
        given = dict(zip(names, args, strict=False))
        for name in values:
            if name not in names:
                raise TypeError(f"{cls.__name__}() has no field {name!r}; it has {', '.join(names)}")
            if name in given:
                raise TypeError(f"{cls.__name__}() got two values for the field {name!r}")
        given |= values
        missing = [name for name in names if name not in given and name not in cls._defaults]
        raise TypeError(f"{cls.__name__}() needs a value for the field {missing[0]!r}")

    @classmethod
    def _allowed(cls, name: str) -> tuple[type, ...]:
        """Return the classes that a field accepts."""
        return _allowed(cls, name, (cls._resolved or _hints(cls))[name])

    @classmethod
    def _refuse(cls, name: str, value: Any) -> None:
        """Raise what is wrong with the value for a field."""
        wanted = cls._schema.types[cls._schema.names.index(name)]
        raise TypeError(f"{cls.__name__}.{name} is {wanted}, not {type(value).__name__}; nothing was written")

    @classmethod
    def _refuse_default(cls, name: str, value: Any) -> None:
        """Raise what is wrong with the default of a field, and what to write."""
        wanted = cls._schema.types[cls._schema.names.index(name)]
        kinds = [kind for kind in cls._allowed(name) if issubclass(kind, Container) and not issubclass(kind, Record)]
        if kinds:
            content = "" if isinstance(value, Sized) and not len(value) else repr(value)
            kind = kinds[0].__name__
            how = f"write `{name}: {kind} = {kind}({content})`, which is copied for each record"
        elif value is None:
            how = f"write `{name}: {wanted} | None = None`"
        else:
            how = f"give it a default that is {wanted}, or another annotation"
        raise TypeError(
            f"{cls.__qualname__}.{name} is {wanted}, but its default {value!r} is {type(value).__name__}: {how}"
        )

    @classmethod
    def _map_of(cls, schema: int, handle: Record) -> tuple[int, ...]:
        """Return where each field of this class lies in a record stored with that schema."""
        known = cls._maps.get(schema)
        if known is not None:
            return known
        if schema == cls._schema.id:
            found = tuple(range(len(cls._schema.names)))
        else:
            stored = _stored(handle, schema)
            places = {name: i for i, name in enumerate(stored.names)}
            for name, kind in zip(cls._schema.names, cls._schema.types, strict=True):
                if name not in places and name not in cls._defaults:
                    raise SchemaError(
                        f"{cls.__name__}.{name} is not in the stored {stored.label!r}, and has no default; nothing was "
                        "changed: give the field a default",
                        field=name,
                    )
                if name in places and stored.types[places[name]] != kind:
                    raise SchemaError(
                        f"{cls.__name__}.{name} is {kind} in the class but {stored.types[places[name]]} in the arena; "
                        "nothing was changed: keep the stored type, or give the new field another name",
                        field=name,
                    )
            found = tuple(places.get(name, -1) for name in cls._schema.names)
        cls._maps[schema] = found
        return found

    def _merged(self, schema: int) -> tuple[Schema, list[tuple[int, str]]]:
        """Return the stored schema with this class's further fields, and (slot, name) of these."""
        stored = _stored(self, schema)
        kinds = dict(zip(self._schema.names, self._schema.types, strict=True))
        more = [name for name in self._schema.names if name not in stored.names]
        names = (*stored.names, *more)
        merged = Schema(stored.label, names, (*stored.types, *(kinds[name] for name in more)))
        return merged, [(len(stored.names) + i, name) for i, name in enumerate(more)]

    # -- as a whole -----------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        if self._same(other):
            return True
        return type(self) is type(other) and self.to_python() == other.to_python()

    def __repr__(self) -> str:
        if self._stored and self._arena.closed:
            return f"<{type(self).__name__} of a closed arena>"
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._schema.names)
        return f"{type(self).__name__}({fields})"

    def to_python(self) -> dict[str, Any]:
        """Return a plain deep copy: a dict of the fields."""
        values = ((name, getattr(self, name)) for name in self._schema.names)
        return {name: v.to_python() if isinstance(v, Container) else v for name, v in values}

    # -- as plain parts, and for people: see Container ------------------------------------------------------------

    def _parts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._schema.names}

    @classmethod
    def _of_parts(cls, extra: Any, parts: dict[str, Any]) -> typing.Self:
        new = cls.__new__(cls)  # not by its __init__(), which may be the user's
        new._pending = [parts[name] for name in cls._schema.names]
        return new

    def _part(self, key: str) -> Any:
        return getattr(self, key)

    def _put_part(self, key: str, value: Any) -> None:
        setattr(self, key, value)

    def _drop_part(self, key: str) -> None:
        """Do nothing: what its class no longer has stays stored."""

    @staticmethod
    def _part_text(key: str) -> str:
        return f".{key}"

    def _about(self) -> tuple[str, int, str]:
        schema = _stored(self, self._stored_schema())
        return schema.label, len(schema.names), ""

    def _entries(self, offset: int, limit: int) -> list[tuple[str, Any]]:
        names = _stored(self, self._stored_schema()).names
        page = list(enumerate(names))[offset : offset + limit]
        return [(f".{name}", self._slot_value(i)) for i, name in page]

    def _follow(self, step: Any) -> tuple[Any, str]:
        names = _stored(self, self._stored_schema()).names
        if step.kind == "key" or step.key not in names:
            raise KeyError(step.key)
        return self._slot_value(names.index(step.key)), f".{step.key}"


Record._layout = Layout(Record, Record._schema, Record._defaults)


class _Unknown(Record, name="\0unknown"):
    """Stands for a record whose class this process does not have: its fields can be read, by their stored names."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            schema = _stored(self, self._stored_schema())
            if name in schema.names:
                return self._slot_value(schema.names.index(name))
        raise AttributeError(name)

    def __setattr__(self, name: str, value: Any) -> None:
        label = _stored(self, self._stored_schema()).label
        raise SchemaError(
            f"{name!r} of a Record {label!r} can't be set while its class is not imported in this process; nothing was changed: "
            "import the module that defines it"
        )

    def to_python(self) -> dict[str, Any]:
        """Return a plain deep copy: a dict of the stored fields."""
        schema = _stored(self, self._stored_schema())
        values = ((name, self._slot_value(i)) for i, name in enumerate(schema.names))
        return {name: v.to_python() if isinstance(v, Container) else v for name, v in values}

    def _extra(self) -> str:
        return _stored(self, self._stored_schema()).label

    def _parts(self) -> dict[str, Any]:
        schema = _stored(self, self._stored_schema())
        return {name: self._slot_value(i) for i, name in enumerate(schema.names)}

    @classmethod
    def _of_parts(cls, extra: str, parts: dict[str, Any]) -> typing.Self:
        raise SchemaError(
            f"a Record {extra!r} can't be copied while its class is not imported in this process; nothing was changed: "
            "import the module that defines it, or take its .to_python()"
        )

    def __repr__(self) -> str:
        if self._arena.closed:
            return "<Record of a closed arena>"
        label = _stored(self, self._stored_schema()).label
        return f"<Record {label!r} {self.to_python()!r}: its class is not imported in this process>"


def _stored(handle: Record, schema: int) -> Schema:
    text = handle._schema_text(schema)
    if text is None:
        raise SchemaError(f"the schema {schema} of a stored record is not in the arena; run arena.verify()")
    return Schema.read(text)


# -- types ------------------------------------------------------------------------------------------------------------


def _text(hint: Any) -> str:
    """Text of an annotation that is an object."""
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return hint.__name__
    return str(hint)


def _hints(cls: type) -> dict[str, Any]:
    """Return the annotations of a class, as objects."""
    try:
        return typing.get_type_hints(cls)
    except NameError:  # of the class itself, which is being defined
        return typing.get_type_hints(cls, localns={cls.__name__: cls})


def _canonical(text: str) -> str:
    """One text for the ways to write one type."""
    text = text.replace("typing.", "").replace(" ", "").replace("recoverable.", "")
    if text.startswith("Optional[") and text.endswith("]"):
        text = text[len("Optional[") : -1] + "|None"
    head, bracket, _ = text.partition("[")
    if bracket and not text.endswith("|None"):
        text = head  # Dict[str, int] is a Dict
    return text


def _allowed(cls: type, name: str, hint: Any) -> tuple[type, ...]:
    if hint is Any:
        return (object,)
    if hint is None or hint is type(None):
        return (type(None),)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return tuple(kind for part in typing.get_args(hint) for kind in _allowed(cls, name, part))
    kind = origin or hint
    if not isinstance(kind, type):
        raise TypeError(f"{cls.__qualname__}.{name}: {hint!r} is no type that a field can have")
    if issubclass(kind, Container):
        return (kind, *plain_classes(kind))
    return (kind,)


register_container(Record)
