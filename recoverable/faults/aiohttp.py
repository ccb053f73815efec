"""An aiohttp application and its client in one process, for `explore(..., app=...)`."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

__all__ = ["Site"]


class Site:
    """A served application, with a client that opens a new connection for each request.

    None is left over for a child that is forked between two requests.

    Args:
        loop: The event loop; it does not run now.
        app: The application.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, app: web.Application) -> None:
        self.loop = loop
        self.client: TestClient[Any, Any] = loop.run_until_complete(self._start(app))

    async def _start(self, app: web.Application) -> TestClient[Any, Any]:
        # handler_cancellation, which TestServer sets: a client that hangs up cancels its handler.
        client = TestClient(TestServer(app), connector=aiohttp.TCPConnector(force_close=True))
        await client.start_server()
        return client

    def close(self) -> None:
        """Stop serving."""
        self.loop.run_until_complete(self.client.close())
