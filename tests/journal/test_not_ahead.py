"""Readers of the feed, of history and of the folder give nothing that a power loss could take back."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recoverable import Arena
from recoverable._native import _switches
from recoverable._native import journal as native_journal
from recoverable.cli import _journal_files
from recoverable.cli._app import run
from recoverable.errors import FeedOverrunError, InDoubtError, JournalError
from recoverable.history import History
from recoverable.history import follow as followed
from recoverable.history.follow import Follower
from recoverable.history.line import Line
from recoverable.journal.folder import Folder

_BATCH = struct.Struct("<IIQQQQQQII")
_MARK = 0x48435442
_WRITTEN = "journal.written"  # and not flushed yet
in_test_builds = pytest.mark.skipif(not _switches.test_build(), reason="needs -Dcrashpoints=true")


@pytest.fixture
def hang() -> Iterator[Callable[[bool], None]]:
    """Have all flushes of this process hang from now on, or go on."""
    yield lambda on: _switches.crash_hold(_WRITTEN if on else None)
    _switches.crash_hold(None)


def put(arena: Arena, n: int) -> None:
    """Commit once."""
    with arena.transaction():
        arena.root["n"] = n


def written(folder: str, n: int) -> None:
    """Wait until the folder's last file has so many batches with commits."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with Folder(folder).open_file(Folder(folder).files()[-1]) as file:
            found = [batch for batch in iter(lambda: file.next(tail=True), None) if batch.records]
        if len(found) >= n:
            return
        time.sleep(0.005)
    raise AssertionError("nothing was written")


