"""Is the writable working set of real servers predicted well: each policy on recordings of the five examples?

`python -m benchmarks.streams` records them again: each example server, with its state in containers but for the matrix, under
the load of `benchmarks/served.py`, with every page that a step writes, announced or raw: what would trap if containers wrote
through the tracked view. Since keys are hashed with each arena's own secret, two recordings differ; so those that the
figures of `docs/evaluation.md` come from are kept in `benchmarks/data`, and make the same figures again.

In shadow, the policies are run on the page numbers; live, the same pages are written raw, in the same steps, by numpy.
"""

from __future__ import annotations

import json
import lzma
import sys
from array import array
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import served
from benchmarks.evaluation import PAGE, SHOWN, fixed_set, measured_costs
from benchmarks.harness import Report, Settings, Spread, compare, digits, progress
from recoverable import Arena, Array
from recoverable.speculation import Evaluation, Recording, evaluate

DATA = Path(__file__).resolve().parent / "data"
STEPS = 6_000


# -- kept recordings ----------------------------------------------------------------------------------------------


def save(name: str, recording: Recording) -> int:
    """Keep a recording, the pages of each step sorted; return how many bytes that takes."""
    names = sorted(set(recording.handlers))
    counts = np.diff(np.array(recording.ends, "i8"), prepend=0).astype("<u2")
    pages = np.concatenate([np.array([], "i8"), *(np.sort(np.array(step, "i8")) for step in recording)])
    head = json.dumps({"handlers": names, "steps": len(recording)}).encode() + b"\n"
    parts = (
        counts,
        np.array([names.index(handler) for handler in recording.handlers], "u1"),
        np.diff(pages, prepend=0).astype("<i4"),
    )
    data = lzma.compress(head + b"".join(part.tobytes() for part in parts), preset=9)
    DATA.mkdir(exist_ok=True)
    (DATA / f"{name}.xz").write_bytes(data)
    return len(data)


def load(name: str) -> Recording:
    """Return a kept recording."""
    head, _, rest = lzma.decompress((DATA / f"{name}.xz").read_bytes()).partition(b"\n")
    about = json.loads(head)
    n = about["steps"]
    ends = np.cumsum(np.frombuffer(rest, "<u2", n), dtype="u4")
    handlers = np.frombuffer(rest, "u1", n, 2 * n)
    pages = np.cumsum(np.frombuffer(rest, "<i4", -1, 3 * n)).astype("u4")
    return Recording(
        array("I", ends.tolist()), array("I", pages.tolist()), tuple(about["handlers"][i] for i in handlers.tolist())
    )


def record_all() -> None:
    for name in served.NAMES:
        ends, pages, handlers = served.recorded(name, 3, STEPS)
        size = save(name, Recording(ends, pages, tuple(handlers)))
        print(f"{name}: {len(ends):,} steps, {len(pages):,} pages, {size:,} bytes", Counter(handlers))


# -- the report ---------------------------------------------------------------------------------------------------


def run(settings: Settings) -> Report:
    report = Report("streams", "Is the writable working set of real servers predicted well?")
    costs = measured_costs()
    report.note(
        f"Costs in the model, measured at the start of this run: a trap {costs.trap:,} ns, a protection "
        f"{costs.protect:,} ns, a comparison {costs.compare:,} ns (two a checkpoint), a copy {costs.copy:,} ns."
    )
    recordings = {name: cut(load(name), settings.pick(STEPS, 1500)) for name in served.NAMES}
    about = []
    for name, recording in recordings.items():
        written = Counter(recording.pages)
        half, most = 0, 0
        for most, (_, times) in enumerate(written.most_common(), 1):  # noqa: B007 - it is used after the loop
            half += times
            if half * 2 >= len(recording.pages):
                break
        by = Counter(recording.handlers).most_common(2)
        about.append(
            [
                *(name, f"{len(recording):,}", digits(len(recording.pages) / len(recording)), f"{len(written):,}"),
                *(f"{most:,}", ", ".join(f"{handler} {n / len(recording):.0%}" for handler, n in by)),
            ]
        )
    report.table(
        "The recordings; half of all writes go to so few pages",
        ["server", "steps", "pages a step", "pages in all", "half of the writes", "handlers"],
        about,
    )
    shadow(report, settings, recordings, costs)
    live(report, settings, recordings)
    return report


