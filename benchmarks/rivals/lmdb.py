"""LMDB: in process, numbers as bytes, audit entries as JSON; the await first, then one transaction."""

from __future__ import annotations

import json

import lmdb

from benchmarks.rivals import ACCOUNTS, OPENING, Bank, Books, Low, fraud_check, misbehave


class Lmdb(Bank):
    """Nothing is waited for; what was committed is safe from kill -9 of the process."""

    async def open(self) -> None:
        self.env = lmdb.open(
            f"{self.folder}/lmdb",
            map_size=1 << 30,
            max_dbs=2,
            sync=False,
            metasync=False,
            writemap=True,
            map_async=True,
        )
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
