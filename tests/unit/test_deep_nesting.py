"""Containers in containers, however deep: no damage, no death, and a use costs the same in any depth."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from recoverable import Arena, ConflictError, Deque, Dict, List, Record, StaleReferenceError
from support.workers import Request, pause

DEEP = 10_000


def dig(there: Any, levels: int) -> Any:
    """Nest Dicts in each other; give the innermost."""
    for _ in range(levels):
        there["x"] = {}
        there = there["x"]
    return there


def descend(there: Any, levels: int) -> Any:
    """Go down again."""
    for _ in range(levels):
        there = there["x"]
    return there


def seconds(run: Callable[[], Any], times: int) -> float:
    """Measure the best of a few turns."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(times):
            run()
        best = min(best, time.perf_counter() - start)
    return best


class Node(Record):
    """Links to the next."""

    next: Any = None


@pytest.mark.slow
def test_ten_thousand_levels(arena: Arena) -> None:
    """Dicts nested 10,000 deep are stored, read, changed, verified, and gone when the outermost is deleted."""
    with arena.transaction():
        dig(arena.root, DEEP)["n"] = 1
    assert arena.verify().containers == DEEP + 1
    inner = descend(arena.root, DEEP)
    assert inner["n"] == 1
    with arena.transaction():
        descend(arena.root, DEEP)["n"] = 2
        inner["list"] = [1]
        inner["list"].append(inner["n"])
    assert inner.to_python() == {"n": 2, "list": [1, 2]}
    with arena.transaction():
        arena.root["x"] = 0
        with pytest.raises(StaleReferenceError):
            inner["n"]
    with pytest.raises(StaleReferenceError):
        inner["n"]
    with pytest.raises(StaleReferenceError), arena.transaction():
        inner["n"] = 3


@pytest.mark.slow
def test_more_levels_than_a_chain_was_ever_allowed() -> None:
    """What lies 110,000 levels deep is no damage: it is read and written."""
    with Arena.temporary("128 MiB") as arena:
        there = arena.root
        for _ in range(11):
            with arena.transaction():
                there = dig(there, DEEP)
        with arena.transaction():
            there["n"] = 1
        assert there["n"] == 1
        arena.verify()


@pytest.mark.slow
def test_a_use_costs_the_same_in_any_depth(arena: Arena) -> None:
    """Reading, writing and replacing a container 5,000 levels deep take no longer than at the top, in a step and outside."""
    with arena.transaction():
        inner = dig(arena.root, 5_000)
        inner["n"] = inner["x"] = arena.root["n"] = 0
        arena.root["y"] = {}

    def replace(there: Any) -> None:
        there["c"] = {}
        there["c"]["k"] = 1

    uses: list[Callable[[Any], Any]] = [lambda there: there["n"], lambda there: there.__setitem__("n", 1), replace]
    for use in uses:
        with arena.transaction():
            use(inner)
            deep, flat = seconds(lambda: use(inner), 100), seconds(lambda: use(arena.root), 100)  # noqa: B023
        assert deep < 5 * flat + 0.001
    inner["n"]
    deep, flat = seconds(lambda: inner["n"], 100), seconds(lambda: arena.root["n"], 100)
    assert deep < 5 * flat + 0.001


@pytest.mark.parametrize("kind", [Dict, List, Deque, Node])
def test_plain_values_nested_too_deep_for_one_operation(arena: Arena, kind: type) -> None:
    """A plain value of very many levels is a RecursionError that stores nothing, never the end of the process."""
    wrap: dict[type, Callable[[Any], Any]] = {
        Dict: lambda v: {"x": v},
        List: lambda v: [v],
        Deque: lambda v: Deque([v]),
        Node: lambda v: Node(next=v),
    }
    deep: Any = None
    for _ in range(3_000):
        deep = wrap[kind](deep)
    with arena.transaction():
        for put in (lambda: arena.root.__setitem__("d", deep), lambda: arena.root.update(a=1, d=deep)):
            with pytest.raises(RecursionError):
                put()
        assert arena.root.to_python() == {}
        arena.root["fine"] = wrap[kind](wrap[kind](1))
    assert arena.verify().leaked_blocks == 0


@pytest.mark.parametrize("cut", [0, 1, 150, 298])
@pytest.mark.parametrize("by_handle", [True, False])
def test_an_ancestor_that_another_request_deletes_is_a_conflict(arena: Arena, cut: int, by_handle: bool) -> None:
    """What is used in the depth depends on every container that it lies in, however the request got there."""
    with arena.transaction():
        dig(arena.root, 300)["n"] = 1
    inner, above = descend(arena.root, 300), descend(arena.root, cut)
    seen = []

    async def reader() -> None:
        there = inner if by_handle else descend(arena.root, 300)
        seen.append(there["n"])
        for _ in range(3):
            await pause()
            seen.append(there["n"])

    request = Request(arena, reader)
    request.step()
    request.step()
    with arena.transaction():
        above["x"] = {}
    for _ in range(2):  # the memory becomes another's
        with arena.transaction():
            arena.root["other"] = [{} for _ in range(400)]
    with pytest.raises(ConflictError):
        request.finish()
    assert seen == [1, 1]
    with pytest.raises(StaleReferenceError):
        inner["n"]


def test_what_a_request_cuts_off_itself_is_stale(arena: Arena) -> None:
    """After a deletion in the same step what lay below is stale, what lies above and beside is not, savepoints included."""
    with arena.transaction():
        dig(arena.root, 50)["n"] = 1
        middle = descend(arena.root, 20)
        middle["side"] = {"n": 2}
        inner, side = descend(arena.root, 50), middle["side"]
        assert (inner["n"], side["n"]) == (1, 2)
        with pytest.raises(ZeroDivisionError), arena.transaction():
            del middle["x"]
            with pytest.raises(StaleReferenceError):
                inner["n"]
            assert side["n"] == 2
            raise ZeroDivisionError
        assert inner["n"] == 1
        del middle["x"]
        assert (side["n"], len(middle)) == (2, 1)
        with pytest.raises(StaleReferenceError):
            inner["n"]
        with pytest.raises(StaleReferenceError):
            inner["n"] = 2
    with pytest.raises(StaleReferenceError):
        inner["n"]
    assert side["n"] == 2


def test_tuples_of_tuples(arena: Arena) -> None:
    """A tuple nests 200 levels, whoever reads it has little stack left; a deeper one is refused, nothing stored."""
    deep: tuple[Any, ...] = (1.5,)
    for _ in range(198):
        deep = (deep,)
    with arena.transaction():
        arena.root["t"], arena.root["k"] = deep, {deep: 1}

        def low(levels: int) -> Any:
            return low(levels - 1) if levels else (arena.root["t"], list(arena.root["k"]))

        assert low(700) == (deep, [deep])
        for _ in range(2):
            deep = (deep,)
        for put in (lambda: arena.root.__setitem__("u", deep), lambda: arena.root.__setitem__(deep, 1)):
            with pytest.raises(RecursionError, match=r"200 levels.*nothing was stored"):
                put()
        assert list(arena.root) == ["t", "k"]
