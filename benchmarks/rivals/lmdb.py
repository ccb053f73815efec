"""LMDB: in process, numbers as bytes, audit entries as JSON; the await first, then one transaction, or one for all that wait."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, ClassVar

import lmdb

from benchmarks.rivals import ACCOUNTS, OPENING, Bank, Books, Low, fraud_check, misbehave
from benchmarks.rivals.grouped import Group, Order

NO_SYNC = {"sync": False, "metasync": False, "writemap": True, "map_async": True}


class Lmdb(Bank):
    """Nothing is waited for; what was committed is safe from kill -9 of the process."""

    flags: ClassVar[dict[str, bool]] = NO_SYNC

    async def open(self) -> None:
        self.env: Any = lmdb.open(f"{self.folder}/lmdb", map_size=1 << 30, max_dbs=2, **self.flags)
        self.accounts, self.audit = self.env.open_db(b"accounts"), self.env.open_db(b"audit")
        with self.env.begin(write=True, db=self.accounts) as txn:
            if txn.stat(self.accounts)["entries"] == 0:
                for n in range(ACCOUNTS):
                    txn.put(n.to_bytes(4, "big"), OPENING.to_bytes(8, "big"))

    async def transfer(self, ref: str, a: int, b: int, amount: int) -> str:
        source, target, key = a.to_bytes(4, "big"), b.to_bytes(4, "big"), ref.encode()
        with self.env.begin(db=self.accounts) as txn:
            if int.from_bytes(txn.get(source), "big") < amount:
                raise Low
        await fraud_check()
        with self.env.begin(write=True, db=self.accounts) as txn:
            if txn.get(key, db=self.audit) is not None:
                return "before"
            have = int.from_bytes(txn.get(source), "big")
            if have < amount:
                raise Low
            txn.put(source, (have - amount).to_bytes(8, "big"))
            misbehave(ref)
            txn.put(target, (int.from_bytes(txn.get(target), "big") + amount).to_bytes(8, "big"))
            txn.put(key, json.dumps({"from": a, "to": b, "amount": amount}).encode(), db=self.audit)
        return "now"

    async def close(self) -> None:
        self.env.close()

    async def total(self) -> int:
        with self.env.begin(db=self.accounts) as txn:
            return sum(int.from_bytes(value, "big") for value in txn.cursor().iternext(keys=False))

    async def books(self) -> Books:
        with self.env.begin() as txn:
            balances = {int.from_bytes(k, "big"): int.from_bytes(v, "big") for k, v in txn.cursor(self.accounts)}
            audit = {k.decode(): tuple(json.loads(v).values()) for k, v in txn.cursor(self.audit)}
        return Books(balances, audit)

    def state(self) -> int:
        return int((self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"])


class Full(Lmdb):
    """Synced at each commit, in the event loop."""

    flags: ClassVar[dict[str, bool]] = {}


class EachSecond(Lmdb):
    """Synced each second, in a thread; without a writable map, which would make damage by a power loss more likely."""

    flags: ClassVar[dict[str, bool]] = {"sync": False, "metasync": False}

    async def open(self) -> None:
        await super().open()
        self.syncing = asyncio.create_task(self.sync())

    async def sync(self) -> None:
        synced = 0
        while True:
            await asyncio.sleep(1)
            if (last := self.env.info()["last_txnid"]) != synced:
                await asyncio.to_thread(self.env.sync, True)
                synced = last

    async def close(self) -> None:
        self.syncing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.syncing
        await super().close()


class Grouped(Full):
    """A thread commits all that wait in one transaction; the loop goes on meanwhile."""

    async def open(self) -> None:
        await super().open()
        self.group = Group(self.commit)

    def commit(self, orders: list[Order]) -> list[str | Low]:
        with self.env.begin(write=True, db=self.accounts) as txn:
            return [self.one(txn, *order) for order in orders]

    def one(self, txn: Any, ref: str, a: int, b: int, amount: int) -> str | Low:
        source, target, key = a.to_bytes(4, "big"), b.to_bytes(4, "big"), ref.encode()
        if txn.get(key, db=self.audit) is not None:
            return "before"
        have = int.from_bytes(txn.get(source), "big")
        if have < amount:
            return Low()
        txn.put(source, (have - amount).to_bytes(8, "big"))
        misbehave(ref)
        txn.put(target, (int.from_bytes(txn.get(target), "big") + amount).to_bytes(8, "big"))
        txn.put(key, json.dumps({"from": a, "to": b, "amount": amount}).encode(), db=self.audit)
        return "now"

    async def transfer(self, ref: str, a: int, b: int, amount: int) -> str:
        with self.env.begin(db=self.accounts) as txn:
            if int.from_bytes(txn.get(a.to_bytes(4, "big")), "big") < amount:
                raise Low
        await fraud_check()
        return await self.group.add(ref, a, b, amount)

    async def close(self) -> None:
        self.group.close()
        await super().close()
