"""What is committed in one pass of an event loop is one batch; and whoever waits in it is answered, or told, by himself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recoverable import Arena
from recoverable._native import _switches
from recoverable._native import journal as native_journal
from recoverable.errors import InDoubtError

TASKS = 32

in_test_builds = pytest.mark.skipif(not _switches.test_build(), reason="needs a build with -Dcrashpoints=true")


@pytest.fixture
def arena(name: str, tmp_path: Path) -> Iterator[Arena]:
    """Give an arena whose answers wait for the disk."""
    with Arena.temporary("16 MiB", name=name, journal=tmp_path / "journal", durable="disk", compact=False) as made:
        yield made


def batches(arena: Arena) -> int:
    """Return how many there were so far."""
    state = native_journal.state(arena.native)
    return 0 if state is None else state.batches


async def insert(arena: Arena, key: int) -> None:
    """Have a request insert a key."""

    async def put() -> None:
        arena.root[str(key)] = key

    await arena.run(put)


async def committed(arena: Arena) -> list[asyncio.Task[None]]:
    """Begin as many requests as are there; return them when they have committed, and most stand at the gate."""
    tasks = [asyncio.ensure_future(insert(arena, 100 + number)) for number in range(TASKS)]
    while len(arena.root) < 2 * TASKS:  # noqa: ASYNC110 -- one pass of the loop, as long as it takes
        await asyncio.sleep(0)
    return tasks


async def test_a_pass_of_the_loop_is_one_batch(arena: Arena) -> None:
    """Tasks that are answered together commit together again: ten rounds of all of them are not much more than ten batches."""

    async def client(number: int) -> None:
        for i in range(10):
            await insert(arena, number * 100 + i)

    before = batches(arena)
    await asyncio.gather(*(client(number) for number in range(TASKS)))
    assert batches(arena) - before < 10 * TASKS / 8
    assert len(arena.root) == 10 * TASKS


async def test_one_that_is_alone_again_is_answered(arena: Arena) -> None:
    """After many together one alone, and many together again."""
    for tasks in (TASKS, 1, 1, TASKS, 2):
        await asyncio.gather(*(insert(arena, number) for number in range(tasks)))


async def test_those_that_are_cancelled_leave_the_others(arena: Arena) -> None:
    """Every second task is cancelled while it waits for the disk; the others are answered, and what all committed stands."""
    await asyncio.gather(*(insert(arena, number) for number in range(TASKS)))  # from now on they are asked for together
    tasks = await committed(arena)
    for each in tasks[::2]:
        each.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert not any(isinstance(each, Exception) for each in done[1::2])
    assert len(arena.root) == 2 * TASKS


@in_test_builds
@pytest.mark.parametrize("timeout", [0.1, 0.7])
async def test_each_has_its_own_timeout(arena: Arena, timeout: float) -> None:
    """On a disk that is full for a while, who waits for a short time is told after it, and who waits longer is answered."""
    await asyncio.gather(*(insert(arena, number) for number in range(TASKS)))
    full = True

    def fail() -> None:
        if full:
            _switches.fail_at(_switches.FAIL_WRITE, 1)
            asyncio.get_running_loop().call_later(0.01, fail)

    fail()
    with arena.transaction():
        arena.root["more"] = 1
    begun = time.monotonic()
    patient = asyncio.ensure_future(arena.durable(timeout=30))
    with pytest.raises(InDoubtError):
        await arena.durable(timeout=timeout)
    assert timeout <= time.monotonic() - begun < 20
    assert not patient.done()
    full = False
    await patient


def test_a_loop_that_ends_meanwhile_is_forgotten(arena: Arena) -> None:
    """A program that runs a loop, leaves it with requests at the gate, and runs another: nothing waits for the first."""

    async def leave() -> None:
        await asyncio.gather(*(insert(arena, number) for number in range(TASKS)))
        left.extend(await committed(arena))

    left: list[asyncio.Task[None]] = []
    for _ in range(3):
        asyncio.run(leave())
        with arena.transaction():
            arena.root.clear()
    asyncio.run(insert(arena, 1))
