"""Web frameworks: what this library asks of one, and the list of those in use.

A framework is one object, a `WebAdapter`, that `register` puts into the list; `recoverable.frameworks` names the module that
does so. Everything else asks here, and knows no framework: whether a result is a response and which status it has, whose
request a run answers, and whether that can be made as it was before. Where no framework is in use there are no responses.

What stands between any of them and a handler is in `recoverable.middleware`.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Protocol

from recoverable import errors
from recoverable._native.runtime import Requests, know_responses, know_tuples, running_request, watch_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from recoverable._native.runtime import Before
    from recoverable.arena import Arena

__all__ = [
    "AnswerAdapter",
    "WebAdapter",
    "adapters",
    "arena_of",
    "comes_too_late",
    "commits",
    "is_answer",
    "lose_tasks",
    "register",
    "request_id",
    "status_of",
    "why_no_rerun",
]


class AnswerAdapter(Protocol):
    """What this library asks of whatever has responses of its own.

    Attributes:
        responses: The classes of responses; `tuple` may be one.
        errors: The classes of exceptions that are responses.
        requests: How requests are found and kept; natively, since each request comes by there. None: they are another adapter's.
        plain: The classes that most responses are of, and the name of the attribute of them that has the status: where the default
            commit rule looks natively.
        loggers: The names of the loggers to which the framework writes what handlers raise.
    """

    responses: tuple[type, ...] = ()
    errors: tuple[type[BaseException], ...] = ()
    requests: Requests | None = None
    plain: tuple[tuple[type, ...], str] = ((), "")
    loggers: tuple[str, ...] = ()

    def status_of(self, answer: Any) -> int | None:
        """Return the status of what is of one of these classes, or None: it says nothing of how a run has ended."""

    def lose_tasks(self, answer: Any) -> None:
        """Its run was rolled back: what is to be done when it has been sent is not done."""
        return

    def arena(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arena | None:
        """Return the arena of the application that a request among these arguments belongs to, or None."""
        return None

    def outside(self, error: BaseException) -> BaseException:
        """Return what to raise in its place for one of our failures that is met where nothing of ours stands in between.

        Such as a middleware of the program: what it lets through, only the framework makes a response of.
        """
        return error


class WebAdapter(AnswerAdapter, Protocol):
    """What this library asks of a web framework, or of what several are made for."""

    # -- a request -----------------------------------------------------------------------------------------------

    def route(self, request: Any) -> str | None:
        """Return the method and the route by which it came, such as "GET /users/{id}", or None."""

    def arguments(self, request: Any) -> Hashable:
        """Return what the placeholders of its route stand for."""
        return None

    def request_id(self, request: Any) -> str | None:
        """Return the id that the client or a proxy gave it, or None."""

    def restore(self, before: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """Make a request as it was before a run with these arguments, or return a sentence that says why it can't be done."""

    def can_restore(self, before: Any) -> bool:
        """Return whether restore() would do so now, without a doubt; change nothing."""

    def answered(self, before: Any) -> bool:
        """Return whether an answer has begun to be sent since."""

    # -- a request that crashed (recoverable.capsules) -----------------------------------------------------------------

    def keep_body(self, request: Any, limit: int) -> Any:
        """Have a request's body remembered from now on, up to so many bytes: what kept_of() takes."""
        return None

    def kept_of(self, before: Any, kept: Any, limit: int, is_plain: Callable[[object], bool]) -> dict[str, Any] | None:
        """Return the facts of a request as `recoverable.capsules` keeps them, or None: it can't be told.

        Among them `interface`, by which `recoverable.frameworks` knows what answers it again.
        """
        return None

    def routed_to(self, request: Any, fn: Any) -> Any:
        """Return the function that a request's route leads to, if a run of `fn` is one of that, else None."""
        return None

    # -- what stands between it and a handler (recoverable.middleware) ---------------------------------------------

    def same(self, one: object, other: object) -> bool:
        """Return whether they are one request, in whatever form."""

    def function(self, request: Any) -> Any:
        """Return the handler that a request was routed to, or where that is done below us, the application."""

    def will_run(self, request: Any) -> Any:
        """Return the handler that a request will be routed to; asked only while faults may strike."""
        return self.function(request)

    def drop_answer(self, request: Any) -> bool:
        """Drop an answer that was prepared; return False if some of it has left, or may have."""

    def outermost(self, request: Any) -> Any:
        """Return the application that a request came to first, of those that are parts of each other, or None."""
        return None

    def hang_up(self, request: Any) -> None:
        """Close the request's connection: the client has half an answer."""

    def refusal(self, status: int, text: str, headers: dict[str, str]) -> BaseException:
        """Return the exception that answers with 503 or 507."""

    def refuse(self, error: BaseException, status: int, text: str, headers: dict[str, str]) -> BaseException:
        """Return the exception that answers with 503 or 507, and is what `error` is as well where classes allow it."""
        return self.refusal(status, text, headers)


