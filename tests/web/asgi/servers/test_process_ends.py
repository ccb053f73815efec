"""Processes that end: killed under load, and told to with requests in flight. Last, since the server is gone then."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

import httpx
import pytest

from recoverable import Arena

if TYPE_CHECKING:
    from support.frameworks.served import Served

pytestmark = [pytest.mark.slow, pytest.mark.crash]
CLIENTS, ENOUGH = 4, 40
KILLED = {
    "starlette": ("decorated", "uvicorn"),
    "fastapi": ("all", "uvicorn"),
    "litestar": ("decorated", "uvicorn"),
    "quart": ("all", "hypercorn"),
}


async def test_told_to_end(server: Served) -> None:
    """A request that ends in time is answered and committed; one that does not is cancelled, and rolled back."""
    if KILLED[server.framework] == (server.protect, server.by):
        pytest.skip("it is killed")
    async with server.client() as one, server.client() as other:
        quick = asyncio.create_task(one.get("/do?key=quick&what=gate"))
        stuck = asyncio.create_task(other.get("/do?key=stuck&what=gate"))
        await server.there("quick")
        await server.there("stuck")
        server.signal(signal.SIGTERM)
        server.go("quick")
        assert (await quick).status_code == 200
        with contextlib.suppress(httpx.TransportError):
            assert (await stuck).status_code >= 500
    assert server.wait() in (0, -signal.SIGTERM)
    with Arena.open(server.name, create=False) as arena:
        arena.verify()
        assert (arena.root.get("quick"), arena.root.get("stuck")) == (1, None)


async def test_killed_under_load(server: Served) -> None:
    """No transfer that was acknowledged is missing, and none is there by half."""
    if KILLED[server.framework] != (server.protect, server.by):
        pytest.skip("each framework is killed once")
    told: set[str] = set()
    enough = asyncio.Event()

    async def customer(number: int) -> None:
        async with server.client() as client:
            for i in range(10 * ENOUGH):
                key = f"{number}-{i}"
                try:
                    if (await client.post(f"/do?key={key}&what=transfer")).status_code == 200:
                        told.add(key)
                except httpx.TransportError:
                    assert enough.is_set()
                    return
                if len(told) >= ENOUGH and not enough.is_set():
                    enough.set()
                    server.signal(signal.SIGKILL)

    await asyncio.gather(*map(customer, range(CLIENTS)))
    assert server.wait() == -signal.SIGKILL
    with Arena.open(server.name, create=False) as arena:
        arena.verify()
        assert sum(arena.root["accounts"]) == 1600
        done = set(arena.root["audit"])
    assert told <= done
    assert len(done - told) <= CLIENTS
    assert len(told) >= ENOUGH
