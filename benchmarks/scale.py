"""How many workers does one arena carry?

Two cores can't show what 64 workers would do, so this is a model (`queueing.py`), fed with what was measured, and checked where
it can be: against one and two real processes on one arena, whose requests are transfers without HTTP around them, and against the
same with holds stretched tenfold by a loop inside the step, where even two processes stand in each other's way. Each case is run
in rounds and the best round counts, since other programs can only take away; the model knows only what one process does alone.

Then the model is asked for more workers than there are cores here, for the bank and a hello that counts, as `hold.py` measures
them.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from benchmarks import hold
from benchmarks.harness import Report, Settings, Spread, digits, percentile, progress
from benchmarks.queueing import Costs, Request, around, measured, simulate

ACCOUNTS = 100_000
OWN = 120e-6  # seconds of a request's own work: what aiohttp would take
STRETCHED = 45e-6  # seconds that a hold is made longer by
SPIN = 50e-6  # seconds, as in brief.c
WORKERS = (1, 2, 4, 6, 8, 12, 16, 32, 64)


# -- a worker -----------------------------------------------------------------------------------------------------


def burn(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def work(name: str, held: float, seconds: float) -> None:
    """Transfer for so many seconds, from when a line is read; print how often, and how many runs that took."""
    from recoverable import Arena, recoverable

    with Arena.open(name, create=False) as arena:
        accounts, rng, runs = arena.root["accounts"], random.Random(os.getpid()), 0

        @recoverable(arena=arena)
        async def transfer(a: int, b: int) -> None:
            nonlocal runs
            runs += 1
            burn(OWN / 2)
            accounts[a] -= 1
            burn(held)
            await asyncio.sleep(0)
            burn(OWN / 2)
            accounts[b] += 1
            burn(held)

        async def main() -> int:
            await transfer(0, 1)
            print("ready", flush=True)
            sys.stdin.readline()
            done, end = 0, time.perf_counter() + seconds
            while time.perf_counter() < end:
                await transfer(rng.randrange(ACCOUNTS), rng.randrange(ACCOUNTS))
                done += 1
            return done

        done = asyncio.run(main())
        print(json.dumps([done, runs]), flush=True)


@dataclass
class Ran:
    """What some workers did together: how many requests, how many runs they took, what the lock saw, in so many seconds."""

    done: int
    runs: int
    lock: Any
    seconds: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.done / self.seconds

    @property
    def busy(self) -> float:
        """The share of the time that the lock was held."""
        return float(self.lock.held.seconds / self.seconds)


def together(arena: Any, workers: int, held: float, seconds: float) -> Ran:
    """Run that many workers at once."""
    command = [sys.executable, "-m", "benchmarks.scale", arena.name, str(held), str(seconds)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(workers)
    ]
    try:
        for each in processes:
            assert each.stdout is not None
            each.stdout.readline()
        before = arena.stats().lock
        for each in processes:
            assert each.stdin is not None
            each.stdin.write("go\n")
            each.stdin.flush()
        found = [json.loads(each.communicate(timeout=60)[0]) for each in processes]
        lock = arena.stats().lock - before
    finally:
        for each in processes:
            each.kill()
            each.wait()
    return Ran(sum(done for done, _ in found), sum(runs for _, runs in found), lock, seconds)


def wake_latency() -> float:
    """Return the seconds from the call that wakes a sleeping process until that runs, the best quarter of many, by two pipes."""
    here, there = os.pipe(), os.pipe()
    many = 2000
    child = os.fork()
    if child == 0:
        for _ in range(many):
            os.read(there[0], 1)
            os.write(here[1], b"x")
        os._exit(0)
    took = []
    for _ in range(many):
        begun = time.perf_counter()
        os.write(there[1], b"x")
        os.read(here[0], 1)
        took.append((time.perf_counter() - begun) / 2)
    os.waitpid(child, 0)
    for end in (*here, *there):
        os.close(end)
    return percentile(took, 25)


# -- the check ------------------------------------------------------------------------------------------------------


def check(report: Report, settings: Settings, costs: Costs) -> None:
    """Compare the model with one and two real workers, plain and stretched."""
    from recoverable import Arena, Array

    rows = []
    with Arena.temporary("32 MiB", name=f"bench-scale-{os.getpid()}") as arena:
        with arena.transaction():
            arena.root["accounts"] = Array(ACCOUNTS, "i8")
        for what, held in (("as it is", 0.0), ("held ten times as long", STRETCHED)):
            best: dict[int, Ran] = {}
            for i in range(settings.pick(10, 2)):
                for workers in (1, 2):
                    progress(f"scale: {what}, round {i + 1}, {workers}")
                    ran = together(arena, workers, held, settings.pick(0.5, 0.2))
                    if workers not in best or ran.rate > best[workers].rate:
                        best[workers] = ran
            progress("")
            request = of_one(best[1])
            for workers in (1, 2):
                real, model = best[workers], simulate(workers, request, costs)
                error = model.rate / real.rate - 1
                rates = [digits(real.rate), digits(model.rate), f"{error:+.1%}"]
                busy = [f"{real.busy:.0%}", f"{model.busy:.0%}"]
                rows.append(
                    [
                        what,
                        str(workers),
                        digits(real.lock.held.mean * 1e6),
                        *rates,
                        *busy,
                        f"{real.runs / real.done:.3f}",
                    ]
                )
                report.figure(f"{what}, {workers}: model over measured", Spread.of([model.rate / real.rate]))
    report.table(
        "The model beside real processes on two cores, the best of the rounds",
        ["holds", "workers", "µs a hold", "requests/s", "model", "error", "lock busy", "model", "runs a request"],
        rows,
    )


def of_one(ran: Ran) -> Request:
    """Return the model of a request by what one worker alone has done."""
    from recoverable.lock_times import BOUNDS

    parts, held = round(ran.lock.held.count / ran.done), ran.lock.held.mean
    return Request(around(1 / ran.rate / parts - held), measured(BOUNDS, ran.lock.held.classes, held), parts)


# -- the forecast -----------------------------------------------------------------------------------------------------


def forecast(report: Report, settings: Settings, costs: Costs) -> None:
    """Ask the model for many workers, of servers as they are measured."""
    from recoverable.lock_times import BOUNDS

    for name in ("bank", "hello that counts"):
        best = min(hold.measure(name, settings), key=lambda held: held.cpu)
        parts, mean = max(1, round(best.parts)), best.lock.held.mean
        own = (best.cpu - best.held) / 1e6 / parts
        request = Request(around(own), measured(BOUNDS, best.lock.held.classes, mean), parts)
        rows, one = [], 0.0
        for workers in WORKERS:
            out = simulate(workers, request, costs, requests=settings.pick(20_000, 2_000))
            one = one or out.rate
            p99 = percentile(out.waits, 99) * 1e6 if out.waits else 0.0
            rows.append(
                [
                    str(workers),
                    digits(out.rate),
                    f"{out.rate / one:.1f}",
                    f"{out.busy:.0%}",
                    f"{out.waited:.0%}",
                    digits(p99),
                ]
            )
            report.figure(f"{name}, {workers} workers: times one", Spread.of([out.rate / one]))
        report.table(
            f"{name}: {digits(best.cpu)} µs a request, of which the lock is held {digits(best.held)} µs, in {parts} "
            f"hold{'s' if parts > 1 else ''}; by the model, each worker on a core of its own",
            ["workers", "requests/s", "times one", "lock busy", "holds that waited", "p99 of a wait, µs"],
            rows,
        )


def run(settings: Settings) -> Report:
    report = Report("scale", "How many workers does one arena carry?")
    costs = Costs(wake=wake_latency(), spin=SPIN)
    report.note(f"To wake a sleeping process takes {digits(costs.wake * 1e6)} µs here.")
    check(report, settings, costs)
    if shutil.which("wrk") is None:
        report.note("No forecast: `wrk` is not installed (Debian: apt install wrk).")
    else:
        forecast(report, settings, costs)
    return report


if __name__ == "__main__":
    work(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
