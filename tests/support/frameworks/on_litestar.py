"""The work on Litestar."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import litestar
from litestar import Litestar, Request, Response, Router, WebSocket, asgi
from litestar.background_tasks import BackgroundTask
from litestar.di import Provide
from litestar.exceptions import HTTPException, WebSocketDisconnect
from litestar.middleware import DefineMiddleware
from litestar.response import ServerSentEvent, Stream
from starlette.applications import Starlette

from recoverable import recoverable
from recoverable.asgi import setup
from support.frameworks import on_starlette
from support.frameworks.work import BODY_LIMIT, Between, Only, Work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Verbs:
    """What is done in Litestar's way."""

    def __init__(self, request: Request[Any, Any, Any]) -> None:
        self._request = request

    def answer(self, text: str, status: int = 200) -> Any:
        """Return a response."""
        headers = {"Location": "/"} if 300 <= status < 400 else {}
        return Response(text, status_code=status, media_type="text/plain", headers=headers)

    def error(self, status: int) -> Exception:
        """Return an HTTPException."""
        return HTTPException(status_code=status, headers={"Location": "/"})

    async def read(self, kind: str) -> str:
        """Read the body; what is read of JSON is changed."""
        if kind == "json":
            value = await self._request.json()
            text = str(value["text"])
            value["text"] = "changed"
            return text
        if kind == "raw":
            return (await self._request.body()).decode()
        if kind == "parts":
            return "".join([part.decode() async for part in self._request.stream()])
        form = await self._request.form()
        if kind == "form":
            return str(form["text"])
        text = (await form["file"].read()).decode()
        if kind == "multipart":
            await form["file"].close()
        return text

    def stream(self, parts: AsyncIterator[str], events: bool) -> Any:
        """Return a Stream."""
        return ServerSentEvent(parts) if events else Stream(parts)

    def background(self, answer: Any, task: Callable[[], Awaitable[None]]) -> Any:
        """Give the response a BackgroundTask."""
        answer.background = BackgroundTask(task)
        return answer


def build(work: Work, protect: Any) -> Any:
    """Build the application."""

    async def do(request: Request[Any, Any, Any]) -> Any:
        return await work.do(Verbs(request), request.query_params)

    async def depends(request: Request[Any, Any, Any], needed: int) -> Any:
        return await work.do(Verbs(request), request.query_params)

    async def dependency(request: Request[Any, Any, Any]) -> AsyncIterator[int]:
        await work.depend(request.query_params)
        yield 1

    @recoverable
    async def message(text: str) -> str:
        return await work.message(text)

    @litestar.websocket("/socket")
    async def socket(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        try:
            while True:
                text = await socket.receive_text()
                try:
                    answer = await (message(text) if protect == "decorated" else work.arena.run(work.message, text))
                except RuntimeError:
                    answer = "crashed"
                await socket.send_text(answer)
        except WebSocketDisconnect:
            pass

    def route(path: str, fn: Any, **options: Any) -> Any:
        return litestar.route(path, http_method=["GET", "POST"], status_code=200, **options)(fn)

    decorates = recoverable if protect == "decorated" else (lambda fn: fn)
    routes = [
        route("/do", decorates(do)),
        route("/dependency", decorates(depends), dependencies={"needed": Provide(dependency)}),
        route("/late", recoverable(timeout=0.1)(do)),
        route("/once", recoverable(max_conflicts=0)(do)),
        socket,
    ]

    async def inner(request: Any) -> Any:
        return await work.do(on_starlette.Verbs(request), request.query_params)

    mounted = Starlette()
    mounted.add_route("/do/", decorates(inner), methods=["GET", "POST"])  # Litestar adds the slash

    @asgi("/sub", is_mount=True, copy_scope=True)
    async def sub(scope: Any, receive: Any, send: Any) -> None:
        await mounted(scope, receive, send)

    app = Litestar(
        [*routes, sub, Router("/pure", route_handlers=routes)],
        middleware=[DefineMiddleware(Only, "/pure", Between)],
        openapi_config=None,
        logging_config=None,
    )
    setup(app, work.arena, protect=protect, body_limit=BODY_LIMIT)
    return app
