"""Where containers have an edge: bounds, depth, themselves as an argument; there they do as the originals."""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from recoverable import Arena, Counter, Deque, Dict, List, Set, StaleReferenceError, register_codec


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
