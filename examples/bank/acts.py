"""What the demo does to the bank: kills it, and cuts its power.

Each act has a bank of its own, with customers who misbehave all the time, and looks at the books after each start before anybody
else does. Killed, a server leaves its arena behind; in a power cut that goes as well, and only the journal is left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any

import aiohttp

from recoverable import Arena, ArenaNotFoundError

from .load import Bank, BankError, Customers, Fate, Ledger

KINDS = {  # as the ledger counts them -> as the table calls them
    "raise": "exception between debit and credit",
    "500": "response of 500",
    "timeout": "handler timed out",
    "cancel": "handler cancelled",
    "hang up": "client hung up before the answer",
}


class Progress:
    """One line that is rewritten on a terminal; a line every two seconds anywhere else."""

    def __init__(self) -> None:
        """Find out where the output goes."""
        self._tty = sys.stdout.isatty()
        self._every = 0.2 if self._tty else 2.0
        self._width = 0

    def say(self, text: str) -> None:
        """Print a line that stays."""
        print("\r" + text.ljust(self._width) if self._width else text, flush=True)
        self._width = 0

    async def watch(self, ledger: Ledger) -> None:
        """Show how far the clients are, until cancelled."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(self._every)
            crashes = sum(ledger.sent[kind] for kind in KINDS)
            seconds = time.monotonic() - began
            text = f"  {seconds:5.1f} s  {ledger.sent.total():7,} requests, {crashes:,} of them crashes"
            if self._tty:
                print("\r" + text.ljust(self._width), end="", flush=True)
                self._width = max(self._width, len(text))
            else:
                print(text, flush=True)


