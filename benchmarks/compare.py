"""What would another store cost the same server, and what would it save?

The bank of `benchmarks/rivals/` on each store, as aiohttp on uvloop, a process each, all of them running. `wrk` loads them over
loopback, 64 connections, in bursts of a second, in a new random order each round: a machine that slows down for a
while slows all of them, and shares are taken round by round. CPU time is that of the server and of the store's processes.
Memory is their proportional set size, so what all servers share counts in parts; what of it is the state is taken off where the
store can say that.

The last three columns were seen in this run: transfers met a bug between their debit and their credit, the server was killed
under load and started again, and the sum of all balances was asked for while transfers were under way. What survived is told
by the books: each balance must be what the audit says, and each transfer that was answered must be in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sys
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.harness import Report, Settings, Spread, digits, progress
from benchmarks.rivals import (
    ACCOUNTS,
    CRASHING,
    DECORATED,
    LMDB,
    OPENING,
    PLAIN,
    RIVALS,
    Missing,
    Rival,
    lines_of_code,
)
from benchmarks.rivals.running import CONNECTIONS, Burst, Server, in_turn, over, running

# -- what can be seen -----------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What happened to the money."""

    survives_exception: bool
    survives_kill: bool
    in_flight: bool  # a reader saw a sum that never was


def see(rival: Rival) -> Seen:
    """Do to a rival what the last three columns tell."""
    with running(rival) as server:
        in_flight = asyncio.run(_read_meanwhile(server))
        asyncio.run(_with_bugs(server))
        exception = server.ask("/books")["off"] == 0
    with running(rival) as server:
        answered = asyncio.run(_killed(server))
        server.start()
        books = server.ask("/books")
        kill = books["off"] == 0 and answered <= set(books["kept"])
    return Seen(exception, kill, in_flight)


async def _transfer(session: aiohttp.ClientSession, url: str, ref: str) -> int:
    """Send one transfer between accounts that its id decides; return the status of the answer."""
    a, b = random.Random(ref).sample(range(ACCOUNTS), 2)
    async with session.post(f"{url}/transfer", json={"id": ref, "from": a, "to": b, "amount": 3}) as answer:
        return answer.status


async def _read_meanwhile(server: Server) -> bool:
    """Ask for the sum while transfers are under way; return whether it was ever wrong."""
    done = False

    async def transfers(client: int) -> None:
        number = 0
        while not done:
            number += 1
            assert await _transfer(session, server.url, f"read-{client}-{number}") == 200

    async with aiohttp.ClientSession() as session:
        clients = [asyncio.create_task(transfers(client)) for client in range(16)]
        totals = set()
        for _ in range(30):
            async with session.get(f"{server.url}/total") as answer:
                totals.add((await answer.json())["total"])
        done = True
        await asyncio.gather(*clients)
    return totals != {ACCOUNTS * OPENING}


async def _with_bugs(server: Server) -> None:
    """Send transfers of which every other one meets a bug."""
    async with aiohttp.ClientSession() as session:
        for number in range(20):
            assert await _transfer(session, server.url, f"{CRASHING}-{number}") == 500
            assert await _transfer(session, server.url, f"fine-{number}") == 200


async def _killed(server: Server) -> set[str]:
    """Kill the server under load; return the transfers that it had answered by then."""
    answered: set[str] = set()

    async def transfers(client: int) -> None:
        with contextlib.suppress(aiohttp.ClientError):
            for number in range(10**6):
                if await _transfer(session, server.url, ref := f"kept-{client}-{number}") == 200:
                    answered.add(ref)

    async with aiohttp.ClientSession() as session:
        clients = [asyncio.create_task(transfers(client)) for client in range(16)]
        await asyncio.sleep(0.5)
        server.process.kill()
        await asyncio.gather(*clients)
    server.process.wait(timeout=20)
    assert answered
    return answered


# -- what it costs --------------------------------------------------------------------------------------------------


@dataclass
class Found:
    """All that was found out about one rival."""

    seen: Seen
    bursts: list[Burst] = field(default_factory=list)
    memory: int = 0  # bytes at the end
    shared: int = 0  # bytes that a server by itself would take more
    state: int | None = None  # bytes of it that are the state; None: that cannot be told
    entry: float = 0  # bytes that the state has grown by for a transfer


