"""uvloop, and tasks that begin inside the step that makes them: queues, the lock's waits and the watchdog are the same there."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from recoverable import Arena, StepTooLongError, recoverable

LIMIT = 0.15  # seconds


def eager_task(loop: Any, coroutine: Any, *, name: str | None = None, context: Any = None, **_: Any) -> Any:
    """Make a task that begins at once. uvloop says `eager_start` as well, which a Python before 3.13.3 does not know."""
    return asyncio.eager_task_factory(loop, coroutine, name=name, context=context)  # type: ignore[attr-defined,unused-ignore]


def eager(make: Callable[[], asyncio.AbstractEventLoop]) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes such loops, whose tasks begin at once."""

    def made() -> asyncio.AbstractEventLoop:
        loop = make()
        loop.set_task_factory(eager_task)
        return loop

    return made


KINDS = {"uvloop": uvloop.new_event_loop}
if sys.version_info >= (3, 12):
    KINDS |= {"eager": eager(asyncio.new_event_loop), "eager uvloop": eager(uvloop.new_event_loop)}


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Give what runs a coroutine in such a loop."""
    with asyncio.Runner(loop_factory=KINDS[request.param]) as runner:
        yield runner.run


@pytest.fixture
def arena(name: str) -> Iterator[Arena]:
    """Give an arena with two numbers."""
    with Arena.temporary("4 MiB", name=name) as opened:
        with opened.transaction():
            opened.root.update(stock=1000, n=0)
        yield opened


async def steps(arena: Arena, key: str = "n") -> str:
    """Take two steps."""
    arena.root[key] = arena.root.get(key, 0) + 1
    await asyncio.sleep(0.03)
    arena.root[key] += 1
    return key


def test_a_hot_place_takes_few_runs(arena: Arena, run: Any) -> None:
    """Those who lose at one place stand in a queue."""
    runs = 0

    @recoverable(arena=arena)
    async def sell() -> None:
        nonlocal runs
        runs += 1
        left = arena.root["stock"]
        arena.root["stock"] = left - 1
        await asyncio.sleep(0.001)

    async def waves() -> None:
        for _ in range(5):
            await asyncio.gather(*(asyncio.create_task(sell()) for _ in range(12)))

    run(waves())
    assert arena.root["stock"] == 940
    assert runs < 100  # 5 in the mean where all run again at once


def test_a_held_lock_stops_no_loop(arena: Arena, run: Any) -> None:
    """A request, a later step, and a task that begins inside a request's step wait; the loop goes on."""
    held, end = threading.Event(), threading.Event()

    def hold() -> None:
        with arena.transaction():
            arena.root["held"] = 1
            held.set()
            end.wait(10)

    async def around() -> str:
        arena.root["around"] = 1
        return await asyncio.create_task(arena.run(steps, arena, "inside"))

    async def main() -> list[str]:
        pauses = []
        later = asyncio.create_task(arena.run(steps, arena, "later"))
        await asyncio.sleep(0.01)
        thread.start()
        held.wait(10)
        first, outer = asyncio.create_task(arena.run(steps, arena, "first")), asyncio.create_task(arena.run(around))
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            before = time.monotonic()
            await asyncio.sleep(0.002)
            pauses.append(time.monotonic() - before)
        end.set()
        assert max(pauses) < 0.15
        return await asyncio.wait_for(asyncio.gather(later, first, outer), 10)

    thread = threading.Thread(target=hold)
    try:
        assert run(main()) == ["later", "first", "inside"]
    finally:
        end.set()
        thread.join()


@pytest.mark.slow
def test_the_step_that_spins_is_stopped_and_no_other(arena: Arena, run: Any) -> None:
    """Also where it is the first one of a task, which begins inside a step of another request: that one goes on."""
    arena.step_limit = LIMIT

    @recoverable(arena=arena)
    async def spins() -> None:
        arena.root["n"] += 100
        while True:
            pass

    async def around() -> str:
        arena.root["n"] += 1
        await asyncio.sleep(0)
        task = None
        with contextlib.suppress(StepTooLongError):
            task = asyncio.create_task(spins())
            await task
        arena.root["n"] += 1
        return "around"

    async def main() -> list[Any]:
        other = asyncio.create_task(arena.run(steps, arena, "other"))
        return [await arena.run(around), await other]

    assert run(main()) == ["around", "other"]
    assert arena.root["n"] == 2
