"""A request over two arenas: each commits by itself, and two that hold each other up are told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from recoverable import Arena, ArenaBusyError


@pytest.fixture
def second(new_name: Callable[[], str]) -> Iterator[Arena]:
    """Give another arena, whose lock is waited for a tenth of a second."""
    with Arena.temporary("8 MiB", name=new_name(), busy_timeout=0.1) as other:
        yield other


async def test_the_inner_one_stands_when_the_outer_one_rolls_back(arena: Arena, second: Arena) -> None:
    """What was committed in one arena is not undone with the other's transaction, and is there before that has ended."""

    async def outer() -> None:
        arena.root["outer"] = 1
        with second.transaction():
            second.root["inner"] = 1
        assert second.root["inner"] == 1
        raise LookupError

    with pytest.raises(LookupError):
        await arena.run(outer)
    assert "outer" not in arena.root
    assert second.root["inner"] == 1


def test_two_that_hold_each_other_up_do_not_hang(arena: Arena, second: Arena) -> None:
    """Taken in opposite order in the middle of a step, one of the two is refused after its busy_timeout, and the other goes on."""
    both, ended = threading.Barrier(2), []

    def take(first: Arena, then: Arena) -> None:
        try:
            with first.transaction():
                first.root["n"] = 1
                both.wait()
                with then.transaction():
                    then.root["m"] = 1
            ended.append("done")
        except ArenaBusyError:
            ended.append("refused")

    threads = [threading.Thread(target=take, args=order) for order in ((arena, second), (second, arena))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(ended) == ["done", "refused"]
    assert arena.verify()
    assert second.verify()


async def test_a_turn_in_one_arena_is_known_inside_a_request_on_another(arena: Arena, second: Arena) -> None:
    """Who has its turn at a hot spot does not wait for itself, although it has had one in another arena meanwhile."""

    def bump(which: Arena) -> None:
        with which.transaction():
            which.root["n"] += 1

    def loses_once(which: Arena) -> Callable[[], Awaitable[None]]:
        runs: list[int] = []

        async def handler() -> None:
            runs.append(1)
            n = which.root["n"]
            if len(runs) == 1:
                await asyncio.to_thread(bump, which)
            which.root["m"] = n

        return handler

    for each in (arena, second):
        with each.transaction():
            each.root["n"] = each.root["m"] = 0
    runs: list[int] = []
    inner = loses_once(arena)

    async def outer() -> None:
        runs.append(1)
        if len(runs) == 1:
            n = arena.root["n"]
            await asyncio.to_thread(bump, arena)
        else:
            await second.run(loses_once(second))
            begun = time.monotonic()
            await arena.run(inner, nested="independent")
            took.append(time.monotonic() - begun)
            n = arena.root["n"]
        arena.root["o"] = n

    took: list[float] = []
    await arena.run(outer, max_conflicts=10)
    assert max(took) < 0.9  # it is a second that one who hangs is waited for
    assert arena.root["o"] == arena.root["n"]
