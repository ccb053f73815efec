"""Is the writable working set predicted well: each policy on seeded streams, in shadow, and on live arenas?

In shadow, page numbers of made-up streams go through the policies (`recoverable.speculation.evaluate`) and what they
would have done is counted, at what a trap, a protection, a comparison and a copy cost on this machine. Beside them are
three bounds. The *optimum* knows the future: it unprotects pages just before they are written. The *optimum on demand*
knows it, too, but a page can become hot only after a write, as with every policy that is told of writes by traps. The *best
fixed set* is the best choice of pages that are hot from their first trap to the end: where draws are independent, so that the
past tells nothing but probabilities, somebody who knew those would pay no less, but for chance.

Live, the same 16 pages are written in each transaction through `Array.view`, by one numpy call, with page protection alone.
"""

from __future__ import annotations

import copy
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks import workloads
from benchmarks.harness import Report, Settings, Spread, Timed, compare, digits, progress
from recoverable import Arena, Array
from recoverable._shm import capacity, locked
from recoverable.speculation import POLICIES, Costs, Evaluation, Recording, evaluate

PAGE = 4096
SHOWN = ("adaptive", "incremental", "full", "active-rnd", "active-cks", "genetic")
SEEDS = (1, 2, 3)
INDEPENDENT = ("zipf 0.99", "rare (2 % each)", "uniform")  # whose draws are


def run(settings: Settings) -> Report:
    report = Report("evaluation", "Is the writable working set predicted well?")
    costs = measured_costs()
    report.note(
        f"Costs in the model, measured at the start of this run: a trap {costs.trap:,} ns, a protection "
        f"{costs.protect:,} ns, a comparison {costs.compare:,} ns (two a checkpoint), a copy {costs.copy:,} ns."
    )
    shadow(report, settings, costs)
    shifts(report, settings, costs)
    live(report, settings)
    trapped(report, settings)
    sizes(report, settings)
    return report


def measured_costs() -> Costs:
    """Return the median of five calibrations."""
    found = []
    for _ in range(5):
        with Arena.temporary(size="16 MiB") as arena:
            found.append(arena.stats())
    return Costs(
        *(
            int(statistics.median(getattr(stats, f"cost_{what}_ns") for stats in found))
            for what in ("trap", "protect", "compare", "copy")
        )
    )


def fixed_set(recording: Recording, costs: Costs) -> int:
    """Return the modelled nanoseconds of the best fixed set: each page is cold for good, or hot from its first trap on."""
    n, first, total = len(recording), {}, 0
    for number, page in zip(
        np.repeat(np.arange(n), np.diff(recording.ends, prepend=0)).tolist(), recording.pages, strict=True
    ):
        first.setdefault(page, number)
    for page, writes in Counter(recording.pages).items():
        hot = costs.trap + 2 * costs.protect + writes * costs.copy + 2 * costs.compare * (n - 1 - first[page])
        total += min(writes * (costs.trap + costs.protect), hot)
    return total


# -- in shadow --------------------------------------------------------------------------------------------------


def shadow(report: Report, settings: Settings, costs: Costs) -> None:
    n = settings.pick(20_000, 3_000)
    found: dict[str, list[Evaluation]] = {}
    fixed: dict[str, list[int]] = {}
    for name in workloads.WORKLOADS:
        progress(f"shadow: {name}")
        streams = [workloads.make(name, n, seed) for seed in SEEDS]
        found[name] = [evaluate(stream, SHOWN, costs) for stream in streams]
        fixed[name] = [fixed_set(stream, costs) for stream in streams]
    progress("")
    _tables(report, n, found, fixed)
    _aims(report, found, fixed)

    def draw(axes: Any) -> None:
        names = list(found)
        for k, policy in enumerate(SHOWN):
            values = [statistics.median(e.outcomes[policy].ns / e.on_demand for e in found[name]) for name in names]
            axes.bar(np.arange(len(names)) + (k - 2.5) * 0.14, values, 0.13, label=policy)
        axes.axhline(1, color="black", lw=0.8)
        axes.axhline(1.5, color="black", lw=0.8, ls=":")
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        axes.set(yscale="log", ylabel="cost over the optimum on demand", title="policies in shadow")
        axes.set_ylim(top=axes.get_ylim()[1] * 4)  # room for the legend
        axes.legend(ncols=3, fontsize="small", loc="upper center")

    report.plot(settings, "evaluation.svg", "cost of each policy over the optimum on demand, by workload", draw)


