"""The example bank on FastAPI, for real: a server process under uvicorn, the bank's clients, every kind of crash, restarts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from examples.bank.load import Customers, Ledger
from support.servers import serving

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from support.servers import Client

ACCOUNTS, OPENING = 10, 100_00
pytestmark = pytest.mark.slow  # each starts a server


def open_bank(accounts: int = ACCOUNTS) -> AbstractAsyncContextManager[Client]:
    """Run a server with an arena of its own; remove both."""
    return serving("fastapi_bank", "--accounts", str(accounts))


async def transfer(
    client: Client, name: str = "t", source: int = 0, target: int = 1, amount: Any = 500, **more: Any
) -> int:
    """Send a transfer; return the status, 0 if the connection was closed instead."""
    order = {"id": name, "from": source, "to": target, "amount": amount, **more}
    status, _ = await client.send("POST", "/transfer", order)
    return status


async def books(client: Client) -> tuple[list[int], dict[str, Any]]:
    """Return balances and audit, of an arena that is sound."""
    found = await client.get("/books")
    return found["balances"], found["audit"]


UNTOUCHED: tuple[list[int], dict[str, Any]] = ([OPENING] * ACCOUNTS, {})
DONE = ([OPENING - 500, OPENING + 500] + [OPENING] * (ACCOUNTS - 2), {"t": {"from": 0, "to": 1, "amount": 500}})


async def test_transfer_moves_the_money_and_writes_the_audit() -> None:
    """A transfer that is answered 200 has moved the money and is in the audit; sent again, it is not done again."""
    async with open_bank() as client:
        assert await books(client) == UNTOUCHED
        assert [await transfer(client), await transfer(client)] == [200, 200]
        assert await books(client) == DONE
        assert await client.get("/accounts/1") == {"account": 1, "balance": OPENING + 500}
        assert await client.get("/total") == {"total": OPENING * ACCOUNTS}


async def test_every_kind_of_crash_leaves_no_trace() -> None:
    """A path function that raises, answers 500, times out or is cancelled between debit and credit leaves no trace."""
    async with open_bank() as client:
        for kind, answers in {"raise": {500}, "500": {500}, "timeout": {504}, "cancel": {0, 500}}.items():
            assert await transfer(client, kind, crash=kind) in answers, kind
            assert (kind, await books(client)) == (kind, UNTOUCHED)
        assert await transfer(client) == 200
        assert await books(client) == DONE


async def test_orders_that_make_no_sense_are_refused() -> None:
    """Bad orders are answered 422 or 400, unaffordable ones 409, unknown accounts 404, and nothing changes."""
    async with open_bank() as client:
        bad: list[dict[str, Any]] = [{"amount": 0}, {"amount": "x"}, {"target": -1}, {"crash": "burn"}]
        for order in bad:
            assert (order, await transfer(client, **order)) == (order, 422)
        assert await transfer(client, source=ACCOUNTS) == 400
        assert await transfer(client, amount=OPENING + 1) == 409
        assert (await client.send("GET", f"/accounts/{ACCOUNTS}"))[0] == 404
        assert await books(client) == UNTOUCHED


async def test_death_between_debit_and_credit_is_undone_at_the_restart() -> None:
    """A server killed between debit and credit comes back with the state before that transfer, and all those before it."""
    async with open_bank() as client:
        assert await transfer(client) == 200
        assert await transfer(client, "fatal", crash="die") == 0
        await client.server.killed()
        await client.start()
        assert await books(client) == DONE
        assert [records > 0 for records in client.server.undone()] == [False, True]


async def test_under_attack_no_money_is_lost(seed: int) -> None:
    """The bank's clients, many of which crash or hang up, and a kill in the middle: the books explain every cent."""
    accounts, ledger = 20, Ledger()
    async with open_bank(accounts) as client:
        customers = Customers(client.server, ledger, accounts, seed)

        async def until(answers: int) -> None:
            while ledger.answers[200] < answers:  # noqa: ASYNC110 -- the ledger has no event for it
                await asyncio.sleep(0.01)

        client.server.open_doors()
        async with asyncio.TaskGroup() as tasks:
            clients = [tasks.create_task(customers.work(client.session, n)) for n in range(8)]
            await until(50)
            await client.server.kill()
            await client.start()
            client.server.open_doors()
            await until(100)
            customers.stop.set()
            await asyncio.gather(*clients)
        assert ledger.problems(await client.get("/books"), accounts) == []


async def test_shutdown_closes_the_arena() -> None:
    """A server that is told to end does so, and has nothing to say about it."""
    async with open_bank() as client:
        assert await transfer(client) == 200
        await client.server.stop()
        assert client.server.log() == ""
        await client.start()
        assert await books(client) == DONE
