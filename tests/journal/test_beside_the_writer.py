"""A file that is read while a server writes to it: what comes meanwhile is no damage, and what is damage is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from recoverable import Arena, ArenaCorruptError
from recoverable._native import journal as native_journal
from recoverable.journal.folder import Folder

MUCH = 3 << 20  # bytes: more than what is read of a file together


def put(arena: Arena, value: object) -> None:
    """Commit once, in a batch of its own."""
    with arena.transaction():
        arena.root["n"] = value
    asyncio.run(arena.durable())


def test_what_is_written_after_the_end_was_seen(new_name: Callable[[], str], tmp_path: Path) -> None:
    """The rest of the file is searched after no batch was found: one that was written since is the next, and not behind damage."""
    native_journal.file_size(16 << 20)
    options = {"feed": "16 MiB", "journal": tmp_path / "journal", "compact": False}
    with Arena.temporary("64 MiB", name=new_name(), **options) as arena:
        put(arena, 0)
        folder = Folder(tmp_path / "journal")
        with folder.open_file(1) as file:
            while (last := file.next(tail=True)) is not None:
                seq = last.seq
            put(arena, b"x" * MUCH)
            put(arena, 2)
            found = []
            while (batch := file.next()) is not None:
                found.append(batch.seq)
        assert len(found) == 2
        assert found[0] > seq
    path = tmp_path / "journal" / "journal-0000000000000001"
    with path.open("r+b") as damaged:
        damaged.seek(batch_offset := 4096)
        damaged.write(b"damage!!")
    with folder.open_file(1) as file, pytest.raises(ArenaCorruptError, match=f"damaged at offset {batch_offset}"):
        while file.next() is not None:
            pass


def test_the_tail_of_a_file(new_name: Callable[[], str], tmp_path: Path) -> None:
    """Whoever follows it goes on behind the batch that was read before, by another handle."""
    with Arena.temporary("64 MiB", name=new_name(), journal=tmp_path / "journal", compact=False) as arena:
        put(arena, 0)
        folder = Folder(tmp_path / "journal")
        with folder.open_file(1) as file:
            while (batch := file.next(tail=True)) is not None:
                last = batch
            offset = file.offset
            put(arena, 1)
        with folder.open_file(1) as file:
            file.go_on(offset, last.end, last.chain)
            behind = file.next(tail=True)
        assert behind is not None
        assert (behind.position, behind.seq > last.seq) == (last.end, True)
