"""Values of subclasses, and of types with codecs: stored as what is read back, or refused."""

from __future__ import annotations

import datetime as dt
import enum
import io
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from recoverable import Arena, ArenaBusyError, Record, codecs, register_codec

# What values of each type that arenas know are made of. A type that has none here fails the first test.
SAMPLES: dict[type, list[tuple[Any, ...]]] = {
    int: [(0,), (-5,), (2**70,)],
    float: [(1.5,), (-0.0,), (math.inf,)],
    str: [("text",), ("",), ("\ud800",), ("x" * 100,)],
    bytes: [(b"bytes",), (b"",), (b"\xff" * 100,)],
    tuple: [((1, "a"),), ((),), ((1.5, (None, "b")),)],
    dt.datetime: [(2024, 1, 2), (2024, 10, 27, 2, 30, 0, 5, ZoneInfo("Europe/Berlin"))],
    dt.date: [(2024, 2, 29)],
    dt.time: [(12, 30, 1, 5), (12, 0, 0, 0, dt.UTC)],
    dt.timedelta: [(1, 2, 3), (-1,)],
    Decimal: [("1.50",), ("-1E+7000",), ("Infinity",)],
    UUID: [("12345678-1234-5678-1234-567812345678",)],
}
# What makes a value and compares it, and what no class can do without.
KEPT = {
    "__new__",
    "__init__",
    "__eq__",
    "__ne__",
    "__hash__",
    "__class__",
    "__init_subclass__",
    "__subclasshook__",
    "__slots__",
}
KEPT |= {"__getattribute__", "__setattr__", "__doc__", "__dir__", "__getnewargs__", "__class_getitem__", "__getstate__"}


def lie(*_: Any, **__: Any) -> Any:
    """Give what no method should."""
    return "a lie"


def fail(*_: Any, **__: Any) -> Any:
    """Do not answer."""
    raise RuntimeError("a method of the subclass was called")


def overridden(base: type, how: Callable[..., Any]) -> type:
    """Make a subclass all of whose methods and properties are its own."""
    body: dict[str, Any] = {}
    for name in dir(base):
        if name in KEPT or (base is UUID and name in ("int", "is_safe")):  # these are set, not computed
            continue
        body[name] = how if callable(getattr(base, name)) else property(how)
    body["__hash__"] = lambda _: 12345  # a datetime's own would ask its methods
    return type("Overridden", (base,), body)


every_sample = pytest.mark.parametrize(
    ("base", "made_of"),
    [(base, made_of) for base, samples in SAMPLES.items() for made_of in samples],
    ids=lambda x: x.__name__ if isinstance(x, type) else None,
)


class Row(Record):
    """Has a field for anything."""

    value: Any


def everywhere(arena: Arena, value: Any) -> Iterator[Any]:
    """Store a value in each place that takes one, and give what comes back."""
    root = arena.root
    with arena.transaction():
        root["v"], root["l"], root["q"] = value, [value], {"in": {"in": value}}
        root["t"], root["s"], root["d"], root["r"] = (0, (value,)), {value}, {value: 1}, Row(value=value)
        root["l"].append(value)
        root["d"][value] = 2
        root["s"].add(value)
        assert len(root["d"]) == len(root["s"]) == 1
        assert value in root["d"]
        assert value in root["s"]
        root["r"].value = value
    yield from (root["v"], *root["l"], root["q"]["in"]["in"], root["t"][1][0], root["r"].value)
    keys = [*root["s"], *root["d"]]
    yield from [
        type(value).__mro__[1](key) if isinstance(value, Decimal) else key for key in keys
    ]  # 1.50 is kept as 1.5


def places(value: Any) -> list[Callable[[Any], Any]]:
    """Give the ways to store a value."""
    return [
        lambda root: root.__setitem__("v", value),
        lambda root: root.__setitem__("v", (1, (value,))),
        lambda root: root.__setitem__("v", [1, {"in": value}]),
        lambda root: root.__setitem__("v", {value}),
        lambda root: root.__setitem__("v", {value: 1}),
        lambda root: root["there"].__setitem__(value, 1),
        lambda root: root["there"].update({1: 2, value: 1}),
        lambda root: root["row"].__setattr__("value", value),
    ]


