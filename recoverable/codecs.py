"""Values beyond the core's own: tuples, dates, decimals, UUIDs, and types that users register.

Each becomes bytes of one small format: a tag, a length, the payload; tuples nest. Never pickle: a segment is data, and data
must not run code. A user's codec is named in the arena, so that a process that has not registered it fails at that value
only.

Nothing is stored that can't be read back as the same value. For values of exactly these types the format sees to it. A value
of a subclass is made one of its base first, by the base's own methods, since a subclass may have others; it must equal that,
or it is refused. Where a user's code has a part in it (a codec, a time zone), the bytes are read back before they count.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

from recoverable.errors import ArenaCorruptError, CodecError, RecoverableError

__all__ = ["BASES", "KINDS", "CodecError", "Kind", "exact", "pack", "pack_key", "plain", "register_codec", "unpack"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Codec:
    type: type
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    name: str


_by_type: dict[type, _Codec] = {}
_by_name: dict[str, _Codec] = {}


def register_codec(
    type: type[T],  # noqa: A002 -- the name that a caller expects
    encode: Callable[[T], bytes],
    decode: Callable[[bytes], T],
    name: str,
) -> None:
    """Teach arenas a type of yours; do it before it is read or written, in every process.

    Args:
        type: An immutable type; values of exactly this type use the codec.
        encode: Makes bytes of a value. Called before anything is stored, so it may raise.
        decode: Makes the value again. Called when a value is stored as well: it must give one that equals the original. Where
            the type's `==` can't tell (it has none of its own, or one that gives no bool, or what `decode` makes of the same
            bytes twice is not equal, as NaN), any value of the type will do.
        name: What the arena keeps to find the codec by: 1 to 255 bytes. Keep it for ever.

    Raises:
        ValueError: the type or the name is registered already, or the name is too long.
    """
    if not 1 <= len(name.encode()) <= 255:
        raise ValueError(f"a codec's name takes 1 to 255 bytes, {name!r} takes {len(name.encode())}")
    known = _by_name.get(name)
    if known is not None and known.type is not type:
        raise ValueError(f"the codec name {name!r} is taken by {known.type.__qualname__}; nothing was registered")
    if type in _by_type and _by_type[type].name != name:
        raise ValueError(f"{type.__qualname__} has the codec {_by_type[type].name!r} already; nothing was registered")
    _by_type[type] = _by_name[name] = _Codec(type, encode, decode, name)


# -- the format ----------------------------------------------------------------------------------------------

_LENGTH = struct.Struct("<BI")
_DELTA = struct.Struct("<iii")
(_NONE, _FALSE, _TRUE, _INT, _FLOAT, _STR, _BYTES, _TUPLE) = range(8)
(_DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID, _CUSTOM) = range(16, 23)
_TUPLE_DEPTH = 200


def _part(tag: int, payload: bytes = b"") -> bytes:
    return _LENGTH.pack(tag, len(payload)) + payload


def _pack(value: Any, key: bool, depth: int = 0) -> bytes | None:
    """Bytes of a value; `key`: equal numbers get equal bytes. None: not a type that can be stored."""
    codec = _by_type.get(type(value))
    if codec is not None:
        return _packed_by(codec, value)
    if value is not None and type(value) is not bool:
        value = plain(value)
        if value is None:
            return None
    if key and isinstance(value, (bool, float, Decimal)):
        value = _same_number(value)
    if type(value) is tuple:
        return _packed_tuple(value, key, depth)
    if value is None or type(value) is bool:
        return _part(_NONE if value is None else _TRUE if value else _FALSE)
    kind = KINDS[type(value)]
    return _part(kind.tag, kind.pack(value))


def _packed_tuple(value: tuple[Any, ...], key: bool, depth: int) -> bytes | None:
    if depth == _TUPLE_DEPTH:
        raise RecursionError(f"a tuple is nested more than {_TUPLE_DEPTH} levels deep; nothing was stored: store lists")
    parts = []
    for item in value:
        part = _pack(item, key, depth + 1)
        if part is None:
            return None
        parts.append(part)
    return _part(_TUPLE, b"".join(parts))


def _packed_by(codec: _Codec, value: Any) -> bytes:
    """Bytes of a value that has a user's codec, which have been read back."""
    payload = codec.encode(value)
    if not isinstance(payload, bytes):
        raise TypeError(
            f"the codec {codec.name!r} made {type(payload).__name__} of a value, not bytes; nothing was stored"
        )
    payload = _plain_bytes(payload)
    try:
        back = codec.decode(payload)
    except RecoverableError:  # it has met the arena, say a conflict
        raise
    except Exception as error:
        raise TypeError(
            f"the codec {codec.name!r} can't read back what it made of a {type(value).__name__} "
            f"({type(error).__name__}: {error}); nothing was stored: its decode() must take what its encode() makes"
        ) from error
    if not _equals(value, back) and _equals(back, codec.decode(payload)):  # else there is a NaN in it, say
        raise TypeError(
            f"the codec {codec.name!r} made something of a {type(value).__name__} that it reads back as another value; "
            "nothing was stored: its encode() must keep all that the type's == compares"
        )
    name = codec.name.encode()
    return _part(_CUSTOM, bytes([len(name)]) + name + payload)


