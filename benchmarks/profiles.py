"""What are the working sets of handlers worth: traps and time of a checkpoint, with profiles and without?

Live: handlers that each write a set of their own through `Array.view`, one of them drawn for each transaction. A set is
8 pages, scattered over 4,096 or side by side. And one handler whose writes have no pattern, where nothing can be won.

And requests that go on after an await with what they wrote before it.

In shadow: the streams of `evaluation`, all of one handler but where the stream has several.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks import workloads
from benchmarks.evaluation import measured_costs
from benchmarks.harness import Report, Settings, Spread, Timed, compare, digits, progress
from recoverable import Arena, Array
from recoverable.speculation import Costs, Recording, evaluate

PAGE = 4096
PAGES = workloads.PAGES
CASES = tuple(itertools.product(("incremental", "adaptive"), (False, True)))
COUNTED = ("traps", "pages_captured", "captured_in_vain", "pages_compared")

Random = np.random.Generator
Steps = list[tuple[int, np.ndarray]]  # the handler, and the pages that it writes


def run(settings: Settings) -> Report:
    report = Report("profiles", "What are the working sets of handlers worth?")
    live(report, settings)
    waiting(report, settings)
    shift(report, settings)
    shadow(report, settings, measured_costs())
    return report


def label(policy: str, profiles: bool) -> str:
    return f"{policy}, profiles" if profiles else policy


# -- live -------------------------------------------------------------------------------------------------------


def scattered(handlers: int, rng: Random) -> list[np.ndarray]:
    return list(rng.permutation(PAGES)[: handlers * 8].reshape(handlers, 8))


def adjacent(handlers: int, rng: Random) -> list[np.ndarray]:
    return [first * 8 + np.arange(8) for first in rng.permutation(PAGES // 8)[:handlers]]


def of_sets(make: Callable[[int, Random], list[np.ndarray]], handlers: int) -> Callable[[int, Random], Steps]:
    """Return a workload: one of some handlers, each as likely, writes all of its set."""

    def steps(n: int, rng: Random) -> Steps:
        sets = make(handlers, rng)
        return [(k, sets[k]) for k in rng.integers(0, handlers, n).tolist()]

    return steps


def of_stream(make: Callable[[int, Random], workloads.Steps]) -> Callable[[int, Random], Steps]:
    """Return a workload: one handler writes what a stream of `workloads` says."""
    return lambda n, rng: [(0, np.array(pages, "i8")) for pages in make(n, rng)]


LIVE: dict[str, Callable[[int, Random], Steps]] = {
    "1 handler, scattered": of_sets(scattered, 1),
    "1 handler, side by side": of_sets(adjacent, 1),
    "16 handlers, scattered": of_sets(scattered, 16),
    "16 handlers, side by side": of_sets(adjacent, 16),
    "64 handlers, scattered": of_sets(scattered, 64),
    "64 handlers, side by side": of_sets(adjacent, 64),
    "1 handler, zipf 0.99": of_stream(workloads.zipf),
    "1 handler, uniform": of_stream(workloads.uniform),
    "1 handler, scan": of_stream(workloads.scan),
}


def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function under another name: a block's handler is the function that it stands in."""
    code = function.__code__.replace(co_name=name, co_qualname=name)  # type: ignore[attr-defined]
    return types.FunctionType(code, function.__globals__, name, None, function.__closure__)


