"""A start with a journal that is refused or interrupted: it says why, lets go of what it had taken, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from recoverable import Arena, ArenaCorruptError, ArenaFullError, ArenaOptionError, JournalError
from recoverable.journal.folder import Folder
from support.children import child
from support.forks import in_child


def objects(name: str) -> list[str]:
    """Return what shared memory has of an arena."""
    return sorted(each.name for each in Path("/dev/shm").glob(f"recoverable.{name}*"))


def put(arena: Arena, value: int) -> None:
    """Commit."""
    with arena.transaction():
        arena.root["n"] = value


# -- the program's log pipeline raises ---------------------------------------------------------------------------------------


@pytest.fixture
def raising() -> Iterator[Callable[[str], None]]:
    """Give a function after which the log pipeline raises at that event, until the test's end."""
    at = ""

    def processor(_: Any, __: str, event: dict[str, Any]) -> Any:
        if event["event"] == at:
            raise RuntimeError(f"no room for {at}")
        raise structlog.DropEvent

    def arm(event: str) -> None:
        nonlocal at
        at = event

    structlog.configure(processors=[processor])
    yield arm
    structlog.reset_defaults()


@pytest.mark.parametrize(
    "event", ["arena.created", "arena.attached", "journal.restored", "journal.set_aside", "journal.damaged"]
)
def test_a_log_pipeline_that_raises_leaves_nothing_open(
    name: str, tmp_path: Path, raising: Callable[[str], None], event: str
) -> None:
    """Another process can go on with the folder at once, and with all that is there."""
    folder = tmp_path / "journal"
    if event != "arena.created":
        with Arena.open(name, "4 MiB", journal=folder) as arena:
            put(arena, 1)
        if event == "journal.set_aside":
            old = Path(f"/dev/shm/recoverable.{name}").read_bytes()
            with Arena.open(name, journal=folder) as arena:
                put(arena, 1)
            Path(f"/dev/shm/recoverable.{name}").write_bytes(old)
        elif event != "arena.attached":
            Arena.unlink(name)
        if event == "journal.damaged":
            (folder / f"snapshot-{1 << 40:016x}").write_bytes(b"none")
    raising(event)
    with pytest.raises(RuntimeError, match=event):
        Arena.open(name, "4 MiB", journal=folder, durable="disk", step_limit=10)
    assert not [thread for thread in threading.enumerate() if thread.name == "recoverable-keeper"]
    raising("")

    def goes_on() -> int:
        with Arena.open(name, "4 MiB", journal=folder, busy_timeout=0.3) as arena:
            found = arena.root.get("n", 0)
            put(arena, 2)
            asyncio.run(arena.durable())
            return int(found)

    assert in_child(goes_on).value == (0 if event == "arena.created" else 1)
    for each in objects(name):
        Path("/dev/shm", each).unlink()


def test_a_log_pipeline_that_raises_while_it_is_closed(
    name: str, tmp_path: Path, raising: Callable[[str], None]
) -> None:
    """It is closed all the same, and what was committed is on the disk."""
    folder = tmp_path / "journal"
    arena = Arena.open(name, "4 MiB", journal=folder)
    put(arena, 1)
    reader, writer = os.pipe()

    def dies() -> None:
        with arena.transaction():
            arena.root["n"] = 2
            os.write(writer, b".")
            signal.pause()

    with child(dies) as pid:
        os.read(reader, 1)
        os.kill(pid, signal.SIGKILL)
    for fd in reader, writer:
        os.close(fd)
    assert arena.root["n"] == 1  # which undoes what it has left
    raising("arena.recovered")
    with pytest.raises(RuntimeError, match=r"arena\.recovered"):
        arena.close()
    assert arena.closed
    with Arena.open(name, journal=folder, busy_timeout=0.3) as arena:
        put(arena, 3)
    Arena.unlink(name)


# -- nothing is left ---------------------------------------------------------------------------------------------------------


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.name != "spare"]  # which is made meanwhile


def _in_use(name: str, folder: Path) -> None:
    Arena.open(f"{name}-x", "4 MiB", journal=folder)  # and it stays open


def _damaged(name: str, folder: Path) -> None:
    with Arena.open(name, "4 MiB", journal=folder):
        pass
    Arena.unlink(name)
    for position in Folder(folder).snapshots():
        Path(Folder(folder).snapshot_path(position)).write_bytes(b"none")


def _too_large(name: str, folder: Path) -> None:
    pass


def _a_file(name: str, folder: Path) -> None:
    folder.write_text("")


