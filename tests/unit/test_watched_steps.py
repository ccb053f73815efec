"""Which steps the watchdog watches: those that hold the arena, from where they have taken it, and no other one."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, StepTooLongError, TransactionError, recoverable

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

LIMIT = 0.4  # seconds: the process ends at twice that, which a busy machine must not come to by itself


@pytest.fixture
def arena(name: str) -> Iterator[Arena]:
    """Give an arena whose steps are watched."""
    with Arena.temporary("4 MiB", name=name, step_limit=LIMIT) as opened:
        with opened.transaction():
            opened.root["n"] = 0
        yield opened


def compute(seconds: float) -> None:
    """Keep the event loop, and nothing else."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@pytest.mark.parametrize("how", ["block", "handler"])
def test_after_an_independent_transaction_it_is_watched_from_where_it_touches_the_arena_again(
    arena: Arena, log: list[dict[str, Any]], how: str
) -> None:
    """The inner one has given the arena back: others commit meanwhile, however long the outer step does not touch it."""
    waited: list[float] = []

    def other() -> None:
        began = time.monotonic()
        with arena.transaction():
            arena.root["other"] = True
        waited.append(time.monotonic() - began)

    @recoverable(arena=arena, nested="independent")
    async def audit() -> None:
        arena.root["audited"] = True

    @recoverable(arena=arena)
    async def outer() -> None:
        arena.root["n"] += 1
        if how == "block":
            with arena.transaction(independent=True):
                arena.root["audited"] = True
        else:
            await audit()
        thread = threading.Thread(target=other)
        thread.start()
        compute(2.2 * LIMIT)  # its process would have ended
        thread.join(10)
        assert not [event for event in log if event["event"].startswith("step.")]
        arena.root["n"] += 1
        compute(10)

    with pytest.raises(StepTooLongError) as error:
        asyncio.run(outer())
    assert waited[0] < LIMIT
    assert LIMIT <= error.value.seconds < 2 * LIMIT
    assert dict(arena.root) == {"n": 0, "other": True, "audited": True}


def test_a_block_that_awaits_right_after_its_limit_is_rolled_back_and_the_loop_goes_on(arena: Arena) -> None:
    """Between the call that took too long and the `await` nothing looks for exceptions; the arena is free all the same."""
    lock, found = threading.Lock(), []

    async def block(future: asyncio.Future[None]) -> None:
        with arena.transaction():
            arena.root["n"] = 1
            with lock:  # waits without the GIL
                await future

    async def main() -> str:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: found.append(context["exception"]))
        lock.acquire()
        timer = threading.Timer(1.3 * LIMIT, lock.release)
        timer.start()
        future = loop.create_future()
        task = asyncio.ensure_future(block(future))
        await asyncio.sleep(0.01)
        with arena.transaction():
            arena.root["m"] = 1
        future.set_result(None)
        with pytest.raises(TransactionError, match="await inside"):
            await task
        return "well"

    assert asyncio.run(main()) == "well"
    assert {type(error).__name__ for error in found} <= {"_TooLong"}
    assert dict(arena.root) == {"n": 0, "m": 1}