def cut(recording: Recording, steps: int) -> Recording:
    ends = recording.ends[:steps]
    return Recording(ends, recording.pages[: ends[-1]], recording.handlers[:steps])


def shadow(report: Report, settings: Settings, recordings: dict[str, Recording], costs: Any) -> None:
    found: dict[str, Evaluation] = {}
    alone: dict[str, int] = {}  # adaptive without profiles
    for name, recording in recordings.items():
        progress(f"shadow: {name}")
        found[name] = evaluate(recording, SHOWN, costs)
        alone[name] = evaluate(recording, {"adaptive": {"profiles": 0}}, costs).outcomes["adaptive"].ns
    progress("")
    rows, counts = [], []
    for name, e in found.items():
        n = len(recordings[name])
        rows.append(
            [
                name,
                *(digits(ns / n / 1e3) for ns in (e.optimum, e.on_demand, fixed_set(recordings[name], costs))),
                *(digits(e.outcomes[policy].ns / n / 1e3) for policy in SHOWN),
                digits(alone[name] / n / 1e3),
                digits(e.outcomes["adaptive"].ns / e.optimum),
            ]
        )
        for policy in ("adaptive", "full", "active-rnd", "active-cks", "genetic"):
            o = e.outcomes[policy]
            report.figure(f"{name}: {policy}", Spread.of([o.ns / n]))
            counts.append(
                [
                    *(name, policy, digits(o.traps / n), digits(o.copies / n), digits(o.compares / n)),
                    *(digits(o.vain / n), digits((o.promotions + o.demotions) / n), f"{o.most_hot:,}"),
                ]
            )
    report.table(
        "Modelled µs a checkpoint, on what the servers wrote; without profiles: `adaptive`",
        ["server", "optimum", "on demand", "fixed set", *SHOWN, "without profiles", "adaptive over optimum"],
        rows,
    )
    report.table(
        "What the estimators did, a checkpoint; in vain: hot pages compared although unwritten",
        ["server", "policy", "traps", "copies", "comparisons", "in vain", "switches", "most hot"],
        counts,
    )
    for what, limit, ratio in (
        ("the optimum", 2.0, lambda e: e.outcomes["adaptive"].ns / e.optimum),
        ("the optimum on demand", 2.0, lambda e: e.outcomes["adaptive"].ns / e.on_demand),
        ("`incremental`", 1.1, lambda e: e.outcomes["adaptive"].ns / e.outcomes["incremental"].ns),
    ):
        where = max(found, key=lambda name: ratio(found[name]))
        report.aim(
            f"recorded: `adaptive` over {what}, the worst server ({where})", limit, Spread.of([ratio(found[where])])
        )

    def draw(axes: Any) -> None:
        for k, policy in enumerate(SHOWN):
            values = [e.outcomes[policy].ns / e.optimum for e in found.values()]
            axes.bar(np.arange(len(found)) + (k - 2.5) * 0.14, values, 0.13, label=policy)
        for level, style in ((1, "-"), (2, ":")):
            axes.axhline(level, color="black", lw=0.8, ls=style)
        axes.set_xticks(range(len(found)), list(found))
        axes.set(yscale="log", ylabel="cost over the optimum", title="policies on what the example servers write")
        axes.set_ylim(top=axes.get_ylim()[1] * 4)  # room for the legend
        axes.legend(ncols=3, fontsize="small", loc="upper center")

    report.plot(settings, "streams.svg", "cost of each policy over the optimum, by server", draw)


