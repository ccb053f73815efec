"""Scenarios for the tests that kill or fail at every point: what is done to an arena, commit by commit.

A scenario is a generator over an arena that holds `prepare()`'s state. It yields wherever a new state has just been
committed: what is interrupted between two yields must leave the arena in the state of one or of the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from recoverable import Arena, Array, Record
from support.forks import in_child
from support.segments import Saved
from support.workers import Request, pause

Scenario = Callable[[Arena], Iterator[None]]
SIZE = "4 MiB"
ITEMS = 2600  # of 8 bytes: five pages and a bit


class Point(Record, name="a scenario's point"):
    x: int
    y: int
    tags: list = []  # noqa: RUF012


class Undone(Exception):
    """Ends a transaction by a rollback."""


def prepare(arena: Arena) -> None:
    """Fill an arena with some of everything."""
    with arena.transaction():
        arena.root["n"] = {"m": {"x": 1, "y": "text longer than a cell"}, "blob": b"b" * 3000, "z": None}
        arena.root["many"] = {i: i for i in range(9)}
        arena.root["blob"] = b"a" * 5000
        arena.root["a"] = Array(ITEMS, "i8")
        arena.root["b"] = Array(range(700), "i8")


def closed(name: str) -> Saved:
    """Return a closed arena that holds prepare()'s state, as bytes.

    Made by a child: this process must stay as it is.
    """

    def make() -> Saved:
        with Arena.temporary(SIZE, name=name, feed="2 MiB") as arena:
            prepare(arena)
            arena.close()
            saved = Saved(name)
            arena = Arena.open(name)
            try:
                for _ in suspensions(arena):
                    pass
            finally:
                arena.close()
        return saved

    ending = in_child(make)
    assert ending.returned, ending
    return ending.value


def state_of(arena: Arena) -> Any:
    """Read everything, comparably."""

    def plain(value: Any) -> Any:
        return value.to_python() if hasattr(value, "to_python") else value

    return [(key, plain(value)) for key, value in arena.root.items()]


def attach(arena: Arena) -> Iterator[None]:
    """Nothing but opening and closing."""
    yield from ()


def inserts(arena: Arena) -> Iterator[None]:
    """New keys over a growth of the table, a nested Dict, a blob, a replaced blob, another type over a value."""
    with arena.transaction():
        many = arena.root["many"]
        for i in range(100, 106):
            many[i] = f"value {i}"
        arena.root["new"] = {"deep": {"er": b"c" * 200}}
        arena.root["blob"] = b"A" * 6000
        arena.root["n"]["z"] = 2.5
    yield


def deletes(arena: Arena) -> Iterator[None]:
    """A nested tree, single keys, an Array; then small commits, at whose ends they are reclaimed."""
    with arena.transaction():
        del arena.root["n"]
        del arena.root["blob"], arena.root["b"]
        for i in range(0, 9, 3):
            del arena.root["many"][i]
        arena.root["many"].popitem()
    yield
    for i in range(4):
        with arena.transaction():
            arena.root["i"] = i
        yield


def array_items(arena: Arena) -> Iterator[None]:
    """Single items, a slice, a whole fill."""
    with arena.transaction():
        a = arena.root["a"]
        a[0] = a[1] = 5
        a[ITEMS - 1] += 7
        a[600:700] = range(100)
    yield
    with arena.transaction():
        arena.root["a"].fill(9)
    yield


def raw_pages(arena: Arena) -> Iterator[None]:
    """Raw writes to cold pages, again until they are hot; an edit; an Array deleted while its pages are hot."""
    for turn in range(4):
        with arena.transaction():
            view = arena.root["a"].view
            view[[0, 600, 1200]] = turn + 1
            view[2000] += 1
            arena.root["a"][601] = turn
            arena.root["turn"] = turn  # not in a page: no shadow brings it back
            del view
        yield
    assert arena.stats().hot_pages > 0, "the scenario made no page hot"
    with arena.transaction(), arena.root["b"].edit(slice(0, 600)) as part:
        part[:] = 3
    yield
    for turn in range(6):
        with arena.transaction():
            arena.root["b"].view[turn % 2] = turn
        yield
    with arena.transaction():
        view = arena.root["a"].view
        view[0] = 77
        del view
        del arena.root["a"]
    yield
    with arena.transaction():
        arena.root["done"] = True
    yield


def rollbacks(arena: Arena) -> Iterator[None]:
    """Everything undone: by an exception, and to savepoints."""
    try:
        with arena.transaction():
            arena.root["n"]["m"]["x"] = 2
            arena.root["many"].clear()
            arena.root["new"] = {"a": {}, "b": b"b" * 300}
            arena.root["a"].view[:1000] = 4
            del arena.root["b"]
            raise Undone
    except Undone:
        pass
    with arena.transaction():
        arena.root["kept"] = 1
        arena.root["a"].view[5] = 1
        try:
            with arena.savepoint():
                arena.root["lost"] = {"a": 1}
                arena.root["a"].view[5:1500] = 2
                del arena.root["n"]
                raise Undone
        except Undone:
            pass
        with arena.savepoint():
            arena.root["kept too"] = {"b": 1}
            arena.root["a"].view[6] = 3
    yield


def suspensions(arena: Arena) -> Iterator[None]:
    """Two requests in flight over several awaits, one rolled back, with growth, deletion and raw writes."""

    async def work(name: str, first: int, fail: bool) -> None:
        many, a = arena.root["many"], arena.root["a"]
        for i in range(first, first + 2):
            many[i] = name
        a[first] = first
        await pause()
        a.view[first + 1] = first
        del many[first + 1]
        arena.root[name] = {"in": {"side": b"s" * 400}}
        await pause()
        arena.root[name]["more"] = 1
        del arena.root[name]["in"]
        await pause()
        if fail:
            raise Undone

    one, two = Request(arena, work, "one", 100, False), Request(arena, work, "two", 1300, True)
    one.step()
    two.step()
    one.step()
    two.step()
    one.step()
    one.step()
    yield
    with contextlib.suppress(Undone):
        two.step()


def captures(arena: Arena) -> Iterator[None]:
    """Raw writes to pages that are captured for their handler: kept, undone, to a savepoint, in vain, over an await."""

    def write(value: int, items: int = 1100, *, back: bool = False, fail: bool = False) -> None:
        with contextlib.suppress(Undone), arena.transaction():
            view = arena.root["a"].view
            view[:items] = value
            arena.root["value"] = value
            if back:
                with contextlib.suppress(Undone), arena.savepoint():
                    view[5:2000] = 8
                    raise Undone
            del view
            if fail:
                raise Undone

    async def work(value: int, fail: bool) -> None:
        arena.root["a"].view[[600, 2100]] = value
        await pause()
        arena.root["a"].view[[601, 1100]] = value
        await pause()
        if fail:
            raise Undone

    for turn in range(3):
        write(turn + 1)
        yield
    write(7, fail=True)
    assert arena.stats().traps_avoided > 0, "the scenario captured nothing"
    write(8, back=True)
    yield
    write(9, 10)
    yield
    for turn in range(3):
        Request(arena, work, 20 + turn, False).finish()
        yield
    with contextlib.suppress(Undone):
        Request(arena, work, 30, True).finish()
    assert len(arena.working_sets()) >= 3, "the scenario kept no sets by step"


def claims(arena: Arena) -> Iterator[None]:
    """More data than is claimed, and an undo log that grows past its first slice."""
    with arena.transaction():
        for i in range(3):
            arena.root[f"big{i}"] = bytes([i]) * 200_000
    yield
    with arena.transaction():
        arena.root["large"] = Array(90_000, "i8")
    yield
    with arena.transaction():
        arena.root["large"].fill(1)
    yield
    with arena.transaction():
        del arena.root["large"]
    yield
    with arena.transaction():
        arena.root["end"] = np.int64(1).item()
    yield


def packed(arena: Arena) -> Iterator[None]:
    """A Dict in one block: made, given its first entry, a row replaced and one deleted, across an await; cut off and reclaimed."""
    with arena.transaction():
        arena.root["packed"] = {"from": 1, "to": "t" * 40, "amount": 3}
    yield

    async def work() -> None:
        d = arena.root["packed"]
        d["more"] = {"x": 1, "y": 2}
        d["from"] = [4]
        del d["to"]
        await pause()
        d["amount"] += 1

    one = Request(arena, work)
    one.step()
    one.step()
    yield
    with arena.transaction():
        arena.root["packed"] = 0
    yield
    for i in range(2):
        with arena.transaction():
            arena.root["i"] = i
        yield


def made_at_once(arena: Arena) -> Iterator[None]:
    """A List and a Record in one block each: made, changed and outgrown across an await; cut off and reclaimed."""
    with arena.transaction():
        arena.root["made"] = [1, "t" * 40, [2, 3]]
        arena.root["record"] = Point(x=1, y=2, tags=["a"])
    yield

    async def work() -> None:
        made, record = arena.root["made"], arena.root["record"]
        made.append({"x": 1})
        made[1] = [4]
        made.pop()
        made.append(5)
        record.x += 1
        await pause()
        made[0] += 1
        record.tags.append("b")

    one = Request(arena, work)
    one.step()
    one.step()
    yield
    with arena.transaction():
        arena.root["made"] = arena.root["record"] = 0
    yield
    for i in range(2):
        with arena.transaction():
            arena.root["i"] = i
        yield


SCENARIOS: dict[str, Scenario] = {
    function.__name__: function
    for function in (
        attach,
        inserts,
        deletes,
        array_items,
        raw_pages,
        captures,
        rollbacks,
        suspensions,
        claims,
        packed,
        made_at_once,
    )
}

#: How a scenario's arena is opened, where that is not as by default.
OPTIONS: dict[str, dict[str, Any]] = {
    "captures": {"policy": "incremental", "policy_options": {"profiles": True}},  # else the pages would soon be hot
}
