"""The commit feed as programs use it: what it tells, to whom, how far back, and what full and slow mean."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from recoverable import (
    Arena,
    ArenaFullError,
    Array,
    FeedFullError,
    FeedMissingError,
    FeedOverrunError,
    TransactionClosedError,
    TransactionError,
    recoverable,
)
from recoverable._native import feed as native_feed
from support.children import child


@pytest.fixture
def fed(new_name: Callable[[], str]) -> Iterator[Arena]:
    with Arena.temporary("16 MiB", name=new_name(), feed="256 KiB", busy_timeout=0.3) as arena:
        with arena.transaction():
            arena.root["d"] = {"a": 0}
        yield arena


def fill(arena: Arena, times: int = 40) -> None:
    """Commit more than the ring holds."""
    for _ in range(times):
        with arena.transaction():
            arena.root["d"]["blob"] = os.urandom(8000)


def test_it_tells_each_commit_once_in_order(fed: Arena) -> None:
    """Number, time, handler and place of each commit; nothing of what was rolled back or only read."""
    before = datetime.datetime.now(datetime.UTC)
    feed = fed.feed()
    with fed.transaction():
        fed.root["d"]["a"] = 1
    with contextlib.suppress(KeyError), fed.transaction():
        fed.root["d"]["a"] = 2
        raise KeyError
    with fed.transaction():
        len(fed.root["d"])

    @recoverable(arena=fed)
    async def put(key: str) -> None:
        await asyncio.sleep(0)
        fed.root["d"][key] = 1

    asyncio.run(put("b"))
    feed._follow = False
    first, second = feed
    assert first.seq < second.seq
    assert before - datetime.timedelta(seconds=1) <= first.at <= second.at
    assert first.handler == "test_it_tells_each_commit_once_in_order"
    assert second.handler.endswith("put")
    assert first.request_id is None
    assert first.places()[0].key == "'a'"
    assert {place.path for place in second.places()} == {"root['d']"}
    assert all(isinstance(part, bytes) for _, part in first.ranges)


def test_a_new_array_of_zeros_is_told_and_not_copied(fed: Arena) -> None:
    """An Array that is larger than the ring can be made, since its zeros take a word."""
    feed = fed.feed(follow=False)
    with fed.transaction():
        fed.root["a"] = Array(500_000, "f8")
    (commit,) = feed
    assert any(isinstance(part, int) and part > 3_000_000 for _, part in commit.ranges)


def test_a_commit_larger_than_the_ring_is_refused_by_name(fed: Arena) -> None:
    """Nothing of it is kept, and the next one goes on."""
    with pytest.raises(ArenaFullError, match="feed="), fed.transaction():
        fed.root["d"]["huge"] = os.urandom(300_000)
    assert "huge" not in fed.root["d"]
    with fed.transaction():
        fed.root["d"]["a"] = 5
    assert fed.verify().leaked_blocks == 0


def test_it_begins_where_it_is_told(fed: Arena) -> None:
    """After 0: with the first of all; after a commit: behind it; by default: with the next one."""
    commits = list(fed.feed(0, follow=False))
    assert len(commits) == 2  # the root, and the fixture's
    assert list(fed.feed(commits[0].seq, follow=False)) == commits[1:]
    assert list(fed.feed(commits[-1].seq, follow=False)) == []
    assert list(fed.feed(follow=False)) == []


def test_a_slow_reader_is_told_what_is_left(fed: Arena) -> None:
    """What is overwritten raises an error that names the oldest commit there is; from that on it can be read."""
    slow = fed.feed(0, follow=False)
    fill(fed)
    with pytest.raises(FeedOverrunError) as raised:
        next(slow)
    with pytest.raises(FeedOverrunError):
        fed.feed(1)
    assert raised.value.oldest is not None
    left = list(fed.feed(raised.value.oldest - 1, follow=False))
    assert left[0].seq == raised.value.oldest


def test_an_arena_without_one_says_so(new_name: Callable[[], str]) -> None:
    """Asking for a feed that was not made is a named error, and so it is where the arena exists without one."""
    with Arena.temporary("1 MiB", name=new_name()) as arena:
        with pytest.raises(FeedMissingError, match="feed="):
            arena.feed()
        assert not arena.native.has_feed


def test_other_processes_commits_are_in_it(fed: Arena) -> None:
    """A reader sees what a forked child commits, with that one's handler."""

    def work() -> None:
        with fed.transaction():
            fed.root["d"]["child"] = 1

    feed = fed.feed(follow=False)
    with child(work):
        pass
    (commit,) = feed
    assert commit.handler.endswith(".work")


def test_a_thread_waits_for_the_next_commit(fed: Arena) -> None:
    """`for` sleeps until another process commits, and ends when the feed is closed."""
    seen: list[Any] = []
    feed = fed.feed()
    thread = threading.Thread(target=lambda: seen.extend(feed))
    thread.start()

    def work() -> None:
        with fed.transaction():
            fed.root["d"]["child"] = 1

    with child(work):
        pass
    end = time.monotonic() + 10
    while not seen and time.monotonic() < end:
        time.sleep(0.01)
    feed.close()
    thread.join(10)
    assert not thread.is_alive()
    assert [commit.handler.rpartition(".")[2] for commit in seen] == ["work"]


def test_an_event_loop_goes_on_meanwhile(fed: Arena) -> None:
    """Fifty `async for` wait without stopping the loop, and all are woken; a cancelled one leaves nothing."""

    async def take(n: int) -> list[int]:
        found = []
        async for commit in fed.feed():
            found.append(commit.seq)
            if len(found) == n:
                break
        return found

    async def main() -> None:
        readers = [asyncio.create_task(take(3)) for _ in range(50)]
        cancelled = asyncio.create_task(take(3))
        await asyncio.sleep(0.01)
        cancelled.cancel()
        turns = 0
        for i in range(3):
            with fed.transaction():
                fed.root["d"]["a"] = i
            await asyncio.sleep(0.01)
            turns += 1
        found = await asyncio.wait_for(asyncio.gather(*readers), 10)
        assert all(each == found[0] for each in found)
        assert turns == 3
        assert not fed.native.bell._waiting

    asyncio.run(main())