def refused(arena: Arena, value: Any, match: str, kind: type[Exception] = TypeError) -> None:
    """See a value refused in each place, with nothing changed."""
    with arena.transaction():
        arena.root.clear()
        arena.root["there"], arena.root["row"] = {}, Row(value=0)
        for put in places(value):
            with pytest.raises(kind, match=match):
                put(arena.root)
        assert arena.root.to_python() == {"there": {}, "row": {"value": 0}}
    assert arena.verify().leaked_blocks == 0


@contextmanager
def codec(kind: type, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]) -> Iterator[None]:
    """Register a codec for a while."""
    register_codec(kind, encode, decode, "unit.subclasses")
    try:
        yield
    finally:
        del codecs._by_type[kind], codecs._by_name["unit.subclasses"]


# -- subclasses ---------------------------------------------------------------------------------------------------


def test_every_type_that_arenas_know_is_tried_here() -> None:
    """A new type in codecs has samples in this file, so that its subclasses are tried."""
    assert set(SAMPLES) == set(codecs.BASES)


@every_sample
@pytest.mark.parametrize("how", [lie, fail])
def test_a_subclass_is_stored_as_its_base_whatever_its_methods_say(
    arena: Arena, base: type, made_of: tuple[Any, ...], how: Callable[..., Any]
) -> None:
    """What a subclass overrides has no part in what is stored: the base's value comes back, of exactly that type."""
    value, wanted = overridden(base, how)(*made_of), base(*made_of)
    for found in everywhere(arena, value):
        assert type(found) is base
        assert repr(found) == repr(wanted) or found == wanted


@every_sample
def test_a_subclass_that_differs_from_its_base_is_refused(arena: Arena, base: type, made_of: tuple[Any, ...]) -> None:
    """A value that does not equal its base's value has more to it, which is not dropped in silence."""
    body = {"__eq__": lambda self, other: self is other, "__hash__": lambda self: 12345}
    refused(arena, type("More", (base,), body)(*made_of), f"'More'.*does not equal the {base.__name__}.*register_codec")


@every_sample
def test_a_subclass_that_can_not_be_compared_is_refused(arena: Arena, base: type, made_of: tuple[Any, ...]) -> None:
    """An == that raises is a TypeError that quotes it, and nothing is stored."""
    kind = type("Odd", (base,), {"__eq__": fail, "__hash__": lambda self: 12345})
    refused(arena, (kind(*made_of)), r"'Odd'.*RuntimeError: a method of the subclass was called.*nothing was stored")


@every_sample
def test_the_content_of_a_subclass_is_that_of_when_it_was_stored(
    arena: Arena, base: type, made_of: tuple[Any, ...]
) -> None:
    """Attributes of a subclass are not kept, and what happens to them later does not show."""
    kind = type("Mutable", (base,), {})
    value = kind(*made_of)
    if base is not UUID:
        value.more = 1
    found = list(everywhere(arena, value))
    if base is not UUID:
        value.more = 2
    assert found == [base(*made_of)] * len(found)
    assert not any(hasattr(x, "more") for x in found)


def test_what_looks_like_pandas_nat_and_timestamp(arena: Arena) -> None:
    """Not-a-time and a moment with nanoseconds, datetimes by inheritance, are refused; without nanoseconds it is a datetime."""

    class Stamp(dt.datetime):
        nanosecond = 0

        def __eq__(self, other: object) -> bool:
            return super().__eq__(other) and self.nanosecond == getattr(other, "nanosecond", 0)

        __hash__ = dt.datetime.__hash__

    class Nothing(dt.datetime):
        def __eq__(self, other: object) -> bool:
            return False

        __hash__ = dt.datetime.__hash__

        def isoformat(self, *_: Any) -> str:
            return "NaT"

    refused(arena, Nothing(1, 1, 1), "'Nothing'")
    stamp = Stamp(2024, 1, 2)
    for found in everywhere(arena, stamp):
        assert (type(found), found) == (dt.datetime, dt.datetime(2024, 1, 2))
    stamp.nanosecond = 1
    with arena.transaction(), pytest.raises(TypeError, match="Stamp"):
        arena.root["v"] = stamp


def test_nan_of_a_subclass_is_nan(arena: Arena) -> None:
    """What is NaN equals nothing, and is stored all the same."""
    for base in (float, Decimal):
        for found in everywhere(arena, type("Mine", (base,), {})("nan")):
            assert type(found) is base
            assert found != found