def _tables(report: Report, n: int, found: dict[str, list[Evaluation]], fixed: dict[str, list[int]]) -> None:
    """Say what a checkpoint costs by workload and policy, and what was done for that."""
    rows, counts = [], []
    for name, evaluations in found.items():

        def spread(cost: Callable[[Evaluation], float], evaluations: list[Evaluation] = evaluations) -> Spread:
            return Spread.of(cost(e) / n / 1e3 for e in evaluations)

        bounds = [spread(lambda e: e.optimum), spread(lambda e: e.on_demand)]
        bounds.append(Spread.of(ns / n / 1e3 for ns in fixed[name]))
        each = {policy: spread(lambda e, p=policy: e.outcomes[p].ns) for policy in SHOWN}
        rows.append([name, *(digits(x.median) for x in [*bounds, *each.values()])])
        for policy, figure in each.items():
            report.figure(f"{name}: {policy}", figure)
        for policy in ("adaptive", "active-rnd", "active-cks", "genetic"):
            o = evaluations[0].outcomes[policy]
            counts.append(
                [
                    *(name, policy, digits(o.traps / n), digits(o.copies / n), digits(o.compares / n)),
                    *(digits(o.vain / n), digits((o.promotions + o.demotions) / n), str(o.most_hot)),
                ]
            )
    report.table(
        f"Modelled µs a checkpoint, {n:,} checkpoints, median of {len(SEEDS)} seeds",
        ["workload", "optimum", "on demand", "fixed set", *SHOWN],
        rows,
    )
    report.table(
        "What the estimators did, a checkpoint (first seed); in vain: hot pages compared although unwritten",
        ["workload", "policy", "traps", "copies", "comparisons", "in vain", "switches", "most hot"],
        counts,
    )


def _aims(report: Report, found: dict[str, list[Evaluation]], fixed: dict[str, list[int]]) -> None:
    """Say how far `adaptive` is from the bounds and from `incremental`, where it is farthest."""

    def worst(ratios: dict[str, Spread]) -> tuple[str, Spread]:
        return max(ratios.items(), key=lambda item: item[1].median)

    def over(cost: Callable[[Evaluation], float]) -> dict[str, Spread]:
        return {name: Spread.of(e.outcomes["adaptive"].ns / cost(e) for e in each) for name, each in found.items()}

    for name, cost in (("the optimum", lambda e: e.optimum), ("the optimum on demand", lambda e: e.on_demand)):
        where, figure = worst(over(cost))
        report.aim(f"`adaptive` over {name}, the worst workload ({where})", 1.5, figure)
    independent = {name: list(zip(found[name], fixed[name], strict=True)) for name in INDEPENDENT}
    where, figure = worst(
        {name: Spread.of(e.outcomes["adaptive"].ns / ns for e, ns in pairs) for name, pairs in independent.items()}
    )
    report.aim(f"`adaptive` over the best fixed set, the worst of independent draws ({where})", 1.1, figure)
    bound = min(Spread.of(ns / e.optimum for e, ns in pairs).median for pairs in independent.values())
    report.note(
        f"On independent draws ({', '.join(independent)}) the best fixed set costs at least {digits(bound)} x the optimum: "
        "nobody who does not know the future gets below 1.5 x there."
        if bound > 1.5
        else f"On independent draws the best fixed set costs at least {digits(bound)} x the optimum."
    )
    where, figure = worst(over(lambda e: e.outcomes["incremental"].ns))
    report.aim(f"`adaptive` over `incremental`, the worst workload ({where})", 1.1, figure)


