"""The work on Starlette; FastAPI's requests and responses are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from recoverable import recoverable
from recoverable.asgi import setup
from support.frameworks.work import BODY_LIMIT, Between, Only, Work, events_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request


class Verbs:
    """What is done in Starlette's way."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def answer(self, text: str, status: int = 200) -> Any:
        """Return a response."""
        return PlainTextResponse(text, status, headers={"Location": "/"} if 300 <= status < 400 else None)

    def error(self, status: int) -> Exception:
        """Return an HTTPException."""
        return HTTPException(status, headers={"Location": "/"})

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
        text = (await form["file"].read()).decode()  # type: ignore[union-attr]
        if kind == "multipart":
            await form.close()
        return text

    def stream(self, parts: AsyncIterator[str], events: bool) -> Any:
        """Return a StreamingResponse."""
        return (
            StreamingResponse(events_of(parts), media_type="text/event-stream") if events else StreamingResponse(parts)
        )

    def background(self, answer: Any, task: Callable[[], Awaitable[None]]) -> Any:
        """Give the response a BackgroundTask."""
        answer.background = BackgroundTask(task)
        return answer


class Base(BaseHTTPMiddleware):
    """The other kind of middleware: it runs what is below in a task."""

    async def dispatch(self, request: Any, call_next: Any) -> Any:
        """Read the body, and change the answer."""
        size = len(await request.body())
        answer = await call_next(request)
        answer.headers["x-between"] = str(size)
        answer.status_code = int(request.query_params.get("instead", answer.status_code))
        return answer


#: The program's middlewares, by the paths that are behind them.
MIDDLEWARES = {"/pure": Between, "/base": Base}


async def talk(websocket: WebSocket, handle: Callable[[str], Awaitable[str]]) -> None:
    """Answer messages as long as there is somebody."""
    await websocket.accept()
    try:
        while True:
            text = await websocket.receive_text()
            try:
                answer = await handle(text)
            except RuntimeError:
                answer = "crashed"
            await websocket.send_text(answer)
    except WebSocketDisconnect:
        pass


def build(work: Work, protect: Any) -> Any:
    """Build the application."""

    async def do(request: Request) -> Any:
        return await work.do(Verbs(request), request.query_params)

    @recoverable
    async def message(text: str) -> str:
        return await work.message(text)

    async def socket(websocket: WebSocket) -> None:
        await talk(websocket, message if protect == "decorated" else lambda text: work.arena.run(work.message, text))

    methods = ["GET", "POST"]
    routes = [
        Route("/do", recoverable(do) if protect == "decorated" else do, methods=methods),
        Route("/late", recoverable(timeout=0.1)(do), methods=methods),
        Route("/once", recoverable(max_conflicts=0)(do), methods=methods),
        WebSocketRoute("/socket", socket),
    ]
    mounts = [Mount("/sub", Starlette(routes=routes)), *(Mount(path, routes=routes) for path in MIDDLEWARES)]
    middlewares = [Middleware(Only, path, each) for path, each in MIDDLEWARES.items()]
    app = Starlette(routes=[*routes, *mounts], middleware=middlewares)
    setup(app, work.arena, protect=protect, body_limit=BODY_LIMIT)
    return app