#: The frameworks in use, in the order in which they were registered.
adapters: list[AnswerAdapter] = []

# What is asked of each result and each error: is it of a class of any of them?
_errors: tuple[type[BaseException], ...] = ()
_responses: tuple[type, ...] = ()


def register(adapter: AnswerAdapter) -> None:
    """Put a framework into the list, if it is not in it."""
    global _errors, _responses
    if adapter in adapters:  # a list of requests that leads to itself would be searched for ever
        return
    adapters.append(adapter)
    _errors = (*_errors, *adapter.errors)
    _responses = (*_responses, *adapter.responses)
    errors.answers = _outside
    if adapter.requests is not None:
        adapter.requests.adapter = adapter  # type: ignore[assignment]  # one with requests is a WebAdapter
        watch_requests(adapter.requests)
    know_responses(*adapter.plain)
    if tuple in adapter.responses:
        know_tuples()


def _outside(error: BaseException) -> BaseException:
    for adapter in adapters:
        error = adapter.outside(error)
    return error


# -- what has ended a run -----------------------------------------------------------------------------------------------


def status_of(answer: Any) -> int | None:
    """Return the status of a response, or of an exception that is one; None: it is neither."""
    if not isinstance(answer, _responses) and not isinstance(answer, _errors):
        return None
    for adapter in adapters:
        if isinstance(answer, (adapter.responses, adapter.errors)):
            status = adapter.status_of(answer)
            if status is not None:
                return status
    return None


def lose_tasks(answer: Any) -> None:
    """What was to be done when a response was sent is not done, since its run was rolled back."""
    if isinstance(answer, _responses):
        for adapter in adapters:
            if isinstance(answer, adapter.responses):
                adapter.lose_tasks(answer)


def commits(result: Any, error: BaseException | None) -> bool:
    """Return whether a run that ended so commits: the default rule."""
    if error is not None:
        status = status_of(error)
        return status is not None and status < 400
    status = status_of(result)
    return status is None or status < 500


def is_answer(error: BaseException) -> bool:
    """Return whether what was raised is a response below 500: an answer, not a crash."""
    status = status_of(error)
    return status is not None and status < 500


# -- a request that is to be run again ------------------------------------------------------------------------------------


def why_no_rerun(before: Before | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Make the request as it was before a run, or return a sentence that says why it can't be done.

    Args:
        before: What it was like, or None: there is no request.
        args: The run's positional arguments.
        kwargs: Its keyword arguments.
    """
    return None if before is None else before.adapter.restore(before, args, kwargs)


def may_rerun(before: Before | None) -> bool:
    """Return whether a run that ended now could begin again, without a doubt."""
    return before is None or before.adapter.can_restore(before)


def comes_too_late(value: Any, before: Before | None) -> bool:
    """Return whether it is a response that can't be sent, because a run has begun to send another one."""
    return before is not None and isinstance(value, _responses) and before.adapter.answered(before)


# -- what a request tells -----------------------------------------------------------------------------------------


def arena_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arena | None:
    """Return the arena of the application that the running code, or a request among these arguments, belongs to, or None."""
    here = running_request.get()
    if here is not None and here.request is not None:
        return here.arena  # type: ignore[no-any-return]
    found = (adapter.arena(args, kwargs) for adapter in adapters)
    arena = next((arena for arena in found if arena is not None), None)
    return here.arena if arena is None and here is not None else arena  # of a task that its handler has left behind


def request_id(before: Before | None) -> str:
    """Return the request's id, or a new one. Asked only when an event is written."""
    if before is not None and (given := before.adapter.request_id(before.request)):
        return given
    return uuid.uuid4().hex
