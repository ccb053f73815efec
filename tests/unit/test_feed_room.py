"""Who waits for room in the commit feed: requests in their turn, blocks on the spot, nobody for what never comes."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from recoverable import Arena, ArenaFullError, ConflictError, FeedFullError, after_commit, recoverable
from recoverable._native import feed as native_feed
from recoverable.transaction import end_block
from support.feeds import end, fed_arena

RING = 256 * 1024


@pytest.fixture
def fed(new_name: Callable[[], str]) -> Iterator[Arena]:
    """Give an arena whose feed a sink keeps that this process serves: it has taken what there is."""
    with fed_arena(new_name(), busy_timeout=2.0) as arena:
        sink = native_feed.open_sink(arena.native, "keeper", True)
        assert native_feed.serve_sink(arena.native, sink)
        take(arena)
        yield arena


def take(arena: Arena) -> None:
    """Have the sink take all that there is."""
    native_feed.sink_taken(arena.native, 0, *end(arena))


def used(arena: Arena) -> int:
    """Return how many bytes the sink has not taken."""
    feed = arena.stats().feed
    assert feed is not None
    return feed.used


@contextmanager
def taking(arena: Arena, pause: float) -> Iterator[None]:
    """Have the sink take all that there is, again and again, in a thread of its own."""
    ends = threading.Event()

    def run() -> None:
        while not ends.wait(pause):
            take(arena)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def block(arena: Arena, key: str, size: int) -> None:
    """Commit so many bytes in a block."""
    with arena.transaction():
        arena.root["d"][key] = os.urandom(size)


async def test_who_waits_commits_before_who_comes_later(fed: Arena) -> None:
    """A task that never stands still does not take the room that others wait for."""
    done = dict.fromkeys("abcd", 0)
    ends = time.monotonic() + 1.0

    async def puts(key: str) -> None:
        async def put() -> None:
            fed.root["d"][key] = os.urandom(100_000)

        while time.monotonic() < ends:
            await fed.run(put)
            done[key] += 1

    with taking(fed, 0.01):
        await asyncio.gather(*map(puts, done))
    assert min(done.values()) * 2 > max(done.values()), done


async def test_one_that_is_cancelled_leaves_the_line(fed: Arena) -> None:
    """What it waited for is the others'."""

    async def put(key: str, size: int) -> None:
        fed.root["d"][key] = os.urandom(size)

    await fed.run(put, "x", 100_000)
    waits = asyncio.create_task(fed.run(put, "large", 240_000))
    await asyncio.sleep(0.02)
    behind = asyncio.create_task(fed.run(put, "small", 100))
    await asyncio.sleep(0.02)
    assert not behind.done()
    waits.cancel()
    begun = time.monotonic()
    await behind
    assert time.monotonic() - begun < 0.5
    assert "large" not in fed.root["d"]


@pytest.mark.parametrize("how", ["request", "block"])
def test_what_never_has_room_is_refused_at_once(fed: Arena, how: str) -> None:
    """A record larger than the ring does not wait for it, nor holds up others, however full the ring is."""

    async def put() -> None:
        fed.root["d"]["large"] = os.urandom(RING + 40_000)

    block(fed, "x", 100_000)
    begun = time.monotonic()
    with pytest.raises(ArenaFullError, match="more than its feed can hold"):
        asyncio.run(fed.run(put)) if how == "request" else block(fed, "large", RING + 40_000)
    assert time.monotonic() - begun < 0.5
    assert "large" not in fed.root["d"]
    block(fed, "y", 100_000)


@pytest.mark.parametrize("how", ["request", "plain", "block"])
def test_one_that_may_need_all_of_the_ring_waits_until_it_is_empty(fed: Arena, how: str) -> None:
    """Where its record fits by little, and what can be told before is more, it does not wait for what never comes."""

    @recoverable
    def put() -> None:
        fed.root["d"]["large"] = os.urandom(RING - 12_000)
        for i in range(40):
            fed.root["d"][f"k{i}"] = i

    async def request() -> None:
        put()

    block(fed, "x", 100_000)
    with taking(fed, 0.05):
        if how == "request":
            asyncio.run(fed.run(request))
        elif how == "plain":
            put()
        else:
            with fed.transaction():
                put()
    assert "k39" in fed.root["d"]


# -- blocks ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["thread", "loop", "independent"])
def test_a_block_waits_for_room(fed: Arena, where: str) -> None:
    """It waits at its end, without the lock, and commits when there is room: also in an event loop, whose thread stands still."""

    async def inside() -> None:
        if where == "independent":
            fed.root["d"]["outer"] = 1
            with fed.transaction(independent=True):
                fed.root["d"]["late"] = os.urandom(100_000)
        else:
            block(fed, "late", 100_000)

    async def main() -> None:
        await (fed.run(inside) if where == "independent" else inside())

    block(fed, "x", 100_000)
    block(fed, "y", 100_000)
    free: list[bool] = []

    def later() -> None:
        time.sleep(0.1)
        free.append(fed.native.lock_is_free())
        take(fed)

    thread = threading.Thread(target=later)
    thread.start()
    begun = time.monotonic()
    block(fed, "late", 100_000) if where == "thread" else asyncio.run(main())
    assert 0.05 < time.monotonic() - begun < 1.5
    thread.join()
    assert free == [True]
    assert len(fed.root["d"]["late"]) == 100_000


