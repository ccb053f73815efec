"""What ends a request: commit or roll back, and then return, raise, run again or fall back.

The rules, in the order in which they are asked (docs/guarantees.md has them for users):

1. The handler returned: commit, unless it is a web response of 500 or above, or `commit_if(result)` says no. The result
   is returned either way.
2. It raised an *answer*, a web exception below 500: below 400 (a redirect) commits; either way it is raised on, and
   neither retried nor replaced by the fallback.
3. It met a conflict: run again, up to `max_conflicts` times.
4. It raised something in `retry_on`: run again, up to `retries` times. Cancellation and the like (`BaseException`s that
   are no `Exception`s) are never retried and have no fallback.
5. Otherwise the fallback's value is returned, where there is one, and else the exception raised.

What a web response or exception is, a web framework's adapter says (`recoverable.aiohttp`); without one there are none.
"""

from __future__ import annotations

import importlib
import math
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from recoverable.errors import ArenaOptionError

if TYPE_CHECKING:
    from recoverable._native.runtime import RequestBefore
    from recoverable.arena import Arena

__all__ = [
    "DEFAULT",
    "Options",
    "WebAdapter",
    "after_crash",
    "arena_of",
    "comes_too_late",
    "commits",
    "discover",
    "is_answer",
    "options",
    "request_id",
    "route_of",
    "use",
    "why_no_rerun",
]

Decide = Callable[[Any, BaseException | None], object]


