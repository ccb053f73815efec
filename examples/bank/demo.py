"""Drive the bank with clients that misbehave, kill it again and again, and count the money.

    python -m examples.bank.demo [--seconds 12] [--kills 5] [--clients 16] [--seed N]

Clients transfer money at random. Some of their requests raise, answer 500, time out or are cancelled between the debit
and the credit; some clients hang up before the answer. Meanwhile the server is killed: by SIGKILL from outside at a
random moment, or in the middle of a transfer, when the debit is made and the credit is not. Each time it is started
again on the same arena. Exit status 0 only if at the end

- the total is what it was at the beginning,
- the transfers in the audit explain every balance to the cent,
- every transfer that was answered 200 is there, also after the process that answered has been killed,
- none is there whose handler crashed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from typing import Any

import aiohttp
import uvloop

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


class Demo:
    """The whole run, and what it has found out so far."""

    def __init__(self, options: argparse.Namespace, progress: Progress) -> None:
        """Prepare everything; nothing is started yet."""
        self.options = options
        self.progress = progress
        self.rng = random.Random(options.seed)
        self.name = f"bank-demo-{os.getpid()}"
        self.bank = Bank(self.name, accounts=options.accounts)
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
            for kill in range(self.options.kills):
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
        life = self.options.seconds / (self.options.kills + 1) * self.rng.uniform(0.7, 1.3)
        ended = asyncio.ensure_future(self.bank.ended())
        done, _ = await asyncio.wait({ended, *clients}, timeout=life, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if ended in done:
            raise BankError(f"the server ended by itself with status {ended.result()}\n{self.bank.log()}")

    async def kill(self, session: aiohttp.ClientSession, number: int) -> None:
        """Kill the server, in turns from outside and from within a transfer."""
        await self.count(session)
        if number % 2:
            self.kills["from within"] += 1
            await self.customers.make_it_die(session, number)
        else:
            self.kills["from outside"] += 1
            await self.bank.kill()

    async def restart(self, session: aiohttp.ClientSession, number: int) -> None:
        """Start the next server on the same arena and look at its books before anybody else does."""
        began = time.monotonic()
        await self.bank.start()
        took = time.monotonic() - began
        books = await self.examine(session)
        undone = self.bank.recovered[-1]
        verdict = "all there" if not self.problems else "NOT all there"
        self.progress.say(
            f"kill {number + 1}: back after {took * 1000:.0f} ms; recovery undid {undone['bytes']} bytes; "
            f"{money(sum(books['balances']))}, {len(books['audit']):,} transfers, {verdict}"
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

    def table(self) -> str:
        """Describe what happened."""
        ledger, answers = self.ledger, self.ledger.answers
        halves = sum(undone["records"] > 0 for undone in self.bank.recovered)
        gave_up = answers[503]
        acknowledged = ledger.count(Fate.COMMITTED)
        lost = sum(fate is Fate.COMMITTED and name not in self.books["audit"] for name, fate in ledger.fates.items())
        rows: list[tuple[str, object]] = [
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
            ("acknowledged transfers", acknowledged),
            ("  found in the audit at the end", acknowledged - lost),
            ("unanswered transfers", ledger.count(Fate.UNKNOWN)),
            ("  found in the audit at the end", ledger.in_doubt_but_done(self.books)),
            ("total money before", money(self.before)),
            ("total money after", money(self.after)),
        ]
        width = max(len(name) for name, _ in rows) + 2
        cells = [(name, value if isinstance(value, str) else format(value, ",")) for name, value in rows]
        lines = [f"{name:<{width}}{cell:>14}" for name, cell in cells]
        return "\n".join([*lines, "* as counted by the servers, up to a moment before each kill"])


def money(cents: int) -> str:
    """Write cents as people do."""
    return f"{cents / 100:,.2f}"


async def run(options: argparse.Namespace) -> int:
    """Run the demo and leave nothing behind, whatever happens."""
    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    demo = Demo(options, Progress())
    try:
        await demo.run()
    except* BankError as group:
        demo.problems += [str(error) for error in group.exceptions]
    finally:
        await demo.bank.stop()
        demo.bank.close()
        with contextlib.suppress(ArenaNotFoundError):
            Arena.unlink(demo.name)
    demo.progress.say("")
    print(demo.table())
    for problem in demo.problems[:20]:
        print("PROBLEM:", problem)
    if demo.problems or demo.before != demo.after:
        print(f"FAILED: {len(demo.problems)} problems (seed {options.seed})")
        return 1
    print("PASSED: no money lost or made, every acknowledged transfer found, no trace of a crashed one")
    return 0


def main() -> int:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m examples.bank.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=12.0, help="how long the clients work")
    parser.add_argument("--kills", type=int, default=5, help="how often the server is killed in that time")
    parser.add_argument("--clients", type=int, default=16, help="how many work at once")
    parser.add_argument("--accounts", type=int, default=200, help="fewer accounts, more conflicts")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="printed if not given")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run(options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nstopped; the server and its arena are gone")
        return 130


if __name__ == "__main__":
    sys.exit(main())
