"""Litestar's adapter: its responses and exceptions, its Requests, its routes.

What was read of a body is kept in two places, a Request and the state of its scope, and is there for the next run; but not JSON and
the like, which the run may have changed.

Litestar makes responses of all exceptions, in one method: there we say 503 and 507 for our failures, and note what was raised.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import AsyncIterator, Iterator
from types import MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import litestar.middleware._internal.exceptions.middleware as handling
from litestar import Litestar, Request
from litestar.connection import ASGIConnection
from litestar.datastructures import UploadFile
from litestar.exceptions import HTTPException
from litestar.response import Response
from litestar.response.base import ASGIResponse
from litestar.types import Empty

from recoverable import _asgi, events, middleware
from recoverable._native.runtime import running_request
from recoverable.web import AnswerAdapter, register

if TYPE_CHECKING:
    from recoverable._asgi import Exchange, Scope

__all__ = ["adapter"]

_STATE: Final = "_ls_connection_state"  # where the state of a scope has what was read


class _Adapter(AnswerAdapter):
    responses = (Response, ASGIResponse)
    errors = (HTTPException,)

    def status_of(self, answer: Any) -> int | None:
        status: int | None = answer.status_code
        if status is None and (here := running_request.get()) is not None and isinstance(here.request, _asgi.Exchange):
            status = getattr(here.request.scope.get("route_handler"), "status_code", None)  # the one of the route
        return status

    def lose_tasks(self, answer: Any) -> None:
        answer.background = None


# -- a Request, as it was before a run -----------------------------------------------------------------------------------


class _Files:
    """Files of a form that a handler was given without the request."""

    def __init__(self, scope: Scope, files: list[UploadFile]) -> None:
        self.scope, self.files = scope, files


class _Requests:
    """The Kind of `recoverable._asgi` for Litestar."""

    libraries = ("litestar",)
    parts_of = None

    def has(self, scope: Scope) -> bool:
        return isinstance(scope.get("app"), Litestar)

    def routed_to(self, scope: Scope) -> Any:
        return self.endpoint(None, scope)

    def among(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        values = (*args, *kwargs.values())
        files = [each for value in values for each in _files_in(value)]
        here = running_request.get()
        if files and here is not None and isinstance(here.request, _asgi.Exchange):
            yield _Files(here.request.scope, files)
        yield from (value for value in values if isinstance(value, Request))

    def back(self, request: Any, exchange: Exchange, kept: int) -> _asgi.Back:
        if isinstance(request, _Files):
            return _asgi.CLOSED if _closed(request.files) else functools.partial(_rewind, request.files)
        state = request._connection_state
        form = state.form if isinstance(state.form, dict) else {}
        files = [each for value in form.values() for each in _files_in(value)]
        closed = _closed(files)
        gone = exchange.read != kept or not request.is_connected  # a middleware in between may have read it before
        parses = closed or (state.form is Empty and state.body is Empty and gone)
        reads = parses and state.body is Empty  # it went by in a stream
        if reads:
            receive = request.receive
            if not (type(receive) is MethodType and receive.__self__ is exchange and exchange.can_rewind(kept)):
                return _asgi.CLOSED if closed else _asgi.STREAMED

        def back() -> None:
            request._json = request._msgpack = state.json = state.msgpack = Empty
            if parses:
                request._form = state.form = Empty
            else:
                _rewind(files)
            if reads:
                exchange.rewind(kept)
                request.is_connected = True

        return back

    def endpoint(self, app: Any, scope: Scope) -> Any:
        handler = scope.get("route_handler")  # once it was routed
        return None if handler is None else handler.fn

    def route(self, scope: Scope) -> str | None:
        path = scope.get("path_template")
        return path if isinstance(path, str) else None


def _files_in(value: Any) -> Iterator[UploadFile]:
    """Give the files of what a form was made: of one, a list, a dict or an object of them."""
    if isinstance(value, UploadFile):
        yield value
    elif not isinstance(value, (str, bytes, int, float, ASGIConnection)) and value is not None:
        held = value if isinstance(value, dict) else getattr(value, "__dict__", None)
        parts = value if isinstance(value, (list, tuple)) else held.values() if isinstance(held, dict) else ()
        yield from (each for each in parts if isinstance(each, UploadFile))


def _closed(files: list[UploadFile]) -> bool:
    return any(file.file.closed for file in files)


def _rewind(files: list[UploadFile]) -> None:
    for file in files:
        file.file.seek(0)


# -- where exceptions become responses --------------------------------------------------------------------------------------


def _handle_exceptions() -> None:
    """Have Litestar answer our failures with 503 and 507, note what it makes responses of, and write no traceback twice."""
    handler: Any = handling.ExceptionHandlerMiddleware
    handle, write = handler.handle_request_exception, handler.handle_exception_logging

    @functools.wraps(handle)
    async def handle_request_exception(
        self: Any, litestar_app: Any, scope: Any, receive: Any, send: Any, exc: Exception
    ) -> None:
        _asgi.note_raised(exc, scope)
        if not isinstance(exc, middleware.FAILURES) or _is_handled(scope, exc):
            await handle(self, litestar_app=litestar_app, scope=scope, receive=receive, send=send, exc=exc)
            return
        for message in _asgi.Refused(*middleware.refusal(exc)).messages():
            await send(message)

    @functools.wraps(write)
    def handle_exception_logging(self: Any, logger: Any, logging_config: Any, scope: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None and isinstance(error, middleware.FAILURES):
            return  # an answer, of which our own event tells
        if error is not None and (where := events.traceback_reported(error)) is not None:
            line = f"Uncaught exception (path={scope['path']}): {type(error).__qualname__}; see {where}"
            handler = logging_config.exception_logging_handler
            logging_config = SimpleNamespace(  # Litestar says whether anything is written
                log_exceptions=logging_config.log_exceptions,
                disable_stack_trace=logging_config.disable_stack_trace,
                exception_logging_handler=handler and (lambda logger, scope, trace: logger.error(line)),
            )
        write(self, logger=logger, logging_config=logging_config, scope=scope)

    handler.handle_request_exception = handle_request_exception
    handler.handle_exception_logging = handle_exception_logging


def _is_handled(scope: Scope, error: Exception) -> bool:
    """Return whether the program has an exception handler for one of our failures, or for what it is, but for any Exception."""
    handlers = getattr(scope.get("state", {}).get(_STATE), "exception_handlers", None)
    if not isinstance(handlers, dict):
        return False
    return any(base in handlers for base in type(error).__mro__ if base not in (Exception, BaseException, object))


# -- for recoverable.asgi.setup ----------------------------------------------------------------------------------------------


class _Host:
    """The Host of `recoverable._asgi` for Litestar."""

    def has(self, app: Any) -> bool:
        return isinstance(app, Litestar)

    def around(self, app: Any) -> Any:
        return app.asgi_handler

    def put_around(self, app: Any, served: Any, lifespan: Any) -> None:
        @contextlib.asynccontextmanager
        async def waiting(app: Any) -> AsyncIterator[None]:
            yield
            await lifespan.ending()

        async def begin() -> None:
            lifespan.begin()

        async def end() -> None:
            await lifespan.end()

        app.asgi_handler = served
        app.on_startup.append(begin)
        app.on_shutdown.append(end)
        app._lifespan_managers.append(waiting)  # the last to be entered is the first to end


adapter: Final = _Adapter()
register(adapter)
_asgi.kinds.append(_Requests())
_asgi.hosts.append(_Host())
_handle_exceptions()
