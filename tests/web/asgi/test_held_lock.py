"""A request that finds the lock held gives way to others of its loop, and runs again as it came: its body too."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from litestar import Litestar, post
from quart import Quart
from quart import request as quart_request
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from recoverable import Arena, attempt, recoverable
from recoverable import fastapi as recoverable_fastapi
from recoverable.asgi import Middleware, setup
from support.asgi import client_of, lifespan_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from recoverable._asgi import App, Receive, Scope, Send


def write(arena: Arena, body: Any, runs: list[int]) -> dict[str, Any]:
    """Do what the handlers do with a body."""
    runs.append(attempt())
    arena.root["body"] = body
    return {"body": body}


def starlette(arena: Arena, protect: Any, runs: list[int]) -> App:
    """Make it in Starlette: the handler reads its body."""

    async def handler(request: Request) -> JSONResponse:
        return JSONResponse(write(arena, await request.json(), runs))

    endpoint: Any = recoverable(handler) if protect == "decorated" else handler
    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    setup(app, arena, protect=protect)
    return app


def fastapi(arena: Arena, protect: Any, runs: list[int]) -> App:
    """Make it in FastAPI, which reads the body in the transaction."""
    app = FastAPI()

    async def handler(body: dict[str, Any]) -> Any:
        return write(arena, body, runs)

    app.post("/")(recoverable(handler) if protect == "decorated" else handler)
    recoverable_fastapi.setup(app, arena, protect=protect)
    return app


def litestar(arena: Arena, protect: Any, runs: list[int]) -> App:
    """Make it in Litestar: the handler reads its body."""

    async def handler(request: Any) -> Any:
        return write(arena, await request.json(), runs)

    handler.__annotations__ = {"request": "Request", "return": dict}
    handler.__globals__["Request"] = __import__("litestar").Request
    app = Litestar([post("/", status_code=200)(recoverable(handler) if protect == "decorated" else handler)])
    setup(app, arena, protect=protect)
    return app


def quart(arena: Arena, protect: Any, runs: list[int]) -> App:
    """Make it in Quart, which receives the body beside the handler."""
    app = Quart("quart")

    async def handler() -> Any:
        return write(arena, await quart_request.get_json(), runs)

    app.post("/")(recoverable(handler) if protect == "decorated" else handler)
    setup(app, arena, protect=protect)
    return app


def bare(arena: Arena, protect: Any, runs: list[int]) -> App:
    """Make it without a framework."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        answer = write(arena, len(message["body"]), runs)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(answer).encode()})

    return Middleware(app, arena, protect="all")


@pytest.mark.parametrize(
    ("make", "protect"),
    [
        (starlette, "decorated"),
        (starlette, "all"),
        (fastapi, "decorated"),
        (fastapi, "all"),
        (litestar, "decorated"),
        (litestar, "all"),
        (quart, "decorated"),
        (quart, "all"),
        (bare, "all"),
    ],
)
async def test_a_request_that_has_read_its_body(
    shared: tuple[Arena, Arena], make: Callable[[Arena, Any, list[int]], App], protect: str
) -> None:
    """The loop goes on although another thread holds the lock: it is this loop that has it let go."""
    arena, for_app = shared
    runs: list[int] = []
    app = make(for_app, protect, runs)
    inside, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with arena.transaction():
            arena.root["held"] = True
            inside.set()
            assert enough.wait(20), "the loop stood still"

    async with lifespan_of(app), client_of(app) as client:
        holder = threading.Thread(target=hold)
        holder.start()
        try:
            await asyncio.to_thread(inside.wait)
            asked = asyncio.create_task(client.post("/", json={"a": 1}))
            await asyncio.sleep(0.1)
            assert not asked.done()
        finally:
            enough.set()
            await asyncio.to_thread(holder.join)
        answer = await asked
        assert (answer.status_code, len(runs)) == (200, 2)
        assert arena.root["held"]
        assert arena.root["body"] in ({"a": 1}, 7)
