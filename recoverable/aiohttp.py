"""recoverable on aiohttp: `setup(app, arena)`, or the middleware alone. What it needs of aiohttp's inside is in _aiohttp.py.

The middleware is the outermost one: a handler's transaction has ended before it sees the response, and a failure of
ours becomes a response here, whatever other middlewares make of exceptions:

| what | response |
|---|---|
| `ArenaFullError` | 507 Insufficient Storage |
| `ConflictError` after the last run, `ArenaBusyError` | 503 Service Unavailable, with `Retry-After` |

Everything else passes as it is. A request is run again as it came: a body that was read with `read()`, `text()`, `json()`
or `post()` can be read again, and what the run before put on the request is gone. A body that was streamed is gone, and a
response that has begun to leave can't be taken back: such a request is not run again. In the second case its connection is
closed, since the client has half an answer.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal

from aiohttp import web
from aiosignal import Signal

from recoverable import _aiohttp, _registry, boundary, callbacks, events, policy
from recoverable._aiohttp import running
from recoverable._native.runtime import RequestBefore, Running, current_transaction, find_request
from recoverable.arena import Arena
from recoverable.errors import ArenaBusyError, ArenaFullError, ArenaOptionError, ConflictError, TransactionError

if TYPE_CHECKING:
    from recoverable.faults import Rule

__all__ = ["arena_key", "middleware", "setup"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Middleware = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]

#: Where `setup` stores the arena: `request.app[recoverable.aiohttp.arena_key]`.
arena_key: Final = web.AppKey("arena_key", Arena)

_RETRY_AFTER: Final = "1"  # seconds
_ROUTE: Final = 39  # characters that a working set keeps of its route: both the method and the end of the path


def setup(
    app: web.Application,
    arena: Arena,
    *,
    protect: Literal["decorated", "all"] = "decorated",
    faults: str | Iterable[Rule] | None = None,
    allow_faults: bool = False,
    faults_seed: int | None = None,
) -> None:
    """Make an application's handlers use the arena, and close it after the last of them on shutdown.

    Call it after the application's own middlewares are added where those need the arena: ours goes in front of all that are
    there. The arena is closed after all clean-up callbacks, those of sub-applications and those that are added later too.

    Args:
        app: The application; sub-applications find the arena through it. One that is set up on the same arena as well is
            part of the same transaction.
        arena: An open arena.
        protect: "decorated" runs as transactions only what is decorated with `@recoverable`. "all" does so with every
            request, other middlewares included. A WebSocket's transaction ends in `WebSocketResponse.prepare()`, which
            commits it: a connection lives long, and a message is the unit.
        faults: What is to go wrong at random, as text or as rules (docs/faults.md); by default what the environment variable
            `RECOVERABLE_FAULTS` says, if anything.
        allow_faults: Whether that may be: this is not production.
        faults_seed: Repeats a random choice; by default `RECOVERABLE_FAULTS_SEED`, or a new one, which is told at the start.

    Raises:
        ArenaOptionError: `protect` is neither, or the application has an arena already.
        FaultsNotAllowedError: Faults were asked for, and `allow_faults` is false.
        FaultSyntaxError: The text of `faults` is wrong.
    """
    if arena_key in app:
        raise ArenaOptionError(
            f"the application has an arena already: {app[arena_key]!r}. Nothing was changed. Call setup() once; a "
            "handler on another arena says so with @recoverable(arena=...)."
        )
    outermost = _middleware(arena, protect, from_app=True)
    variable = faults is None
    if variable:
        faults = os.environ.get("RECOVERABLE_FAULTS")
    if faults:
        chaos = importlib.import_module("recoverable.faults.chaos")
        seed = os.environ.get("RECOVERABLE_FAULTS_SEED") if faults_seed is None else faults_seed
        disarm = chaos.arm(faults, arena, allowed=allow_faults, seed=seed, variable=variable)

        async def end_faults(app: web.Application) -> None:
            disarm()

        app.on_cleanup.append(end_faults)
    app[arena_key] = arena
    app.middlewares.insert(0, outermost)  # type: ignore[arg-type]  # its own alias says the same in other words
    app.on_cleanup.insert(0, _finish)
    app.on_cleanup.__class__ = _ClosingLast


def middleware(arena: Arena, *, protect: Literal["decorated", "all"] = "decorated") -> Middleware:
    """Return the middleware alone: the application closes the arena itself, and puts it first in `middlewares`.

    Args:
        arena: An open arena; decorated handlers behind the middleware use it.
        protect: As for `setup`.
    """
    return _middleware(arena, protect, from_app=False)


def add_page(app: web.Application, path: str, render: Callable[[str], tuple[bytes, str]]) -> None:
    """Add a page that is read only: for `recoverable.metrics`.

    Args:
        app: The application.
        path: The page's path.
        render: Gives the body and its content type for what the client says it accepts.
    """

    async def page(request: web.Request) -> web.Response:
        body, content_type = render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    app.router.add_get(path, page)


def _middleware(arena: Arena, protect: str, *, from_app: bool) -> Middleware:
    if protect not in {"decorated", "all"}:
        raise ArenaOptionError(f"protect={protect!r} must be 'decorated' or 'all'. Nothing was changed.")
    if not isinstance(arena, Arena):
        raise TypeError(f"arena={arena!r} is no Arena: give what Arena.open() returned")
    _registry.bind(arena)
    logging.getLogger("aiohttp.server").addFilter(_reported_once)  # which adds it once
    every = protect == "all"

    @web.middleware
    async def recoverable_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        outer = running.get()
        token = running.set(here := Running(request, arena, every))
        # of an application around this one, which answers for the library's failures and has these faults already
        inside = outer is not None and _aiohttp.same(outer.request, request)
        try:
            if policy.watch_handler is not None and not inside:
                handler = policy.watch_handler(request, _name(request), request.match_info.handler, handler)
            if not every or (inside and current_transaction(arena.native) is not None):
                return await handler(request)
            call = boundary.Call(arena.native, _name(request), _call, (handler, request), {}, policy.DEFAULT)
            return await boundary.run(call)
        except (ArenaFullError, ConflictError, ArenaBusyError) as error:
            if inside:
                raise
            if not _aiohttp.drop_answer(request):
                if request.transport is not None:
                    request.transport.close()
                raise
            raise _answer(error) from error
        finally:
            here.request = None  # tasks that it has started may live on
            if outer is not None:
                running.reset(token)

    return recoverable_middleware


class _ReportedOnce(logging.Filter):
    """Keeps aiohttp's record of a crash whose traceback is in an event of ours, and has it point there."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and (request_id := events.traceback_reported(error)) is not None:
            record.msg = (
                f"{record.getMessage()}: {type(error).__qualname__}; see request.rolled_back, request_id={request_id}"
            )
            record.args = record.exc_info = None
        return True


