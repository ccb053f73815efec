"""`protect="all"`: what middlewares and frameworks do in tasks and threads of their own is in the request's transaction."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import httpx
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from recoverable import Arena, after_commit, attempt
from recoverable.asgi import setup
from support.asgi import client_of, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Lose = Callable[[], Awaitable[Any]]


def content(arena: Arena) -> dict[Any, Any]:
    """Return the root's items, read outside any transaction."""
    return dict(arena.root.items())


def application(arena: Arena, endpoint: Any, *middlewares: Any) -> Starlette:
    """Build an application that is all protected, with these middlewares."""
    app = Starlette(
        routes=[Route("/", endpoint, methods=["GET", "POST"])], middleware=[Middleware(each) for each in middlewares]
    )
    setup(app, arena, protect="all")
    return app


class Between(BaseHTTPMiddleware):
    """Runs what is below in a task of its own, and writes before and after."""

    arena: Arena

    async def dispatch(self, request: Any, call_next: Any) -> Any:
        """Write on both ways."""
        self.arena.root["in"] = 1
        answer = await call_next(request)
        answer.headers["X-Seen"] = str(dict(self.arena.root.items()))
        self.arena.root["out"] = 1
        return answer


@pytest.fixture
def between(shared: tuple[Arena, Arena]) -> type[Between]:
    """Give the middleware, for the arena."""
    return type("Between", (Between,), {"arena": shared[0]})


@pytest.mark.parametrize("deep", [1, 3])
@pytest.mark.parametrize(
    ("what", "status", "kept"),
    [("ok", 200, True), (404, 404, False), (500, 500, False), ("503", 503, False), ("crash", 500, False)],
)
async def test_a_middleware_with_a_task(
    shared: tuple[Arena, Arena], between: type[Between], deep: int, what: Any, status: int, kept: bool
) -> None:
    """Its writes, before and after the endpoint, and the endpoint's in that task, are one transaction, and seen by each other."""
    arena, for_app = shared
    after: list[int] = []

    async def endpoint(request: Request) -> Response:
        assert arena.root["in"] == 1
        after_commit(after.append, 1)
        arena.root["a"] = 1
        await asyncio.sleep(0)
        if what == "crash":
            raise RuntimeError
        if isinstance(what, int):
            raise HTTPException(what)
        return PlainTextResponse("", 503 if what == "503" else 200)

    async with client_of(application(for_app, endpoint, *[between] * deep)) as client:
        answer = await client.get("/")
    assert answer.status_code == status
    if kept:
        assert "'a': 1" in answer.headers["X-Seen"]
    assert content(arena) == ({"in": 1, "a": 1, "out": 1} if kept else {})
    assert after == ([1] if kept else [])


async def test_a_conflict_in_a_task(shared: tuple[Arena, Arena], between: type[Between], lose: Lose) -> None:
    """It runs all of it again, with the body."""
    arena, for_app = shared
    runs: list[Any] = []

    async def endpoint(request: Request) -> Response:
        runs.append(await request.json())
        arena.root["a"] = attempt()
        if attempt() == 1:
            await lose()
        arena.root["a"] = attempt()
        return JSONResponse(attempt())

    async with client_of(application(for_app, endpoint, between, between)) as client:
        answer = await client.post("/", json=[1])
    assert (answer.status_code, answer.text) == (200, "2")
    assert runs == [[1], [1]]
    assert content(arena) == {"in": 1, "a": 2, "out": 1, "contended": 1}


async def test_a_conflict_that_only_the_commit_meets(shared: tuple[Arena, Arena], between: type[Between]) -> None:
    """The answer is held until then, so it can be run again."""
    arena, for_app = shared
    runs: list[int] = []

    class Loses(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            seen = arena.root.get("contended", 0)
            answer = await call_next(request)
            runs.append(1)
            if len(runs) == 1:

                async def other() -> None:
                    with arena.transaction():
                        arena.root["contended"] = seen + 1

                await asyncio.get_running_loop().create_task(other(), context=contextvars.Context())
            return answer

    async def endpoint(request: Request) -> Response:
        arena.root["a"] = len(runs)
        return JSONResponse(len(runs))

    async with client_of(application(for_app, endpoint, Loses, between)) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.text) == (200, "1")
    assert arena.root["a"] == 1


