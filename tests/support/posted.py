"""One handler in each framework: it writes the body of a POST request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from litestar import Litestar, post
from litestar import Request as LitestarRequest
from quart import Quart
from quart import request as quart_request
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from recoverable import Arena, attempt, recoverable
from recoverable import fastapi as recoverable_fastapi
from recoverable.asgi import Middleware, setup

if TYPE_CHECKING:
    from recoverable._asgi import App, Receive, Scope, Send


def write(arena: Arena, body: Any, runs: list[int]) -> dict[str, Any]:
    """Do what the handlers do with a body."""
    runs.append(attempt())
    if body == {"crash": True}:
        raise KeyError("crash")
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

    handler.__annotations__ = {"request": LitestarRequest, "return": dict}
    route = post("/", status_code=200)(recoverable(handler) if protect == "decorated" else handler)
    app = Litestar([route], logging_config=None)  # else a thread of its own writes the program's log
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


#: How each is made, make(arena, protect, runs), and what may be protected.
POSTED = [
    (starlette, "decorated"),
    (starlette, "all"),
    (fastapi, "decorated"),
    (fastapi, "all"),
    (litestar, "decorated"),
    (litestar, "all"),
    (quart, "decorated"),
    (quart, "all"),
    (bare, "all"),
]
