"""The lifespan of an ASGI application in this process, where no server tells it: of one that is explored, or replayed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextvars import Context

    from recoverable._asgi import App, Message, Scope

__all__ = ["Lifespan"]


class Lifespan:
    """Starts an application up, and shuts it down.

    Args:
        app: The application.

    Attributes:
        state: What it has put into its state, of which each request is given a copy.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.state: dict[str, Any] = {}
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._said: asyncio.Queue[Message | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self, context: Context | None = None) -> None:
        """Start the application up, in a task with that context."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        self._task = asyncio.create_task(self._live(scope), context=context)
        if (said := await self._say("lifespan.startup")) is not None and said["type"] == "lifespan.startup.failed":
            raise RuntimeError(f"the application did not start: {said.get('message', '')}")

    async def stop(self) -> None:
        """Shut it down."""
        assert self._task is not None
        said = await self._say("lifespan.shutdown")
        await self._task
        if said is not None and said["type"] == "lifespan.shutdown.failed":
            raise RuntimeError(f"the application did not shut down: {said.get('message', '')}")

    async def _live(self, scope: Scope) -> None:
        said = False

        async def say(message: Message) -> None:
            nonlocal said
            said = True
            await self._said.put(message)

        try:
            await self._app(scope, self._to_app.get, say)
        except Exception:
            if said:  # else it is one that knows no lifespan
                raise
        finally:
            self._said.put_nowait(None)

    async def _say(self, kind: str) -> Message | None:
        assert self._task is not None
        if self._task.done():
            return None
        self._to_app.put_nowait({"type": kind})
        return await self._said.get()
