"""What do hot keys cost: runs of a request, and time, against one at a time?

Two hundred requests, twenty at a time, each waits 1 ms, as for a service: each pattern of docs/conflicts.md, and what that page
says to write instead. Then a load of which a tenth goes to one key, and what the other nine tenths notice; and a storm, with
and without the queues (`recoverable.contention`, which here alone can be switched off).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from unittest import mock

import uvloop

from benchmarks.flight import drive, transfers
from benchmarks.harness import Report, Settings, Spread, digits, percentile, progress
from benchmarks.patterns import body, conflicting, fill
from recoverable import Arena, ConflictError, contention, recoverable

REQUESTS, AT_ONCE, WAIT = 200, 20, 0.001
KEYS = 10_000
#: Those in which every request wants one and the same place: they are to take about as long as one at a time.
ONE_PLACE = (
    "read, wait, write", "a stock with a check", "the same, a Counter", "a total", "a serial number", "insert and count",
    "a cache's miss", "take the next job",
)  # fmt: skip


async def service() -> None:
    """Answer after a while."""
    await asyncio.sleep(WAIT)


async def limited(jobs: list[Callable[[], Awaitable[None]]], at_once: int) -> float:
    """Run them, so many at a time; return seconds."""
    enough = asyncio.Semaphore(at_once)

    async def one(job: Callable[[], Awaitable[None]]) -> None:
        async with enough:
            await job()

    began = time.perf_counter()
    await asyncio.gather(*map(one, jobs))
    return time.perf_counter() - began


# -- patterns ------------------------------------------------------------------------------------------------------------


class Pattern:
    """A cell of the page, as a handler, with what its rounds have taken."""

    def __init__(self, arena: Arena, code: str) -> None:
        self._arena = arena
        self._body = body(code)
        self.runs: list[float] = []
        self.seconds: list[float] = []
        self.alone: list[float] = []

    def round(self, requests: int) -> None:
        """Run it so many times, together and one after another. A handler that has just been made has learned nothing."""
        for taken, at_once in (self.seconds, AT_ONCE), (self.alone, 1):
            fill(self._arena)
            ran = 0

            async def undecorated(me: int) -> None:
                nonlocal ran
                ran += 1
                await self._body(self._arena, me, service)

            handler = recoverable(arena=self._arena)(undecorated)
            jobs = [functools.partial(handler, me) for me in range(requests)]
            taken.append(asyncio.run(limited(jobs, at_once)))
            if at_once > 1:
                self.runs.append(ran / requests)
            self._arena.native.habits.clear()
            self._arena.native.watches.clear()
            self._arena.native.watched.clear()

    def against_one_at_a_time(self) -> Spread:
        return Spread.of(many / one for many, one in zip(self.seconds, self.alone, strict=True))

    def cells(self) -> list[str]:
        together, alone = (f"{statistics.median(taken) * 1e3:.0f}" for taken in (self.seconds, self.alone))
        return [digits(statistics.median(self.runs)), together, alone]


def _patterns(report: Report, settings: Settings, arena: Arena) -> None:
    found = [(row.name, Pattern(arena, row.one), Pattern(arena, row.other)) for row in conflicting()]
    rounds = settings.pick(5, 1)
    for i in range(rounds):
        progress(f"patterns: round {i + 1} of {rounds}")
        for _, one, other in found:
            one.round(settings.pick(REQUESTS, 40))
            other.round(settings.pick(REQUESTS, 40))
    progress("")
    report.table(
        f"{REQUESTS} requests, {AT_ONCE} at a time, each waits 1 ms",
        [
            "",
            "conflicting: runs a request",
            "ms",
            "ms, one at a time",
            "instead: runs a request",
            "ms",
            "ms, one at a time",
        ],
        [[name, *one.cells(), *other.cells()] for name, one, other in found],
    )
    runs = {name: Spread.of(one.runs) for name, one, _ in found}
    times = {name: one.against_one_at_a_time() for name, one, _ in found}
    for name in runs:
        report.figure(f"{name}: runs", runs[name])
        report.figure(f"{name}: time", times[name])
    worst = max(ONE_PLACE, key=lambda name: runs[name].median)
    report.aim(f"all want one place: runs a request, the worst pattern ({worst})", 1.2, runs[worst])
    worst = max(ONE_PLACE, key=lambda name: times[name].median)
    report.aim(f"all want one place: time over one at a time, the worst pattern ({worst})", 1.1, times[worst], "x")
    worst = max(times, key=lambda name: times[name].median)
    report.aim(f"all patterns that conflict: time over one at a time, the worst ({worst})", 1.2, times[worst], "x")
    report.aim(
        "runs a request of what is written instead, the worst pattern",
        1.0,
        max((Spread.of(other.runs) for *_, other in found), key=lambda s: s.median),
    )


# -- one hot key ---------------------------------------------------------------------------------------------------------


def _one_hot_key(report: Report, settings: Settings, arena: Arena) -> None:
    with arena.transaction():
        arena.root.clear()
        arena.root["stock"] = dict.fromkeys(range(KEYS), 10**6)

    def load(hot: bool, seed: int) -> float:
        rng = random.Random(seed)
        stock, took = arena.root["stock"], []

        @recoverable(arena=arena)
        async def buy(key: int) -> None:
            left = stock[key]
            stock[key] = left - 1
            await service()

        async def cold(key: int) -> None:
            began = time.perf_counter()
            await buy(key)
            took.append(time.perf_counter() - began)

        n = settings.pick(4_000, 200)
        keys = rng.sample(range(1, KEYS), n)
        jobs = [functools.partial(*((buy, 0) if hot and i % 10 == 0 else (cold, key))) for i, key in enumerate(keys)]
        asyncio.run(limited(jobs, AT_ONCE))
        return percentile(took, 99)

    rounds = settings.pick(15, 2)
    found: list[tuple[float, float]] = []
    for i in range(rounds):
        progress(f"one hot key: round {i + 1} of {rounds}")
        first = load(i % 2 == 0, i)
        second = load(i % 2 == 1, i)
        found.append((first, second) if i % 2 == 0 else (second, first))
    progress("")
    report.aim(
        "a tenth of the requests on one key: p99 of the others, over the same load without that key",
        1.1,
        Spread.of(with_hot / without for with_hot, without in found),
        "x",
    )
    beside, without = (Spread.of(pair[i] * 1e3 for pair in found) for i in (0, 1))
    report.note(f"p99 of the others: {beside} ms beside the hot key, {without} ms without it.")


# -- a storm -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def no_queues() -> Iterator[None]:
    """Have nobody stand in a queue: who has lost runs again at once."""

    async def stand(self: Any, *args: Any) -> None:
        pass

    with mock.patch.object(contention.Place, "stand", stand):
        yield


def _storm(report: Report, settings: Settings, arena: Arena) -> None:
    """Two hundred transfers in flight over ten accounts, each waits 5 ms between its two writes."""
    with arena.transaction():
        arena.root.clear()
        arena.root["ten"] = dict.fromkeys(range(10), 0)
    inner, each = transfers(arena.root["ten"]), settings.pick(4, 1)

    def storm(seed: int) -> tuple[float, float, int]:
        """Return requests a second, runs a request, and how many the client had to send again."""
        ran = again = 0

        @recoverable(arena=arena)
        async def transfer(a: int, b: int, cents: int) -> None:
            nonlocal ran
            ran += 1
            await inner(a, b, cents)

        async def client(a: int, b: int, cents: int) -> None:
            nonlocal again
            while True:
                try:
                    return await transfer(a, b, cents)
                except ConflictError:
                    again += 1

        _, rate = uvloop.run(drive(client, 10, each, 200, seed))
        return rate, ran / (each * 200), again

    found: dict[str, list[tuple[float, float, int]]] = {"with the queues": [], "without": []}
    rounds = settings.pick(9, 2)
    for i in range(rounds):
        progress(f"storm: round {i + 1} of {rounds}")
        for how in list(found)[:: 1 if i % 2 else -1]:
            with no_queues() if how == "without" else contextlib.nullcontext():
                found[how].append(storm(i))
    progress("")
    rates = [without[0] / queued[0] for queued, without in zip(*found.values(), strict=True)]
    report.aim(
        "conflict storm over 10 accounts, 200 in flight: requests a second without the queues over with them",
        1 / 1.5,
        Spread.of(rates),
        "x",
    )
    report.table(
        "The storm",
        ["", "requests a second", "runs a request", "answered 503, of all"],
        [
            [
                how,
                str(Spread.of(x[0] for x in rounds)),
                str(Spread.of(x[1] for x in rounds)),
                str(sum(x[2] for x in rounds)),
            ]
            for how, rounds in found.items()
        ],
    )


def run(settings: Settings) -> Report:
    report = Report("contention", "What do hot keys cost, in runs and in time?")
    with Arena.temporary(size="64 MiB") as arena:
        _patterns(report, settings, arena)
        _one_hot_key(report, settings, arena)
        _storm(report, settings, arena)
        report.note(f"`arena.verify()` at the end: {arena.verify()}.")
    return report
