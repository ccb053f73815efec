"""PostgreSQL: a server beside, by a socket; the await first, then one transaction."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.rivals import ACCOUNTS, OPENING, Bank, Books, Low, Missing, fraud_check, misbehave, wait_for

USER = "postgres"  # who runs it where we are root, which it refuses


@contextlib.contextmanager
def beside(folder: Path, *options: str) -> Iterator[tuple[str, int]]:
    """Make a cluster in the folder and run its server on a socket there; give that folder and the process id."""
    binaries = [Path(found).parent for found in [shutil.which("initdb")] if found]
    binaries += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not binaries:
        raise Missing("PostgreSQL is not installed (Debian: apt install postgresql)")
    data = folder / "postgres"
    data.mkdir()
    as_user: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    if os.geteuid() == 0:
        as_user |= {"user": USER, "group": USER}
        shutil.chown(data, USER, USER)
        folder.chmod(0o711)
    subprocess.run([binaries[0] / "initdb", "-U", USER, "-A", "trust", "-D", data], check=True, timeout=120, **as_user)
    command = [binaries[0] / "postgres", "-D", data, "-k", data, "-c", "listen_addresses="]
    command += ["-c", "max_connections=60", *options]
    server = subprocess.Popen(command, **as_user)
    try:
        wait_for((data / ".s.PGSQL.5432").exists, server)
        yield str(data), server.pid
    finally:
        server.send_signal(2)  # its "fast shutdown"
        server.wait(timeout=30)


class Postgres(Bank):
    """Twenty connections; a commit does not wait for the disk."""

    synchronous_commit = "off"

    async def open(self) -> None:
        self.pool: Any = await asyncpg.create_pool(
            host=self.address,
            user=USER,
            min_size=20,
            max_size=20,
            server_settings={"synchronous_commit": self.synchronous_commit},
        )
        async with self.pool.acquire() as db, db.transaction():
            await db.execute(
                "CREATE TABLE IF NOT EXISTS accounts (id int PRIMARY KEY, balance bigint CHECK (balance >= 0))"
            )
            await db.execute("CREATE TABLE IF NOT EXISTS audit (id text PRIMARY KEY, a int, b int, amount bigint)")
            if await db.fetchval("SELECT count(*) FROM accounts") == 0:
                await db.copy_records_to_table("accounts", records=[(n, OPENING) for n in range(ACCOUNTS)])

    async def transfer(self, ref: str, a: int, b: int, amount: int) -> str:
        await fraud_check()
        # Rows are locked in the order of their ids, so that no two transfers wait for each other.
        (first, change), (second, other) = sorted([(a, -amount), (b, amount)])
        update = "UPDATE accounts SET balance = balance + $1 WHERE id = $2"
        try:
            async with self.pool.acquire() as db, db.transaction():
                insert = "INSERT INTO audit VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING 1"
                if await db.fetchval(insert, ref, a, b, amount) is None:
                    return "before"
                await db.execute(update, change, first)
                misbehave(ref)
                await db.execute(update, other, second)
        except asyncpg.CheckViolationError:
            raise Low from None
        return "now"

    async def close(self) -> None:
        await self.pool.close()

    async def total(self) -> int:
        async with self.pool.acquire() as db:
            return int(await db.fetchval("SELECT sum(balance) FROM accounts"))

    async def books(self) -> Books:
        async with self.pool.acquire() as db, db.transaction(isolation="repeatable_read"):
            audit = {ref: (a, b, amount) for ref, a, b, amount in await db.fetch("SELECT id, a, b, amount FROM audit")}
            return Books(dict(await db.fetch("SELECT id, balance FROM accounts")), audit)


class Synchronous(Postgres):
    """A commit waits for the disk, with those that commit at the same time."""

    synchronous_commit = "on"
