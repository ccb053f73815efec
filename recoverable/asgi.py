"""recoverable on ASGI: `setup(app, arena)` for Starlette and FastAPI, `Middleware(app, arena)` for any application.

What stands between a request and its handler is in `recoverable.middleware`; what a request is in ASGI, in `_asgi.py`.

With `protect="all"` all that lies below is one transaction: middlewares, dependencies, the handler, in tasks and threads of theirs
too. What it answers is held until
it has committed, which is before the first part of the answer's body leaves; what follows is outside: background tasks, the rest of
a stream. An answer of 500 or above is rolled back, and leaves when its handling has ended.

A request is run again as it came: what was received of its body is kept up to `body_limit`, and what the run before put into the
scope is gone. A response that has begun to leave can't be taken back: such a request is not run again.

What is decorated commits when it returns. An ASGI application that is decorated itself has sent its answer by then; it is for
functions that return one, and `protect="all"` for applications.

A WebSocket lives long: nothing is around it, and a message is the unit.
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any, Final, Literal

from recoverable import callbacks, frameworks, middleware, service
from recoverable._asgi import Answer, Exchange, Refused, adapter, hosts
from recoverable._asgi_connection import Connection
from recoverable._native.exchange import KEY, Innermost, Serve, hand_on_watched
from recoverable._native.runtime import running_request, share_transaction, unshare_transaction
from recoverable._options import parse_size
from recoverable.errors import ArenaOptionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from recoverable._asgi import App, Message, Receive, Scope, Send
    from recoverable.arena import Arena
    from recoverable.capsules import Capsules
    from recoverable.faults import Rule
    from recoverable.outcome import Durability

__all__ = ["Middleware", "setup"]

_HTTP: Final = ("http", "websocket")


class Middleware:
    """An ASGI application around another one, whose requests use an arena. It closes the arena when the server shuts down.

    Our failures that come through, before anything was sent, are answered with 503 or 507. Answers of 500 that the application
    below gives are withheld until it has ended, to see whether it was one of those that it made them of.

    Args:
        app: The application below.
        arena: An open arena.
        protect: "decorated" runs as transactions only what is decorated with `@recoverable`; "all": each request, all of it.
        step_limit: Seconds that a step may hold the arena, which is set as `arena.step_limit`. Default: what the arena was opened
            with.
        durable: What is known when a request is answered: "disk": that what it did and saw is on the disk; set as
            `arena.durability`. Default: as the arena was opened.
        faults: What is to go wrong at random, as text or as rules (docs/faults.md); by default what the environment variable
            `RECOVERABLE_FAULTS` says, if anything.
        allow_faults: Whether that may be: this is not production.
        faults_seed: Repeats a random choice; by default `RECOVERABLE_FAULTS_SEED`, or a new one, which is told at the start.
        capsules: Where requests that crash are kept (docs/capsules.md), all that crash on this arena in this process. Default: they
            are not.
        body_limit: How much of a request's body is kept to be read again by another run, in bytes or as text such as "1 MiB".

    Raises:
        JournalError: `durable` is "journal" or "disk", and the arena was opened without a journal.
        ArenaOptionError: `protect` is neither, `step_limit` is no limit, `body_limit` no size, or others keep the arena's crashes.
        FaultsNotAllowedError: Faults were asked for, and `allow_faults` is false.
        FaultSyntaxError: The text of `faults` is wrong.
    """

    def __init__(
        self,
        app: App,
        arena: Arena,
        *,
        protect: Literal["decorated", "all"] = "decorated",
        step_limit: float | None = None,
        durable: Durability | None = None,
        faults: str | Iterable[Rule] | None = None,
        allow_faults: bool = False,
        faults_seed: int | None = None,
        capsules: Capsules | None = None,
        body_limit: int | str = "1 MiB",
    ) -> None:
        frameworks.check(app)
        lifespan = _Lifespan(app, arena)
        self._served = _serving(app, arena, protect, body_limit, lifespan, withholds=True)
        service.check_capsules(arena, capsules)
        service.configure(arena, step_limit, durable)
        lifespan.disarm = service.arm(arena, faults, allow_faults, faults_seed)
        lifespan.capsules = capsules
        if capsules is not None:
            capsules.begin(arena.native)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection, or the lifespan of the application."""
        await self._served(scope, receive, send)


class _Boundary:
    """What stands between requests and an application below, at one place in the chain."""

    def __init__(
        self,
        app: App,
        arena: Arena,
        protect: str,
        body_limit: int | str,
        handle: Callable[[Exchange], Awaitable[None]],
        withholds: bool,
    ) -> None:
        self._app, self.limit, self._withholds = app, parse_size(body_limit, "body_limit"), withholds
        self._handle = handle
        self._whole = protect == "all"
        self._around = middleware.of(adapter, arena, protect)
        self._around_websocket = middleware.of(adapter, arena, "decorated")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = None
        if middleware.watch_handler is not None and KEY not in scope:
            connection = Connection(scope["type"], receive, send)
            receive, send = connection.receive, connection.send
        exchange = Exchange(self._app, scope, receive, send, self.limit)
        http = scope["type"] == "http"
        exchange.withholds = http and self._withholds
        outer = running_request.get()
        try:
            if not http:
                await self._around_websocket(exchange, self._handle)
            elif self._whole:
                await self._around(exchange, _handle_whole)
            else:
                await self._around(exchange, self._handle)
            if exchange.holds:
                await exchange.flush()
        except Exception as error:
            if not await _answered(exchange, error) and not exchange.crashed:
                raise
        finally:
            exchange.end(scope)
            here = running_request.get()
            if (
                outer is None and here is not None and here.request is None
            ):  # the next one may come in this very context
                running_request.set(None)
        if connection is not None:
            connection.end()


