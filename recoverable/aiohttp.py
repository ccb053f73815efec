"""recoverable on aiohttp: `setup(app, arena)`, or a middleware alone.

What stands between a request and its handler is in `recoverable.middleware`; what it needs of aiohttp's inside, in
`_aiohttp.py`. `setup` puts it in the place of the handlers of routes, because having any middleware at all costs a request
as much as several transactions.

A request is run again as it came: a body that was read with `read()`, `text()`, `json()`
or `post()` can be read again, and what the run before put on the request is gone. A body that was streamed is gone, and a
response that has begun to leave can't be taken back: such a request is not run again. In the second case its connection is
closed, since the client has half an answer.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal

from aiohttp import web
from aiosignal import Signal

from recoverable import callbacks, service
from recoverable import middleware as _middleware
from recoverable._aiohttp import adapter
from recoverable._aiohttp_routes import ROUTES_CAN_BE_SERVED, goes_straight, serve
from recoverable.arena import Arena
from recoverable.errors import ArenaOptionError

if TYPE_CHECKING:
    from recoverable.capsules import Capsules
    from recoverable.faults import Rule
    from recoverable.outcome import Durability

__all__ = ["arena_key", "middleware", "setup"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Middleware = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]

#: Where `setup` stores the arena: `request.app[recoverable.aiohttp.arena_key]`.
arena_key: Final = web.AppKey("arena_key", Arena)
adapter.arena_key = arena_key  # before this module is loaded, no application has one


def setup(
    app: web.Application,
    arena: Arena,
    *,
    protect: Literal["decorated", "all"] = "decorated",
    step_limit: float | None = None,
    durable: Durability | None = None,
    faults: str | Iterable[Rule] | None = None,
    allow_faults: bool = False,
    faults_seed: int | None = None,
    capsules: Capsules | None = None,
) -> None:
    """Make an application's handlers use the arena, and close it after the last of them on shutdown.

    The handlers of its routes, and of those of sub-applications that are not set up themselves, are called by way of us from
    the moment when the application has started; its middlewares stand outside. With `protect="all"` we are a middleware, in
    front of all that are there: call it after the application's own are added.

    The arena is closed after all clean-up callbacks, those of sub-applications and those that are added later too.

    Args:
        app: The application; sub-applications find the arena through it. One that is set up on the same arena as well is
            part of the same transaction.
        arena: An open arena.
        protect: "decorated" runs as transactions only what is decorated with `@recoverable`. "all" does so with every
            request, other middlewares included. A WebSocket's transaction ends in `WebSocketResponse.prepare()`, which
            commits it: a connection lives long, and a message is the unit.
        step_limit: Seconds that a step may hold the arena, which is set as `arena.step_limit`. Default: what the arena was opened
            with.
        durable: What is known when a request is answered: "disk": that what it did and saw is on the disk; set as
            `arena.durability`. Default: as the arena was opened.
        faults: What is to go wrong at random, as text or as rules (docs/faults.md); by default what the environment variable
            `RECOVERABLE_FAULTS` says, if anything.
        allow_faults: Whether that may be: this is not production.
        capsules: Where requests that crash are kept (docs/capsules.md), all that crash on this arena in this process. Default: they
            are not.
        faults_seed: Repeats a random choice; by default `RECOVERABLE_FAULTS_SEED`, or a new one, which is told at the start.

    Raises:
        JournalError: `durable` is "journal" or "disk", and the arena was opened without a journal.
        ArenaOptionError: `protect` is neither, `step_limit` is no limit, the application has an arena already, or others keep the
            arena's crashes.
        FaultsNotAllowedError: Faults were asked for, and `allow_faults` is false.
        FaultSyntaxError: The text of `faults` is wrong.
    """
    if arena_key in app:
        raise ArenaOptionError(
            f"the application has an arena already: {app[arena_key]!r}. Nothing was changed. Call setup() once; a "
            "handler on another arena says so with @recoverable(arena=...)."
        )
    service.check_capsules(arena, capsules)
    service.configure(arena, step_limit, durable)
    if protect == "decorated" and ROUTES_CAN_BE_SERVED and isinstance(app.router, web.UrlDispatcher):
        _middleware.adopt(adapter, arena)
        outermost = None
    else:
        outermost = middleware(arena, protect=protect)
    if (disarm := service.arm(arena, faults, allow_faults, faults_seed)) is not None:
        app.on_cleanup.append(functools.partial(_disarm, disarm))
    if capsules is not None:
        capsules.begin(arena.native)
        app.on_cleanup.append(functools.partial(_keep_no_more, capsules))
    app[arena_key] = arena
    if outermost is None:
        app.on_startup.__class__ = _ServingThen
    else:
        app.middlewares.insert(0, outermost)  # type: ignore[arg-type]  # its own alias says the same in other words
    app.on_startup.append(_try)
    app.on_startup.append(_listen)
    app.on_cleanup.insert(0, _finish)
    app.on_cleanup.__class__ = _ClosingLast


def middleware(arena: Arena, *, protect: Literal["decorated", "all"] = "decorated") -> Middleware:
    """Return the middleware alone: the application closes the arena itself, and puts it first in `middlewares`.

    Args:
        arena: An open arena; decorated handlers behind the middleware use it.
        protect: As for `setup`.
    """
    return web.middleware(_middleware.of(adapter, arena, protect))


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


class _ServingThen(Signal[web.Application]):
    """`app.on_startup` that has the routes served when all others have started up, which may have added some."""

    __slots__ = ()  # it becomes the class of a signal that is there

    async def send(self, app: web.Application) -> None:  # type: ignore[override]  # it has one argument
        await super().send(app)
        _serve_routes(app, app[arena_key], {}, app)


def _serve_routes(
    app: web.Application, arena: Arena, known: dict[Any, Any], straight_from: web.Application | None
) -> None:
    """Have the routes of an application served, and those of its sub-applications that have no arena of their own."""
    if not goes_straight(app):
        straight_from = None
    for resource in app.router.resources():
        inner = resource.get_info().get("app")
        if inner is None:
            for route in resource:
                if not serve(route, arena, known, straight_from):
                    raise ArenaOptionError(
                        f"{route!r} has a handler that can't be replaced, so its requests can't be told apart. The "
                        "application was not started. Put recoverable.aiohttp.middleware(arena) in front of its middlewares, "
                        "instead of setup()."
                    )
        elif arena_key not in inner:
            _serve_routes(inner, arena, known, straight_from)


class _ClosingLast(Signal[web.Application]):
    """`app.on_cleanup` that closes the arena when all others have cleaned up, whenever they were added."""

    __slots__ = ()  # it becomes the class of a signal that is there

    async def send(self, app: web.Application) -> None:  # type: ignore[override]  # it has one argument
        try:
            await super().send(app)
        finally:
            service.close(app[arena_key])


async def _try(app: web.Application) -> None:
    service.try_it(app[arena_key])


async def _listen(app: web.Application) -> None:
    service.listen(app[arena_key])


async def _disarm(disarm: Callable[[], object], app: web.Application) -> None:
    disarm()


async def _finish(app: web.Application) -> None:
    """Wait for callbacks of requests that were cancelled, before what they use is cleaned up."""
    await callbacks.finished(app[arena_key].native)


async def _keep_no_more(capsules: Capsules, app: web.Application) -> None:
    await service.keep_no_more(app[arena_key], capsules)
