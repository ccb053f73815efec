"""Two hosts and one folder, where locks do not keep them apart: one of them sees the other."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, InDoubtError, feed_state
from recoverable._native import journal as native_journal
from recoverable._native.journal import Start
from recoverable.errors import JournalError
from recoverable.journal import attach, start
from recoverable.journal import folder as folders
from recoverable.journal.folder import Folder
from support.children import child


def put(arena: Arena, n: int) -> None:
    """Commit once."""
    with arena.transaction():
        arena.root["n"] = n


def test_who_writes_sees_that_another_has_gone_on(name: str, folder: str) -> None:
    """Before it tells that a batch is durable: the other one's file has cut that off."""
    with Arena.open(name, "4 MiB", journal=folder, busy_timeout=5) as arena:
        put(arena, 1)
        asyncio.run(arena.durable())
        tip = Folder(folder).tip()
        assert tip is not None
        then = tip.as_start()
        native_journal.create_file(folder, then._replace(number=then.number + 1, epoch=then.epoch + (1 << 32)))
        put(arena, 2)
        with pytest.raises(InDoubtError, match="something else writes in this folder"):
            asyncio.run(arena.durable())
        state = native_journal.state(arena.native)
        assert state is not None
        assert state.stopped == errno.EEXIST
    Arena.unlink(name)