async def _answered(exchange: Exchange, error: BaseException) -> bool:
    """Answer a failure of ours, if it is one; else send what is held, before it goes on."""
    if isinstance(error, Refused):
        await exchange.refuse(error)
        return True
    if exchange.holds and isinstance(error, Exception):
        if exchange.is_refuted():
            exchange.drop_answer()
            return False
        await exchange.flush()
    return False


async def _failed(exchange: Exchange, error: BaseException, inside: bool) -> bool:
    """Answer what was raised below, if it is a failure of ours; `inside`: who is around does that."""
    if isinstance(error, middleware.FAILURES) and not inside:
        error = middleware.leaving(adapter, exchange, error)
    return await _answered(exchange, error)


# A coroutine more for each request takes longer than most of what is done there: what need not be one is none.


def _handle(exchange: Exchange) -> Awaitable[None]:
    return exchange.app(exchange.scope, exchange.receive, exchange.send)


def _handle_later(exchange: Exchange) -> Awaitable[None]:
    return exchange.app(exchange.scope, exchange.pass_received, exchange.pass_sent)


def _hand_on(exchange: Exchange, app: App) -> Awaitable[None]:
    """Hand a request on, while faults may strike: a middleware may have passed it to a task of its own, which is watched here."""

    def handle(exchange: Exchange) -> Awaitable[None]:
        return app(exchange.scope, exchange.receive, exchange.send)

    watch = middleware.watch_handler
    handler = handle if watch is None else watch(exchange, adapter.will_run(exchange), handle)
    return handler(exchange)


hand_on_watched(_hand_on)


async def _handle_whole(exchange: Exchange) -> Answer | None:
    exchange.begin_whole()
    token = share_transaction()
    try:
        await exchange.app(exchange.scope, exchange.receive, exchange.send)
    finally:
        unshare_transaction(token)
        exchange.name_whole()
    crash = None if exchange.raised is None else exchange.crash()
    if crash is not None and not isinstance(crash, middleware.FAILURES):
        exchange.crashed = True
        raise crash
    return exchange.answer()


def _serving(
    app: App,
    arena: Arena,
    protect: str,
    body_limit: int | str,
    lifespan: _Lifespan,
    *,
    withholds: bool = False,
    later: bool = False,
) -> App:
    """Return the application that serves all that there is with the one below; `later`: an Innermost is there, behind others."""
    if isinstance(app, Innermost):  # there are no others
        app, later = app.app, False
    boundary = _Boundary(app, arena, protect, body_limit, _handle_later if later else _handle, withholds)

    def otherwise(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] in _HTTP:
            if not lifespan.begun:
                lifespan.begin()
            return boundary(scope, receive, send)
        return lifespan(scope, receive, send)

    if protect == "all":
        return otherwise
    requests, begin = adapter.requests, lifespan.begin
    return Serve(app, Exchange, arena, requests, boundary.limit, withholds, later, _failed, otherwise, begin)


class _Lifespan:
    """The beginning and the end of an application: where its server tells of neither, it begins with the first request."""

    def __init__(
        self, app: App, arena: Arena, disarm: Callable[[], object] | None = None, *ready: Callable[[], object]
    ) -> None:
        self._app, self._arena, self.disarm, self._ready = app, arena, disarm, ready
        self.capsules: Capsules | None = None  # which keep its requests that crash until the end
        self.begun = False

    def begin(self) -> None:
        """Be ready for requests."""
        if not self.begun:
            for each in self._ready:
                each()
            service.try_it(self._arena)
            service.listen(self._arena)
            self.begun = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the messages of the lifespan; the arena is closed after the application's own shut-down."""
        ending = False

        async def receiving() -> Message:
            nonlocal ending
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                ending = True
                await self.ending()
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self.begin()
            elif message["type"].startswith(("lifespan.shutdown.", "lifespan.startup.failed")):
                await self.end()
            await send(message)

        try:
            await self._app(scope, receiving, sending)
        finally:
            if ending:
                await self.end()

    async def ending(self) -> None:
        """Wait for the callbacks of requests that were cancelled, before what they use is cleaned up."""
        await callbacks.finished(self._arena.native)

    async def end(self) -> None:
        """Close the arena."""
        if self.disarm is not None:
            self.disarm()
            self.disarm = None
        try:
            if self.capsules is not None and not self._arena.closed:
                await service.keep_no_more(self._arena, self.capsules)
        finally:
            service.close(self._arena)