def test_in_a_loop_a_plain_for_is_refused(fed: Arena) -> None:
    """It would stop the loop; what there is can be read all the same."""

    async def main() -> None:
        feed = fed.feed(0)
        next(feed), next(feed)
        with pytest.raises(TransactionError, match="async for"):
            next(feed)

    asyncio.run(main())


def test_closing_the_arena_wakes_who_waits(new_name: Callable[[], str]) -> None:
    """An `async for` ends with a named error when its arena is closed under it."""

    async def main() -> None:
        arena = Arena.open(name, "1 MiB", feed="256 KiB")
        reader = asyncio.create_task(anext(arena.feed()))
        await asyncio.sleep(0.02)
        arena.close()
        with pytest.raises(TransactionClosedError):
            await asyncio.wait_for(reader, 10)

    name = new_name()
    asyncio.run(main())


def test_a_forked_child_has_its_own_thread(fed: Arena) -> None:
    """A child that is forked while its parent waits can wait as well, and both go on."""

    async def one() -> str:
        return (await asyncio.wait_for(anext(fed.feed()), 10)).handler

    def forked() -> None:
        async def main() -> None:
            reader = asyncio.create_task(one())
            await asyncio.sleep(0.02)
            with fed.transaction():
                fed.root["d"]["forked"] = 1
            assert (await reader).endswith("main")

        asyncio._set_running_loop(None)
        asyncio.run(main())

    async def main() -> None:
        reader = asyncio.create_task(one())
        await asyncio.sleep(0.02)
        with child(forked):
            pass
        assert (await reader).endswith("main")

    asyncio.run(main())


def test_the_clock_may_be_set_back(fed: Arena) -> None:
    """Times of commits never go backwards: they follow each other as the commits do."""
    for i in range(20):
        with fed.transaction():
            fed.root["d"]["a"] = i
    times = [commit.at for commit in fed.feed(0, follow=False)]
    assert times == sorted(times)


# -- sinks -------------------------------------------------------------------------------------------------------------


def test_a_required_sink_stops_blocks_and_lets_requests_wait(fed: Arena) -> None:
    """When the ring is full of what it has not taken, a block fails at once, a request waits, and goes on when it has."""
    native = fed.native
    sink = native_feed.open_sink(native, "journal", True)
    with pytest.raises(FeedFullError, match="journal"):
        fill(fed)
    before = fed.root["d"].to_python()

    @recoverable(arena=fed)
    async def put() -> None:
        fed.root["d"]["blob"] = os.urandom(8000)

    async def late() -> None:
        await asyncio.sleep(0.05)
        state = native_feed.state(native)
        assert state is not None
        native_feed.sink_taken(native, sink, state[4], state[5])

    async def main() -> float:
        asyncio.get_running_loop().create_task(late())
        begun = time.monotonic()
        await put()
        return time.monotonic() - begun

    assert fed.root["d"].to_python() == before
    assert asyncio.run(main()) > 0.04
    assert fed.root["d"].to_python() != before
    native_feed.close_sink(native, sink)
    fill(fed)


def test_a_request_that_waits_in_vain_is_told(fed: Arena) -> None:
    """After busy_timeout it is a FeedFullError, nothing was committed, and the loop went on meanwhile."""
    sink = native_feed.open_sink(fed.native, "journal", True)
    with contextlib.suppress(FeedFullError):
        fill(fed)

    @recoverable(arena=fed)
    async def put() -> None:
        fed.root["d"]["late"] = os.urandom(8000)

    async def main() -> int:
        request, turns = asyncio.create_task(put()), 0
        while not request.done():
            await asyncio.sleep(0.01)
            turns += 1
        with pytest.raises(FeedFullError):
            await request
        return turns

    assert asyncio.run(main()) > 5
    assert "late" not in fed.root["d"]
    native_feed.close_sink(fed.native, sink)
    asyncio.run(put())


def test_an_optional_sink_is_lost_instead(fed: Arena) -> None:
    """Nobody waits for it: what it has not taken is overwritten, and it is told; it can begin anew."""
    sink = native_feed.open_sink(fed.native, "live", False)
    fill(fed)
    assert native_feed.sinks(fed.native)[0][6]
    state = native_feed.state(fed.native)
    assert state is not None
    native_feed.renew_sink(fed.native, sink, state[4], state[5])
    assert not native_feed.sinks(fed.native)[0][6]


def test_a_sink_is_served_by_one_process_and_outlives_it(fed: Arena) -> None:
    """Another process may not have it while the first lives, and goes on from its cursor when that has died."""
    sink = native_feed.open_sink(fed.native, "journal", True)
    assert native_feed.open_sink(fed.native, "journal", True) == sink
    at = native_feed.sinks(fed.native)[0][2]

    def serves() -> None:
        with fed.transaction():
            fed.root["d"]["child"] = 1  # its first use of the arena, by which it is attached
        assert native_feed.serve_sink(fed.native, sink)
        native_feed.sink_taken(fed.native, sink, at + 8, 7)

    with child(serves):
        pass
    assert native_feed.serve_sink(fed.native, sink)
    assert native_feed.sinks(fed.native)[0][2:5] == (at + 8, 7, os.getpid())

    def may_not() -> None:
        len(fed.root)
        assert not native_feed.serve_sink(fed.native, sink)

    with child(may_not):
        pass
