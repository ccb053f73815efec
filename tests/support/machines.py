"""What all state machines of containers share: transactions in flight on one arena, one step of one of them at a time.

Between any two rules the arena holds the committed model and `verify()` passes; support.models decides what each
transaction may have seen. A machine of its own says on what operations run, and which there are.
"""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Callable
from itertools import count
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from recoverable import Arena
from support.models import Bench, Operation, Side, Undone, Worker, outcome

numbers = count()


class Named:
    """An operation with a short name, for Hypothesis to print."""

    def __init__(self, name: str, function: Callable[[Any], Any]) -> None:
        self.name = name
        self.function = function

    def __call__(self, side: Any) -> Any:
        return self.function(side)

    def __repr__(self) -> str:
        return self.name


def in_savepoint(operations: list[Operation], keep: bool) -> Operation:
    """Return several operations as one: in a savepoint that is kept or undone."""

    def on_model(model: Side) -> list[Any]:
        kept = None if keep else model.copy()
        answers = [outcome(operation, model) for operation in operations]
        if kept is not None:
            model.restore(kept)
        return answers

    def in_arena(side: Side) -> list[Any]:
        answers = []
        with contextlib.suppress(Undone), side.arena.savepoint():
            answers = [outcome(operation, side) for operation in operations]
            if not keep:
                raise Undone
        return answers

    name = ("kept" if keep else "undone") + str(operations)
    return Named(name, lambda side: on_model(side) if side.arena is None else in_arena(side))


def with_savepoints(simple: st.SearchStrategy[Operation]) -> st.SearchStrategy[Operation]:
    """One in four is a savepoint with some of the others in it."""
    return st.one_of(simple, simple, simple, st.builds(in_savepoint, st.lists(simple, max_size=4), st.booleans()))


def drawn(name: str) -> st.SearchStrategy[Any]:
    """Draw from the strategy that the machine has under that name."""
    return st.runner().flatmap(operator.attrgetter(name))


class Machine(RuleBasedStateMachine):
    """The rules that every machine has. It gives `side` and `operations`."""

    side: ClassVar[type[Side]]
    operations: ClassVar[st.SearchStrategy[Operation]]

    def __init_subclass__(cls) -> None:
        if hasattr(cls, "operations"):
            cls.few = st.lists(cls.operations, min_size=1, max_size=4)
            turns = st.tuples(st.integers(0, 2), st.none() | st.lists(cls.operations, min_size=1, max_size=3))
            cls.scripts = st.lists(turns, min_size=4, max_size=12)

    def __init__(self) -> None:
        super().__init__()
        self.name = f"test-{os.getpid()}-model-{next(numbers)}"
        self.arena = Arena.open(self.name, size="8 MiB")
        self.bench = Bench(self.arena, self.side)

    def let_go(self) -> None:
        """Drop what would keep the arena from closing."""
        self.bench.drop()

    def one(self, number: int) -> Worker:
        """Return one of those in flight."""
        return self.bench.workers[number % len(self.bench.workers)]

    @rule(script=drawn("scripts"))
    def race(self, script: list[tuple[int, list[Operation] | None]]) -> None:
        self.bench.race(script)

    @rule(number=st.integers(0, 3), what=drawn("few"))
    def step(self, number: int, what: list[Operation]) -> None:
        self.bench.step(self.bench.worker(number), what)

    @precondition(lambda self: self.bench.workers)
    @rule(number=st.integers(0, 3))
    def commit(self, number: int) -> None:
        self.bench.commit(self.one(number))

    @precondition(lambda self: self.bench.workers)
    @rule(number=st.integers(0, 3))
    def roll_back(self, number: int) -> None:
        self.bench.roll_back(self.one(number))

    @rule(what=drawn("few"), fail=st.booleans())
    def at_once(self, what: list[Operation], fail: bool) -> None:
        """A `with arena.transaction()` block while others are in flight."""
        state = self.bench.committed.copy()
        try:
            with self.arena.transaction():
                for operation in what:
                    assert outcome(operation, self.side.of(self.arena)) == outcome(operation, state), operation
                if fail:
                    raise Undone
        except Undone:
            return
        self.bench.committed = state

    @rule()
    def reopen(self) -> None:
        """Closing rolls back what is in flight; the state is there again."""
        self.let_go()
        self.arena.close()
        self.arena = self.bench.arena = Arena.open(self.name, create=False)
        assert self.arena.recovered is None

    @invariant()
    def sound(self) -> None:
        """Nothing of what is in flight shows, and all of the arena adds up."""
        self.bench.check()
        report = self.arena.verify()
        assert report.leaked_blocks == 0, report

    def teardown(self) -> None:
        self.let_go()
        self.arena.close()
        Arena.unlink(self.name)


def case_of(machine: type[Machine], examples: int) -> Any:
    """Return what pytest runs of a machine. RECOVERABLE_EXAMPLES: that many at random instead of the same each time."""
    case = machine.TestCase
    case.pytestmark = [
        pytest.mark.slow,
        pytest.mark.timeout(900),
        pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning"),  # long keys make long reprs
    ]
    # Shrinking takes minutes; RECOVERABLE_SHRINK has it.
    phases = list(Phase) if "RECOVERABLE_SHRINK" in os.environ else [Phase.explicit, Phase.reuse, Phase.generate]
    case.settings = settings(
        max_examples=int(os.environ.get("RECOVERABLE_EXAMPLES", examples)),
        stateful_step_count=20,
        deadline=None,
        derandomize="RECOVERABLE_EXAMPLES" not in os.environ,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=phases,
    )
    return case