class Act(ABC):
    """One bank, killed again and again, and what has been found out so far.

    Attributes:
        problems: Whatever should not be.
    """

    def __init__(
        self, options: argparse.Namespace, progress: Progress, *, seconds: float, kills: int, bank: tuple[str, ...] = ()
    ) -> None:
        """Prepare everything; nothing is started yet."""
        self.options = options
        self.seconds, self.ends = seconds, kills
        self.progress = progress
        self.rng = random.Random(options.seed)
        self.name = f"bank-demo-{os.getpid()}"
        self.bank = Bank(self.name, accounts=options.accounts, options=bank, example=options.server)
        self.ledger = Ledger()
        self.customers = Customers(self.bank, self.ledger, options.accounts, options.seed)
        self.books: dict[str, Any] = {"audit": {}}
        self.kills: Counter[str] = Counter()
        self.figures: Counter[str] = Counter()  # the servers' own, the killed ones' included
        self.before = self.after = 0
        self.problems: list[str] = []

    async def run(self) -> None:
        """Start, load, kill and restart the server; collect the problems."""
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self.progress.watch(self.ledger))
            await self.bank.start()
            self.before = sum((await self.examine(session))["balances"])
            self.progress.say(f"the bank is open: {self.options.accounts} accounts, {money(self.before)} in total")
            self.bank.open_doors()
            clients = [tasks.create_task(self.customers.work(session, n)) for n in range(self.options.clients)]
            for kill in range(self.ends):
                await self.bank.prepare()
                await self.load(clients)
                await self.kill(session, kill)
                await self.restart(session, kill)
            await self.load(clients)
            self.customers.stop.set()
            await asyncio.gather(*clients)
            self.after = sum((await self.examine(session))["balances"])
            await self.count(session)
            watching.cancel()

    async def load(self, clients: list[asyncio.Task[None]]) -> None:
        """Let the clients work for one server's life, and fail as soon as something dies that should not."""
        life = self.seconds / (self.ends + 1) * self.rng.uniform(0.7, 1.3)
        ended = asyncio.ensure_future(self.bank.ended())
        done, _ = await asyncio.wait({ended, *clients}, timeout=life, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if ended in done:
            raise BankError(f"the server ended by itself with status {ended.result()}\n{self.bank.log()}")

    @abstractmethod
    async def kill(self, session: aiohttp.ClientSession, number: int) -> None:
        """End the server."""

    @abstractmethod
    def back(self, took: float) -> str:
        """Say what the server has found that is back after so many seconds."""

    async def restart(self, session: aiohttp.ClientSession, number: int) -> None:
        """Start the next server and look at its books before anybody else does."""
        began = time.monotonic()
        await self.bank.start()
        said = self.back(time.monotonic() - began)
        books = await self.examine(session)
        verdict = "all there" if not self.problems else "NOT all there"
        self.progress.say(
            f"{said}; {money(sum(books['balances']))}, {len(books['audit']):,} transfers, {verdict}".replace(
                "#", str(number + 1)
            )
        )
        self.bank.open_doors()

    async def examine(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        """Compare the books with what the clients know."""
        await self.bank.get(session, "/verify")
        books: dict[str, Any] = await self.bank.get(session, "/books")
        self.problems += self.ledger.problems(books, self.options.accounts)
        self.books = books
        return books

    async def count(self, session: aiohttp.ClientSession) -> None:
        """Add up the figures that die with the process."""
        stats = await self.bank.get(session, "/stats")
        self.figures.update({name: stats[name] for name in ("commits", "rollbacks", "conflicts")})

    @abstractmethod
    def rows(self) -> list[tuple[str, object]]:
        """Describe what happened: a name and a figure each."""

    def found(self) -> list[tuple[str, object]]:
        """Describe what is left of the transfers and of the money."""
        ledger = self.ledger
        acknowledged = ledger.count(Fate.COMMITTED)
        lost = sum(fate is Fate.COMMITTED and name not in self.books["audit"] for name, fate in ledger.fates.items())
        return [
            ("acknowledged transfers", acknowledged),
            ("  found in the audit at the end", acknowledged - lost),
            ("unanswered transfers", ledger.count(Fate.UNKNOWN)),
            ("  found in the audit at the end", ledger.in_doubt_but_done(self.books)),
            ("total money before", money(self.before)),
            ("total money after", money(self.after)),
        ]

    async def played(self) -> bool:
        """Run it, print what happened, and leave nothing behind; return whether all is as it should be."""
        try:
            await self.run()
        except* BankError as group:
            self.problems += [str(error) for error in group.exceptions]
        finally:
            await self.close()
        self.progress.say("")
        print(table(self.rows() + self.found()))
        for problem in self.problems[:20]:
            print("PROBLEM:", problem)
        return not self.problems and self.before == self.after

    async def close(self) -> None:
        """End the server, and remove its arena."""
        await self.bank.stop()
        self.bank.close()
        with contextlib.suppress(ArenaNotFoundError):
            Arena.unlink(self.name)


class Kills(Act):
    """The server is killed, by turns from outside and from within a transfer; its arena stays."""

    def __init__(self, options: argparse.Namespace, progress: Progress) -> None:
        """Prepare everything; nothing is started yet."""
        super().__init__(options, progress, seconds=options.seconds, kills=options.kills)

    async def kill(self, session: aiohttp.ClientSession, number: int) -> None:
        """Kill the server, in turns from outside and from within a transfer."""
        await self.count(session)
        if number % 2:
            self.kills["from within"] += 1
            await self.customers.make_it_die(session, number)
        else:
            self.kills["from outside"] += 1
            await self.bank.kill()

    def back(self, took: float) -> str:
        """Say what was undone."""
        return f"kill #: back after {took * 1000:.0f} ms; recovery undid {self.bank.recovered[-1]['bytes']} bytes"

    def rows(self) -> list[tuple[str, object]]:
        """Describe requests, crashes, kills, and what was undone."""
        ledger, answers = self.ledger, self.ledger.answers
        halves = sum(undone["records"] > 0 for undone in self.bank.recovered)
        gave_up = answers[503]
        return [
            ("requests", ledger.sent.total()),
            ("  answered 200", answers[200]),
            ("  answered with an error", answers.total() - answers[200] - answers[0]),
            ("  not answered", answers[0]),
            ("crashes", sum(ledger.sent[kind] for kind in KINDS)),
            *((f"  {title}", ledger.sent[kind]) for kind, title in KINDS.items()),
            ("kill -9 of the server", self.kills.total()),
            ("  at a random moment", self.kills["from outside"]),
            ("  between debit and credit", self.kills["from within"]),
            ("rollbacks *", self.figures["rollbacks"]),
            ("  for conflicts *", self.figures["conflicts"]),
            ("  and run again *", max(0, self.figures["conflicts"] - gave_up)),
            ("  given up: 503, and sent again by the client", gave_up),
            ("undone by recovery", f"{sum(undone['bytes'] for undone in self.bank.recovered):,} bytes"),
            ("  in restarts", f"{halves} of {self.kills.total()}"),
        ]


class PowerCuts(Act):
    """The server is killed under `durable="disk"` and its shared memory deleted; the journal stays."""

    def __init__(self, options: argparse.Namespace, progress: Progress) -> None:
        """Prepare everything; nothing is started yet."""
        self.folder = tempfile.mkdtemp(prefix="bank-demo-")
        self.took: list[float] = []
        seconds = options.seconds / 3
        bank = ("--journal", self.folder, "--durable", "disk")
        super().__init__(options, progress, seconds=seconds, kills=options.cuts, bank=bank)

    async def kill(self, session: aiohttp.ClientSession, number: int) -> None:
        """Kill the server, and take its memory away."""
        await self.bank.kill()
        Arena.unlink(self.name)

    def back(self, took: float) -> str:
        """Say what was restored."""
        self.took.append(took)
        restored = self.bank.restored[-1]
        if restored is None:
            self.problems.append("the server has found its state in shared memory, which was deleted")
            return "power cut #: nothing was restored"
        return (
            f"power cut #: back after {took * 1000:.0f} ms; restored from the journal in {restored['milliseconds']} ms: "
            f"a snapshot and {restored['commits']:,} commits"
        )

    def rows(self) -> list[tuple[str, object]]:
        """Describe requests, power cuts, and what was restored."""
        restored = [each for each in self.bank.restored if each is not None]
        return [
            ("requests, each answer waits for the disk", self.ledger.sent.total()),
            ("  answered 200", self.ledger.answers[200]),
            ("crashes", sum(self.ledger.sent[kind] for kind in KINDS)),
            ("power cuts: kill -9, shared memory deleted", len(self.took)),
            ("  back after, median", f"{statistics.median(self.took or [0]) * 1000:.0f} ms"),
            (
                "  of which restoring took, median",
                f"{statistics.median([r['milliseconds'] for r in restored] or [0]):.0f} ms",
            ),
            ("  commits replayed", sum(each["commits"] for each in restored)),
        ]

    async def close(self) -> None:
        """Remove the journal, too."""
        await super().close()
        shutil.rmtree(self.folder)


def table(rows: list[tuple[str, object]]) -> str:
    """Lay out names and figures."""
    width = max(len(name) for name, _ in rows) + 2
    cells = [(name, value if isinstance(value, str) else format(value, ",")) for name, value in rows]
    lines = [f"{name:<{width}}{cell:>14}" for name, cell in cells]
    if any(name.endswith("*") for name, _ in rows):
        lines.append("* as counted by the servers, up to a moment before each kill")
    return "\n".join(lines)


def money(cents: int) -> str:
    """Write cents as people do."""
    return f"{cents / 100:,.2f}"