def live(report: Report, settings: Settings, recordings: dict[str, Recording]) -> None:
    """Write the pages of each recording raw, in arenas with different policies."""
    rows = []
    policies = ("adaptive", "incremental", "full", "active-rnd", "active-cks", "genetic", "oracle")
    for name, recording in recordings.items():
        numbers = {
            page: n for n, page in enumerate(sorted(set(recording.pages)))
        }  # close ranks: gaps are untouched memory
        steps = [np.array([numbers[page] for page in step], "i8") * (PAGE // 8) for step in recording][:3000]
        with ExitStack() as stack:
            cases: dict[str, Any] = {}

            def writer(policy: str, stack: ExitStack = stack, steps: Any = steps, most: int = len(numbers)) -> Any:
                size = f"{most * PAGE // 2**20 + 16} MiB"
                options: dict[str, Any] = {"recording": Recording.of([])} if policy == "oracle" else {}
                if policy == "oracle":
                    options = {"recording": again(steps, size, most, len(steps) * 40)}
                arena = stack.enter_context(
                    Arena.temporary(size=size, undo_size="64 MiB", policy=policy, policy_options=options)
                )
                return stepper(arena, steps, most)

            for policy in policies:
                cases[policy] = writer(policy)
            plain = np.zeros(len(numbers) * PAGE // 8, "i8")
            empty = stack.enter_context(Arena.temporary(size="16 MiB"))
            at = 0

            def nothing(n: int, steps: Any = steps, plain: Any = plain, empty: Arena = empty) -> None:
                nonlocal at
                for _ in range(n):
                    with empty.transaction():
                        plain[steps[at]] = at
                    at = (at + 1) % len(steps)

            cases["nothing"] = nothing
            for case in cases.values():
                case(len(steps) // 3)
            timed = compare(cases, settings, rounds=settings.pick(9, 3), target=0.05, title=f"live: {name}")
        rows.append([name, *(digits(timed.difference(policy, "nothing").median / 1e3) for policy in policies)])
        for policy in policies:
            report.figure(f"live: {name}: {policy}", timed.difference(policy, "nothing"))
        ratio = Spread.of(
            (a - c) / (b - c)
            for a, b, c in zip(
                timed.samples["adaptive"], timed.samples["incremental"], timed.samples["nothing"], strict=True
            )
        )
        rows[-1].append(digits(ratio.median))
    report.table(
        "Live: µs of CPU time that tracking adds to a transaction which writes the same pages raw",
        ["server", *policies, "adaptive over incremental"],
        rows,
    )


def stepper(arena: Arena, steps: list[np.ndarray], pages: int) -> Any:
    """Return what runs the next n of the steps, again from the first after the last."""
    with arena.transaction():
        arena.root["a"] = Array((pages * PAGE // 8,), "i8")
    array, transaction, at, value = arena.root["a"], arena.transaction, 0, 0

    def go(n: int) -> None:
        nonlocal at, value
        for _ in range(n):
            value += 1
            with transaction():
                array.view[steps[at]] = value
            at = (at + 1) % len(steps)

    return go


def again(steps: list[np.ndarray], size: str, pages: int, count: int) -> Recording:
    """Return a recording of the same steps in an arena like those that are timed, `count` of them."""
    with Arena.temporary(size=size, undo_size="64 MiB", policy="incremental") as arena:
        with arena.transaction():
            arena.root["a"] = Array((pages * PAGE // 8,), "i8")
        view_of = arena.root["a"]
        with arena.record() as recorder, arena.transaction():
            view_of.view[0] = 1
        (first,) = recorder.recording.pages
    # The first two steps of an arena make its array.
    rounds = [(step // (PAGE // 8) + first).tolist() for step in steps]
    return Recording.of(rounds[i % len(rounds)] for i in range(count))


if __name__ == "__main__":
    record_all()
    sys.exit(0)
