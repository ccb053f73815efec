"""The examples as servers of their own, each with an arena of its own that is removed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from typing import TYPE_CHECKING, Any

import aiohttp

from examples.process import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

_numbers = itertools.count()


class Client:
    """A client of one server."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session
        self.url = ""

    async def start(self) -> None:
        """Start the server; again, if it has ended, on its arena."""
        self.url = await self.server.start()

    async def get(self, path: str) -> Any:
        """Ask for what must be there, of an arena that is sound."""
        await self.server.get(self.session, "/verify")
        return await self.server.get(self.session, path)

    async def send(self, method: str, path: str, json: Any = None, crash: str | None = None) -> tuple[int, Any]:
        """Send one request; return status and body, (0, None) if the connection was closed instead."""
        headers = {} if crash is None else {"X-Crash": crash}
        try:
            async with self.session.request(method, self.url + path, json=json, headers=headers) as response:
                body = await (response.json() if response.content_type == "application/json" else response.text())
                return response.status, body
        except aiohttp.ClientConnectionError:
            return 0, None

    async def visits(
        self, visit: Callable[[aiohttp.ClientSession, str, random.Random], Awaitable[int]], seed: int, times: int
    ) -> list[int]:
        """Let eight customers do so many errands each; return what came of them."""

        async def customer(number: int) -> list[int]:
            rng = random.Random(f"{seed}/{number}")
            async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
                return [await visit(session, self.url, rng) for _ in range(times)]

        return [came for every in await asyncio.gather(*map(customer, range(8))) for came in every]


@contextlib.asynccontextmanager
async def serving(example: str, *options: str) -> AsyncIterator[Client]:
    """Run an example, and remove its arena in the end."""
    name = f"test-{os.getpid()}-{example}-{next(_numbers)}"
    server = Server(f"examples.{example}.server", name, "--size", "8 MiB", *options)
    jar = aiohttp.CookieJar(unsafe=True)  # which keeps those of an address without a name, too
    try:
        async with aiohttp.ClientSession(cookie_jar=jar) as session:
            client = Client(server, session)
            await client.start()
            yield client
    finally:
        await server.stop()
        server.close()
        server.unlink()
