"""What does durability cost the bank, on each store?

The bank of `benchmarks/rivals/` with its state on a disk, as `compare.py` runs it: aiohttp on uvloop, a process each, all of them
running, loaded by `wrk` in turn, in a new random order each round. What is compared makes the same promise about a power loss:
nothing that was answered is lost; at most about a second of it is; or all of it may be, which tells what durability costs.

SQLite and LMDB commit in the event loop, as in `compare.py`, and as a user writes it to whom the disk is too slow for that: a
thread commits all that wait at once. The other stores do that by themselves. What a burst has left to the kernel is written before
the next one begins, so nobody pays for another's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from dataclasses import dataclass, field
from typing import Any

from benchmarks import disk
from benchmarks.harness import Report, Settings, Spread, digits, progress
from benchmarks.rivals import ACCOUNTS, DECORATED, DURABLE, LMDB, RIVALS, Missing, Rival
from benchmarks.rivals.running import CONNECTIONS, Burst, in_turn, over, running

OURS = {"nothing": 'recoverable, "disk"', "a second": 'recoverable, "journal"', "all": DECORATED}
#: What a power loss takes of what was answered: the promises that are compared, and whose they are.
PROMISES = {
    "nothing": {
        OURS["nothing"]: "nothing",
        'recoverable, "disk", a block': "nothing",
        "SQLite, FULL": "nothing",
        "SQLite, FULL, grouped": "nothing",
        "LMDB, synced": "nothing",
        "LMDB, synced, grouped": "nothing",
        "Redis, always": "nothing",
        "PostgreSQL, synchronous": "nothing",
    },
    "a second": {
        OURS["a second"]: "10 ms",
        'recoverable, "journal", a block': "10 ms",
        "SQLite, WAL, NORMAL": "what came since its last checkpoint, and was not written by the kernel",
        "SQLite, NORMAL, grouped": "the same",
        "LMDB, synced each second": "1 s; the file may be damaged, unless the file system writes in order",
        "Redis, everysec": "1 s, and 2 s while the disk is slow",
        "PostgreSQL": "0.6 s",
    },
    "all": {
        OURS["all"]: "all",
        "SQLite, WAL, OFF": "what the kernel has not written; the file may be damaged",
        LMDB: "what the kernel has not written; the file may be damaged",
        "Redis, Lua": "all",
    },
}
TITLES = {
    "nothing": "Nothing that was answered is lost",
    "a second": "At most about a second of it",
    "all": "Not kept on the disk, or when the kernel likes",
}


@dataclass
class Found:
    """What was measured of one bank."""

    bursts: list[Burst] = field(default_factory=list)
    flushes: list[float] = field(default_factory=list)  # of the device, for 1,000 requests


def run(settings: Settings) -> Report:
    report = Report("durable", "What does durability cost the bank, on each store?")
    if shutil.which("wrk") is None:
        report.note("Not run: `wrk` is not installed (Debian: apt install wrk).")
        return report
    try:
        disk.check(settings.disk)
    except disk.NoDisk as refused:
        report.note(f"Not run: {refused}.")
        return report
    found = measure(report, settings)
    for promise in PROMISES:
        tell(report, found, promise)
    disk.tell(report, settings)
    report.note(
        "Flushes are those of the whole device, whoever asked for them: what others do on the machine is in them. "
        f"{DECORATED}, without a journal, has {Spread.of(burst.rate for burst in found[DECORATED].bursts)} requests/s."
    )
    plot(report, settings, found)
    return report


def measure(report: Report, settings: Settings) -> dict[str, Found]:
    """Load all of them in turn."""
    found: dict[str, Found] = {}
    with contextlib.ExitStack() as opened:
        servers = {}
        for rival in rivals():
            progress(f"durable: {rival.name} starts")
            try:
                servers[rival.name] = opened.enter_context(running(rival, settings.disk))
                found[rival.name] = Found()
            except Missing as missing:
                print(f"\n##### NOT COMPARED: {rival.name}. {missing} #####", file=sys.stderr, flush=True)
                report.note(f"Not compared: {rival.name}. {missing}.")
        before = None  # what the first one begins with, nobody knows
        for name, burst in in_turn(servers, settings.pick(25, 2), "durable"):
            after = disk.flushes(settings.disk)
            found[name].bursts.append(burst)
            if before is not None and after is not None:
                found[name].flushes.append((after - before) / burst.rate * 1e3)
            os.sync()
            before = disk.flushes(settings.disk)
        for name, server in servers.items():
            server.ask("/idle")
            if off := server.ask("/books")["off"]:
                report.note(f"{name}: {off} balances are not what the audit says, after the load.")
    return found


def rivals() -> list[Rival]:
    """Return those whose promises are told here."""
    wanted = {name for promised in PROMISES.values() for name in promised}
    return [rival for rival in (*RIVALS, *DURABLE) if rival.name in wanted]


def tell(report: Report, found: dict[str, Found], promise: str) -> None:
    """Tell of those that make one promise, against ours and against ours in memory."""
    ours, memory, rows = found[OURS[promise]].bursts, found[DECORATED].bursts, []
    names = [name for name in PROMISES[promise] if name in found]
    for name in names:
        bursts, flushes = found[name].bursts, found[name].flushes
        share, against, cpu = over(bursts, memory, "rate"), over(bursts, ours, "rate"), over(bursts, ours, "cpu")
        p99 = Spread.of(burst.p99 for burst in bursts)
        for what, spread in {
            "throughput": share,
            "throughput over ours": against,
            "CPU over ours": cpu,
            "p99": p99,
        }.items():
            report.figure(f"{promise}: {name}: {what}", spread)
        rate = digits(Spread.of(burst.rate for burst in bursts).median)
        flushed = digits(Spread.of(flushes).median) if flushes else "–"
        rows.append([name, PROMISES[promise][name], rate, str(share), str(against), str(p99), str(cpu), flushed])
    report.table(
        f"{TITLES[promise]}: POST /transfer on {ACCOUNTS:,} accounts, {CONNECTIONS} connections",
        [
            *("bank on", "a power loss takes", "requests/s", "throughput, as part of ours in memory"),
            *(f"over {OURS[promise]}", "p99, ms", f"CPU over {OURS[promise]}", "flushes for 1,000"),
        ],
        rows,
    )
    others = [name for name in names if not name.startswith("recoverable")]
    if promise != "all" and others:
        best = max(others, key=lambda name: over(found[name].bursts, ours, "rate").median)
        what = f"a power loss takes {promise}: throughput of the best other ({best}) over {OURS[promise]}, paired"
        report.aim(what, 1.0, over(found[best].bursts, ours, "rate"), "x")


def plot(report: Report, settings: Settings, found: dict[str, Found]) -> None:
    """Draw throughput as a part of ours in memory, by promise."""

    def draw(axes: Any) -> None:
        names = [name for promised in PROMISES.values() for name in promised if name in found]
        for color, (promise, promised) in enumerate(PROMISES.items()):
            mine = [name for name in names if name in promised]
            spreads = [over(found[name].bursts, found[DECORATED].bursts, "rate") for name in mine]
            errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
            at = [names.index(name) for name in mine]
            label = f"a power loss takes {promise}"
            axes.barh(at, [s.median for s in spreads], 0.7, xerr=errors, color=f"C{color}", label=label)
        axes.axvline(1, color="black", lw=0.8)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set(xlabel="throughput, as a part of recoverable's in memory", title="the same bank, durable")
        axes.legend(loc="upper center", bbox_to_anchor=(0.3, -0.15), ncols=3)

    report.plot(settings, "durable.svg", "throughput of the bank by store and by what a power loss takes", draw)