def _equals(value: Any, back: Any) -> bool:
    """Is what a codec reads back the value that it was given, as far as the type's own == can tell?"""
    same = value == back if getattr(type(value), "__eq__", None) is not object.__eq__ else None
    return same if isinstance(same, bool) else isinstance(back, type(value))


# -- the types -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """Says how the values of one type become bytes, and bytes values.

    Attributes:
        tag: What the bytes begin with.
        plain: Makes a value of exactly this type of one of a subclass, by this type's own methods.
        pack: Makes the payload of a value of exactly this type. TypeError: there is a user's code in it that forbids it.
        unpack: Makes the value again.
    """

    tag: int
    plain: Callable[[Any], Any]
    pack: Callable[[Any], bytes]
    unpack: Callable[[bytes], Any]


def plain(value: Any) -> Any:
    """Return the value as one of exactly a type that arenas know, or None: it is no value of these, nor of a subclass.

    Raises:
        TypeError: it is of a subclass and more than its base can hold: by its own ==, it is another value.
    """
    for base in type(value).__mro__:
        if base in BASES:
            break
    else:
        return None
    if base is type(value):
        return value
    try:
        out = BASES[base](value)
        same = bool(out != out or value == out)  # what it is of NaN, equals nothing
    except RecoverableError:
        raise
    except Exception as error:
        raise _refusal(value, f"it can't be made a {base.__name__} ({type(error).__name__}: {error})") from error
    if not same:
        raise _refusal(value, f"it does not equal the {base.__name__} that would be kept of it")
    return out


def _refusal(value: Any, why: str) -> TypeError:
    return TypeError(
        f"a value of type {type(value).__name__!r} can't be stored in an arena: {why}; nothing was stored: store what of it "
        "you need as a value of a built-in type, or register_codec() for its type"
    )


def _fields(kind: type, *names: str) -> Callable[[Any], Any]:
    """Return what makes a value of that type of a subclass's fields, as the type itself reads them."""
    readers = {name: getattr(kind, name).__get__ for name in names}
    return lambda value: kind(**{name: read(value) for name, read in readers.items()})


def _all_of(kind: Any) -> Callable[[Any], Any]:
    """Return what makes a plain sequence of one of a subclass."""
    return lambda value: kind.__getitem__(value, slice(None))


_plain_bytes = _all_of(bytes)


def _int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _moment(value: dt.datetime | dt.time) -> bytes:
    """Text of a moment; a named zone is kept by its name, any other by its offset."""
    zone = value.tzinfo
    name = getattr(zone, "key", None)
    text = value.replace(tzinfo=None).isoformat() if name else value.isoformat()
    out = f"{text}|{name or ''}|{value.fold}".encode()
    if zone is not None and type(zone) is not dt.timezone and not _is_known(zone, name):
        _check_moment(value, out)
    return out


