"""ZODB: BTrees in a FileStorage; the await first, then one transaction."""

from __future__ import annotations

import transaction
import ZODB
import ZODB.FileStorage
from BTrees.LLBTree import LLBTree
from BTrees.OOBTree import OOBTree

from benchmarks.rivals import ACCOUNTS, OPENING, Bank, Books, Low, fraud_check, misbehave


class Zodb(Bank):
    """One connection, whose cache holds everything."""

    async def open(self) -> None:
        storage = ZODB.FileStorage.FileStorage(f"{self.folder}/Data.fs")
        self.db = ZODB.DB(storage, cache_size=2_000_000, cache_size_bytes=0)
        self.transaction = transaction.TransactionManager(explicit=True)
        with self.transaction:
            root = self.db.open(self.transaction).root()
            if "accounts" not in root:
                root["accounts"] = LLBTree(dict.fromkeys(range(ACCOUNTS), OPENING))
                root["audit"] = OOBTree()
            self.accounts, self.audit = root["accounts"], root["audit"]

    async def transfer(self, ref: str, a: int, b: int, amount: int) -> str:
        accounts, audit = self.accounts, self.audit
        with self.transaction:
            if accounts[a] < amount:
                raise Low
        await fraud_check()
        with self.transaction:
            if ref in audit:
                return "before"
            if accounts[a] < amount:
                raise Low
            accounts[a] -= amount
            misbehave(ref)
            accounts[b] += amount
            audit[ref] = {"from": a, "to": b, "amount": amount}
        return "now"

    async def close(self) -> None:
        self.transaction.begin()  # which closing it aborts
        self.db.close()

    async def total(self) -> int:
        with self.transaction:
            return sum(self.accounts.values())

    async def books(self) -> Books:
        with self.transaction:
            return Books(dict(self.accounts), {ref: tuple(entry.values()) for ref, entry in self.audit.items()})
