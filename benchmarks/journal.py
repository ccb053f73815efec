"""What does it cost to be on the disk?

Tasks of one process transfer under `durable="disk"`, and a bare loop writes the very same batches, their number and sizes read
from the journal's files, by `pwrite` and `fdatasync` into a file of zeros beside it: what the disk alone would let through.
What the processor alone would: the same tasks under "journal", and on an arena without one. And what one loop would reach that
did first the one and then the other, with nobody to wake and nobody to wake up: where batches are big the processor is the limit,
and a bare loop, which commits nothing, says little. All are run in turn, and ratios are taken round by round.

Then what the journal costs a commit of whoever does not wait for it, what a start from it takes, and what a compaction does to a
server beside it (`journal_state.py`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import disk, feed, journal_state
from benchmarks.harness import Report, Settings, Spread, compare, digits, progress
from benchmarks.transfers import ACCOUNTS, Handler, Window, fill, flush, load, transfers
from recoverable import Arena
from recoverable._native import journal as native
from recoverable.journal.folder import Folder

TASKS = 1, 16, 128
BATCH_HEAD = 64  # bytes of a batch in front of its records
KEPT = 0.8  # of the commits/s of the bare loop


def run(settings: Settings) -> Report:
    report = Report("journal", "What does it cost to be on the disk?")
    try:
        with disk.folder(settings) as path:
            _waiting(report, settings, path)
            _not_waiting(report, settings, path)
            journal_state.tell(report, settings, path)
        disk.tell(report, settings)
    except disk.NoDisk as refused:
        report.note(f"Not run: {refused}.")
    return report


# -- who waits for the disk ---------------------------------------------------------------------------------------------


@dataclass
class Found:
    """What was measured with so many tasks, round by round."""

    disk: list[Window] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)  # commits a batch
    bare: list[float] = field(default_factory=list)  # commits/s, if only their batches were written
    journal: list[Window] = field(default_factory=list)
    memory: list[Window] = field(default_factory=list)

    def over_bare(self) -> Spread:
        return Spread.of(window.rate / bare for window, bare in zip(self.disk, self.bare, strict=True))

    def serial(self) -> list[float]:
        """Return commits/s of a loop that first commits, then writes that batch, and so on: with nothing to wake it and to wake."""
        return [1 / (1 / bare + 1 / window.rate) for bare, window in zip(self.bare, self.journal, strict=True)]

    def bound(self) -> str:
        """Return what lets less through: the disk, or the processor."""
        bare, ceiling = Spread.of(self.bare).median, Spread.of(window.rate for window in self.journal).median
        return "disk" if bare < ceiling else "CPU"


def _waiting(report: Report, settings: Settings, path: Path) -> None:
    found = _measure(settings, path)
    rows = []
    for tasks, each in found.items():
        rates = {
            '"disk"': Spread.of(window.rate for window in each.disk),
            "bare loop": Spread.of(each.bare),
            '"journal"': Spread.of(window.rate for window in each.journal),
            "no journal": Spread.of(window.rate for window in each.memory),
        }
        for what, spread in rates.items():
            report.figure(f"{tasks} tasks: {what}: commits/s", spread)
        report.figure(f"{tasks} tasks: over the bare loop", each.over_bare())
        over_serial = Spread.of(window.rate / one for window, one in zip(each.disk, each.serial(), strict=True))
        report.figure(f"{tasks} tasks: over a loop that commits, then writes", over_serial)
        latencies = [Spread.of(getattr(window, p) * 1e3 for window in each.disk) for p in ("p50", "p99")]
        batch = digits(Spread.of(each.batches).median)
        rows.append([str(tasks), str(rates['"disk"']), batch, *map(str, latencies), str(rates["bare loop"])])
        rows[-1] += [str(each.over_bare()), digits(Spread.of(each.serial()).median), str(over_serial)]
        rows[-1] += [*(digits(rates[what].median) for what in ('"journal"', "no journal"))]
        rows[-1].append(each.bound())
        bare_over = Spread.of(bare / window.rate for window, bare in zip(each.disk, each.bare, strict=True))
        what = f'"disk", {tasks} task{"s" * (tasks > 1)}: commits/s of a bare loop of the same batches over ours'
        report.aim(what, 1 / KEPT, bare_over, "x")
    report.table(
        f'Transfers under durable="disk" on {ACCOUNTS:,} accounts, in one process; commits/s',
        [
            *(
                "tasks",
                "commits/s",
                "commits a batch",
                "p50, ms",
                "p99, ms",
                "a bare loop of the same batches",
                "over it",
                "a loop that commits, then writes them",
                "over it",
            ),
            *('not waiting: "journal"', "without a journal", "bounded by"),
        ],
        rows,
    )

    def draw(axes: Any) -> None:
        cases = {
            'durable="disk"': lambda each: [window.rate for window in each.disk],
            "a bare loop of the same batches": lambda each: each.bare,
            'durable="journal", which does not wait': lambda each: [window.rate for window in each.journal],
        }
        for shift, (label, of) in enumerate(cases.items()):
            spreads = [Spread.of(of(each)) for each in found.values()]
            errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
            at = [i + (shift - 1) * 0.27 for i in range(len(spreads))]
            axes.bar(at, [s.median for s in spreads], 0.25, yerr=errors, label=label)
        axes.set_xticks(range(len(found)), list(map(str, found)))
        axes.set(
            yscale="log",
            xlabel="tasks",
            ylabel="commits/s (log)",
            title="what the disk lets through, and what the processor does",
        )
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)

    report.plot(settings, "journal.svg", "commits a second on the disk, by number of tasks", draw)


def _measure(settings: Settings, path: Path) -> dict[int, Found]:
    """Load an arena with a journal and one without, and write the first one's batches once more, barely."""
    found = {tasks: Found() for tasks in TASKS}
    seconds, rounds = settings.pick(0.4, 0.15), settings.pick(31, 3)
    with contextlib.ExitStack() as opened:
        kept = opened.enter_context(Arena.temporary("256 MiB", journal=path / "waiting", compact=False))
        plain = opened.enter_context(Arena.temporary("256 MiB"))
        for arena in kept, plain:
            fill(arena)
        bare = disk.Bare(path / "bare", 64 << 20)
        opened.callback(bare.close)
        waits, goes_on, without = transfers(kept, "disk"), transfers(kept, "journal"), transfers(plain, "memory")
        for i in range(rounds):
            for tasks in TASKS[i % len(TASKS) :] + TASKS[: i % len(TASKS)]:
                progress(f"journal: round {i + 1} of {rounds}, {tasks} tasks")
                each = found[tasks]
                window, sizes = _on_disk(kept, waits, tasks, seconds)
                each.disk.append(window)
                each.batches.append(window.commits / len(sizes))
                each.bare.append(window.commits / bare.write(sizes))
                each.journal.append(load(goes_on, tasks, seconds / 4))
                each.memory.append(load(without, tasks, seconds / 4))
    progress("")
    return found