def _is_known(zone: dt.tzinfo, name: Any) -> bool:
    """Is it what its name stands for?"""
    from zoneinfo import ZoneInfo

    try:
        return type(zone) is ZoneInfo and zone is ZoneInfo(name)
    except (TypeError, ValueError, LookupError, OSError):  # it may have no name, or one that is no text
        return False


def _check_moment(value: dt.datetime | dt.time, packed: bytes) -> None:
    """Raise TypeError if a moment in a zone of the user's would be read back as another one."""
    why = f"with its time zone, a {type(value.tzinfo).__name__}, it would be read back as another moment"
    try:
        back = _read_moment(type(value), packed)
        same = back.tzinfo is not None and back.utcoffset() == value.utcoffset()
        same = same and back.replace(tzinfo=None) == value.replace(tzinfo=None)
    except CodecError as error:
        raise _refusal(value, str(error)) from error
    except (ValueError, OSError) as error:
        raise _refusal(value, why) from error
    if not same:
        raise _refusal(value, why)


def _read_moment(kind: type[dt.datetime] | type[dt.time], payload: bytes) -> Any:
    text, zone, fold = payload.decode().split("|")
    value = kind.fromisoformat(text).replace(fold=int(fold))
    if zone:
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

        try:
            value = value.replace(tzinfo=ZoneInfo(zone))
        except ZoneInfoNotFoundError as error:
            raise CodecError(
                f"a moment was stored with the time zone {zone!r}, which this machine does not know; nothing was changed, "
                "other values can be read: install the zone, or the package tzdata"
            ) from error
    return value


def _read_delta(payload: bytes) -> dt.timedelta:
    days, seconds, micros = _DELTA.unpack(payload)
    return dt.timedelta(days, seconds, micros)


_DAY = ("year", "month", "day")
_CLOCK = ("hour", "minute", "second", "microsecond", "tzinfo", "fold")

# Each type that arenas know, but for tuples, which nest, and None and bool, which have no subclasses. Even a value of exactly
# the type can have a subclass's inside: the number of a UUID.
KINDS: dict[type, Kind] = {
    int: Kind(_INT, int.__index__, _int_bytes, lambda p: int.from_bytes(p, "little", signed=True)),
    float: Kind(_FLOAT, float.__float__, struct.Struct("<d").pack, lambda p: struct.unpack("<d", p)[0]),
    str: Kind(
        _STR,
        str.__str__,
        lambda v: v.encode("utf-8", "surrogatepass"),
        lambda p: p.decode("utf-8", "surrogatepass"),
    ),
    bytes: Kind(_BYTES, _plain_bytes, bytes, bytes),
    dt.datetime: Kind(_DATETIME, _fields(dt.datetime, *_DAY, *_CLOCK), _moment, partial(_read_moment, dt.datetime)),
    dt.date: Kind(
        _DATE, _fields(dt.date, *_DAY), lambda v: v.isoformat().encode(), lambda p: dt.date.fromisoformat(p.decode())
    ),
    dt.time: Kind(_TIME, _fields(dt.time, *_CLOCK), _moment, partial(_read_moment, dt.time)),
    dt.timedelta: Kind(
        _TIMEDELTA,
        _fields(dt.timedelta, "days", "seconds", "microseconds"),
        lambda v: _DELTA.pack(v.days, v.seconds, v.microseconds),
        _read_delta,
    ),
    # Whether it is E or e, the caller's decimal context says: keys need one of them.
    Decimal: Kind(_DECIMAL, Decimal, lambda v: str(v).replace("e", "E").encode(), lambda p: Decimal(p.decode())),
    UUID: Kind(_UUID, _fields(UUID, "int"), lambda v: int.to_bytes(v.int, 16, "big"), lambda p: UUID(bytes=p)),
}


