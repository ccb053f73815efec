"""A copy of a container: of the same kind, at every depth, and on its own from then on."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recoverable import Arena, Array, Counter, Deque, Dict, List, Record, SchemaError, Set
from support.states import Part, deeper, leaves, states, told

COPIES: list[Callable[[Any], Any]] = [lambda value: value.copy(), copy.copy, copy.deepcopy]


def spoil(value: Any) -> None:
    """Change everything that a container holds, the innermost first."""
    if isinstance(value, (Dict, dict, List, list, Deque)):
        for item in list(value.values() if isinstance(value, (Dict, dict)) else value):
            spoil(item)
        value.clear()
    elif isinstance(value, Record):
        spoil(value.what)
        value.what = "spoilt"
    elif isinstance(value, Set):
        value.clear()
        value.add("spoilt")
    elif isinstance(value, Counter):
        value.add(1 if value.value < 0 else -1)
    elif isinstance(value, Array) and value._stored:
        value[:] = 7


@pytest.fixture(scope="module")
def arenas() -> Iterator[tuple[Arena, Arena]]:
    """Two arenas, for all examples."""
    with Arena.temporary("4 MiB") as one, Arena.temporary("4 MiB") as other:
        yield one, other


@pytest.mark.slow
@given(state=states, how=st.sampled_from(COPIES))
def test_copies_of_any_state(arenas: tuple[Arena, Arena], state: dict[str, Any], how: Callable[[Any], Any]) -> None:
    """A copy has the kinds and the content of the original at every depth, in its arena and in another, and is independent."""
    one, other = arenas
    with one.transaction():
        one.root.clear()
        one.root["of"] = state
        seen = told(one.root["of"])
        one.root["twin"] = how(one.root["of"])
    waiting = how(one.root["of"])
    with other.transaction():
        other.root.clear()
        other.root.update(how(one.root["of"]))
        assert told(other.root) == seen
        other.root.clear()
        other.root["of"] = how(one.root["of"])
        other.root["again"] = how(how(one.root["of"]))
    with one.transaction():
        spoil(one.root["of"])
        assert told(one.root["twin"]) == told(waiting) == seen
    assert told(other.root["of"]) == told(other.root["again"]) == seen
    assert one.verify()
    assert other.verify()


@pytest.mark.slow
@given(state=states, how=st.sampled_from(COPIES))
def test_copies_of_what_is_not_stored(state: dict[str, Any], how: Callable[[Any], Any]) -> None:
    """A copy of a container that is not stored yet is as deep: of plain lists and dicts in it, too."""
    original = Dict(state)
    seen = told(original)
    twin = how(original)
    assert type(twin) is Dict
    spoil(original)
    assert told(twin) == seen


@pytest.mark.slow
@given(items=st.lists(st.recursive(leaves, deeper, max_leaves=6), max_size=3), n=st.integers(1, 3))
def test_repeated_in_place(arenas: tuple[Arena, Arena], items: list[Any], n: int) -> None:
    """`l *= n` repeats containers of every kind as what they are, in a List and in a Deque."""
    arena = arenas[0]
    with arena.transaction():
        arena.root.clear()
        for original in List(copy.deepcopy(items)), Deque(copy.deepcopy(items)):
            arena.root["of"] = original
            once = told(arena.root["of"])[-1]
            there = arena.root["of"]
            there *= n
            assert told(there)[-1] == once * n


def test_a_counter_is_renamed_with_its_kind(arena: Arena) -> None:
    """A container moves to another key, or to the end of a Dict, by a copy and a del: it stays what it was."""
    with arena.transaction():
        arena.root.update(hits=Counter(3), part=Part(what={"c": Counter(2)}))
    with arena.transaction():
        for old, new in ("hits", "visits"), ("part", "piece"):
            arena.root[new] = arena.root[old].copy()
            del arena.root[old]
    assert told(arena.root) == told(Dict(visits=Counter(3), piece=Part(what={"c": Counter(2)})))


def test_a_record_without_its_class_is_not_copied_as_another(arena: Arena) -> None:
    """Where a Record's class is not imported, a copy of what holds it is refused by name; nothing is lost."""

    def define() -> None:
        class Gone(Record, name="copies.Gone"):
            x: int

        with arena.transaction():
            arena.root["in"] = [Gone(x=1)]

    define()
    forget("copies.Gone")
    with pytest.raises(SchemaError, match=r"'copies\.Gone' can't be copied while its class is not imported"):
        arena.root["in"].copy()
    with pytest.raises(SchemaError, match=r"'x' of a Record 'copies\.Gone' can't be set"), arena.transaction():
        arena.root["in"][0].x = 2
    assert arena.root["in"].to_python() == [{"x": 1}]


def forget(label: str) -> None:
    """Make a Record's class unknown, as in a process that has not imported it."""
    from recoverable._native.record import forget_record_classes
    from recoverable.containers import record

    del record._classes[label]
    forget_record_classes()


@pytest.mark.slow
def test_a_copy_of_great_depth(arena: Arena) -> None:
    """What is nested deeper than the interpreter goes raises RecursionError; the copied state stays as it is."""
    with arena.transaction():
        there = arena.root
        for i in range(20_000):
            there["x"] = {} if i % 2 else Dict(c=Counter(i))
            there = there["x"]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000)  # another test may have left more than the arena has room for
    try:
        with pytest.raises(RecursionError):
            arena.root.copy()
    finally:
        sys.setrecursionlimit(limit)
    assert arena.verify()
