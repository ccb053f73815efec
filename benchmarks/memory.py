"""How much memory does a million `str -> int` take?

The plain dict is counted with its keys and values, by tracemalloc; each as an application gets them, made one by one.
"""

from __future__ import annotations

import tracemalloc

from benchmarks.harness import Report, Settings, Spread, progress
from benchmarks.stores import key
from recoverable import Arena


def run(settings: Settings) -> Report:
    count = settings.pick(1_000_000, 20_000)
    report = Report("memory", f"How much memory do {count:,} str -> int take?")
    progress("memory: the dict")
    tracemalloc.start()
    plain = {key(i): i + 1000 for i in range(count)}
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del plain
    with Arena.temporary(size="1 GiB") as arena:
        with arena.transaction():
            arena.root["d"] = {}
        d, before = arena.root["d"], arena.stats()
        for at in range(0, count, 1000):
            progress(f"memory: {at:,} of {count:,}")
            with arena.transaction():
                for i in range(at, at + 1000):
                    d[key(i)] = i + 1000
        progress("")
        after = arena.stats()
    used, claimed = after.used - before.used, after.claimed - before.claimed
    report.aim("memory in use, against the dict with its objects", 1.0, Spread.of([used / taken]), "x")
    report.aim(
        "memory claimed from the system, against the dict with its objects", 1.0, Spread.of([claimed / taken]), "x"
    )
    rows = [
        ["dict, keys and values included", f"{taken / count:.1f}", f"{taken / 2**20:.1f}"],
        ["recoverable, in use", f"{used / count:.1f}", f"{used / 2**20:.1f}"],
        ["recoverable, claimed of /dev/shm", f"{claimed / count:.1f}", f"{claimed / 2**20:.1f}"],
        ["the arena's own tables, whatever it holds", "", f"{after.overhead / 2**20:.1f}"],
    ]
    report.table("bytes", ["", "an item", "MiB in all"], rows)
    report.figures |= {"dict": taken, "used": used, "claimed": claimed, "overhead": after.overhead}
    return report