class Server:
    """An arena with handlers that write pages of one Array, and what it counted."""

    def __init__(self, arena: Arena, handlers: int) -> None:
        with arena.transaction():
            arena.root["a"] = Array((PAGES * PAGE // 8,), "i8")
        self.arena, self.done, self.value = arena, 0, 0
        array, transaction = arena.root["a"], arena.transaction

        def handler(items: np.ndarray, value: int) -> None:
            with transaction():
                array.view[items] = value

        self.handlers = [named(f"handler {k}", handler) for k in range(handlers)]

    def serve(self, steps: Steps) -> None:
        for k, pages in steps:
            self.value += 1
            self.handlers[k](pages, self.value)
        self.done += len(steps)

    def counts(self) -> dict[str, int]:
        stats = self.arena.stats()
        return {name: getattr(stats, name) for name in COUNTED} | {"done": self.done}


def rate(after: dict[str, int], before: dict[str, int], name: str) -> float:
    return (after[name] - before[name]) / (after["done"] - before["done"])


def items(steps: Steps) -> Steps:
    """Turn pages into the items that are written: done ahead, so that it is not timed."""
    known: dict[int, np.ndarray] = {}
    return [(k, known.setdefault(id(pages), pages * (PAGE // 8))) for k, pages in steps]


def side_by_side(
    name: str, stream: Steps, settings: Settings, turn: int
) -> tuple[dict[str, list[float]], dict[str, dict[str, float]]]:
    """Time all cases on a stream in arenas of their own; return samples, and pages a transaction, by case."""
    handlers = max(k for k, _ in stream) + 1
    with ExitStack() as stack:
        servers, cases, before = {}, {}, {}
        for policy, profiles in CASES[turn:] + CASES[:turn]:
            arena = stack.enter_context(
                Arena.temporary(size="32 MiB", policy=policy, policy_options={"profiles": profiles})
            )
            server = servers[label(policy, profiles)] = Server(arena, handlers)
            server.serve(stream[: len(stream) // 2])
            rest = itertools.cycle(stream)

            def steps(n: int, server: Server = server, rest: Iterator[tuple[int, np.ndarray]] = rest) -> None:
                server.serve(list(itertools.islice(rest, n)))

            cases[label(policy, profiles)] = steps
            before[label(policy, profiles)] = server.counts()
        timed = compare(cases, settings, rounds=settings.pick(7, 3), title=name)
        after = {case: server.counts() for case, server in servers.items()}
    return timed.samples, {case: {what: rate(after[case], before[case], what) for what in COUNTED} for case in cases}


def live(report: Report, settings: Settings) -> None:
    rows, worst = [], []
    for name, make in LIVE.items():
        n = settings.pick(12_000, 2_000)
        stream = items(make(n, np.random.default_rng([7, *name.encode()])))
        pooled: dict[str, list[float]] = {label(*case): [] for case in CASES}
        # In other memory each time: where an arena lies moves its time by a tenth.
        for turn in range(settings.pick(2, 1)):
            samples, counted = side_by_side(name, stream, settings, turn)
            for case in pooled:
                pooled[case] += samples[case]
        timed = Timed(pooled)
        for case in pooled:
            report.figure(f"{name}: {case}", timed[case])
            row = [name if case == "incremental" else "", case, str(timed[case].scaled(1e-3))]
            rows.append(row + [digits(counted[case][what]) for what in COUNTED])
        for policy in ("incremental", "adaptive"):
            ratio = timed.ratio(label(policy, True), label(policy, False))
            worst.append((ratio.median, policy, name, ratio))
            report.figure(f"{name}: {policy}, with profiles over without", ratio)
    report.table(
        "Live: µs of CPU time for a transaction that writes the pages raw, numpy and the transaction included; pages a "
        "transaction",
        ["workload", "policy", "median (quartiles)", "trapped", "captured", "in vain", "compared"],
        rows,
    )
    for policy in ("adaptive", "incremental"):
        _, _, name, ratio = max(each for each in worst if each[1] == policy)
        report.aim(f"live, `{policy}`: with profiles over without, the worst workload ({name})", 1.05, ratio)
        _, _, name, ratio = min(each for each in worst if each[1] == policy)
        report.note(f"Live, `{policy}`, with profiles over without, the best workload ({name}): {ratio}.")


@types.coroutine
def pause() -> Generator[None, None, None]:
    """Suspend a request; without an event loop, what takes time is the transaction alone."""
    yield


def waiting(report: Report, settings: Settings) -> None:
    """Requests that write the same rows before and after an await, and others than the request before."""
    stream = [pages * (PAGE // 8) for pages in np.random.default_rng(9).integers(0, PAGES, (4000, 4))]
    with ExitStack() as stack:
        servers, cases, before = {}, {}, {}
        for policy, profiles in CASES:
            arena = stack.enter_context(
                Arena.temporary(size="32 MiB", policy=policy, policy_options={"profiles": profiles})
            )
            server = servers[label(policy, profiles)] = Server(arena, 1)

            def requests(
                n: int,
                server: Server = server,
                rest: Iterator[np.ndarray] = itertools.cycle(stream),  # noqa: B008
            ) -> None:
                array, run = server.arena.root["a"], server.arena.run

                async def learn(items: np.ndarray, value: int) -> None:
                    array.view[items] = value
                    await pause()
                    array.view[items] = value + 1

                for items in itertools.islice(rest, n):
                    server.value += 2
                    request = run(learn, items, server.value)
                    request.send(None)
                    try:
                        request.send(None)
                    except StopIteration:
                        server.done += 1

            requests(1000)
            cases[label(policy, profiles)] = requests
            before[label(policy, profiles)] = server.counts()
        timed = compare(cases, settings, rounds=settings.pick(15, 3), title="waiting")
        after = {case: server.counts() for case, server in servers.items()}
    rows = [
        [case, str(timed[case].scaled(1e-3)), *(digits(rate(after[case], before[case], what)) for what in COUNTED)]
        for case in cases
    ]
    report.table(
        "Live: µs of CPU time for a request that writes 4 pages anywhere, waits, and writes the same again; pages a request",
        ["policy", "median (quartiles)", "trapped", "captured", "in vain", "compared"],
        rows,
    )
    ratio = timed.ratio(label("adaptive", True), label("adaptive", False))
    report.aim("live, `adaptive`: with profiles over without, requests that go on with their pages", 1.0, ratio)


def shift(report: Report, settings: Settings) -> None:
    """Every handler moves to another set, again and again: what does it take until that is learned?"""
    handlers, turns, rounds = 16, settings.pick(8, 3), 60
    rows = []
    for kind, make in (("scattered", scattered), ("side by side", adjacent)):
        for policy, profiles in CASES:
            progress(f"shift: {kind}, {label(policy, profiles)}")
            first, later = [], []
            with Arena.temporary(size="32 MiB", policy=policy, policy_options={"profiles": profiles}) as arena:
                server = Server(arena, handlers)
                for turn in range(turns):
                    rng = np.random.default_rng([turn, 3])
                    sets = items(list(enumerate(make(handlers, rng))))
                    for into, length in ((first, 20), (later, rounds - 20)):
                        before = server.counts()
                        for _ in range(length):
                            server.serve([sets[k] for k in rng.permutation(handlers)])
                        after = server.counts()
                        if turn:  # the first turn has nothing to forget
                            into.append({what: rate(after, before, what) for what in COUNTED})
            cells = [
                digits(Spread.of(counts[what] for counts in found).median)
                for found in (first, later)
                for what in ("traps", "captured_in_vain")
            ]
            rows.append([kind, label(policy, profiles), *cells])
    progress("")
    report.table(
        f"{handlers} handlers that all move to other sets after {rounds} requests each: pages a request, in the first 20 "
        "requests of each handler after a shift, and in the rest",
        ["sets", "policy", "trapped, first 20", "in vain, first 20", "trapped, later", "in vain, later"],
        rows,
    )


# -- in shadow --------------------------------------------------------------------------------------------------


def with_handlers(name: str, n: int, seed: int) -> Recording:
    """Return a stream of `workloads` with the handler of each step."""
    stream = workloads.make(name, n, seed)
    if name != "16 handlers x 8":
        return Recording(stream.ends, stream.pages, ("one",) * n)
    return Recording(stream.ends, stream.pages, tuple(str(min(pages)) for pages in stream))


def shadow(report: Report, settings: Settings, costs: Costs) -> None:
    n = settings.pick(20_000, 3_000)
    rows, worst = [], []
    for name in workloads.WORKLOADS:
        progress(f"shadow: {name}")
        row = [name]
        for policy in ("incremental", "adaptive"):
            found = []
            for seed in (1, 2, 3):
                stream = with_handlers(name, n, seed)
                found.append([evaluate(stream, {policy: {"profiles": k}}, costs).outcomes[policy] for k in (0, 1)])
            ratio = Spread.of(on.ns / off.ns for off, on in found)
            row += [digits(Spread.of(off.ns / n / 1e3 for off, _ in found).median)]
            row += [digits(Spread.of(on.ns / n / 1e3 for _, on in found).median)]
            row += [digits(Spread.of(on.captures / n for _, on in found).median)]
            row += [digits(Spread.of((on.policy_ns - off.policy_ns) / n / 1e3 for off, on in found).median)]
            if policy == "adaptive":
                worst.append((ratio.median, name, ratio))
        rows.append(row)
    progress("")
    columns = ["without", "with", "captured", "own time"]
    report.table(
        f"In shadow: modelled µs a checkpoint, {n:,} checkpoints; pages captured; the µs that profiles themselves take",
        ["workload", *(f"{policy}: {what}" for policy in ("incremental", "adaptive") for what in columns)],
        rows,
    )
    _, name, ratio = max(worst)
    report.aim(f"in shadow, `adaptive`: with profiles over without, the worst workload ({name})", 1.05, ratio)
