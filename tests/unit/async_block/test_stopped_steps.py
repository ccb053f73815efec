"""Steps of async blocks that can only roll back any more: they are given up where their blocks end."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, ConflictError, StepTooLongError, recoverable
from recoverable._native.runtime import current_transaction
from support.async_blocks import outside
from support.watched import compute

if TYPE_CHECKING:
    from collections.abc import Callable


def blocks(arena: Arena) -> dict[str, Callable[[Callable[[], None]], None]]:
    """Give what holds the arena for some operations together."""

    def block(work: Callable[[], None]) -> None:
        with arena.transaction():
            work()

    def savepoint(work: Callable[[], None]) -> None:
        with arena.savepoint():
            work()

    def deep(work: Callable[[], None]) -> None:
        with arena.transaction(), arena.savepoint():
            block(work)

    @recoverable(arena=arena)
    def plain(work: Callable[[], None]) -> None:
        work()

    return {"block": block, "savepoint": savepoint, "deep": deep, "plain": plain}


def others_get(arena: Arena) -> Any:
    """Have others get the arena, while the async block goes on."""
    arena.step_limit = None
    assert arena.native.lock_is_free()

    def other() -> None:
        with arena.transaction():
            arena.root["other"] = 1

    return outside(other)


@pytest.mark.parametrize("kind", ["block", "savepoint", "deep", "plain"])
@pytest.mark.parametrize("thread", [False, True])
def test_a_step_that_was_stopped_in_a_block_is_over_with_it(spared: Arena, run: Any, kind: str, thread: bool) -> None:
    """Whatever its code does from then on: in a thread, which may be idle, or in the loop, where it awaits."""
    root, hold = spared.root, blocks(spared)[kind]

    def work() -> None:
        root["a"] = 1
        compute(20)

    async def main() -> None:
        with pytest.raises(StepTooLongError):
            async with spared.transaction():
                try:
                    if thread:
                        await asyncio.to_thread(hold, work)
                    else:
                        hold(work)
                finally:
                    await others_get(spared)

    run(main())
    assert dict(root) == {"n": 0, "other": 1}


def test_what_stops_it_at_the_very_end_of_a_block_ends_that(spared: Arena, run: Any) -> None:
    """It is met by whatever the block's end calls, where nothing in the block was called since."""
    root, seven = spared.root, 7

    def work() -> None:
        for n in itertools.count(18):
            with spared.transaction():
                root["a"] = n
                _ = seven ** (1 << n)

    async def main() -> None:
        with pytest.raises(StepTooLongError):
            async with spared.transaction():
                try:
                    await asyncio.to_thread(work)
                finally:
                    await others_get(spared)

    run(main())
    assert dict(root) == {"n": 0, "other": 1}


@pytest.mark.parametrize("kind", ["block", "savepoint", "deep", "plain"])
def test_a_step_that_has_lost_in_a_block_is_over_with_it(arena: Arena, run: Any, kind: str) -> None:
    """As one that was stopped: for any reason."""

    def lose() -> None:
        arena.root["a"] = 1
        transaction = current_transaction()
        assert transaction is not None
        transaction.doom(conflict=True)

    async def main() -> None:
        with pytest.raises(ConflictError):
            async with arena.transaction():
                blocks(arena)[kind](lose)
                await others_get(arena)

    run(main())
    assert dict(arena.root) == {"other": 1}
