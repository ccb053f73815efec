"""A process that forks while its requests wait, or closes all its descriptors: what waits goes on, and a child does not hang."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from recoverable import Arena, StepTooLongError, attempt, recoverable
from support.children import child
from support.forks import in_child

pytestmark = [
    pytest.mark.crash,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]

LIMIT = 0.2  # seconds


@pytest.fixture
def arena(name: str) -> Iterator[Arena]:
    """Give an arena whose steps are watched, and whose requests others may ask for."""
    with Arena.temporary("4 MiB", name=name, step_limit=LIMIT) as opened:
        with opened.transaction():
            opened.root.update(n=0, stock=100)
        opened.listen()
        yield opened


@contextlib.contextmanager
def held(arena: Arena) -> Iterator[Callable[[], None]]:
    """Have a thread hold the lock meanwhile, unwatched; gives what lets go of it."""
    arena.step_limit = None
    holds, end = threading.Event(), threading.Event()

    def hold() -> None:
        with arena.transaction():
            arena.root["held"] = 1
            holds.set()
            end.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait(10)
    try:
        yield end.set
    finally:
        end.set()
        thread.join()
        arena.step_limit = LIMIT


async def add(arena: Arena) -> None:
    """Take two steps."""
    arena.root["n"] += 1
    await asyncio.sleep(0.01)
    arena.root["n"] += 1


def sell_in(arena: Arena, pause: float) -> Any:
    """Return a handler whose requests lose to each other; with its turn it takes that long."""

    @recoverable(arena=arena)
    async def sell() -> None:
        left = arena.root["stock"]
        arena.root["stock"] = left - 1
        await asyncio.sleep(0.01 if attempt() == 1 else pause)

    return sell


def spins(arena: Arena) -> bool:
    """Have a step stopped."""
    with contextlib.suppress(StepTooLongError), arena.transaction():
        arena.root["n"] += 100
        while True:
            pass
    return True


def use(arena: Arena) -> list[Any]:
    """Do everything that has a thread, a line or a place in a queue of this process, in a child of one that has them."""

    async def main() -> None:
        await asyncio.gather(*(arena.run(add, arena) for _ in range(3)))
        await asyncio.gather(*(sell_in(arena, 0.001)() for _ in range(4)))

    loop = asyncio.new_event_loop()
    asyncio._set_running_loop(None)
    loop.run_until_complete(asyncio.wait_for(main(), 10))
    arena.step_limit = LIMIT
    return [spins(arena), [request.handler for request in arena.requests() if request.process == os.getpid()]]


def test_a_child_that_is_forked_while_requests_wait_for_the_lock(arena: Arena) -> None:
    """It waits for the lock as any process, its steps are watched, and what waited in its parent goes on there alone."""

    async def main() -> Any:
        later = asyncio.ensure_future(arena.run(add, arena))
        await asyncio.sleep(0)
        with held(arena) as let_go:
            first = asyncio.ensure_future(arena.run(add, arena))
            await asyncio.sleep(0.05)
            assert "lock" in arena.native.lines
            timer = threading.Timer(0.05, let_go)
            timer.start()
            ending = in_child(lambda: use(arena))
            await asyncio.wait_for(asyncio.gather(later, first), 10)
            timer.join()
        return ending

    ending = asyncio.run(main())
    assert ending.value == [True, []], ending
    assert (arena.root["n"], arena.root["stock"]) == (4 + 6, 96)


def test_a_child_that_is_forked_while_requests_wait_for_their_turn(arena: Arena, log: list[Any]) -> None:
    """Its own queue works, and nobody of its parent is woken there: the loop's descriptor may be another's by now."""
    sell = sell_in(arena, 0.05)

    def serve() -> None:
        os.closerange(3, 65536)
        pairs = [socket.socketpair() for _ in range(20)]
        assert use(arena) == [True, []]
        for each in itertools.chain(*pairs):
            with pytest.raises(BlockingIOError):
                each.recv(1, socket.MSG_DONTWAIT)

    async def main() -> None:
        tasks = [asyncio.ensure_future(sell()) for _ in range(3)]
        await asyncio.sleep(0.03)
        assert arena.native.lines
        with child(serve):
            await asyncio.wait_for(asyncio.gather(*tasks), 10)

    asyncio.run(main())
    assert arena.root["stock"] == 100 - 3 - 4
    assert arena.native.lines == {}
    assert arena.native.queues() == (0, 0)


@pytest.mark.parametrize("when", ["first", "later"])
def test_all_descriptors_closed(arena: Arena, log: list[Any], when: str) -> None:
    """As a daemon does, before its first request or between two: queues, waits, watchdog and who tells of requests go on."""

    async def main() -> None:
        arena.step_limit = LIMIT
        await asyncio.gather(*(sell_in(arena, 0.001)() for _ in range(5)))
        with held(arena) as let_go:
            waits = asyncio.ensure_future(arena.run(add, arena))
            await asyncio.sleep(0.03)
            seen = [request.waits_for for request in await asyncio.to_thread(arena.requests)]
            assert sorted(map(str, seen)) == ["None", "lock"]
            let_go()
            await asyncio.wait_for(waits, 10)
        assert spins(arena)

    def serve() -> None:
        arena.listen()
        for turn in ("first", "later"):
            if turn == when:
                os.closerange(3, 65536)
            asyncio.run(main())

    with child(serve):
        pass
    assert (arena.root["n"], arena.root["stock"]) == (4, 90)
