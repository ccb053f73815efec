"""A journal whose folder is moved or removed under a running server: it says so, and promises nothing any more."""

from __future__ import annotations

import asyncio
import ctypes
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, InDoubtError
from recoverable.journal import keeper


def _move(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def _move_above(folder: Path) -> None:
    folder.parent.rename(folder.parent.with_name("elsewhere"))


def _replace(folder: Path) -> None:
    """Leave a copy of it in its place, as a restored backup is."""
    _move(folder)
    shutil.copytree(folder.with_name("elsewhere"), folder)


def _move_file(folder: Path) -> None:
    (folder / f"journal-{1:016x}").rename(folder / "journal.aside")


def _remove(folder: Path) -> None:
    """Remove it as whoever types `rm -rf` does: once more, if the writer has made its next file in there meanwhile."""
    until = time.monotonic() + 10
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError:
            if time.monotonic() > until:
                raise


GONE = {
    "moved": _move,
    "moved with what it is in": _move_above,
    "replaced by a copy": _replace,
    "removed": _remove,
    "its file moved": _move_file,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder that does not exist yet, in one that may be moved, too."""
    (tmp_path / "lib").mkdir()
    return tmp_path / "lib" / "shop"


def put(arena: Arena, value: int) -> None:
    """Commit."""
    with arena.transaction():
        arena.root["n"] = value


@pytest.mark.parametrize("how", GONE)
def test_no_answer_is_given_for_what_lies_elsewhere(
    name: str, folder: Path, log: list[dict[str, Any]], how: str
) -> None:
    """The next commit is in doubt, and everybody who looks is told why."""
    with Arena.temporary("4 MiB", name=name, journal=folder) as arena:
        put(arena, 1)
        asyncio.run(arena.durable())
        GONE[how](folder)
        put(arena, 2)
        with pytest.raises(InDoubtError, match="moved or removed"):
            asyncio.run(arena.durable(timeout=5))
        flushes = arena.stats().feed.flushes
        assert "moved or removed" in flushes.stopped
        assert arena.root["n"] == 2
    (told,) = (event for event in log if event["event"] == "journal.stopped")
    assert "moved or removed" in told["detail"]


@pytest.mark.slow
@pytest.mark.parametrize("how", GONE)
def test_an_idle_server_says_so(
    name: str, folder: Path, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Nobody commits, so that nothing is written: what was on the disk may be gone all the same."""
    monkeypatch.setattr(keeper, "_LOOK", 0.01)
    with Arena.temporary("4 MiB", name=name, journal=folder) as arena:
        put(arena, 1)
        asyncio.run(arena.durable())
        GONE[how](folder)
        until = time.monotonic() + 10
        while not any(event["event"] == "journal.stopped" for event in log) and time.monotonic() < until:
            time.sleep(0.01)
        (told,) = (event for event in log if event["event"] == "journal.stopped")
        assert "moved or removed" in told["detail"]
        put(arena, 2)
        with pytest.raises(InDoubtError, match="moved or removed"):
            asyncio.run(arena.durable(timeout=5))


def _symlink(folder: Path) -> None:
    """Put a link in its place, in one step: whoever looks in between two would find nothing there."""
    elsewhere = folder.with_name("elsewhere")
    elsewhere.symlink_to(elsewhere)
    exchange = 2
    assert ctypes.CDLL(None).renameat2(-100, bytes(folder), -100, bytes(elsewhere), ctypes.c_uint(exchange)) == 0


def _not_at_all(_: Path) -> None:
    pass


@pytest.mark.parametrize("how", [_symlink, _not_at_all], ids=["link", "same"])
def test_what_the_path_still_leads_to_is_no_other(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, how: Callable[[Path], None]
) -> None:
    """A folder that has a link in its place goes on."""
    monkeypatch.setattr(keeper, "_LOOK", 0.01)
    with Arena.temporary("4 MiB", name=name, journal=folder) as arena:
        put(arena, 1)
        how(folder)
        time.sleep(0.1)
        put(arena, 2)
        asyncio.run(arena.durable(timeout=5))


@pytest.mark.parametrize("back", [True, False])
def test_the_next_start_goes_on(name: str, folder: Path, back: bool) -> None:
    """Moved back, the folder gets what is missing; without it a new one begins with what is in memory."""
    with Arena.open(name, "4 MiB", journal=folder) as arena:
        put(arena, 1)
        asyncio.run(arena.durable())
        _move(folder)
        put(arena, 2)
        with pytest.raises(InDoubtError):
            asyncio.run(arena.durable(timeout=5))
        put(arena, 3)
    if back:
        folder.with_name("elsewhere").rename(folder)
    with Arena.open(name, journal=folder) as arena:
        put(arena, 4)
        asyncio.run(arena.durable(timeout=5))
    Arena.unlink(name)
    with Arena.open(name, journal=folder) as arena:
        assert arena.root["n"] == 4
    Arena.unlink(name)
