"""Values beyond the core's own: tuples, dates, decimals, UUIDs, and types that users register.

Each becomes bytes of one small format: a tag, a length, the payload; tuples nest. Never pickle: a segment is data, and data
must not run code. A user's codec is named in the arena, so that a process that has not registered it fails at that value
only.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from recoverable.errors import ArenaCorruptError, RecoverableError

__all__ = ["CodecError", "pack", "pack_key", "register_codec", "unpack"]

T = TypeVar("T")


class CodecError(RecoverableError, LookupError):
    """Reports a value whose codec is not registered in this process. Other values can be read."""


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
        decode: Makes the value again.
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


def _part(tag: int, payload: bytes = b"") -> bytes:
    return _LENGTH.pack(tag, len(payload)) + payload


def _int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _moment(value: dt.datetime | dt.time) -> bytes:
    """Text of a moment; a named zone is kept by its name, any other by its offset."""
    zone = getattr(value.tzinfo, "key", None)
    text = value.replace(tzinfo=None, fold=0).isoformat() if zone else value.replace(fold=0).isoformat()
    return f"{text}|{zone or ''}|{value.fold}".encode()


def _pack(value: Any, key: bool) -> bytes | None:
    """Bytes of a value; `key`: equal numbers get equal bytes. None: not a type that can be stored."""
    kind = type(value)
    if kind is tuple or (isinstance(value, tuple) and kind not in _by_type):
        parts = [_pack(item, key) for item in value]
        if any(part is None for part in parts):
            return None
        return _part(_TUPLE, b"".join(p for p in parts if p is not None))
    codec = _by_type.get(kind)
    if codec is not None:
        payload = codec.encode(value)
        if not isinstance(payload, bytes):
            raise TypeError(
                f"the codec {codec.name!r} made {type(payload).__name__} of a value, not bytes; nothing was stored"
            )
        name = codec.name.encode()
        return _part(_CUSTOM, bytes([len(name)]) + name + payload)
    if key and isinstance(value, (bool, float, Decimal)):
        value = _same_number(value)
    if value is None:
        return _part(_NONE)
    if isinstance(value, bool):
        return _part(_TRUE if value else _FALSE)
    if isinstance(value, int):
        return _part(_INT, _int_bytes(value))
    if isinstance(value, float):
        return _part(_FLOAT, struct.pack("<d", value))
    if isinstance(value, str):
        return _part(_STR, value.encode("utf-8", "surrogatepass"))
    if isinstance(value, bytes):
        return _part(_BYTES, value)
    if isinstance(value, dt.datetime):
        return _part(_DATETIME, _moment(value))
    if isinstance(value, dt.date):
        return _part(_DATE, value.isoformat().encode())
    if isinstance(value, dt.time):
        return _part(_TIME, _moment(value))
    if isinstance(value, dt.timedelta):
        return _part(_TIMEDELTA, _DELTA.pack(value.days, value.seconds, value.microseconds))
    if isinstance(value, Decimal):
        return _part(_DECIMAL, str(value).encode())
    if isinstance(value, UUID):
        return _part(_UUID, value.bytes)
    return None


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


def unpack(data: bytes) -> Any:
    """Make the value again.

    Raises:
        CodecError: its codec is not registered here.
        ArenaCorruptError: these are no such bytes.
    """
    value, end = _unpack(data, 0)
    if end != len(data):
        raise _damaged()
    return value


def _damaged() -> ArenaCorruptError:
    return ArenaCorruptError("an encoded value does not add up; nothing was changed: run arena.verify()")


def _unpack(data: bytes, at: int) -> tuple[Any, int]:
    try:
        tag, length = _LENGTH.unpack_from(data, at)
        start, end = at + _LENGTH.size, at + _LENGTH.size + length
        if end > len(data):
            raise _damaged()
        if tag == _TUPLE:
            items = []
            while start < end:
                item, start = _unpack(data, start)
                items.append(item)
            return tuple(items), end
        payload = data[start:end]
        if tag != _CUSTOM:
            return _READERS[tag](payload), end
        name = payload[1 : 1 + payload[0]].decode()
    except (struct.error, ValueError, ArithmeticError, LookupError, TypeError, RecursionError) as error:
        if isinstance(error, CodecError):
            raise
        raise _damaged() from error
    return _custom(name, payload[1 + payload[0] :]), end


def _custom(name: str, payload: bytes) -> Any:
    codec = _by_name.get(name)
    if codec is None:
        raise CodecError(
            f"a value was stored with the codec {name!r}, which is not registered in this process; nothing was changed, "
            f"other values can be read: call register_codec(..., name={name!r}) first"
        )
    return codec.decode(payload)  # what it raises is the user's to see


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


_READERS: dict[int, Callable[[bytes], Any]] = {
    _NONE: lambda _: None,
    _FALSE: lambda _: False,
    _TRUE: lambda _: True,
    _INT: lambda p: int.from_bytes(p, "little", signed=True),
    _FLOAT: lambda p: struct.unpack("<d", p)[0],
    _STR: lambda p: p.decode("utf-8", "surrogatepass"),
    _BYTES: bytes,
    _DATETIME: lambda p: _read_moment(dt.datetime, p),
    _DATE: lambda p: dt.date.fromisoformat(p.decode()),
    _TIME: lambda p: _read_moment(dt.time, p),
    _TIMEDELTA: _read_delta,
    _DECIMAL: lambda p: Decimal(p.decode()),
    _UUID: lambda p: UUID(bytes=p),
}
