"""What containers hold: values and keys that come back as they were, and types that have a codec."""

from __future__ import annotations

import copy
import datetime as dt
import enum
import json
import typing
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from recoverable import Arena, CodecError, Deque, Record, register_codec
from support.forks import in_child
from support.kinds import MAKE

# -- values -------------------------------------------------------------------------------------------------------

ZONES = [None, dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=45, seconds=30)), ZoneInfo("Europe/Berlin")]
VALUES = [
    *(10**n for n in (0, 18, 19, 100, 4000)),
    *(-(10**n) for n in (18, 19, 400)),
    *(2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 255, 256, -128, -129, 2**127),
    *("", "\ud800", "a\udfffb", "\U0010ffff", "\0", "x" * 14, "x" * 15),
    *("é" * 3000, "\ud800" * 40000, "b" * 70000, "m" * 2**20),
    *(b"", b"\0" * 14, b"\0" * 15, b"p" * 4096, b"p" * 4097, b"c" * 65536, b"c" * 65537, b"m" * 2**20),
    *(0.0, -0.0, 1e308, 5e-324, float("inf")),
    *((), (1,), (1, (2, "x", None)), ((),), ("\ud800", 10**30, True, 1.5, b"x")),
    *(dt.datetime(2024, 10, 27, 2, 30, 1, 7, zone, fold=fold) for zone in ZONES for fold in (0, 1)),
    *(dt.date(1, 1, 1), dt.date.max, dt.datetime.min, dt.time(1, 2, 3, 4), dt.time(1, tzinfo=dt.UTC)),
    *(dt.timedelta.min, dt.timedelta.max, dt.timedelta(0), dt.timedelta(microseconds=-1)),
    *(Decimal("1.10"), Decimal("-0"), Decimal("1E+1000"), Decimal("Infinity"), Decimal(10) ** -50),
    UUID(int=0),
    UUID(int=2**128 - 1),
]


def same(a: Any, b: Any) -> bool:
    """Equal in content, type, sign and zone."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    zones = (getattr(a, "tzinfo", None), getattr(b, "tzinfo", None))
    return (type(a), a, zones, getattr(a, "fold", 0)) == (type(b), b, zones[::-1], getattr(b, "fold", 0)) and (
        isinstance(a, str) or str(a) == str(b)
    )


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__} {value!r:.24}")
def test_values_come_back_as_they_were(arena: Arena, value: Any) -> None:
    """Every value type, of any size, in every kind of slot, after a commit and in another process."""

    class Slot(Record, name="unit.Slot"):
        value: typing.Any = None

    with arena.transaction():
        arena.root["d"] = {"x": value}
        arena.root["l"] = [value]
        arena.root["q"] = Deque([value])
        arena.root["r"] = Slot(value)
        arena.root["t"] = (value, value)
    found = [arena.root["d"]["x"], arena.root["l"][0], arena.root["q"][0], arena.root["r"].value, *arena.root["t"]]
    assert all(same(one, value) for one in found)
    with arena.transaction():
        for key in ("d", "l", "q", "r", "t"):
            arena.root[key] = None
    assert arena.verify().leaked_blocks == 0


@pytest.mark.parametrize(
    "key",
    [
        (1, "a"),
        ((), None),
        (1.5, (2,)),
        Decimal("1.25"),
        Decimal("0.1"),
        UUID(int=7),
        dt.date(2024, 1, 2),
        dt.timedelta(1),
        dt.datetime(2024, 1, 2, tzinfo=dt.UTC),
        10**40,
        "�",
        b"\xff",
        "k" * 70000,
    ],
    ids=lambda key: f"{key!r:.20}",
)
def test_keys_of_every_type_are_found_again(arena: Arena, key: Any) -> None:
    """An immutable value is a key of a Dict and a member of a Set, found by an equal one."""
    with arena.transaction():
        arena.root["d"] = {key: 1}
        arena.root["s"] = {key}
    again = copy.deepcopy(key)
    assert arena.root["d"][again] == 1
    assert again in arena.root["s"]
    assert list(arena.root["d"]) == [key]
    assert arena.root["d"] == {key: 1}


def test_equal_numbers_are_one_key(arena: Arena) -> None:
    """1, 1.0, True and Decimal(1), and also Decimal("0.5") and 0.5, are one key, as in a dict; in tuples too."""
    for equal in ([1, 1.0, True, Decimal(1), Decimal("1.000")], [0.5, Decimal("0.5"), Decimal("0.50")],
        [Decimal("1.10"), Decimal("1.1")],
                  [10**22, 1e22, Decimal("1E22")], [0, -0.0, Decimal("-0")], [float("inf"), Decimal("Infinity")],
                  [(1, 2.0), (True, Decimal(2))]):  # fmt: skip
        with arena.transaction():
            arena.root["d"] = {}
            for n, key in enumerate(equal):
                arena.root["d"][key] = n
            assert len(arena.root["d"]) == 1, equal
            assert all(arena.root["d"][key] == len(equal) - 1 for key in equal)
    with arena.transaction():
        arena.root["d"] = {0.1: 1, Decimal("0.1"): 2, Decimal("1E+9000"): 3}
        assert len(arena.root["d"]) == 3


def test_to_python_is_ready_for_json(arena: Arena) -> None:
    """A plain deep copy of everything: json.dumps() takes it, and it shares nothing with the arena."""
    with arena.transaction():
        arena.root.update({kind: make() for kind, make in MAKE.items() if kind != "array"})
    plain = arena.root.to_python()
    assert json.loads(json.dumps(plain)) == {
        "dict": {"a": {"b": 1}},
        "list": [1, [2]],
        "set": [1, 2],
        "deque": [1, [2]],
        "counter": 3,
        "record": {"name": "t", "leaf": {"n": 1}, "maybe": None, "ratio": 1.0, "marks": []},
    }
    plain["list"].append(1)
    assert len(arena.root["list"]) == 2


# -- codecs -------------------------------------------------------------------------------------------------------


class Money(typing.NamedTuple):
    amount: int
    currency: str


class Colour(enum.IntEnum):
    RED = 1


register_codec(
    Money,
    lambda m: f"{m.amount} {m.currency}".encode(),
    lambda b: Money(int(b.split()[0]), b.split()[1].decode()),
    "unit.money",
)
register_codec(Colour, lambda c: bytes([c]), lambda b: Colour(b[0]), "unit.colour")


def test_registered_types_are_values_and_keys(arena: Arena) -> None:
    """A codec keeps a user's immutable type, also where it derives from a type that arenas know."""
    money = Money(5, "EUR")
    with arena.transaction():
        arena.root["d"] = {money: money, "c": Colour.RED, "t": (money, Colour.RED)}
        arena.root["l"] = [money] * 3
    there = arena.root["d"]
    assert there[money] == money
    assert type(there[Money(5, "EUR")]) is Money
    assert there["c"] is Colour.RED
    assert there["t"] == (money, Colour.RED)
    assert next(iter(there)) == money
    assert arena.root["l"].count(money) == 3