def test_members_of_enums_are_stored_as_what_they_are_mixed_with(arena: Arena) -> None:
    """IntEnum, StrEnum, IntFlag and mixed ones give their base's value, a plain Enum is refused."""

    class Day(dt.date, enum.Enum):
        NEW_YEAR = 2024, 1, 1

    class Ratio(float, enum.Enum):
        HALF = 0.5

    class Plain(enum.Enum):
        A = 1

    flags = enum.IntFlag("flags", "A B")
    number, text = enum.IntEnum("number", "ONE TWO"), enum.StrEnum("text", "A B")
    for value, wanted in (
        (number.TWO, 2),
        (text.A, "a"),
        (flags.A | flags.B, 3),
        (Day.NEW_YEAR, dt.date(2024, 1, 1)),
        (Ratio.HALF, 0.5),
    ):
        for found in everywhere(arena, value):
            assert (type(found), found) == (type(wanted), wanted)
    refused(arena, Plain.A, "Plain")


def test_a_subclass_and_its_base_are_one_key(arena: Arena) -> None:
    """A key is found by its own value, be it of a subclass or not; own __hash__ and __eq__ make no other key of it."""

    class Caseless(str):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, str) and str.lower(self) == str.lower(other)

        def __hash__(self) -> int:
            return hash(str.lower(self))

    class Unhashable(str):
        __hash__ = None  # type: ignore[assignment]

    with arena.transaction():
        there = arena.root["d"] = {}
        there = arena.root["d"]
        there[Caseless("Ab")] = 1
        assert there["Ab"] == there[Caseless("Ab")] == 1
        assert "ab" not in there
        assert Caseless("ab") not in there
        for use in (there.__getitem__, there.__contains__, lambda key: there.__setitem__(key, 1)):
            with pytest.raises(TypeError, match="unhashable"):
                use(Unhashable("Ab"))


def test_a_record_s_float_of_an_odd_int(arena: Arena) -> None:
    """A field that takes an int for a float asks int, not the subclass."""

    class Odd(int):
        def __float__(self) -> float:
            return 99.0

    class Ratio(Record):
        value: float

    with arena.transaction():
        arena.root["r"] = Ratio(value=Odd(5))
        assert arena.root["r"].value == 5.0


def test_what_is_inside_a_value_of_an_exact_type(arena: Arena) -> None:
    """The number of a UUID may be a subclass's, and the context says how a Decimal is written: neither matters."""

    class Odd(int):
        def to_bytes(self, *_: Any, **__: Any) -> bytes:
            return b"\x01"

    for found in everywhere(arena, UUID(int=Odd(5))):
        assert found == UUID(int=5)
    with arena.transaction():
        arena.root["d"] = {Decimal("1E+7000"): 1}
        with localcontext(Context(capitals=0)):
            assert Decimal("1E+7000") in arena.root["d"]


# -- time zones ---------------------------------------------------------------------------------------------------


class Zone(dt.tzinfo):
    """An hour ahead; two in the first of two equal hours, as dateutil's zones do it."""

    key: Any = None

    def utcoffset(self, when: dt.datetime | None) -> dt.timedelta | None:
        return None if when is None else dt.timedelta(hours=2 - when.fold)

    def dst(self, when: dt.datetime | None) -> dt.timedelta | None:
        return None


@pytest.mark.parametrize("fold", [0, 1])
def test_a_moment_in_a_zone_of_one_s_own_keeps_its_instant(arena: Arena, fold: int) -> None:
    """It comes back with the offset that it had, in the second of two equal hours as well."""
    moment = dt.datetime(2024, 10, 27, 2, 30, tzinfo=Zone(), fold=fold)
    for found in everywhere(arena, moment):
        assert found.utcoffset() == dt.timedelta(hours=2 - fold)
        assert found.astimezone(dt.UTC) == moment.astimezone(dt.UTC)
        assert found.fold == fold


@pytest.mark.parametrize("key", ["Nowhere/At_all", "Asia/Tokyo", "/etc/passwd", "a|b", "", 7])
def test_a_zone_with_a_name_that_is_not_its_own_is_refused(arena: Arena, key: Any) -> None:
    """A zone is kept by its name only if that name gives the same moment; without a name, by its offset."""
    zone = Zone()
    zone.key = key
    moment = dt.datetime(2024, 7, 1, 12, tzinfo=zone)
    if key:
        refused(arena, moment, "'datetime'.*nothing was stored")
    else:
        assert all(found.utcoffset() == moment.utcoffset() for found in everywhere(arena, moment))


