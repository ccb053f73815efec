"""Quart's adapter: its responses, tuples among them, the exceptions of Werkzeug, its request, which a context variable has.

A view function is given no request: the one of its context is put back, and with it the session, `g`, and what is to be done after
the request. Quart receives a body in a task of its own, beside the handler; what a run has taken of it is given back from what the
Exchange has kept.

Quart makes responses of all exceptions, in one method: there we say 503 and 507 for our failures, and note what was raised.
"""

from __future__ import annotations

import asyncio
import functools
import re
import weakref
from asyncio import (
    _get_running_loop as running_loop,
)  # returns None outside a loop, such as in a thread; documented for this use
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from quart import Quart
from quart.ctx import _BaseRequestWebsocketContext
from quart.globals import _cv_app, _cv_request
from quart.wrappers import Response
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as WerkzeugResponse

from recoverable import _asgi, middleware
from recoverable._native.exchange import KEY, remembering, whole_copy
from recoverable._native.runtime import current_transaction
from recoverable.transaction import after_commit
from recoverable.web import AnswerAdapter, register

if TYPE_CHECKING:
    from collections.abc import Callable

    from recoverable._asgi import Exchange, Scope

__all__ = ["adapter"]

_ROUTE: Final = "recoverable.route"  # where a scope has the path of Quart's route
_TASK: Final = "recoverable.task"  # the task that handles it, weakly: its context has what the scope belongs to
_PLACEHOLDER: Final = re.compile(r"<(?:[^<>]*:)?([^<>:]+)>")


class _Adapter(AnswerAdapter):
    responses = (Response, WerkzeugResponse, HTTPException, tuple)
    errors = (HTTPException,)

    def status_of(self, answer: Any) -> int | None:
        if isinstance(answer, tuple):
            return _status_of_tuple(answer)
        if isinstance(answer, HTTPException):
            if answer.code is None and answer.response is not None:
                return getattr(answer.response, "status_code", None)
            return answer.code
        return int(answer.status_code)


def _status_of_tuple(answer: tuple[Any, ...]) -> int | None:
    """Return the status that a view function has returned beside a body, or None: this is no such thing."""
    if len(answer) not in (2, 3) or _cv_request.get(None) is None:
        return None
    body, status = answer[0], answer[1]
    if status is None or isinstance(status, bool) or not isinstance(status, (int, str)):
        return adapter.status_of(body) if isinstance(body, (Response, WerkzeugResponse, HTTPException)) else None
    if body is None or isinstance(body, (bool, int, float, tuple)):  # no body that Quart takes
        return None
    try:
        status = int(status)
    except ValueError:
        return None
    return status if 100 <= status < 1000 else None


# -- a request, as it was before a run -----------------------------------------------------------------------------------


