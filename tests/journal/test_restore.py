"""What comes back when shared memory is gone, and what is never used again."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, recoverable
from recoverable._native import journal as native_journal
from recoverable.errors import ArenaCorruptError, JournalError
from recoverable.journal.folder import Folder
from support.children import child
from support.forks import in_child

KILLS = int(os.environ.get("RECOVERABLE_KILLS", "6"))


def fill(arena: Arena, number: int) -> None:
    """Commit that many times."""
    for i in range(number):
        with arena.transaction():
            arena.root[f"k{i}"] = {"n": i, "list": [i] * (i % 7)}
            arena.root["n"] = i


def plain(arena: Arena) -> Any:
    """Return all of its state."""
    return arena.root.to_python()


def events_of(log: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the events of that name."""
    return [event for event in log if event["event"] == name]


def test_what_was_committed_comes_back_without_its_segment(name: str, folder: str, log: list[dict[str, Any]]) -> None:
    """An arena whose shared memory is gone is restored from its journal, and goes on; as often as that happens."""
    for life in range(3):
        with Arena.open(name, "16 MiB", journal=folder) as arena:
            assert len(arena.root) == (0 if life == 0 else 101 + life)
            fill(arena, 100)
            with arena.transaction():
                arena.root[f"life{life}"] = life
            state = plain(arena)
        Arena.unlink(name)
        with Arena.open(name, "16 MiB", journal=folder) as arena:
            assert plain(arena) == state
            assert arena.verify().leaked_blocks == 0
        Arena.unlink(name)
    restored = events_of(log, "journal.restored")
    assert len(restored) == 5
    assert restored[0]["commits"] == 101  # the root's own is in the snapshot
    assert [event["epoch"] for event in restored] == [1, 2, 3, 4, 5]


def test_a_file_that_is_larger_than_what_is_replayed_at_a_time(name: str, folder: str) -> None:
    """All commits of a large file come back: it is replayed in parts of 16 MiB."""
    native_journal.file_size(64 * 1024**2)
    with Arena.open(name, "64 MiB", journal=folder, feed="4 MiB") as arena:
        for i in range(40):
            with arena.transaction():
                arena.root["n"] = i, bytes([i]) * 500_000
            asyncio.run(arena.durable())
        assert len(Folder(folder).files()) == 1
        state = plain(arena)
    Arena.unlink(name)
    with Arena.open(name, journal=folder) as arena:
        assert plain(arena) == state
        assert arena.root["n"][0] == 39
    Arena.unlink(name)


def test_a_segment_that_is_there_is_used(name: str, folder: str, log: list[dict[str, Any]]) -> None:
    """A restart with shared memory intact restores nothing, and the journal goes on where it was."""
    for life in range(4):
        with Arena.open(name, "16 MiB", journal=folder) as arena:
            fill(arena, 20 + life)
            assert len(arena.root) == 21 + life
    Arena.unlink(name)
    assert not events_of(log, "journal.restored")
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        assert len(arena.root) == 24
    Arena.unlink(name)


@pytest.mark.crash
def test_what_was_told_to_be_durable_is_there_after_kills(name: str, folder: str, seed: int) -> None:
    """Killed at any moment, its memory deleted, a process leaves every commit that it has told of."""
    rng = random.Random(seed)
    told = -1
    for _ in range(KILLS):
        reader, writer = os.pipe()

        def serve(writer: int = writer, told: int = told) -> None:
            with Arena.open(name, "16 MiB", journal=folder, durable="disk") as arena:
                assert arena.root.get("n", -1) >= told

                @recoverable(arena=arena)
                async def put(i: int) -> None:
                    arena.root["n"] = i
                    arena.root[f"k{i % 50}"] = str(i) * (i % 100)

                async def main() -> None:
                    i = told
                    while True:
                        i += 1
                        await put(i)
                        os.write(writer, i.to_bytes(8, "little"))

                asyncio.run(main())

        with child(serve) as pid:
            os.close(writer)
            for _ in range(rng.randrange(1, 60)):
                found = os.read(reader, 8)
                assert len(found) == 8, "the server has died by itself"
                told = int.from_bytes(found, "little")
            os.kill(pid, signal.SIGKILL)
        while found := os.read(reader, 8):
            told = int.from_bytes(found, "little")
        os.close(reader)
        if rng.random() < 0.7:
            Arena.unlink(name)
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        assert arena.root["n"] in (told, told + 1)
        arena.verify()
    Arena.unlink(name)


