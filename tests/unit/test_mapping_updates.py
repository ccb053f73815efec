"""What update(), |= and the constructors take of mappings and iterables: what the built-in types take of them."""

from __future__ import annotations

import collections
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from recoverable import Arena, Deque, Dict, List, Set


class Form(Mapping[str, str]):
    """A form with repeated fields, as web frameworks have it: [] gives the first value, items() all of them."""

    pairs = (("role", "user"), ("name", "ann"), ("role", "admin"))

    def __getitem__(self, key: str) -> str:
        return next(value for name, value in self.pairs if name == key)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def items(self) -> Any:
        """Give all pairs."""
        return list(self.pairs)


class Keys:
    """No mapping, but it has keys() and []."""

    def keys(self) -> list[str]:
        """Give some keys, one of them twice."""
        return ["a", "b", "a"]

    def __getitem__(self, key: str) -> str:
        return key * 2


class Upper(dict[str, Any]):
    """A dict whose own iteration is another one."""

    def __iter__(self) -> Iterator[str]:
        return iter(["X", "Y"])

    def keys(self) -> Any:
        """Give other names for them."""
        return ["X", "Y"]

    def items(self) -> Any:
        """Give what dict() does not ask for."""
        return [("items", 1)]

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key.lower())


class BrokenKeys:
    """Has keys, but not all of their values."""

    def keys(self) -> list[str]:
        """Give a key without a value."""
        return ["a", "missing"]

    def __getitem__(self, key: str) -> int:
        return {"a": 1}[key]


def ordered() -> Any:
    """Make an OrderedDict whose order is not that of its insertions."""
    out = collections.OrderedDict(a=1, b=2, c=3)
    out.move_to_end("a")
    return out


def failing() -> Iterator[Any]:
    """Give a pair, then raise."""
    yield "a", 1
    raise ZeroDivisionError


SOURCES: dict[str, Callable[[], Any]] = {
    "dict": lambda: {"a": 1, "b": 2},
    "empty": dict,
    "form": Form,
    "keys and []": Keys,
    "dict of its own": lambda: Upper(x=1, y=2),
    "ordered": ordered,
    "default": lambda: collections.defaultdict(int, a=1),
    "counts": lambda: collections.Counter("abca"),
    "chain": lambda: collections.ChainMap({"a": 1}, {"a": 2, "b": 3}),
    "proxy": lambda: types.MappingProxyType({"a": 1}),
    "items": lambda: {"a": 1, "b": 2}.items(),
    "pairs": lambda: [("a", 1), ["b", 2], ("a", 3), "xy", {"k": 0, "v": 0}],
    "generator": lambda: ((c, i) for i, c in enumerate("abca")),
    "unstored Dict": lambda: Dict(a=1, b=2),
    "none": lambda: None,
    "number": lambda: 1,
    "text": lambda: "ab",
    "too long": lambda: [("a", 1, 2)],
    "too short": lambda: [("b", 1), ("a",)],
    "no pair": lambda: [("b", 1), 5],
    "unhashable": lambda: [("b", 1), ([], 2)],
    "a missing value": BrokenKeys,
    "fails half way": failing,
}
WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "update": lambda there, source: there.update(source),
    "update with names": lambda there, source: there.update(source, a="named", other="more"),
    "|=": lambda there, source: there.__ior__(source) and None,
}


def outcome(run: Callable[[], Any], result: Callable[[], Any]) -> Any:
    try:
        run()
    except Exception as error:
        return type(error), str(error)
    return list(result().items())


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("stored", [True, False])
def test_a_dict_is_updated_as_a_dict(arena: Arena, source: Any, way: Any, stored: bool) -> None:
    """Keys, values, their order and errors are a dict's, whatever it is updated from; a failure changes nothing."""
    start = {"z": 0, "b": "before"}
    plain = dict(start)
    wanted = outcome(lambda: way(plain, source()), lambda: plain)
    with arena.transaction():
        if stored:
            arena.root["d"] = start
        there = arena.root["d"] if stored else Dict(start)
        assert outcome(lambda: way(there, source()), there.to_python) == wanted
        if isinstance(wanted, tuple):
            assert there.to_python() == start


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_dict_is_made_as_a_dict(arena: Arena, source: Any) -> None:
    """Dict(...) takes what dict(...) takes."""
    plain: dict[str, Any] = {}
    made: dict[str, Any] = {}
    wanted = outcome(lambda: plain.update(dict(source(), k=1)), lambda: plain)
    assert outcome(lambda: made.update(Dict(source(), k=1).to_python()), lambda: made) == wanted


