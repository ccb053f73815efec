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
    ArenaOptionError,
    Array,
    FeedMissingError,
    FeedOverrunError,
    TransactionClosedError,
    TransactionError,
    bell,
    recoverable,
    waits,
)
from recoverable._native import feed as native_feed
from recoverable._native.runtime import current_transaction
from support.children import child
from support.feeds import fed_arena, fill


@pytest.fixture
def fed(new_name: Callable[[], str]) -> Iterator[Arena]:
    with fed_arena(new_name()) as arena:
        yield arena


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


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("plain", "plain"),
        ("x" * 135, "x" * 135),
        ("x" * 200, "x" * 135),
        ("é" * 68, "é" * 67),
        ("a" + "€" * 60, "a" + "€" * 44),
    ],
)
def test_a_record_has_the_id_that_its_requests_events_have(fed: Arena, given: str, kept: str) -> None:
    """What a conflict, or a list of requests, has called it by the time of its commit; a long one is cut between two characters."""
    feed = fed.feed(follow=False)

    @recoverable(arena=fed)
    async def put() -> None:
        transaction = current_transaction(fed.native)
        assert transaction is not None
        transaction.request_id = given
        fed.root["d"]["a"] = 1
        assert waits.request_id(transaction) == given

    asyncio.run(put())
    assert next(feed).request_id == kept


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


@pytest.mark.parametrize("after", [1.5, "1", True])
def test_what_is_no_number_is_refused(fed: Arena, after: Any) -> None:
    """By name, and nothing is rounded."""
    with pytest.raises(TypeError, match=f"after={after!r} is not a commit's number"):
        fed.feed(after)


@pytest.mark.parametrize("after", [-1, 1 << 64, 1 << 70])
def test_a_number_that_no_commit_has_is_refused(fed: Arena, after: int) -> None:
    """Not so one that comes later: it is followed from there on."""
    with pytest.raises(ArenaOptionError, match=f"after={after} is no commit's number"):
        fed.feed(after)
    assert list(fed.feed((1 << 64) - 1, follow=False)) == []


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


def test_the_oldest_that_is_left_is_a_commit(fed: Arena) -> None:
    """A slice of reclaiming is nobody's commit: the one that is named is one that can be read."""
    slices = 0
    for _ in range(200):
        with fed.transaction():
            fed.root["d"]["tree"] = {str(i): "x" * 100 for i in range(600)}
        with fed.transaction():
            fed.root["d"]["tree"] = None
        with pytest.raises(FeedOverrunError) if slices else contextlib.suppress(FeedOverrunError) as raised:
            fed.feed(1)
        state = native_feed.state(fed.native)
        assert state is not None
        is_slice = native_feed.parse(native_feed.read(fed.native, state[3], 4096), lambda *args: args[6])[0]
        slices += is_slice
        if is_slice and isinstance(raised, pytest.ExceptionInfo):
            assert raised.value.oldest is not None
            assert next(fed.feed(raised.value.oldest - 1, follow=False)).seq == raised.value.oldest
        if slices > 3:
            break
    assert slices > 3, "no slice was ever the oldest"


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
        turns, begun = 0, time.monotonic()
        while time.monotonic() - begun < 0.3:  # nothing is committed meanwhile
            await asyncio.sleep(0)
            turns += 1
        assert turns > 100
        for i in range(3):
            with fed.transaction():
                fed.root["d"]["a"] = i
            await asyncio.sleep(0.01)
        found = await asyncio.wait_for(asyncio.gather(*readers), 10)
        assert all(each == found[0] for each in found)
        assert not fed.native.bell._waiting

    asyncio.run(main())


def test_where_no_thread_can_be_started_nobody_is_left_waiting(fed: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wanted to wait is told, and is not kept among those who do."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="new thread"):
                await anext(fed.feed())
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


@pytest.mark.parametrize("others", [False, True], ids=["the last one", "one of two"])
def test_closing_the_arena_wakes_who_waits(new_name: Callable[[], str], others: bool) -> None:
    """An `async for` ends with a named error when its arena is closed under it."""

    async def main() -> None:
        arena = Arena.open(name, "1 MiB", feed="256 KiB")
        other = Arena.open(name) if others else None
        reader = asyncio.create_task(anext(arena.feed()))
        await asyncio.sleep(0.02)
        arena.close()
        with pytest.raises(TransactionClosedError):
            await asyncio.wait_for(reader, 10)
        if other is not None:
            other.close()

    name = new_name()
    asyncio.run(main())


@pytest.mark.parametrize("others", [False, True], ids=["the last one", "one of two"])
def test_closing_the_arena_ends_a_thread_that_waits(new_name: Callable[[], str], others: bool) -> None:
    """A `for` in a thread does not keep its arena from being closed, and ends with the same error."""
    name = new_name()
    ended: list[object] = []

    def read() -> None:
        try:
            ended.extend(arena.feed())
        except TransactionClosedError as error:
            ended.append(error)

    arena = Arena.open(name, "1 MiB", feed="256 KiB")
    other = Arena.open(name) if others else None
    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    arena.close()
    for thread in threads:
        thread.join(10)
    assert [type(each) for each in ended] == [TransactionClosedError] * 3
    if other is not None:
        other.close()


def test_an_arena_that_is_not_closed_after_all_goes_on(fed: Arena) -> None:
    """Where closing is refused after all, whoever waits for a commit gets the next one."""
    seen: list[Any] = []
    feed = fed.feed()
    thread = threading.Thread(target=lambda: seen.append(next(feed)))
    thread.start()
    time.sleep(0.05)
    bell.stop(fed.native)  # as closing does, before it fails
    bell.go_on(fed.native)
    with fed.transaction():
        fed.root["d"]["a"] = 1
    thread.join(10)
    assert [commit.places()[0].key for commit in seen] == ["'a'"]


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
