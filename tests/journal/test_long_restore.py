"""Restores that take long, or can't be done for want of memory: what is told meanwhile, and who waits for them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, ArenaBusyError, ArenaFullError, _shm
from recoverable._native import _switches
from recoverable.cli import _outside
from recoverable.journal import folder as folders
from recoverable.journal import start, watched
from support.children import child

SLOW = 1.2  # seconds that a restore is held up for


@pytest.fixture
def folder(name: str, tmp_path: Path) -> str:
    """Give a journal whose arena is no longer in shared memory."""
    path = str(tmp_path / "journal")
    with Arena.open(name, "4 MiB", journal=path) as arena:
        for i in range(50):
            with arena.transaction():
                arena.root[f"k{i}"] = "x" * 100
    Arena.unlink(name)
    return path


def restoring(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events that say how far a restore is."""
    return [event for event in log if event["event"] == "journal.restoring"]


def restore_slowly(name: str, folder: str, begun: int, how_long: float, end: int | None = None) -> None:
    """Open an arena whose state is being copied for so long; write to `begun` when that begins, and close it when `end` says so."""
    real = start.replay

    def slow(*args: Any, **options: Any) -> Any:
        os.write(begun, b".")
        until = time.monotonic() + how_long
        while time.monotonic() < until:
            time.sleep(0.02)
            options["progress"](1, 2, "replayed")
        return real(*args, **options)

    start.replay = slow
    with Arena.open(name, journal=folder):
        if end is not None:
            os.read(end, 1)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have progress told each time, and marks grow old in 0.6 s."""
    for constant in "_FIRST", "_NEXT", "_TOUCHED":
        monkeypatch.setattr(watched, constant, 0.0)
    monkeypatch.setattr(folders, "_FRESH", 0.6)


@pytest.mark.usefixtures("fast")
def test_it_says_how_far_it_is(name: str, folder: str, log: list[dict[str, Any]]) -> None:
    """First what is copied of the snapshot, then what is replayed."""
    with Arena.open(name, journal=folder):
        pass
    told = restoring(log)
    assert [event["doing"] for event in told] == sorted(event["doing"] for event in told)
    assert {event["doing"] for event in told} == {"copied", "replayed"}
    assert all(event["bytes"] > 0 and event["journal"] == folder for event in told)


def test_a_short_one_says_nothing(name: str, folder: str, log: list[dict[str, Any]]) -> None:
    """What takes less than a second is told when it is done."""
    with Arena.open(name, journal=folder):
        pass
    assert not restoring(log)


@pytest.mark.slow
@pytest.mark.usefixtures("fast")
def test_who_starts_meanwhile_waits_for_it(name: str, folder: str, log: list[dict[str, Any]]) -> None:
    """However long it takes, as long as it goes on; `busy_timeout` is for those that don't."""
    reader, writer = os.pipe()
    with child(lambda: restore_slowly(name, folder, writer, SLOW)):
        os.read(reader, 1)
        began = time.monotonic()
        with Arena.open(name, journal=folder, busy_timeout=0.2) as arena:
            assert time.monotonic() - began > 0.8 * SLOW
            assert len(arena.root) == 50
    assert {event["doing"] for event in restoring(log)} == {"waited for"}
    assert not [event for event in log if event["event"] == "journal.restored"]


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.usefixtures("fast")
def test_one_that_was_killed_is_done_again(name: str, folder: str, log: list[dict[str, Any]]) -> None:
    """By who waits for it, and at once."""
    reader, writer = os.pipe()
    with child(lambda: restore_slowly(name, folder, writer, 60)) as pid:
        os.read(reader, 1)
        os.kill(pid, signal.SIGKILL)
        with Arena.open(name, journal=folder, busy_timeout=5) as arena:
            assert len(arena.root) == 50
    assert [event for event in log if event["event"] == "journal.restored"]
    assert not Path(watched.half_made(name)).exists()


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.usefixtures("fast")
def test_one_that_stands_still_is_not_waited_for(name: str, folder: str) -> None:
    """Its mark grows old: who waits gives up, and says so."""
    reader, writer = os.pipe()
    with child(lambda: restore_slowly(name, folder, writer, SLOW)) as pid:
        os.read(reader, 1)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(ArenaBusyError, match="opening or unlinking"):
                Arena.open(name, journal=folder, busy_timeout=0.1)
        finally:
            os.kill(pid, signal.SIGCONT)


