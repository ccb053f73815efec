"""`kill -9` under load, through HTTP: whatever moment it hits, the next server finds a bank whose books are right."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from pathlib import Path

import aiohttp
import pytest

from examples.bank.load import Bank, BankError, Customers, Fate, Ledger
from recoverable import Arena, ArenaNotFoundError

KILLS = int(os.environ.get("RECOVERABLE_KILLS", "36"))
ACCOUNTS = 40  # few: many conflicts
CLIENTS = 12
pytestmark = [pytest.mark.slow, pytest.mark.crash, pytest.mark.timeout(300)]


async def test_killed_servers_lose_and_make_no_money(seed: int) -> None:
    """After each of many kills under load the total, the arena and every acknowledged transfer are intact."""
    rng = random.Random(seed)
    bank = Bank(f"test-{os.getpid()}-kills", accounts=ACCOUNTS, size="32 MiB")
    ledger = Ledger()
    customers = Customers(bank, ledger, ACCOUNTS, seed)
    began = time.monotonic()
    try:
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
            await bank.start()
            bank.open_doors()
            segment = inode(bank)
            clients = [tasks.create_task(customers.work(session, number)) for number in range(CLIENTS)]
            for kill in range(KILLS):
                await bank.prepare()
                await load(bank, clients, rng.uniform(0.05, 0.35))
                if kill % 3:  # every third time from within a transfer
                    await bank.kill()
                else:
                    await customers.make_it_die(session, kill)
                await bank.start()
                assert inode(bank) == segment, "it was unlinked by someone else"
                await examine(bank, ledger, session, kill)
                bank.open_doors()
            customers.stop.set()
            await asyncio.gather(*clients)
            await examine(bank, ledger, session, KILLS)
    finally:
        await bank.stop()
        bank.close()
        with contextlib.suppress(ArenaNotFoundError):
            Arena.unlink(bank.name)
    print(f"{KILLS} kills in {time.monotonic() - began:.1f} s; {ledger.sent.total()} requests {dict(ledger.sent)};")
    print(f"answers {dict(ledger.answers)}; {ledger.count(Fate.COMMITTED)} acknowledged; undone: {bank.undone()}")
    assert ledger.count(Fate.COMMITTED) > KILLS  # there was load
    assert sum(map(bool, bank.undone())) >= KILLS // 4  # each death within a transfer left something to undo


def inode(bank: Bank) -> int:
    """Identify the segment: one made anew under the same name would be another."""
    return Path(f"/dev/shm/recoverable.{bank.name}").stat().st_ino


async def load(bank: Bank, clients: list[asyncio.Task[None]], seconds: float) -> None:
    """Let the clients work for a moment in which nothing may end."""
    ended = asyncio.ensure_future(bank.ended())
    done, _ = await asyncio.wait({ended, *clients}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    if ended in done:
        raise BankError(f"the server ended by itself with status {ended.result()}\n{bank.log()}")


async def examine(bank: Bank, ledger: Ledger, session: aiohttp.ClientSession, kill: int) -> None:
    """Check the arena and the books before any client changes them."""
    await bank.get(session, "/verify")
    assert (kill, ledger.problems(await bank.get(session, "/books"), ACCOUNTS)) == (kill, [])