def test_an_unknown_codec_is_an_error_for_that_value_only(name: str) -> None:
    """A process without the codec is told its name, can read everything else, and can delete the value."""
    with Arena.temporary("1 MiB", name=name) as arena:
        with arena.transaction():
            arena.root["d"] = {"a": 1, "m": Money(1, "EUR"), "z": 2}

        def other() -> str:
            from recoverable import codecs

            codecs._by_name.pop("unit.money")
            codecs._by_type.pop(Money)
            with Arena.open(name, create=False) as again:
                there = again.root["d"]
                assert (there["a"], there["z"], len(there), list(there)) == (1, 2, 3, ["a", "m", "z"])
                again.verify()
                with pytest.raises(CodecError, match=r"unit\.money") as caught:
                    there["m"]
                with again.transaction():
                    there["m"] = 3
                    assert there.to_python() == {"a": 1, "m": 3, "z": 2}
                return str(caught.value)

        ending = in_child(other)
        assert ending.returned, ending
        assert "register_codec" in ending.value
        assert arena.root["d"]["m"] == 3


def test_a_raising_codec_changes_nothing(arena: Arena) -> None:
    """An exception of an encoder leaves the container as it was; one of a decoder reaches the reader as it is."""

    class Fickle:
        def __init__(self, n: int) -> None:
            self.n = n

    broken = False

    def decode(data: bytes) -> Fickle:
        return Fickle(data[0] if not broken else 1 // data[0])

    register_codec(Fickle, lambda f: bytes([f.n]), decode, "unit.fickle")
    with arena.transaction():
        arena.root["l"] = [1]
        with pytest.raises(ValueError, match="bytes must be in range"):
            arena.root["l"].extend([2, {"x": [3, Fickle(300)]}])
        arena.root["l"].append(Fickle(0))
    assert len(arena.root["l"]) == 2
    assert arena.root["l"][0] == 1
    broken = True
    with pytest.raises(ZeroDivisionError):
        arena.root["l"][1]
    assert arena.verify().leaked_blocks == 0


def test_codec_names_are_unique() -> None:
    """A name or a type that is taken is refused."""
    with pytest.raises(ValueError, match="taken"):
        register_codec(complex, str.encode, bytes.decode, "unit.money")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="already"):
        register_codec(Money, bytes, Money, "unit.other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="255"):
        register_codec(complex, str.encode, bytes.decode, "x" * 256)  # type: ignore[arg-type]
