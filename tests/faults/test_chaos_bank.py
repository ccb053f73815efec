"""Chaos in the example bank, a real process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
from collections.abc import AsyncIterator

import aiohttp
import pytest

from examples.bank.load import Bank, Customers, Ledger
from examples.process import ServerError

ACCOUNTS = 10
RULES = (
    "transfer=raise@line:0.002; transfer=kill@commit:0.01; *=kill@write:0.0005; *=full@alloc:0.002; *=cancel@await:0.02;"
    "*=delay(2ms)@await:0.05; *=disconnect@await:0.02; *=conflict@resume:0.03; *=conflict@commit:0.03"
)
numbers = itertools.count()


@contextlib.asynccontextmanager
async def bank(*options: str) -> AsyncIterator[Bank]:
    """Give a bank that has not been started, with an arena of its own; remove both."""
    made = Bank(f"test-{os.getpid()}-chaos-{next(numbers)}", accounts=ACCOUNTS, size="8 MiB", options=options)
    try:
        yield made
    finally:
        await made.stop()
        made.close()
        made.unlink()


@pytest.mark.slow
async def test_a_server_in_production_does_not_start_with_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bank that is not told that faults are allowed refuses to serve and says why."""
    monkeypatch.setenv("RECOVERABLE_FAULTS", RULES)
    async with bank() as server:
        with pytest.raises(ServerError, match="FaultsNotAllowedError"):
            await server.start()


@pytest.mark.slow
@pytest.mark.crash
async def test_the_bank_loses_nothing_in_chaos(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Under every kind of fault, deaths included, each restart finds all the money and every answered transfer."""
    lives = 4
    monkeypatch.setenv("RECOVERABLE_FAULTS", RULES)
    async with bank("--allow-faults") as server, aiohttp.ClientSession() as session:
        ledger = Ledger()
        customers = Customers(server, ledger, ACCOUNTS, seed, crash_rate=0)
        clients: list[asyncio.Task[None]] = []
        for life in range(lives):
            monkeypatch.setenv("RECOVERABLE_FAULTS_SEED", str(seed + life))
            await server.start()
            server.open_doors()
            if not clients:
                clients = [asyncio.ensure_future(customers.work(session, n)) for n in range(4)]
            async with asyncio.timeout(20):
                await server.ended()
            await server.killed()
        assert server.log(10**6).count("FAULTS ARE ARMED") == lives
        monkeypatch.delenv("RECOVERABLE_FAULTS")
        customers.stop.set()
        await server.start()
        server.open_doors()
        await asyncio.wait_for(asyncio.gather(*clients), 20)
        books = await server.get(session, "/books")
        await server.get(session, "/verify")
        struck = re.findall(r"fault=([a-z]+)", server.log(10**6))
    assert ledger.problems(books, ACCOUNTS) == []
    assert ledger.answers[200] > 0
    assert struck.count("kill") == lives
    assert len(struck) > lives
