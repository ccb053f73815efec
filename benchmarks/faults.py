"""How long does it take to explore a handler, and what does fault injection cost that is off?

The handler is the example bank's transfer, over HTTP, with its 3 ms of waiting for another service. What "off" costs is
measured between two processes that are alike but for one thing: in one of them faults were armed once and disarmed; it is
given work in turn with the other, in which nothing of it was ever imported. There are several such pairs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Report, Settings, Spread, compare, progress
from recoverable import Arena

ROOT = Path(__file__).resolve().parents[1]
ACCOUNTS = 10
ORDER = {"id": "t", "from": 0, "to": 1, "amount": 500}
IN_PROCESS = ("line", "await", "write", "alloc", "conflict")

#: A process that does what it is told, n times, and answers how many nanoseconds of CPU time that took.
WORKER = """
import asyncio, sys, time
from recoverable import Arena, recoverable

armed = sys.argv[1] == "armed"
with Arena.temporary("8 MiB") as arena:
    with arena.transaction():
        for i in range(4):
            arena.root[f"key-{i}"] = i
    root = arena.root

    @recoverable
    async def request():
        for i in range(4):
            root[f"key-{i}"] += 1

    if armed:
        from recoverable.faults import InjectedFault, Raise, inject
        with inject("request", Raise(), at="write"):
            try:
                asyncio.run(request())
            except InjectedFault:
                pass
    print("ready", flush=True)
    for line in sys.stdin:
        calls = range(int(line))
        begun = time.thread_time_ns()
        for _ in calls:
            try:
                request().send(None)
            except StopIteration:
                pass
        print(time.thread_time_ns() - begun, flush=True)
"""


class Worker:
    """One of those processes; `clock()` is the CPU time that all of them have spent."""

    spent = 0

    def __init__(self, how: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._line() == "ready"

    def __call__(self, n: int) -> None:
        assert self.process.stdin is not None
        print(n, file=self.process.stdin, flush=True)
        Worker.spent += int(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.communicate(timeout=30)

    @classmethod
    def clock(cls) -> int:
        return cls.spent


async def transfer(client: Any) -> int:
    async with client.post("/transfer", json=ORDER) as response:
        return int(response.status)


def nothing_lost(arena: Arena) -> bool:
    from examples.bank import server

    return sum(arena.root["accounts"]) == ACCOUNTS * server.OPENING


def bank(arena: Arena) -> Any:
    from examples.bank import server

    return server.make_app(arena, accounts=ACCOUNTS)


@contextlib.contextmanager
def no_waiting() -> Iterator[None]:
    """Let the other service answer at once, so that what a run costs is not hidden behind it."""
    from examples.bank import server

    async def at_once(*, hangs: bool) -> None:
        await asyncio.sleep(0)

    before, server.fraud_check = server.fraud_check, at_once
    try:
        yield
    finally:
        server.fraud_check = before


def explored(points: tuple[str, ...] | None, depth: int = 1) -> Any:
    from recoverable.faults import explore

    more: dict[str, Any] = {} if points is None else {"points": points}
    return explore(transfer, app=bank, prepare=bank, invariant=nothing_lost, depth=depth, max_points=500, **more)


def alone(settings: Settings) -> Spread:
    """Time the same request, served and asked for in one process, without an exploration around it. In milliseconds."""
    from recoverable.faults.aiohttp import Site

    times = []
    with Arena.temporary("16 MiB") as arena:
        app = bank(arena)
        site = Site(asyncio.new_event_loop(), app)
        for number in range(settings.pick(200, 20)):
            order = json.dumps(ORDER | {"id": str(number), "amount": 1})

            async def ask(order: str = order) -> None:
                async with site.client.post("/transfer", data=order) as response:
                    assert response.status == 200

            begun = time.perf_counter()
            site.loop.run_until_complete(ask())
            times.append((time.perf_counter() - begun) * 1e3)
        site.close()
        site.loop.close()
    return Spread.of(times)


def run(settings: Settings) -> Report:
    sys.path.append(str(ROOT))
    report = Report(
        "faults", "How long does it take to explore a handler, and what does fault injection cost that is off?"
    )
    rounds = settings.pick(5, 1)
    all_of_it, in_process, by_kill = [], [], []
    runs: dict[str, int] = {}
    with no_waiting():
        own = alone(settings)
    for i in range(rounds):
        progress(f"exploring: round {i + 1} of {rounds}")
        found = explored(None)
        all_of_it.append(found.seconds)
        runs["all"] = found.runs
        with no_waiting():
            found = explored(IN_PROCESS)
        in_process.append(found.seconds / found.runs * 1e3)
        runs["in process"] = found.runs
        found = explored(("kill",))
        by_kill.append(found.seconds / found.runs * 1e3)
        runs["kill"] = found.runs
    above = Spread.of(each - own.median for each in in_process)
    progress("exploring: two faults")
    two = explored(None, depth=2) if not settings.quick else None

    ratios, times = [], {"never armed": [], "armed and disarmed": []}
    pairs = settings.pick(
        16, 2
    )  # of processes: where things lie in memory makes more of a difference than what is measured
    for i in range(pairs):
        never, disarmed = pair = [Worker(how) for how in ("never", "armed")]
        try:
            timed = compare(
                {"never armed": never, "armed and disarmed": disarmed},
                settings,
                rounds=settings.pick(15, 5),
                target=settings.pick(0.03, 0.01),
                clock=Worker.clock,
                title=f"off: pair {i + 1}",
            )
        finally:
            for worker in pair:
                worker.close()
        ratios.append(timed.ratio("armed and disarmed", "never armed").median)
        for name, found_times in times.items():
            found_times.append(timed[name].median / 1e3)
    percent = Spread.of((ratio - 1) * 100 for ratio in ratios)

    report.aim("the transfer explored at all points, kills included", 60, Spread.of(all_of_it), "s")
    report.aim("a run that does not kill, above the request's own time", 5, above, "ms")
    report.aim("a transaction after faults were armed and disarmed, above one where they never were", 0.5, percent, "%")
    rows = [
        [f"all points: {runs['all']} runs", f"{Spread.of(all_of_it)} s"],
        [f"one of {runs['in process']} runs that do not kill, without the waiting", f"{Spread.of(in_process)} ms"],
        [
            f"one of {runs['kill']} runs that kill: a fork, a death, a restart in another fork",
            f"{Spread.of(by_kill)} ms",
        ],
        ["the request alone, without the waiting", f"{own} ms"],
    ]
    if two is not None:
        rows.append([f"two faults, `depth=2`: {two.runs:,} runs, {two.skipped:,} left out", f"{two.seconds:.0f} s"])
    report.table("Time by the clock", ["", "median (quartiles)"], rows)
    spreads = {name: Spread.of(each) for name, each in times.items()}
    report.table(
        "µs of CPU time for a `@recoverable` call with four read-modify-writes, in pairs of processes",
        ["faults were", "median (quartiles)"],
        [[name, str(spread)] for name, spread in spreads.items()],
    )
    for name, spread in spreads.items():
        report.figure(f"{name}, µs", spread)
    report.figure("explore all, s", Spread.of(all_of_it))
    return report