async def test_threads(shared: tuple[Arena, Arena], between: type[Between]) -> None:
    """Functions in threads, one after the other and between steps of the loop, add to one transaction."""
    arena, for_app = shared

    def count() -> None:
        arena.root["n"] = arena.root.get("n", 0) + 1

    async def endpoint(request: Request) -> Response:
        for _ in range(3):
            await anyio.to_thread.run_sync(count)
            count()
            await asyncio.to_thread(count)
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(anyio.to_thread.run_sync, count)
        return PlainTextResponse("", int(request.query_params["status"]))

    async with client_of(application(for_app, endpoint, between)) as client:
        assert (await client.get("/?status=500")).status_code == 500
        assert content(arena) == {}
        assert (await client.get("/?status=200")).status_code == 200
    assert content(arena)["n"] == 12


def test_plain_endpoints_are_in_it(shared: tuple[Arena, Arena], between: type[Between]) -> None:
    """A plain function, which Starlette calls in a thread, is part of the transaction, in each of many requests at once."""
    arena, for_app = shared

    def endpoint(request: Request) -> Response:
        key = request.query_params["key"]
        arena.root[key] = 1
        assert arena.root["in"] == 1
        return PlainTextResponse("", 500 if key.endswith("7") else 200)

    async def ask() -> list[int]:
        async with client_of(application(for_app, endpoint, between)) as client:
            answers = await asyncio.gather(*(client.get(f"/?key={i}") for i in range(20)))
            return [answer.status_code for answer in answers]

    statuses = asyncio.run(ask())
    assert {200, 500} <= set(statuses) <= {200, 500, 503}
    for i, status in enumerate(statuses):
        assert (str(i) in arena.root) == (status == 200)


async def test_streams_behind_middlewares(shared: tuple[Arena, Arena], between: type[Between]) -> None:
    """Under a server the first part of a stream commits, in whatever task it is sent; an endless one is sent as it comes."""
    arena, for_app = shared
    ended = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        try:
            for i in range(1000):
                yield b"data: %d\n\n" % i
                await asyncio.sleep(0.005)
        finally:
            ended.set()

    async def endpoint(request: Request) -> Response:
        arena.root["a"] = 1
        return StreamingResponse(parts(), media_type="text/event-stream")

    for middlewares in [], [between], [GZipMiddleware], [between, GZipMiddleware]:
        with Arena.open(for_app.name) as other:  # each application closes its own
            app = application(other, endpoint, *middlewares)
            async with served(app) as url, httpx.AsyncClient(base_url=url) as client:
                async with client.stream("GET", "/", headers={"Accept-Encoding": "identity"}) as answer:
                    assert answer.status_code == 200
                    assert await anext(answer.aiter_bytes())
                    assert content(arena)["a"] == 1
                while not ended.is_set():  # who was cancelled between two parts leaves the stream to the collector
                    gc.collect()
                    await asyncio.sleep(0.01)
        ended.clear()
        with arena.transaction():
            arena.root.clear()


async def test_a_client_that_hangs_up(shared: tuple[Arena, Arena], between: type[Between]) -> None:
    """What a middleware cancels because of that is rolled back."""
    arena, for_app = shared
    begun, over = asyncio.Event(), asyncio.Event()

    class Cancels:
        """Cancels what is below when the client has hung up."""

        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await self.app(scope, receive, send)
                return
            async with anyio.create_task_group() as group:

                async def listen() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    group.cancel_scope.cancel()

                group.start_soon(listen)
                await self.app(scope, receive, send)
                group.cancel_scope.cancel()
            over.set()

    async def endpoint(request: Request) -> Response:
        arena.root["a"] = 1
        begun.set()
        await asyncio.Event().wait()
        return Response()

    async with (
        served(application(for_app, endpoint, Cancels, between)) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        request = asyncio.create_task(client.get("/"))
        await begun.wait()
        request.cancel()
        await over.wait()
    assert content(arena) == {}
