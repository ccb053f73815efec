"""A hypothesis state machine for any container: the same operations on it and on its Python original.

Several transactions are in flight, one step of one of them at a time; support.models decides what each may have seen.
Between any two steps the arena holds the committed model and `verify()` passes.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import operator
import os
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import recoverable
from recoverable import Arena, Record
from support.models import Bench, Operation, Undone, Worker, canonical

# What the originals raise: the containers must raise the same.
EXPECTED = (IndexError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError)
EXAMPLES = int(os.environ.get("RECOVERABLE_EXAMPLES", "20"))
numbers = count()

PLACES = (("x",), ("deep", "x"))
places = st.sampled_from(PLACES)


def plain(value: Any) -> Any:
    """A container or its original as something that canonical() compares: type, content, order where it has one."""
    if isinstance(value, dict | recoverable.Dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | recoverable.List):
        return [plain(item) for item in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(plain(item) for item in value)
    if isinstance(value, collections.deque | recoverable.Deque):
        return ("a deque", value.maxlen, [plain(item) for item in value])
    if isinstance(value, set | frozenset | recoverable.Set):
        return ("a set", sorted(repr(canonical(_one_number(item))) for item in value))
    if isinstance(value, recoverable.Counter | Number):
        return ("a counter", value.value)
    if isinstance(value, Record):
        return ("a record", {name: plain(getattr(value, name)) for name in value._schema.names})
    if dataclasses.is_dataclass(value):
        return ("a record", {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)})
    return value


def _one_number(member: Any) -> Any:
    """Which of several equal members a set keeps depends on sizes and sides: they count as one."""
    if isinstance(member, tuple):
        return tuple(map(_one_number, member))
    return int(member) if isinstance(member, bool | float) and member == int(member) else member


class Number:
    """What a Counter is the original of: an int that can be changed."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, n: int = 1) -> None:
        if not isinstance(n, int):
            raise TypeError
        if not -(2**63) <= n < 2**63 or not -(2**63) <= self.value + n < 2**63:
            raise OverflowError
        self.value += n


class Place:
    """A root and the container under test in it, at two depths."""

    def __init__(self, root: Any, arena: Arena | None = None) -> None:
        self.root = root
        self.arena = arena

    def at(self, path: tuple[str, ...]) -> Any:
        """Give the container there."""
        found = self.root
        for key in path:
            found = found[key]
        return found

    def change(self, path: tuple[str, ...], change: Callable[[Any], Any]) -> None:
        """`root[..][key] op= ...`: read, change in place, store."""
        parent = self.at(path[:-1])
        parent[path[-1]] = change(parent[path[-1]])


def attempt(run: Callable[[Place], Any], place: Place) -> Any:
    """One operation: what it gave, or which exception it raised."""
    try:
        return ("gave", canonical(plain(run(place))))
    except EXPECTED as error:
        return ("raised", type(error).__name__)


def operation(name: str, run: Callable[[Place], Any]) -> Operation:
    """Give it a name that hypothesis prints, and make its exceptions answers."""

    def body(place: Place) -> Any:
        return attempt(run, place)

    body.__qualname__ = body.__name__ = name
    return body


def on(path: tuple[str, ...], name: str, run: Callable[[Any], Any]) -> Operation:
    """An operation on the container at a path."""
    return operation(f"{'.'.join(path)}.{name}"[:80], lambda place: run(place.at(path)))


def call(method: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Operation]:
    """`container.method(*arguments)`; what gives the container itself counts as that."""

    def build(path: tuple[str, ...], given: tuple[Any, ...]) -> Operation:
        def run(container: Any) -> Any:
            return getattr(container, method)(*copy.deepcopy(given))

        return on(path, f"{method}{given!r}", run)

    return st.builds(build, places, st.tuples(*arguments))


def apply(name: str, function: Callable[..., Any], *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Operation]:
    """`function(container, *arguments)`."""

    def build(path: tuple[str, ...], given: tuple[Any, ...]) -> Operation:
        return on(path, f"{name}{given!r}", lambda container: function(container, *copy.deepcopy(given)))

    return st.builds(build, places, st.tuples(*arguments))


def inplace(
    name: str, function: Callable[..., Any], *arguments: st.SearchStrategy[Any]
) -> st.SearchStrategy[Operation]:
    """`root["x"] op= argument`."""

    def build(path: tuple[str, ...], given: tuple[Any, ...]) -> Operation:
        def run(place: Place) -> None:
            place.change(path, lambda container: function(container, *copy.deepcopy(given)))

        return operation(f"{'.'.join(path)} {name} {given!r}"[:80], run)

    return st.builds(build, places, st.tuples(*arguments))


def replace(
    make: st.SearchStrategy[Any], store: Callable[[Any], Any] = lambda value: value
) -> st.SearchStrategy[Operation]:
    """`root["x"] = original`: the old container goes; `store` makes of an original what is stored in the arena."""

    def build(path: tuple[str, ...], original: Any) -> Operation:
        def run(place: Place) -> None:
            fresh = copy.deepcopy(original)
            place.at(path[:-1])[path[-1]] = fresh if place.arena is None else store(fresh)

        return operation(f"{'.'.join(path)} = {original!r}"[:80], run)

    return st.builds(build, places, make)


