"""Where the rules about hot keys and stuck handlers meet the others: parts, time limits, `max_conflicts=0`, nested transactions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

import recoverable
from recoverable import Arena, StepTooLongError, gather
from support.watched import watched_arena


@pytest.fixture
def watched(name: str) -> Iterator[Arena]:
    """Give an arena whose steps are watched."""
    with watched_arena(name) as opened:
        yield opened


def hang() -> None:
    """Keep the event loop for longer than a step may take; a stopped step leaves here."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        pass


async def test_parts_stand_in_the_queue_with_their_request(arena: Arena) -> None:
    """Requests whose parts lose at one key run one after another; each waits for one turn, not one a part."""
    with arena.transaction():
        arena.root.update(stock=1000, made={})
    native, longest, runs = arena.native, 0, 0

    async def take() -> None:
        arena.root["stock"] -= 1
        await asyncio.sleep(0.001)

    async def note(i: int) -> None:
        arena.root["made"][i] = True
        await asyncio.sleep(0)

    @recoverable.recoverable(arena=arena)
    async def order(i: int) -> None:
        nonlocal longest, runs
        runs += 1
        longest = max(longest, native.queues()[1])
        await gather(take(), note(i), note(-i - 1))

    await asyncio.gather(*map(order, range(50)))
    assert arena.root["stock"] == 950
    assert len(arena.root["made"]) == 100
    assert 1 < longest <= 50
    assert runs < 5 * 50
    assert native.queues() == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"max_conflicts": 0}, {"timeout": 10.0}, {"retries": 2}, {}], ids=str)
def test_a_step_that_hangs_is_stopped_whatever_the_options(watched: Arena, options: dict[str, Any]) -> None:
    """It ends by StepTooLongError, once, without a further run, and nothing of it is committed."""
    runs = 0

    @recoverable.recoverable(arena=watched, **options)
    async def handler() -> None:
        nonlocal runs
        runs += 1
        watched.root["n"] += 1
        hang()

    with pytest.raises(StepTooLongError):
        asyncio.run(handler())
    assert (runs, watched.root["n"]) == (1, 0)


@pytest.mark.slow
def test_a_part_that_hangs_ends_its_request(watched: Arena) -> None:
    """The step of a part is a step of its request: all of it is rolled back."""

    async def part(hangs: bool) -> None:
        watched.root["n"] += 1
        await asyncio.sleep(0)
        watched.root["n"] += 1
        if hangs:
            hang()

    @recoverable.recoverable(arena=watched)
    async def handler() -> None:
        await gather(part(False), part(True))

    with pytest.raises(StepTooLongError):
        asyncio.run(handler())
    assert watched.root["n"] == 0


@pytest.mark.slow
def test_an_independent_transaction_that_hangs_ends_alone(watched: Arena) -> None:
    """Its own writes are rolled back; the request around it may go on without it."""

    @recoverable.recoverable(arena=watched, nested="independent")
    async def inner() -> None:
        watched.root["inner"] = True
        hang()

    @recoverable.recoverable(arena=watched)
    async def outer() -> str:
        watched.root["n"] += 1
        try:
            await inner()
        except StepTooLongError:
            return "went on"
        return "was not stopped"

    assert asyncio.run(outer()) == "went on"
    assert dict(watched.root) == {"n": 1}
