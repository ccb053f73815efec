"""`recoverable`: the handler of plain Python, decorated or not, and the cheaper idiom, a block after the await."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import recoverable
import recoverable.aiohttp
from benchmarks.rivals import ACCOUNTS, OPENING, Bank, Books, Low, fraud_check, misbehave
from recoverable import Arena, ArenaNotFoundError, Array


def name_in(folder: str) -> str:
    return f"bench-rivals-{Path(folder).name}"


class Decorated(Bank):
    """The handler of plain Python, unchanged, with @recoverable over it."""

    durable = "memory"

    async def open(self) -> None:
        self.arena = Arena.open(name_in(self.folder), size="256 MiB", **self.kept())
        with self.arena.transaction():
            if "accounts" not in self.arena.root:
                self.arena.root["accounts"] = Array([OPENING] * ACCOUNTS, "i8")
                self.arena.root["audit"] = {}
        self.accounts, self.audit = self.arena.root["accounts"], self.arena.root["audit"]

    def kept(self) -> dict[str, Any]:
        """Return how the arena is kept on the disk."""
        return {} if self.durable == "memory" else {"journal": f"{self.folder}/journal", "durable": self.durable}

    def setup(self, app: Any) -> None:
        recoverable.aiohttp.setup(app, self.arena)

    def decorate(self, handler: Any) -> Any:
        return recoverable.recoverable(handler)

    async def transfer(self, ref: str, a: int, b: int, amount: int) -> str:
        accounts, audit = self.accounts, self.audit
        if ref in audit:
            return "before"
        if accounts[a] < amount:
            raise Low
        accounts[a] -= amount
        misbehave(ref)
        await fraud_check()
        accounts[b] += amount
        audit[ref] = {"from": a, "to": b, "amount": amount}
        return "now"

    async def close(self) -> None:
        self.arena.close()

    async def total(self) -> int:
        with self.arena.transaction():
            return sum(self.accounts)

    async def books(self) -> Books:
        with self.arena.transaction():
            audit = {ref: (e["from"], e["to"], e["amount"]) for ref, e in self.audit.items()}
            return Books(dict(enumerate(self.accounts)), audit)

    @staticmethod
    def forget(folder: str) -> None:
        with contextlib.suppress(ArenaNotFoundError):
            Arena.unlink(name_in(folder))

    def state(self) -> int:
        return self.arena.stats().used


class All(Decorated):
    """Every request is a transaction; no decorator."""

    def setup(self, app: Any) -> None:
        recoverable.aiohttp.setup(app, self.arena, protect="all")

    decorate = Bank.decorate


class Block(Decorated):
    """All writes in one step after the await, as the stores that cannot wait in between are used."""

    setup, decorate = Bank.setup, Bank.decorate

    async def transfer(self, ref: str, a: int, b: int, amount: int) -> str:
        accounts, audit = self.accounts, self.audit
        if accounts[a] < amount:
            raise Low
        await fraud_check()
        with self.arena.transaction():
            if ref in audit:
                return "before"
            if accounts[a] < amount:
                raise Low
            accounts[a] -= amount
            misbehave(ref)
            accounts[b] += amount
            audit[ref] = {"from": a, "to": b, "amount": amount}
        return "now"


class Journal(Decorated):
    """Written within 10 ms; nobody waits for that."""

    durable = "journal"


class Disk(Decorated):
    """The answer waits until what it says is on the disk."""

    durable = "disk"


class BlockJournal(Block):
    """A block, written within 10 ms."""

    durable = "journal"


class BlockDisk(BlockJournal):
    """A block, and the handler waits by itself."""

    async def transfer(self, ref: str, a: int, b: int, amount: int) -> str:
        done = await super().transfer(ref, a, b, amount)
        await self.arena.durable()
        return done
