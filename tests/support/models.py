"""The oracle of the model tests: what a transaction may have seen, given what is committed now.

Operations run on one of two sides: the containers of an arena, or the model, which is made of plain objects.

A transaction keeps a log of its operations with what each of them gave. It may go on exactly if the whole log, run
again on a plain copy of the state that is committed *now*, gives the same answers: then it equals a run that began just
now. Else it must be told of a conflict. (A conflict without need is allowed here: stamps are shared by hash, raw writes
count by page. What must never conflict has tests of its own in tests/isolation.)
"""

from __future__ import annotations

import abc
import copy
import struct
from collections.abc import Callable, Sequence
from typing import Any, Self

import recoverable
from recoverable import Arena, ConflictError
from support.workers import Request, pause

Operation = Callable[[Any], Any]


def canonical(value: Any) -> Any:
    """Return something whose equality is identity of content: types, NaN, -0.0 and order of keys included."""
    if isinstance(value, recoverable.Dict | recoverable.Array):
        value = value.to_python()
    if isinstance(value, dict):
        return ("dict", tuple((canonical(k), canonical(v)) for k, v in value.items()))
    if isinstance(value, list | tuple):
        return (type(value).__name__, tuple(canonical(v) for v in value))
    if isinstance(value, float):
        return ("float", struct.pack("d", value))
    return (type(value).__name__, value)


def outcome(operation: Operation, state: Any) -> Any:
    """Run one operation; what it gave or raised, comparable."""
    try:
        return canonical(operation(state))
    except (KeyError, IndexError, NoPlaceError) as error:
        return ("raised", type(error).__name__)


class NoPlaceError(Exception):
    """An operation's path leads nowhere; the same on both sides."""


class Undone(Exception):
    """Leaves a savepoint."""


class Side(abc.ABC):
    """What operations run on. `arena` is None if it is the model."""

    arena: Arena | None

    @classmethod
    @abc.abstractmethod
    def of(cls, arena: Arena) -> Self:
        """Return the side that is in the arena."""

    @classmethod
    @abc.abstractmethod
    def model(cls) -> Self:
        """Return the plain side, as it is at first."""

    @abc.abstractmethod
    def look(self) -> Any:
        """Return all of it, comparably."""

    @abc.abstractmethod
    def copy(self) -> Self:
        """Copy a model."""

    @abc.abstractmethod
    def restore(self, kept: Self) -> None:
        """Make a model again what its copy is."""


class Place(Side):
    """A root and what is in it: the arena's, or a dict."""

    def __init__(self, root: Any, arena: Arena | None = None) -> None:
        self.root = root
        self.arena = arena

    @classmethod
    def of(cls, arena: Arena) -> Self:
        return cls(arena.root, arena)

    @classmethod
    def model(cls) -> Self:
        return cls({})

    def look(self) -> Any:
        return canonical(self.root)

    def copy(self) -> Self:
        return type(self)(copy.deepcopy(self.root))

    def restore(self, kept: Self) -> None:
        self.root.clear()
        self.root.update(kept.root)

    def at(self, path: Sequence[str]) -> Any:
        """Return the container there."""
        found = self.root
        for key in path:
            found = found[key]
        return found


class Worker:
    """One transaction and its log.

    Args:
        arena: The arena.
        side: What its operations run on.
    """

    def __init__(self, arena: Arena, side: type[Side]) -> None:
        self.arena = arena
        self.side = side
        self.log: list[tuple[Operation, Any]] = []
        self.wrote = False
        self.request = Request(arena, self._body)
        self.request.step()

    async def _body(self) -> str:
        answers: list[Any] | None = None
        while True:
            operations = await pause(answers)
            if operations is None:
                return "committed"
            answers = [outcome(operation, self.side.of(self.arena)) for operation in operations]

    def run(self, operations: list[Operation]) -> list[Any]:
        """One step."""
        answers = self.request.step(operations)
        self.log += zip(operations, answers, strict=True)
        return answers

    def replay(self, committed: Any) -> bool:
        """Run the log on `committed`, changing it; whether every answer is the same."""
        same = True
        for operation, answer in self.log:
            same &= outcome(operation, committed) == answer
        return same


class Bench:
    """Several workers, the committed model, and the comparison of both.

    Args:
        arena: The arena.
        side: What operations run on, in the arena and in the model.
    """

    def __init__(self, arena: Arena, side: type[Side]) -> None:
        self.arena = arena
        self.side = side
        self.committed = side.model()
        self.workers: list[Worker] = []
        self.needless = self.needed = 0

    def begin(self) -> None:
        """One transaction more in flight."""
        self.workers.append(Worker(self.arena, self.side))

    def worker(self, number: int) -> Worker:
        """Return that one of those in flight; begin as many as it takes."""
        while len(self.workers) <= number:
            self.begin()
        return self.workers[number]

    def race(self, script: list[tuple[int, list[Operation] | None]]) -> None:
        """Take steps as (number of the request, its operations; None: it commits), then commit all."""
        racers: dict[int, Worker] = {}
        for number, operations in script:
            if number not in racers:
                self.begin()
                racers[number] = self.workers[-1]
            worker = racers[number]
            if worker.request.done:
                continue  # it has lost, or is through
            if operations is None:
                self.commit(worker)
            else:
                self.step(worker, operations)
        for worker in racers.values():
            if not worker.request.done:
                self.commit(worker)

    def step(self, worker: Worker, operations: list[Operation]) -> None:
        """Run operations in one step and compare their answers with the model's."""
        state = self.committed.copy()
        sound = worker.replay(state)
        try:
            answers = worker.run(operations)
        except ConflictError:
            self._lost(worker, sound)
            return
        assert sound, "a transaction went on although what it had read has changed"
        before = state.look()
        for operation, answer in zip(operations, answers, strict=True):
            assert answer == outcome(operation, state), operation
        worker.wrote |= state.look() != before

    def _lost(self, worker: Worker, sound: bool) -> None:
        self.needless += sound
        self.needed += not sound
        assert worker.request.done
        self.workers.remove(worker)

    def commit(self, worker: Worker) -> None:
        """End one well."""
        state = self.committed.copy()
        sound = worker.replay(state)
        try:
            worker.request.step(None)
        except ConflictError:
            self._lost(worker, sound)
            return
        self.workers.remove(worker)
        if sound:
            self.committed = state
        else:  # what it saw at its last step was one state, and it adds nothing to it
            assert not worker.wrote, "a transaction committed although what it had read has changed"

    def roll_back(self, worker: Worker) -> None:
        """End one by an exception."""
        sound = worker.replay(self.committed.copy())
        try:
            worker.request.throw(Undone())
        except Undone:
            self.workers.remove(worker)
        except ConflictError:  # while a raw view is alive a step is entered at its start, which validates
            self._lost(worker, sound)
        else:  # pragma: no cover
            raise AssertionError("the exception was swallowed")

    def drop(self) -> None:
        """Finalise all that are in flight."""
        for worker in self.workers:
            worker.request.close()
        self.workers.clear()

    def check(self) -> None:
        """The arena holds the committed model, whatever is in flight."""
        assert self.side.of(self.arena).look() == self.committed.look()
