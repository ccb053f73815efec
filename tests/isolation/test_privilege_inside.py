"""Code that runs inside a privileged run, of the same arena or of another one, is not made to wait for what waits for it."""

from __future__ import annotations

import asyncio
import time
import types
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, ConflictError, attempt
from recoverable.runner import commit_early

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOON = 0.9  # seconds. It is busy_timeout, or a second, that one who hangs is waited for


@pytest.fixture
def arenas(new_name: Callable[[], str]) -> Iterator[list[Arena]]:
    """Give two, in the order of their names."""
    first, second = sorted((new_name() + "a", new_name() + "b"))
    with Arena.temporary("8 MiB", name=first) as one, Arena.temporary("8 MiB", name=second) as two:
        for each in (one, two):
            with each.transaction():
                each.root.update({"n": 0, "m": 0})
        yield [one, two]


async def add(arena: Arena, by: int = 1) -> None:
    """Change the number, in a step of its own."""
    arena.root["n"] += by
    await asyncio.sleep(0)


@pytest.mark.parametrize("order", [1, -1], ids=["first_around_second", "second_around_first"])
async def test_what_runs_inside_it_over_another_arena_does_not_wait_for_it(arenas: list[Arena], order: int) -> None:
    """A request on that one writes, in a request on the same arena again, what the privileged run has read: that has lost."""
    arena, other = arenas[::order]
    took: list[float] = []

    async def between() -> None:
        other.root["n"] += 1
        began = time.monotonic()
        await arena.run(add, arena)
        took.append(time.monotonic() - began)

    async def outer() -> None:
        arena.root["m"] = arena.root["n"]
        await asyncio.sleep(0)
        await other.run(between)

    with pytest.raises(ConflictError):
        await arena.run(outer, max_conflicts=1)
    assert len(took) == 2
    assert max(took) < SOON


@pytest.mark.parametrize("loses", [True, False])
async def test_a_run_that_has_committed_early_is_inside_of_nothing_any_more(arenas: list[Arena], loses: bool) -> None:
    """Its code goes on for as long as it likes, and gives way to the privileged run of another arena as any other does."""
    other, arena = arenas
    reads, ended = asyncio.Event(), []

    async def stream() -> None:
        n = arena.root["n"]
        await asyncio.sleep(0)
        if loses and attempt() == 1:
            await asyncio.create_task(arena.run(add, arena))
        arena.root["m"] = n
        await commit_early()
        await reads.wait()
        await other.run(add, other)
        ended.append("stream")

    async def last() -> None:
        n = other.root["n"]
        other.root["m"] = n
        if attempt() == 1:
            await asyncio.create_task(other.run(add, other))
        else:
            reads.set()
            for _ in range(10):
                await asyncio.sleep(0.002)
        other.root["m"] = n + 1

    streaming = asyncio.create_task(arena.run(stream, max_conflicts=1))
    await asyncio.sleep(0.01)
    await other.run(last, max_conflicts=1)
    ended.append("last")
    await streaming
    assert ended == ["last", "stream"]


@types.coroutine
def pause() -> Any:
    """Give control back to whoever drives this."""
    yield


async def test_two_that_drive_each_other_by_turns_have_an_end(arenas: list[Arena], new_name: Callable[[], str]) -> None:
    """Each is around the other one; a third one, which loses inside of them, is run again all the same."""
    one, two = arenas
    requests: list[Any] = []

    async def first() -> None:
        one.root["n"] = 1
        await pause()
        requests[1].send(None)  # whose request runs inside this one
        await pause()

    async def second() -> None:
        two.root["n"] = 1
        requests[0].send(None)  # and the other way round
        await pause()
        await third.run(loses)

    async def loses() -> None:
        n = third.root["n"]
        await asyncio.sleep(0)
        if attempt() == 1:
            await asyncio.create_task(third.run(add, third))
        third.root["m"] = n

    with Arena.temporary("8 MiB", name=new_name()) as third:
        with third.transaction():
            third.root["n"] = 0
        requests += [one.run(first), two.run(second)]
        requests[1].send(None)
        requests[0].send(None)
        with pytest.raises(StopIteration):
            for _ in range(500):
                await asyncio.sleep(0.001)
                requests[1].send(None)
        requests[0].close()
        assert third.root["m"] == 1
