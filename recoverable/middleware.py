"""What stands between a web framework and a program's handlers, whichever framework it is.

It says whose request the running code answers, has the request run as one transaction where all of them do, and makes
responses of our failures:

| what | response |
|---|---|
| `ArenaFullError` | 507 Insufficient Storage |
| `InDoubtError` | 503 Service Unavailable: it was committed |
| `ConflictError` after the last run, `ArenaBusyError`, `FeedFullError` | 503 Service Unavailable, with `Retry-After` |

Everything else passes as it is. There are two places to stand. A middleware (`of`) is the outermost one: a transaction may
be all of a request, and a failure becomes a response whatever other middlewares make of exceptions. In the place of a
route's handler, behind the program's middlewares, is native code (`_native/route.pxi`), for frameworks that let us in there:
each request comes by. What becomes of a failure is said here for both (`leaving`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from recoverable import _registry, callbacks, events, outcome, runner
from recoverable._native.exchange import watch_exchanges
from recoverable._native.runtime import (
    ArenaBase,
    Running,
    current_transaction,
    running_request,
    set_boundary,
    watch_routes,
)
from recoverable._native.runtime import Handler as NativeHandler
from recoverable.errors import (
    ArenaBusyError,
    ArenaFullError,
    ArenaOptionError,
    ConflictError,
    FeedFullError,
    InDoubtError,
)
from recoverable.web import WebAdapter

__all__ = ["FAILURES", "adopt", "call_handler", "leaving", "of", "refusal", "report_once", "watch"]

Handler: TypeAlias = Callable[[Any], Awaitable[Any]]

_RETRY_AFTER: Final = "1"  # seconds

FAILURES: Final = (ArenaFullError, ConflictError, ArenaBusyError, FeedFullError, InDoubtError)

#: What is to be called in the place of a handler, (request, its function, the handler) to that; None: the handler.
watch_handler: Callable[[Any, Any, Handler], Handler] | None = None


def watch(hook: Callable[[Any, Any, Handler], Handler] | None) -> None:
    """Have something stand between a request and its handler, wherever we are. For recoverable.faults."""
    global watch_handler
    watch_handler = hook
    watch_routes(hook)
    watch_exchanges(hook is not None)


def adopt(adapter: WebAdapter, arena: Any) -> None:
    """Get ready for the requests of an application on an arena.

    Raises:
        TypeError: It is no arena.
    """
    if not isinstance(arena, ArenaBase):
        raise TypeError(f"arena={arena!r} is no Arena: give what Arena.open() returned")
    _registry.bind(arena)  # type: ignore[arg-type]  # the class is above this file, and what it inherits will do
    for logger in adapter.loggers:
        report_once(logging.getLogger(logger))


def report_once(logger: logging.Logger) -> None:
    """Have no traceback written by a logger that is in an event of ours; as often as it is called."""
    logger.addFilter(_reported_once)  # which adds it once


def of(adapter: WebAdapter, arena: Any, protect: str) -> Callable[[Any, Handler], Awaitable[Any]]:
    """Make a framework's middleware: `await middleware(request, handler)`.

    Args:
        adapter: The framework.
        arena: An open `Arena`.
        protect: "decorated" or "all": what runs as transactions.

    Raises:
        ArenaOptionError: `protect` is neither.
    """
    if protect not in {"decorated", "all"}:
        raise ArenaOptionError(f"protect={protect!r} must be 'decorated' or 'all'. Nothing was changed.")
    adopt(adapter, arena)
    every, requests = protect == "all", adapter.requests
    assert requests is not None
    wholes: dict[str, NativeHandler[Any]] = {}

    def whole_of(name: str) -> NativeHandler[Any]:
        found, native = wholes.get(name), arena.native  # another one stands for it while a capsule is replayed
        if found is None or found.arena is not native:
            found = wholes[name] = runner.transactional(call_handler, name, outcome.DEFAULT, native, joins=False)
        return found

    async def recoverable_middleware(request: Any, handler: Handler) -> Any:
        outer = running_request.get()
        # of an application around this one, which answers for the library's failures and has these faults already
        inside = outer is not None and adapter.same(outer.request, request)
        whole = every or (inside and outer is not None and outer.whole)
        running_request.set(here := Running(request, arena, whole, requests))
        try:
            function = None
            if watch_handler is not None and not inside:
                function = adapter.will_run(request)
                handler = watch_handler(request, function, handler)
            if not every or (inside and current_transaction(arena.native) is not None):
                return await handler(request)
            return await whole_of(callbacks.name_of(function or adapter.function(request)))(handler, request)
        except FAILURES as error:
            if inside:
                raise
            raise leaving(adapter, request, error)  # noqa: B904 -- which has its cause
        finally:
            here.request = None  # tasks that it has started may live on
            if outer is not None and running_request.get() is here:  # else it is closed elsewhere
                running_request.set(outer)

    return recoverable_middleware


async def call_handler(handler: Handler, request: Any) -> Any:
    """Do all of a request's handling, where that is one transaction."""
    return await handler(request)  # what a handler gives may be awaitable, but no coroutine


def leaving(adapter: WebAdapter, request: Any, error: BaseException) -> BaseException:
    """Return what is raised in the place of a failure of ours that ends a request.

    It is a response of the framework's, and what it was as well; or the failure as it is, where a response has begun to be
    sent. Then the connection is closed, since the client has half of it.
    """
    if isinstance(error, adapter.errors):  # it is a response already
        return error
    if not adapter.drop_answer(request):
        adapter.hang_up(request)
        return error
    answer = adapter.refuse(error, *refusal(error))
    answer.__cause__ = error
    return answer


set_boundary(failures=FAILURES, leaving=leaving)


def refusal(error: BaseException) -> tuple[int, str, dict[str, str]]:
    """Return the status, the text and the headers of the response to one of our failures."""
    if isinstance(error, ArenaFullError):
        return 507, "507: no room for this change; nothing was changed\n", {}
    if isinstance(error, InDoubtError):  # without Retry-After: it was done
        return 503, "503: done, but not known to be on the disk yet; look for its effect before you send it again\n", {}
    why = f" ({error.reason})" if isinstance(error, ConflictError) and error.reason else ""
    return 503, f"503: too busy; nothing was changed, try again{why}\n", {"Retry-After": _RETRY_AFTER}


class _ReportedOnce(logging.Filter):
    """Keeps a framework's record of a crash whose traceback is in an event of ours, and has it point there."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        if (where := events.traceback_reported(error)) is not None:
            record.msg = f"{record.getMessage()}: {type(error).__qualname__}; see {where}"
            record.args = record.exc_info = None
        else:
            record.exc_info = events.exc_info(error)
        return True


_reported_once = _ReportedOnce()