# -- what must not be used -------------------------------------------------------------------------------------------------


def test_a_segment_of_a_former_life_is_set_aside(name: str, folder: str, log: list[dict[str, Any]]) -> None:
    """A segment that is behind its journal, as of a pod that has come back to a node, is not used, and not deleted."""
    segment = Path(f"/dev/shm/recoverable.{name}")
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        fill(arena, 10)
    old = segment.read_bytes()
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        fill(arena, 30)
    segment.write_bytes(old)
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        assert arena.root["n"] == 29
    Arena.unlink(name)
    event = events_of(log, "journal.set_aside")[0]
    aside = Path(event["aside"])
    assert aside.stat().st_size == len(old)
    aside.unlink()


def test_a_segment_that_others_use_is_not_taken_from_them(name: str, folder: str, tmp_path: Path) -> None:
    """Where the journal was restored elsewhere, a start beside living processes is refused, and says why."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        fill(arena, 5)
    segment = Path(f"/dev/shm/recoverable.{name}")
    kept = segment.with_name(segment.name + "-kept")
    segment.rename(kept)
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        fill(arena, 7)
    kept.rename(segment)
    reader, writer = os.pipe()

    def use() -> None:
        with Arena.open(name) as arena:  # without the journal: nobody has looked
            os.write(writer, b".")
            while arena.root["n"] == 4:
                time.sleep(0.01)

    with child(use):
        os.read(reader, 1)
        with pytest.raises(JournalError, match="other processes use it"):
            Arena.open(name, journal=folder, busy_timeout=0.2)
        with Arena.open(name) as arena, arena.transaction():
            arena.root["n"] = 5
    for fd in reader, writer:
        os.close(fd)
    Arena.unlink(name)


def damaged(folder: str, number: int, offset: int) -> None:
    """Change a byte of a file of the journal."""
    path = Path(folder, f"journal-{number:016x}")
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def batches(folder: str, number: int) -> Iterator[native_journal.Batch]:
    """Give the batches of a file."""
    with Folder(folder).open_file(number) as file:
        while (batch := file.next()) is not None:
            yield batch


def test_damage_in_the_middle_is_named_and_nothing_is_opened(name: str, folder: str) -> None:
    """A damaged batch with sound ones behind it is an error that says where, and up to where the state is sound."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        for i in range(5):
            fill(arena, i + 1)
            asyncio.run(arena.durable())
    Arena.unlink(name)
    found = list(batches(folder, 1))
    damaged(folder, 1, found[2].offset + 100)
    with pytest.raises(
        ArenaCorruptError, match=rf"offset {found[2].offset}.*sound up to commit {found[1].seq}.*--to {found[1].seq}"
    ):
        Arena.open(name, "16 MiB", journal=folder)
    assert not Path(f"/dev/shm/recoverable.{name}").exists()


