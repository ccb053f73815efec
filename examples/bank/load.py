"""The bank's clients, and what they know.

A client of a server that may be killed at any moment knows one of three things about a transfer that it sent:

    answered 200              it is done, and must be in the audit for ever, whatever dies afterwards
    answered anything else    it is not done, and must never be there
    not answered              it may be done or not, but never in part

A request that carried an injected crash must not be there either, answered or not. `Ledger` keeps this knowledge and
compares it with the bank's own books; `Bank` is the server process, started and killed again and again on one arena;
`Customers` are the clients.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import enum
import json
import random
import sys
from typing import TYPE_CHECKING, Any

import aiohttp

from ..process import ANSWER_DEADLINE, Server, ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

BankError = ServerError  # the server did something that no client's behaviour excuses


class Bank(Server):
    """One bank after another on the same arena."""

    def __init__(
        self,
        name: str,
        *,
        accounts: int = 200,
        size: str = "64 MiB",
        options: tuple[str, ...] = (),
        example: str = "bank",
    ) -> None:
        """Describe the server, that of one of the examples; `start` starts it."""
        super().__init__(f"examples.{example}.server", name, "--size", size, "--accounts", str(accounts), *options)


# -- what the clients know ---------------------------------------------------------------------------------------------


class Fate(enum.Enum):
    """What its client knows of a transfer."""

    COMMITTED = "answered 200"
    REFUSED = "answered, not 200"
    UNKNOWN = "not answered"
    CRASHED = "carried a crash"


@dataclasses.dataclass
class Ledger:
    """Every transfer that was ever sent, and what its client knows of it."""

    fates: dict[str, Fate] = dataclasses.field(default_factory=dict)
    sent: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # by kind
    answers: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)  # by status, 0: none

    def note(self, transfer: str, kind: str, status: int) -> None:
        """Enter one attempt: its id, its crash kind or "", the status answered or 0."""
        self.sent[kind] += 1
        self.answers[status] += 1
        if kind in NEVER_COMMITS:
            self.fates[transfer] = Fate.CRASHED
        elif status == 200:
            self.fates[transfer] = Fate.COMMITTED
        elif status == 0:
            self.fates.setdefault(transfer, Fate.UNKNOWN)
        elif self.fates.get(transfer) is not Fate.UNKNOWN:  # an unanswered earlier attempt may yet have been done
            self.fates[transfer] = Fate.REFUSED

    def count(self, fate: Fate) -> int:
        """Return how many transfers have this fate."""
        return sum(known is fate for known in self.fates.values())

    def problems(self, books: dict[str, Any], accounts: int) -> list[str]:
        """Compare the bank's books with themselves and with what the clients know; name each disagreement."""
        found: list[str] = []
        opening, balances, audit = books["opening"], books["balances"], books["audit"]
        if sum(balances) != opening * accounts:
            found.append(f"the total is {sum(balances)}, not {opening * accounts}")

        replayed = [opening] * accounts
        for entry in audit.values():
            replayed[entry["from"]] -= entry["amount"]
            replayed[entry["to"]] += entry["amount"]
        for number, (said, is_) in enumerate(zip(replayed, balances, strict=True)):
            if said != is_:
                found.append(f"account {number} holds {is_}; its transfers add up to {said}")

        for transfer, fate in self.fates.items():
            if fate is Fate.COMMITTED and transfer not in audit:
                found.append(f"transfer {transfer} was acknowledged and is lost")
            if fate in (Fate.REFUSED, Fate.CRASHED) and transfer in audit:
                found.append(f"transfer {transfer} {fate.value} and is done all the same")
        found += [f"transfer {transfer} was never sent" for transfer in audit.keys() - self.fates.keys()]
        return found

    def in_doubt_but_done(self, books: dict[str, Any]) -> int:
        """Return how many unanswered transfers the audit knows."""
        return sum(fate is Fate.UNKNOWN and transfer in books["audit"] for transfer, fate in self.fates.items())


NEVER_COMMITS = ("raise", "500", "timeout", "cancel", "die")


# -- the clients -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Customers:
    """Clients that transfer money at random, some of them through handlers that crash.

    `crash_rate` is the share of requests that carry a crash or hang up on the server; `stop` ends the work between two
    requests.
    """

    bank: Server
    ledger: Ledger
    accounts: int
    seed: int
    crash_rate: float = 0.25
    stop: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    async def work(self, session: aiohttp.ClientSession, number: int) -> None:
        """Send one client's transfers until told to stop."""
        rng = random.Random(f"{self.seed}/{number}")
        names: Iterator[str] = (f"{number}-{count}" for count in range(sys.maxsize))
        while not self.stop.is_set():
            order = self._order(next(names), rng)
            if rng.random() < self.crash_rate:
                # A timeout blocks its client for long, so that it is rarer than the others.
                kind = rng.choices(("raise", "500", "cancel", "hang up", "timeout"), (4, 4, 4, 4, 1))[0]
                if kind == "hang up":
                    await self._hang_up(order, rng.uniform(0, 0.006))
                else:
                    await self._transfer(session, order | {"crash": kind})
                continue
            status = await self._transfer(session, order)
            careful = rng.random() < 0.5
            while (status == 503 or (status == 0 and careful)) and not self.stop.is_set():
                status = await self._transfer(session, order)  # the same id: done once, however often it is sent

    async def make_it_die(self, session: aiohttp.ClientSession, number: int) -> None:
        """Send a transfer in which the server dies with the debit made and the credit not."""
        order = self._order(f"die-{number}", random.Random(number)) | {"amount": 1, "crash": "die"}
        if await self._transfer(session, order):
            await self.bank.kill()  # it answered: that account was empty
        else:
            await self.bank.killed()

    def _order(self, name: str, rng: random.Random) -> dict[str, Any]:
        """Make up a transfer."""
        source, target = rng.randrange(self.accounts), rng.randrange(self.accounts)
        return {"id": name, "from": source, "to": target, "amount": rng.randint(1, 50_00)}

    async def _transfer(self, session: aiohttp.ClientSession, order: dict[str, Any]) -> int:
        """Send one request; return its status, or 0 if the connection broke before one came."""
        url = await self.bank.url()
        status = 0
        try:
            async with session.post(
                url + "/transfer", json=order, timeout=aiohttp.ClientTimeout(ANSWER_DEADLINE)
            ) as response:
                status = response.status  # what follows is only the body: the transfer is done
                if status == 503 and "Retry-After" not in response.headers:
                    status = 0  # committed, and not known to be on the disk: InDoubtError
                await response.read()
        except TimeoutError as error:
            raise BankError(f"a request has not been answered for {ANSWER_DEADLINE:g} s\n{self.bank.log()}") from error
        except aiohttp.ClientError:
            pass  # the server was killed, or closed the connection on a cancelled handler
        self.ledger.note(order["id"], order.get("crash", ""), status)
        return status

    async def _hang_up(self, order: dict[str, Any], after: float) -> None:
        """Send one request and close the socket before the answer has come."""
        url = await self.bank.url()
        body = json.dumps(order).encode()
        headers = f"Host: bank\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        head = f"POST /transfer HTTP/1.1\r\n{headers}\r\n\r\n".encode()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        except OSError:
            return  # killed at this moment: nothing was sent
        try:
            writer.write(head + body)
            await writer.drain()
            await asyncio.sleep(after)  # not waiting for anything: an impatient client
        except OSError:
            pass  # killed at this moment: perhaps it was sent
        finally:
            writer.transport.abort()
        self.ledger.note(order["id"], "hang up", 0)
