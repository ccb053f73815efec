"""The work on FastAPI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket

from recoverable import recoverable
from recoverable.fastapi import setup
from support.frameworks.on_starlette import MIDDLEWARES, Verbs, talk
from support.frameworks.work import BODY_LIMIT, Only, Work


def build(work: Work, protect: Any) -> Any:
    """Build the application."""

    async def do(request: Request) -> Any:
        return await work.do(Verbs(request), request.query_params)

    async def depends(request: Request) -> AsyncIterator[None]:
        await work.depend(request.query_params)
        yield

    @recoverable
    async def message(text: str) -> str:
        return await work.message(text)

    async def socket(websocket: WebSocket) -> None:
        await talk(websocket, message if protect == "decorated" else lambda text: work.arena.run(work.message, text))

    def routed(app: Any) -> Any:
        methods = ["GET", "POST"]
        decorated = recoverable(do) if protect == "decorated" else do
        app.api_route("/do", methods=methods)(decorated)
        app.api_route("/dependency", methods=methods, dependencies=[Depends(depends)])(decorated)
        app.api_route("/late", methods=methods)(recoverable(timeout=0.1)(do))
        app.api_route("/once", methods=methods)(recoverable(max_conflicts=0)(do))
        app.websocket("/socket")(socket)
        return app

    app = routed(FastAPI())
    app.mount("/sub", routed(FastAPI()))
    router = routed(APIRouter())
    for path, middleware in MIDDLEWARES.items():
        app.include_router(router, prefix=path)
        app.add_middleware(Only, path, middleware)
    setup(app, work.arena, protect=protect, body_limit=BODY_LIMIT)
    return app