def test_where_memory_has_the_state_damage_says_how_to_keep_it(name: str, folder: str) -> None:
    """Nothing is opened; with the folder moved away, as the message says, nothing is lost."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        for i in range(5):
            fill(arena, i + 1)
            asyncio.run(arena.durable())
        state = plain(arena)
    damaged(folder, 1, list(batches(folder, 1))[2].offset + 100)
    with pytest.raises(ArenaCorruptError, match=rf"don't unlink it.*mv {folder} {folder}.damaged"):
        Arena.open(name, "16 MiB", journal=folder)
    Path(folder).rename(f"{folder}.damaged")
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        assert plain(arena) == state
    Arena.unlink(name)
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        assert plain(arena) == state
    Arena.unlink(name)


def test_one_arena_has_one_folder(name: str, folder: str, tmp_path: Path) -> None:
    """An answer would be on the disk in a folder that the next start does not look at."""
    other, reader, writer = str(tmp_path / "other"), *os.pipe()

    def serves() -> None:
        with Arena.open(name, "16 MiB", journal=folder) as arena:
            fill(arena, 1)
            asyncio.run(arena.durable())
            os.write(writer, b".")
            while not arena.root.get("stop"):
                time.sleep(0.01)

    with Arena.open(name, "16 MiB", journal=other) as arena:
        fill(arena, 5)
    with child(serves):
        os.read(reader, 1)
        for each in other, str(tmp_path / "new"):  # one that is behind, and one that is empty
            with pytest.raises(JournalError, match=r"in another folder than .*absolute path"):
                Arena.open(name, "16 MiB", journal=each, busy_timeout=0.2)
        with Arena.open(name, "16 MiB", journal=folder) as arena, arena.transaction():
            arena.root["stop"] = True
    for fd in reader, writer:
        os.close(fd)
    Arena.unlink(name)


def test_a_torn_end_is_left_out(name: str, folder: str) -> None:
    """A last batch that was not finished was told to nobody, and is left out."""

    def serve() -> None:
        arena = Arena.open(name, "16 MiB", journal=folder)
        for i in range(5):
            fill(arena, i + 1)
            asyncio.run(arena.durable())
        os._exit(0)  # as a crash does: without an end

    in_child(serve)
    Arena.unlink(name)
    found = list(batches(folder, 1))
    damaged(folder, 1, found[-1].offset + 100)
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        assert arena.root["n"] == 3
    Arena.unlink(name)


# -- folders -----------------------------------------------------------------------------------------------------------------


def test_folders_that_can_not_be_used_are_named(new_name: Any, tmp_path: Path) -> None:
    """A folder that is none, is missing, or is another arena's is refused by name, and no arena is left."""
    name, other = new_name(), new_name()
    file = tmp_path / "file"
    file.write_text("")
    for path, message in ((file, "is no folder"), (tmp_path / "a" / "b", "does not exist")):
        with pytest.raises(JournalError, match=message):
            Arena.open(name, "16 MiB", journal=path)
    folder = tmp_path / "journal"
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        fill(arena, 1)
    with Arena.open(other, "16 MiB", feed="1 MiB"), pytest.raises(JournalError, match="without a journal"):
        Arena.open(other, journal=folder)
    with pytest.raises(JournalError, match="of another arena"):
        Arena.open(other, journal=folder)
    Arena.unlink(other)
    with Arena.open(other, "16 MiB"):
        pass
    with pytest.raises(JournalError, match="made without a feed"):
        Arena.open(other, journal=tmp_path / "new")
    for each in name, other:
        Arena.unlink(each)


def test_one_machine_at_a_time_writes_there(name: str, folder: str, tmp_path: Path) -> None:
    """A folder whose commits another process writes is refused, where that one has another segment."""

    def opened() -> str:
        os.rename(f"/dev/shm/recoverable.{name}", f"/dev/shm/recoverable.{name}-kept")  # noqa: PTH104 -- another machine
        try:
            with pytest.raises(JournalError, match=rf"is written by process \d+ on {os.uname().nodename}"):
                Arena.open(name, "16 MiB", journal=folder, busy_timeout=0.1)
        finally:
            os.rename(f"/dev/shm/recoverable.{name}-kept", f"/dev/shm/recoverable.{name}")  # noqa: PTH104
        return "refused"

    with Arena.open(name, "16 MiB", journal=folder) as arena:
        fill(arena, 1)
        asyncio.run(arena.durable())
        assert in_child(opened).value == "refused"
        fill(arena, 2)
    Arena.unlink(name)


@pytest.mark.slow
def test_who_is_about_to_let_it_go_is_waited_for(name: str, folder: str) -> None:
    """One that closes the arena writes its last commits, and may have left the segment by then."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        fill(arena, 3)
    reader, writer = os.pipe()

    def closes() -> None:
        lock = Folder(folder).take()
        os.write(writer, b".")
        time.sleep(0.3)
        lock.release()

    with child(closes):
        os.read(reader, 1)
        with Arena.open(name, journal=folder) as arena:
            assert len(arena.root) == 4
    for fd in reader, writer:
        os.close(fd)
    Arena.unlink(name)


def test_an_arena_that_others_write_to_gets_a_journal(name: str, folder: str) -> None:
    """A journal can be begun while other processes commit: its first snapshot is of one moment."""
    reader, writer = os.pipe()

    def serve() -> None:
        with Arena.open(name, "16 MiB", feed="1 MiB") as arena:
            fill(arena, 10)
            os.write(writer, b".")
            i = 10
            while not arena.root.get("stop"):
                with arena.transaction():
                    arena.root["n"] = i = i + 1
                    arena.root[f"k{i % 20}"] = "x" * (i % 200)
                time.sleep(0.0005)

    with child(serve):
        os.read(reader, 1)
        with Arena.open(name, journal=folder) as arena:
            time.sleep(0.05)
            with arena.transaction():
                arena.root["stop"] = True
            asyncio.run(arena.durable())
            state = plain(arena)
    for fd in reader, writer:
        os.close(fd)
    Arena.unlink(name)
    with Arena.open(name, journal=folder) as arena:
        assert plain(arena) == state
    Arena.unlink(name)