def hold(name: str, ready: int) -> None:
    """Hold the file lock of the arena's object, and do nothing."""
    with _shm.locked(name, create=True, timeout=1):
        os.write(ready, b".")
        time.sleep(60)


def test_what_was_left_behind_is_not_waited_for(name: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot whose maker was killed does not move, even where a server goes on writing to the folder."""
    monkeypatch.setattr(watched, "_NEXT", 0.1)
    monkeypatch.setattr(watched, "_STILL", 0.3, raising=False)
    monkeypatch.setattr(folders.Folder, "marked", True)
    Path(folder, "snapshot.new").write_bytes(b"x")
    reader, writer = os.pipe()
    with child(lambda: hold(name, writer)) as pid:
        os.read(reader, 1)
        with pytest.raises(ArenaBusyError, match="opening or unlinking"):
            Arena.open(name, journal=folder, busy_timeout=0)
        os.kill(pid, signal.SIGKILL)


def test_what_was_left_behind_goes(name: str, folder: str) -> None:
    """By whoever restores, who alone may write there."""
    Path(folder, "snapshot.new").write_bytes(b"x")
    with Arena.open(name, journal=folder):
        assert not Path(folder, "snapshot.new").exists()


@pytest.mark.slow
def test_who_does_not_want_to_wait_waits_without_a_storm(name: str, folder: str, log: list[dict[str, Any]]) -> None:
    """It is told once in five seconds, not once in a turn of a loop."""
    reader, writer = os.pipe()
    end, over = os.pipe()
    with child(lambda: restore_slowly(name, folder, writer, SLOW, end)):
        os.read(reader, 1)
        try:
            with Arena.open(name, journal=folder, busy_timeout=0):
                pass
        finally:
            os.write(over, b".")
    assert len(restoring(log)) == 1


def test_it_is_seen_to_go_on_while_memory_is_claimed(name: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may take seconds, in one call."""
    seen = set()
    half = Path(watched.half_made(name))

    class Slow(start.Restore):
        def back(self) -> None:
            super().back()
            until = time.monotonic() + 1
            while time.monotonic() < until:
                time.sleep(0.02)
                seen.add(half.stat().st_mtime_ns)

    monkeypatch.setattr(watched, "_TOUCHED", 0.05)
    monkeypatch.setattr(start, "Restore", Slow)
    with Arena.open(name, journal=folder):
        pass
    assert len(seen) > 5


def test_all_that_it_has_claimed_is_backed_by_memory(name: str, folder: str) -> None:
    """A snapshot is sparse, and a store into a hole of a full /dev/shm would be a SIGBUS."""
    with Arena.open(name, journal=folder), _outside.opened(name) as fd:
        wanted = sum(length for _, length in _outside.peek_fd(fd, name).backed)
        assert os.fstat(fd).st_blocks * 512 >= wanted


def test_where_there_is_no_room_nothing_is_made(name: str, folder: str) -> None:
    """The error is ours, and the next start is as if that had not been."""
    _switches.fail_at(_switches.FAIL_FALLOCATE, 1)
    try:
        with pytest.raises(ArenaFullError):
            Arena.open(name, journal=folder)
    finally:
        _switches.fail_at(_switches.FAIL_FALLOCATE, 0)
    assert not list(Path("/dev/shm").glob(f"recoverable.{name}~*"))
    with Arena.open(name, journal=folder) as arena:
        assert len(arena.root) == 50
