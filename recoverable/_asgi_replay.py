"""A kept request of an ASGI application, made again: the application is called as by a server, with no socket in between.

What is below a handler in ASGI is its framework, which alone knows what it is called with. So all of the application answers, its
middlewares too; of what it does, the handler's call is what is replayed.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import urllib.parse
from typing import TYPE_CHECKING, Any, Final

from recoverable._asgi_lifespan import Lifespan
from recoverable._kept import body_of, headers_of
from recoverable.errors import CapsuleError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from recoverable._asgi import App, Message, Scope
    from recoverable.arena import Arena

__all__ = ["FINDS_CALLS", "alone", "answer", "is_application"]

#: A call inside of a request whose arguments were not kept is found where it is made, when the request is answered again.
FINDS_CALLS: Final = True
_END: Final = 5.0  # seconds that what follows a handler may take: an answer may have no end


def is_application(found: Any) -> bool:
    """Return whether something is an application: it is called with a scope and two functions."""
    if isinstance(found, type) or not callable(found):
        return False
    try:
        given = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return False
    return (
        len([p for p in given if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]) == 3
    )


def alone(arena: Arena) -> None:
    """Return no application: none but its own can call a handler."""


@contextlib.asynccontextmanager
async def _served(app: App) -> AsyncIterator[dict[str, Any]]:
    """Start an application up, and shut it down; give its state."""
    lifespan = Lifespan(app)
    await lifespan.start()
    try:
        yield lifespan.state
    finally:
        with contextlib.suppress(Exception):  # what has become of the request is known
            await lifespan.stop()


async def answer(
    kept: dict[str, Any],
    app: App | None,
    headers: dict[str, str],
    run: Any,
    call: Callable[[Any], Awaitable[Any]] | None,
    *,
    whole: bool,
) -> Any:
    """Have an application answer a kept request; return what its handler returns, or raise what that raises.

    Args:
        kept: What the capsule has of it.
        app: The application, or None, if there is only its handler.
        headers: Headers to be added, or to replace what was hidden.
        run: The `recoverable.capsules.rerun.Run`, which finds the handler's call and drives it.
        call: What is called by itself, in the place of all that.
        whole: Whether all of the request is one transaction.
    """
    if app is None:
        raise CapsuleError(
            "on ASGI only its application knows what a handler is called with. Nothing was run. Give the application, or a "
            "function that makes one: replay(app), or --app MODULE:APP."
        )
    async with _served(app) as state:
        if call is not None:
            return await run.stepped(call(None))
        client = _Client(app, kept, headers, state)
        ended, task = client.begin(run)
        try:
            waited: list[asyncio.Future[Any]] = [ended, task]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                client.done.set()
                await asyncio.wait([task], timeout=_END)
        finally:
            task.cancel()
            await asyncio.wait([task], timeout=_END)
            if ended.done() and (current := asyncio.current_task()) is not None and current.cancelling():
                ended.result()()  # says where it was
        if ended.done():
            return ended.result()()
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
        raise CapsuleError(
            f"the application has answered {client.status}, and has not called the handler. Nothing was run. Is it the one that "
            "the capsule is of? Give headers back that were left out as secret, with headers= or --header, if it is one of them."
        )


class _Client:
    """A client of an application, which is called with its one request.

    Attributes:
        status: The answer's status; None: not answered yet.
        done: Whether the client has gone.
    """

    def __init__(self, app: App, kept: dict[str, Any], headers: dict[str, str], state: dict[str, Any]) -> None:
        self._app, self._body = app, body_of(kept)
        self.status: int | None = None
        self.done = asyncio.Event()
        self._kind = kept.get("kind", "http")
        self._messages = (
            [{"type": "http.request", "body": self._body, "more_body": False}]
            if self._kind == "http"
            else [{"type": "websocket.connect"}]
        )
        self._scope = _scope(kept, headers_of(kept, headers, self._body), state)

    def begin(self, run: Any) -> tuple[asyncio.Future[Callable[[], Any]], asyncio.Task[None]]:
        """Call it, in a task; what the handler's call comes to, and that task."""
        begun: asyncio.Future[Any] = run.expect()
        return begun, asyncio.create_task(self._call())

    async def _call(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._messages:
            return self._messages.pop(0)
        if self._kind == "http":
            await self.done.wait()
            return {"type": "http.disconnect"}
        return {"type": "websocket.disconnect", "code": 1005}

    async def _send(self, message: Message) -> None:
        if message["type"].endswith("response.start"):
            self.status = message["status"]


def _scope(kept: dict[str, Any], headers: list[tuple[str, str]], state: dict[str, Any]) -> Scope:
    path, _, query = kept["url"].partition("?")
    kind = kept.get("kind", "http")
    scope: dict[str, Any] = {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": kept["http"],
        "scheme": kept.get("scheme", "http"),
        "path": urllib.parse.unquote(path),
        "raw_path": path.encode("latin-1", "replace"),
        "query_string": query.encode("latin-1", "replace"),
        "root_path": kept.get("root_path", ""),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": dict(state),
    }
    if kind == "http":
        return scope | {"method": kept["method"]}
    told = next((value for name, value in headers if name.lower() == "sec-websocket-protocol"), "")
    return scope | {"subprotocols": [each.strip() for each in told.split(",") if each.strip()]}
