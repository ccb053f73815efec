"""The first snapshot of a journal, of an arena in which others are at work: they go on, and it is a state that there was."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena
from recoverable._native import journal as native_journal
from recoverable._native.feed import Restore
from recoverable.arena import open_copy
from recoverable.errors import ArenaFullError, ArenaSystemError, JournalError, StaleReferenceError
from recoverable.journal import attach, first, snapshots
from recoverable.journal.folder import Folder
from support import operations
from support.children import child

ROUNDS = int(os.environ.get("RECOVERABLE_SNAPSHOTS", "8"))


def state_of(path: str) -> dict[str, Any]:
    """Return what lies in a snapshot, all of which is sound."""
    copy = os.memfd_create("copy", os.MFD_CLOEXEC)
    with open(path, "rb") as file:  # noqa: PTH123
        snapshot = snapshots.read(path, file.fileno())
        snapshots.copy(snapshot, file.fileno(), copy)
    restore = Restore(copy, "copy")
    restore.back()
    restore.finish(snapshot.position, snapshot.epoch)
    restore.close()
    try:
        with open_copy("copy", copy) as arena:
            assert arena.verify().leaked_blocks == 0
            with arena.transaction():
                arena.root["seen"] = True
            assert arena.stats().feed.seq > snapshot.seq
            return operations.look(arena.root) | {"more": arena.root["more"].to_python()}
    finally:
        os.close(copy)


@pytest.mark.parametrize("tracking", ["hybrid", "trap"])
def test_it_is_a_state_that_there_was(
    new_name: Any, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, tracking: str
) -> None:
    """Whatever is committed between two slices: new blocks, freed ones, larger tables, raw writes, what was zero and is again."""
    rng = random.Random(seed)
    real = native_journal.snapshot_read
    monkeypatch.setattr(first, "_SLICE", 16 * 1024)
    monkeypatch.setattr(first, "_ZEROS", bytes(16 * 1024))
    for round_ in range(ROUNDS):
        name = new_name()
        with Arena.open(name, "8 MiB", feed="1 MiB", tracking=tracking) as arena:
            operations.fill(arena)
            with arena.transaction():
                arena.root["more"] = {i: bytes([i % 255]) * rng.randrange(2000) for i in range(rng.randrange(500))}
            chosen = operations.Dice(rng)

            def meanwhile(
                native: Any, at: int, size: int, to: bytearray, arena: Arena = arena, chosen: Any = chosen
            ) -> None:
                real(native, at, size, to)
                for _ in range(rng.randrange(4)):
                    with arena.transaction():
                        for each in chosen.operations(5):
                            operations.run(each, arena.root, arena)
                        key = rng.randrange(500)
                        if rng.random() < 0.4:
                            arena.root["more"].pop(key, None)
                        else:
                            arena.root["more"][key] = bytes([rng.choice((0, 7))]) * rng.randrange(5000)

            monkeypatch.setattr(native_journal, "snapshot_read", meanwhile)
            (tmp_path / str(round_)).mkdir()
            taken = first.take(Folder(tmp_path / str(round_)), arena.native, 0)
            expected = operations.look(arena.root) | {"more": arena.root["more"].to_python()}
            assert taken.seq == arena.stats().feed.seq
        assert state_of(Folder(tmp_path / str(round_)).snapshot_path(taken.position)) == expected
        Arena.unlink(name)


@pytest.mark.parametrize("tries", [2, 3])
def test_where_the_feed_is_faster_it_is_begun_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    """And at last made at once."""
    real, begun = native_journal.snapshot_begin, 0

    def begin(native: Any) -> Any:
        nonlocal begun
        begun += 1
        found = real(native)
        if begun <= tries:
            for i in range(1000):
                with arena.transaction():
                    arena.root[f"k{i}"] = f"{begun}" * 1000
        return found

    with Arena.open(name, "8 MiB", feed="64 KiB") as arena:
        operations.fill(arena)
        with arena.transaction():
            arena.root["more"] = {}
        monkeypatch.setattr(native_journal, "snapshot_begin", begin)
        taken = first.take(Folder(tmp_path), arena.native, 0)
        expected = operations.look(arena.root) | {"more": {}}
    assert begun == tries + 1
    assert state_of(Folder(tmp_path).snapshot_path(taken.position)) == expected
    Arena.unlink(name)


def _works(name: str, ready: int) -> None:
    with Arena.open(name) as arena:
        i = 0
        while True:
            with arena.transaction():
                arena.root["n"] = i
                arena.root["more"][i % 100] = i
                if i % 100 == 50:
                    arena.root["more"].clear()
            i += 1
            if i == 10:
                os.write(ready, b".")


def test_others_commit_while_it_is_made(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits until 32 MiB are copied; and what they commit meanwhile, and until they are killed, is all there."""
    real, begun = native_journal.snapshot_begin, []
    ready, writer = os.pipe()
    arena = Arena.open(name, "64 MiB", feed="16 MiB")
    for i in range(32):
        with arena.transaction():
            arena.root[f"b{i}"] = [os.urandom(65_536) for _ in range(16)]
    with arena.transaction():
        arena.root["more"] = {}
    arena.close()
    with child(lambda: _works(name, writer)) as pid, child(lambda: _works(name, writer)) as other:
        os.read(ready, 1)
        os.read(ready, 1)
        monkeypatch.setattr(native_journal, "snapshot_begin", lambda native: begun.append(real(native)) or begun[-1])
        arena = Arena.open(name, journal=tmp_path / "journal")
        folder = Folder(tmp_path / "journal")
        with open(folder.snapshot_path(folder.snapshots()[-1]), "rb") as file:  # noqa: PTH123
            taken = snapshots.read("", file.fileno())
        assert taken.seq - begun[-1][0][5] > 200
        for each in pid, other:
            os.kill(each, signal.SIGKILL)
    for fd in ready, writer:
        os.close(fd)
    assert arena.root["n"] > 0
    asyncio.run(arena.durable())
    arena.verify()
    state = {key: value for key, value in arena.root.to_python().items() if key[0] != "b"}
    arena.close()
    Arena.unlink(name)
    with Arena.open(name, journal=tmp_path / "journal") as arena:
        assert arena.verify().leaked_blocks == 0
        assert {key: value for key, value in arena.root.to_python().items() if key[0] != "b"} == state
    Arena.unlink(name)


