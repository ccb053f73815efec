"""Whoever goes on where another was: what that one has written is durable when it is on the disk, and not when it can be read."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, InDoubtError
from recoverable._native import _switches
from recoverable._native import journal as native_journal
from recoverable.errors import JournalError
from recoverable.journal import attach, keeper
from recoverable.journal.folder import Folder
from recoverable.journal.gate import Gate
from support.children import child

in_test_builds = pytest.mark.skipif(not _switches.test_build(), reason="needs -Dcrashpoints=true")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Give the folder of a journal."""
    return Folder(tmp_path / "journal", create=True)


def killed_before_its_flush(name: str, folder: Folder) -> None:
    """Commit 1, which is durable, and 2, with a writer that is killed when that is in the file and not on the disk."""

    def serve() -> None:
        arena = Arena.open(name, "4 MiB", journal=folder.path)
        with arena.transaction():
            arena.root["n"] = 1
        asyncio.run(arena.durable())
        _switches.crash_only("journal.written")
        _switches.crash_at(1)
        with arena.transaction():
            arena.root["n"] = 2
        asyncio.run(arena.durable())

    with child(serve):
        pass


def gates(monkeypatch: pytest.MonkeyPatch, before: Any) -> None:
    """Have something called with each arena that is opened with a journal, before the thread that writes begins."""

    def gate(native: Any, name: str, path: str, lock: Any) -> Gate:
        before(native)
        return Gate(native, name, path, lock)

    monkeypatch.setattr(attach, "Gate", gate)


@pytest.mark.crash
@in_test_builds
def test_what_is_in_the_file_is_durable_when_the_disk_has_taken_it(
    name: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who wait for a commit that a killed writer has left in the file are not answered before it is flushed."""
    killed_before_its_flush(name, folder)
    tip = folder.tip()
    assert tip is not None
    seen: list[int] = []
    gates(monkeypatch, lambda native: seen.append(native_journal.durable(native)))
    with Arena.open(name, journal=folder.path) as arena:
        assert seen[0] < tip.position
        asyncio.run(arena.durable())
        assert arena.root["n"] == 2
    Arena.unlink(name)
    with Arena.open(name, journal=folder.path) as arena:
        assert arena.root["n"] == 2
    Arena.unlink(name)


@pytest.mark.crash
@in_test_builds
def test_a_disk_that_does_not_take_it(name: str, folder: Folder) -> None:
    """Whoever goes on is told so, and stops; the start after that begins behind what was durable, not behind what can be read."""
    killed_before_its_flush(name, folder)
    tip = folder.tip()
    assert tip is not None
    _switches.fail_at(_switches.FAIL_SYNC, 1)
    with Arena.open(name, journal=folder.path) as arena:
        with pytest.raises(InDoubtError):
            asyncio.run(arena.durable())
        assert native_journal.durable(arena._segment.native) < tip.position
    with Arena.open(name, journal=folder.path) as arena:
        asyncio.run(arena.durable())
        assert arena.root["n"] == 2
    starts = folder.starts()
    assert len(starts) == 2
    assert starts[1].position < tip.position
    Arena.unlink(name)
    with Arena.open(name, journal=folder.path) as arena:
        assert arena.root["n"] == 2
    Arena.unlink(name)


@pytest.mark.crash
@in_test_builds
def test_a_restore_begins_nothing_behind_what_the_disk_does_not_take(name: str, folder: Folder) -> None:
    """Its file would be behind a batch that a power loss takes; without the power loss, the next try finds it all."""
    killed_before_its_flush(name, folder)
    Arena.unlink(name)
    _switches.fail_at(_switches.FAIL_SYNC, 1)
    with pytest.raises(JournalError, match=r"flushing.*Nothing was opened"):
        Arena.open(name, journal=folder.path)
    assert folder.files() == [1]
    assert not os.path.exists(f"/dev/shm/recoverable.{name}")  # noqa: PTH110
    with Arena.open(name, journal=folder.path) as arena:
        assert arena.root["n"] == 2
    Arena.unlink(name)


def test_one_that_fails_before_its_first_batch_is_seen(
    name: str, folder: Folder, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its events, in `stats()`, and by those who ask for a commit that the feed no longer has."""
    monkeypatch.setattr(keeper, "_LOOK", 0.01)
    with Arena.open(name, "4 MiB", journal=folder.path, feed="64 KiB") as arena, arena.transaction():
        arena.root["n"] = 0
    aside = f"{folder.path}.aside"
    gates(monkeypatch, lambda _: Path(folder.path).rename(aside))
    Arena.unlink(name)
    with Arena.open(name, journal=folder.path, busy_timeout=0.2) as arena:
        with arena.transaction():
            arena.root["n"] = 1
        with pytest.raises(InDoubtError):
            asyncio.run(arena.durable())
        feed = arena.stats().feed
        assert feed is not None
        assert feed.flushes is not None
        assert feed.flushes.stopped
        assert [each["event"] for each in log].count("journal.stopped") == 1
        for i in range(200):
            with arena.transaction():
                arena.root["n"] = "x" * 20_000 + str(i)
        with pytest.raises(InDoubtError):
            asyncio.run(arena.durable(feed.seq))
    Arena.unlink(name)
