"""Under durable="disk" nobody is told of a commit that a power loss would take back: by a result, an error, or a conflict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, InDoubtError, recoverable
from recoverable._native import _switches

pytestmark = pytest.mark.skipif(not _switches.test_build(), reason="needs a build with -Dcrashpoints=true")


class OwnError(BaseException):
    """Leaves a handler, and is no Exception."""


@pytest.fixture
def arena(new_name: Callable[[], str], tmp_path: Path) -> Iterator[Arena]:
    """Give an arena whose answers wait for the disk, for a short time."""
    options: dict[str, Any] = {"journal": tmp_path / "journal", "durable": "disk", "busy_timeout": 0.05}
    with Arena.temporary("16 MiB", name=new_name(), **options) as made:
        with made.transaction():
            made.root["n"] = 0
            made.root["seat"] = None
        asyncio.run(made.durable(timeout=10))
        yield made
        _switches.crash_hold(None)


def fails() -> None:
    """Have nothing become durable from now on, as on a disk that hangs."""
    _switches.crash_hold("journal.written")


@pytest.mark.parametrize("touched", [False, True])
@pytest.mark.parametrize("way", ["returns", "raises", "exits"])
@pytest.mark.parametrize("what", ["block", "call"])
async def test_what_is_independent_is_known_to_the_one_around_it(
    arena: Arena, touched: bool, way: str, what: str
) -> None:
    """A number drawn in an independent block, or call, is told when it is durable, although the request did nothing else."""

    @recoverable(arena=arena, nested="independent", durable="memory")
    async def draw() -> int:
        arena.root["n"] += 1
        return int(arena.root["n"])

    @recoverable(arena=arena)
    async def handler() -> int:
        if touched:
            assert arena.root["seat"] is None
        fails()
        if what == "call":
            number = await draw()
        else:
            with arena.transaction(independent=True):
                arena.root["n"] += 1
                number = int(arena.root["n"])
        if way == "raises":
            raise ValueError(number)
        if way == "exits":
            raise OwnError(number)
        return number

    with pytest.raises(InDoubtError):
        await handler()
    assert arena.root["n"] == 1


@pytest.mark.parametrize("late", [False, True])
async def test_a_conflict_tells_of_who_has_won(arena: Arena, late: bool) -> None:
    """A ConflictError, and a time-out after a conflict, name a commit that is newer than all that the loser has seen."""

    @recoverable(arena=arena, durable="memory")
    async def take() -> None:
        arena.root["seat"] = "ann"

    @recoverable(arena=arena, max_conflicts=5 if late else 0, timeout=0.3 if late else None)
    async def reserve() -> None:
        if late and arena.root["seat"]:
            fails()
            await take()
            await asyncio.sleep(10)
        assert arena.root["seat"] is None
        await asyncio.sleep(0)
        fails()
        await asyncio.create_task(take())  # another's
        await asyncio.sleep(0)
        arena.root["n"] += 1

    with pytest.raises(InDoubtError):
        await reserve()
    assert arena.root["seat"] == "ann"


async def test_a_request_that_has_seen_nothing_does_not_wait(arena: Arena) -> None:
    """Nor does one whose independent block has rolled back without having seen anything."""

    @recoverable(arena=arena)
    async def hello() -> str:
        return "hello"

    fails()
    with arena.transaction():
        arena.root["n"] = 5
    assert await hello() == "hello"
