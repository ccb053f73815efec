"""What does the commit feed cost a commit, and how large are its records?

Each piece of work is a block of its own, on two arenas that differ only in `feed=`: a transfer between two accounts, and the
insertion of a new key. The physical limit beside it is `memcpy` of a record of that size. And what a reader gets through: records
as `Commit` objects, and records brought into a copy in C.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Report, Settings, Spread, compare, digits

ACCOUNTS = 1000
NAMES = "transfer", "insert"
LIMITS = {"transfer": (200, 200), "insert": (None, None)}  # ns more, bytes a record; FEED's floor is 158 and 144
INSERT_LIMIT = 1.10


def run(settings: Settings) -> Report:
    report = Report("feed", "What does the commit feed cost a commit?")
    rows = []
    with contextlib.ExitStack() as stack:
        arenas = {feed: stack.enter_context(opened(feed)) for feed in (None, "16 MiB")}
        for name in NAMES:
            off, on = (work(name, arena) for arena in arenas.values())
            timed = compare({"off": off, "on": on}, settings, title=name)
            more, ratio = timed.difference("on", "off"), timed.ratio("on", "off")
            whole, bare = sizes(arenas["16 MiB"], on)
            limit, most = LIMITS[name]
            if limit is not None:
                report.aim(f"a {name}, with a feed: more than without", limit, more, "ns")
                report.aim(f"a {name}'s record", most, Spread.of([whole]), "bytes")
            else:
                report.aim(f"an {name}, with a feed, over without", INSERT_LIMIT, ratio, "x")
            report.figure(f"{name}: with a feed over without", ratio)
            rows.append([name, str(timed["off"]), str(more), str(ratio), digits(whole), digits(bare)])
        report.table(
            "One commit; ns of CPU time",
            ["", "without a feed", "with one: more", "with over without", "bytes a record", "of them without units"],
            rows,
        )
        reading(report, arenas["16 MiB"], settings)
    return report


@contextlib.contextmanager
def opened(feed: str | None, **options: Any) -> Iterator[Any]:
    from recoverable import Arena

    with Arena.temporary("256 MiB", feed=feed, **options) as arena:
        with arena.transaction():
            arena.root["accounts"] = {f"account-{i}": 1000 for i in range(ACCOUNTS)}
            arena.root["log"] = {}
        yield arena


def work(name: str, arena: Any) -> Callable[[int], None]:
    """Return what does it n times, each in a block."""
    accounts, log, transaction = arena.root["accounts"], arena.root["log"], arena.transaction
    keys = [f"account-{i * 7919 % ACCOUNTS}" for i in range(ACCOUNTS)]
    at = itertools.count()

    def transfer(n: int) -> None:
        for i in range(n):
            source, target = keys[i % ACCOUNTS], keys[(i + 331) % ACCOUNTS]
            with transaction():
                accounts[source] -= 1
                accounts[target] += 1

    def insert(n: int) -> None:
        for _ in range(n):
            number = next(at)
            with transaction():
                log[f"entry-{number}"] = number
            if number % 50_000 == 49_999:
                with transaction():
                    log.clear()

    return transfer if name == "transfer" else insert


def sizes(arena: Any, doing: Callable[[int], None]) -> tuple[float, float]:
    """Return bytes of a record, with and without the names of what was written."""
    from recoverable._native import feed

    state = feed.state(arena.native)
    assert state is not None
    at = state[4]
    doing(200)
    found = feed.parse(feed.read(arena.native, at, 1 << 20), lambda *args: (args[8], len(args[4]), args[6]))
    commits = [(length, units) for length, units, is_slice in found if not is_slice]
    return (
        sum(length for length, _ in commits) / len(commits),
        sum(length - 24 * units for length, units in commits) / len(commits),
    )


def reading(report: Report, arena: Any, settings: Settings) -> None:
    """Time a reader, and a copy that is brought forward."""
    from recoverable._native import feed
    from recoverable.cli import _image

    copy = os.memfd_create("bench-feed", os.MFD_CLOEXEC)
    with Path(f"/dev/shm/recoverable.{arena.name}").open("rb") as file:
        _image._copy(file.fileno(), copy)
    state = feed.state(arena.native)
    assert state is not None
    doing = work("transfer", arena)
    doing(settings.pick(40_000, 2_000))
    records = feed.read(arena.native, state[4], 16 << 20)
    rates = {"Commit objects": [], "a copy, in C": []}  # type: dict[str, list[float]]
    n = len(feed.parse(records, lambda *args: None))
    for _ in range(settings.pick(7, 2)):
        begun = time.perf_counter()
        sum(1 for _ in arena.feed(state[5], follow=False))
        rates["Commit objects"].append(n / (time.perf_counter() - begun))
        other = os.memfd_create("bench-feed", os.MFD_CLOEXEC)
        _image._copy(copy, other)
        restore = feed.Restore(other, "bench-feed")
        begun = time.perf_counter()
        restore.apply(records)
        rates["a copy, in C"].append(n / (time.perf_counter() - begun))
        restore.close()
        os.close(other)
    os.close(copy)
    rows = [[name, str(Spread.of(values))] for name, values in rates.items()]
    report.table("Records a second", ["read as", "median (quartiles)"], rows)
    for name, values in rates.items():
        report.figure(f"records a second: {name}", Spread.of(values))
    report.aim("µs to bring a copy forward by a transfer", 1.0, Spread.of(1e6 / v for v in rates["a copy, in C"]), "µs")
