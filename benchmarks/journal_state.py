"""What a start from a journal takes, and what a compaction does to a server beside it: on a state of some size.

The state is a table of sessions of a kilobyte each, in a snapshot, with transfers behind it in the journal. A start is timed as
an arena is opened: snapshot, replay, and the file that the next commits go to; against reading the same files plainly. Before
either, the kernel is told to forget them (POSIX_FADV_DONTNEED).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import Report, Settings, Spread, digits, progress
from benchmarks.transfers import ACCOUNTS, OPENING, Window, fill, flush, load, transfers
from recoverable import Arena, ArenaNotFoundError
from recoverable._native import journal as native
from recoverable.journal import keeper, order, start
from recoverable.journal.folder import Folder

SESSION = 1000  # bytes
TASKS = 16
RATE = 100e6  # bytes a second, that a server gives the compaction which it starts by itself
ALONE, COMMAND, KEEPER = "alone", "beside `recoverable journal compact`", "beside a compaction that a server starts"


def tell(report: Report, settings: Settings, path: Path) -> None:
    """Measure both, on one journal."""
    name, where = f"bench-journal-{os.getpid()}", path / "state"
    size = f"{settings.pick(512, 64)} MiB"
    try:
        sessions = _make(settings, name, size, where)
        _starts(report, settings, where)
        with contextlib.closing(Arena.open(name, size, journal=where, compact=False)) as arena:
            assert len(arena.root["sessions"]) == sessions
            assert sum(arena.root["accounts"].values()) == ACCOUNTS * OPENING
            _compactions(report, settings, arena, where)
    finally:
        with contextlib.suppress(ArenaNotFoundError):
            Arena.unlink(name)


# -- a state --------------------------------------------------------------------------------------------------------------


def _make(settings: Settings, name: str, size: str, where: Path) -> int:
    """Make a journal with a snapshot of sessions, and transfers behind it; return how many sessions."""
    count, more = settings.pick(200, 8) * 1024, settings.pick(1_000_000, 20_000)
    with contextlib.closing(Arena.open(name, size, journal=where, compact=False)) as arena:
        fill(arena)
        with arena.transaction():
            arena.root["sessions"] = {}
        for at in range(0, count, 1024):
            progress(f"journal: {at:,} of {count:,} sessions")
            write(arena, at, at + 1024)
        finish_file(arena, count)
        command(where)
        progress(f"journal: {more:,} transfers")
        accounts: Any = arena.root["accounts"]
        keys = list(accounts)
        for i in range(more):
            with arena.transaction():
                accounts[keys[i % ACCOUNTS]] -= 1
                accounts[keys[(i + 331) % ACCOUNTS]] += 1
            if i % 10_000 == 0:
                flush(arena)
    Arena.unlink(name)
    return int(count)


def write(arena: Arena, begin: int, end: int) -> None:
    sessions: Any = arena.root["sessions"]
    for at in range(begin, end, 64):
        with arena.transaction():
            for i in range(at, min(at + 64, end)):
                sessions[f"session-{i}"] = os.urandom(SESSION)
    flush(arena)


def finish_file(arena: Arena, sessions: int) -> None:
    """Rewrite sessions until the journal goes on in another file: a compaction takes up those that are finished."""
    begun = native.state(arena.native).number
    at = 0
    while native.state(arena.native).number == begun:
        write(arena, at, at + 1024)
        at = (at + 1024) % sessions


def command(where: Path) -> float:
    """Compact as a user does; return the seconds that it says. It must have had something to do."""
    command = [sys.executable, "-m", "recoverable.cli", "journal", "compact", str(where), "--json"]
    return _seconds(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def _keeper(where: Path) -> float:
    """Compact as a server does."""
    return _seconds(keeper.compacted(str(where), RATE, lambda: None))


def _seconds(done: dict[str, Any]) -> float:
    assert done.get("snapshot") is not None, done
    return float(done["seconds"])


# -- a start --------------------------------------------------------------------------------------------------------------


@dataclass
class Starts:
    """What was measured of starts, round by round; seconds."""

    whole: list[float] = field(default_factory=list)
    copied: list[float] = field(default_factory=list)
    replayed: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)  # bytes a second of snapshot and journal
    plain: list[float] = field(default_factory=list)  # the same of reading the files
    bare: list[float] = field(
        default_factory=list
    )  # of reading them, and writing as much as the snapshot has to /dev/shm
    records: int = 0  # that were replayed
    snapshot: int = 0  # bytes that were copied
    journal: int = 0  # bytes that were replayed


def _starts(report: Report, settings: Settings, where: Path) -> None:
    folder, found = Folder(where), Starts()
    for i in range(settings.pick(7, 2)):
        progress(f"journal: start {i + 1}")
        for doing in (_restore, _read) if i % 2 else (_read, _restore):
            _forget(where)
            doing(folder, found)
    progress("")
    new = [a - b - c for a, b, c in zip(found.whole, found.copied, found.replayed, strict=True)]
    parts = {
        f"snapshot, copied and checked: {digits(found.snapshot / 2**20)} MiB": found.copied,
        f"commits, replayed: {found.records:,}, {digits(found.journal / 2**20)} MiB": found.replayed,
        "the next file of the journal, made and flushed: 64 MiB": new,
        "in all": found.whole,
    }
    report.table("A start from the journal", ["", "seconds"], [[what, str(Spread.of(s))] for what, s in parts.items()])
    mb, plain = (Spread.of(each / 1e6 for each in rates) for rates in (found.rate, found.plain))
    records = Spread.of(found.records / seconds for seconds in found.replayed)
    slower = Spread.of(b / a for a, b in zip(found.rate, found.plain, strict=True))
    bare = Spread.of(each / 1e6 for each in found.bare)
    rates = {"MB/s": mb, "MB/s of plain reading": plain, "MB/s of reading and writing": bare, "records/s": records}
    for what, spread in rates.items():
        report.figure(f"a start: {what}", spread)
    report.note(
        f"That is {mb} MB/s, where reading the files gives {plain}, and reading them and writing the snapshot's bytes to new "
        f"shared memory, with no look at them, {bare}; {records} commits replayed a second."
    )
    report.aim("a start: MB/s of reading the same files over those of the start", 2.0, slower, "x")
    each = Spread.of(seconds / found.records * 1e6 for seconds in found.replayed)
    report.aim("a start: µs to replay a commit", 1.0, each, "µs")


def _restore(folder: Folder, found: Starts) -> None:
    """Restore into memory without a name; what the journal got by that is removed."""
    when: dict[str, float] = {}
    target = os.memfd_create("bench-journal", os.MFD_CLOEXEC)
    lock = folder.take()
    begun = time.perf_counter()
    try:
        done = start.restore(
            folder, target, "bench-journal", progress=lambda _, __, doing: when.update({doing: time.perf_counter()})
        )
        found.whole.append(time.perf_counter() - begun)
        found.snapshot = os.fstat(target).st_blocks * 512
    finally:
        lock.release()
        os.close(target)
    Path(folder.path, f"journal-{folder.files()[-1]:016x}").unlink()
    found.copied.append(when["copied"] - begun)
    found.replayed.append(when["replayed"] - when["copied"])
    found.records, found.journal = done.records, done.bytes
    found.rate.append((found.snapshot + found.journal) / found.whole[-1])


def _read(folder: Folder, found: Starts) -> None:
    """Read what a start reads: the last snapshot, and the files behind it."""
    position = folder.snapshots()[-1]
    files = [number for number, end in _ends(folder) if end > position]
    paths = [Path(folder.snapshot_path(position)), *(Path(folder.path, f"journal-{each:016x}") for each in files)]
    size, buffer = 0, bytearray(1 << 20)
    begun = time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            for at, end in _data(file.fileno()):
                file.seek(at)
                while at < end:
                    at += file.readinto(memoryview(buffer)[: end - at]) or end
            size += os.fstat(file.fileno()).st_blocks * 512
    read = time.perf_counter() - begun
    found.plain.append(size / read)
    found.bare.append(size / (read + _write_memory(paths[0].stat().st_blocks * 512)))


def _write_memory(size: int) -> float:
    """Write so many bytes to new shared memory; return the seconds."""
    fd, piece = os.memfd_create("bench-memory", os.MFD_CLOEXEC), bytes(1 << 18)
    begun = time.perf_counter()
    try:
        for at in range(0, size, len(piece)):
            os.pwrite(fd, piece, at)
        return time.perf_counter() - begun
    finally:
        os.close(fd)


def _ends(folder: Folder) -> Iterator[tuple[int, int]]:
    starts = folder.starts()
    for i, each in enumerate(starts):
        yield each.number, order.until(starts, i)


def _data(fd: int) -> Iterator[tuple[int, int]]:
    """Yield where a file has no holes."""
    at = 0
    with contextlib.suppress(OSError):  # there is no more
        while True:
            begin = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, begin, os.SEEK_HOLE)
            yield begin, at


def _forget(where: Path) -> None:
    """Have the kernel drop what it keeps of the files."""
    for path in where.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# -- a compaction ---------------------------------------------------------------------------------------------------------


def _compactions(report: Report, settings: Settings, arena: Arena, where: Path) -> None:
    """Load the arena by itself, and beside compactions, in turn."""
    windows: dict[str, list[Window]] = {ALONE: [], COMMAND: [], KEEPER: []}
    took: dict[str, list[float]] = {COMMAND: [], KEEPER: []}
    ways = {COMMAND: command, KEEPER: _keeper}
    handler, order, rounds = transfers(arena, "disk"), list(windows), settings.pick(5, 1)
    for i in range(rounds):
        for how in order[i % 3 :] + order[: i % 3]:
            progress(f"journal: compaction, round {i + 1} of {rounds}, {how}")
            if how == ALONE:
                windows[how].append(load(handler, TASKS, settings.pick(4.0, 0.5)))
                continue
            finish_file(arena, len(arena.root["sessions"]))
            windows[how].append(load(handler, TASKS, 0, lambda how=how: took[how].append(ways[how](where))))
    progress("")
    rows = []
    for how, each in windows.items():
        against = {
            what: Spread.of(getattr(a, what) / getattr(b, what) for a, b in zip(each, windows[ALONE], strict=True))
            for what in ("rate", "p50", "p99")
        }
        for what, spread in against.items():
            report.figure(f"{how}: {what} over alone", spread)
        seconds = str(Spread.of(took[how])) if how in took else "–"
        p99 = Spread.of(window.p99 * 1e3 for window in each)
        rows.append(
            [how, str(Spread.of(window.rate for window in each)), str(p99), *map(str, against.values()), seconds]
        )
    report.table(
        f'{TASKS} tasks under durable="disk", and a compaction of that journal in a process beside',
        ["", "commits/s", "p99, ms", "commits/s over alone", "p50 over alone", "p99 over alone", "it takes, s"],
        rows,
    )
