"""Does the cost of an operation depend on how big the state is?

One Dict grows from a thousand to ten million keys. At each size: the mean cost of a read and of a transaction that
overwrites one key; and single transactions (overwrite, insert, delete) each timed alone, for the slowest: by CPU time
of the thread, which says what the operation itself does, and by the wall clock for the 99.99th percentile, which has
in it whoever else wanted the core. Every insertion may grow the table, and may have to claim memory from the system.
"""

from __future__ import annotations

import random
import time
from typing import Any

from benchmarks.harness import Report, Settings, Spread, compare, digits, percentile, progress
from benchmarks.stores import key
from recoverable import Arena

PASSES = 3
STEP = 1000  # keys a transaction while filling
NOTHING = "no operation"  # timed in the same way: what the clock, the scheduler and interrupts add


def run(settings: Settings) -> Report:
    sizes = settings.pick([10**3, 10**4, 10**5, 10**6, 10**7], [10**3, 10**4])
    singles = settings.pick(100_000, 2_000)
    report = Report("size", "Does the cost of an operation depend on the size of the state?")
    rows, means = [], {"read": [], "overwrite": [], "dict read": []}
    worst_cpu: dict[str, list[float]] = {}
    tails: dict[str, list[float]] = {}
    plain: dict[str, int] = {}
    with Arena.temporary(size="4 GiB") as arena:
        begin = arena.transaction
        with begin():
            arena.root["d"] = {}
        d: Any = arena.root["d"]
        have = 0
        for size in sizes:
            while have < size:
                progress(f"size: filling, {have:,} of {size:,} keys")
                upto = min(have + STEP, size)
                with begin():
                    for i in range(have, upto):
                        d[key(i)] = i
                plain.update((key(i), i) for i in range(have, upto))
                have = upto
            rng = random.Random(size)
            keys = [key(rng.randrange(size)) for _ in range(20_000)]
            timed = compare(cases(arena, d, plain, keys), settings, rounds=settings.pick(9, 3), title=f"{size:,} keys")
            row = [f"{size:,}"]
            for name, values in means.items():
                spread = timed[name].scaled(1 / len(keys))
                report.figure(f"{size}: {name}, ns", spread)
                values.append(spread.median)
                row.append(str(spread))
            passes = [alone(arena, d, size, singles, i) for i in range(PASSES)]
            for name in passes[0]:
                # An interrupt lengthens one operation of one pass; what an operation does itself, it does in all.
                slowest = Spread.of(max(one[name][0]) for one in passes).median / 1e3
                tail = Spread.of(percentile(one[name][1], 99.99) for one in passes).median / 1e3
                cpu, wall = ([x for one in passes for x in one[name][j]] for j in (0, 1))
                worst_cpu.setdefault(name, []).append(slowest)
                tails.setdefault(name, []).append(tail)
                report.figures[f"{size}: {name}, µs"] = {
                    "cpu_max": slowest,
                    "cpu_max_of_all": max(cpu) / 1e3,
                    "cpu_p9999": percentile(cpu, 99.99) / 1e3,
                    "cpu_median": percentile(cpu, 50) / 1e3,
                    "wall_p9999": tail,
                    "wall_max": max(wall) / 1e3,
                }
                row.append(f"{digits(percentile(cpu, 50) / 1e3)} / {digits(slowest)} / {digits(tail)}")
            rows.append(row)
        progress("size: verifying")
        if settings.quick or have <= 10**6:
            arena.verify()
        progress("")
    for name in [name for name in worst_cpu if name != NOTHING]:
        report.aim(
            f"slowest single {name} of {singles:,}, the worst size (median of {PASSES} passes), CPU time",
            200,
            Spread.of([max(worst_cpu[name])]),
            "µs",
        )
        report.aim(
            f"99.99th percentile of {name}, the worst size, wall clock", 200, Spread.of([max(tails[name])]), "µs"
        )
    growth = means["read"][-1] / means["read"][0]
    plain_growth = means["dict read"][-1] / means["dict read"][0]
    report.note(
        f"From {sizes[0]:,} to {sizes[-1]:,} keys a read costs {digits(growth)} times as much; in a plain dict, "
        f"which has the same cache misses, {digits(plain_growth)} times."
    )
    report.table(
        "ns of CPU time by the number of keys; single transactions: µs, median CPU / slowest CPU / p99.99 wall",
        ["keys", "read", "transaction: overwrite", "dict read", *worst_cpu],
        rows,
    )

    def draw(axes: Any) -> None:
        for name, values in means.items():
            axes.plot(sizes, values, marker="o", label=name, ls=":" if name.startswith("dict") else "-")
        axes.set(xscale="log", xlabel="keys", ylabel="ns of CPU time", title="cost by the size of the Dict", ylim=0)
        axes.grid(alpha=0.3)
        axes.legend()

    report.plot(settings, "size.svg", "cost of an operation by the number of keys", draw)
    return report


def cases(arena: Arena, d: Any, plain: dict[str, int], keys: list[str]) -> dict[str, Any]:
    """Every key once, n times."""

    def read(n: int) -> None:
        for _ in range(n):
            with arena.transaction():
                for k in keys:
                    d[k]

    def overwrite(n: int) -> None:
        begin = arena.transaction
        for _ in range(n):
            for k in keys:
                with begin():
                    d[k] = 1

    def plain_read(n: int) -> None:
        for _ in range(n):
            for k in keys:
                plain[k]

    return {"read": read, "overwrite": overwrite, "dict read": plain_read}


def alone(arena: Arena, d: Any, size: int, count: int, number: int) -> dict[str, tuple[list[int], list[int]]]:
    """Time single transactions: (CPU ns, wall ns) of each. What is inserted is deleted again."""
    rng = random.Random(size + number)
    begin, cpu_clock, wall_clock = arena.transaction, time.thread_time_ns, time.perf_counter_ns
    old = [key(rng.randrange(size)) for _ in range(count)]
    new = [key(size + number * count + i) for i in range(count)]
    out = {}

    def put(k: str) -> None:
        with begin():
            d[k] = 1

    def delete(k: str) -> None:
        with begin():
            del d[k]

    def nothing(k: str) -> None: ...

    todo = ((NOTHING, old, nothing), ("overwrite", old, put), ("insert", new, put), ("delete", new, delete))
    for name, keys, work in todo:
        progress(f"size: {size:,} keys, single {name}s")
        cpu, wall = [0] * count, [0] * count
        for i, k in enumerate(keys):
            begun, began = wall_clock(), cpu_clock()
            work(k)
            ended = cpu_clock()
            wall[i] = wall_clock() - begun
            cpu[i] = ended - began
        out[name] = (cpu, wall)
    return out
