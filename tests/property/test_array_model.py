"""Array against a plain list: items, slices, raw memory, over several transactions in flight."""

from __future__ import annotations

import ctypes
import os
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from recoverable import Arena, Array
from support.models import Bench, Operation, Undone

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 1300  # items of 8 bytes: two pages and a half
EDGES = [0, 1, 2, 7, 8, 511, 512, 513, 1023, 1024, 1025, SIZE - 1]


class Items:
    """An Array of the arena, or the list that stands for it."""

    def __init__(self, arena: Arena | None = None, items: list[int] | None = None) -> None:
        self.arena = arena
        self.items = items
        self.array: Array = arena.root["a"] if arena else None

    def get(self, i: int) -> int:
        return self.items[i] if self.items is not None else self.array[i]

    def put(self, i: int, value: int) -> None:
        (self.items if self.items is not None else self.array)[i] = value

    def read(self, at: int, size: int) -> list[int]:
        if self.items is not None:
            return self.items[at : at + size]
        return [int(n) for n in self.array[at : at + size]]

    def write(self, at: int, values: list[int]) -> None:
        size = min(len(values), SIZE - at)
        (self.items if self.items is not None else self.array)[at : at + size] = values[:size]

    def fill(self, value: int) -> None:
        if self.items is not None:
            self.items[:] = [value] * SIZE
        else:
            self.array.fill(value)

    def raw(self, how: str, at: int, values: list[int]) -> None:
        """Write through memory that the library does not watch by calls."""
        size = min(len(values), SIZE - at)
        values = values[:size]
        if self.items is not None:
            self.items[at : at + size] = values
        elif how == "numpy":
            self.array.view[at : at + size] = values
        elif how == "memoryview":
            with memoryview(self.array.view) as view:
                for i, value in enumerate(values):
                    view[at + i] = value
        elif how == "ctypes":
            structure = (ctypes.c_int64 * size).from_buffer(memoryview(self.array.view).cast("B"), at * 8)
            for i, value in enumerate(values):
                structure[i] = value
        else:
            with self.array.edit(slice(at, at + size)) as part:
                part[:] = values

    def undone(self, operations: list[Operation]) -> None:
        """Run operations in a savepoint and go back."""
        if self.items is not None:
            kept = list(self.items)
            for operation in operations:
                operation(self)
            self.items[:] = kept
            return
        try:
            with self.arena.savepoint():  # type: ignore[union-attr]
                for operation in operations:
                    operation(self)
                raise Undone
        except Undone:
            pass

    def all(self) -> list[int]:
        return list(self.items) if self.items is not None else self.array.to_python()


class Op:
    """An operation with a short name, for Hypothesis to print."""

    def __init__(self, name: str, function: Callable[[Items], Any]) -> None:
        self.name = name
        self.function = function

    def __call__(self, items: Items) -> Any:
        return self.function(items)

    def __repr__(self) -> str:
        return self.name


def named(name: str, function: Callable[[Items], Any]) -> Operation:
    return Op(name, function)


places = st.one_of(st.sampled_from(EDGES[:4]), st.sampled_from(EDGES), st.integers(0, SIZE - 1))
values = st.integers(-5, 5) | st.sampled_from([2**63 - 1, -(2**63)])
lengths = st.sampled_from([1, 3, 8, 9, 64, 600])
runs = st.lists(values, min_size=1, max_size=40)
simple = st.one_of(
    st.builds(lambda i: named(f"get {i}", lambda a: a.get(i)), places),
    st.builds(lambda i, v: named(f"put {i} {v}", lambda a: a.put(i, v)), places, values),
    st.builds(lambda i: named(f"add {i}", lambda a: a.put(i, (a.get(i) + 1) % 1000)), places),
    st.builds(lambda i, n: named(f"read {i}+{n}", lambda a: a.read(i, n)), places, lengths),
    st.builds(lambda i, v: named(f"write {i} {v}", lambda a: a.write(i, v)), places, runs),
    st.builds(lambda v: named(f"fill {v}", lambda a: a.fill(v)), values),
    st.builds(
        lambda how, i, v: named(f"{how} {i} {v}", lambda a: a.raw(how, i, v)),
        st.sampled_from(["numpy", "memoryview", "ctypes", "edit"]),
        places,
        runs,
    ),
)
operations = st.one_of(
    simple,
    simple,
    simple,
    st.builds(lambda some: named(f"undone {some}", lambda a: a.undone(some)), st.lists(simple, max_size=4)),
)
numbers = count()


class ArrayMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.name = f"test-{os.getpid()}-model-{next(numbers)}"
        self.arena = Arena.open(self.name, size="8 MiB")
        self.held: list[Any] = []
        with self.arena.transaction():
            self.arena.root["a"] = Array(SIZE, "i8")
            self.arena.root["neighbour"] = Array(SIZE, "i8")
            self.arena.root["neighbour"].fill(7)
        self.bench = Bench(
            self.arena,
            adapt=lambda arena: Items(arena),
            committed=Items(items=[0] * SIZE),
            copy=lambda items: Items(items=list(items.items)),
            look=lambda items: items.all(),
        )

    @rule(
        script=st.lists(
            st.tuples(st.integers(0, 2), st.none() | st.lists(operations, min_size=1, max_size=3)),
            min_size=4,
            max_size=12,
        )
    )
    def race(self, script: list[tuple[int, list[Operation] | None]]) -> None:
        self.bench.race(script)

    @rule(number=st.integers(0, 3), what=st.lists(operations, min_size=1, max_size=5))
    def step(self, number: int, what: list[Operation]) -> None:
        self.bench.step(self.bench.worker(number), what)

    @precondition(lambda self: self.bench.workers)
    @rule(number=st.integers(0, 3))
    def commit(self, number: int) -> None:
        self.bench.commit(self.bench.workers[number % len(self.bench.workers)])

    @precondition(lambda self: self.bench.workers)
    @rule(number=st.integers(0, 3))
    def roll_back(self, number: int) -> None:
        self.bench.roll_back(self.bench.workers[number % len(self.bench.workers)])

    @rule(what=st.lists(operations, min_size=1, max_size=3), fail=st.booleans())
    def at_once(self, what: list[Operation], fail: bool) -> None:
        """A `with arena.transaction()` block while others are in flight."""
        state = self.bench.copy(self.bench.committed)
        try:
            with self.arena.transaction():
                for operation in what:
                    assert operation(Items(self.arena)) == operation(state), operation
                if fail:
                    raise Undone
        except Undone:
            return
        self.bench.committed = state

    @precondition(lambda self: len(self.held) < 2)
    @rule()
    def hold_view(self) -> None:
        """A writable view that outlives its transaction makes every step enter at its start."""
        with self.arena.transaction():
            self.held.append(self.arena.root["a"].view)

    @precondition(lambda self: self.held)
    @rule(i=places, value=values)
    def write_held_in_a_block(self, i: int, value: int) -> None:
        with self.arena.transaction():
            self.held[-1][i] = value
        self.bench.committed.items[i] = value

    @precondition(lambda self: self.held and self.bench.workers)
    @rule(number=st.integers(0, 3), i=places, value=values)
    def write_held_in_a_step(self, number: int, i: int, value: int) -> None:
        view = self.held[-1]

        def write(items: Items) -> None:
            if items.items is not None:
                items.items[i] = value
            else:
                view[i] = value

        self.bench.step(self.bench.worker(number), [named(f"held {i} {value}", write)])

    @precondition(lambda self: self.held)
    @rule(i=places, value=values)
    def stray(self, i: int, value: int) -> None:
        """A raw write outside any step never reaches the arena."""
        self.held[-1][i] = value
        self.bench.check()

    @precondition(lambda self: self.held)
    @rule()
    def let_go(self) -> None:
        self.held.pop()

    @rule()
    def reopen(self) -> None:
        """Closing rolls back what is in flight; the state is there again."""
        self.bench.drop()
        self.held.clear()
        self.arena.close()
        self.arena = self.bench.arena = Arena.open(self.name, create=False)
        assert self.arena.recovered is None
        self.bench.check()

    @invariant()
    def sound(self) -> None:
        """Nothing of what is in flight shows, neighbours are untouched, and all of the arena adds up."""
        self.bench.check()
        assert np.all(np.asarray(self.arena.root["neighbour"]) == 7)
        assert self.arena.verify().leaked_blocks == 0

    def teardown(self) -> None:
        self.bench.drop()
        self.held.clear()
        self.arena.close()
        Arena.unlink(self.name)


TestArrayModel = ArrayMachine.TestCase
TestArrayModel.pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning"),  # long keys make long reprs
]
TestArrayModel.settings = settings(
    max_examples=int(os.environ.get("RECOVERABLE_EXAMPLES", "80")),
    stateful_step_count=20,
    deadline=None,
    derandomize="RECOVERABLE_EXAMPLES" not in os.environ,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    # Shrinking takes minutes; to have it, unset this and name the failure's blob.
    phases=[Phase.explicit, Phase.reuse, Phase.generate] if "RECOVERABLE_SHRINK" not in os.environ else list(Phase),
)
