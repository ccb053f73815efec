"""Starlette's adapter: its responses and exceptions, its Requests, its routes. FastAPI's are these as well.

A Request remembers what it has read: `body()`, which `json()` and `form()` may have been made of, or a form whose body went by in
a stream. What is kept there is there for the next run, too, but JSON, which the run may have changed. Where nothing is kept, the
parts are given again by the Exchange, if the Request has its `receive` from there, and not from a middleware in between.

That a response was *raised* is known only to who handles the exception, which is Starlette, inside of us: its handlers are wrapped.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from types import MethodType
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import BaseRoute, Match

from recoverable import _asgi, middleware
from recoverable._given import given
from recoverable._starlette_parts import parts_of
from recoverable.web import AnswerAdapter, register

if TYPE_CHECKING:
    from collections.abc import Container

    from recoverable._asgi import Exchange, Scope

__all__ = ["add_innermost", "answer_failures", "routes_of"]


class _Adapter(AnswerAdapter):
    responses = (Response,)
    errors = (HTTPException,)
    plain = (
        (JSONResponse, Response, PlainTextResponse, HTMLResponse, RedirectResponse, StreamingResponse, FileResponse),
        "status_code",
    )

    def status_of(self, answer: Response | HTTPException) -> int:
        return answer.status_code

    def lose_tasks(self, answer: Response) -> None:
        answer.background = None


# -- a Request, as it was before a run -----------------------------------------------------------------------------------


class _Requests:
    """The Kind of `recoverable._asgi` for Starlette."""

    libraries = "starlette", "fastapi"
    parts_of = staticmethod(parts_of)

    def among(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[HTTPConnection[Any]]:
        return given(HTTPConnection, args, kwargs)

    def has(self, scope: Scope) -> bool:
        return isinstance(scope.get("app"), Starlette)

    def routed_to(self, scope: Scope) -> Any:
        return scope.get("endpoint") if self.has(scope) else None

    def back(self, request: Any, exchange: Exchange, kept: int) -> _asgi.Back:
        state = vars(request)
        form = state.get("_form")
        files = [field for _, field in form.multi_items() if isinstance(field, UploadFile)] if form else []
        closed = any(file.file.closed for file in files)
        reads = form is None or closed
        reads = (
            reads
            and "_body" not in state
            and bool(form is not None or state.get("_stream_consumed") or exchange.read != kept)
        )
        if reads:
            receive = state.get("_receive")
            if not (type(receive) is MethodType and receive.__self__ is exchange and exchange.can_rewind(kept)):
                return _asgi.CLOSED if closed else _asgi.STREAMED

        def back() -> None:
            state.pop("_json", None)
            state.pop("_state", None)  # it holds on to the scope's
            if form is not None and not closed:
                for file in files:
                    file.file.seek(0)
            elif form is not None:
                request._form = None
            if reads:
                exchange.rewind(kept)
                request._stream_consumed = False

        return back

    def route(self, scope: Scope) -> str | None:
        context = scope.get("fastapi", {}).get("effective_route_context")  # of a router that is included
        path = getattr(context, "path", None) or getattr(scope.get("route"), "path", None)
        if not isinstance(path, str):
            return None
        inside = scope.get("root_path", "").removeprefix(scope.get("app_root_path", scope.get("root_path", "")))
        if inside:  # of what is mounted; its own placeholders have been filled in
            values = {str(value): name for name, value in scope.get("path_params", {}).items()}
            names = (f"{{{values[part]}}}" if part in values else part for part in inside.split("/"))
            path = "/".join(names) + path
        return path

    def endpoint(self, app: Any, scope: Scope) -> Any:
        return _endpoint(app, dict(scope))


def _endpoint(app: Any, scope: Scope) -> Any:
    while app is not None and not hasattr(app, "routes"):  # middlewares
        app = getattr(app, "app", None)
    for route in getattr(app, "routes", None) or ():
        match, more, *selected = getattr(route, "_match", route.matches)(scope)  # FastAPI's routers that are included
        while selected and hasattr(selected[0], "_match"):
            match, more, *selected = selected[0]._match(scope)
        if match is Match.FULL:
            found = more.get("endpoint")
            if isinstance(found, type):  # a class-based view
                return getattr(found, str(scope.get("method")).lower(), found)
            return _endpoint(found, {**scope, **more}) or found  # what is mounted
    return None


# -- what is raised in an application that is one transaction ---------------------------------------------------------------


def _noting(handler: Any) -> Any:
    if hasattr(handler, "_recoverable_noting"):
        return handler
    inner = handler
    while isinstance(inner, functools.partial):
        inner = inner.func
    if inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(getattr(inner, "__call__", None)):  # noqa: B004

        async def noting(connection: Any, error: BaseException) -> Any:
            _asgi.note_raised(error, connection.scope)
            response = await handler(connection, error)
            _asgi.note_answer(response, connection.scope)
            return response
    else:

        def noting(connection: Any, error: BaseException) -> Any:  # type: ignore[misc]  # in a thread
            _asgi.note_raised(error, connection.scope)
            response = handler(connection, error)
            _asgi.note_answer(response, connection.scope)
            return response

    noting._recoverable_noting = True  # type: ignore[attr-defined]
    return noting


def _remember_raised() -> None:
    """Have Starlette's exception handlers note what they are called for."""
    begin = ExceptionMiddleware.__init__

    @functools.wraps(begin)
    def beginning(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        for handlers in (getattr(self, "_exception_handlers", {}), getattr(self, "_status_handlers", {})):
            for key, handler in handlers.items():
                handlers[key] = _noting(handler)

    ExceptionMiddleware.__init__ = beginning  # type: ignore[method-assign]
    made: Any = ExceptionMiddleware(None)  # type: ignore[arg-type]  # or what was answered with a raised 404 would be committed
    if not hasattr(made._exception_handlers[HTTPException], "_recoverable_noting"):
        raise ImportError("what its ExceptionMiddleware makes responses of can't be seen")


# -- for recoverable.asgi.setup ----------------------------------------------------------------------------------------------


def add_innermost(app: Any, boundary: Any) -> None:
    """Put something behind all middlewares of an application, be they added later."""
    app.user_middleware.append(Middleware(boundary))


def routes_of(app: Any) -> Iterator[BaseRoute]:
    """Give the routes of an application or router, those of routers that are included in it too."""
    for route in getattr(app, "routes", None) or ():
        yield route
        if (included := getattr(route, "original_router", None)) is not None:
            yield from routes_of(included)


def applications(app: Any, others: Container[Any]) -> Iterator[Any]:
    """Give an application and those that are mounted in it, but for those that are set up themselves."""
    yield app
    for route in routes_of(app):
        inner = getattr(route, "app", None)
        while inner is not None and not hasattr(inner, "routes"):  # middlewares of the mount
            inner = getattr(inner, "app", None)
        if inner is not None and (
            type(inner).__hash__ is None or inner not in others
        ):  # a Router has no hash, and no setup()
            yield from applications(inner, others)


def answer_failures(app: Any) -> None:
    """Have our failures answered with 503 and 507 where an application has no exception handler for them."""
    handlers = getattr(app, "exception_handlers", None)
    if not isinstance(handlers, dict) or not hasattr(app, "add_exception_handler"):
        return
    for kind in middleware.FAILURES:
        if not any(base in handlers for base in kind.__mro__ if base not in (Exception, BaseException, object)):
            app.add_exception_handler(kind, _refuse)


async def _refuse(request: Any, error: Exception) -> Response:
    status, text, headers = middleware.refusal(error)
    return PlainTextResponse(text, status, headers)


adapter: Final = _Adapter()
register(adapter)
_asgi.kinds.append(_Requests())
_remember_raised()
