"""The keeper: a journal that has grown is compacted by a process of its own, whatever becomes of that one and of the server."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena
from recoverable._compaction import verify
from recoverable.journal import keep, keeper
from recoverable.journal.compact import compact
from recoverable.journal.folder import Folder
from support.children import child

SIZE = 256 * 1024  # of a file, and what is worth a snapshot


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have journals looked at all the time, and compacted when they have grown by a little."""
    for name, value in {"_LEAST": SIZE, "_LOOK": 0.02, "_BUSY": 0.1, "_AGAIN": 0.1}.items():
        monkeypatch.setattr(keeper, name, value)


def fill(arena: Arena, number: int = 800) -> None:
    """Commit that many times, durably; 800 are four files."""
    for i in range(number):
        with arena.transaction():
            arena.root[f"k{i % 90}"] = {"n": i, "text": str(i) * 20, "list": [i] * (i % 30)}
            arena.root["n"] = arena.root.get("n", 0) + 1
        if i % 50 == 49:
            asyncio.run(arena.durable())
    asyncio.run(arena.durable())


def fill_until(arena: Arena, condition: Callable[[], Any], files: int = 12) -> None:
    """Commit until something holds, but not without end: where others have the processors, a child takes long."""
    end, most = time.monotonic() + 100, Folder(arena.native.journal.path).files()[-1] + files
    while not condition():
        assert time.monotonic() < end, "in vain"
        if Folder(arena.native.journal.path).files()[-1] < most:
            fill(arena, 100)
        time.sleep(0.03)


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until something holds, and return it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "in vain"
        time.sleep(0.01)
    return found


