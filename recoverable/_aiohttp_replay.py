"""A kept request, made again: it comes over a connection within this process, so that a handler gets what aiohttp gives it.

Middlewares stand outside of a handler's transaction, and are not run: what they have put on the request was kept, as far as it is
plain data. With `protect="all"` they are inside, and run.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import weakref
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from recoverable._aiohttp import adapter
from recoverable._kept import body_of, headers_of
from recoverable._native.runtime import Running, running_request
from recoverable.errors import CapsuleError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from recoverable.arena import Arena

__all__ = ["FINDS_CALLS", "alone", "answer", "is_application"]

#: A call inside of a request is made by itself, with that request.
FINDS_CALLS: Final = False

_ROOM: Final = 1 << 16
_Key: Final = getattr(web, "RequestKey", ())  # what a request's mapping is asked with, since aiohttp 3.14
_started: weakref.WeakSet[web.Application] = weakref.WeakSet()


def is_application(found: Any) -> bool:
    """Return whether something is an application of aiohttp."""
    return isinstance(found, web.Application)


def alone(arena: Arena) -> web.Application:
    """Return some application for a handler that is called without its own."""
    app = web.Application()
    key: Any = adapter.arena_key
    if key is not None:  # else recoverable.aiohttp is not loaded, so nobody can ask for it
        app[key] = arena
    return app


@contextlib.asynccontextmanager
async def _served(app: web.Application) -> AsyncIterator[web.Server]:
    """Start an application up, and clean it up; one that is served by others already is left as it is."""
    if app.frozen and app not in _started:
        yield web.Server(lambda request: _nothing(), request_factory=app._make_request)
        return
    _started.add(app)
    app._loop = None  # of an earlier replay
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=1)
    await runner.setup()
    try:
        assert runner.server is not None
        yield runner.server
    finally:
        await runner.cleanup()


async def _nothing() -> web.StreamResponse:
    return web.Response()


async def answer(
    kept: dict[str, Any],
    app: web.Application,
    headers: dict[str, str],
    run: Any,
    call: Callable[[web.Request], Awaitable[Any]] | None,
    *,
    whole: bool,
) -> Any:
    """Have an application answer a kept request; return what its handler returns, or raise what that raises.

    Args:
        kept: What the capsule has of it.
        app: The application.
        headers: Headers to be added, or to replace what was hidden.
        run: The `recoverable.capsules.rerun.Run`, which drives what the handler has returned.
        call: What is called with the request in the place of its route's handler.
        whole: Whether middlewares are a part of it.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Any] = loop.create_future()
    ended.add_done_callback(lambda it: it.cancelled() or it.exception())  # nobody may wait for it any more
    came = False

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal came
        assert isinstance(request, web.Request)
        came = True
        try:
            result = await _handled(request, kept, app, run.stepped, call, whole=whole)
        except BaseException as error:
            if not ended.done():
                ended.set_exception(_Raised(error))
            if isinstance(error, asyncio.CancelledError):
                raise
            return web.Response(status=500)
        if not ended.done():
            ended.set_result(result)
        return result if isinstance(result, web.StreamResponse) else web.Response()

    async with _served(app) as server:
        server.request_handler = handle
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        transport, _ = await loop.connect_accepted_socket(server, theirs)
        try:
            drain = asyncio.ensure_future(_exchange(loop, ours, _bytes(kept, headers)))
            await asyncio.wait([ended, drain], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():  # a WebSocket that goes on, or a connection that was closed
                ours.close()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(5):
                        await asyncio.wait([ended])
            if not came:
                refused = drain.result() if drain.done() else ""
                raise CapsuleError(
                    f"aiohttp refuses the request as it was kept{refused and f': {refused}'}. Nothing was run. Give the headers "
                    "back that were left out as secret, with headers= or --header, if it is one of them."
                )
            drain.cancel()
            if not ended.done():
                return None
            try:
                return await ended
            except _Raised as raised:
                raise raised.error from raised.error.__cause__
        finally:
            ours.close()
            transport.close()


class _Raised(Exception):
    """Carries what a handler has raised, which a future may not have."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


async def _exchange(loop: asyncio.AbstractEventLoop, ours: socket.socket, data: bytes) -> str:
    """Send a request, and read what comes, until nothing does, or the connection becomes a WebSocket's; return its status line."""
    first = b""
    with contextlib.suppress(OSError):
        await loop.sock_sendall(ours, data)
        first = await loop.sock_recv(ours, _ROOM)
        if not first.startswith(b"HTTP/1.1 101"):
            while await loop.sock_recv(ours, _ROOM):
                pass
    return first.partition(b"\r\n")[0].decode("latin-1")


def _bytes(kept: dict[str, Any], headers: dict[str, str]) -> bytes:
    body = body_of(kept)
    upgrade = any(name.lower() == "upgrade" for name, _ in kept["headers"])
    lines = [f"{kept['method']} {kept['url']} HTTP/{kept['http']}"]
    lines += [
        f"{name}: {value}" for name, value in headers_of(kept, headers, body, *(["connection"] if upgrade else []))
    ]
    if upgrade:
        lines.append("Connection: Upgrade")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


async def _handled(
    request: web.Request,
    kept: dict[str, Any],
    app: web.Application,
    run: Callable[[Awaitable[Any]], Awaitable[Any]],
    call: Callable[[web.Request], Awaitable[Any]] | None,
    *,
    whole: bool,
) -> Any:
    if whole:
        return await run(app._handle(request))
    match = await app.router.resolve(request)
    match.add_app(app)
    match.freeze()
    request._match_info = match
    request._state.update(kept["items"])
    keys = {key._name: key for key in gc.get_objects() if isinstance(key, _Key)} if kept["keyed_items"] else {}
    request._state.update({keys[name]: value for name, value in kept["keyed_items"].items() if name in keys})
    if call is None:
        if match.http_exception is not None:
            raise CapsuleError(
                f"the application has no route for {kept['method']} {kept['url']}: {match.http_exception}. Nothing was run. "
                "Is it the one that the capsule is of?"
            )
        return await run(match.handler(request))
    for key, value in kept["match"].items():
        match.setdefault(key, value)
    arena = adapter.arena((request,), {})
    if arena is None:
        return await run(call(request))
    token = running_request.set(Running(request, arena, False, adapter.requests))
    try:
        return await run(call(request))
    finally:
        running_request.reset(token)
