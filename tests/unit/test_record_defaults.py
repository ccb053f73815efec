"""A Record's default is one of its field's own values, or its class can't be defined."""

from __future__ import annotations

import datetime
from typing import Any, Optional

import pytest

from recoverable import Arena, Array, Counter, Deque, Dict, List, Record, Set

KINDS = {kind.__name__: kind for kind in (Array, Counter, Deque, Dict, List, Set)}
BAD: list[tuple[Any, Any, str]] = [
    ("int", "much", "give it a default that is int"),
    ("int", 1.0, "give it a default that is int"),
    ("str", None, r"write `field: str \| None = None`"),
    ("bool", 1, "give it a default that is bool"),
    ("bytes", "", "give it a default that is bytes"),
    ("datetime.date", "2026-01-01", "give it a default that is .*date"),
    ("Counter", 0, r"write `field: Counter = Counter\(0\)`"),
    ("Deque", [], r"write `field: Deque = Deque\(\)`"),
    ("Deque[int]", [1], r"write `field: Deque = Deque\(\[1\]\)`"),
    ("Set", [], r"write `field: Set = Set\(\)`"),
    ("Dict[str, int]", [], r"write `field: Dict = Dict\(\)`"),
    ("List", {}, r"write `field: List = List\(\)`"),
    ("Array", [0, 0], r"write `field: Array = Array\(\[0, 0\]\)`"),
    ("Optional[Counter]", 0, r"Counter\(0\)"),
]


@pytest.mark.parametrize(("hint", "default", "how"), BAD)
@pytest.mark.parametrize("as_text", [True, False])
def test_a_default_of_another_kind(hint: str, default: Any, how: str, as_text: bool) -> None:
    """A default that its field can't have is a TypeError where the class is defined; it says what to write."""
    annotation = hint if as_text else eval(hint, globals(), KINDS)
    with pytest.raises(
        TypeError, match=rf"^Wrong\.field is .*, but its default .* is {type(default).__name__}: .*{how}"
    ):
        type(Record)(
            "Wrong", (Record,), {"__annotations__": {"field": annotation}, "field": default, "__module__": __name__}
        )


class Good(Record, name="defaults.Good"):
    n: int = True
    ratio: float = 1
    note: Optional[str] = None  # noqa: UP045 -- both ways to write it
    day: datetime.date = datetime.date(2026, 1, 2)
    tags: list[str] = ["a"]  # noqa: RUF012 -- is copied
    items: Deque = Deque([1], maxlen=3)
    hits: Counter = Counter(2)
    table: Dict[str, Any] = {}  # noqa: RUF012
    any: object = ()


def test_defaults_that_fit(arena: Arena) -> None:
    """A default that fits is stored as its field's kind, an int for a float as a float, and each record has its own."""
    with arena.transaction():
        arena.root.update(one=Good(), other=Good())
        arena.root["one"].items.append(2)
        arena.root["one"].hits.add(1)
        arena.root["one"].tags.append("b")
    one, other = arena.root["one"], arena.root["other"]
    assert [type(getattr(other, name)) for name in ("ratio", "tags", "items", "hits", "table")] == [
        float, List, Deque, Counter, Dict,
    ]  # fmt: skip
    assert (list(other.items), other.hits.value, list(other.tags), other.items.maxlen) == ([1], 2, ["a"], 3)
    assert (list(one.items), one.hits.value, list(one.tags)) == ([1, 2], 3, ["a", "b"])


def test_a_class_that_names_itself(arena: Arena) -> None:
    """A class whose fields are of its own kind is checked, too."""

    class Node(Record, name="defaults.Node"):
        next: Node | None = None

    with arena.transaction():
        arena.root["node"] = Node(next=Node())
    assert arena.root["node"].next.next is None
    with pytest.raises(TypeError, match=r"Link\.n is int, but its default 'much'"):

        class Link(Record, name="defaults.Link"):
            next: Link | None = None
            n: int = "much"


def test_a_class_that_names_what_comes_later(arena: Arena) -> None:
    """Where an annotation names what is not defined yet, a wrong default is refused before a record can have it."""
    with pytest.raises(TypeError, match=r"Early\.n is int, but its default 'much'"):
        Early()
    with arena.transaction(), pytest.raises(TypeError, match=r"but its default 'much'"):
        arena.root["early"] = Early(later=Later())
    assert arena.root == {}


class Early(Record, name="defaults.Early"):
    later: Later | None = None
    n: int = "much"


class Later(Record, name="defaults.Later"):
    """Is defined late."""


def test_a_field_that_a_class_has_gained(arena: Arena) -> None:
    """The default of a gained field is of the field's kind in a record that was stored before, read or migrated."""

    class Old(Record, name="defaults.Grows"):
        n: int

    with arena.transaction():
        arena.root["it"] = Old(n=1)

    class New(Record, name="defaults.Grows"):
        n: int
        ratio: float = 1
        jobs: Deque = Deque([1], maxlen=2)

    it = arena.root["it"]
    assert isinstance(it, New)
    assert type(it.ratio) is float
    assert it.jobs.maxlen == 2
    with arena.transaction():
        it.n = 2
        it.ratio = 2.0
    assert type(arena.root["it"].jobs) is Deque
    assert arena.root["it"].jobs.maxlen == 2