def test_a_dict_is_updated_from_one_in_the_arena(arena: Arena) -> None:
    """Another Dict of the arena gives its values, itself nothing new."""
    with arena.transaction():
        arena.root["a"], arena.root["b"] = {"x": 1, "y": {"deep": 1}}, {"z": 3, "x": 0}
        a, b = arena.root["a"], arena.root["b"]
        b.update(arena.root["b"])
        a.update(b, x="named")
        a |= a
        assert a.to_python() == {"x": "named", "y": {"deep": 1}, "z": 3}


@pytest.mark.parametrize(
    "items", [lambda: "abca", lambda: iter([1, 2]), lambda: {"k": 1}, lambda: None, lambda: 5, lambda: [[1]], failing]
)
def test_sets_lists_and_deques_take_what_the_originals_take(arena: Arena, items: Callable[[], Any]) -> None:
    """Set.update, List.extend, Deque.extend and the in-place operators agree with set, list and deque, errors included."""

    def tried(run: Callable[[], Any], result: Callable[[], Any]) -> Any:
        try:
            run()
        except Exception as error:
            return type(error)
        return result()

    pairs: list[tuple[Any, Any, Callable[[Any, Any], Any]]] = [
        (set, Set, lambda c, x: c.update(x)),
        (set, Set, lambda c, x: c.difference_update(x)),
        (set, Set, lambda c, x: c.symmetric_difference_update(x)),
        (set, Set, lambda c, x: c.__init__(x)),
        (list, List, lambda c, x: c.extend(x)),
        (list, List, lambda c, x: c.__iadd__(x)),
        (list, List, lambda c, x: c.__setitem__(slice(0, 1), x)),
        (collections.deque, Deque, lambda c, x: c.extend(x)),
        (collections.deque, Deque, lambda c, x: c.extendleft(x)),
    ]
    for plain_kind, kind, how in pairs:
        plain, unstored = plain_kind("ab"), kind("ab")
        wanted = tried(lambda: how(plain, items()), lambda: plain_kind(plain))  # noqa: B023 -- run at once
        assert tried(lambda: how(unstored, items()), lambda: plain_kind(unstored)) == wanted  # noqa: B023
        with arena.transaction():
            arena.root["c"] = kind("ab")
            there = arena.root["c"]
            if "__init__" not in how.__code__.co_names:
                assert tried(lambda: how(there, items()), lambda: plain_kind(there)) == wanted  # noqa: B023


# -- Counter: an int that is added to --------------------------------------------------------------------------------

READS: list[Callable[[Any], Any]] = [
    str, float, int, bool, abs, round, hex, lambda c: f"{c} hits", lambda c: f"{c:,}", lambda c: f"{c:>5}", "%d".__mod__,
    lambda c: c + 1, lambda c: 10 - c, lambda c: c / 2, lambda c: 7 // c, lambda c: c % 3, lambda c: divmod(c, 3),
    lambda c: divmod(17, c), lambda c: c * 1.5, lambda c: 2**c, lambda c: c**2, lambda c: pow(c, 2, 7), lambda c: -c,
    lambda c: +c, lambda c: ~c, lambda c: c << 2, lambda c: 1 << c, lambda c: c & 4, lambda c: c | 8, lambda c: c ^ 1,
    lambda c: sum([c, c]), lambda c: max(c, 1) + 0, lambda c: [0] * c, lambda c: c * "ab", lambda c: c < 6, lambda c: c < 6,
    lambda c: c == 5.0, lambda c: c == "5", lambda c: c != 5, lambda c: range(c), lambda c: c + c, lambda c: c - c, lambda c: c / 0,
    lambda c: c + "x", lambda c: c < "x", lambda c: sorted([7, c, 1]), lambda c: round(c, -1),
]  # fmt: skip


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("read", READS)
def test_a_counter_in_a_page_or_a_sum_is_an_int(arena: Arena, read: Callable[[Any], Any], stored: bool) -> None:
    """Arithmetic, comparison and formatting of a Counter give what they give of its number, and change nothing."""
    from recoverable import Counter

    def result(of: Any) -> Any:
        try:
            out = read(of)
        except Exception as error:
            return type(error)
        return [type(out), out] if not isinstance(out, list) else list(map(int, out))

    with arena.transaction():
        arena.root["c"] = Counter(5)
    counter = arena.root["c"] if stored else Counter(5)
    assert result(counter) == result(5)
    assert counter.value == 5


def test_a_counter_is_not_replaced_by_a_number(arena: Arena) -> None:
    """`root["c"] *= 2` would put an int in its place: it is refused, while += and -= add."""
    from recoverable import Counter

    with arena.transaction():
        root = arena.root
        root["c"] = Counter(5)
        root["c"] += 3
        root["c"] -= 1
        with pytest.raises(TypeError, match=r"only be added to.*nothing was changed.*\.value"):
            root["c"] *= 2
        assert repr(root["c"]) == "Counter(7)"
