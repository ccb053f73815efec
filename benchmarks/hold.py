"""For how long does a request hold the arena's lock?

Steps on one arena run one at a time, so this is what bounds many workers. The example servers under load, as in `servers.py`,
and a hello that counts its requests; read off the arena from outside before and after (`arena.stats().lock`). A hold goes from
the first access of a step to its end: what the handler does in between is in it, and so is the time that its process did not have
the core.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from benchmarks import hello, served
from benchmarks.harness import Report, Settings, Spread, digits, progress

NAMES = ("hello that counts", "bank", "shop", "chat", "leaderboard")


@dataclass
class Held:
    """What one load came to.

    Attributes:
        requests: How many.
        cpu: µs of the server's processor time a request.
        lock: What the lock was held and waited for meanwhile: a `LockTimes`.
    """

    requests: int
    cpu: float
    lock: Any

    @property
    def held(self) -> float:
        """µs a request, all of its holds."""
        return float(self.lock.held.seconds * 1e6 / self.requests)

    @property
    def parts(self) -> float:
        """Holds a request."""
        return float(self.lock.held.count / self.requests)


class Watched:
    """One of the servers, and its arena seen from outside."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.server: Any = hello.Server(hello.COUNTS) if name == NAMES[0] else served.Served(name, "{}")
        self.arena = f"bench-{'hello' if name == NAMES[0] else name}-{self.server.process.pid}"

    def look(self) -> Any:
        from recoverable.cli import _outside

        return _outside.peek(self.arena).lock

    def load(self, seconds: int) -> Held:
        before = self.look()
        if self.name == NAMES[0]:
            rate, cpu = self.server.load(seconds)
            requests = round(rate * seconds)
        else:
            _, cpu, requests = self.server.load(seconds)
        return Held(requests, cpu, self.look() - before)


def measure(name: str, settings: Settings) -> list[Held]:
    """Load one of them, a few times."""
    watched = Watched(name)
    try:
        watched.load(1)
        found = []
        for i in range(settings.pick(5, 2)):
            progress(f"hold: {name}: round {i + 1}")
            found.append(watched.load(1))
    finally:
        progress("")
        watched.server.stop()
    return found


def run(settings: Settings) -> Report:
    report = Report("hold", "For how long does a request hold the arena's lock?")
    if shutil.which("wrk") is None:
        report.note("Not run: `wrk` is not installed (Debian: apt install wrk).")
        return report
    rows = []
    for name in NAMES:
        found = measure(name, settings)
        held = Spread.of(each.held for each in found)
        share = Spread.of(each.held / each.cpu for each in found)
        times = [each.lock.held for each in found]
        rows.append(
            [
                name,
                digits(Spread.of(each.parts for each in found).median),
                str(held),
                digits(Spread.of(t.quantile(0.5) * 1e6 for t in times).median),
                digits(Spread.of(t.quantile(0.99) * 1e6 for t in times).median),
                str(Spread.of(each.cpu for each in found)),
                f"{share.median:.0%}",
                digits(1 / share.median),
            ]
        )
        report.figure(f"{name}: µs held a request", held)
        report.figure(f"{name}: share of a request's time", share)
        if name == "bank":
            report.aim("µs that a bank request holds the lock, in all", 4, held, "µs")
    report.table(
        "Holds of the lock; medians, with quartiles, of the rounds; a class of the histogram is a factor of 2 wide",
        ["server", "holds a request", "µs held a request", "p50", "p99", "CPU µs a request", "share", "workers that fill it"],
        rows,
    )  # fmt: skip
    return report