def test_a_checksum_is_that_of_the_file_however_it_came_about(tmp_path: Path, seed: int) -> None:
    """Pieces that are written to again, become zeros, or are the last one, which is shorter."""
    rng = random.Random(seed)
    for size in 4096, 256 * 1024, 5 * 256 * 1024 + 8192, 9 * 256 * 1024:
        with open(tmp_path / "file", "w+b", buffering=0) as file:  # noqa: PTH123
            file.truncate(size)
            sums = snapshots.Sums(file.fileno(), size)
            assert sums.total() == snapshots.checksum(file.fileno(), size) == 0
            for _ in range(20):
                at = rng.randrange(size)
                data = rng.choice((bytes(size), rng.randbytes(300_000)))[: size - at]
                os.pwrite(file.fileno(), data, at)
                sums.touch(at, len(data))
                if rng.random() < 0.5:
                    assert sum(sums.read()) > 0
                    assert sums.total() == snapshots.checksum(file.fileno(), size)


@pytest.fixture
def busy(name: str) -> Iterator[Arena]:
    """Give an arena of more than 30 pieces, whose feed has room for little."""
    with Arena.open(name, "16 MiB", feed="64 KiB") as arena:
        operations.fill(arena)
        for i in range(40):
            with arena.transaction():
                arena.root[f"b{i}"] = [os.urandom(8192) for _ in range(30)]
                arena.root["more"] = {}
        for i in range(40):
            with arena.transaction():
                arena.root[f"b{i}"] = None
        for i in range(8):
            with arena.transaction():
                arena.root[f"c{i}"] = os.urandom(1000)
        yield arena
    Arena.unlink(name)


