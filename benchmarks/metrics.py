"""What do the metrics for Prometheus cost a server's throughput?

One server, aiohttp on uvloop, `setup()`, `@recoverable` and `/metrics`, answers a JSON hello and counts it in the arena, so
that each request is a run that commits and that metrics count. It is told to count or not to count, in turn: it is the
same process and the same memory, so nothing else differs. It is loaded in short bursts, hundreds of times in turn, by
the CPU time that it used, and by `wrk` over loopback, in pairs. What end-to-end figures can't resolve, the same handler
in a loop of its own does. Last, what a scrape costs by how many handlers there are.
"""

from __future__ import annotations

import asyncio
import atexit
import math
import os
import shutil
import statistics
import sys
import time
import urllib.request
from typing import Any

import recoverable.metrics
from benchmarks.harness import Report, Settings, Spread, compare, digits, progress
from benchmarks.hello import HEADS, Loads, Server, listen
from recoverable import Arena
from recoverable._native.runtime import meter

STEPS = 3  # awaits of the handler that waits


def serve() -> None:
    """Run the server until SIGTERM; prints its port. `/meter/on` and `/meter/off` have it count or not."""
    from aiohttp import web

    import recoverable.aiohttp

    app = web.Application()
    arena = Arena.open(f"bench-metrics-{os.getpid()}", size="16 MiB")
    atexit.register(Arena.unlink, arena.name)
    root = arena.root
    with arena.transaction():
        root["hits"] = 0

    @recoverable.recoverable
    async def counts(request: web.Request) -> web.Response:
        root["hits"] += 1
        return web.json_response({"message": "hello"})

    async def switch(request: web.Request) -> web.Response:
        if request.match_info["to"] == "on":
            recoverable.metrics.register()
        else:
            meter(False)
        return web.Response()

    recoverable.aiohttp.setup(app, arena)
    recoverable.metrics.setup(app)
    app.add_routes([web.get("/", counts), web.get("/meter/{to}", switch)])

    listen(app)


def run(settings: Settings) -> Report:
    report = Report("metrics", "What do the metrics for Prometheus cost?")
    extra = _in_process(report, settings)
    if shutil.which("wrk") is None:
        report.note("No server was loaded: `wrk` is not installed (Debian: apt install wrk).")
        return report
    loads = _loads(settings)
    off, on = loads["off"], loads["on"]
    report.aim("counting in a loop of its own, as a share of a request's server CPU time under wrk", 1.0,
               extra.scaled(100 / statistics.median(off.cpu)), "%")  # fmt: skip
    bursts, pairs = on.lost_in_bursts(off), on.lost_rate(off)
    report.aim("lost throughput by server CPU time, in bursts of 160 requests", 1.0, bursts, "%")
    report.figure("lost requests a second under wrk, %", pairs)
    rows = []
    for to, load in loads.items():
        spreads = load.spreads()
        for what, spread in spreads.items():
            report.figure(f"{to}: {what}", spread)
        rows.append([f"metrics {to}", *map(str, spreads.values())])
    report.table("a JSON hello that is counted in the arena, 16 connections", ["server", *HEADS], rows)
    report.note(
        f"The median of {bursts.rounds:,} pairs of bursts is known to ± {digits(_notch(bursts))} points (95 %, by McGill's "
        f"notches). By requests a second under wrk, {pairs.rounds} pairs lost {pairs} %, ± {digits(_notch(pairs))}: where "
        "that exceeds the aim, requests a second can't show whether it is met."
    )
    return report


def _loads(settings: Settings) -> dict[str, Loads]:
    """Load the server in turn with metrics off and on, in bursts and by wrk."""
    loads = {"off": Loads(), "on": Loads()}
    server = Server("", module="benchmarks.metrics")

    def both(i: int) -> list[tuple[str, Loads]]:
        pair = list(loads.items())
        return pair if i % 2 == 0 else pair[::-1]

    def switch(to: str) -> None:
        urllib.request.urlopen(f"{server.url}meter/{to}", timeout=30).close()

    try:
        server.load(1)
        many = settings.pick(2000, 20)
        for i in range(many):
            progress(f"metrics: burst {i + 1} of {many}")
            for to, load in both(i):
                switch(to)
                server.burst(1)  # caches
                load.short.append(server.burst(10))
        rounds = settings.pick(20, 2)
        for i in range(rounds):
            progress(f"metrics: round {i + 1} of {rounds}")
            for to, load in both(i):
                switch(to)
                rate, spent = server.load(settings.pick(2, 1))
                load.rates.append(rate)
                load.cpu.append(spent)
    finally:
        progress("")
        server.stop()
    return loads


