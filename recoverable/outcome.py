"""What ends a request: commit or roll back, and then return, raise, run again or fall back.

The rules, in the order in which they are asked (docs/guarantees.md has them for users):

1. The handler returned: commit, unless it is a web response of 500 or above, or `commit_if(result)` says no. The result
   is returned either way.
2. It raised an *answer*, a web exception below 500: below 400 (a redirect) commits; either way it is raised on, and
   neither retried nor replaced by the fallback.
3. It met a conflict: run again, up to `max_conflicts` times. It was held up by others with the lock: run again.
4. It raised something in `retry_on`: run again, up to `retries` times; a step that took too long only where that is
   named. Cancellation and the like (`BaseException`s that
   are no `Exception`s) are never retried and have no fallback.
5. Otherwise the fallback's value is returned, where there is one, and else the exception raised.

What a web response or exception is, a web framework's adapter says (`recoverable.web`); without one there are none. The
first rule is asked by the native driver, in the call that ends the coroutine; the others, of a run that raised, are
`next_action`, which knows nothing but what it is given: `recoverable.runner` finds out, and acts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from recoverable import web
from recoverable.errors import ArenaOptionError, StepTooLongError

__all__ = ["DEFAULT", "NAMES", "Action", "Durability", "Facts", "Options", "next_action", "options", "parse_durability"]

#: "memory" and "journal": that it was committed; "disk": that what it says survives the machine.
Durability: TypeAlias = Literal["memory", "journal", "disk"]

Decide = Callable[[Any, BaseException | None], object]

# -- the options ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `@recoverable` and `arena.run`, checked.

    Attributes:
        decide: The commit rule that they make.
        independent: Inside a transaction of the same arena it is one of its own, not a part of that.
        durable: What is known of what it did when it answers; None: as its arena has it.
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
    durable: Durability | None = None
    within: Options | None = None


def _count(value: object, option: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ArenaOptionError(f"{option}={value!r} must be a whole number, 0 or more. Nothing was run.")


def _by(commit_if: Callable[[Any], object]) -> Decide:
    def decide(result: Any, error: BaseException | None) -> object:
        return commit_if(result) if error is None else web.commits(None, error)

    return decide


def parse_durability(value: object) -> Durability:
    """Check a level of durability.

    Raises:
        ArenaOptionError: There is no such level.
    """
    if value not in ("memory", "journal", "disk"):
        raise ArenaOptionError(f"durable={value!r} must be 'memory', 'journal' or 'disk'. Nothing was changed.")
    return value


def options(
    *,
    retries: int = 0,
    retry_on: type[BaseException] | tuple[type[BaseException], ...] = (Exception,),
    timeout: float | None = None,
    fallback: Callable[..., Any] | None = None,
    commit_if: Callable[[Any], object] | None = None,
    max_conflicts: int = 5,
    nested: str = "join",
    durable: str | None = None,
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
    level = None if durable is None else parse_durability(durable)
    chosen = Options(
        retries=_count(retries, "retries"),
        retry_on=kinds,
        timeout=None,
        fallback=fallback,
        max_conflicts=_count(max_conflicts, "max_conflicts"),
        decide=web.commits if commit_if is None else _by(commit_if),
        independent=nested == "independent",
        durable=level,
    )
    if timeout is None:
        return chosen
    return replace(chosen, timeout=float(timeout), within=replace(chosen, fallback=None))


DEFAULT: Final = options()
NAMES: Final = frozenset(options.__kwdefaults__ or ())


def is_retriable(failure: BaseException, retry_on: tuple[type[BaseException], ...]) -> bool:
    """Return whether a run that raised this may be tried again.

    A step that took too long would do so again, and nobody else could use the arena meanwhile: only who names its error wants that.
    """
    if isinstance(failure, StepTooLongError):
        return any(issubclass(kind, StepTooLongError) for kind in retry_on)
    return isinstance(failure, retry_on)


# -- run again, fall back or raise --------------------------------------------------------------------------------

#: What follows a run that raised. "end": it has ended as it chose to, and what it raised goes on.
Action: TypeAlias = Literal["end", "raise", "rerun", "retry", "fallback"]


class Facts(NamedTuple):
    """What is known of a run that raised, and of those before it.

    Attributes:
        chosen: It committed, or it was an answer that has touched nothing.
        closed: Its coroutine was closed, or finalised, before its end.
        stopped: It was found lost while it was being cancelled or closed, or met a conflict then, in a `finally` say.
        conflicted: It lost a conflict.
        locked_out: It was ended because others held the arena's lock for long.
        cancelled: Somebody has asked the task to end.
        ordinary: It raised an `Exception` that is no answer.
        retriable: It raised something in `retry_on`.
        spoilt: The request can't be made as it was before.
        conflicts: How many runs have lost one, this one included.
        crashes: How many have raised otherwise, this one included. A run that was held up is in neither.
    """

    chosen: bool = False
    closed: bool = False
    stopped: bool = False
    conflicted: bool = False
    locked_out: bool = False
    cancelled: bool = False
    ordinary: bool = True
    retriable: bool = False
    spoilt: bool = False
    conflicts: int = 0
    crashes: int = 0

    @property
    def beaten(self) -> bool:
        """Whether it lost a conflict, or was held up, and that is why it has ended."""
        return (self.conflicted or self.locked_out) and not self.chosen and not self.closed and not self.stopped


def next_action(facts: Facts, chosen: Options) -> Action:
    """Tell what follows a run that raised.

    "rerun" and "retry" are for a request that can be made as it was. Where it turns out that it can't, ask again, `spoilt`.
    """
    give_up: Action = "raise" if chosen.fallback is None else "fallback"
    if facts.chosen:
        return "end"
    if facts.closed or facts.stopped:
        return "raise"
    if facts.beaten:
        return give_up if facts.spoilt or facts.conflicts > chosen.max_conflicts else "rerun"
    if not facts.ordinary:
        return "raise"
    if not facts.retriable or facts.crashes > chosen.retries:
        return give_up
    if facts.cancelled:  # the crash came of the cancellation; another run would lose it
        return "raise"
    return give_up if facts.spoilt else "retry"
