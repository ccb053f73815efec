"""The example bank, for real: a server process, requests over sockets, every kind of crash, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from examples.bank.load import Bank, Fate, Ledger
from recoverable import Arena, ArenaNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROOT = Path(__file__).parents[2]
ACCOUNTS = 10
DEADLINE = 20.0
OPENING = 100_00
numbers = itertools.count()
pytestmark = pytest.mark.slow  # each starts a server


class Client:
    """A client of one bank, with what the tests ask again and again."""

    def __init__(self, bank: Bank, session: aiohttp.ClientSession) -> None:
        self.bank = bank
        self.session = session

    async def transfer(self, name: str = "t", source: int = 0, target: int = 1, amount: int = 500, **more: Any) -> int:
        """Send a transfer; return the status, 0 if the connection was closed instead."""
        order = {"id": name, "from": source, "to": target, "amount": amount, **more}
        try:
            async with self.session.post(await self.bank.url() + "/transfer", json=order) as response:
                return response.status
        except aiohttp.ServerDisconnectedError:
            return 0

    async def get(self, path: str) -> Any:
        """Ask for what must be there."""
        return await self.bank.get(self.session, path)

    async def books(self) -> tuple[list[int], dict[str, Any]]:
        """Return balances and audit, of an arena that is sound."""
        assert (await self.get("/verify"))["ok"]
        books = await self.get("/books")
        return books["balances"], books["audit"]

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Poll the server's figures until they are as expected."""
        deadline = time.monotonic() + DEADLINE
        while not holds(stats := await self.get("/stats")):
            assert time.monotonic() < deadline, stats

    async def restart(self) -> None:
        """Start the server again on its arena."""
        await self.bank.start()
        self.bank.open_doors()


@contextlib.asynccontextmanager
async def open_bank(*options: str) -> AsyncIterator[Client]:
    """Run a server with an arena of its own; remove both."""
    bank = Bank(f"test-{os.getpid()}-bank-{next(numbers)}", accounts=ACCOUNTS, size="8 MiB", options=options)
    try:
        async with aiohttp.ClientSession() as session:
            client = Client(bank, session)
            await client.restart()
            yield client
    finally:
        await bank.stop()
        bank.close()
        with contextlib.suppress(ArenaNotFoundError):
            Arena.unlink(bank.name)


UNTOUCHED: tuple[list[int], dict[str, Any]] = ([OPENING] * ACCOUNTS, {})
DONE = ([OPENING - 500, OPENING + 500] + [OPENING] * (ACCOUNTS - 2), {"t": {"from": 0, "to": 1, "amount": 500}})


async def test_transfer_moves_the_money_and_writes_the_audit() -> None:
    """A transfer that is answered 200 has moved the money and is in the audit."""
    async with open_bank() as client:
        assert await client.books() == UNTOUCHED
        assert await client.transfer() == 200
        assert await client.books() == DONE
        assert await client.get("/accounts/1") == {"account": 1, "balance": OPENING + 500}
        assert await client.get("/total") == {"total": OPENING * ACCOUNTS}


async def test_every_kind_of_crash_leaves_no_trace() -> None:
    """A handler that raises, answers 500, times out or is cancelled between debit and credit leaves no trace."""
    async with open_bank() as client:
        for kind, answer in {"raise": 500, "500": 500, "timeout": 504, "cancel": 0}.items():
            assert (kind, await client.transfer(kind, crash=kind)) == (kind, answer)
            assert (kind, await client.books()) == (kind, UNTOUCHED)
        assert await client.transfer() == 200
        assert await client.books() == DONE