_reported_once = _ReportedOnce()


async def _call(handler: Handler, request: web.Request) -> web.StreamResponse:
    return await handler(request)  # a View is awaitable, but no coroutine


def _answer(error: BaseException) -> web.HTTPException:
    if isinstance(error, ArenaFullError):
        return web.HTTPInsufficientStorage(text="507: no room for this change; nothing was changed\n")
    why = f" ({error.reason})" if isinstance(error, ConflictError) and error.reason else ""
    return web.HTTPServiceUnavailable(
        text=f"503: too busy; nothing was changed, try again{why}\n", headers={"Retry-After": _RETRY_AFTER}
    )


def _name(request: web.Request) -> str:
    return callbacks.name_of(request.match_info.handler)


class _ClosingLast(Signal[web.Application]):
    """`app.on_cleanup` that closes the arena when all others have cleaned up, whenever they were added."""

    __slots__ = ()  # it becomes the class of a signal that is there

    async def send(self, app: web.Application) -> None:  # type: ignore[override]  # it has one argument
        try:
            await super().send(app)
        finally:
            await _close(app)


async def _finish(app: web.Application) -> None:
    """Wait for callbacks of requests that were cancelled, before what they use is cleaned up."""
    await callbacks.finished(app[arena_key].native)


async def _close(app: web.Application) -> None:
    arena = app[arena_key]
    try:
        arena.close()
    except TransactionError as error:  # views are alive: raising would keep other clean-up from running
        events.arena_not_closed(arena.name, str(error))


# -- what policy.py asks of a web framework ---------------------------------------------------------------------


class _Adapter:
    response = web.StreamResponse
    error = web.HTTPException

    def arena(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arena | None:
        if (here := running.get()) is not None:
            return here.arena  # type: ignore[no-any-return]
        request = find_request(args, kwargs)
        return request.config_dict.get(arena_key) if isinstance(request, web.Request) else None

    def route(self, request: web.BaseRequest) -> str | None:
        resource = request.match_info.route.resource if isinstance(request, web.Request) else None
        if resource is None:  # there is no such page, say
            return None
        method, path = request.method, resource.canonical
        if len(method) + len(path) >= _ROUTE:
            path = ".." + path[len(method) + 3 - _ROUTE :]
        return f"{method} {path}"

    def request_id(self, request: web.BaseRequest) -> str | None:
        given = request.headers.get("X-Request-ID", "")
        return given if 0 < len(given) <= 128 and given.isprintable() else None

    def restore(self, before: RequestBefore, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        return _aiohttp.restore(before, args, kwargs)

    def answered(self, before: RequestBefore) -> bool:
        return _aiohttp.is_sent(before)


policy.use(_Adapter())
