"""A request over two arenas: each commits by itself, and two that hold each other up are told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from recoverable import Arena, ArenaBusyError, ConflictError, attempt


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


def bump(which: Arena) -> None:
    """Commit a change of a number."""
    with which.transaction():
        which.root["n"] += 1


def loses_once(which: Arena) -> Callable[[], Awaitable[None]]:
    """Return a handler whose first run has read the number before another one has changed it."""
    runs: list[int] = []

    async def handler() -> None:
        runs.append(1)
        n = which.root["n"]
        if len(runs) == 1:
            await asyncio.to_thread(bump, which)
        which.root["m"] = n

    return handler


async def test_a_turn_in_one_arena_is_known_inside_a_request_on_another(arena: Arena, second: Arena) -> None:
    """Who has its turn at a hot spot does not wait for itself, although it has had one in another arena meanwhile."""
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


async def test_two_that_have_their_turns_in_two_arenas_do_not_wait_for_each_other(
    arena: Arena, new_name: Callable[[], str]
) -> None:
    """A request on one that uses the other one inside, and one the other way round, lose there and run again at once."""
    both, took = asyncio.Barrier(2), []

    async def outer(mine: Arena, other: Arena, runs: list[int]) -> None:
        runs.append(1)
        if len(runs) == 1:
            n = mine.root["n"]
            await asyncio.to_thread(bump, mine)
            mine.root["m"] = n  # here the first run ends
        await both.wait()
        begun = time.monotonic()
        await other.run(loses_once(other))
        took.append(time.monotonic() - begun)

    with Arena.temporary("8 MiB", name=new_name()) as third:
        for each in (arena, third):
            with each.transaction():
                each.root["n"] = each.root["m"] = 0
        await asyncio.gather(arena.run(outer, arena, third, []), third.run(outer, third, arena, []))
        assert (arena.native.queues(), third.native.queues()) == ((0, 0), (0, 0))
    assert max(took) < 0.9  # it is a second that one who hangs is waited for


async def test_who_is_privileged_does_not_wait_elsewhere_for_who_gives_way_to_it(
    arena: Arena, new_name: Callable[[], str]
) -> None:
    """Whoever has its turn in the other arena commits in this one meanwhile, which has to wait for the privileged run."""
    has_turn, is_privileged, took = asyncio.Event(), asyncio.Event(), []

    async def change() -> None:
        arena.root["n"] += 10

    async def gives_way() -> None:
        n = third.root["n"]
        if attempt() == 1:
            await asyncio.to_thread(bump, third)
        else:
            has_turn.set()
            await is_privileged.wait()
            await arena.run(change)
        third.root["m"] = n

    async def last() -> None:
        n = arena.root["n"]
        if attempt() == 1:
            await asyncio.to_thread(bump, arena)
        else:
            arena.root["m"] = 1  # so it is waited for
            is_privileged.set()
            await asyncio.sleep(0.02)
            begun = time.monotonic()
            await third.run(loses_once(third))
            took.append(time.monotonic() - begun)
        arena.root["n"] = n + 1

    with Arena.temporary("8 MiB", name=new_name()) as third:
        for each in (arena, third):
            with each.transaction():
                each.root["n"] = each.root["m"] = 0
        behind = asyncio.ensure_future(third.run(gives_way))
        await has_turn.wait()
        await arena.run(last, max_conflicts=1)
        await behind
    assert took[0] < 0.9  # it is a second that one who hangs is waited for
    assert arena.root["n"] % 10 == 2


async def test_two_that_are_privileged_in_two_arenas_do_not_wait_for_each_other(
    arena: Arena, new_name: Callable[[], str]
) -> None:
    """Each changes what the other one has read, in a request inside; one of them goes ahead, and the other one has lost."""
    both, took = asyncio.Barrier(2), []

    async def change(which: Arena) -> None:
        which.root["n"] += 10

    async def last(mine: Arena, other: Arena) -> None:
        n = mine.root["n"]
        if attempt() == 1:
            await asyncio.to_thread(bump, mine)
        mine.root["m"] = n  # here the first run ends
        await both.wait()
        begun = time.monotonic()
        await other.run(change, other)
        took.append(time.monotonic() - begun)
        mine.root["o"] = n

    with Arena.temporary("8 MiB", name=new_name()) as third:
        for each in (arena, third):
            with each.transaction():
                each.root["n"] = each.root["m"] = 0
        ends = await asyncio.gather(
            arena.run(last, arena, third, max_conflicts=1),
            third.run(last, third, arena, max_conflicts=1),
            return_exceptions=True,
        )
        assert {type(end) for end in ends} == {ConflictError, type(None)}
    assert max(took) < 0.9  # it is busy_timeout that a privileged one is waited for