class WebAdapter(Protocol):
    """What this library asks of a web framework."""

    @property
    def response(self) -> type:
        """The class of responses; they have a `status`."""

    @property
    def error(self) -> type[BaseException]:
        """The class of exceptions that are responses; they have a `status`."""

    def arena(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arena | None:
        """Return the arena of the application that the running code, or a request among these arguments, belongs to."""

    def route(self, request: Any) -> str | None:
        """Return the method and the route by which it came, such as "GET /users/{id}", or None."""

    def request_id(self, request: Any) -> str | None:
        """Return the id that the client or a proxy gave it, or None."""

    def restore(self, before: RequestBefore, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """Make a request as it was before a run with these arguments, or return a sentence that says why it can't be done."""

    def answered(self, before: RequestBefore) -> bool:
        """Return whether an answer has begun to be sent since."""


_web: WebAdapter | None = None

#: For recoverable.faults: what stands between the middleware and a handler, (request, its name, the function, what to await)
#: to what to await instead. None: nothing does.
watch_handler: Callable[[Any, str, Any, Callable[[Any], Any]], Callable[[Any], Any]] | None = None


def use(adapter: WebAdapter) -> None:
    """Set the adapter; `recoverable.aiohttp` does when it is imported."""
    global _web
    _web = adapter


def discover() -> None:
    """Load the adapter of a web framework that the program has imported, and only then."""
    if _web is None and "aiohttp.web" in sys.modules:
        importlib.import_module("recoverable.aiohttp")


# -- commit or roll back ----------------------------------------------------------------------------------------


def commits(result: Any, error: BaseException | None) -> bool:
    """Tell whether a run that ended so commits: the default rule."""
    web = _web
    if error is not None:
        return web is not None and isinstance(error, web.error) and error.status < 400  # type: ignore[attr-defined]
    return web is None or not isinstance(result, web.response) or result.status < 500  # type: ignore[attr-defined]


def is_answer(error: BaseException) -> bool:
    """Tell whether what was raised is a response below 500: an answer, not a crash."""
    return _web is not None and isinstance(error, _web.error) and error.status < 500  # type: ignore[attr-defined]


# -- the options ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `@recoverable` and `arena.run`, checked.

    Attributes:
        decide: The commit rule that they make.
        independent: Inside a transaction of the same arena it is one of its own, not a part of that.
        within: With a time limit: the options of what runs inside it. The fallback is not among them: it is what
            answers when the time is over.
    """

    retries: int
    retry_on: tuple[type[BaseException], ...]
    timeout: float | None
    fallback: Callable[..., Any] | None
    max_conflicts: int
    decide: Decide
    independent: bool
    within: Options | None = None


def _count(value: object, option: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ArenaOptionError(f"{option}={value!r} must be a whole number, 0 or more. Nothing was run.")


def _by(commit_if: Callable[[Any], object]) -> Decide:
    def decide(result: Any, error: BaseException | None) -> object:
        return commit_if(result) if error is None else commits(None, error)

    return decide


def options(
    *,
    retries: int = 0,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = (Exception,),
    timeout: float | None = None,
    fallback: Callable[..., Any] | None = None,
    commit_if: Callable[[Any], object] | None = None,
    max_conflicts: int = 5,
    nested: str = "join",
) -> Options:
    """Check the options and put them together.

    Raises:
        ArenaOptionError: One of them can't be. Also a `ValueError`.
    """
    kinds: Any = (retry_on,) if isinstance(retry_on, type) else retry_on
    if not (
        isinstance(kinds, tuple) and all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds)
    ):
        raise ArenaOptionError(f"retry_on={retry_on!r} must be exception classes. Nothing was run.")
    limit: Any = timeout
    if limit is not None and not (isinstance(limit, (int, float)) and math.isfinite(limit) and limit > 0):
        raise ArenaOptionError(f"timeout={timeout!r} must be seconds above 0, or None. Nothing was run.")
    for name, value in (("fallback", fallback), ("commit_if", commit_if)):
        if value is not None and not callable(value):
            raise ArenaOptionError(f"{name}={value!r} must be a function. Nothing was run.")
    if nested not in ("join", "independent"):
        raise ArenaOptionError(f"nested={nested!r} must be 'join' or 'independent'. Nothing was run.")
    chosen = Options(
        retries=_count(retries, "retries"),
        retry_on=kinds,
        timeout=None,
        fallback=fallback,
        max_conflicts=_count(max_conflicts, "max_conflicts"),
        decide=commits if commit_if is None else _by(commit_if),
        independent=nested == "independent",
    )
    if timeout is None:
        return chosen
    return replace(chosen, timeout=float(timeout), within=replace(chosen, fallback=None))


DEFAULT: Final = options()
NAMES: Final = frozenset(options.__kwdefaults__ or ())


# -- run again, fall back or raise --------------------------------------------------------------------------------


def after_crash(error: BaseException, chosen: Options, crashes: int) -> Literal["retry", "fallback", "raise"]:
    """Tell what follows a run that raised, and was no conflict.

    Args:
        error: What it raised.
        chosen: The options.
        crashes: How many runs have crashed, this one included.
    """
    if not isinstance(error, Exception) or is_answer(error):
        return "raise"
    if crashes <= chosen.retries and isinstance(error, chosen.retry_on):
        return "retry"
    return "raise" if chosen.fallback is None else "fallback"


def why_no_rerun(before: RequestBefore | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Make the request as it was before a run, or return a sentence that says why it can't be done.

    Args:
        before: What it was like, or None: there is no request.
        args: The run's positional arguments.
        kwargs: Its keyword arguments.
    """
    return None if _web is None or before is None else _web.restore(before, args, kwargs)


def comes_too_late(value: Any, before: RequestBefore | None) -> bool:
    """Return whether it is a response that can't be sent, because a run has begun to send another one."""
    return _web is not None and before is not None and isinstance(value, _web.response) and _web.answered(before)


# -- what a request tells -----------------------------------------------------------------------------------------


def arena_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arena | None:
    """Return the arena of the application that a call with these arguments belongs to, or None."""
    return None if _web is None else _web.arena(args, kwargs)


def route_of(before: RequestBefore | None) -> str | None:
    """Return the method and the route of a request, or None. Asked only where pages trap."""
    return None if _web is None or before is None else _web.route(before.request)


def request_id(before: RequestBefore | None) -> str:
    """Return the request's id, or a new one. Asked only when an event is written."""
    if _web is not None and before is not None and (given := _web.request_id(before.request)):
        return given
    return uuid.uuid4().hex