class _Requests:
    """The Kind of `recoverable._asgi` for Quart."""

    libraries = "quart", "werkzeug"
    parts_of = None

    def has(self, scope: Scope) -> bool:
        return _ROUTE in scope or _cv_app.get(None) is not None

    def routed_to(self, scope: Scope) -> Any:
        context: Any = _cv_request.get(None)
        rule = None if context is None else context.request.url_rule
        return None if rule is None else context.app.view_functions.get(rule.endpoint)

    def among(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        context: Any = _cv_request.get(None)
        if context is not None and _is_its_own(context):
            yield context.request

    def back(self, request: Any, exchange: Exchange, kept: int) -> _asgi.Back:
        return None  # what _remember() has returned does all of it

    def endpoint(self, app: Any, scope: Scope) -> Any:
        return None  # which only Quart knows, inside

    def route(self, scope: Scope) -> str | None:
        return scope.get(_ROUTE)


def _is_its_own(context: Any) -> bool:
    """Return whether the code that runs is the one that handles the request, and not one of several tasks that it has started."""
    task = context.request.scope.get(_TASK)
    return running_loop() is None or (task is not None and asyncio.current_task() is task())


def _taken(request: Any, exchange: Exchange) -> int:
    """Return how much of its body has been taken from where Quart has put it."""
    return exchange.size - len(request.body._data)


def _remember(exchange: Exchange) -> Callable[[], _asgi.Back] | None:
    """Keep what the request of the running context is like: its body, the session, `g`."""
    context: Any = _cv_request.get(None)
    app: Any = _cv_app.get(None)
    if context is None or context.request.scope.get(KEY) is not exchange.outermost or not _is_its_own(context):
        return None
    request, session = context.request, context.session
    taken = _taken(request, exchange)
    after, flashes = list(context._after_request_functions), context.flashes
    shared = {} if app is None else dict(vars(app.g))
    items = (whole_copy(session), dict(vars(session))) if isinstance(session, dict) else None

    def back() -> _asgi.Back:
        files = [] if request._files is None else [file for _, file in request._files.items(multi=True)]
        closed = any(file.stream.closed for file in files)
        data = None
        if (request._form is None or closed) and _taken(request, exchange) != taken:
            data = exchange.received(taken)
            if data is None:
                return _asgi.CLOSED if closed else _asgi.STREAMED
        return functools.partial(put_back, data, [] if closed else files)

    def put_back(data: bytes | None, files: list[Any]) -> None:
        request._cached_json = dict.fromkeys(request._cached_json, Ellipsis)
        for file in files:
            file.stream.seek(0)
        if data is not None:
            request._form = request._files = None
            request.body._data[:] = data
            request.body._has_data.set()
        context._after_request_functions[:], context.flashes = after, flashes
        if app is not None:
            vars(app.g).clear()
            vars(app.g).update(shared)
        if items is not None:
            dict.clear(session)
            dict.update(session, whole_copy(items[0]))
            vars(session).update(items[1])

    return back


# -- where Quart comes by -------------------------------------------------------------------------------------------------


def _come_in() -> None:
    """Have Quart answer our failures with 503 and 507, note what it makes responses of, and say by which route a request came."""
    handle, match = Quart.handle_user_exception, _BaseRequestWebsocketContext.match_request
    write, add = Quart.log_exception, Quart.add_background_task

    @functools.wraps(handle)
    async def handle_user_exception(self: Any, error: Exception) -> Any:
        context: Any = _cv_request.get(None)
        if context is not None:
            _asgi.note_raised(error, context.request.scope)
        if isinstance(error, middleware.FAILURES) and context is not None:
            own = self._find_error_handler(error, context.request.blueprints)
            if own is None or own is self._find_error_handler(Exception(), context.request.blueprints):
                status, text, headers = middleware.refusal(error)
                return self.response_class(text, status, headers, content_type="text/plain; charset=utf-8")
        response = await handle(self, error)
        if context is not None:
            _asgi.note_answer(response, context.request.scope)
        return response

    @functools.wraps(match)
    def match_request(self: Any) -> None:
        match(self)
        request = self.request_websocket
        rule, scope = getattr(request, "url_rule", None), request.scope
        if KEY in scope:
            task = asyncio.current_task()
            scope[_TASK] = None if task is None else weakref.ref(task)
        if rule is not None and KEY in scope:
            scope[_ROUTE] = _PLACEHOLDER.sub(r"{\1}", rule.rule)
            scope["path_params"] = dict(request.view_args or {})

    @functools.wraps(write)
    def log_exception(self: Any, exception_info: Any) -> None:
        middleware.report_once(self.logger)
        write(self, exception_info)

    @functools.wraps(add)
    def add_background_task(self: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        if current_transaction() is None:
            add(self, func, *args, **kwargs)
        else:  # it begins at once, which is not to be before the commit
            after_commit(functools.partial(add, self, func, *args, **kwargs))

    Quart.handle_user_exception = handle_user_exception  # type: ignore[method-assign]
    Quart.log_exception = log_exception  # type: ignore[method-assign]
    Quart.add_background_task = add_background_task  # type: ignore[method-assign]
    _BaseRequestWebsocketContext.match_request = match_request  # type: ignore[method-assign]


# -- for recoverable.asgi.setup ----------------------------------------------------------------------------------------------


class _Host:
    """The Host of `recoverable._asgi` for Quart."""

    def has(self, app: Any) -> bool:
        return isinstance(app, Quart)

    def around(self, app: Any) -> Any:
        return app.asgi_app

    def put_around(self, app: Any, served: Any, lifespan: Any) -> None:
        app.asgi_app = served  # which has the lifespan as well


adapter: Final = _Adapter()
register(adapter)
_asgi.kinds.append(_Requests())
_asgi.hosts.append(_Host())
remembering.append(_remember)
_come_in()