def test_an_interrupt_behind_the_commit_leaves_no_callback_out(fed: Arena) -> None:
    """A signal's handler raises where the commit of a block that has waited for room is over: what follows a commit is called."""
    called: list[int] = []

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code is not end_block.__code__:
            return None
        take(fed)
        if event == "line" and interrupted.transaction.state == "committed":
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    block(fed, "x", 200_000)
    interrupted: Any = fed.transaction()
    before = sys.gettrace()
    try:
        with pytest.raises(KeyboardInterrupt), interrupted:
            fed.root["d"]["y"] = os.urandom(100_000)
            after_commit(called.append, 1)
            sys.settrace(trace)
    finally:
        sys.settrace(before)
    assert len(fed.root["d"]["y"]) == 100_000
    assert called == [1]


def test_a_block_that_waits_in_vain_is_told(new_name: Callable[[], str]) -> None:
    """After busy_timeout it is a FeedFullError, and nothing of it was committed."""
    with Arena.temporary("16 MiB", name=new_name(), feed="256 KiB", busy_timeout=0.2) as arena:
        with arena.transaction():
            arena.root["d"] = {}
        native_feed.open_sink(arena.native, "keeper", True)
        block(arena, "x", 200_000)
        begun = time.monotonic()
        with pytest.raises(FeedFullError, match="keeper"):
            block(arena, "late", 100_000)
        assert 0.15 < time.monotonic() - begun < 1.0
        assert "late" not in arena.root["d"]


@pytest.mark.parametrize("disjoint", [True, False])
def test_what_a_block_has_read_is_still_so_when_it_commits(fed: Arena, disjoint: bool) -> None:
    """Others may commit while it waits. Where they changed what it has read it is a conflict, and only there."""
    for key in "xy":
        block(fed, key, 100_000)
    reads = threading.Event()

    def other() -> None:
        reads.wait()
        time.sleep(0.1)
        with fed.transaction():
            fed.root["d"]["b" if disjoint else "a"] = 7
        take(fed)

    thread = threading.Thread(target=other)
    thread.start()

    def waits() -> None:
        with fed.transaction():
            seen = fed.root["d"]["a"]
            reads.set()
            fed.root["d"]["large"] = os.urandom(100_000)
            fed.root["sum"] = seen + 1

    if disjoint:
        waits()
        assert fed.root["sum"] == 1
    else:
        with pytest.raises(ConflictError):
            waits()
        assert "sum" not in fed.root
    thread.join()
    fed.verify()


def test_a_block_that_only_reads_does_not_wait(fed: Arena) -> None:
    """It needs no room."""
    for key in "xy":
        block(fed, key, 100_000)
    begun = time.monotonic()
    with fed.transaction():
        assert fed.root["d"]["a"] == 0
    assert time.monotonic() - begun < 0.5


def test_a_forked_child_does_not_stand_behind_its_parents(fed: Arena) -> None:
    """Who waits in the parent is not in the child's way."""

    async def put(key: str, size: int) -> None:
        fed.root["d"][key] = os.urandom(size)

    async def main() -> int:
        await fed.run(put, "x", 100_000)
        waits = asyncio.create_task(fed.run(put, "large", 240_000))
        await asyncio.sleep(0.02)
        pid = os.fork()
        if pid == 0:
            asyncio.set_event_loop(None)
            asyncio.events._set_running_loop(None)
            try:
                begun = time.monotonic()
                asyncio.run(fed.run(put, "small", 100))
                os._exit(0 if time.monotonic() - begun < 0.5 else 2)
            except BaseException:
                os._exit(1)
        status = await asyncio.to_thread(os.waitpid, pid, 0)
        waits.cancel()
        return os.waitstatus_to_exitcode(status[1])

    assert asyncio.run(main()) == 0


@pytest.mark.parametrize("loop_goes", ["stops", "closes"])
def test_nothing_is_kept_for_long_for_who_does_not_come(fed: Arena, loop_goes: str) -> None:
    """Requests in line whose event loop stands still, or is over, hold up those of another loop for a moment, once."""
    block(fed, "full", RING * 3 // 4)

    async def put(key: str, size: int) -> None:
        fed.root["d"][key] = os.urandom(size)

    async def waits(kept: list[asyncio.Task[None]]) -> None:
        kept.extend(asyncio.ensure_future(fed.run(put, key, RING // 2)) for key in "xyz")
        await asyncio.sleep(0.05)

    kept: list[asyncio.Task[None]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(waits(kept))
    if loop_goes == "closes":
        loop.close()
    take(fed)

    async def small() -> float:
        begun = time.monotonic()
        await fed.run(put, "small", 10)
        take(fed)
        return time.monotonic() - begun

    took = [asyncio.run(small()) for _ in range(3)]
    assert took[0] < 1.5  # of a busy_timeout of 2
    assert sum(took[1:]) < 1.5
    if loop_goes == "stops":
        for task in kept:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*kept, return_exceptions=True))
        loop.close()
    for task in kept:
        task._log_destroy_pending = False  # type: ignore[attr-defined] -- of a loop that is over: that is what this is about
