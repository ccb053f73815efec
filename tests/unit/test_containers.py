"""What the containers do, one behaviour a test: what a reader of the docs would ask."""

from __future__ import annotations

import copy
import datetime as dt
import enum
import json
import pickle
import typing
from collections import deque
from collections.abc import Callable, MutableSequence, MutableSet
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from recoverable import (
    Arena,
    Array,
    CodecError,
    Counter,
    Deque,
    Dict,
    List,
    NoTransactionError,
    Record,
    SchemaError,
    Set,
    StaleReferenceError,
    TransactionError,
    register_codec,
)
from support.forks import in_child

LONG = "long " * 30


class Leaf(Record, name="unit.Leaf"):
    n: int = 0


class Tree(Record, name="unit.Tree"):
    name: str
    leaf: Leaf | None = None
    maybe: int | None = None
    ratio: float = 1.0
    marks: List[int] = List()


MAKE: dict[str, Callable[[], Any]] = {
    "dict": lambda: {"a": {"b": 1}},
    "list": lambda: [1, [2]],
    "set": lambda: {1, 2},
    "deque": lambda: deque([1, [2]], 5),
    "counter": lambda: Counter(3),
    "record": lambda: Tree("t", Leaf(1)),
    "array": lambda: Array((3,), "f8"),
}
kinds = pytest.mark.parametrize("kind", MAKE)


# -- one parent ---------------------------------------------------------------------------------------------------


@kinds
def test_a_container_has_one_parent(arena: Arena, kind: str) -> None:
    """Storing a stored container again is refused, points to .copy(), and changes nothing; its copy can be stored."""
    root = arena.root
    with arena.transaction():
        root["x"] = MAKE[kind]()
        root["l"] = []
        before = root.to_python()
        for store in (
            lambda: root.__setitem__("y", root["x"]),
            lambda: root["l"].append(root["x"]),
            lambda: root.__setitem__("y", {"deep": [root["x"]]}),
        ):
            with pytest.raises(TransactionError, match=r"one parent.*\.copy\(\)"):
                store()
            assert root.to_python() == before
        if kind != "array":
            root["y"] = root["x"].copy()
            assert root["y"] == root["x"]
    assert arena.verify().leaked_blocks == 0


def test_no_cycles(arena: Arena) -> None:
    """A list or dict that contains itself can't be stored, and nothing of it is."""
    root = arena.root
    plain: list[Any] = [1]
    plain.append(plain)
    mapping: dict[str, Any] = {}
    mapping["self"] = mapping
    handle: List[Any] = List([1])
    handle.append(handle)
    with arena.transaction():
        root["kept"] = [1]
        for value in (plain, mapping, [plain], deque([plain])):
            with pytest.raises(RecursionError):
                root["x"] = value
        for value in (handle, root, {"deep": root}):
            with pytest.raises(TransactionError, match="one parent"):
                root["x"] = value
        with pytest.raises(TransactionError, match="one parent"):
            root["kept"].append(root["kept"])
    assert root == {"kept": [1]}
    assert arena.verify().leaked_blocks == 0


def test_the_root_of_another_arena_cannot_be_stored(arena: Arena) -> None:
    """A container of another arena is refused; the message names .copy()."""
    with Arena.temporary("1 MiB") as other:
        with other.transaction():
            other.root["x"] = [1]
        with arena.transaction():
            with pytest.raises(TransactionError, match=r"store a \.copy\(\) of it"):
                arena.root["x"] = other.root["x"]
            arena.root["x"] = other.root["x"].to_python()
        assert arena.root["x"] == [1]


