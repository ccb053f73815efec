"""What do two hundred requests in flight cost, each of which waits between two writes?

A transfer takes money from one account, waits 5 ms, as for a database, and pays it into another. The same handler runs on
plain Python objects, without any protection, and under `@recoverable` on an arena; the accounts are 100,000 items of an
`Array`, keys of a `Dict`, or `Record`s. CPU time of the process, all of asyncio in it, on uvloop.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import uvloop

from benchmarks.harness import Report, Settings, Spread, digits, progress
from recoverable import Arena, Array, Counter, Record, after_commit, attempt, recoverable

IN_FLIGHT = 200
WAIT = 0.005
SHARED = ", one Counter, one audit Dict"


class Account(Record, name="benchmarks.Account"):
    balance: int = 0


class Plain:
    def __init__(self) -> None:
        self.balance = 0


def transfers(accounts: Any, root: Any = None) -> Any:
    """Return the handler on accounts that are numbers, with or without what all of them share."""

    async def transfer(a: int, b: int, cents: int) -> None:
        accounts[a] -= cents
        await asyncio.sleep(WAIT)
        accounts[b] += cents
        if root is not None:
            count(root["done"])
            root["audit"][a, b, random.random()] = cents

    return transfer


def count(counter: Any) -> None:
    if isinstance(counter, Counter):
        counter.add(1)
    else:
        counter[0] += 1


def records(accounts: Any) -> Any:
    """Return the handler on accounts that are objects."""

    async def transfer(a: int, b: int, cents: int) -> None:
        accounts[a].balance -= cents
        await asyncio.sleep(WAIT)
        accounts[b].balance += cents

    return transfer


async def drive(handler: Any, accounts: int, each: int, in_flight: int, seed: int) -> tuple[float, float]:
    """Run the load; return (µs of CPU time a request, requests a second)."""
    rng = random.Random(seed)

    async def client() -> None:
        for _ in range(each):
            a, b = rng.randrange(accounts), rng.randrange(accounts)
            await handler(a, b if b != a else (b + 1) % accounts, 1)

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(in_flight)))
    n = each * in_flight
    return (time.process_time() - cpu) / n * 1e6, n / (time.perf_counter() - wall)


def rounds(
    cases: dict[str, Callable[[int], Any]], settings: Settings, title: str
) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    many = settings.pick(9, 2)
    for i in range(many):
        progress(f"{title}: round {i + 1} of {many}")
        for name in list(cases)[:: 1 if i % 2 else -1]:
            found[name].append(uvloop.run(cases[name](i)))
    progress("")
    return found


def run(settings: Settings) -> Report:
    report = Report("flight", "What do 200 transfers in flight cost, each waiting 5 ms between two writes?")
    n, each = settings.pick(100_000, 2_000), settings.pick(20, 4)
    with Arena.temporary(size="512 MiB") as arena:
        root, protect = arena.root, recoverable(arena=arena)
        with arena.transaction():
            root.update({"array": Array(n, "i8"), "dict": {}, "records": {}, "done": Counter(), "audit": {}})
        for first in range(0, n, 10_000):
            with arena.transaction():
                some = range(first, min(n, first + 10_000))
                root["dict"].update(dict.fromkeys(some, 0))
                root["records"].update((i, Account()) for i in some)
        plain_list, plain_dict, plain_objects = [0] * n, dict.fromkeys(range(n), 0), [Plain() for _ in range(n)]
        plain_shared: dict[str, Any] = {"done": [0], "audit": {}}
        handlers = {
            ("Array", "plain"): transfers(plain_list),
            ("Array", "recoverable"): protect(transfers(root["array"])),
            ("Dict", "plain"): transfers(plain_dict),
            ("Dict", "recoverable"): protect(transfers(root["dict"])),
            ("Record", "plain"): records(plain_objects),
            ("Record", "recoverable"): protect(records(root["records"])),
            ("Array" + SHARED, "plain"): transfers(plain_list, plain_shared),
            ("Array" + SHARED, "recoverable"): protect(transfers(root["array"], root)),
        }
        before = arena.stats()
        found = rounds(
            {f"{where}, {how}": _loaded(handler, n, each) for (where, how), handler in handlers.items()},
            settings,
            "flight",
        )
        after = arena.stats()
        kinds = list(dict.fromkeys(where for where, _ in handlers))
        rows = []
        for kind in kinds:
            plain, own = found[f"{kind}, plain"], found[f"{kind}, recoverable"]
            above = Spread.of(b[0] - a[0] for a, b in zip(plain, own, strict=True))
            rows.append([kind, str(Spread.of(x[0] for x in plain)), str(Spread.of(x[0] for x in own)), str(above)])
            rows[-1] += [f"{Spread.of(x[1] for x in plain).median:,.0f}", f"{Spread.of(x[1] for x in own).median:,.0f}"]
            report.figure(f"{kind}: above", above)
            if SHARED not in kind:
                report.aim(
                    f"CPU time of a transfer above the same handler without @recoverable, {kind}", 8.0, above, "µs"
                )
        report.table(
            "µs of CPU time a transfer, 200 in flight",
            ["accounts in", "plain", "@recoverable", "above", "plain, transfers/s", "@recoverable, transfers/s"],
            rows,
        )
        shared = [
            alone[1] / both[1]
            for alone, both in zip(found["Array, recoverable"], found[f"Array{SHARED}, recoverable"], strict=True)
        ]
        report.aim(
            "with a shared Counter and audit Dict: throughput without them over that with them",
            1.02,
            Spread.of(shared),
            "x",
        )
        commits = after.commits - before.commits
        rate = (after.conflicts - before.conflicts) / commits * 100
        report.aim("runs again", 1.0, Spread.of([rate]), "%")
        _readers(report, settings, arena, n, each)
        _storm(report, settings, arena)
        report.note(f"`arena.verify()` at the end: {arena.verify()}.")
    return report


def _loaded(handler: Any, accounts: int, each: int, in_flight: int = IN_FLIGHT) -> Callable[[int], Any]:
    return lambda seed: drive(handler, accounts, each, in_flight, seed)


def _readers(report: Report, settings: Settings, arena: Arena, n: int, each: int) -> None:
    """Writers alone, and beside handlers that only read, but everything that the writers write."""
    root, protect = arena.root, recoverable(arena=arena)
    writer = protect(transfers(root["dict"]))
    runs = [0, 0]

    async def written(a: int, b: int, cents: int) -> None:
        await writer(a, b, cents)
        runs[0] += 1

    async def reader(stop: asyncio.Event) -> None:
        while not stop.is_set():
            await reads(random.randrange(n - 8))

    @protect
    async def reads(first: int) -> int:
        total = sum(root["dict"][first + i] for i in range(4))
        await asyncio.sleep(WAIT)
        return total + sum(root["dict"][first + i] for i in range(4, 8))

    async def beside(seed: int) -> tuple[float, float]:
        stop = asyncio.Event()
        readers = [asyncio.create_task(reader(stop)) for _ in range(20)]
        result = await drive(written, n, each, IN_FLIGHT, seed)
        stop.set()
        await asyncio.gather(*readers)
        return result

    found = rounds({"alone": _loaded(written, n, each), "beside 20 readers": beside}, settings, "readers")
    pairs = zip(found["alone"], found["beside 20 readers"], strict=True)
    report.aim(
        "throughput that writers lose beside 20 readers", 2.0, Spread.of((1 - b[1] / a[1]) * 100 for a, b in pairs), "%"
    )


def _storm(report: Report, settings: Settings, arena: Arena) -> None:
    """Ten accounts: nearly everybody meets somebody."""
    protect = recoverable(arena=arena)
    with arena.transaction():
        arena.root["ten"] = dict.fromkeys(range(10), 0)
    inner = transfers(arena.root["ten"])
    runs: list[int] = []

    @protect
    async def transfer(a: int, b: int, cents: int) -> None:
        await inner(a, b, cents)
        after_commit(runs.append, attempt())

    each = settings.pick(4, 1)
    found = rounds(
        {
            "one at a time": _loaded(transfer, 10, settings.pick(60, 10), 1),
            "200 in flight": _loaded(transfer, 10, each),
        },
        settings,
        "storm",
    )
    rates = [one[1] / many[1] for one, many in zip(found["one at a time"], found["200 in flight"], strict=True)]
    report.aim(
        "conflict storm over 10 accounts: one at a time over 200 in flight, requests a second",
        1.0,
        Spread.of(rates),
        "x",
    )
    report.aim("conflict storm: runs of a request, at most", 6, Spread.of([max(runs)]))
    ended = len(runs) == settings.pick(9, 2) * (settings.pick(60, 10) + each * IN_FLIGHT)
    report.note(
        f"In the storm {'every request' if ended else 'NOT every request'} committed; {digits(sum(runs) / len(runs))} runs each."
    )