def told(log: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    """Return the events of that name."""
    return [each for each in log if each["event"] == f"journal.{event}"]


def compactors(folder: str) -> list[int]:
    """Return the processes that compact a folder; a zombie has no arguments."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                arguments = (path / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"recoverable._compaction" in arguments and os.fsencode(folder) in arguments:
                found.append(int(path.name))
    return found


def children() -> list[int]:
    """Return this process's children, zombies included."""
    tasks = Path("/proc/self/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def settled(folder: str) -> None:
    """Wait until nothing is left to be compacted in a folder that nobody fills: another one may follow the one that was told."""
    until(lambda: not keeper.is_due(Folder(folder)) and not children())


def restored(name: str, folder: str) -> Any:
    """Return the state that a journal alone has; the arena of that name goes."""
    with Arena.open(name, journal=folder, create=False, compact=False) as arena:
        assert arena.verify().leaked_blocks == 0
        state = arena.root.to_python()
    Arena.unlink(name)
    return state


def ended(arena: Arena, name: str) -> Any:
    """Close an arena, and return the state that it had; nothing else is left of it."""
    state = arena.root.to_python()
    arena.close()
    Arena.unlink(name)
    return state


def test_a_journal_that_has_grown_is_compacted(name: str, folder: str, log: list[dict[str, Any]]) -> None:
    """It keeps to what the last two snapshots need, says what it dropped, and leaves no process behind."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        for i in range(2):
            fill_until(arena, lambda i=i: len(told(log, "compacted")) > i)
            settled(folder)
        assert len(Folder(folder).snapshots()) == 2
        assert Folder(folder).files()[0] > 1
        state = ended(arena, name)
    first, last = told(log, "compacted")[:2]
    assert (first["arena"], first["journal"]) == (name, folder)
    assert last["commits"] > 100
    assert last["bytes"] >= SIZE
    assert last["files"] > 0
    assert last["freed"] > SIZE
    assert not told(log, "compaction_failed")
    assert restored(name, folder) == state


def test_one_that_has_not_grown_or_is_not_to_be_is_left(
    name: str, folder: str, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process is started for less than is worth it, nor with compact=False."""
    started: list[Any] = []
    monkeypatch.setattr(keeper, "_LEAST", 64 * SIZE)
    monkeypatch.setattr(keeper.subprocess, "Popen", lambda *a, **k: started.append(a))
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        fill(arena)
        time.sleep(0.3)
    monkeypatch.setattr(keeper, "_LEAST", SIZE)
    with Arena.open(name, journal=folder, compact=False) as arena:
        assert keeper.is_due(Folder(folder))
        time.sleep(0.3)
        ended(arena, name)
    assert not started
    assert not told(log, "compaction_failed")


def test_history_of_a_time_has_a_snapshot_for_each_part_of_it(
    name: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little is committed, if it fills a file; a size, and a server that keeps no history, have none for that."""
    with Arena.open(name, "16 MiB", journal=folder, compact=False) as arena:
        fill(arena)
        ended(arena, name)
    monkeypatch.setattr(keeper, "_LEAST", 1 << 40)
    for what, due in ({}, False), ({"bytes": 1}, False), ({"seconds": 0.001}, False), ({"seconds": 1e9}, False):
        keep.write(Folder(folder), keep.Keep(**what))  # type: ignore[arg-type]
        assert keeper.is_due(Folder(folder)) == due
    monkeypatch.setattr(keeper, "_OFTEN", 0.0)
    keep.write(Folder(folder), keep.Keep(seconds=0.001))
    assert keeper.is_due(Folder(folder))
    compact(Folder(folder), verify)
    assert not keeper.is_due(Folder(folder))


def serve(name: str, folder: str) -> None:
    """Be a worker until it is killed."""
    with Arena.open(name, "16 MiB", journal=folder):
        time.sleep(60)


def test_another_keeps_it_when_the_one_that_writes_is_killed(
    name: str, folder: str, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that does not write does not compact; one that takes over does."""
    with child(lambda: serve(name, folder)) as first:
        until(lambda: Path(folder, "lock").exists() and Path(f"/dev/shm/recoverable.{name}").exists())
        time.sleep(0.2)
        with Arena.open(name, journal=folder) as arena:
            os.kill(first, signal.SIGSTOP)  # who writes has no time for it
            assert arena.native.journal._number() == 0
            os.kill(first, signal.SIGKILL)
            fill(arena)
            until(lambda: told(log, "compacted"))
            state = ended(arena, name)
    assert restored(name, folder) == state


def test_a_forked_child_keeps_it_when_its_parent_is_gone(name: str, folder: str) -> None:
    """A child that was forked from the one that writes has a keeper of its own."""
    snapshots: Callable[[], list[int]] = lambda: Folder(folder).snapshots()  # noqa: E731

    def parent() -> None:
        arena = Arena.open(name, "16 MiB", journal=folder)
        if os.fork() == 0:
            os.setpgid(0, 0)
            fill(arena, 1)  # it joins
            Path(folder, "forked").write_text(str(os.getpid()))
            until(lambda: arena.native.journal._flusher.serves())
            Path(folder, "serves").touch()
            time.sleep(60)
        time.sleep(60)

    with child(parent) as pid:
        forked = int(until(lambda: Path(folder, "forked").exists() and Path(folder, "forked").read_text()))
        os.kill(pid, signal.SIGKILL)
    try:
        until(Path(folder, "serves").exists)
        with Arena.open(name, journal=folder, compact=False) as arena:
            fill_until(arena, lambda: len(snapshots()) == 2)
            assert not arena.native.journal._flusher.serves()
    finally:
        os.kill(forked, signal.SIGKILL)
        Arena.unlink(name)


# -- what goes wrong -----------------------------------------------------------------------------------------------------------


def test_a_compaction_that_is_killed_is_told_and_done_again(
    name: str, folder: str, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes on, and the next one, after a pause, is made from what is left."""
    monkeypatch.setattr(keeper, "_RATE", 3e5)
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        fill(arena)
        until(lambda: Path(folder, "snapshot.next").exists())
        (pid,) = compactors(folder)
        monkeypatch.setattr(keeper, "_RATE", 100e6)
        os.kill(pid, signal.SIGKILL)
        (failed,) = until(lambda: told(log, "compaction_failed"))
        assert "SIGKILL" in failed["detail"]
        fill_until(arena, lambda: told(log, "compacted"))
        settled(folder)
        assert len(Folder(folder).snapshots()) == 2, told(log, "compacted")
        assert not Path(folder, "snapshot.next").exists()
        state = ended(arena, name)
    assert restored(name, folder) == state


def test_closing_does_not_wait_for_it(
    name: str, folder: str, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compaction that goes on after its arena was closed ends by itself, is told about, and leaves no zombie."""
    monkeypatch.setattr(keeper, "_RATE", 4e6)
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        fill(arena)
        until(lambda: compactors(folder))
        begun = time.monotonic()
        state = ended(arena, name)
        assert time.monotonic() - begun < 0.5
    assert children()
    until(lambda: told(log, "compacted"))
    until(lambda: not children())
    assert restored(name, folder) == state


def test_a_program_ends_while_its_journal_is_compacted(name: str, folder: str) -> None:
    """It ends at once and in silence, and the compaction after it."""
    program = f"""
        import time
        from recoverable import Arena
        from recoverable._native import journal
        from recoverable.journal import keeper
        journal.file_size({SIZE})
        keeper._LEAST, keeper._LOOK, keeper._RATE = {SIZE}, 0.02, 4e6
        arena = Arena.open({name!r}, "16 MiB", journal={folder!r})
        for i in range(20):
            with arena.transaction():
                arena.root[i] = "x" * 40_000
            time.sleep(0.02)
        import pathlib
        while not pathlib.Path({folder!r}, "snapshot.next").exists():
            time.sleep(0.01)
        print(time.time())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=True, text=True)
    Arena.unlink(name)
    assert time.time() - float(done.stdout) < 2
    assert done.stderr == ""
    assert compactors(folder)
    until(lambda: not compactors(folder))
    assert len(Folder(folder).snapshots()) == 2


def test_a_folder_that_somebody_works_on_is_left_until_then(name: str, folder: str, log: list[dict[str, Any]]) -> None:
    """Beside a verification, say, nothing is compacted, and that is no failure."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        with Folder(folder).kept():
            fill(arena)
            until(children)
            until(lambda: not children())
            assert len(Folder(folder).snapshots()) == 1
        until(lambda: told(log, "compacted"))
        ended(arena, name)
    assert not told(log, "compaction_failed")


def test_a_damaged_journal_is_told_with_pauses_between(
    name: str, folder: str, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can't be compacted is tried again later and later, and nothing of it is dropped."""
    monkeypatch.setattr(keeper, "_AGAIN", 1.0)
    with Arena.open(name, "16 MiB", journal=folder, compact=False) as arena:
        fill(arena)
        arena.close()
    before = set(os.listdir(folder))  # noqa: PTH208
    number = Folder(folder).files()[1]
    with Folder(folder).open_file(number) as journal:
        first = journal.next()
    with Path(folder, f"journal-{number:016x}").open("r+b") as file:
        file.seek(first.offset + 80)
        file.write(b"\xff" * 16)
    with Arena.open(name, journal=folder) as arena:
        fill(arena, 1)
        until(lambda: told(log, "compaction_failed"))
        begun = time.monotonic()
        while time.monotonic() - begun < 0.8:  # the pause
            assert not children()
            time.sleep(0.01)
        until(lambda: len(told(log, "compaction_failed")) > 1)
        ended(arena, name)
    failed = told(log, "compaction_failed")
    assert [each["again"] for each in failed] == [1, 2]
    assert "damaged" in failed[0]["detail"]
    assert set(os.listdir(folder)) >= before  # noqa: PTH208


FULL = """
import asyncio, json, os, sys, time
import structlog
from pathlib import Path
from recoverable import Arena
from recoverable._native import journal
from recoverable.journal import keeper
from recoverable.journal.folder import Folder

name, folder = sys.argv[1:]
log = []
structlog.configure(processors=[lambda _, __, event: log.append(event) or (_ for _ in ()).throw(structlog.DropEvent)])
journal.file_size(256 * 1024)
keeper._LEAST, keeper._LOOK, keeper._AGAIN = 256 * 1024, 0.02, 0.1
arena = Arena.open(name, "16 MiB", journal=folder, durable="disk")
Arena.unlink(name)

async def put(i):
    arena.root[i % 8] = bytes([i]) * 40_000

def told(event):
    return [each for each in log if each["event"] == event]

for i in range(20):
    asyncio.run(arena.run(put, i))
    if i == 5:  # before it is worth compacting
        disk = os.statvfs(folder)
        with open(folder + "/filler", "wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, disk.f_bavail * disk.f_frsize - 900 * 1024)
while not told("journal.compaction_failed"):
    time.sleep(0.01)
print("room" in told("journal.compaction_failed")[0]["detail"], "snapshot.next" in os.listdir(folder))
asyncio.run(arena.run(put, 20))  # the server goes on
os.unlink(folder + "/filler")
while not told("journal.compacted"):
    time.sleep(0.01)
print(len(Folder(folder).snapshots()))
"""


@pytest.mark.skipif(shutil.which("unshare") is None or os.getuid() != 0, reason="mounts a small disk")
def test_a_full_disk_does_not_stop_the_server(name: str, tmp_path: Path) -> None:
    """Without room for a snapshot there is none, and room is left for commits; with room again, there is one."""
    mounted = [
        "unshare",
        "-m",
        "sh",
        "-c",
        'mount -t tmpfs -o size=8m tmpfs "$1" && shift && exec "$@"',
        "-",
        str(tmp_path),
    ]
    if subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    done = subprocess.run(
        [*mounted, sys.executable, "-c", FULL, name, str(tmp_path)],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert (done.stdout.split(), done.stderr) == (["True", "False", "2"], "")