def measure(report: Report, settings: Settings) -> dict[str, Found]:
    """See what each rival does with the money, then load all of them in turn."""
    found: dict[str, Found] = {}
    rivals = []
    for rival in RIVALS:
        progress(f"compare: what {rival.name} survives")
        try:
            found[rival.name] = Found(see(rival))
            rivals.append(rival)
        except Missing as missing:
            print(f"\n##### NOT COMPARED: {rival.name}. {missing} #####", file=sys.stderr, flush=True)
            report.note(f"Not compared: {rival.name}. {missing}.")
    with contextlib.ExitStack() as opened:
        servers = {rival.name: opened.enter_context(running(rival)) for rival in rivals}
        before = {name: server.ask("/books") for name, server in servers.items()}
        for name, burst in in_turn(servers, settings.pick(25, 2), "compare"):
            found[name].bursts.append(burst)
        for server in servers.values():
            server.ask("/idle")
        for name, server in servers.items():
            each = found[name]
            each.memory, each.shared = server.memory(), server.shared()  # first: to answer for the books takes some
            books = server.ask("/books")
            each.state = books["state"]
            if each.state is not None:
                each.entry = (each.state - before[name]["state"]) / max(books["audit"], 1)
            if books["off"]:
                report.note(f"{name}: {books['off']} balances are not what the audit says, after the load.")
    return found


def paired(found: dict[str, Found], name: str, to: str, what: str) -> Spread:
    """Return a figure of one rival over another's, round by round."""
    return over(found[name].bursts, found[to].bursts, what)


def run(settings: Settings) -> Report:
    report = Report("compare", "What would another store cost the same server, and what would it save?")
    if shutil.which("wrk") is None:
        report.note("Not run: `wrk` is not installed (Debian: apt install wrk).")
        return report
    found = measure(report, settings)
    table(report, found)
    aims(report, found)
    plot(report, settings, found)
    return report


def table(report: Report, found: dict[str, Found]) -> None:
    rows = []
    for name, each in found.items():
        rival = next(rival for rival in RIVALS if rival.name == name)
        share, cpu = paired(found, name, PLAIN, "rate"), paired(found, name, PLAIN, "cpu")
        p99 = Spread.of(burst.p99 for burst in each.bursts)
        for what, spread in {"throughput": share, "CPU": cpu, "p99": p99}.items():
            report.figure(f"{name}: {what}", spread)
        memory = digits((each.memory - (each.state or 0)) / 2**20)
        rows.append(
            [
                name,
                str(share),
                str(p99),
                str(cpu),
                memory if each.state is not None else f"{memory} with it",
                str(lines_of_code(rival.bank())),
                "yes" if each.seen.survives_exception else "**no**",
                "yes" if each.seen.survives_kill else "**no**",
                "**yes**" if each.seen.in_flight else "no",
            ]
        )
    report.table(
        f"POST /transfer on {ACCOUNTS:,} accounts, {CONNECTIONS} connections; throughput and CPU as parts of plain Python's",
        [
            *("bank on", "throughput", "p99, ms", "CPU a request", "MiB beside the state", "lines of code"),
            *("survives an exception half-way", "survives kill -9", "a reader sees money in flight"),
        ],
        rows,
    )
    plain, shared = found[PLAIN].bursts, Spread.of(each.shared / 2**20 for each in found.values())
    report.note(
        f"Plain Python: {Spread.of(burst.rate for burst in plain)} requests/s, {Spread.of(burst.cpu for burst in plain)} µs of CPU "
        "time each. The kill is the server's; Redis and PostgreSQL, in processes of their own, live on. ZODB's file storage is the "
        "only one here that waits for the disk at each commit, and it has no switch for that. "
        f"Libraries that the servers share are counted in parts: a server by itself takes {digits(shared.median)} MiB more."
    )


def aims(report: Report, found: dict[str, Found]) -> None:
    if LMDB in found:
        report.aim("throughput of LMDB over decorated, paired", 1 / 1.05, paired(found, LMDB, DECORATED, "rate"), "x")
        report.aim("CPU time of decorated over LMDB, paired", 0.95, paired(found, DECORATED, LMDB, "cpu"), "x")
        report.aim("p99 of decorated over LMDB, paired", 1.1, paired(found, DECORATED, LMDB, "p99"), "x")
    own = found[DECORATED]
    beside = (own.memory - (own.state or 0)) / 2**20
    report.aim("decorated: memory of the server beside the state", 45, Spread.of([beside]), "MiB")
    report.aim("decorated: state that an audit entry takes", 245, Spread.of([own.entry]), "bytes")


def plot(report: Report, settings: Settings, found: dict[str, Found]) -> None:
    """Draw throughput and CPU time as parts of plain Python's."""

    def draw(axes: Any) -> None:
        names = list(found)
        for shift, what, label in ((-0.2, "rate", "throughput"), (0.2, "cpu", "CPU a request")):
            spreads = [paired(found, name, PLAIN, what) for name in names]
            errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
            at = [i + shift for i in range(len(names))]
            axes.barh(at, [s.median for s in spreads], 0.38, xerr=errors, label=label)
        axes.axvline(1, color="black", lw=0.8)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set(xscale="log", xlabel="as a part of plain Python's (log)", title="the same bank on other stores")
        axes.legend()

    report.plot(settings, "compare.svg", "throughput and CPU time of the bank, by store", draw)