def test_zoneinfo_of_a_file_and_of_a_subclass(arena: Arena) -> None:
    """A ZoneInfo under a name that this machine does not know is refused; one of a subclass comes back as a ZoneInfo."""

    class Mine(ZoneInfo):
        pass

    moment = dt.datetime(2024, 10, 27, 2, 30, tzinfo=Mine("Europe/Berlin"), fold=1)
    for found in everywhere(arena, moment):
        assert type(found.tzinfo) is ZoneInfo
        assert found.utcoffset() == moment.utcoffset()
    for zone in (ZoneInfo.no_cache("Europe/Berlin"), ZoneInfo("Europe/Berlin")):
        assert {str(found.tzinfo) for found in everywhere(arena, moment.replace(tzinfo=zone))} == {"Europe/Berlin"}
    named = type("Renamed", (ZoneInfo,), {"key": "Nowhere/At_all"})("Europe/Berlin")
    refused(arena, moment.replace(tzinfo=named), "nothing was stored")


def test_a_zoneinfo_without_a_name_is_kept_by_its_offset(arena: Arena) -> None:
    """One that was read from a file, without a key, names nothing."""
    utc = b"TZif" + bytes(16) + struct.pack(">6L", 0, 0, 0, 0, 1, 4) + struct.pack(">lBB", 3600, 0, 0) + b"CET\0"
    zone = ZoneInfo.from_file(io.BytesIO(utc))
    for found in everywhere(arena, dt.datetime(2024, 7, 1, 12, tzinfo=zone)):
        assert found.utcoffset() == dt.timedelta(hours=1)


def test_a_time_whose_zone_has_no_offset_without_a_day_is_refused(arena: Arena) -> None:
    """A zone that has neither a name nor a fixed offset would be lost."""
    refused(arena, dt.time(12, tzinfo=Zone()), "'time'.*Zone")
    for found in everywhere(arena, dt.time(12, tzinfo=ZoneInfo("Europe/Berlin"))):
        assert str(found.tzinfo) == "Europe/Berlin"


# -- codecs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """A type of a user's."""

    x: float


class Bare:
    """One without an ==."""


def test_what_a_codec_reads_back_wrongly_is_refused(arena: Arena) -> None:
    """A decoder that raises, or gives another value, is found when a value is stored, not when it is read."""
    with codec(Point, lambda p: b"x", lambda b: Point(float(b))):
        refused(arena, Point(1.0), r"can't read back.*Point.*ValueError.*nothing was stored")
    with codec(Point, lambda p: str(int(p.x)).encode(), lambda b: Point(float(b))):
        refused(arena, Point(1.5), "reads back as another value.*nothing was stored")
        assert set(everywhere(arena, Point(2.0))) == {Point(2.0)}
    with codec(Point, lambda p: b"", lambda b: None):
        refused(arena, Point(1.5), "nothing was stored", Exception)
    with codec(Bare, lambda p: b"", lambda b: None):
        refused(arena, Bare(), "nothing was stored|NoneType", TypeError)


def test_values_that_equal_nothing_are_judged_by_their_bytes(arena: Arena) -> None:
    """A NaN inside, or no ==, or one that gives no bool, is no reason to refuse."""
    with codec(Point, lambda p: repr(p.x).encode(), lambda b: Point(float(b))):
        assert all(math.isnan(found.x) for found in everywhere(arena, Point(math.nan)))
    with codec(Bare, lambda _: b"", lambda _: Bare()):
        assert {type(found) for found in list(everywhere(arena, Bare()))} == {Bare}
    several = type("Several", (), {"__eq__": lambda self, other: [True, False], "__hash__": lambda self: 1})
    with codec(several, lambda _: b"", lambda _: several()), arena.transaction():
        arena.root["v"] = (several(),)
        assert type(arena.root["v"][0]) is several
        arena.root.clear()


def test_bytes_of_a_codec_may_be_of_a_subclass(arena: Arena) -> None:
    """What they override has no part in what is stored."""
    kind = overridden(bytes, lie)
    with codec(Point, lambda p: kind(repr(p.x).encode()), lambda b: Point(float(b))):
        assert set(everywhere(arena, Point(1.5))) == {Point(1.5)}


def test_an_error_of_the_arena_in_a_codec_is_not_a_codec_s(arena: Arena) -> None:
    """What a decoder meets in an arena, a conflict say, goes its own way: the request is to be run again."""

    def decode(_: bytes) -> Point:
        raise ArenaBusyError("as if")

    with codec(Point, lambda p: b"", decode), arena.transaction(), pytest.raises(ArenaBusyError):
        arena.root["v"] = Point(1.5)