@pytest.mark.parametrize("value", [object(), 1j, bytearray(b"x"), lambda: 0, (1, [2]), range(3)], ids=repr)
def test_unsupported_values_are_refused_everywhere(arena: Arena, value: Any) -> None:
    """What an arena can't hold is a TypeError that names the way out; the container is as it was."""
    root = arena.root
    with arena.transaction():
        root.update({"d": {}, "l": [1], "q": Deque([1]), "s": {1}})
        before = root.to_python()
        for store in (
            lambda: root["d"].__setitem__("x", value),
            lambda: root["d"].__setitem__("x", [1, {"deep": value}]),
            lambda: root["l"].append(value),
            lambda: root["l"].extend([2, 3, value]),
            lambda: root["l"].__setitem__(slice(0, 1), [5, value]),
            lambda: root["l"].insert(0, [value]),
            lambda: root["q"].appendleft(value),
            lambda: root["q"].extend([2, value]),
            lambda: root.__setitem__("new", Deque([value])),
        ):
            with pytest.raises(TypeError, match=r"register_codec|a tuple with a 'list' in it .* use a list"):
                store()
            assert root.to_python() == before
        with pytest.raises(TypeError):
            root["s"].update([2, [1]])
        assert root.to_python() == before
    assert arena.verify().leaked_blocks == 0


# -- handles ------------------------------------------------------------------------------------------------------


USE: dict[str, Callable[[Any], Any]] = {
    "dict": lambda c: c["a"],
    "list": lambda c: c[0],
    "set": lambda c: 1 in c,
    "deque": lambda c: c[0],
    "counter": lambda c: c.value,
    "record": lambda c: c.name,
    "array": lambda c: c[0],
}


@kinds
@pytest.mark.parametrize("how", ["deleted", "replaced", "cleared", "rolled back", "savepoint", "parent deleted"])
def test_handle_of_a_gone_container_is_stale(arena: Arena, kind: str, how: str) -> None:
    """A handle of a container that was deleted or rolled back raises, also when its memory holds another one."""
    root = arena.root
    handle: Any = None

    def store() -> None:
        root["p"] = {"x": MAKE[kind]()}

    if how == "rolled back":
        with pytest.raises(ZeroDivisionError), arena.transaction():
            store()
            handle = root["p"]["x"]
            USE[kind](handle)
            raise ZeroDivisionError
    elif how == "savepoint":
        with arena.transaction():
            with pytest.raises(ZeroDivisionError), arena.savepoint():
                store()
                handle = root["p"]["x"]
                raise ZeroDivisionError
            with pytest.raises(StaleReferenceError):
                USE[kind](handle)
    else:
        with arena.transaction():
            store()
        handle = root["p"]["x"]
        USE[kind](handle)
        with arena.transaction():
            match how:
                case "deleted":
                    del root["p"]["x"]
                case "replaced":
                    root["p"]["x"] = MAKE[kind]()
                case "cleared":
                    root["p"].clear()
                case _:
                    del root["p"]
            with pytest.raises(StaleReferenceError):
                USE[kind](handle)
    with pytest.raises(StaleReferenceError):
        USE[kind](handle)
    for turn in range(40):  # its memory is reclaimed and used again
        with arena.transaction():
            root[f"again {turn}"] = MAKE[kind]()
            with pytest.raises(StaleReferenceError):
                USE[kind](handle)
    with pytest.raises(StaleReferenceError):
        handle.to_python()


@kinds
def test_two_handles_of_one_container_are_equal_and_see_each_others_changes(arena: Arena, kind: str) -> None:
    """Handles are cheap names: which one is used makes no difference."""
    with arena.transaction():
        arena.root["x"] = MAKE[kind]()
        a, b = arena.root["x"], arena.root["x"]
        assert a is not b
        if kind != "array":
            assert a == b
        match kind:
            case "dict":
                a["new"] = 1
            case "list" | "deque":
                a.append("new")
            case "set":
                a.add("new")
            case "counter":
                a.add(1)
            case "record":
                a.name = "new"
            case _:
                a[0] = 1.0
        assert b.to_python() == a.to_python()
        if kind == "counter":
            with pytest.raises(TypeError):
                hash(a)


