"""A start that finds the arena in memory, and a journal that nobody could restore: what it says is durable can be, all the same."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena
from recoverable._native import journal as native_journal
from recoverable.journal.compact import compact
from recoverable.journal.folder import Folder

LARGE = 9000  # bytes: a file takes six of them


@pytest.fixture(autouse=True)
def smaller_files(small_files: None) -> None:
    """Have files of 64 KiB made."""
    native_journal.file_size(64 * 1024)


def opened(name: str, folder: str) -> Arena:
    """Open the arena, or restore it."""
    return Arena.open(name, "8 MiB", journal=folder, feed="1 MiB", durable="disk", compact=False)


def work(arena: Arena, times: int, batch: int = 1) -> int:
    """Commit so often, some at a time on the disk, and return how often that was in all."""
    for i in range(1, times + 1):
        with arena.transaction():
            arena.root["n"] = arena.root.get("n", 0) + 1
            arena.root["large"] = os.urandom(LARGE // batch)
        if i % batch == 0:
            asyncio.run(arena.durable())
    return int(arena.root["n"])


def flip(path: str, offset: int) -> None:
    """Change a byte of a file; a negative offset is from its end."""
    with Path(path).open("r+b") as file:
        file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        at = file.tell()
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def _head(journal: Folder, number: int) -> None:
    flip(journal.file_path(number), 20)
    flip(journal.file_path(number), 4120)


def _loop(path: str) -> None:
    Path(path).unlink()
    Path(path).symlink_to(path)


DAMAGE: dict[str, tuple[Callable[[Folder], Any], str]] = {
    "first file gone": (lambda journal: Path(journal.file_path(1)).unlink(), "lacks the commits"),
    "a file gone": (lambda journal: Path(journal.file_path(2)).unlink(), "before file 3 one is missing"),
    "a head": (lambda journal: _head(journal, 2), "journal-0*2"),
    "no snapshot": (lambda journal: Path(journal.snapshot_path(journal.snapshots()[0])).unlink(), "has no snapshot"),
    "a snapshot that can't be opened": (
        lambda journal: _loop(journal.snapshot_path(journal.snapshots()[0])),
        "can't be opened",
    ),
    "its page": (lambda journal: flip(journal.snapshot_path(journal.snapshots()[0]), -50), "snapshot.*damaged"),
}


@pytest.mark.parametrize(
    ("what", "more"), [*((what, True) for what in DAMAGE), ("a file gone", False), ("its page", False)]
)
def test_what_it_says_is_durable_can_be_restored(
    name: str, folder: str, log: list[dict[str, Any]], what: str, more: bool
) -> None:
    """Files and snapshots are lost while no server runs: it says so, once, and begins with a snapshot of memory."""
    with opened(name, folder) as arena:
        work(arena, 20)
    journal = Folder(folder)
    assert len(journal.files()) > 2
    damage, told = DAMAGE[what]
    damage(journal)
    for start in range(2):
        with opened(name, folder) as arena:
            expected = work(arena, 3 if more else 0)
        found = [event["detail"] for event in log if event["event"] == "journal.damaged"]
        assert len(found) == 1, start
    assert re.search(told, found[0])
    Arena.unlink(name)
    with opened(name, folder) as arena:
        assert arena.root["n"] == expected
        arena.verify()
    Arena.unlink(name)


@pytest.mark.parametrize("batch", [1, 5])
def test_what_nobody_needs_changes_nothing(
    name: str, folder: str, log: list[dict[str, Any]], ask: Callable[..., Any], batch: int
) -> None:
    """A damaged head before the snapshot, and a file that is gone where a restore has gone back behind it; into a batch, too."""
    with opened(name, folder) as arena:
        work(arena, 40)
    journal = Folder(folder)
    compact(journal, lambda fd: None)
    with opened(name, folder) as arena:
        work(arena, 20 * batch, batch)
    Arena.unlink(name)
    _head(journal, 2)
    files = journal.files()
    Path(journal.file_path(files[-2])).unlink()
    to = journal.start_of(files[-3]).seq + 2
    code, _, err = ask("restore", "--to", str(to), "--name", name, folder)
    assert code == 0, err
    snapshots, log[:] = journal.snapshots(), []
    with opened(name, folder) as arena:
        expected = work(arena, 3)
    assert journal.snapshots() == snapshots
    assert not [event for event in log if event["event"] == "journal.damaged"]
    Arena.unlink(name)
    with opened(name, folder) as arena:
        assert arena.root["n"] == expected
    Arena.unlink(name)
