"""Sinks: those who may not miss anything of the commit feed. Who serves one, and who waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from recoverable import (
    Arena,
    ArenaBusyError,
    Array,
    FeedFullError,
    StaleReferenceError,
    TransactionError,
    recoverable,
)
from recoverable._native import feed as native_feed
from support.children import child
from support.feeds import end, fed_arena, fill


@pytest.fixture
def fed(new_name: Callable[[], str]) -> Iterator[Arena]:
    with fed_arena(new_name()) as arena:
        yield arena


def served(arena: Arena, required: bool = True) -> int:
    """Return a new sink that this process serves."""
    sink = native_feed.open_sink(arena.native, "journal", required)
    assert native_feed.serve_sink(arena.native, sink)
    return sink


def test_a_required_sink_stops_blocks_and_lets_requests_wait(fed: Arena) -> None:
    """When the ring is full of what it has not taken, a block and a request wait; the request goes on when it has."""
    native = fed.native
    sink = served(fed)
    with pytest.raises(FeedFullError, match="journal"):
        fill(fed)
    before = fed.root["d"].to_python()

    @recoverable(arena=fed)
    async def put() -> None:
        fed.root["d"]["blob"] = os.urandom(8000)

    async def late() -> None:
        await asyncio.sleep(0.05)
        native_feed.sink_taken(native, sink, *end(fed))

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
    sink = served(fed)
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
    sink = served(fed, required=False)
    behind = end(fed)
    fill(fed)
    assert native_feed.sinks(fed.native)[0][6]
    for move in native_feed.sink_taken, native_feed.renew_sink:
        with pytest.raises(StaleReferenceError, match="overwritten"):
            move(fed.native, sink, *behind)
    native_feed.renew_sink(fed.native, sink, *end(fed))
    assert not native_feed.sinks(fed.native)[0][6]
    fill(fed, 3)
    native_feed.sink_taken(fed.native, sink, *end(fed))


def test_a_sink_is_served_by_one_process_and_outlives_it(fed: Arena) -> None:
    """Another process may not have it while the first lives, and goes on from its cursor when that has died."""
    sink = native_feed.open_sink(fed.native, "journal", True)
    assert native_feed.open_sink(fed.native, "journal", True) == sink

    def serves() -> None:
        assert native_feed.serve_sink(fed.native, sink)  # its first use of the arena
        with fed.transaction():
            fed.root["d"]["child"] = 1
        native_feed.sink_taken(fed.native, sink, end(fed)[0], 7)

    with child(serves):
        pass
    assert native_feed.serve_sink(fed.native, sink)
    assert native_feed.sinks(fed.native)[0][2:5] == (end(fed)[0], 7, os.getpid())

    def may_not() -> None:
        assert not native_feed.serve_sink(fed.native, sink)
        for move in native_feed.sink_taken, native_feed.renew_sink:
            with pytest.raises(TransactionError, match="does not serve"):
                move(fed.native, sink, *end(fed))
        with pytest.raises(ArenaBusyError, match=str(os.getppid())):
            native_feed.close_sink(fed.native, sink)

    with child(may_not):
        pass


def test_a_cursor_goes_forward_over_what_there_is(fed: Arena) -> None:
    """Not back, not into the middle of a word, not beyond the newest commit."""
    sink = served(fed)
    start, _ = end(fed)
    fill(fed, 2)
    at, seq = end(fed)
    native_feed.sink_taken(fed.native, sink, at, seq)
    for wrong in (start, at + 8, at - 4, 2**63):
        for move in native_feed.sink_taken, native_feed.renew_sink:
            with pytest.raises(TransactionError, match="can't have taken"):
                move(fed.native, sink, wrong, seq)
    assert native_feed.sinks(fed.native)[0][2:4] == (at, seq)


def test_a_sink_is_renewed_under_the_lock(fed: Arena) -> None:
    """Else a commit could overwrite what it begins with between the look at it and the renewal."""
    sink = served(fed)
    reader, writer = os.pipe()

    def holds() -> None:
        with fed.transaction():
            fed.root["d"]["a"] = 1
            os.write(writer, b"x")
            time.sleep(1)

    with child(holds):
        os.read(reader, 1)
        with pytest.raises(ArenaBusyError):
            native_feed.renew_sink(fed.native, sink, *end(fed))
    native_feed.renew_sink(fed.native, sink, *end(fed))
    os.close(reader)
    os.close(writer)


def leave_room_for(arena: Arena, least: int) -> int:
    """Commit until the ring has room for so many bytes, and for hardly more: return how many."""
    cursor = native_feed.sinks(arena.native)[0][2]
    while True:
        before = end(arena)[0]
        with arena.transaction():
            arena.root["d"]["a"] = 1
        length = end(arena)[0] - before
        if (left := 256 * 1024 - (end(arena)[0] - cursor)) < least + length:
            return left


@pytest.mark.parametrize("what", ["raw", "text"])
def test_a_request_that_fits_is_not_refused(fed: Arena, what: str) -> None:
    """Where the ring has room for its very record, it commits, however little is left."""
    with fed.transaction():
        fed.root["array"] = Array(4096, "f8")

    @recoverable(arena=fed)
    async def put(number: int) -> None:
        if what == "raw":
            fed.root["array"].view[number * 600 : number * 600 + 3] += 1.0
        else:
            fed.root["d"]["text"] = f"{number} " * 100
        await asyncio.sleep(0)

    for number in range(6):
        before = end(fed)[0]
        asyncio.run(put(number))
    sink = served(fed)
    left = leave_room_for(fed, end(fed)[0] - before)
    asyncio.run(put(6))
    assert end(fed)[0] - native_feed.sinks(fed.native)[0][2] <= 256 * 1024, left
    native_feed.close_sink(fed.native, sink)


def test_whoever_finds_it_open_has_let_go_of_the_lock(fed: Arena) -> None:
    """Two threads open a sink behind a step: the second one comes to have the lock, and has nothing to do with it any more."""
    ends = threading.Event()
    opened: list[int] = []

    def opens() -> None:
        opened.append(native_feed.open_sink(fed.native, "late", True))
        ends.wait(10)

    threads = [threading.Thread(target=opens) for _ in range(2)]
    try:
        with fed.transaction():
            fed.root["d"]["a"] = 1
            for thread in threads:
                thread.start()
            while len(fed.native.standing) < 2:
                time.sleep(0.001)
        while len(opened) < 2:
            time.sleep(0.001)
        assert opened[0] == opened[1]
        assert fed.native.lock_holder() is None
    finally:
        ends.set()
        for thread in threads:
            thread.join()
