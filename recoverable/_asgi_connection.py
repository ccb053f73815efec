"""The connection of an ASGI request, as faults see it: it can be cut.

ASGI has no way to close a connection from below. Where the server's `receive` leads to its transport, as uvicorn's does, and that
of `recoverable.faults.asgi`, the transport is aborted, and the server tells the application as of any client that has gone.
Elsewhere the application is told so here, what it sends from then on goes nowhere, and when it has ended an error is raised.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recoverable._asgi import Message, Receive, Send

__all__ = ["Connection"]


class Connection:
    """What stands between an application and its server while something may go wrong; or is the server's itself.

    Args:
        kind: "http" or "websocket".
        receive: The server's.
        send: The server's.

    Attributes:
        transport: What is to be aborted: the server's, or this.
        is_cut: Whether this was aborted.
    """

    def __init__(self, kind: str, receive: Receive, send: Send) -> None:
        self._kind, self._receive, self._send = kind, receive, send
        self.transport: Any = getattr(getattr(receive, "__self__", None), "transport", None) or self
        self.is_cut = False
        self._waiting: set[asyncio.Future[None]] = set()

    def abort(self) -> None:
        """Cut it: the client is gone."""
        self.is_cut = True
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def receive(self) -> Message:
        """Give the next message from the client, or that it has gone."""
        if self.transport is not self:
            return await self._receive()
        if not self.is_cut:
            coming: asyncio.Future[Message] = asyncio.ensure_future(self._receive())
            cut = asyncio.get_running_loop().create_future()
            self._waiting.add(cut)
            try:
                await asyncio.wait((coming, cut), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._waiting.discard(cut)
                if not coming.done():
                    coming.cancel()
            if not self.is_cut:
                return coming.result()
        return {"type": f"{self._kind}.disconnect", **({"code": 1006} if self._kind == "websocket" else {})}

    async def send(self, message: Message) -> None:
        """Take a message for the client."""
        if not self.is_cut:
            await self._send(message)

    def end(self) -> None:
        """The application has ended.

        Raises:
            ConnectionResetError: Its client was cut off, which the server does not know.
        """
        if self.is_cut:
            raise ConnectionResetError("the connection was cut by an injected fault")