@kinds
def test_a_stored_object_is_the_handle(arena: Arena, kind: str) -> None:
    """The object that was stored goes on as a handle of what it was stored as."""
    value = MAKE[kind]()
    if not isinstance(value, Dict | List | Set | Deque | Counter | Record | Array):
        value = {"dict": Dict, "list": List, "set": Set, "deque": Deque}[kind](value)
    with arena.transaction():
        arena.root["x"] = value
        assert value.to_python() == arena.root["x"].to_python()
        arena.root["other"] = 1
    assert value.to_python() == arena.root["x"].to_python()
    with pytest.raises(NoTransactionError):
        arena.root["x"] = 1


def test_an_object_whose_storing_failed_can_be_stored_later(arena: Arena) -> None:
    """A failed operation gives the containers that it was to store back, with their content."""
    inner: List[Any] = List([1])
    outer = Dict({"in": inner, "bad": object()})
    with arena.transaction():
        with pytest.raises(TypeError):
            arena.root["x"] = outer
        with pytest.raises(IndexError):
            arena.root.setdefault("l", [])[3] = inner
        del outer["bad"]
        arena.root["x"] = outer
    assert arena.root == {"l": [], "x": {"in": [1]}}
    assert arena.verify().leaked_blocks == 0


def test_popped_containers_come_as_plain_copies(arena: Arena) -> None:
    """What is taken out of a container is plain Python; the handle that was there is stale."""
    with arena.transaction():
        arena.root.update({"d": {"x": {"a": 1}}, "l": [[1], {"b": 2}], "q": Deque([[3], {4: 5}])})
        handle = arena.root["l"][1]
        popped = [arena.root["d"].pop("x"), arena.root["l"].pop(), arena.root["q"].popleft(), arena.root["q"].pop()]
        with pytest.raises(StaleReferenceError):
            handle["b"]
    assert popped == [{"a": 1}, {"b": 2}, [3], {4: 5}]
    assert all(type(value) in (dict, list) for value in popped)


def test_sorting_and_turning_round_keep_who_the_items_are(arena: Arena) -> None:
    """sort(), reverse() and rotate() move containers, they don't copy them: handles stay good."""
    with arena.transaction():
        arena.root["l"] = [{"n": i} for i in range(50)]
        arena.root["q"] = Deque({"n": i} for i in range(150))
        item, end = arena.root["l"][7], arena.root["q"][140]
        arena.root["l"].sort(key=lambda row: -row["n"])
        arena.root["l"].reverse()
        arena.root["q"].reverse()
        arena.root["q"].rotate(-3)
        item["seen"] = end["seen"] = True
        assert arena.root["l"][7] == {"n": 7, "seen": True}
        assert arena.root["q"][6] == {"n": 140, "seen": True}
    assert arena.verify().leaked_blocks == 0


def test_sort_is_stable_and_a_raising_key_changes_nothing(arena: Arena) -> None:
    """Equal keys keep their order, reversed too; an exception of the key or of a comparison leaves the List as it was."""
    rows = [[i % 3, i] for i in range(70)]
    with arena.transaction():
        arena.root["l"] = rows
        there = arena.root["l"]
        there.sort(key=lambda row: row[0])
        assert there == sorted(rows, key=lambda row: row[0])
        there.sort(key=lambda row: row[0], reverse=True)
        assert there == sorted(sorted(rows, key=lambda row: row[0]), key=lambda row: row[0], reverse=True)
        before = there.to_python()
        with pytest.raises(ZeroDivisionError):
            there.sort(key=lambda row: 1 / row[0])
        there.append("text")
        with pytest.raises(TypeError):
            there.sort()
        assert there.pop() == "text"
        assert there == before

        def meddle(row: Any) -> Any:
            there.append(0)
            return 0

        with pytest.raises(ValueError, match="modified during sort"):
            arena.root["l"].sort(key=meddle)


