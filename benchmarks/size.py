"""Does the cost of an operation depend on how big the state is?

One Dict grows from a thousand to ten million keys. At each size: the mean cost of a read and of a transaction that
overwrites one key; and single transactions (overwrite, insert, delete) each timed alone, for the slowest: by CPU time
of the thread, which says what the operation itself does, and by the wall clock for the 99.99th percentile, without those
during which the kernel gave the core to somebody else. Every insertion may grow the table, and may have to claim memory from
the system.
"""

from __future__ import annotations

import random
import time
from resource import RUSAGE_THREAD, getrusage
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
    rows = []
    means: dict[str, list[float]] = {"read": [], "overwrite": [], "dict read": []}
    worst_cpu: dict[str, list[float]] = {}
    tails: dict[str, list[float]] = {}
    plain: dict[str, int] = {}
    with Arena.temporary(size="4 GiB") as arena:
        with arena.transaction():
            arena.root["d"] = {}
        d: Any = arena.root["d"]
        for size in sizes:
            fill(arena, d, plain, size)
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
                found = report.figures[f"{size}: {name}, µs"] = slowest([one[name] for one in passes])
                worst_cpu.setdefault(name, []).append(found["cpu_max"])
                tails.setdefault(name, []).append(found["wall_p9999"])
                row.append(" / ".join(digits(found[what]) for what in ("cpu_median", "cpu_max", "wall_p9999")))
            rows.append(row)
        progress("size: verifying")
        if settings.quick or sizes[-1] <= 10**6:
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
            f"99.99th percentile of {name}, the worst size, wall clock, involuntary switches aside",
            60,
            Spread.of([max(tails[name])]),
            "µs",
        )
    growth, plain_growth = (means[name][-1] / means[name][0] for name in ("read", "dict read"))
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


def fill(arena: Arena, d: Any, plain: dict[str, int], size: int) -> None:
    """Add keys to both until there are `size`."""
    for first in range(len(plain), size, STEP):
        progress(f"size: filling, {first:,} of {size:,} keys")
        some = {key(i): i for i in range(first, min(first + STEP, size))}
        with arena.transaction():
            for k, i in some.items():
                d[k] = i
        plain.update(some)


def slowest(passes: list[tuple[list[int], list[int]]]) -> dict[str, float]:
    """Return what single operations took, in µs, of (CPU ns, wall ns) of each in some passes.

    An interrupt lengthens one operation of one pass; what an operation does itself, it does in all: the median of passes.
    """
    cpu, wall = ([x for one in passes for x in one[clock]] for clock in (0, 1))
    figures = {
        "cpu_max": Spread.of(max(one[0]) for one in passes).median,
        "cpu_max_of_all": max(cpu),
        "cpu_p9999": percentile(cpu, 99.99),
        "cpu_median": percentile(cpu, 50),
        "wall_p9999": Spread.of(percentile(one[1], 99.99) for one in passes).median,
        "wall_max": max(wall),
    }
    return {name: ns / 1e3 for name, ns in figures.items()}


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
    """Time single transactions: CPU ns of each, and wall ns of those during which nobody else was given the core.

    What is inserted is deleted again.
    """
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
        cpu, wall = [0] * count, []
        for i, k in enumerate(keys):
            taken_away = getrusage(RUSAGE_THREAD).ru_nivcsw
            begun, began = wall_clock(), cpu_clock()
            work(k)
            ended = cpu_clock()
            took = wall_clock() - begun
            cpu[i] = ended - began
            if getrusage(RUSAGE_THREAD).ru_nivcsw == taken_away:
                wall.append(took)
        out[name] = (cpu, wall)
    return out
