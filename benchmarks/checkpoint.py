"""What do a checkpoint and its end cost: of nothing, of one announced write, of k raw pages?

Raw pages are written through `Array.view`, one store a page, by one numpy call. Beside them: copying the same pages
with memcpy (numpy), which is the least that any checkpoint in advance must do, and os.fork() with a child that ends
at once, which is how a process is checkpointed by the kernel. fork is measured by the wall clock, since its work is
in two processes; the rest in CPU time of the thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from typing import Any

import numpy as np

from benchmarks.harness import Back, Report, Run, Settings, Timed, compare, digits, exceptions
from recoverable import Arena, Array, recoverable

PAGE = 4096
COUNTS = (1, 4, 16, 64, 256)
PAGES = 4096
POLICIES = ("incremental", "adaptive")


def small(report: Report, settings: Settings) -> None:
    """One empty step, and one number through a Dict."""
    getpid = ctypes.CDLL(None).getppid
    with Arena.temporary(size="64 MiB") as arena:
        root, transaction = arena.root, arena.transaction
        with transaction():
            root["n"] = 0

        def call(n: int) -> None:
            for _ in range(n):
                getpid()

        def bare(n: int) -> None:
            for _ in range(n):
                pass

        def empty(n: int) -> None:
            for _ in range(n):
                with transaction():
                    pass

        def read(n: int) -> None:
            for _ in range(n):
                with transaction():
                    root["n"]

        def commit(n: int) -> None:
            for i in range(n):
                with transaction():
                    root["n"] = i

        @recoverable(arena=arena)
        def put(i: int) -> None:
            root["n"] = i

        def plain(n: int) -> None:
            for i in range(n):
                put(i)

        def rollback(n: int) -> None:
            back = Back()
            for i in range(n):
                try:
                    with transaction():
                        root["n"] = i
                        raise back
                except Back:
                    back.__traceback__ = None

        timed = compare(
            {
                "an empty loop": bare,
                "one ctypes call (getppid)": call,
                "transaction: nothing": empty,
                "transaction: one number read through Dict": read,
                "transaction: one number written through Dict, commit": commit,
                "a plain @recoverable function: the same": plain,
                "transaction: one number written through Dict, rollback": rollback,
                "raising and catching through an empty `with`": exceptions,
            },
            settings,
            title="small steps",
        )
    commits = "transaction: one number written through Dict, commit"
    ctypes_call = "one ctypes call (getppid)"
    report.aim("begin, one number written through Dict, commit", 1.0, timed[commits].scaled(1e-3), "µs")
    report.aim(
        "the same, in ctypes calls of the same run (the aim: 1 µs where one costs 0.4)",
        2.5,
        timed.ratio(commits, ctypes_call),
        "calls",
    )
    ratio = timed.ratio("a plain @recoverable function: the same", commits)
    report.aim("the same in a plain @recoverable function, against the block", 1.3, ratio, "x")
    rows = []
    for name in timed.samples:
        report.figure(name, timed[name])
        rows.append([name, str(timed[name].scaled(1e-3)), digits(timed.ratio(name, ctypes_call).median)])
    report.table("µs of CPU time", ["", "median (quartiles)", "in ctypes calls"], rows)


def places(k: int, scattered: bool) -> np.ndarray:
    """Return the items to write: one in each of k pages."""
    pages = np.random.default_rng(k).permutation(PAGES)[:k] if scattered else np.arange(k) + 100
    return pages.astype(np.int64) * (PAGE // 8)


def writers(arena: Arena, where: np.ndarray) -> tuple[Run, Run]:
    """Return begin + k pages + commit, and begin + k pages + rollback."""
    array, transaction = arena.root["a"], arena.transaction
    back = Back()

    def commit(n: int) -> None:
        for i in range(n):
            with transaction():
                array.view[where] = i + 1

    def rollback(n: int) -> None:
        for i in range(n):
            try:
                with transaction():
                    array.view[where] = -i - 1
                    raise back
            except Back:
                back.__traceback__ = None

    return commit, rollback


def raw(report: Report, settings: Settings) -> None:
    """K raw pages, by policy, beside memcpy and fork."""
    lines: dict[tuple[str, str], list[float]] = {}
    rows = []
    counts = settings.pick(COUNTS, (1, 16))
    for how in ("adjacent", "scattered"):
        for k in counts:
            timed = pages_written(k, how == "scattered", settings)
            for name in timed.samples:
                report.figure(f"{k} {how}: {name}", timed[name])
                lines.setdefault((name, how), []).append(timed[name].median / 1e3)
            rows.append([f"{k} {how}", *(str(timed[name].scaled(1e-3)) for name in timed.samples)])
    report.table(
        "k raw pages written, µs of CPU time for begin + write + end",
        ["pages", "memcpy of them", *(f"{p}, {e}" for p in POLICIES for e in ("commit", "rollback"))],
        rows,
    )
    timed = compare({"fork": forks}, settings, rounds=settings.pick(15, 3), clock=time.perf_counter_ns, title="fork")
    fork = timed["fork"]
    report.figure("fork", fork)
    report.note(
        f"`os.fork()` of this process with a child that ends at once, and `wait`: "
        f"{fork.scaled(1e-3)} µs by the wall clock."
    )

    def draw(axes: Any) -> None:
        colours = {"memcpy": "k", "incremental": "C3", "adaptive": "C0"}
        for (name, how), values in lines.items():
            policy, _, end = name.partition(", ")
            if end != "rollback":
                dash = "-" if how == "scattered" else "--"
                axes.plot(counts, values, dash, color=colours[policy], marker="o", label=f"{policy}, {how}")
        axes.axhline(fork.median / 1e3, color="gray", lw=1, label="fork + wait (wall)")
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="raw pages written in a step",
            ylabel="µs",
            title="begin + write + commit",
        )
        axes.set_xticks(counts, [str(k) for k in counts])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)

    report.plot(settings, "checkpoint.svg", "cost of a step by the raw pages that it writes", draw)


def pages_written(k: int, scattered: bool, settings: Settings) -> Timed:
    """Time copying k pages, and writing to them in an arena of each policy."""
    where = places(k, scattered)
    pages = where // (PAGE // 8)
    source, target = np.zeros((PAGES, PAGE), np.uint8), np.empty((k, PAGE), np.uint8)

    def copy(n: int) -> None:
        for _ in range(n):
            if scattered:
                source.take(pages, 0, target)
            else:
                target[:] = source[100 : 100 + k]

    cases: dict[str, Run] = {"memcpy": copy}
    with contextlib.ExitStack() as opened:
        for policy in POLICIES:
            arena = opened.enter_context(Arena.temporary(size="64 MiB", undo_size="16 MiB", policy=policy))
            with arena.transaction():
                arena.root["a"] = Array(PAGES * PAGE // 8, "i8")
            cases[f"{policy}, commit"], cases[f"{policy}, rollback"] = writers(arena, where)
        title = f"{k} {'scattered' if scattered else 'adjacent'} pages"
        return compare(cases, settings, rounds=settings.pick(9, 3), title=title)


def forks(n: int) -> None:
    for _ in range(n):
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)


def run(settings: Settings) -> Report:
    report = Report("checkpoint", "What do a checkpoint and its end cost?")
    small(report, settings)
    raw(report, settings)
    return report