@pytest.mark.parametrize("kind", ["set", "deque", "dict"])
def test_mutation_during_iteration_is_noticed(arena: Arena, kind: str) -> None:
    """As with the originals, iterating over what changes its size is a RuntimeError."""
    with arena.transaction():
        arena.root["x"] = MAKE[kind]()
        there = arena.root["x"]
        change = {"set": lambda: there.add(9), "deque": lambda: there.append(9), "dict": lambda: there.pop("a")}[kind]
        with pytest.raises(RuntimeError):
            for _ in there:
                change()


def test_sets_keep_insertion_order_and_the_member_that_came_first(arena: Arena) -> None:
    """A Set iterates in the order of insertion; adding an equal member changes nothing."""
    with arena.transaction():
        arena.root["s"] = Set([3, 1, 2, True, 1.0])
        there = arena.root["s"]
        there.add(3.0)
        there.discard(3)
        there.add(3)
        there |= {9}
        assert list(there) == [1, 2, 3, 9]
        assert [type(member) for member in there] == [int] * 4
        assert list(reversed(there)) == [9, 3, 2, 1]
        assert there.pop() == 9
    assert repr(arena.root["s"]) == "Set({1, 2, 3})"
    assert repr(Set()) == "Set()"


def test_abcs() -> None:
    """isinstance() tells what they behave as."""
    assert isinstance(List(), MutableSequence)
    assert isinstance(Deque(), MutableSequence)
    assert isinstance(Set(), MutableSet)
    for value in (List(), Deque(), Set(), Counter(), Dict(), Leaf()):
        with pytest.raises(TypeError):
            hash(value)


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


# -- records ------------------------------------------------------------------------------------------------------


def old_class() -> type[Record]:
    class Old(Record, name="unit.Evolving"):
        a: int
        gone: str = "g"

    return Old


def test_a_class_with_further_fields_reads_old_records(arena: Arena) -> None:
    """A field that was added is its default in an old record, until it is written; writing keeps all else."""
    with arena.transaction():
        arena.root["r"] = old_class()(a=1)
        arena.root["other"] = old_class()(a=2, gone="x")

    class New(Record, name="unit.Evolving"):
        b: str = "default"
        a: int = 0
        rows: List[int] = List([7])

    there = arena.root["r"]
    assert (type(there), there.a, there.b, there.rows.to_python()) == (New, 1, "default", [7])
    with arena.transaction():
        there.b = "written"
        there.rows.append(8)
        assert there.to_python() == {"b": "written", "a": 1, "rows": [7, 8]}
    assert arena.root["r"] == New(a=1, b="written", rows=[7, 8])
    assert arena.root["other"].to_python() == {"b": "default", "a": 2, "rows": [7]}
    assert arena.verify().leaked_blocks == 0
    assert old_class() is not None
    assert arena.root["r"].gone == "g"  # stays stored
    assert arena.root["other"].gone == "x"


def test_a_migration_that_rolls_back_leaves_the_old_record(arena: Arena) -> None:
    """The slots that a write has added go with its transaction."""
    with arena.transaction():
        arena.root["r"] = old_class()(a=1)

    class New(Record, name="unit.Evolving"):
        a: int
        b: str = LONG

    with pytest.raises(ZeroDivisionError), arena.transaction():
        arena.root["r"].b = "new"
        raise ZeroDivisionError
    there = arena.root["r"]
    assert isinstance(there, New)
    assert (there.a, there.b) == (1, LONG)
    assert arena.verify().leaked_blocks == 0