@in_test_builds
def test_what_is_not_flushed_is_given_to_nobody(
    name: str, folder: str, hang: Callable[[bool], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Between the write and the flush: a durable feed, a watch and `newest` stand where the disk does; a plain feed does not."""
    with Arena.open(name, "4 MiB", journal=folder) as arena:
        put(arena, 1)
        asyncio.run(arena.durable())
        first = arena.history.newest
        feed, plain = arena.feed(first, follow=False, durable=True), arena.feed(first, follow=False)
        watch, got = arena.history.watch("root['n']", after=first), []
        thread = threading.Thread(target=lambda: got.append(next(watch)))
        thread.start()
        hang(True)
        put(arena, 2)
        written(folder, 2)
        assert [commit.seq for commit in plain] == [first + 1]
        assert list(feed) == []
        assert arena.history.newest == first
        assert not watch._ready
        assert watch._follower.position == arena.native.journal._flusher.durable()
        assert not list(watch._follower.batches(watch._durable()))
        capsys.readouterr()
        assert (
            _journal_files.last_commits(Folder(folder), 1, _journal_files.settled(Folder(folder))[0])[-1].seq == first
        )
        hang(False)
        asyncio.run(arena.durable())
        assert [commit.seq for commit in arena.feed(first, follow=False, durable=True)] == [first + 1]
        thread.join(30)
        assert got[0].commit.seq == first + 1
        watch.close()
        assert run(["journal", "tail", "--json", "-n", "1", folder]) == 0
        assert json.loads(capsys.readouterr().out)[0]["seq"] == first + 1
    Arena.unlink(name)


def test_a_durable_feed_needs_a_journal(name: str) -> None:
    """Else nothing would ever come."""
    with (
        Arena.temporary("4 MiB", name=name, feed="1 MiB") as arena,
        pytest.raises(JournalError, match="without a journal"),
    ):
        arena.feed(durable=True)


def test_a_durable_feed_follows(name: str, folder: str) -> None:
    """Commits come one after the other, as they are on the disk."""

    async def main(arena: Arena) -> list[int]:
        feed, seen = arena.feed(durable=True), []

        async def read() -> None:
            async for commit in feed:
                seen.append(commit.seq)
                if len(seen) == 5:
                    return

        reading = asyncio.create_task(read())
        await asyncio.sleep(0)
        for n in range(5):
            put(arena, n)
            await asyncio.sleep(0.01)
        await asyncio.wait_for(reading, 30)
        return seen

    with Arena.open(name, "4 MiB", journal=folder) as arena:
        found = asyncio.run(main(arena))
        assert found == list(range(found[0], found[0] + 5))
    Arena.unlink(name)


def stop(arena: Arena) -> None:
    """Have the journal stop at the next commit, and see that it has."""
    _switches.fail_at(_switches.FAIL_SYNC, 1)
    put(arena, -1)
    with pytest.raises(InDoubtError):
        asyncio.run(arena.durable(timeout=30))


@in_test_builds
@pytest.mark.parametrize("follows", ["for", "async for"])
def test_a_durable_feed_ends_when_the_journal_stops(name: str, folder: str, follows: str) -> None:
    """What is on the disk is given first; who only wants what there is gets that."""
    with Arena.open(name, "4 MiB", journal=folder) as arena:
        put(arena, 1)
        asyncio.run(arena.durable())
        feed, rest = arena.feed(0, durable=True), arena.feed(0, follow=False, durable=True)
        stop(arena)
        seen: list[int] = []

        async def main() -> None:
            async for commit in feed:
                seen.append(commit.seq)

        with pytest.raises(JournalError, match="has stopped"):
            if follows == "for":
                seen.extend(commit.seq for commit in feed)
            else:
                asyncio.run(asyncio.wait_for(main(), 30))
        assert [commit.seq for commit in rest] == (seen or [arena.history.newest])
    Arena.unlink(name)


@in_test_builds
@pytest.mark.parametrize("follow", [False, True])
def test_a_durable_feed_tells_that_it_was_overrun(name: str, folder: str, follow: bool) -> None:
    """By commits that no journal holds up any more."""
    with Arena.open(name, "4 MiB", journal=folder, feed="64 KiB") as arena:
        put(arena, 1)
        asyncio.run(arena.durable())
        feed = arena.feed(follow=follow, durable=True)
        stop(arena)
        for n in range(2000):
            put(arena, n)
        with pytest.raises(FeedOverrunError):
            next(feed)
    Arena.unlink(name)


@in_test_builds
def test_a_watch_ends_when_the_journal_stops(name: str, folder: str) -> None:
    """After what is on the disk."""
    with Arena.open(name, "4 MiB", journal=folder) as arena:
        put(arena, 1)
        asyncio.run(arena.durable())
        first = arena.history.newest
        put(arena, 2)
        asyncio.run(arena.durable())
        watch = arena.history.watch("root['n']", after=first)
        stop(arena)
        assert next(watch).commit.seq == first + 1

        async def main() -> None:
            async for _ in watch:
                raise AssertionError("what is not on the disk was told")

        with pytest.raises(JournalError, match="has stopped"):
            asyncio.run(asyncio.wait_for(main(), 30))
        with pytest.raises(StopIteration):
            next(watch)
    Arena.unlink(name)


def test_beside_a_server_a_last_batch_is_held_back(name: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given when one is behind it, or when it has been as it is for a while."""
    monkeypatch.setattr(followed, "_SETTLED", 3600.0)
    with Arena.open(name, "4 MiB", journal=folder) as arena:
        put(arena, 1)
        asyncio.run(arena.durable())
        line = Line(Folder(folder))
        follower = Follower(Folder(folder), line, line.keyframes[0].position)
        assert not list(follower.batches())
        assert not follower.holds
        put(arena, 2)
        asyncio.run(arena.durable())
        assert len(list(follower.batches())) == 1
        assert not list(follower.batches())
        monkeypatch.setattr(followed, "_SETTLED", 0.0)
        follower._held = None
        assert len(list(follower.batches())) == 1
    Arena.unlink(name)


def test_a_last_batch_that_was_written_again_is_read_again(name: str, folder: str, tmp_path: Path) -> None:
    """A flush that fails for want of room is done once more, with more in it: who has read the first goes on with what is new."""
    with Arena.open(name, "4 MiB", journal=folder) as arena:
        put(arena, 1)
        asyncio.run(arena.durable())
        path = Path(Folder(folder).file_path(1))
        first = path.read_bytes()
        line = Line(Folder(folder))
        begin = line.keyframes[0].position
        put(arena, 2)
        asyncio.run(arena.durable())
        short = path.read_bytes()
    Arena.unlink(name)
    with Folder(folder).open_file(1) as file:
        last = [batch for batch in iter(file.next, None) if batch.records][-1]
    long = longer(short, last.offset)
    copy = tmp_path / "copy"
    copy.mkdir()
    for each in Folder(folder).snapshots():
        os.link(Folder(folder).snapshot_path(each), f"{copy}/snapshot-{each:016x}")
    target = Path(Folder(copy).file_path(1))
    target.write_bytes(first)
    old = time.time() - 100

    def look() -> list[tuple[int, int]]:
        os.utime(target, (old, old))
        return [(batch.position, batch.end) for batch, _ in follower.batches()]

    follower = Follower(Folder(copy), Line(Folder(copy)), begin)
    found = look()
    target.write_bytes(short)
    found += look()
    end = follower.position
    target.write_bytes(long)
    (again,) = look()
    assert again[0] < end < again[1]
    assert again[0] == found[-1][0]
    with History.open(copy) as history:
        assert history.newest >= 2


def longer(file: bytes, offset: int) -> bytes:
    """Return a file whose batch at that offset has its records twice."""
    _, _, number, at, length, position, seq, when, records, chain = _BATCH.unpack_from(file, offset)
    data = file[offset + _BATCH.size : offset + _BATCH.size + length] * 2
    head = _BATCH.pack(_MARK, 0, number, at, 2 * length, position, seq, when, 2 * records, chain)
    crc = native_journal.crc32c(native_journal.crc32c(0, head[8:]), data)
    batch = head[:4] + crc.to_bytes(4, "little") + head[8:] + data
    return file[:offset] + batch + file[offset + len(batch) :]