REFUSED = {
    "in use": (_in_use, {}, JournalError),
    "damaged": (_damaged, {}, ArenaCorruptError),
    "too large": (_too_large, {"size": "8 TiB"}, ArenaFullError),
    "not created": (_too_large, {"create": False}, JournalError),
    "a file": (_a_file, {}, JournalError),
    "too large a feed": (_too_large, {"feed": 1 << 50}, ArenaOptionError),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_refused_start_leaves_nothing(name: str, tmp_path: Path, why: str) -> None:
    """No empty object in shared memory, no empty folder; and the error is one, without what it came from."""
    folder = tmp_path / "journal"
    prepare, options, error = REFUSED[why]

    def refused() -> str:
        prepare(name, folder)
        before = _files(tmp_path)
        with pytest.raises(error) as caught:
            Arena.open(name, journal=folder, busy_timeout=0.1, **options)
        assert objects(name) == ([f"recoverable.{name}-x"] if why == "in use" else [])
        assert _files(tmp_path) == before
        text = "".join(traceback.format_exception(caught.value))
        assert text.count("Traceback") == 1, text
        return "refused"

    assert in_child(refused).value == "refused"
    for each in objects(name):
        Path("/dev/shm", each).unlink()


def test_a_segment_without_a_feed_gets_no_folder(name: str, tmp_path: Path) -> None:
    """It is refused by name, as it was before."""
    with Arena.open(name, "4 MiB"):
        pass
    with pytest.raises(JournalError, match="made without a feed"):
        Arena.open(name, journal=tmp_path / "journal")
    assert not (tmp_path / "journal").exists()
    Arena.unlink(name)


def test_durable_without_a_journal_makes_no_arena(name: str) -> None:
    """It is refused, and not left open."""
    with pytest.raises(JournalError, match="without a journal"):
        Arena.open(name, "4 MiB", durable="disk")
    assert objects(name) == []
    with Arena.open(name, "4 MiB") as arena:
        put(arena, 1)
    with pytest.raises(JournalError, match="without a journal"):
        Arena.open(name, durable="disk")
    with Arena.open(name) as arena:
        assert arena.root["n"] == 1
    Arena.unlink(name)


# -- paths -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "a\0b", b"", b"/tmp/\0"])
def test_what_is_no_path_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any) -> None:
    """The folder that the program happens to run in is not taken for an empty one."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArenaOptionError, match=r"is no path.*absolute path"):
        Arena.open(name, "4 MiB", journal=path)
    assert not list(tmp_path.iterdir())
    assert objects(name) == []


def test_a_link_that_leads_nowhere_is_named(name: str, tmp_path: Path) -> None:
    """It is there, so that "does not exist" alone would not help."""
    (tmp_path / "link").symlink_to(tmp_path / "none")
    with pytest.raises(JournalError, match="a link that leads nowhere"):
        Arena.open(name, "4 MiB", journal=tmp_path / "link")
    assert objects(name) == []


def test_a_link_to_a_folder_is_that_folder(name: str, tmp_path: Path) -> None:
    """Also for who has it open by its other name, and for a program that closes all descriptors."""
    folder, link = tmp_path / "journal", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)

    def works() -> str:
        with Arena.open(name, "4 MiB", journal=link) as arena:
            put(arena, 1)
            with Arena.open(name, journal=os.fsencode(folder)) as other:
                put(other, 2)
            for fd in Path("/proc/self/fd").iterdir():
                if fd.is_symlink() and str(fd.readlink()).startswith(str(tmp_path)):
                    os.close(int(fd.name))
            for i in range(2000):  # more than a file holds
                with arena.transaction():
                    arena.root[f"k{i}"] = "x" * 500
                if i % 100 == 0:
                    asyncio.run(arena.durable())
            put(arena, 3)
            asyncio.run(arena.durable())
        return "works"

    ended = in_child(works)
    assert ended.value == "works", ended.error
    assert len(Folder(folder).files()) > 1
    Arena.unlink(name)
    with Arena.open(name, journal=folder) as arena:
        assert arena.root["n"] == 3
    Arena.unlink(name)


# -- others ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["new", "older"])
def test_who_is_just_closing_is_waited_for(name: str, tmp_path: Path, other: str) -> None:
    """Another folder is refused where a process goes on with the first one; where that one is ending, it is not."""
    reader, writer = os.pipe()
    if other == "older":
        with Arena.open(name, "4 MiB", journal=tmp_path / other) as arena:
            put(arena, 0)

    def closes() -> None:
        arena = Arena.open(name, "4 MiB", journal=tmp_path / "first")
        put(arena, 1)
        asyncio.run(arena.durable())
        os.write(writer, b".")
        time.sleep(0.3)
        put(arena, 2)
        arena.close()

    with child(closes):
        os.read(reader, 1)
        with Arena.open(name, journal=tmp_path / other) as arena:
            assert arena.root["n"] == 2
            put(arena, 3)
            asyncio.run(arena.durable())
    for fd in reader, writer:
        os.close(fd)
    Arena.unlink(name)
    with Arena.open(name, journal=tmp_path / other) as arena:
        assert arena.root["n"] == 3
    Arena.unlink(name)


def test_a_damaged_snapshot_is_passed_over_and_told_of(name: str, tmp_path: Path, log: list[dict[str, Any]]) -> None:
    """The state comes from the older one, and who restores learns of it: the next compaction fails at it."""
    folder = tmp_path / "journal"
    with Arena.open(name, "4 MiB", journal=folder) as arena:
        put(arena, 1)
    Arena.unlink(name)
    newest = Path(folder, f"snapshot-{1 << 40:016x}")
    newest.write_bytes(b"none")
    with Arena.open(name, journal=folder) as arena:
        assert arena.root["n"] == 1
        restored = arena.restored
        assert restored is not None
        (found,) = restored.damaged
        assert newest.name in found
    (told,) = (event for event in log if event["event"] == "journal.damaged")
    assert newest.name in told["detail"]
    Arena.unlink(name)