@pytest.mark.parametrize("which", ["type", "no default"])
def test_an_incompatible_class_is_a_schema_error_that_names_the_field(arena: Arena, which: str) -> None:
    """A changed type, or a new field without a default, is refused; the stored record stays."""
    with arena.transaction():
        arena.root["r"] = old_class()(a=1)
    if which == "type":

        class Retyped(Record, name="unit.Evolving"):
            a: str = ""

    else:

        class Demanding(Record, name="unit.Evolving"):
            a: int
            needed: int

    field = "a" if which == "type" else "needed"
    with pytest.raises(SchemaError, match=f"[.]{field} ") as caught:
        _ = arena.root["r"].a
    assert caught.value.field == field
    arena.verify()
    old_class()
    assert arena.root["r"].a == 1


def test_a_record_without_its_class_can_be_read(name: str) -> None:
    """A process that has not imported the class reads the fields by their stored names."""
    with Arena.temporary("1 MiB", name=name) as arena:
        with arena.transaction():
            arena.root["r"] = Tree("t", Leaf(5))

        def other() -> Any:
            from recoverable._native.record import forget_record_classes
            from recoverable.containers import record

            record._classes.clear()
            forget_record_classes()
            with Arena.open(name, create=False) as again:
                there = again.root["r"]
                assert (there.name, there.leaf.n) == ("t", 5)
                with pytest.raises(AttributeError):
                    _ = there.absent
                return there.to_python(), repr(there)

        ending = in_child(other)
        assert ending.returned, ending
        plain, text = ending.value
        assert plain == {"name": "t", "leaf": {"n": 5}, "maybe": None, "ratio": 1.0, "marks": []}
        assert "unit.Tree" in text


def test_records_check_types_and_names(arena: Arena) -> None:
    """A wrong type, an unknown field and a missing one are a TypeError; an int is taken for a float."""
    for make in (
        lambda: Tree(),
        lambda: Tree(name=1),
        lambda: Tree("a", absent=1),
        lambda: Tree("a", "b"),
        lambda: Tree("a", None, None, 1.0, [], 9),
        lambda: Tree("a", name="b"),
    ):
        with pytest.raises(TypeError):
            make()
    with arena.transaction():
        arena.root["r"] = Tree("a", ratio=2, marks=[1])
        there = arena.root["r"]
        assert type(there.ratio) is float
        for field, wrong in (("name", None), ("leaf", 1), ("ratio", "x"), ("marks", {})):
            with pytest.raises(TypeError, match=f"Tree.{field}"):
                setattr(there, field, wrong)
        there.leaf = Leaf(2)
        there.leaf.n += 1
        there.leaf = there.leaf  # where it is already
        there.maybe = None
        with pytest.raises(AttributeError):
            there.absent = 1
        with pytest.raises(AttributeError):
            del there.name
        assert there == Tree("a", Leaf(3), ratio=2.0, marks=[1])
        assert there != Tree("b")
    assert repr(arena.root["r"]) == "Tree(name='a', leaf=Leaf(n=3), maybe=None, ratio=2.0, marks=List([1]))"


def test_defaults_are_not_shared() -> None:
    """Each record gets its own copy of a default container."""
    a, b = Tree("a"), Tree("b")
    a.marks.append(1)
    assert b.marks == []


# -- the rest -----------------------------------------------------------------------------------------------------


def test_counter_refuses_what_does_not_fit(arena: Arena) -> None:
    """An addition beyond 64 bits is an OverflowError before and after it is stored, and adds nothing."""
    waiting = Counter(2**63 - 2)
    with pytest.raises(OverflowError):
        waiting.add(5)
    with pytest.raises(OverflowError):
        Counter(2**63)
    with pytest.raises(TypeError):
        Counter(1.5)  # type: ignore[arg-type]
    with arena.transaction():
        arena.root["n"] = waiting
        arena.root["n"] += 1
        with pytest.raises(OverflowError):
            arena.root["n"] += 1
        assert arena.root["n"] == 2**63 - 1


