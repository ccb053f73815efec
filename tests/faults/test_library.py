"""The library's own operations, explored: each container's, and what transactions can do, with a fault at every point."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import recoverable
from recoverable import Arena, Array, Counter, Deque, Record
from recoverable.faults import explore

pytestmark = [pytest.mark.slow, pytest.mark.crash]
LONG = "text that is longer than a cell"


class Tagged(Record):
    name: str
    tags: list[str]
    count: int = 0


def fill(arena: Arena) -> None:
    """One container of each kind, none of them empty."""
    with arena.transaction():
        arena.root["dict"] = {i: {"n": i, "why": LONG} for i in range(20)}
        arena.root["list"] = [*range(60), LONG]
        arena.root["set"] = {*range(40), LONG}
        arena.root["deque"] = Deque([LONG, *range(6)], maxlen=8)
        arena.root["counter"] = Counter(5)
        arena.root["item"] = Tagged(name="mug", tags=["blue"])
        arena.root["array"] = Array(range(1500), "i8")
        arena.root["ann"], arena.root["bob"] = 100, 0


def of_dict(root: Any) -> None:
    """Grow, overwrite, delete, take out, replace."""
    table = root["dict"]
    table.update({f"new {i}": [i, LONG] for i in range(6)})
    table[3] = None
    del table[4]
    table.pop(5)
    table.setdefault("x", {})["y"] = 1
    root["dict"] = dict(list(table.to_python().items())[:5])


def of_list(root: Any) -> None:
    """Grow, insert, cut, sort."""
    numbers = root["list"]
    numbers.pop()
    numbers.extend([7] * 20)
    numbers.insert(1, 99)
    del numbers[5:12]
    numbers[2:4] = [LONG, {"deep": [LONG]}]
    del numbers[2:4]
    numbers.sort(reverse=True)
    numbers.append([LONG])


def of_set(root: Any) -> None:
    """Grow, shrink."""
    root["set"].update(range(100, 115))
    root["set"] -= set(range(10))
    root["set"].discard(LONG)


def of_deque(root: Any) -> None:
    """Push something out at both ends, turn it."""
    root["deque"].extend([LONG, [1], 2])
    root["deque"].appendleft("first")
    root["deque"].rotate(3)
    root["deque"].pop()


def of_record(root: Any) -> None:
    """Change fields, of a fixed and of a variable size; replace it."""
    root["item"].count += 1
    root["item"].name = LONG
    root["item"].tags.append(LONG)
    root["other"] = Tagged(name="tea", tags=[])
    root["counter"].add(3)


def of_array(root: Any) -> None:
    """Write items, announced and raw."""
    root["array"][3] = -1
    root["array"][700:720] = range(20)
    view = root["array"].view
    view[5] = view[1400] = -2
    del view
    with root["array"].edit(slice(900, 1000)) as part:
        part[:] = 0


def of_savepoints(root: Any) -> None:
    """Undo a part, keep another."""
    arena = _arena_of[0]
    root["ann"] -= 1
    try:
        with arena.savepoint():
            root["dict"].clear()
            root["array"].view[0] = 7
            raise LookupError
    except LookupError:
        pass
    with arena.savepoint():
        root["bob"] += 1


_arena_of: list[Arena] = []
Change = Callable[[Any], None]


@pytest.mark.parametrize(
    "change", [of_dict, of_list, of_set, of_deque, of_record, of_array, of_savepoints], ids=lambda one: one.__name__
)
def test_every_point_of_an_operation(change: Change) -> None:
    """Whatever fails or dies in a container's operations, all of a transaction's are undone, or none."""

    def run(arena: Arena) -> None:
        _arena_of[:] = [arena]
        with arena.transaction():
            change(arena.root)

    report = explore(run, prepare=fill, points=["write", "alloc", "kill"], max_points=60)
    assert report.ok
    assert report.outcomes.keys() == {"rolled back", "committed"}


@recoverable.recoverable(retries=1, retry_on=(LookupError,))
async def in_parts(root: Any) -> None:
    """Do parts of one request in tasks, one of which fails in the first run."""

    async def part(name: str, amount: int) -> None:
        await asyncio.sleep(0)
        root[name] += amount
        await asyncio.sleep(0)
        root["dict"][name] = [amount, LONG]

    await recoverable.gather(part("ann", -10), part("bob", 10))
    root["counter"].add(1)
    if recoverable.attempt() == 1:
        raise LookupError


@pytest.mark.faults(max_points=100)
async def test_every_point_of_a_request_in_parts(faults: Any, arena: Arena) -> None:
    """Tasks that are parts of a transaction, and its second run, commit together or leave nothing; by our own plugin."""
    fill(arena)
    async with faults:
        await in_parts(arena.root)
    root = arena.root
    done = root["counter"].value - 5
    assert (root["ann"], root["bob"], "ann" in root["dict"], "bob" in root["dict"]) == (
        100 - 10 * done,
        10 * done,
        bool(done),
        bool(done),
    )
    assert arena.verify()