# What makes a value of exactly the type of a subclass's.
BASES: dict[type, Callable[[Any], Any]] = {tuple: _all_of(tuple), **{kind: how.plain for kind, how in KINDS.items()}}


def _same_number(value: bool | float | Decimal) -> int | float | Decimal:
    """The plainest of the numbers that equal this one, for they are one key: 1, 1.0, True and Decimal(1)."""
    if isinstance(value, Decimal):
        if not value.is_finite():
            return float(value) if value.is_infinite() else value
        sign, digits, exponent = value.as_tuple()
        while len(digits) > 1 and digits[-1] == 0:
            digits, exponent = digits[:-1], int(exponent) + 1
        value = Decimal((sign, digits, int(exponent) if any(digits) else 0))
        near = float(value)
        if value != near and not (int(exponent) >= 0 and value.adjusted() < _DIGITS):
            return value
        value = near if value == near else value
    if value != value or value in (float("inf"), float("-inf")):
        return value
    return int(value) if value == int(value) else value


_DIGITS = 5000  # a Decimal above 10**5000 is compared as the Decimal that it is


def pack(value: Any) -> bytes | None:
    """Return the bytes of a value of one of these types, or None: it can't be stored so."""
    return _pack(value, key=False)


def pack_key(value: Any) -> bytes | None:
    """Return the bytes that a key is compared by, or None: it can't be a key."""
    return _pack(value, key=True)


def exact(value: Any) -> Hashable:
    """Return what two leaf values have in common only if the arena holds the same of both: 1 is not True, nor 0.0 -0.0."""
    kind = type(value)
    if value is None or kind in (bool, int, str, bytes):
        return kind, value
    return kind, struct.pack("d", value) if kind is float else pack(value) or repr(value)


def unpack(data: bytes) -> Any:
    """Make the value again.

    Raises:
        CodecError: its codec is not registered here.
        ArenaCorruptError: these are no such bytes.
    """
    if len(data) >= _LENGTH.size and data[0] != _TUPLE:
        tag, length = _LENGTH.unpack_from(data)
        if length != len(data) - _LENGTH.size:
            raise _damaged()
        return _value(tag, data[_LENGTH.size :])
    # Where each tuple that is being read ends, and its items so far: a stack of our own, so that no depth is too much.
    inside: list[tuple[int, list[Any]]] = [(len(data), [])]
    at = 0
    while True:
        end, items = inside[-1]
        if at == end:
            inside.pop()
            if not inside:
                break
            inside[-1][1].append(tuple(items))
            continue
        if end - at < _LENGTH.size:
            raise _damaged()
        tag, length = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if length > end - at:
            raise _damaged()
        if tag == _TUPLE:
            inside.append((at + length, []))
        else:
            items.append(_value(tag, data[at : at + length]))
            at += length
    if len(items) != 1:
        raise _damaged()
    return items[0]


def _damaged() -> ArenaCorruptError:
    return ArenaCorruptError("an encoded value does not add up; nothing was changed: run arena.verify()")


def _value(tag: int, payload: bytes) -> Any:
    try:
        if tag != _CUSTOM:
            return _READERS[tag](payload)
        name = payload[1 : 1 + payload[0]].decode()
    except CodecError:
        raise
    except (struct.error, ValueError, ArithmeticError, LookupError, TypeError) as error:
        raise _damaged() from error
    codec = _by_name.get(name)
    if codec is None:
        raise CodecError(
            f"a value was stored with the codec {name!r}, which is not registered in this process; nothing was changed, "
            f"other values can be read: call register_codec(..., name={name!r}) first"
        )
    return codec.decode(payload[1 + payload[0] :])  # what it raises is the user's to see


_READERS: dict[int, Callable[[bytes], Any]] = {
    _NONE: lambda _: None,
    _FALSE: lambda _: False,
    _TRUE: lambda _: True,
    **{kind.tag: kind.unpack for kind in KINDS.values()},
}