def test_counter_looks_at_the_sum_only(arena: Arena) -> None:
    """What a request has added may leave 64 bits as long as the number does not."""
    with arena.transaction():
        arena.root["n"] = Counter(1)
        arena.root["m"] = Counter(-1)
    with arena.transaction():
        there, other = arena.root["n"], arena.root["m"]
        there.add(-1)
        there.add(-(2**63))
        other.add(2**63 - 1)
        other.add(1)
        assert (there.value, other.value) == (-(2**63), 2**63 - 1)
        for full, one in ((there, -1), (other, 1)):
            with pytest.raises(OverflowError):
                full.add(one)
    assert (arena.root["n"].value, arena.root["m"].value) == (-(2**63), 2**63 - 1)


def test_bounded_deque_forgets_the_other_end(arena: Arena) -> None:
    """Maxlen works as in collections.deque, 0 included; containers that fall out are gone."""
    with arena.transaction():
        arena.root["q"] = Deque([{"n": i} for i in range(5)], 3)
        arena.root["none"] = Deque([1], 0)
        there = arena.root["q"]
        first = there[0]
        there.append({"n": 5})
        assert there == deque([{"n": 3}, {"n": 4}, {"n": 5}], 3)
        with pytest.raises(StaleReferenceError):
            first["n"]
        there.appendleft([1])
        assert [there.maxlen, len(there)] == [3, 3]
        arena.root["none"].append({"a": [1]})
        arena.root["none"].extendleft([1, 2])
        assert len(arena.root["none"]) == 0
        with pytest.raises(IndexError):
            there.insert(1, 1)
        with pytest.raises(AttributeError):
            there.maxlen = 5
    assert arena.verify().leaked_blocks == 0


def test_deep_nesting_is_no_problem_for_the_core(arena: Arena) -> None:
    """A chain of 400 containers is stored, read, verified and freed."""
    deep: Any = 1
    for i in range(400):
        deep = [deep] if i % 2 else {"x": deep}
    with arena.transaction():
        arena.root["deep"] = deep
    assert arena.root["deep"] == deep
    arena.verify()
    with arena.transaction():
        del arena.root["deep"]
    for turn in range(410):  # one level a boundary
        with arena.transaction():
            arena.root["turn"] = turn
    report = arena.verify()
    assert report.leaked_blocks == 0
    assert report.containers == 1


# -- as the originals do ------------------------------------------------------------------------------------------


def test_a_bounded_deque_stays_bounded_however_it_is_stored(arena: Arena) -> None:
    """A plain deque keeps its maxlen, assigned or inside something else."""
    with arena.transaction():
        arena.root["q"] = deque([1, 2], 2)
        arena.root["in"] = [{"q": deque([1], 1)}]
        arena.root["q"].append(3)
        assert arena.root["q"] == deque([2, 3], 2)
        assert arena.root["in"][0]["q"].maxlen == 1


def test_repeating_in_place_keeps_what_the_items_are(arena: Arena) -> None:
    """`*=` stores copies of the same kind: a Set is repeated as a Set, a Deque with its maxlen."""
    with arena.transaction():
        arena.root["l"] = [{1}, deque([1], 2)]
        arena.root["q"] = deque([{1}])
        arena.root["l"] *= 2
        arena.root["q"] *= 3
        assert [type(item) for item in arena.root["l"]] == [Set, Deque] * 2
        assert arena.root["l"][3].maxlen == 2
        assert list(arena.root["q"]) == [{1}] * 3
        assert deque([0], 5) + arena.root["l"][1] == deque([0, 1], 5)
    assert arena.verify().leaked_blocks == 0


def test_a_list_can_be_extended_by_itself() -> None:
    """As a list: by what it holds when the call begins."""
    waiting = List([1, 2])
    waiting.extend(waiting)
    waiting += waiting
    assert waiting == [1, 2] * 4
    with Arena.temporary("1 MiB") as arena, arena.transaction():
        arena.root["l"] = waiting
        waiting.extend(waiting)
        assert waiting == [1, 2] * 8


