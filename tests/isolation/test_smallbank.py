"""SmallBank with two hundred requests in flight and faults at their awaits: the balances reconcile to the cent.

The benchmark of Alomari, Cahill, Fekete and Roehm (ICDE 2008): six transactions over checking and savings accounts, here as
handlers that wait between their reads and writes.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter as Tally
from typing import TYPE_CHECKING, Any

import pytest

import recoverable
from recoverable import Arena, Array, Counter, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

ACCOUNTS, IN_FLIGHT, REQUESTS, MANY = 40, 200, 8, 1000
MIX = {
    "amalgamate": 15,
    "balance": 15,
    "deposit_checking": 15,
    "send_payment": 25,
    "transact_savings": 15,
    "write_check": 15,
}


class Bounced(Exception):
    """There is not enough money: an application's own error, which rolls back."""


class Fault(Exception):
    """A bug, at some await."""


class Account(Record, name="smallbank.Account"):
    """A customer's two accounts, in cents."""

    checking: int = 0
    savings: int = 0


class Bank:
    """The six handlers, over accounts stored in one of three ways.

    Attributes:
        outside: What has come into the bank, by the callbacks after each commit.
    """

    def __init__(self, arena: Arena, how: str, rng: random.Random) -> None:
        self.arena, self.how, self.rng = arena, how, rng
        self.outside = 0
        start: dict[str, Callable[[], Any]] = {
            "Dict": lambda: {n: {"checking": MANY, "savings": MANY} for n in range(ACCOUNTS)},
            "Record": lambda: {n: Account(checking=MANY, savings=MANY) for n in range(ACCOUNTS)},
            "Array": lambda: Array([MANY] * (2 * ACCOUNTS), "i8"),
        }
        with arena.transaction():
            arena.root.clear()
            arena.root.update(accounts=start[how](), paid_in=Counter(), audit={})

    def get(self, customer: int, kind: str) -> int:
        """Return a balance."""
        accounts = self.arena.root["accounts"]
        if self.how == "Array":
            return int(accounts[2 * customer + (kind == "savings")])
        return int(accounts[customer][kind] if self.how == "Dict" else getattr(accounts[customer], kind))

    def add(self, customer: int, kind: str, cents: int) -> None:
        """Change a balance."""
        accounts, value = self.arena.root["accounts"], self.get(customer, kind) + cents
        if self.how == "Array":
            accounts[2 * customer + (kind == "savings")] = value
        elif self.how == "Dict":
            accounts[customer][kind] = value
        else:
            setattr(accounts[customer], kind, value)

    def pay_in(self, cents: int) -> None:
        """Count what comes from outside, or leaves."""
        self.arena.root["paid_in"].add(cents)
        recoverable.after_commit(self._came, cents)

    def _came(self, cents: int) -> None:
        self.outside += cents

    async def wait(self) -> None:
        """Await another service; sometimes it fails, and sometimes the client is gone."""
        await asyncio.sleep(self.rng.choice((0, 0.0001, 0.001)))
        luck = self.rng.random()
        if luck < 0.03:
            raise Fault
        if luck < 0.05:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    async def amalgamate(self, a: int, b: int, cents: int) -> None:
        """Move all of a's money to b's checking account."""
        total = self.get(a, "checking") + self.get(a, "savings")
        await self.wait()
        self.add(a, "checking", -self.get(a, "checking"))
        self.add(a, "savings", -self.get(a, "savings"))
        await self.wait()
        self.add(b, "checking", total)

    async def balance(self, a: int, b: int, cents: int) -> int:
        """Sum a's accounts."""
        checking = self.get(a, "checking")
        await self.wait()
        return checking + self.get(a, "savings")

    async def deposit_checking(self, a: int, b: int, cents: int) -> None:
        """Pay in."""
        self.add(a, "checking", cents)
        await self.wait()
        self.pay_in(cents)

    async def send_payment(self, a: int, b: int, cents: int) -> None:
        """Pay b from a's checking account, and write it down."""
        if self.get(a, "checking") < cents:
            raise Bounced
        self.add(a, "checking", -cents)
        await self.wait()
        self.add(b, "checking", cents)
        self.arena.root["audit"][self.rng.random()] = (a, b, cents)

    async def transact_savings(self, a: int, b: int, cents: int) -> None:
        """Pay into savings, or out of them."""
        cents = cents if cents % 2 else -cents
        if self.get(a, "savings") + cents < 0:
            raise Bounced
        await self.wait()
        self.add(a, "savings", cents)
        self.pay_in(cents)

    async def write_check(self, a: int, b: int, cents: int) -> None:
        """Take a check: a penalty of a cent if the two accounts together do not cover it (the write skew)."""
        covered = self.get(a, "checking") + self.get(a, "savings") >= cents
        await self.wait()
        cents += 0 if covered else 1
        self.add(a, "checking", -cents)
        self.pay_in(-cents)

    def total(self) -> int:
        """Sum all balances."""
        return sum(self.get(n, kind) for n in range(ACCOUNTS) for kind in ("checking", "savings"))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Dict", "Record", "Array"])
async def test_the_balances_reconcile(arena: Arena, how: str, seed: int, log: list[Any]) -> None:
    """Whatever fails, nobody's money appears or vanishes, and every request ends in at most max_conflicts + 1 runs."""
    rng = random.Random(seed)
    bank = Bank(arena, how, rng)
    outcomes: Tally[str] = Tally()
    runs: Tally[int] = Tally()

    async def client() -> None:
        for _ in range(REQUESTS):
            (name,) = rng.choices(list(MIX), list(MIX.values()))
            a, b = rng.sample(range(ACCOUNTS), 2)
            outcomes[await ask(getattr(bank, name), a, b, rng.randrange(1, 200))] += 1

    async def ask(handler: Callable[..., Coroutine[Any, Any, Any]], *arguments: int) -> str:
        async def run() -> None:
            most[0] = recoverable.attempt()
            await handler(*arguments)

        most = [0]
        try:
            await asyncio.create_task(arena.run(run))
        except (Bounced, Fault, asyncio.CancelledError) as error:
            return type(error).__name__
        finally:
            runs[most[0]] += 1
        return "done"

    await asyncio.gather(*(client() for _ in range(IN_FLIGHT)))
    print(dict(outcomes), "runs:", dict(runs), "conflicts:", arena.stats().conflicts)
    assert sum(outcomes.values()) == IN_FLIGHT * REQUESTS
    assert outcomes["done"] > IN_FLIGHT * REQUESTS / 2
    assert outcomes["Fault"] > 0
    assert outcomes["CancelledError"] > 0
    assert arena.stats().conflicts > 0
    assert max(runs) <= 6
    assert bank.outside == arena.root["paid_in"].value
    assert bank.total() == ACCOUNTS * 2 * MANY + bank.outside
    assert all(bank.get(n, "savings") >= 0 for n in range(ACCOUNTS))
    assert arena.stats().in_flight == 0
    assert arena.verify().leaked_blocks == 0
