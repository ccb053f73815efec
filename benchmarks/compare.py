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
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import tree
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
from benchmarks.serving import cpu_ns

CONNECTIONS = 64
SCRIPT = """
n, seed = 0, %(seed)d
math.randomseed(seed)
request = function()
  n = n + 1
  local a = math.random(0, %(accounts)d - 1)
  local b = (a + math.random(1, %(accounts)d - 1)) %% %(accounts)d
  local order = '{"id": "%%d-%%d", "from": %%d, "to": %%d, "amount": %%d}'
  return wrk.format("POST", "/transfer", nil, string.format(order, seed, n, a, b, math.random(1, 5)))
end
done = function(summary, latency, requests)
  local errors = summary.errors
  print(string.format("done %%d %%d %%d %%d", summary.requests, summary.duration, latency:percentile(99),
    errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
"""


# -- a server -------------------------------------------------------------------------------------------------------


class Server:
    """A rival's server process, and what runs beside it."""

    def __init__(self, rival: Rival, folder: str, address: str, beside: int) -> None:
        self.command = tree.command("benchmarks.rivals.server", rival.name, folder, address)
        self.beside, self.seed = beside, 0
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        with self.process.stdout:  # it says no more than this
            said = self.process.stdout.readline()
        if not said:
            raise RuntimeError(f"{self.command} ended with {self.process.wait(timeout=20)}")
        self.url = f"http://127.0.0.1:{json.loads(said)['port']}"

    def processes(self) -> list[int]:
        return [self.process.pid, *(family(self.beside) if self.beside else ())]

    def cpu(self) -> int:
        """Return nanoseconds of CPU time of the server and the store's processes."""
        return sum(map(cpu_ns, self.processes()))

    def memory(self) -> int:
        """Return bytes; pages that processes share count once."""
        return sum(mapped(process, "Pss") for process in self.processes())

    def shared(self) -> int:
        """Return how many bytes more that would be if no other server had the same libraries mapped."""
        return mapped(self.process.pid, "Rss") - mapped(self.process.pid, "Pss")

    def ask(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + path, timeout=60) as response:
            return dict(json.load(response))

    def load(self, seconds: int) -> Burst:
        self.seed += 1
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            script.write(SCRIPT % {"seed": self.seed, "accounts": ACCOUNTS})
            script.flush()
            command = [
                "wrk",
                "-t1",
                f"-c{CONNECTIONS}",
                f"-d{seconds}s",
                "--timeout",
                "10s",
                "-s",
                script.name,
                self.url,
            ]
            before = self.cpu()
            text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
            spent = self.cpu() - before
        found = re.search(r"^done (\d+) (\d+) (\d+) (\d+)$", text, re.MULTILINE)
        assert found is not None, text
        requests, took, p99, errors = map(int, found.groups())
        if errors > requests / 100:
            raise RuntimeError(f"{errors} of {requests} requests failed:\n{text}")
        return Burst(requests / took * 1e6, spent / requests / 1e3, p99 / 1e3)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=20)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()


def family(process: int) -> list[int]:
    """Return a process and its children, and theirs."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [process, *(found for child in children for found in family(int(child)))]


def mapped(process: int, what: str) -> int:
    """Return a process's set size, in bytes; `what`: resident, "Rss", or proportional, "Pss"."""
    found = re.search(rf"^{what}:\s*(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@contextlib.contextmanager
def running(rival: Rival) -> Iterator[Server]:
    """Run a rival's server, and what runs beside it, in a folder of its own."""
    bank = rival.bank()
    with tempfile.TemporaryDirectory(prefix="rivals-") as folder, rival.started(Path(folder)) as (address, beside):
        server = Server(rival, folder, address, beside)
        try:
            yield server
        finally:
            server.stop()
            bank.forget(folder)


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
class Burst:
    """What one second gave."""

    rate: float  # requests a second
    cpu: float  # µs a request
    p99: float  # ms


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
    rng, rounds = random.Random(1), settings.pick(25, 2)
    with contextlib.ExitStack() as opened:
        servers = {rival.name: opened.enter_context(running(rival)) for rival in rivals}
        before = {name: server.ask("/books") for name, server in servers.items()}
        for server in servers.values():
            server.load(1)
        for i in range(rounds):
            for name in rng.sample(list(servers), len(servers)):
                progress(f"compare: round {i + 1} of {rounds}, {name}")
                found[name].bursts.append(servers[name].load(1))
        progress("")
        time.sleep(2)  # what was in flight at the end of the last burst
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
    pairs = zip(found[name].bursts, found[to].bursts, strict=True)
    return Spread.of(getattr(a, what) / getattr(b, what) for a, b in pairs)


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
