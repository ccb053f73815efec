"""Judges of recorded histories: is what transactions saw, and what they left, that of some order one after another?

A history is a list of events, tuples:

| event | meaning |
|---|---|
| `("begin", t)` | a run of transaction t begins; again after a conflict that runs it again |
| `("op", t, operation, answer)` | it has run an operation |
| `("pause", t)` | its step ends |
| `("returns", t)` | it has done all it wants, and is about to commit |
| `("committed", t)`, `("aborted", t)` | its end |
| `("outside", operation, answer)` | a read outside any transaction |
| `("state", content)` | everything that is there, as `look` gives it |
| `("died", names)` | the process in which these transactions were is dead |

`replay` knows that the order of commits is the order of these events, and that a step is atomic; it demands opacity: at
each step all that the transaction has read so far equals one committed state, the newest. `find_order` knows neither.
It looks for any order that explains every answer and respects real time (who ended before another began comes first):
the search of Wing and Gong (J. Parallel Distrib. Comput. 17, 1993), with transactions for operations, and with aborted
ones as readers whose writes nobody sees. Both judge by running the operations on plain objects, so neither has to know
what conflicts with what.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from support.operations import Operation, copy, look, model, run

Event = tuple[Any, ...]
State = dict[str, Any]


class NotSerialisableError(AssertionError):
    """The history has no explanation."""


# -- with the order known --------------------------------------------------------------------------------------------


@dataclass
class _Flying:
    """A transaction in flight.

    Attributes:
        log: What it has run, with the answers.
        now: The state that its running step sees; None between steps and before a step's first operation.
        wrote: Whether its operations changed anything.
        returning: Whether it is about to commit.
    """

    log: list[tuple[Operation, Any]] = field(default_factory=list)
    now: State | None = None
    wrote: bool = False
    returning: bool = False


class Replay:
    """Judge events as they come; raises `NotSerialisableError` at the first that can't be.

    Args:
        committed: What is there at the beginning.

    Attributes:
        counts: How many transactions ended in which way.
    """

    def __init__(self, committed: State | None = None) -> None:
        self.committed = model() if committed is None else committed
        self.flying: dict[Any, _Flying] = {}
        self.perhaps: list[State] = []  # the states if a commit that a process died in came through
        self.counts = {"committed": 0, "aborted": 0, "died": 0}

    def take(self, event: Event) -> None:
        """Judge one event."""
        kind, *details = event
        getattr(self, f"_{kind}")(*details)

    def _begin(self, t: Any) -> None:
        self.flying[t] = _Flying()

    def _op(self, t: Any, operation: Operation, answer: Any) -> None:
        one = self.flying[t]
        if one.now is None:
            one.now = self._again(t, one)
            if one.now is None:
                raise NotSerialisableError(f"{t} goes on to {operation} although what it had read has changed")
        expected = run(operation, one.now)
        if expected != answer:
            raise NotSerialisableError(f"{t}: {operation} gave {answer!r}; in any order so far it gives {expected!r}")
        one.log.append((operation, answer))

    def _again(self, t: Any, one: _Flying) -> State | None:
        """Run the log on what is committed now; None if an answer differs."""
        state = copy(self.committed)
        for operation, answer in one.log:
            if run(operation, state) != answer:
                return None
        return state

    def _pause(self, t: Any) -> None:
        one = self.flying[t]
        if one.now is not None:
            one.wrote = look(one.now) != look(self.committed)
            one.now = None

    def _returns(self, t: Any) -> None:
        self.flying[t].returning = True

    def _after(self, t: Any) -> State:
        one = self.flying[t]
        if one.now is not None:
            return one.now
        if not one.wrote:
            return self.committed  # its reads were one state when it last ran
        state = self._again(t, one)
        if state is None:
            raise NotSerialisableError(f"{t} commits although what it had read has changed")
        return state

    def _committed(self, t: Any) -> None:
        self.committed = self._after(t)
        del self.flying[t]
        self.counts["committed"] += 1

    def _aborted(self, t: Any) -> None:
        del self.flying[t]
        self.counts["aborted"] += 1

    def _outside(self, operation: Operation, answer: Any) -> None:
        expected = run(operation, copy(self.committed))
        if expected != answer:
            raise NotSerialisableError(f"outside: {operation} gave {answer!r}; committed is {expected!r}")

    def _died(self, names: Iterable[Any]) -> None:
        for t in names:
            one = self.flying[t]
            if one.returning:
                with contextlib.suppress(NotSerialisableError):  # it could only have been told of a conflict
                    self.perhaps.append(self._after(t))
            del self.flying[t]
            self.counts["died"] += 1

    def _state(self, content: Any) -> None:
        self.committed = next((state for state in self.perhaps if content == look(state)), self.committed)
        self.perhaps = []
        expected = look(self.committed)
        if content != expected:
            parts = [
                f"{part}: {content[part]!r}, not {expected[part]!r}"
                for part in expected
                if content[part] != expected[part]
            ]
            raise NotSerialisableError("the state is not the committed one: " + "; ".join(parts))


def replay(events: Iterable[Event], committed: State | None = None) -> Replay:
    """Judge a whole history."""
    judge = Replay(committed)
    for number, event in enumerate(events):
        try:
            judge.take(event)
        except NotSerialisableError as error:
            raise NotSerialisableError(f"event {number}, {event}: {error}") from None
    return judge


# -- with the order unknown ------------------------------------------------------------------------------------------


@dataclass
class Run:
    """One run of a transaction, as far as it came.

    Attributes:
        name: Of the transaction.
        began: When, in any unit.
        ended: When.
        log: What it ran, with the answers.
        committed: Whether its writes count; None if nobody knows.
    """

    name: Any
    began: float
    ended: float
    log: list[tuple[Operation, Any]]
    committed: bool | None = False


def runs_of(events: Sequence[Event]) -> list[Run]:
    """Collect the runs of a history; time is the number of the event."""
    runs: list[Run] = []
    flying: dict[Any, Run] = {}
    returning = set()
    for time, (kind, *details) in enumerate(events):
        match kind:
            case "begin":
                if (lost := flying.get(details[0])) is not None:
                    lost.ended = time
                flying[details[0]] = Run(details[0], time, len(events), [])
                runs.append(flying[details[0]])
                returning.discard(details[0])
            case "op":
                flying[details[0]].log.append((details[1], details[2]))
            case "returns":
                returning.add(details[0])
            case "committed" | "aborted":
                flying[details[0]].ended = time
                flying.pop(details[0]).committed = kind == "committed"
            case "outside":
                runs.append(Run("outside", time, time, [(details[0], details[1])]))
            case "died":
                for name in details[0]:
                    flying[name].ended = time
                    flying.pop(name).committed = None if name in returning else False
    return runs


def find_order(runs: Iterable[Run], final: Any, committed: State | None = None) -> list[Run]:
    """Return an order of the runs that explains every answer and the final content.

    Raises:
        NotSerialisableError: There is none.
    """
    pending = sorted((one for one in runs if one.log or one.committed), key=lambda one: one.began)
    failed: set[tuple[frozenset[int], bytes]] = set()
    order: list[Run] = []

    def after(one: Run, state: State) -> State | None:
        state = copy(state)
        for operation, answer in one.log:
            if run(operation, state) != answer:
                return None
        return state

    def search(left: frozenset[int], state: State) -> bool:
        if not left:
            return bool(look(state) == final)
        here = (left, pickle.dumps(look(state)))
        if here in failed:
            return False
        first_end = min(pending[i].ended for i in left)
        ready = [i for i in left if pending[i].began <= first_end]
        for i in ready:
            if pending[i].committed is False and after(pending[i], state) is not None:
                order.append(pending[i])  # it changes nothing: if it can be here, it may as well
                if search(left - {i}, state):
                    return True
                order.pop()
                failed.add(here)
                return False
        for i in ready:
            one = pending[i]
            then = after(one, state) if one.committed is not False else None
            order.append(one)
            if then is not None and search(left - {i}, then):
                return True
            order.pop()
            if one.committed is None and search(left - {i}, state):  # it has never been
                return True
        failed.add(here)
        return False

    if not search(frozenset(range(len(pending))), model() if committed is None else committed):
        raise NotSerialisableError(f"no order of {len(pending)} runs explains what they saw and left")
    return order
