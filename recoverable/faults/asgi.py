"""An ASGI application and its client in one process: for `explore(..., app=...)`, and `serving` for a test's own fixture.

The client is httpx's, with its ASGI transport, so nothing is sent over sockets. What a server adds is here: the lifespan; each
request in a task of its own; a crash that becomes a 500, and where the answer had begun, a connection that breaks; and that a
message does not leave at once: each one sent is a point at which others run.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import TYPE_CHECKING

from recoverable._asgi_connection import Connection
from recoverable._asgi_lifespan import Lifespan
from recoverable.errors import ArenaOptionError

try:
    import httpx
except ModuleNotFoundError as error:
    raise ArenaOptionError(
        "an ASGI application is explored through httpx, which is not installed. Nothing was run. pip install httpx"
    ) from error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from recoverable._asgi import App, Message, Receive, Scope, Send

__all__ = ["Site", "serving"]

_START = "http.response.start"


class _Server:
    """Calls an application as a server does.

    Args:
        app: The application.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._lifespan = Lifespan(app)

    async def start(self) -> None:
        """Start the application up."""
        await self._lifespan.start(contextvars.Context())

    async def stop(self) -> None:
        """Shut it down."""
        await self._lifespan.stop()

    # -- a request -----------------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        scope["state"] = dict(self._lifespan.state)
        task = asyncio.create_task(self._answer(scope, receive, send), context=contextvars.Context())
        try:
            await asyncio.wait((task,))
        finally:
            task.cancel()  # the client has gone
        task.result()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = ended = False

        async def sending(message: Message) -> None:
            nonlocal begun, ended
            await asyncio.sleep(0)
            begun = begun or message["type"] == _START
            ended = ended or (message["type"] == "http.response.body" and not message.get("more_body"))
            await send(message)

        connection = Connection(scope["type"], receive, sending)
        failed: BaseException | None = None
        try:
            await self._app(scope, connection.receive, connection.send)
        except (Exception, asyncio.CancelledError) as error:
            failed = error
        if ended:
            return
        if begun or connection.is_cut:
            raise httpx.RemoteProtocolError("the server has closed the connection") from failed
        await send({"type": _START, "status": 500, "headers": [(b"content-type", b"text/plain; charset=utf-8")]})
        await send({"type": "http.response.body", "body": b"Internal Server Error"})


def _client(server: _Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(server), base_url="http://testserver")


@contextlib.asynccontextmanager
async def serving(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """Start an application up, give its client, and shut it down at the end.

    Args:
        app: The ASGI application.

    Raises:
        RuntimeError: The application did not start or shut down.
    """
    server = _Server(app)
    await server.start()
    try:
        async with _client(server) as client:
            yield client
    finally:
        await server.stop()


class Site:
    """A served application, with its client.

    Args:
        loop: The event loop; it does not run now.
        app: The application.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, app: App) -> None:
        self.loop = loop
        self._serving = serving(app)
        self.client: httpx.AsyncClient = loop.run_until_complete(self._serving.__aenter__())

    def close(self) -> None:
        """Stop serving."""
        self.loop.run_until_complete(self._serving.__aexit__(None, None, None))
