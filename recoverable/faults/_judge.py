"""What is left after a run: which states an arena may be in, and whether it is in one of them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from recoverable import _state
from recoverable.arena import Arena
from recoverable.errors import RecoverableError

__all__ = ["Judge", "Outcome", "call", "comparable"]


@dataclass
class Outcome:
    """How one run ended, and what it left.

    Attributes:
        ended: In words.
        result: What it returned, made comparable; None: nothing, or it did not return.
        units: How many parts of the scenario were done (a generator's yields).
        state: "rolled back", "committed", "unchanged" or "other".
        problems: What does not hold.
        missed: Whether a fault of its plan has not struck.
    """

    ended: str = ""
    result: Any = None
    units: int = 0
    state: str = ""
    problems: list[str] = field(default_factory=list)
    missed: bool = False


class Judge:
    """Knows which states an arena may be in, and looks whether it is in one of them.

    Args:
        arena: The arena.
        invariant: What must hold of it besides, or None.
        atomic: Whether the state must be that before or that after.
    """

    def __init__(self, arena: Arena, invariant: Callable[..., object] | None, *, atomic: bool) -> None:
        self.arena = arena
        self.invariant = invariant
        self.atomic = atomic
        self.before = _state.image_of(arena)
        self.states: list[_state.Node] = [self.before]  # the committed states of a clean run, one a unit
        self.leaked = arena.verify().leaked_blocks
        self.result: Any = None

    def elsewhere(self, arena: Arena) -> Judge:
        """Return one for another process's handle of the arena, that compares no states and asks no invariant."""
        other = copy.copy(self)
        other.arena, other.invariant, other.atomic = arena, None, False
        return other

    def look(self, outcome: Outcome, *, clean: bool = False) -> _state.Node | None:
        """Add to an outcome what does not hold now; return the state."""
        try:
            report = self.arena.verify()
            if report.leaked_blocks > self.leaked:
                outcome.problems.append(
                    f"verify(): {report.leaked_blocks} blocks ({report.leaked_bytes} bytes) are allocated, and nothing "
                    "leads to them"
                )
            now = _state.image_of(self.arena)
        except RecoverableError as error:
            outcome.problems.append(f"{type(error).__name__}: {error}")
            outcome.state = "other"
            return None
        if not clean:
            self._compare(outcome, now)
        self._hold(outcome)
        return now

    def _compare(self, outcome: Outcome, now: _state.Node) -> None:
        first, last = self.states[0], self.states[-1]
        allowed = self.states[outcome.units : outcome.units + 2] if len(self.states) > 2 else self.states
        if len(self.states) == 1 or _state.same(first, last):
            outcome.state = "unchanged" if _state.same(now, first) else "other"
        elif any(_state.same(now, state) for state in allowed):
            outcome.state = "rolled back" if _state.same(now, allowed[0]) and len(allowed) > 1 else "committed"
        else:
            outcome.state = "other"
        if outcome.state == "other" and self.atomic:
            text = ["the state is neither that before nor that after; to that before it differs in:"]
            text += [f"  {line}" for line in _state.differences(allowed[0] if allowed else first, now)]
            if allowed and not _state.same(allowed[-1], allowed[0]):
                text += ["and to that after in:"]
                text += [f"  {line}" for line in _state.differences(allowed[-1], now)]
            outcome.problems.append("\n".join(text))
        if (
            outcome.state == "rolled back"
            and self.atomic
            and self.result is not None
            and outcome.result is not None
            and outcome.result == self.result
        ):
            outcome.problems.append(
                f"it answered as if it had committed ({outcome.result}), but the state is that before"
            )

    def _hold(self, outcome: Outcome) -> None:
        if self.invariant is None:
            return
        try:
            holds = call(self.invariant, arena=self.arena)
        except Exception as error:
            outcome.problems.append(f"the invariant does not hold: {type(error).__name__}: {error}")
        else:
            if holds is not None and not holds:
                name = getattr(self.invariant, "__qualname__", repr(self.invariant))
                outcome.problems.append(f"the invariant {name} does not hold")


def call(function: Callable[..., Any], **given: Any) -> Any:
    """Call a function with what it asks for: by name where it has such parameters, else the first of `given`."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    wanted = [
        parameter
        for parameter in parameters.values()
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
        and parameter.default is parameter.empty
    ]
    if not wanted:
        return function()
    arguments = [given.get(parameter.name) for parameter in wanted]
    if wanted[0].name not in given:
        arguments[0] = next(iter(given.values()))
    return function(*arguments)


def comparable(result: Any) -> Any:
    """Make of a result what can be compared with another run's: of a response its status."""
    status = getattr(result, "status", getattr(result, "status_code", None))
    if isinstance(status, int):
        return f"status {status}"
    if result is None or isinstance(result, (bool, int, float, str, bytes, tuple)):
        return result
    return None