class _Served:
    """What is put around an application that has no list of middlewares."""

    __slots__ = ("_served", "arena")

    def __init__(self, arena: Arena, served: App) -> None:
        self.arena, self._served = arena, served

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return self._served(scope, receive, send)


#: The applications that are set up, and their arenas.
set_up: weakref.WeakKeyDictionary[Any, Arena] = weakref.WeakKeyDictionary()


def setup(
    app: Any,
    arena: Arena,
    *,
    protect: Literal["decorated", "all"] = "decorated",
    step_limit: float | None = None,
    durable: Durability | None = None,
    faults: str | Iterable[Rule] | None = None,
    allow_faults: bool = False,
    faults_seed: int | None = None,
    capsules: Capsules | None = None,
    body_limit: int | str = "1 MiB",
) -> None:
    """Make an application's handlers use the arena, and close it after the application's own shut-down.

    For applications of Starlette, and what is made with it, of Litestar and of Quart; for any other put `Middleware` around it.
    For FastAPI there is `recoverable.fastapi.setup`, which does more. We are the outermost of the middlewares that are there: call
    it after the application's own are added. In Starlette we are the innermost as well. Our failures are answered with 503 or 507
    where exceptions are handled, unless the application has a handler for them.

    Args:
        app: The application; those that are mounted in it, and are not set up themselves, find the arena through it.
        arena: An open arena.
        protect: "decorated" runs as transactions only what is decorated with `@recoverable`; "all": each request, all of it that
            is behind us.
        step_limit: As for `Middleware`.
        durable: As for `Middleware`.
        faults: As for `Middleware`.
        allow_faults: As for `Middleware`.
        faults_seed: As for `Middleware`.
        capsules: As for `Middleware`.
        body_limit: As for `Middleware`.

    Raises:
        TypeError: It is no application of these frameworks.
        JournalError: `durable` is "journal" or "disk", and the arena was opened without a journal.
        ArenaOptionError: As by `Middleware`; or the application has an arena already.
        FaultsNotAllowedError: Faults were asked for, and `allow_faults` is false.
        FaultSyntaxError: The text of `faults` is wrong.
    """
    prepare(
        app,
        arena,
        protect=protect,
        step_limit=step_limit,
        durable=durable,
        faults=faults,
        allow_faults=allow_faults,
        faults_seed=faults_seed,
        capsules=capsules,
        body_limit=body_limit,
    )


def prepare(
    app: Any,
    arena: Arena,
    *ready: Callable[[], object],
    protect: Literal["decorated", "all"],
    step_limit: float | None,
    durable: Durability | None,
    faults: str | Iterable[Rule] | None,
    allow_faults: bool,
    faults_seed: int | None,
    capsules: Capsules | None,
    body_limit: int | str,
) -> None:
    """Do what setup() does; `ready`: what else is to be done before the first request."""
    frameworks.check(app)
    host = next((each for each in hosts if each.has(app)), None)
    if host is None and not isinstance(getattr(app, "user_middleware", None), list):
        raise TypeError(
            f"app={app!r} is no application of Starlette, FastAPI, Litestar or Quart. Nothing was changed. Put "
            "recoverable.asgi.Middleware(app, arena) around it, and have that served."
        )
    before = set_up.get(app) if host is None else getattr(host.around(app), "arena", None)
    if before is not None:
        raise ArenaOptionError(
            f"the application has an arena already: {before!r}. Nothing was changed. Call setup() once; a "
            "handler on another arena says so with @recoverable(arena=...)."
        )

    starlette: Any = sys.modules.get("recoverable._starlette")
    inside = (
        protect == "decorated" and starlette is not None and isinstance(getattr(app, "user_middleware", None), list)
    )

    def outermost(app: App) -> App:  # by this name: older Starlettes give it as app=
        lifespan = _Lifespan(app, arena, disarm, answer_in_mounted, *ready)
        lifespan.capsules = capsules
        return _serving(app, arena, protect, body_limit, lifespan, later=inside)

    def innermost(app: App) -> App:  # no class: Sentry puts something into those
        return Innermost(app, Exchange, arena)

    _Boundary(app, arena, protect, body_limit, _handle, False)  # says now what is wrong with the options
    service.check_capsules(arena, capsules)
    service.configure(arena, step_limit, durable)
    disarm = service.arm(arena, faults, allow_faults, faults_seed)
    if capsules is not None:
        capsules.begin(arena.native)
    if starlette is not None:
        starlette.answer_failures(app)  # now: when it serves, its handlers have been taken over

    def answer_in_mounted() -> None:
        if starlette is not None:
            for each in starlette.applications(app, set_up):
                starlette.answer_failures(each)

    if host is not None:
        lifespan = _Lifespan(host.around(app), arena, disarm, *ready)
        lifespan.capsules = capsules
        served = _serving(host.around(app), arena, protect, body_limit, lifespan)
        host.put_around(app, _Served(arena, served), lifespan)
        return
    app.add_middleware(outermost)
    if inside:
        starlette.add_innermost(app, innermost)
    set_up[app] = arena
