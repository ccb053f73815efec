"""What a middleware does for the library, whichever web framework it stands in.

It says whose request the running code answers, has the request run as one transaction where all of them do, and makes
responses of our failures:

| what | response |
|---|---|
| `ArenaFullError` | 507 Insufficient Storage |
| `ConflictError` after the last run, `ArenaBusyError` | 503 Service Unavailable, with `Retry-After` |

It is the outermost one, so that a handler's transaction has ended before it sees the response, and a failure of ours
becomes a response here, whatever other middlewares make of exceptions. Everything else passes as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from recoverable import _registry, callbacks, events, outcome, runner
from recoverable._native.runtime import ArenaBase, Running, current_transaction, running_request
from recoverable.errors import ArenaBusyError, ArenaFullError, ArenaOptionError, ConflictError
from recoverable.web import WebAdapter

__all__ = ["of", "refusal"]

Handler: TypeAlias = Callable[[Any], Awaitable[Any]]

_RETRY_AFTER: Final = "1"  # seconds

#: For recoverable.faults: what stands between the middleware and a handler, (request, its name, the function, what to await)
#: to what to await instead. None: nothing does.
watch_handler: Callable[[Any, str, Any, Handler], Handler] | None = None


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
    if not isinstance(arena, ArenaBase):
        raise TypeError(f"arena={arena!r} is no Arena: give what Arena.open() returned")
    _registry.bind(arena)  # type: ignore[arg-type]  # the class is above this file, and what it inherits will do
    for logger in adapter.loggers:
        logging.getLogger(logger).addFilter(_reported_once)  # which adds it once
    every, native, requests = protect == "all", arena.native, adapter.requests

    async def recoverable_middleware(request: Any, handler: Handler) -> Any:
        outer = running_request.get()
        token = running_request.set(here := Running(request, arena, every, requests))
        # of an application around this one, which answers for the library's failures and has these faults already
        inside = outer is not None and adapter.same(outer.request, request)
        try:
            if watch_handler is not None and not inside:
                function = adapter.function(request)
                handler = watch_handler(request, callbacks.name_of(function), function, handler)
            if not every or (inside and current_transaction(native) is not None):
                return await handler(request)
            name = callbacks.name_of(adapter.function(request))
            return await runner.transactional(_call, name, outcome.DEFAULT, native, joins=False)(handler, request)
        except (ArenaFullError, ConflictError, ArenaBusyError) as error:
            if inside:
                raise
            if not adapter.drop_answer(request):
                adapter.hang_up(request)
                raise
            raise adapter.refusal(*refusal(error)) from error
        finally:
            here.request = None  # tasks that it has started may live on
            if outer is not None:
                running_request.reset(token)

    return recoverable_middleware


async def _call(handler: Handler, request: Any) -> Any:
    return await handler(request)  # what a handler gives may be awaitable, but no coroutine


def refusal(error: BaseException) -> tuple[int, str, dict[str, str]]:
    """Return the status, the text and the headers of the response to one of our failures."""
    if isinstance(error, ArenaFullError):
        return 507, "507: no room for this change; nothing was changed\n", {}
    why = f" ({error.reason})" if isinstance(error, ConflictError) and error.reason else ""
    return 503, f"503: too busy; nothing was changed, try again{why}\n", {"Retry-After": _RETRY_AFTER}


class _ReportedOnce(logging.Filter):
    """Keeps a framework's record of a crash whose traceback is in an event of ours, and has it point there."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and (request_id := events.traceback_reported(error)) is not None:
            record.msg = (
                f"{record.getMessage()}: {type(error).__qualname__}; see request.rolled_back, request_id={request_id}"
            )
            record.args = record.exc_info = None
        return True


_reported_once = _ReportedOnce()