def _notch(spread: Spread) -> float:
    """Return how far off a median may be, at 95 % (McGill, Tukey, Larsen 1978)."""
    return 1.57 * (spread.high - spread.low) / math.sqrt(spread.rounds)


def _in_process(report: Report, settings: Settings) -> Spread:
    """Time handlers and scrapes without a server; return µs that counting adds to the handler that does least."""
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    with Arena.temporary("16 MiB", name=f"bench-metrics-{os.getpid()}") as arena:
        with arena.transaction():
            arena.root["hits"] = 0
        extra = _handlers(report, settings, arena, registry)
        _scrapes(report, settings, arena, registry)
    return extra


def _handlers(report: Report, settings: Settings, arena: Arena, registry: Any) -> Spread:
    """Time handlers with and without counting; return µs that it adds to the one that does least."""
    root = arena.root

    @recoverable.recoverable
    async def counts() -> None:
        root["hits"] += 1

    @recoverable.recoverable
    async def waits() -> None:
        for _ in range(STEPS):
            root["hits"] += 1
            await asyncio.sleep(0)

    @recoverable.recoverable(commit_if=bool)  # an exception would be told in an event, which costs far more
    async def refuses() -> None:
        root["hits"] += 1

    def case(handler: Any, on: bool) -> Any:
        async def times(n: int) -> None:
            for _ in range(n):
                await handler()

        def work(n: int) -> None:
            if on:
                recoverable.metrics.register(registry)
            loop.run_until_complete(times(n))
            meter(False)

        return work

    least = "one write, committed"
    kinds = {least: counts, f"{STEPS} writes, an await after each": waits, "one write, rolled back": refuses}
    loop = asyncio.new_event_loop()
    cases = {
        f"{name}: {'on' if on else 'off'}": case(handler, on) for name, handler in kinds.items() for on in (False, True)
    }
    timed = compare(cases, settings, rounds=settings.pick(61, 5), title="metrics")
    loop.close()
    rows, extra = [], {}
    for name in kinds:
        off, on = timed[f"{name}: off"].scaled(1e-3), timed[f"{name}: on"].scaled(1e-3)
        extra[name] = timed.difference(f"{name}: on", f"{name}: off").scaled(1e-3)
        report.figure(f"{name}: µs more", extra[name])
        rows.append([name, str(off), str(on), str(extra[name])])
    report.table(
        "handlers in a loop of their own, µs of CPU time", ["handler", "metrics off", "on", "difference"], rows
    )
    return extra[least]


def _scrapes(report: Report, settings: Settings, arena: Arena, registry: Any) -> None:
    """Time what a scrape takes, by how many handlers have run."""
    from prometheus_client import generate_latest

    recoverable.metrics.register(registry, handlers=1000)
    rows = []
    made = 0
    for handlers in (1, 10, 100, 1000):
        while made < handlers:

            async def handler() -> None:
                arena.root["hits"] += 1

            handler.__qualname__ = f"handler_{made}"
            asyncio.run(arena.run(handler))
            made += 1
        samples = []
        for _ in range(settings.pick(21, 3)):
            begun = time.thread_time_ns()
            size = len(generate_latest(registry))
            samples.append((time.thread_time_ns() - begun) / 1e6)
        report.figure(f"scrape of {handlers} handlers, ms", Spread.of(samples))
        rows.append([f"{handlers:,}", str(Spread.of(samples)), f"{size / 1024:,.0f}"])
    meter(False)
    report.table("a scrape, by handlers that have run", ["handlers", "CPU ms", "KiB"], rows)


if __name__ == "__main__":
    sys.exit(serve())
