"""What a request was like when its run began need not be looked at where nobody has seen it before; where somebody has, it is."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from recoverable import Arena, attempt, recoverable
from recoverable.aiohttp import setup
from support.web import application, key, lose, ok, serving

if TYPE_CHECKING:
    from collections.abc import Callable

Shared = tuple[Arena, Arena]
USER = key("user")


async def take_a_part(request: web.BaseRequest) -> None:
    """Take a part of the body from its stream: what a run finds there is not all of it, and it has not consumed that."""
    assert await request.content.readexactly(4) == b"head"


@web.middleware
async def taking(request: web.Request, handler: Any) -> web.StreamResponse:
    await take_a_part(request)
    return await handler(request)  # type: ignore[no-any-return]


def behind_a_middleware(arena: Arena, handler: Any) -> web.Application:
    return application(arena, {"/{name}": handler}, (taking,))


def part_of_another(arena: Arena, handler: Any) -> web.Application:
    """The application that is set up has no middleware; the one around it has."""
    around = web.Application(middlewares=(taking,))
    around.add_subapp("/part", application(arena, {"/{name}": handler}))
    return around


def around_a_part(arena: Arena, handler: Any) -> web.Application:
    """The part is not set up by itself, and has the middleware."""
    app = web.Application()
    app.add_subapp("/part", application(None, {"/{name}": handler}, (taking,)))
    setup(app, arena)
    return app


def of_another_class(arena: Arena, handler: Any) -> web.Application:
    async def handle(self: web.Application, request: web.Request) -> Any:
        await take_a_part(request)
        return await web.Application._handle(self, request)

    with pytest.deprecated_call():
        kind = type("Own", (web.Application,), {"_handle": handle})
    app: web.Application = kind()
    app.router.add_post("/{name}", handler)
    setup(app, arena)
    return app


def of_another_resource(arena: Arena, handler: Any) -> web.Application:
    class Own(web.DynamicResource):
        async def resolve(self, request: web.Request) -> Any:
            await take_a_part(request)
            return await super().resolve(request)

    app = web.Application()
    resource = Own("/{name}")
    app.router.register_resource(resource)
    resource.add_route("POST", handler)
    setup(app, arena)
    return app


def that_expects(arena: Arena, handler: Any) -> web.Application:
    async def expect(request: web.Request) -> None:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # type: ignore[attr-defined]
        await take_a_part(request)

    app = web.Application()
    app.router.add_post("/{name}", handler, expect_handler=expect)
    setup(app, arena)
    return app


def called_by_another(arena: Arena, handler: Any) -> web.Application:
    async def first(request: web.Request) -> Any:
        await take_a_part(request)
        return await next(iter(request.app.router["second"])).handler(request)

    app = application(arena, {"/{name}": first})
    app.router.add_post("/second/second", handler, name="second")
    return app


def called_in_a_task(arena: Arena, handler: Any) -> web.Application:
    """By code that has put something on it, in a task which does not know that it belongs to a request."""

    async def first(request: web.Request) -> Any:
        await take_a_part(request)
        request[USER] = "me"
        route = next(iter(request.app.router["second"]))
        loop, context = asyncio.get_running_loop(), contextvars.Context()
        return await context.run(loop.create_task, route.handler(request))

    app = application(arena, {"/{name}": first})
    app.router.add_post("/second/second", handler, name="second")
    return app


MAKES = [
    behind_a_middleware,
    part_of_another,
    around_a_part,
    of_another_class,
    of_another_resource,
    that_expects,
    called_by_another,
    called_in_a_task,
]


@pytest.mark.parametrize("make", MAKES)
async def test_what_others_have_done_with_a_request_is_not_taken_for_the_runs_own(
    shared: Shared, make: Callable[[Arena, Any], web.Application]
) -> None:
    """A body of which somebody took a part before the handler was called: the run has not consumed that, and is run again."""
    arena, for_app = shared
    seen: list[Any] = []

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        seen.append((attempt(), request.get(USER), dict(request.match_info)))
        request[USER] = "somebody else"
        request.match_info["name"] = "changed"
        if attempt() == 1:
            await lose(arena)
        arena.root["n"] = 1
        return ok()

    async with serving(make(for_app, handler)) as client:
        path = "/part/x" if "part" in make.__name__ else "/x"
        for _ in range(2):  # the first one of a route is looked at in any case
            answer = await client.post(path, data=b"headbody", expect100=make is that_expects)
            assert (answer.status, await answer.text()) == (200, "ok")
    user = "me" if make is called_in_a_task else None
    assert seen == [(n, user, {"name": "x"}) for n in (1, 2, 1, 2)]


@pytest.mark.parametrize("path", ["/x/{name}", "/x/y"], ids=["placeholder", "plain"])
async def test_a_request_that_nobody_has_seen_is_as_it_came(shared: Shared, path: str) -> None:
    """Straight from the router: what the run put on it, read of it and prepared for it is undone, from the first request on."""
    arena, for_app = shared
    seen: list[Any] = []

    @recoverable
    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((request.get(USER), dict(request.match_info), request.can_read_body, await request.text()))
        request[USER] = "somebody"
        request.match_info["name"] = "changed"
        response = web.Response(text=str(attempt()))
        if attempt() == 1:
            await response.prepare(request)
            await lose(arena)
        arena.root["n"] = 1
        return response

    async with serving(application(for_app, {path: handler})) as client:
        for _ in range(2):
            assert await (await client.post("/x/y", data=b"text")).text() == "2"
    match = {"name": "y"} if "{" in path else {}
    assert seen == [(None, match, True, "text")] * 4


async def test_a_fallback_and_a_callback_find_the_request(shared: Shared, log: list[dict[str, Any]]) -> None:
    """What comes after a run that raised knows whose request it was: its fallback and the event, with the client's id."""
    arena, for_app = shared

    def instead(error: BaseException, request: web.Request) -> web.Response:
        return ok((USER in request, type(error).__name__))

    @recoverable(retries=1, fallback=instead)
    async def handler(request: web.Request) -> web.Response:
        arena.root["n"] = 1
        request[USER] = "somebody"
        raise LookupError

    async with serving(application(for_app, {"/": handler})) as client:
        for given in ("one", "two"):
            answer = await client.get("/", headers={"X-Request-ID": given})
            assert await answer.text() == "(False, 'LookupError')"
    undone = [e["request_id"] for e in log if e["event"] == "request.rolled_back"]
    assert undone == ["one", "one", "two", "two"]


async def test_an_answer_that_has_begun_is_not_followed_by_another(shared: Shared) -> None:
    """A run that has sent a part of its answer is not run again, although nobody has looked at the request before."""
    arena, for_app = shared
    runs = 0

    @recoverable
    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal runs
        runs += 1
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"part")
        await lose(arena)
        arena.root["n"] = 1
        return response

    async def call(client: Any) -> bytes:
        answer = await client.get("/")
        return await answer.read()  # type: ignore[no-any-return]

    async with serving(application(for_app, {"/": handler})) as client:
        for _ in range(2):
            with pytest.raises(Exception, match="payload"):
                await call(client)
    assert runs == 2