def test_dict_views_are_those_of_a_dict(arena: Arena) -> None:
    """Keys can be walked backwards; what is no pair is in no items."""
    for stored in (True, False):
        there: Any = Dict({"a": 1, "b": 2})
        with arena.transaction():
            if stored:
                arena.root["d"] = there
            assert list(reversed(there.keys())) == ["b", "a"]
            for no_pair in (5, "ab", ["a", 1], (), ("a",), ("a", 1, 2)):
                assert no_pair not in there.items()
            assert ("a", 1) in there.items()
            assert there.items() & {("a", 1), "ab", 7} == {("a", 1)}
            with pytest.raises(TypeError, match="unhashable"):
                del there[[]]


@pytest.mark.parametrize(
    "make", [lambda: {1: 1, 2: 2}, lambda: {1, 2}, lambda: deque([1, 2])], ids=["dict", "set", "deque"]
)
def test_an_iterator_watches_from_when_it_was_made(arena: Arena, make: Callable[[], Any]) -> None:
    """A change between iter() and the first next(), or at the last item, is a RuntimeError too."""

    def add(container: Any) -> None:
        if isinstance(container, Dict | dict):
            container[9] = 9
        elif isinstance(container, Set | set):
            container.add(9)
        else:
            container.append(9)

    with arena.transaction():
        arena.root["x"] = make()
        for container in (make(), arena.root["x"]):
            walk = iter(container)
            add(container)
            with pytest.raises(RuntimeError):
                next(walk)
            if not isinstance(container, Set | set):
                walk = reversed(container)
                container.popitem() if isinstance(container, Dict | dict) else container.pop()
                with pytest.raises(RuntimeError):
                    next(walk)


def test_an_index_error_of_a_codec_does_not_end_an_iteration(arena: Arena) -> None:
    """What a decoder raises reaches who iterates over a List, also where it looks like the end."""

    class Short:
        pass

    known = [Short()]
    register_codec(Short, lambda _: b"", lambda _: known[0], "unit.short")
    with arena.transaction():
        arena.root["l"] = [1, known[0], 2]
    known.clear()
    for walk in (iter(arena.root["l"]), reversed(arena.root["l"])):
        next(walk)
        with pytest.raises(IndexError):
            next(walk)


@kinds
def test_copy_module_makes_a_copy_that_is_not_stored_and_pickle_says_why_not(arena: Arena, kind: str) -> None:
    """copy.copy and copy.deepcopy are .copy(); pickling a handle is a TypeError that names .to_python()."""
    with arena.transaction():
        arena.root["x"] = MAKE[kind]()
        there = arena.root["x"]
        for copied in (copy.copy(there), copy.deepcopy({"in": [there]})["in"][0]):
            assert type(copied) is type(there)
            arena.root["y"] = copied  # as nothing that is stored could be
            assert copied.to_python() == there.to_python()
        with pytest.raises(TypeError, match=r"pickled.*to_python"):
            pickle.dumps(there)
    assert arena.verify().leaked_blocks == 0


def test_what_a_key_comes_back_as(arena: Arena) -> None:
    """The first of equal keys stays, as in a dict; a number may come back as another that equals it; NaN is one key."""
    zone, other = dt.timezone(dt.timedelta(hours=2)), dt.UTC
    noon = dt.datetime(2024, 1, 1, 12, tzinfo=other)
    nan = float("nan")
    with arena.transaction():
        arena.root["d"] = {}
        there = arena.root["d"]
        for key in (1, True, -0.0, Decimal(7), (1.0, True), nan, noon, noon.astimezone(zone)):
            there[key] = repr(key)
        assert list(map(repr, there)) == ["1", "0.0", "7", "(1, 1)", "nan", repr(noon), repr(noon.astimezone(zone))]
        assert there[1] == "True"
        assert there[float("nan")] == "nan"
        for test in (lambda: object() in there, lambda: there.get(object())):
            with pytest.raises(TypeError, match="can't be stored"):
                test()