def comparisons(others: st.SearchStrategy[Any], *names: str) -> st.SearchStrategy[Operation]:
    """`container == other` and so on, with plain objects on the right."""
    tests = [getattr(operator, name) for name in names or ("eq", "ne", "lt", "le", "gt", "ge")]
    return apply("compared", lambda container, test, other: test(container, other), st.sampled_from(tests), others)


def in_savepoint(operations: list[Operation], keep: bool) -> Operation:
    """Several operations in a savepoint that is kept or not."""

    def body(place: Place) -> Any:
        if place.arena is None:
            root = copy.deepcopy(place.root)
            answers = [step(place) for step in operations]
            if not keep:
                place.root.clear()
                place.root.update(root)
            return answers
        answers = []
        try:
            with place.arena.savepoint():
                answers = [step(place) for step in operations]
                if not keep:
                    raise Undone
        except Undone:
            pass
        return answers

    body.__qualname__ = body.__name__ = ("kept" if keep else "undone") + str([step.__name__ for step in operations])
    return body


def look(place: Place) -> Any:
    """All of a root, comparably."""
    return canonical(plain(place.root))


def machine(
    simple: st.SearchStrategy[Operation],
    originals: st.SearchStrategy[Any],
    store: Callable[[Any], Any] = lambda value: value,
) -> Any:
    """Make the test case of a container.

    Args:
        simple: Its operations.
        originals: What the two containers begin as.
        store: Makes of an original what is stored in the arena.
    """
    operations = st.one_of(simple, simple, simple, st.builds(in_savepoint, st.lists(simple, max_size=4), st.booleans()))

    class ContainerMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.name = f"test-model-{os.getpid()}-c{next(numbers)}"
            self.arena = Arena.open(self.name, size="8 MiB")
            self.bench = Bench(
                self.arena,
                adapt=lambda arena: Place(arena.root, arena),
                committed=Place({}),
                copy=lambda place: Place(copy.deepcopy(place.root)),
                look=look,
            )

        @initialize(first=originals, second=originals)
        def fill(self, first: Any, second: Any) -> None:
            self.bench.committed.root.update({"deep": {"x": copy.deepcopy(second)}, "x": copy.deepcopy(first)})
            with self.arena.transaction():
                self.arena.root["deep"] = {"x": store(copy.deepcopy(second))}
                self.arena.root["x"] = store(copy.deepcopy(first))

        @precondition(lambda self: len(self.bench.workers) < 3)
        @rule()
        def begin(self) -> None:
            self.bench.begin()

        @precondition(lambda self: self.bench.workers)
        @rule(number=st.integers(0, 2), what=st.lists(operations, min_size=1, max_size=4))
        def step(self, number: int, what: list[Operation]) -> None:
            self.bench.step(self.worker(number), what)

        @precondition(lambda self: self.bench.workers)
        @rule(number=st.integers(0, 2))
        def commit(self, number: int) -> None:
            self.bench.commit(self.worker(number))

        @precondition(lambda self: self.bench.workers)
        @rule(number=st.integers(0, 2))
        def roll_back(self, number: int) -> None:
            self.bench.roll_back(self.worker(number))

        @rule(what=st.lists(operations, min_size=1, max_size=4), fail=st.booleans())
        def at_once(self, what: list[Operation], fail: bool) -> None:
            """A `with arena.transaction()` block while others are in flight."""
            state = self.bench.copy(self.bench.committed)
            try:
                with self.arena.transaction():
                    for one in what:
                        assert one(Place(self.arena.root, self.arena)) == one(state), one
                    if fail:
                        raise Undone
            except Undone:
                return
            self.bench.committed = state

        @rule()
        def reopen(self) -> None:
            """Closing rolls back what is in flight; the state is there again."""
            self.bench.drop()
            self.arena.close()
            self.arena = self.bench.arena = Arena.open(self.name, create=False)
            assert self.arena.recovered is None

        @invariant()
        def sound(self) -> None:
            """Nothing of what is in flight shows, and all of the arena adds up."""
            self.bench.check()
            report = self.arena.verify()
            assert report.leaked_blocks == 0, report

        def worker(self, number: int) -> Worker:
            return self.bench.workers[number % len(self.bench.workers)]

        def teardown(self) -> None:
            self.bench.drop()
            self.arena.close()
            Arena.unlink(self.name)

    case = pytest.mark.slow(pytest.mark.timeout(900)(ContainerMachine.TestCase))
    case = pytest.mark.filterwarnings("ignore:Generating overly large repr")(case)
    case.settings = settings(
        max_examples=EXAMPLES,
        stateful_step_count=25,
        deadline=None,
        derandomize="RECOVERABLE_EXAMPLES" not in os.environ,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    return case


texts = st.sampled_from(["", "a", "b", "x" * 14, "x" * 15, "\ud800", "v" * 300])
ints = st.sampled_from([0, 1, 2, -1, 7, 2**63 - 1, -(2**63), 2**63, 10**40])
scalars = st.one_of(st.none(), st.booleans(), ints, texts, st.sampled_from([1.5, -0.5, b"", b"\xff" * 20]))
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["k", "l", 1]), inner, max_size=2),
    max_leaves=5,
)
slices = st.builds(
    slice,
    st.none() | st.integers(-40, 70),
    st.none() | st.integers(-40, 70),
    st.none() | st.sampled_from([-3, -2, -1, 1, 2, 5, 0]),
)
