"""A server that is `setup()` tells of its requests in flight, from its start to its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from recoverable import recoverable
from recoverable.aiohttp import setup
from recoverable.cli import _waiting

if TYPE_CHECKING:
    from recoverable import Arena


@pytest.mark.parametrize("protect", ["decorated", "all"])
async def test_a_server_tells_of_its_requests(shared: tuple[Arena, Arena], protect: str) -> None:
    """Who looks from outside sees a request with the id that it came with; the thread that tells ends with the server."""
    _, arena = shared
    hangs = asyncio.Event()

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        arena.root["a"] = 1
        hangs.set()
        await asyncio.sleep(60)  # here
        return web.Response()

    app = web.Application()
    app.router.add_get("/", handler)
    setup(app, arena, protect=protect)  # type: ignore[arg-type]
    async with TestClient(TestServer(app)) as client:
        sent = asyncio.ensure_future(client.get("/", headers={"X-Request-ID": "abc-7"}))
        await hangs.wait()
        (look,) = await asyncio.to_thread(lambda: list(_waiting.looks(arena.name, 1, 1)))
        (request,) = look.requests
        assert (request.request_id, request.step, request.running) == ("abc-7", 2, False)
        assert request.line is not None
        assert request.line.startswith(__file__)
        assert "handler" in request.line
        sent.cancel()
        await asyncio.gather(sent, return_exceptions=True)
