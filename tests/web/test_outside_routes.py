"""What stands outside of the routes that `setup()` serves: the program's middlewares, what they see, and their failures."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from recoverable import Arena, ArenaBusyError, ArenaFullError, ConflictError, attempt, recoverable
from recoverable._native.runtime import running_request
from recoverable.aiohttp import middleware
from support.web import application, lose, ok, raw, serving

if TYPE_CHECKING:
    from collections.abc import Callable

Shared = tuple[Arena, Arena]


async def busy(request: web.Request) -> web.Response:
    """Fail as a handler that is not decorated does when it uses a busy arena."""
    raise ArenaBusyError("held by another")


async def which(request: web.Request) -> web.Response:
    """Say on which arena the running code is, and whether by way of us."""
    here = running_request.get()
    return ok(None if here is None else f"{here.arena.name} {here.request is request}")


def failing(arena: Arena) -> dict[str, Any]:
    """Return handlers that end in each way, decorated and not."""

    @recoverable(max_conflicts=1)
    async def conflict(request: web.Request) -> web.StreamResponse:
        arena.root["n"] = 1
        await lose(arena)
        return ok()

    @recoverable
    async def full(request: web.Request) -> web.StreamResponse:
        arena.root["n"] = b"x" * (32 << 20)
        return ok()

    async def undecorated(request: web.Request) -> web.StreamResponse:
        with arena.transaction():
            arena.root["n"] = b"x" * (32 << 20)
        return ok()

    @recoverable
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        arena.root["n"] = 1
        await lose(arena)
        return response

    @recoverable
    async def redirect(request: web.Request) -> web.StreamResponse:
        arena.root["n"] = 1
        raise web.HTTPFound("/elsewhere")

    @recoverable
    async def forbidden(request: web.Request) -> web.StreamResponse:
        arena.root["n"] = 1
        raise web.HTTPForbidden

    @recoverable
    async def unavailable(request: web.Request) -> web.StreamResponse:
        arena.root["n"] = 1
        raise web.HTTPServiceUnavailable

    @recoverable
    async def returned(request: web.Request) -> web.StreamResponse:
        arena.root["n"] = 1
        return web.Response(status=500)

    @recoverable
    async def crash(request: web.Request) -> web.StreamResponse:
        arena.root["n"] = 1
        raise KeyError("crash")

    @recoverable
    async def cancelled(request: web.Request) -> web.StreamResponse:
        arena.root["n"] = 1
        raise asyncio.CancelledError

    @recoverable(timeout=0.01)
    async def slow(request: web.Request) -> web.StreamResponse:
        arena.root["n"] = 1
        await asyncio.sleep(5)
        return ok()

    handlers = (conflict, full, undecorated, half, redirect, forbidden, unavailable, returned, crash, cancelled, slow)
    return {f"/{handler.__name__}": handler for handler in (*handlers, busy)}


#: The table of docs/handlers.md: the handler; the class that a middleware sees, and its status; the status on the wire, None
#: where the connection is closed; whether the state is committed.
SEEN = [
    ("/conflict", ConflictError, 503, 503, False),
    ("/full", ArenaFullError, 507, 507, False),
    ("/undecorated", ArenaFullError, 507, 507, False),
    ("/busy", ArenaBusyError, 503, 503, False),
    ("/half", ConflictError, None, None, False),
    ("/redirect", web.HTTPFound, 302, 302, True),
    ("/forbidden", web.HTTPForbidden, 403, 403, False),
    ("/unavailable", web.HTTPServiceUnavailable, 503, 503, False),
    ("/returned", None, 500, 500, False),
    ("/crash", KeyError, None, 500, False),
    ("/cancelled", asyncio.CancelledError, None, None, False),
    ("/slow", TimeoutError, None, 504, False),
]


@pytest.mark.parametrize(("path", "kind", "status", "sent", "kept"), SEEN)
async def test_what_a_middleware_of_the_program_sees(
    shared: Shared, path: str, kind: Any, status: Any, sent: Any, kept: bool
) -> None:
    """Our failures are what they were, and aiohttp's responses too, half an answer apart; there is one status line at most."""
    arena, for_app = shared
    seen: list[Any] = []

    @web.middleware
    async def sees(request: web.Request, handler: Any) -> Any:
        try:
            response = await handler(request)
        except BaseException as error:
            seen.append(error)
            raise
        seen.append(response)
        return response

    async with serving(application(for_app, failing(arena), (sees,))) as client:
        answer = await raw(client, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    (what,) = seen
    if kind is not None:
        assert isinstance(what, kind)
    assert getattr(what, "status", None) == status
    ours = kind in (ConflictError, ArenaFullError, ArenaBusyError)
    assert isinstance(what, web.HTTPException) == (status is not None and kind is not None)
    if ours and status is not None:
        assert type(what).__name__ == kind.__name__
        assert what.headers.get("Retry-After") == ("1" if status == 503 else None)
        assert isinstance(what.__cause__, kind)
        assert str(what) == str(what.__cause__)
    assert answer.count(b"HTTP/1.1") == (1 if sent is not None or path == "/half" else 0)
    if sent is not None:
        assert answer.startswith(f"HTTP/1.1 {sent} ".encode())
    assert ("n" in arena.root) is kept


async def test_a_conflict_that_a_middleware_sees_says_where_it_was(shared: Shared) -> None:
    """Its path, key, runs and reason are the ConflictError's; without a reason it is the response's."""
    arena, for_app = shared
    seen: list[Any] = []

    @web.middleware
    async def sees(request: web.Request, handler: Any) -> Any:
        try:
            return await handler(request)
        except ConflictError as error:
            seen.append((error.path, error.key, error.runs, error.reason))
            raise

    @recoverable(max_conflicts=1)
    async def streams(request: web.Request) -> web.Response:
        await request.content.read()
        arena.root["n"] = 1
        await lose(arena)
        return ok()

    app = application(for_app, {**failing(arena), "/streams": streams}, (sees,))
    async with serving(app) as client:
        await client.get("/conflict")
        assert "was streamed" in await (await client.post("/streams", data=b"x" * 100)).text()
    assert seen[0] == ("root", "'contended'", 2, "Service Unavailable")
    assert "was streamed" in seen[1][3]


async def test_a_failure_that_is_raised_after_half_an_answer(shared: Shared) -> None:
    """A middleware that begins an answer of its own, and then raises on what it has seen, puts no second status line there."""
    arena, for_app = shared

    @web.middleware
    async def tells(request: web.Request, handler: Any) -> Any:
        try:
            return await handler(request)
        except ConflictError:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"half of it")
            raise

    async with serving(application(for_app, failing(arena), (tells,))) as client:
        answer = await raw(client, "GET /conflict HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert b"half of it" in answer


async def test_a_middleware_has_its_request_and_arena(
    shared: Shared, new_name: Callable[[], str], log: list[dict[str, Any]]
) -> None:
    """In a middleware, before the handler and after it, and where there is no page: the arena, the id, and what can't run again."""
    arena, for_app = shared
    body: list[int] = []

    @recoverable
    async def counts(request: Any = None) -> None:
        if request is not None and attempt() == 1:
            body.append(len(await request.content.read()))
        if attempt() == 1:
            await lose(arena)
        arena.root["hits"] = arena.root.get("hits", 0) + 1

    @web.middleware
    async def audits(request: web.Request, handler: Any) -> Any:
        if "stream" in request.query:
            await counts(request)
        await counts()
        try:
            return await handler(request)
        finally:
            await counts()

    with Arena.temporary("4 MiB", name=new_name()):
        async with serving(application(for_app, {"/": which}, (audits,))) as client:
            for path, status in (("/", 200), ("/nothing", 404)):
                assert (await client.get(path, headers={"X-Request-ID": "id-1"})).status == status
            assert arena.root["hits"] == 4
            ids = {event["request_id"] for event in log if event["event"] == "request.conflict"}
            assert ids == {"id-1"}
            assert (await client.post("/?stream", data=b"x" * 3000)).status == 503
    assert body == [3000]
    assert arena.root["hits"] == 4


@pytest.mark.parametrize("page", ["/", "/nothing"])
async def test_failures_of_a_middleware_become_responses(shared: Shared, page: str) -> None:
    """What a middleware's own transaction lets through is answered as a handler's is; what it catches, it catches by its class."""
    arena, for_app = shared
    big = b"x" * (32 << 20)

    async def fills() -> None:
        arena.root["n"] = big

    async def loses() -> None:
        arena.root["n"] = 1
        await lose(arena)

    @web.middleware
    async def stores(request: web.Request, handler: Any) -> Any:
        match request.query["how"]:
            case "block":
                with arena.transaction():
                    arena.root["n"] = big
            case "run":
                await arena.run(fills)
            case "caught":
                with pytest.raises(ArenaFullError, match="full"):
                    await arena.run(fills)
            case "conflict":
                await arena.run(loses, max_conflicts=0)
        return await handler(request)

    async with serving(application(for_app, {"/": which}, (stores,))) as client:
        for how, status in (("block", 507), ("run", 507), ("conflict", 503), ("caught", 200 if page == "/" else 404)):
            assert (await client.get(f"{page}?how={how}")).status == status, how
    assert "n" not in arena.root


async def test_a_handler_in_a_task_of_a_middleware(shared: Shared) -> None:
    """A middleware may await the handler elsewhere than it calls it; afterwards it is where it was."""
    seen: list[Any] = []

    @web.middleware
    async def limits(request: web.Request, handler: Any) -> Any:
        response = await asyncio.wait_for(asyncio.create_task(handler(request)), 5)
        seen.append(running_request.get())
        return response

    async with serving(application(shared[1], {"/": which, "/busy": busy}, (limits,))) as client:
        assert await (await client.get("/")).text() == f"{shared[0].name} True"
        assert (await client.get("/busy")).status == 503
    assert seen == [None]


async def test_the_middleware_stands_in_front_of_it(shared: Shared) -> None:
    """`middleware(arena)` around an application that is set up: failures become responses once, outermost."""
    arena, for_app = shared
    seen: list[Any] = []

    @web.middleware
    async def sees(request: web.Request, handler: Any) -> Any:
        before = running_request.get()
        try:
            return await handler(request)
        except ArenaBusyError as error:
            seen.append((type(error), before is running_request.get()))
            raise

    app = application(for_app, {"/busy": busy, "/which": which}, (middleware(arena), sees))
    async with serving(app) as client:
        assert (await client.get("/busy")).status == 503
        assert await (await client.get("/which")).text() == f"{arena.name} True"
    assert seen == [(ArenaBusyError, True)]


async def test_the_request_may_be_a_clone(shared: Shared) -> None:
    """A middleware that hands on a clone: that is the handler's request."""

    @web.middleware
    async def clones(request: web.Request, handler: Any) -> Any:
        return await handler(request.clone(rel_url="/other"))

    async with serving(application(shared[1], {"/": which}, (clones,))) as client:
        assert await (await client.get("/")).text() == f"{shared[0].name} True"
