"""The commit feed when processes die, and when its memory is damaged: nobody sleeps on, and nothing loops."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from recoverable import Arena, ArenaCorruptError, FeedOverrunError
from recoverable._native import _switches
from recoverable._native import feed as native_feed
from support.children import child
from support.feeds import fed_arena
from support.forks import in_child
from support.replica import Replica
from support.segments import path_of

AT, TAIL = 64 + 40, 64 + 16  # of struct rcv_feed: the time of the last record, the oldest position


@pytest.fixture
def fed(new_name: Callable[[], str]) -> Iterator[Arena]:
    with fed_arena(new_name(), busy_timeout=5.0) as arena:
        yield arena


def commit(arena: Arena, value: object) -> None:
    with arena.transaction():
        arena.root["d"]["a"] = value


def put_word(arena: Arena, at: int, word: int) -> None:
    """Store into one of the feed's words, which begin with its identity."""
    state = native_feed.state(arena.native)
    assert state is not None
    identity = struct.pack("=2Q", int(state[0][:16], 16), int(state[0][16:], 16))
    with path_of(arena.name).open("r+b") as file:
        file.seek(file.read().index(identity) + at)
        file.write(struct.pack("=Q", word))


@pytest.mark.skipif(not _switches.test_build(), reason="needs a build with -Dcrashpoints=true")
@pytest.mark.parametrize("point", ["commit.after_publish", "feed.head", "feed.bell", "feed.wake"])
def test_a_commit_whose_process_was_killed_is_told(fed: Arena, point: str) -> None:
    """Killed between the commit and waking who waits: an `async for` elsewhere gets it, once somebody has recovered it."""

    def dies() -> None:
        _switches.crash_only(point)
        _switches.crash_at(1)
        commit(fed, "killed")

    async def main() -> str:
        reader = asyncio.create_task(anext(fed.feed()))
        await asyncio.sleep(0.05)
        ending = in_child(dies)
        assert ending.signal == signal.SIGKILL
        assert fed.root["d"]["a"] == "killed"
        return (await asyncio.wait_for(reader, 5)).handler

    assert asyncio.run(main()).endswith("commit")


def test_where_it_begins_is_found_while_others_commit(new_name: Callable[[], str]) -> None:
    """Another process overwrites the oldest records all the time: whoever looks for a commit finds it all the same."""
    with Arena.temporary("16 MiB", name=new_name(), feed="4 MiB") as arena:

        def commits() -> None:
            while True:
                commit(arena, 1)

        def looks() -> int:
            for _ in range(20):
                state = native_feed.state(arena.native)
                assert state is not None
                arena.feed(state[5], follow=False)
            return 20

        with arena.transaction():
            arena.root["d"] = {"a": 0}
        for _ in range(4):
            with arena.transaction():
                arena.root["d"]["blob"] = os.urandom(1_200_000)
        with child(commits) as pid:
            try:
                end = time.monotonic() + 60
                while (state := native_feed.state(arena.native)) is None or state[3] < 5 << 20:
                    assert time.monotonic() < end
                    time.sleep(0.05)
                assert in_child(looks, timeout=10).value == 20
            finally:
                os.kill(pid, signal.SIGKILL)


def test_times_do_not_go_back_with_the_clock(fed: Arena) -> None:
    """A commit that follows one of later, by a clock that was set back since, is given that one's time."""
    later = datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(hours=1)
    put_word(fed, AT, int(later.timestamp()) * 10**9)
    feed = fed.feed(follow=False)
    commit(fed, 1)
    commit(fed, 2)
    assert [each.at for each in feed] == [later, later]


def test_damage_is_told_once_behind_what_is_sound(fed: Arena) -> None:
    """A record that does not add up ends the iteration by a named error; each commit before it was given once."""
    feed = fed.feed(follow=False)
    commit(fed, 1)
    with fed.transaction():
        fed.root["d"]["a"] = b"a value to be found in the ring"
    with path_of(fed.name).open("r+b") as file:
        content = file.read()
        value = content.rindex(b"a value to be found in the ring")
        file.seek(content.rindex(struct.pack("=H", 0x4652), 0, value) + 56)
        file.write(struct.pack("=I", 77))
    commit(fed, 2)
    assert next(feed).seq > 0
    with pytest.raises(ArenaCorruptError, match="does not add up"):
        next(feed)
    assert list(feed) == []


@pytest.mark.parametrize("tail", [1 << 40, 4], ids=["behind the head", "not a word"])
def test_words_that_do_not_fit_are_damage(fed: Arena, tail: int) -> None:
    """Commits and readers say so, and neither loops over what is not there."""

    def reads() -> None:
        with pytest.raises((ArenaCorruptError, FeedOverrunError)):
            list(fed.feed(1, follow=False))

    def writes() -> None:
        with pytest.raises(ArenaCorruptError):
            for i in range(40):
                with fed.transaction():
                    fed.root["d"]["blob"] = os.urandom(8000 + i)

    put_word(fed, TAIL, tail)
    for function in writes, reads:
        ending = in_child(function, timeout=10)
        assert ending.returned, ending


def test_a_restored_copy_has_a_feed_of_its_own(fed: Arena) -> None:
    """It goes on behind what was restored, in another epoch; nothing of the life before is in it, and its sinks have lost it."""
    native_feed.open_sink(fed.native, "journal", True)
    with contextlib.closing(Replica(fed.name)) as replica:
        commit(fed, 1)
        commit(fed, 2)
        replica.follow(fed)
        was = native_feed.state(fed.native)
        with replica.opened() as copy:
            now = native_feed.state(copy.native)
            assert was is not None
            assert now is not None
            assert now[3] == now[4]
            assert now[1] > was[1]
            assert now[5] == was[5]
            assert native_feed.sinks(copy.native)[0][6]
            commit(copy, 3)
            with pytest.raises(FeedOverrunError) as raised:
                copy.feed(0)
            (only,) = copy.feed(now[5], follow=False)
            assert raised.value.oldest == only.seq > was[5]
