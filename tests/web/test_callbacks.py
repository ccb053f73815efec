"""Callbacks of `after_commit` behind real sockets: a client that goes away, a server that shuts down."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from recoverable import Arena, after_commit, callbacks, recoverable
from recoverable.aiohttp import setup


class Shop:
    """An application with one handler, whose callbacks take their time and use the arena and a client session."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.seen: list[str] = []
        self.begun = asyncio.Event()
        self.session_is_open = False

    async def mail(self) -> None:
        self.begun.set()
        await asyncio.sleep(0.05)
        assert self.session_is_open
        with self.arena.transaction():
            self.arena.root["sent"] = 1
        self.seen.append("mail")

    async def order(self, request: web.Request) -> web.Response:
        self.arena.root["order"] = 1
        after_commit(self.mail)
        after_commit(self.seen.append, "woken")
        return web.Response(text="ok")

    async def session(self, app: web.Application) -> Any:
        self.session_is_open = True
        yield
        self.session_is_open = False

    def application(self, arena: Arena, protect: Any) -> web.Application:
        app = web.Application()
        app.cleanup_ctx.append(self.session)
        app.router.add_get("/", self.order if protect == "all" else recoverable(self.order))
        setup(app, arena, protect=protect)
        return app


@pytest.mark.parametrize("protect", ["decorated", "all"])
@pytest.mark.parametrize("shut", ["at once", "later"])
async def test_a_disconnect_after_the_commit_loses_none(name: str, protect: str, shut: str) -> None:
    """The client is gone and its handler is cancelled; the callbacks go on, and the shutdown waits for them."""
    with Arena.temporary("4 MiB", name=name) as arena:
        shop = Shop(arena)
        server = TestServer(shop.application(Arena.open(name), protect), handler_cancellation=True)
        async with TestClient(server) as client:
            request = asyncio.create_task(client.get("/"))
            await shop.begun.wait()
            request.cancel()
            await asyncio.wait([request])
            if shut == "later":
                await asyncio.sleep(0.1)
                assert shop.seen == ["mail", "woken"]
        assert shop.seen == ["mail", "woken"]
        assert dict(arena.root.items()) == {"order": 1, "sent": 1}


async def test_a_shutdown_that_cancels_the_handler_waits_for_its_callbacks(name: str) -> None:
    """Handlers have some time and are cancelled then; the arena is closed after the callbacks."""
    arena = Arena.open(name, "4 MiB")
    shop = Shop(arena)
    runner = web.AppRunner(shop.application(arena, "decorated"), shutdown_timeout=0.01)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        request = asyncio.create_task(session.get(f"http://127.0.0.1:{port}/"))
        await shop.begun.wait()
        await runner.cleanup()
        with contextlib.suppress(aiohttp.ClientError):
            await request
    assert shop.seen == ["mail", "woken"]
    assert arena.closed
    with Arena.open(name, create=False) as again:
        assert dict(again.root.items()) == {"order": 1, "sent": 1}


async def test_a_callback_that_hangs_does_not_keep_the_server_up(
    name: str, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its time of grace it is cancelled, and the shutdown goes on without one that does not even end then."""
    monkeypatch.setattr(callbacks, "GRACE", 0.02)
    stubborn, begun = asyncio.Event(), asyncio.Event()

    async def hangs() -> None:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await stubborn.wait()

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        arena.root["a"] = 1
        after_commit(hangs)
        return web.Response()

    arena = Arena.open(name, "4 MiB")
    app = web.Application()
    app.router.add_get("/", handler)
    setup(app, arena)
    async with TestClient(TestServer(app, handler_cancellation=True)) as client:
        request = asyncio.create_task(client.get("/"))
        await begun.wait()
        request.cancel()
    assert arena.closed
    stubborn.set()
    await asyncio.sleep(0.01)
    assert not callbacks._running