def test_who_restores_sees_that_another_goes_on(
    name: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written after it has looked is not cut off: nothing is opened, and the file that it has begun is gone again."""
    copy = str(tmp_path / "copy")
    with Arena.open(name, "4 MiB", journal=folder) as arena:
        put(arena, 1)
        asyncio.run(arena.durable())
        shutil.copytree(folder, copy)
        put(arena, 2)
        asyncio.run(arena.durable())
        written = Path(Folder(folder).file_path(1)).read_bytes()
    Arena.unlink(name)
    Path(copy, "lock").unlink()
    real = native_journal.create_file

    def create(*arguments: Any) -> None:
        Path(Folder(copy).file_path(1)).write_bytes(written)
        real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(start.native_journal, "create_file", create)
        with pytest.raises(JournalError, match="was written to while it was restored"):
            Arena.open(name, "4 MiB", journal=copy, busy_timeout=0.1)
    assert Folder(copy).files() == [1]
    assert not Path(f"/dev/shm/recoverable.{name}").exists()
    with Arena.open(name, "4 MiB", journal=copy) as arena:
        assert arena.root["n"] == 2
    Arena.unlink(name)


@pytest.mark.parametrize("skew", [-3600, 0, 3600])
def test_a_mark_of_another_machine_counts_while_it_moves(
    name: str, folder: str, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    """Whatever the clock of the machine says that has the disk."""
    monkeypatch.setattr(folders, "_MOVES", 0.6)
    with Arena.open(name, "4 MiB", journal=folder) as arena:
        put(arena, 1)
    mark, ended = Path(folder, "lock"), threading.Event()
    mark.write_text("elsewhere/boot\n1\n")
    begun = time.time() + skew

    def touch() -> None:
        for n in range(1, 100_000):
            if ended.wait(0.01):
                return
            os.utime(mark, (begun + n, begun + n))

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(JournalError, match="written by process 1 on elsewhere/boot"):
            Arena.open(name, journal=folder, busy_timeout=0.1)
    finally:
        ended.set()
        thread.join()
    with Arena.open(name, journal=folder) as arena:  # nobody touches it any more
        assert arena.root["n"] == 1
    Arena.unlink(name)


def test_of_two_that_find_a_dead_mark_one_goes_on(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks may hold nobody up: who finds another's mark behind its own lets go."""
    monkeypatch.setattr(folders, "_MOVES", 0.3)
    Folder(folder, create=True)
    mark = Path(folder, "lock")
    mark.write_text("elsewhere/boot\n1\n")
    real = folders.Lock

    def lock(path: str) -> Any:
        taken = real(path)
        mark.write_text("third/boot\n2\n")
        return taken

    with monkeypatch.context() as patched:
        patched.setattr(folders, "Lock", lock)
        with pytest.raises(JournalError, match="written by process 2 on third/boot"):
            Folder(folder).take()
    assert mark.read_text() == "third/boot\n2\n"  # who lets go takes his own mark alone
    Folder(folder).take().release()
    assert mark.read_text() == ""


@pytest.mark.parametrize("named", [False, True])
def test_who_begins_leaves_what_another_has_made(
    name: str, folder: str, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """Its file of the same number, in which it writes, and its snapshot of the same position, too."""
    Folder(folder, create=True)
    theirs: list[Path] = []
    real = native_journal.create_file

    def create(where: str, begin: Start) -> None:
        theirs.append(Path(Folder(folder).file_path(begin.number)))
        if named:
            theirs.append(Path(Folder(folder).snapshot_path(begin.position)))
        for each in theirs:
            each.with_suffix(".new").write_bytes(b"theirs")
            each.with_suffix(".new").rename(each)
        real(where, begin)

    with Arena.open(name, "4 MiB", feed="1 MiB") as arena:
        put(arena, 1)
        with monkeypatch.context() as patched:
            patched.setattr(native_journal, "create_file", create)
            with pytest.raises(JournalError, match="File exists"):
                attach._begin(arena.native, Folder(folder), None)
        assert len(theirs) == 1 + named
        assert [each.read_bytes() for each in theirs] == [b"theirs"] * len(theirs)
        assert len(Folder(folder).snapshots()) == named
    Arena.unlink(name)


def test_a_container_that_is_started_again_does_not_wait(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has another host name, and the same kernel: its locks are as good as those of processes beside it."""
    Folder(folder, create=True)
    mark = Path(folder, "lock")
    _, boot = folders.host().split("/")
    if not boot:
        pytest.skip("this system has no boot id")
    mark.write_text(f"0123456789ab/{boot}\n7\n")

    def moves(_: Folder) -> bool:
        raise AssertionError("it waits")

    monkeypatch.setattr(Folder, "_moves", moves)
    lock = Folder(folder).take()
    assert mark.read_text().split() == [folders.host(), str(os.getpid())]
    lock.release()
    mark.write_text("0123456789ab/another\n7\n")
    with pytest.raises(AssertionError, match="it waits"):
        Folder(folder).take()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["looks", "has left its mark"])
def test_who_takes_the_folder_of_another_machine_is_waited_for(
    name: str, folder: str, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """There is nothing of a restore to be seen yet, and its time is no reason for an error in the other workers."""
    monkeypatch.setattr(folders, "_MOVES", 0.6)
    with Arena.open(name, "4 MiB", journal=folder) as arena:
        put(arena, 1)
    Arena.unlink(name)
    Path(folder, "lock").write_text("elsewhere/boot\n1\n")
    reader, writer = os.pipe()
    real_lock, real_moves = folders.Lock, Folder._moves

    def lock(path: str) -> Any:
        taken = real_lock(path)
        os.write(writer, b".")
        return taken

    def moves(folder: Folder) -> bool:
        os.write(writer, b".")
        return real_moves(folder)

    def start_first() -> None:
        if when == "looks":
            monkeypatch.setattr(Folder, "_moves", moves)
        else:
            monkeypatch.setattr(folders, "Lock", lock)
        with Arena.open(name, journal=folder, busy_timeout=5) as arena:
            assert arena.root["n"] == 1

    with child(start_first):
        os.read(reader, 1)
        with Arena.open(name, journal=folder, busy_timeout=0.1) as arena:
            assert arena.root["n"] == 1
    os.close(reader)
    os.close(writer)
    Arena.unlink(name)


def test_why_a_journal_has_stopped_is_said_in_words() -> None:
    """What is no failure of the disk does not send anybody to look at the disk."""
    for each in errno.ESTALE, errno.EEXIST:
        assert "not this arena's journal any more" in feed_state.why(each)
    assert "journal verify" in feed_state.why(errno.EUCLEAN)
    assert feed_state.why(errno.EIO) == os.strerror(errno.EIO)
    assert feed_state.why(0) == ""