def _on_disk(arena: Arena, handler: Handler, tasks: int, seconds: float) -> tuple[Window, list[int]]:
    """Load it; return what that gave, and the sizes of the batches in the journal's files."""
    flush(arena)
    begin = native.durable(arena.native)
    window = load(handler, tasks, seconds)
    flush(arena)
    return window, list(_sizes(Folder(arena.native.journal.path), begin))


def _sizes(folder: Folder, begin: int) -> Iterator[int]:
    """Yield bytes of the batches behind a position of the feed."""
    starts = folder.starts()
    for i, start in enumerate(starts):
        if i + 1 < len(starts) and starts[i + 1].position <= begin:
            continue
        with folder.open_file(start.number) as file:
            while (batch := file.next()) is not None:
                if batch.position >= begin:
                    yield BATCH_HEAD + batch.end - batch.position


# -- who does not -------------------------------------------------------------------------------------------------------


def _not_waiting(report: Report, settings: Settings, path: Path) -> None:
    """Tell what feed and journal cost a commit in CPU time of the caller, and of the thread that writes."""
    ways: dict[str, dict[str, Any]] = {
        "no feed": {"feed": None},
        "a feed": {"feed": "64 MiB"},
        "a journal": {"feed": "64 MiB", "journal": path / "not-waiting", "compact": False},
    }
    rows = []
    with contextlib.ExitStack() as stack:
        arenas = {way: stack.enter_context(feed.opened(**options)) for way, options in ways.items()}
        for name in feed.NAMES:
            cases = {way: feed.work(name, arena) for way, arena in arenas.items()}
            timed = compare(cases, settings, title=f"journal: {name}")
            more, ratio = timed.difference("a journal", "no feed"), timed.ratio("a journal", "no feed")
            beside = _writer(cases["a journal"], arenas["a journal"], settings)
            spreads = {"journal over no feed": ratio, "journal: more, ns": more, "thread that writes: ns": beside}
            for what, spread in spreads.items():
                report.figure(f"{name}: {what}", spread)
            feed_alone = timed.difference("a feed", "no feed")
            rows.append([name, str(timed["no feed"]), str(feed_alone), str(more), str(ratio), str(beside)])
    report.table(
        "One commit that does not wait; ns of CPU time of who commits, and of the thread that writes, all of whose time is told",
        ["", "no feed", "a feed: more", "a journal: more", "a journal over no feed", "the thread that writes"],
        rows,
    )


def _writer(doing: Any, arena: Arena, settings: Settings) -> Spread:
    """Return ns of CPU time that the other threads of this process take for a commit."""
    each, n = [], settings.pick(20_000, 2_000)
    for _ in range(settings.pick(11, 3)):
        flush(arena)
        begun = time.process_time_ns() - time.thread_time_ns()
        doing(n)
        flush(arena)
        each.append((time.process_time_ns() - time.thread_time_ns() - begun) / n)
    return Spread.of(each)
