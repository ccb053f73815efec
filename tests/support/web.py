"""Applications on real sockets: served, asked by a client or byte by byte, and handlers that lose a conflict."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from recoverable.aiohttp import setup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from recoverable import Arena

__all__ = ["application", "key", "lose", "ok", "raw", "serving"]


@contextlib.asynccontextmanager
async def serving(app: web.Application, **options: Any) -> AsyncIterator[TestClient[Any, Any]]:
    """Serve the application on a socket of its own; give a client of it."""
    async with TestClient(TestServer(app), **options) as client:
        yield client


def application(
    arena: Arena | None, routes: dict[str, Any], middlewares: tuple[Any, ...] = (), **options: Any
) -> web.Application:
    """Build an application with these handlers for all methods; set up on the arena, if one is given."""
    app = web.Application(middlewares=middlewares)
    for path, handler in routes.items():
        app.router.add_route("*", path, handler)
    if arena is not None:
        setup(app, arena, **options)
    return app


async def lose(arena: Arena) -> None:
    """Have another transaction change what the running one reads here, so that its commit conflicts."""
    seen = arena.root.get("contended", 0)

    async def other() -> None:
        with arena.transaction():
            arena.root["contended"] = seen + 1

    await asyncio.get_running_loop().create_task(other())


def key(name: str) -> Any:
    """Return a key of a request's mapping; aiohttp 3.14 warns about plain text, earlier versions have nothing else."""
    return web.RequestKey(name, object) if hasattr(web, "RequestKey") else name


def ok(text: object = "ok") -> web.Response:
    """Return an answer."""
    return web.Response(text=str(text))


async def raw(client: TestClient[Any, Any], *requests: str, shut: bool = True) -> bytes:
    """Send bytes over one connection, and return all that comes back until the server closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write("".join(requests).encode())
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        if shut:
            writer.close()
