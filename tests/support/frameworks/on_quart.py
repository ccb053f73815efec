"""The work on Quart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quart import Blueprint, Quart, Response, abort, redirect, request, websocket
from werkzeug.exceptions import HTTPException

from recoverable import recoverable
from recoverable.asgi import setup
from support.frameworks.work import BODY_LIMIT, Between, Only, Work, events_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class Verbs:
    """What is done in Quart's way; the request is the one of the context."""

    def __init__(self, app: Quart) -> None:
        self._app = app

    def answer(self, text: str, status: int = 200) -> Any:
        """Return a body and its status."""
        return redirect("/", status) if 300 <= status < 400 else (text, status)

    def error(self, status: int) -> Exception:
        """Return what abort() raises."""
        try:
            abort(redirect("/", status) if 300 <= status < 400 else status)
        except HTTPException as error:
            return error

    async def read(self, kind: str) -> str:
        """Read the body; what is read of JSON is changed."""
        if kind == "json":
            value = await request.get_json()
            text = str(value["text"])
            value["text"] = "changed"
            return text
        if kind == "raw":
            return (await request.get_data()).decode()
        if kind == "parts":
            return "".join([part.decode() async for part in request.body])
        if kind == "form":
            return str((await request.form)["text"])
        file = (await request.files)["file"]
        text = file.read().decode()
        if kind == "multipart":
            file.close()
        return text

    def stream(self, parts: AsyncIterator[str], events: bool) -> Any:
        """Return a generator."""
        return Response(events_of(parts), content_type="text/event-stream") if events else parts

    def background(self, answer: Any, task: Callable[[], Awaitable[None]]) -> Any:
        """Add a background task, which is none of the answer's."""
        self._app.add_background_task(task)
        return answer


def build(work: Work, protect: Any) -> Any:
    """Build the application."""
    app = Quart("served")

    async def do() -> Any:
        return await work.do(Verbs(app), request.args)

    @recoverable
    async def message(text: str) -> str:
        return await work.message(text)

    async def socket() -> None:
        await websocket.accept()
        while True:
            text = await websocket.receive()
            try:
                answer = await (message(text) if protect == "decorated" else work.arena.run(work.message, text))
            except RuntimeError:
                answer = "crashed"
            await websocket.send(answer)

    def routed(blueprint: Any) -> Any:
        views = {
            "/do": recoverable(do) if protect == "decorated" else do,
            "/dependency": recoverable(do) if protect == "decorated" else do,
            "/late": recoverable(timeout=0.1)(do),
            "/once": recoverable(max_conflicts=0)(do),
        }
        for path, view in views.items():
            blueprint.add_url_rule(path, path[1:], view, methods=["GET", "POST"])
        blueprint.websocket("/socket")(socket)
        return blueprint

    routed(app)
    app.register_blueprint(routed(Blueprint("sub", __name__)), url_prefix="/sub")
    app.register_blueprint(routed(Blueprint("pure", __name__)), url_prefix="/pure")

    @app.before_request
    async def before() -> None:
        if request.path == "/dependency":
            await work.depend(request.args)

    app.asgi_app = Only(app.asgi_app, "/pure", Between)  # type: ignore[method-assign]
    setup(app, work.arena, protect=protect, body_limit=BODY_LIMIT)
    return app
