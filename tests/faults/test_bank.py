"""The example bank's transfer, explored: what a crash at each of its points does."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from examples.bank import server
from recoverable import Arena
from recoverable.faults import explore

ACCOUNTS = 10
pytestmark = [pytest.mark.slow, pytest.mark.crash]


def bank(arena: Arena) -> web.Application:
    """Make the bank."""
    return server.make_app(arena, accounts=ACCOUNTS)


def open_accounts(arena: Arena) -> None:
    """Fill the arena as the bank's first day does."""
    server.make_app(arena, accounts=ACCOUNTS)


async def transfer(client: Any) -> int:
    """Send a transfer; return the answer."""
    async with client.post("/transfer", json={"id": "t", "from": 0, "to": 1, "amount": 500}) as response:
        return int(response.status)


def nothing_lost(arena: Arena) -> bool:
    """All the money is there, and the audit explains it."""
    accounts, audit = list(arena.root["accounts"]), arena.root["audit"].to_python()
    moved = sum(entry["amount"] for entry in audit.values())
    return sum(accounts) == ACCOUNTS * server.OPENING and accounts[1] == server.OPENING + moved


def test_every_point_of_a_transfer() -> None:
    """Exceptions, cancellations, time-outs, disconnects, a full arena, conflicts and kills at each point lose nothing."""
    report = explore(transfer, app=bank, prepare=open_accounts, invariant=nothing_lost)
    assert report.ok
    assert report.tried == report.found
    assert report.found.keys() == {"line", "await", "resume", "write", "alloc", "commit", "phase"}
    assert set(report.outcomes) == {"rolled back", "committed"}
    assert not report.notes
    assert report.seconds < 60


def test_two_faults_in_a_transfer() -> None:
    """A second fault after the first, in a re-run or in the recovery, loses nothing either."""
    report = explore(transfer, app=bank, prepare=open_accounts, invariant=nothing_lost, depth=2, max_points=120)
    assert report.ok
    assert report.found.total() > 50
    assert report.runs == 122
