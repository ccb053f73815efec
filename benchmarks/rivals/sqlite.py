"""SQLite: two tables, the await first, then one transaction, for each transfer or for all that wait."""

from __future__ import annotations

import sqlite3

from benchmarks.rivals import ACCOUNTS, OPENING, Bank, Books, Low, fraud_check, misbehave
from benchmarks.rivals.grouped import Group, Order


class Off(Bank):
    """WAL; what the kernel has taken is safe from kill -9, and the disk is not waited for."""

    synchronous = "OFF"

    async def open(self) -> None:
        self.db = db = sqlite3.connect(f"{self.folder}/bank.db", isolation_level=None, cached_statements=200)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={self.synchronous}")
        db.execute("BEGIN IMMEDIATE")
        db.execute("CREATE TABLE IF NOT EXISTS accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")
        db.execute(
            "CREATE TABLE IF NOT EXISTS audit (id TEXT PRIMARY KEY, a INTEGER, b INTEGER, amount INTEGER) WITHOUT ROWID"
        )
        if db.execute("SELECT count(*) FROM accounts").fetchone()[0] == 0:
            db.executemany("INSERT INTO accounts VALUES (?, ?)", [(n, OPENING) for n in range(ACCOUNTS)])
        db.execute("COMMIT")

    async def transfer(self, ref: str, a: int, b: int, amount: int) -> str:
        db = self.db
        if db.execute("SELECT balance FROM accounts WHERE id = ?", (a,)).fetchone()[0] < amount:
            raise Low
        await fraud_check()
        db.execute("BEGIN IMMEDIATE")
        try:
            if db.execute("SELECT 1 FROM audit WHERE id = ?", (ref,)).fetchone():
                db.execute("ROLLBACK")
                return "before"
            debit = "UPDATE accounts SET balance = balance - ?1 WHERE id = ?2 AND balance >= ?1"
            if db.execute(debit, (amount, a)).rowcount == 0:
                raise Low
            misbehave(ref)
            db.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, b))
            db.execute("INSERT INTO audit VALUES (?, ?, ?, ?)", (ref, a, b, amount))
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        return "now"

    async def close(self) -> None:
        self.db.close()

    async def total(self) -> int:
        return int(self.db.execute("SELECT sum(balance) FROM accounts").fetchone()[0])

    async def books(self) -> Books:
        audit = {ref: (a, b, amount) for ref, a, b, amount in self.db.execute("SELECT id, a, b, amount FROM audit")}
        return Books(dict(self.db.execute("SELECT id, balance FROM accounts")), audit)

    def state(self) -> int:
        return 0  # it is in the file; a cache of 2 MiB is not the state


class Normal(Off):
    """WAL, synced at its checkpoints."""

    synchronous = "NORMAL"


class Full(Off):
    """WAL, synced at each commit, in the event loop."""

    synchronous = "FULL"


class Grouped(Off):
    """A thread with a connection of its own commits all that wait at once; the loop goes on meanwhile."""

    async def open(self) -> None:
        await super().open()
        self.writer = sqlite3.connect(
            f"{self.folder}/bank.db", isolation_level=None, cached_statements=200, check_same_thread=False
        )
        self.writer.execute(f"PRAGMA synchronous={self.synchronous}")
        self.group = Group(self.commit)

    def commit(self, orders: list[Order]) -> list[str | Low]:
        db = self.writer
        db.execute("BEGIN IMMEDIATE")
        try:
            done = [self.one(db, *order) for order in orders]
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        return done

    def one(self, db: sqlite3.Connection, ref: str, a: int, b: int, amount: int) -> str | Low:
        if db.execute("SELECT 1 FROM audit WHERE id = ?", (ref,)).fetchone():
            return "before"
        debit = "UPDATE accounts SET balance = balance - ?1 WHERE id = ?2 AND balance >= ?1"
        if db.execute(debit, (amount, a)).rowcount == 0:
            return Low()
        misbehave(ref)
        db.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, b))
        db.execute("INSERT INTO audit VALUES (?, ?, ?, ?)", (ref, a, b, amount))
        return "now"

    async def transfer(self, ref: str, a: int, b: int, amount: int) -> str:
        if self.db.execute("SELECT balance FROM accounts WHERE id = ?", (a,)).fetchone()[0] < amount:
            raise Low
        await fraud_check()
        return await self.group.add(ref, a, b, amount)

    async def close(self) -> None:
        self.group.close()
        self.writer.close()
        self.db.close()


class GroupedNormal(Grouped):
    """Grouped; WAL, synced at its checkpoints."""

    synchronous = "NORMAL"


class GroupedFull(Grouped):
    """Grouped; WAL, synced at each commit."""

    synchronous = "FULL"


class Memory(Off):
    """A database in memory: gone with the process."""

    async def open(self) -> None:
        self.db = db = sqlite3.connect(":memory:", isolation_level=None, cached_statements=200)
        db.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")
        db.execute("CREATE TABLE audit (id TEXT PRIMARY KEY, a INTEGER, b INTEGER, amount INTEGER) WITHOUT ROWID")
        db.executemany("INSERT INTO accounts VALUES (?, ?)", [(n, OPENING) for n in range(ACCOUNTS)])

    def state(self) -> int:
        size, count = (self.db.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_size", "page_count"))
        return int(size * count)
