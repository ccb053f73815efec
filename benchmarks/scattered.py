"""What do scattered pages cost: every page with a protection of its own splits the kernel's map of the process?

Live: n pages, scattered over 64 MiB, each written once in a transaction by one numpy call, cold (every one traps) and hot
(every one is compared and copied), with the map entries that this takes. Bare: what `mprotect` alone takes for n pages with
a gap of one page after each (`benchmarks/kernel.c`), in four ways: one by one; protected again by one call across all, which is
what the tracker does; and with the gaps filled, that is unprotected and copied with the page after them, so that all becomes
one mapping.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import kernel, served, streams
from benchmarks.evaluation import PAGE, scattered, writer
from benchmarks.harness import Report, Settings, compare, digits
from recoverable import Arena

PAGES = 16384
COUNTS = (1, 4, 16, 64, 256, 1024, 4096)


def run(settings: Settings) -> Report:
    report = Report("scattered", "What do scattered pages cost?")
    live(report, settings)
    bare(report)
    gaps(report)
    return report


def entries() -> int:
    return Path("/proc/self/maps").read_bytes().count(b"\n")


def live(report: Report, settings: Settings) -> None:
    rows, curves = [], {"cold": [], "hot": []}  # type: ignore[var-annotated]
    counts = settings.pick(COUNTS, COUNTS[:4])
    for n in counts:
        where = scattered(n, PAGES)
        with ExitStack() as stack:
            cases: dict[str, Any] = {}
            used = {}
            for case, policy, options in (("cold", "incremental", {}), ("hot", "full", {"max_hot": n})):
                arena = stack.enter_context(
                    Arena.temporary(size="384 MiB", undo_size="64 MiB", policy=policy, policy_options=options)
                )
                before = entries()
                cases[case] = writer(arena, where, PAGES)
                cases[case](3)
                with arena.transaction():
                    arena.root["a"].view[where] = 99
                    used[case] = entries() - before
                assert arena.stats().hot_pages == (n if case == "hot" else 0)
            plain = np.zeros(PAGES * PAGE // 8, "i8")
            empty = stack.enter_context(Arena.temporary(size="16 MiB"))

            def nothing(times: int, plain: Any = plain, where: Any = where, empty: Arena = empty) -> None:
                for i in range(times):
                    with empty.transaction():
                        plain[where] = i

            cases["nothing"] = nothing
            timed = compare(cases, settings, rounds=settings.pick(7, 3), target=0.03, title=f"scattered: {n}")
        row = [f"{n:,}"]
        for case in ("cold", "hot"):
            took = timed[case]
            report.figure(f"{n} {case}", took)
            curves[case].append(took.median / 1e3)
            row += [str(took.scaled(1e-3)), digits(took.median / n / 1e3), f"{used[case]:,}"]
        rows.append([*row, digits(timed["nothing"].median / 1e3)])
    report.table(
        "Live: µs of CPU time for the whole transaction; the same a page; map entries more than before",
        ["pages", "cold", "a page", "entries", "hot", "a page", "entries", "without tracking"],
        rows,
    )

    def draw(axes: Any) -> None:
        for case, values in curves.items():
            axes.plot(counts, values, marker="o", label=case)
        axes.set(xscale="log", yscale="log", xlabel="scattered pages written in a step", ylabel="µs a checkpoint")
        axes.set_xticks(counts, [str(n) for n in counts])
        axes.grid(alpha=0.3)
        axes.legend()

    report.plot(settings, "scattered.svg", "cost of a checkpoint by the scattered pages written", draw)


def bare(report: Report) -> None:
    with kernel.compiled() as ask:
        if ask is None:
            report.note("No C compiler: what mprotect alone costs is missing.")
            return
        lines = ask("scatter")
    report.table(
        "Bare mprotect, every other page of n: µs a page, the best of several rounds; gaps filled: with a copy of the gap",
        [
            "pages",
            "entries",
            "unprotect",
            "protect one by one",
            "in one call",
            "unprotect, gaps filled",
            "protect, gaps filled",
        ],
        [[f"{int(n):,}", f"{int(used):,}", *(digits(int(ns) / 1e3) for ns in rest)] for n, used, *rest in lines],
    )


def gaps(report: Report) -> None:
    """How often would filling gaps apply to what the example servers write?"""
    rows = []
    for name in served.NAMES:
        recording = streams.load(name)
        distances = np.concatenate([np.diff(np.sort(np.array(step))) for step in recording])
        total = len(recording.pages)
        shares = [(distances == 1).sum(), (distances == 2).sum(), ((distances > 2) & (distances <= 5)).sum()]
        rows.append([name, *(f"{int(share) / total:.1%}" for share in shares)])
    report.table(
        "The recorded streams: share of the written pages that lie so far behind the one before them in the same step",
        ["server", "adjacent", "a gap of one page", "of two to four"],
        rows,
    )
