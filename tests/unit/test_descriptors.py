"""Numbers that the program closes while the library has them, and has again for files of its own, are left to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, _descriptors
from recoverable.journal.folder import Folder


def taken(number: int, path: Path) -> None:
    """Close it, and have it for another file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.dup2(fd, number)
    os.close(fd)


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """Give a file with something in it."""
    path = tmp_path / "ours"
    path.write_text("ours")
    return path


def test_what_is_anothers_by_now_is_not_closed(ours: Path, tmp_path: Path) -> None:
    """It was closed in the block, and its number given out again."""
    with _descriptors.opened(str(ours), os.O_RDONLY) as fd:
        taken(fd, tmp_path / "theirs")
    assert os.fstat(fd).st_ino == (tmp_path / "theirs").stat().st_ino
    os.close(fd)
    with _descriptors.opened(str(ours), os.O_RDONLY) as fd:
        os.close(fd)


def test_a_number_that_is_anothers_before_it_is_looked_at(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread has had the time for that when open() has returned."""
    lost: list[int] = []

    def slow(*args: Any, **options: Any) -> int:
        fd = opened(*args, **options)
        if not lost:
            lost.append(fd)
            taken(fd, tmp_path / "theirs")
        return fd

    opened = os.open
    monkeypatch.setattr(os, "open", slow)
    block = _descriptors.opened(str(ours), os.O_RDONLY)
    fd = block.__enter__()
    monkeypatch.undo()
    assert fd != lost[0]
    assert os.read(fd, 4) == b"ours"
    block.__exit__(None, None, None)
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(fd)
    assert os.fstat(lost[0]).st_ino == (tmp_path / "theirs").stat().st_ino
    os.close(lost[0])


def test_a_file_that_is_removed_meanwhile_can_be_read(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compaction drops what others look at."""
    opened = os.open

    def removed(*args: Any, **options: Any) -> int:
        fd = opened(*args, **options)
        ours.unlink()
        return fd

    monkeypatch.setattr(os, "open", removed)
    with _descriptors.opened(str(ours), os.O_RDONLY) as fd:
        assert os.read(fd, 4) == b"ours"
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(fd)


def test_a_file_that_is_replaced_meanwhile_is_closed(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new one is opened, and the old one does not stay open."""
    opened = os.open

    def replaced(*args: Any, **options: Any) -> int:
        fd = opened(*args, **options)
        monkeypatch.setattr(os, "open", opened)
        (ours.parent / "new").write_text("new!")
        (ours.parent / "new").rename(ours)
        return fd

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(os, "open", replaced)
    with _descriptors.opened(str(ours), os.O_RDONLY) as fd:
        assert os.read(fd, 4) == b"new!"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_of_commits_is_read_on(new_name: Any, folder: str, tmp_path: Path) -> None:
    """It is opened again by its name; what has its number goes on being the program's."""
    with Arena.temporary("4 MiB", name=new_name(), journal=folder) as arena:
        for n in range(3):
            with arena.transaction():
                arena.root["n"] = n
            asyncio.run(arena.durable())
    found = Folder(folder)
    with found.open_file(found.files()[-1]) as file:
        numbers = [int(fd.name) for fd in Path("/proc/self/fd").iterdir() if _leads_to(fd, f"{folder}/journal-")]
        assert len(numbers) == 1
        taken(numbers[0], tmp_path / "theirs")
        batches = 0
        while file.next() is not None:
            batches += 1
    assert batches >= 3
    assert os.fstat(numbers[0]).st_ino == (tmp_path / "theirs").stat().st_ino
    os.close(numbers[0])


def _leads_to(fd: Path, path: str) -> bool:
    with contextlib.suppress(OSError):
        return str(fd.readlink()).startswith(path)
    return False
