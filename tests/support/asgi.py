"""A client of ASGI applications in this process, and servers of them on sockets."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def client_of(app: Any, **options: Any) -> httpx.AsyncClient:
    """Return a client whose requests are calls of the application; what this raises after its answer is the server's to log."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, **options)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@contextlib.asynccontextmanager
async def lifespan_of(app: Any) -> AsyncIterator[list[dict[str, Any]]]:
    """Start an application up, and shut it down, as a server does; give what it has said."""
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    said: list[dict[str, Any]] = []
    began = asyncio.Event()

    async def send(message: dict[str, Any]) -> None:
        said.append(message)
        began.set()

    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    running = asyncio.create_task(app(scope, to_app.get, send))
    await to_app.put({"type": "lifespan.startup"})
    await asyncio.wait([running, asyncio.create_task(began.wait())], return_when=asyncio.FIRST_COMPLETED)
    try:
        yield said
    finally:
        await to_app.put({"type": "lifespan.shutdown"})
        with contextlib.suppress(Exception):
            await running


class Socket:
    """A client's end of a WebSocket, to an application that is called in this process."""

    def __init__(self, app: Any, path: str) -> None:
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [],
            "subprotocols": [],
            "state": {},
        }
        self._to_app.put_nowait({"type": "websocket.connect"})
        self.running = asyncio.create_task(app(scope, self._to_app.get, self._from_app.put))

    async def next(self) -> dict[str, Any]:
        """Return the next message of the application."""
        return await self._from_app.get()

    async def ask(self, text: str) -> str:
        """Send text; return the text that is the answer."""
        self._to_app.put_nowait({"type": "websocket.receive", "text": text})
        return str((await self.next())["text"])

    async def close(self) -> None:
        """Hang up."""
        self._to_app.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self.running


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """Serve an application by uvicorn, in this event loop, on a free port; give its address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    with contextlib.ExitStack() as stack:
        if hasattr(server, "capture_signals"):
            server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
        running = asyncio.create_task(server.serve())
        stack.callback(running.cancel)
        while not server.started and not running.done():  # noqa: ASYNC110 -- the server has no event for it
            await asyncio.sleep(0.01)
        (socket,) = server.servers[0].sockets
        try:
            yield f"http://127.0.0.1:{socket.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