def shifts(report: Report, settings: Settings, costs: Costs) -> None:
    """Every so many checkpoints other pages are written: how long until the cost is what it was?"""
    every = 2000
    n = settings.pick(20, 4) * every
    window = {"two in turn": 5, "zipf, moving": 100}
    makers = {"two in turn": workloads.alternating(every), "zipf, moving": workloads.moving_zipf}
    rows, curves = [], {}
    for name, make in makers.items():
        took: dict[str, list[float]] = {policy: [] for policy in SHOWN}
        for seed in SEEDS:
            stream = workloads.Recording.of(make(n, np.random.default_rng([seed, 99])))
            for policy, outcome in evaluate(stream, SHOWN, costs).outcomes.items():
                # Two fixed sets are old friends from the second turn on; the first is a set never seen before.
                rounds = np.array(outcome.by_step, "f8").reshape(-1, every)[1:]
                mean = np.convolve(rounds.mean(axis=0), np.ones(window[name]) / window[name], "valid")
                steady = rounds[:, every // 2 :].mean()
                above = np.flatnonzero(mean > 1.2 * steady)
                took[policy].append(float(above[-1] + 1) if len(above) else 0.0)
                curves[name, policy] = mean / 1e3
        rows.append([name, *(digits(Spread.of(took[policy]).median) for policy in SHOWN)])
        report.aim(
            f"`adaptive` after a shift ({name}): back within 1.2 x of its steady cost",
            200,
            Spread.of(took["adaptive"]),
            "checkpoints",
        )
    report.table(
        f"Checkpoints after a shift, every {every}, until the last mean of {' or '.join(map(str, window.values()))} that was "
        "above 1.2 x the steady cost",
        ["workload", *SHOWN],
        rows,
    )

    def draw(axes: Any) -> None:
        for policy in SHOWN:
            if policy != "full":
                axes.plot(curves["zipf, moving", policy][:1200], label=policy, lw=1)
        axes.set(xlabel="checkpoints since the hot spot moved", ylabel="modelled µs a checkpoint", ylim=0)
        axes.set_title("zipf 0.99 whose hot spot moves, mean of 100 checkpoints")
        axes.legend(fontsize="small")

    report.plot(settings, "evaluation-shift.svg", "cost after the hot spot has moved", draw)


# -- live -------------------------------------------------------------------------------------------------------


def writer(arena: Arena, where: np.ndarray, pages: int = workloads.PAGES) -> Callable[[int], None]:
    """Return what writes an item in each of some pages in one transaction, n times."""
    with arena.transaction():
        arena.root["a"] = Array((pages * PAGE // 8,), "i8")
    array, transaction = arena.root["a"], arena.transaction

    def steps(n: int) -> None:
        for i in range(n):
            with transaction():
                array.view[where] = i + 1

    return steps


def scattered(count: int, pages: int = workloads.PAGES) -> np.ndarray:
    return np.random.default_rng(5).permutation(pages)[:count].astype(np.int64) * (PAGE // 8)


def live(report: Report, settings: Settings) -> None:
    """The same 16 pages in each transaction, with every policy; `tracking="trap"`."""
    where = scattered(16)
    with Arena.temporary(size="32 MiB", tracking="trap", policy="incremental") as arena:
        steps = writer(arena, where)
        with arena.record() as recorder:
            steps(1000)
    cases: dict[str, Any] = {}
    with ExitStack() as stack:
        for policy in POLICIES:
            options = {"recording": recorder.recording} if policy == "oracle" else {}
            arena = stack.enter_context(
                Arena.temporary(size="32 MiB", tracking="trap", policy=policy, policy_options=options)
            )
            cases[policy] = writer(arena, where)
            cases[policy](1000)
        empty = stack.enter_context(Arena.temporary(size="32 MiB"))
        plain = np.zeros(workloads.PAGES * PAGE // 8, "i8")

        def nothing(n: int) -> None:
            for i in range(n):
                with empty.transaction():
                    plain[where] = i + 1

        cases["a transaction that writes to a plain ndarray"] = nothing
        timed = compare(cases, settings, title="live")
    floor = "a transaction that writes to a plain ndarray"
    rows = []
    for name in cases:
        report.figure(f"live: {name}", timed[name])
        rows.append(
            [
                name,
                str(timed[name].scaled(1e-3)),
                digits(timed.difference(name, floor).median / 1e3) if name != floor else "",
                digits(timed.ratio(name, "incremental").median),
            ]
        )
    report.table(
        'Live, `tracking="trap"`: µs of CPU time for a transaction that writes 16 scattered pages of 4,096 raw, always the same',
        ["policy", "median (quartiles)", "without the transaction and numpy", "over incremental"],
        rows,
    )
    claim(report, timed, floor, "live, stable set: `adaptive` over `{}`, without the transaction and numpy", 25)


def claim(report: Report, timed: Timed, floor: str, text: str, part: int = 20) -> None:
    """A part of incremental, no more than oracle: of what is left when what `floor` takes is taken off."""
    own = {
        name: [a - b for a, b in zip(timed.samples[name], timed.samples[floor], strict=True)]
        for name in ("adaptive", "incremental", "oracle")
    }
    for other, limit in (("incremental", 1 / part), ("oracle", 1.1)):
        ratio = Spread.of(a / b for a, b in zip(own["adaptive"], own[other], strict=True))
        report.aim(text.format(other), limit, ratio)


def trapped(report: Report, settings: Settings) -> None:
    """The same for containers, with page protection alone: an item of each of 8 Lists, two pages long each."""

    def lists(arena: Arena) -> Callable[[int], None]:
        for i in range(64):
            with arena.transaction():
                arena.root[i] = [0] * 512
        chosen, transaction = [arena.root[8 * i] for i in range(8)], arena.transaction

        def steps(n: int) -> None:
            for i in range(n):
                with transaction():
                    for one in chosen:
                        one[7] = i + 1

        return steps

    # Recorded from the first transaction on: `oracle` counts them.
    with Arena.temporary(size="32 MiB", tracking="trap", policy="incremental") as arena, arena.record() as recorder:
        lists(arena)(1000)
    floor = "hybrid: the same, announced"
    cases: dict[str, Any] = {}
    with ExitStack() as stack:
        for policy in ("adaptive", "incremental", "oracle"):
            given: dict[str, Any] = {"recording": recorder.recording} if policy == "oracle" else {}
            arena = stack.enter_context(
                Arena.temporary(size="32 MiB", tracking="trap", policy=policy, policy_options=given)
            )
            cases[policy] = lists(arena)
            cases[policy](1000)
        cases[floor] = lists(stack.enter_context(Arena.temporary(size="32 MiB")))
        timed = compare(cases, settings, title="trap mode")
    report.table(
        'Live, `tracking="trap"`: µs of CPU time for a transaction that writes an item of 8 Lists, always the same',
        ["policy", "median (quartiles)", "over hybrid, which announces"],
        [
            [
                name,
                str(timed[name].scaled(1e-3)),
                digits(timed.difference(name, floor).median / 1e3) if name != floor else "",
            ]
            for name in cases
        ],
    )
    claim(report, timed, floor, "live, trap mode, stable set: `adaptive` over `{}`, without what hybrid takes")


def sizes(report: Report, settings: Settings) -> None:
    """The same work in arenas of different sizes, beside copying all of it, fork and deepcopy."""
    with Arena.temporary(size="1 MiB") as arena, locked(arena.name, create=False, timeout=5.0) as fd:
        room = capacity(fd)
    mib = [1, 16, 256] + [size for size in (2048, 8192) if size << 20 <= room and not settings.quick]
    rows, means = [], []
    for size in mib:
        pages = min(size * 256 // 2, 1 << 16)
        where = scattered(8, min(pages, workloads.PAGES))
        with Arena.temporary(size=f"{size + 1} MiB") as arena:
            adaptive = writer(arena, where, pages)
            adaptive(200)
            cases: dict[str, Any] = {"adaptive": adaptive}
            if size <= 256:
                whole = np.ones((size << 20) // 8, "i8")
                cases["copy"] = lambda n, whole=whole: [whole.copy() for _ in range(n)]
            timed = compare(cases, settings, rounds=settings.pick(9, 3), title=f"{size} MiB")
        row = [f"{size:,} MiB", str(timed["adaptive"].scaled(1e-3))]
        means.append(timed["adaptive"])
        if size <= 256:
            items = {i: [i] * 8 for i in range((size << 20) // 1024)}  # about a KiB each in Python
            row += [digits(timed["copy"].median / 1e3), digits(forked(whole) / 1e3)]
            row.append(digits(deepcopied(items) / 1e3) if size <= 16 else "")
        rows.append(row + [""] * (5 - len(row)))
    report.table(
        "µs for the pre-images of 8 written pages, by the size of the state; fork and deepcopy by the wall clock",
        ["state", "adaptive, the whole transaction", "copy of all", "fork of a process with it", "copy.deepcopy"],
        rows,
    )
    report.aim(
        f"`adaptive`: {mib[-1]:,} MiB over 1 MiB, same work", 1.2, Spread.of([means[-1].median / means[0].median])
    )


def forked(state: np.ndarray) -> float:
    """Nanoseconds until fork has returned and the child has gone."""
    took = []
    for _ in range(5):
        begun = time.perf_counter_ns()
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        took.append(time.perf_counter_ns() - begun)
    del state
    return statistics.median(took)


def deepcopied(state: object) -> float:
    took = []
    for _ in range(3):
        begun = time.perf_counter_ns()
        copy.deepcopy(state)
        took.append(time.perf_counter_ns() - begun)
    return statistics.median(took)