def test_the_feed_goes_on_while_it_gets_its_checksum(
    busy: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others commit 16 KiB for each 256 KiB that are read: all in all more than the feed holds."""
    real, begin, begun, reads = os.pread, native_journal.snapshot_begin, [], 0

    def meanwhile(*args: Any) -> bytes:
        nonlocal reads
        reads += 1
        with busy.transaction():
            busy.root["c0"] = os.urandom(16_384)
        return real(*args)

    monkeypatch.setattr(native_journal, "snapshot_begin", lambda native: begun.append(1) or begin(native))
    monkeypatch.setattr(os, "pread", meanwhile)
    attach._begin(busy.native, Folder(tmp_path), None)
    monkeypatch.undo()
    assert reads > 20
    assert len(begun) == 1
    (position,) = Folder(tmp_path).snapshots()
    assert state_of(Folder(tmp_path).snapshot_path(position))["more"] == {}


def _faster(*_: Any) -> None:
    raise StaleReferenceError("the feed was faster")


def _full(*_: Any) -> None:
    raise ArenaFullError("no room for a file")


@pytest.mark.parametrize(
    ("fails", "how", "said"),
    [("attach", _faster, "larger feed"), ("create_file", _full, "no room for a file")],
    ids=["overrun", "full"],
)
def test_what_a_try_has_made_goes_with_it(
    busy: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, how: Any, said: str
) -> None:
    """No start would go on from there, and a full disk needs the room."""
    (tmp_path / "snapshot-0000000000000000").touch()
    monkeypatch.setattr(native_journal, fails, how)
    with pytest.raises(JournalError, match=said) as raised:
        attach._begin(busy.native, Folder(tmp_path), None)
    assert "what was written of it is removed" in str(raised.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"snapshot-0000000000000000", "spare"}


def test_a_full_disk_is_named_and_not_the_arena(busy: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is noticed: where slices are written, where commits are, or all at once."""
    real, begin = native_journal.snapshot_apply, native_journal.snapshot_begin

    def begun(native: Any) -> Any:
        found = begin(native)
        with busy.transaction():
            busy.root["c0"] = 1
        return found

    full = os.open("/dev/full", os.O_RDWR)
    monkeypatch.setattr(native_journal, "snapshot_begin", begun)
    monkeypatch.setattr(native_journal, "snapshot_apply", lambda _, *rest: real(full, *rest))
    with pytest.raises(JournalError, match=f"journal '{tmp_path}' can't be written: No space left on device"):
        first.take(Folder(tmp_path), busy.native, 0)
    with pytest.raises(ArenaSystemError, match=f'journal "{tmp_path}": writing a snapshot failed') as raised:
        native_journal.snapshot_write(busy.native, full, str(tmp_path))
    assert raised.value.errno == errno.ENOSPC
    os.close(full)
    assert not (tmp_path / "snapshot.new").exists()


def test_it_is_seen_to_go_on_while_the_next_file_is_made(
    busy: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others would give up otherwise."""
    touched = []
    monkeypatch.setattr(first, "_TOUCHED", 0.02)
    monkeypatch.setattr(Folder, "touch", lambda _: touched.append((tmp_path / "snapshot.new").stat().st_mtime_ns))
    monkeypatch.setattr(native_journal, "make_spare", lambda _: time.sleep(1))
    first.take(Folder(tmp_path), busy.native, 0)
    assert len(set(touched)) > 10


def test_other_starters_wait_for_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes, as for a restore; not for `busy_timeout`."""
    monkeypatch.setattr(first, "_TOUCHED", 0.0)
    ready, writer = os.pipe()
    with Arena.open(name, "4 MiB", feed="1 MiB") as arena, arena.transaction():
        arena.root["n"] = 1

    def slowly() -> None:
        real = native_journal.snapshot_read
        begun = time.monotonic()

        def slow(*args: Any) -> None:
            if time.monotonic() - begun < 1.0:
                os.write(writer, b".")
                time.sleep(0.2)
            real(*args)

        native_journal.snapshot_read = slow
        with Arena.open(name, journal=tmp_path / "journal"):
            pass

    with child(slowly):
        os.read(ready, 1)
        begun = time.monotonic()
        with Arena.open(name, journal=tmp_path / "journal", busy_timeout=0.1) as arena:
            assert time.monotonic() - begun > 0.3
            assert arena.root["n"] == 1
    for fd in ready, writer:
        os.close(fd)
    Arena.unlink(name)