async def test_client_that_hangs_up_leaves_no_trace() -> None:
    """A transfer whose client closes the socket half-way is rolled back."""
    async with open_bank() as client:
        body = json.dumps({"id": "t", "from": 0, "to": 1, "amount": 500, "crash": "timeout"}).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", int((await client.bank.url()).rpartition(":")[2]))
        writer.write(b"POST /transfer HTTP/1.1\r\nHost: bank\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await client.until(lambda stats: stats["in_flight"] + stats["rollbacks"] > 0)
        writer.transport.abort()
        await client.until(lambda stats: stats["in_flight"] == 0)
        assert (await client.get("/stats"))["rollbacks"] == 1
        assert await client.books() == UNTOUCHED


async def test_nobody_sees_a_transfer_that_is_under_way() -> None:
    """While a transfer waits between debit and credit, every other request sees the state before it."""
    async with open_bank() as client:
        under_way = asyncio.create_task(client.transfer(crash="timeout"))
        await client.until(lambda stats: stats["in_flight"] + stats["rollbacks"] > 0)
        assert await client.books() == UNTOUCHED
        assert await client.transfer("other", 2, 3) == 200
        assert await under_way == 504
        balances, audit = await client.books()
        assert balances[:4] == [OPENING, OPENING, OPENING - 500, OPENING + 500]
        assert list(audit) == ["other"]


async def test_transfers_that_collide_are_all_done() -> None:
    """Transfers of the same two accounts at the same time are run again until each has been done exactly once."""
    async with open_bank() as client:
        answers = await asyncio.gather(*(client.transfer(f"t{n}", n % 2, 1 - n % 2, 1 + n) for n in range(4)))
        assert answers == [200] * 4
        balances, audit = await client.books()
        assert balances[:2] == [OPENING - 1 + 2 - 3 + 4, OPENING + 1 - 2 + 3 - 4]
        assert sorted(audit) == ["t0", "t1", "t2", "t3"]
        assert (await client.get("/stats"))["conflicts"] > 0


async def test_same_transfer_sent_twice_is_done_once() -> None:
    """A client that repeats a transfer under the same id is answered 200 again, and the money moves once."""
    async with open_bank() as client:
        assert [await client.transfer(), await client.transfer()] == [200, 200]
        assert await client.books() == DONE


async def test_orders_that_make_no_sense_are_refused() -> None:
    """Bad orders are answered 400, unaffordable ones 409, unknown accounts 404, and nothing changes."""
    async with open_bank() as client:
        for bad in ({"amount": 0}, {"amount": "1"}, {"source": ACCOUNTS}, {"target": -1}, {"crash": "burn"}):
            assert (bad, await client.transfer(**bad)) == (bad, 400)
        async with client.session.post(await client.bank.url() + "/transfer", data=b"{") as response:
            assert response.status == 400
        assert await client.transfer(amount=OPENING + 1) == 409
        async with client.session.get(await client.bank.url() + f"/accounts/{ACCOUNTS}") as response:
            assert response.status == 404
        assert await client.books() == UNTOUCHED


async def test_restart_finds_the_state() -> None:
    """A server that was stopped, or killed, finds every committed transfer when it is started again."""
    async with open_bank() as client:
        assert await client.transfer() == 200
        await client.bank.stop()
        await client.restart()
        assert await client.books() == DONE
        await client.bank.kill()
        await client.restart()
        assert await client.books() == DONE
        assert client.bank.undone() == [0, 0, 0]  # between two requests nothing is half-done


async def test_death_between_debit_and_credit_is_undone_at_the_restart() -> None:
    """A server killed with a debit in the arena and no credit comes back without the debit, and says so."""
    async with open_bank() as client:
        assert await client.transfer() == 200
        assert await client.transfer("fatal", crash="die") == 0
        await client.bank.killed()
        await client.restart()
        assert await client.books() == DONE
        assert [bool(records) for records in client.bank.undone()] == [False, True]
        assert await client.transfer("next", 1, 0) == 200
        assert (await client.books())[0] == [OPENING] * ACCOUNTS


async def test_crash_rate_crashes_transfers_and_no_money_is_lost() -> None:
    """With `--crash-rate 1` no transfer succeeds, the server stays up, and nothing changes."""
    async with open_bank("--crash-rate", "1") as client:
        assert set(await asyncio.gather(*(client.transfer(f"t{n}", n) for n in range(ACCOUNTS)))) <= {0, 500, 504}
        assert await client.books() == UNTOUCHED


# -- the demo, and the checks that it relies on ------------------------------------------------------------------------


def demo(*options: str) -> subprocess.Popen[str]:
    """Start the demo as its users do, with its output in a pipe."""
    # Not `-m`: the checkout in the current directory would be taken for the installed package.
    run = (
        "import sys, runpy as r; sys.path.append(sys.argv.pop(1)); r.run_module('examples.bank.demo', None, '__main__')"
    )
    command = [sys.executable, "-P", "-c", run, str(ROOT), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_demo_passes_and_cleans_up() -> None:
    """The demo ends with a table and status 0, writes no control codes into a pipe, and leaves no arena."""
    process = demo("--seconds", "3", "--kills", "2", "--clients", "8", "--seed", "1")
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "PASSED" in output
    assert "total money after" in output
    assert "\x1b" not in output
    assert "\r" not in output
    with pytest.raises(ArenaNotFoundError):
        Arena.unlink(f"bank-demo-{process.pid}")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_demo_that_is_stopped_cleans_up(signum: int) -> None:
    """Ctrl-C and SIGTERM end the demo, its server and its arena."""
    process = demo("--seconds", "50", "--kills", "1")
    try:
        assert process.stdout is not None
        opened = any("the bank is open" in line for line in process.stdout)
        process.send_signal(signum)
        output, _ = process.communicate(timeout=30)  # ends when the server, which holds the pipe's other end, has ended
    finally:
        process.kill()
    assert opened
    assert (process.returncode, "Traceback" in output) == (130, False), output
    with pytest.raises(ArenaNotFoundError):
        Arena.unlink(f"bank-demo-{process.pid}")


@pytest.mark.parametrize(
    ("fate", "change", "finding"),
    [
        (Fate.COMMITTED, {}, None),
        (Fate.UNKNOWN, {}, None),
        (Fate.UNKNOWN, {"audit": {}, "balances": [10, 10]}, None),
        (Fate.COMMITTED, {"audit": {}, "balances": [10, 10]}, "was acknowledged and is lost"),
        (Fate.REFUSED, {}, "and is done all the same"),
        (Fate.CRASHED, {}, "and is done all the same"),
        (Fate.COMMITTED, {"balances": [7, 12]}, "the total is 19, not 20"),
        (Fate.COMMITTED, {"balances": [8, 12]}, "account 0 holds 8; its transfers add up to 7"),
        (None, {}, "was never sent"),
    ],
)
def test_ledger_notices_what_is_wrong(fate: Fate | None, change: dict[str, Any], finding: str | None) -> None:
    """The comparison of the books with what clients know finds each kind of damage, and only damage."""
    ledger = Ledger({} if fate is None else {"t": fate})
    books = {"opening": 10, "balances": [7, 13], "audit": {"t": {"from": 0, "to": 1, "amount": 3}}} | change
    problems = ledger.problems(books, 2)
    assert problems == [] if finding is None else any(finding in problem for problem in problems)
