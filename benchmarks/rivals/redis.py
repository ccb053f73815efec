"""Redis: a server beside, by a socket; a transfer is a Lua script, or is guarded by WATCH."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis.asyncio
from aiohttp import web
from redis.exceptions import WatchError

from benchmarks.rivals import ACCOUNTS, CRASHING, OPENING, Bank, Books, Low, Missing, fraud_check, misbehave, wait_for


@contextlib.contextmanager
def beside(folder: Path, *options: str) -> Iterator[tuple[str, int]]:
    """Run a server without snapshots, on a socket in the folder; give the socket's path and the process id."""
    if shutil.which("redis-server") is None:
        raise Missing("redis-server is not installed (Debian: apt install redis-server)")
    address = folder / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", str(address), "--save", "", *options]
    server = subprocess.Popen([*command, "--dir", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(address.exists, server)
        yield str(address), server.pid
    finally:
        server.terminate()
        server.wait(timeout=30)


class Watch(Bank):
    """Optimistic: WATCH what is read, MULTI what is written, and again if somebody was faster."""

    async def open(self) -> None:
        self.redis: Any = redis.asyncio.Redis(unix_socket_path=self.address)
        if not await self.redis.exists("account:0"):
            await self.redis.mset({f"account:{n}": OPENING for n in range(ACCOUNTS)})

    async def transfer(self, ref: str, a: int, b: int, amount: int) -> str:
        source, target, entry = f"account:{a}", f"account:{b}", f"audit:{ref}"
        for _ in range(6):
            async with self.redis.pipeline() as pipe:
                await pipe.watch(source, target, entry)
                have, before = await pipe.mget(source, entry)
                if before is not None:
                    return "before"
                if int(have) < amount:
                    raise Low
                pipe.multi()
                pipe.decrby(source, amount)
                misbehave(ref)
                await fraud_check()
                pipe.incrby(target, amount)
                pipe.set(entry, json.dumps({"from": a, "to": b, "amount": amount}))
                try:
                    await pipe.execute()
                    return "now"
                except WatchError:
                    continue
        raise web.HTTPServiceUnavailable

    async def close(self) -> None:
        await self.redis.aclose()

    async def total(self) -> int:
        return sum(map(int, await self.redis.mget([f"account:{n}" for n in range(ACCOUNTS)])))

    async def books(self) -> Books:
        balances = await self.redis.mget([f"account:{n}" for n in range(ACCOUNTS)])
        keys = await self.redis.keys("audit:*")
        audit: dict[str, Any] = {}
        for begin in range(0, len(keys), 5000):
            some = keys[begin : begin + 5000]
            entries = await self.redis.mget(some)
            audit |= {
                key.decode().removeprefix("audit:"): tuple(json.loads(entry).values())
                for key, entry in zip(some, entries, strict=True)
            }
        return Books({n: int(balance) for n, balance in enumerate(balances)}, audit)


# ARGV[3] is the benchmark's: a bug between debit and credit. A script that fails keeps what it has done so far.
SCRIPT = """
if redis.call('EXISTS', KEYS[3]) == 1 then return 'before' end
if tonumber(redis.call('GET', KEYS[1])) < tonumber(ARGV[1]) then return 'low' end
redis.call('DECRBY', KEYS[1], ARGV[1])
if ARGV[3] == '1' then error('a bug between debit and credit') end
redis.call('INCRBY', KEYS[2], ARGV[1])
redis.call('SET', KEYS[3], ARGV[2])
return 'now'
"""


class Lua(Watch):
    """The await first, then one script that the server runs alone."""

    CODE = (SCRIPT,)

    async def open(self) -> None:
        self.redis = redis.asyncio.Redis(unix_socket_path=self.address)
        self.script = self.redis.register_script(SCRIPT)
        if not await self.redis.exists("account:0"):
            await self.redis.mset({f"account:{n}": OPENING for n in range(ACCOUNTS)})

    async def transfer(self, ref: str, a: int, b: int, amount: int) -> str:
        await fraud_check()
        keys = [f"account:{a}", f"account:{b}", f"audit:{ref}"]
        entry = json.dumps({"from": a, "to": b, "amount": amount})
        done = await self.script(keys=keys, args=[amount, entry, int(ref.startswith(CRASHING))])
        if done == b"low":
            raise Low
        return str(done.decode())
