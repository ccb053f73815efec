"""How long does it take to explore a handler, and what does fault injection cost that is off?

The handler is the example bank's transfer, over HTTP, with its 3 ms of waiting for another service.

What "off" costs is a few loads and comparisons a transaction, far below what two builds differ by for where their code
lies. So the core is built three times: without hooks, as it is, and with hooks that each ask hundreds of times. From the
third to the first the difference is large enough to be timed, and is divided by that number.

What runs in this process alone is told in its CPU time; what kills and forks, by the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
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
MANY = 400  # how often a hook asks in the third build

#: A process that does what it is told, n times, and answers how many nanoseconds of CPU time that took.
WORKER = """
import sys, time

sys.meta_path[:] = [finder for finder in sys.meta_path if "mesonpy" not in repr(finder).lower()]  # an editable install's
sys.path.insert(0, sys.argv[1])
import recoverable
from recoverable import Arena
assert recoverable.__file__.startswith(sys.argv[1]), recoverable.__file__

with Arena.temporary("8 MiB") as arena:
    with arena.transaction():
        for i in range(4):
            arena.root[f"key-{i}"] = i
    root = arena.root

    @recoverable.recoverable
    async def request():
        for i in range(4):
            root[f"key-{i}"] += 1

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


def build(hooks: int, folder: Path) -> Path:
    """Make a release build in which each hook asks so often; return the folder to import it from."""
    progress(f"building the core with hooks that ask {hooks} times")
    made, installed = folder / "build", folder / "installed"
    setup = ["meson", "setup", f"--prefix={installed}", f"-Dc_args=-DRCV_FAULT_HOOKS={hooks}", str(made), str(ROOT)]
    for command in (setup, ["meson", "install", "-C", str(made)]):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}")
    return next(found.parent.parent for found in installed.rglob("recoverable/__init__.py"))


class Worker:
    """One of those processes; `clock()` is the CPU time that all of them have spent."""

    spent = 0

    def __init__(self, package: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(package)],
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
        self.process.communicate(timeout=60)

    @classmethod
    def clock(cls) -> int:
        return cls.spent


def off(report: Report, settings: Settings, request: Spread) -> None:
    """Measure what it costs where nothing is armed.

    Args:
        report: Where to tell it.
        settings: Whether to be quick.
        request: What a request of the bank takes, in milliseconds.
    """
    if shutil.which("meson") is None:
        report.note("What it costs while it is off was not measured: there is no meson to build the core with.")
        return
    costs, times = [], {0: [], 1: [], MANY: []}
    with tempfile.TemporaryDirectory() as folder:
        packages = {hooks: build(hooks, Path(folder, str(hooks))) for hooks in times}
        pairs = settings.pick(8, 2)
        for i in range(pairs):
            workers = {str(hooks): Worker(package) for hooks, package in packages.items()}
            try:
                timed = compare(
                    workers,
                    settings,
                    rounds=settings.pick(15, 5),
                    target=settings.pick(0.03, 0.01),
                    clock=Worker.clock,
                    title=f"off: processes {i + 1} of {pairs}",
                )
            finally:
                for worker in workers.values():
                    worker.close()
            many, none = timed.samples[str(MANY)], timed.samples["0"]
            costs += [(a - b) / MANY for a, b in zip(many, none, strict=True)]
            for hooks, found in times.items():
                found.append(timed[str(hooks)].median)
    cost = Spread.of(costs)
    spreads = {hooks: Spread.of(found) for hooks, found in times.items()}
    call = spreads[0].median
    report.aim("hooks that are off, of a transaction of four read-modify-writes", 0.5, cost.scaled(100 / call), "%")
    report.aim("the same, of a transfer over HTTP", 0.5, cost.scaled(100 / (request.median * 1e6)), "%")
    rows = [
        [f"the call, hooks ask {'never' if not hooks else f'{hooks} x'}", f"{spread} ns"]
        for hooks, spread in spreads.items()
    ]
    rows.append([f"all hooks of the call: ({MANY} x - never) / {MANY}", f"{cost} ns"])
    report.table(
        "Off: CPU time of a `@recoverable` call with four read-modify-writes", ["", "median (quartiles)"], rows
    )
    report.figure("hooks, ns", cost)
    report.note(
        "Two builds differ more by where their code lies than by hooks that ask once. So the hooks of a third ask many times; "
        "the words that they ask for lie in the cache, as those of a busy server do."
    )


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
    """Time the same request, served and asked for in one process, without an exploration around it.

    In milliseconds of CPU time.
    """
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

            begun = time.process_time()
            site.loop.run_until_complete(ask())
            times.append((time.process_time() - begun) * 1e3)
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
            begun = time.process_time()
            found = explored(IN_PROCESS)
        in_process.append((time.process_time() - begun) / found.runs * 1e3)
        runs["in process"] = found.runs
        found = explored(("kill",))
        by_kill.append(found.seconds / found.runs * 1e3)
        runs["kill"] = found.runs
    above = Spread.of(each - own.median for each in in_process)
    progress("exploring: two faults")
    two = explored(None, depth=2) if not settings.quick else None

    report.aim("the transfer explored at all points, kills included", 60, Spread.of(all_of_it), "s")
    report.aim("a run that does not kill, above the request's own time", 5, above, "ms")
    rows = [
        [f"all points: {runs['all']} runs", f"{Spread.of(all_of_it)} s"],
        [
            f"one of {runs['kill']} runs that kill: a fork, a death, a restart in another fork",
            f"{Spread.of(by_kill)} ms",
        ],
    ]
    if two is not None:
        rows.append([f"two faults, `depth=2`: {two.runs:,} runs, {two.skipped:,} left out", f"{two.seconds:.0f} s"])
    report.table("Exploring, by the clock", ["", "median (quartiles)"], rows)
    rows = [
        ["the request alone", f"{own} ms"],
        [f"one of {runs['in process']} runs that do not kill", f"{Spread.of(in_process)} ms"],
    ]
    report.table("Exploring without the waiting, CPU time", ["", "median (quartiles)"], rows)
    off(report, settings, own)
    report.figure("explore all, s", Spread.of(all_of_it))
    return report
