"""A state machine for any container: the same operations on it and on its Python original, at two depths.

The test of a container names its operations (`call`, `apply`, `inplace`, `replace`, `comparisons`) and gives them to `machine`.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import operator
from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import initialize

import recoverable
from recoverable import Record
from support.machines import Machine, Named, case_of, drawn, with_savepoints
from support.models import Operation, Place, canonical

# What the originals raise: the containers must raise the same.
EXPECTED = (IndexError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError)

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


class Containers(Place):
    """The container under test in a root, at two depths."""

    def look(self) -> Any:
        return canonical(plain(self.root))

    def change(self, path: tuple[str, ...], change: Callable[[Any], Any]) -> None:
        """`root[..][key] op= ...`: read, change in place, store."""
        parent = self.at(path[:-1])
        parent[path[-1]] = change(parent[path[-1]])


def operation(name: str, run: Callable[[Containers], Any]) -> Operation:
    """Give it a name, and make an answer of what it raises as its original does."""

    def body(place: Containers) -> Any:
        try:
            return ("gave", canonical(plain(run(place))))
        except EXPECTED as error:
            return ("raised", type(error).__name__)

    return Named(name[:80], body)


def on(path: tuple[str, ...], name: str, run: Callable[[Any], Any]) -> Operation:
    """An operation on the container at a path."""
    return operation(f"{'.'.join(path)}.{name}", lambda place: run(place.at(path)))


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
        def run(place: Containers) -> None:
            place.change(path, lambda container: function(container, *copy.deepcopy(given)))

        return operation(f"{'.'.join(path)} {name} {given!r}", run)

    return st.builds(build, places, st.tuples(*arguments))


def replace(
    make: st.SearchStrategy[Any], store: Callable[[Any], Any] = lambda value: value
) -> st.SearchStrategy[Operation]:
    """`root["x"] = original`: the old container goes; `store` makes of an original what is stored in the arena."""

    def build(path: tuple[str, ...], original: Any) -> Operation:
        def run(place: Containers) -> None:
            fresh = copy.deepcopy(original)
            place.at(path[:-1])[path[-1]] = fresh if place.arena is None else store(fresh)

        return operation(f"{'.'.join(path)} = {original!r}", run)

    return st.builds(build, places, make)


def comparisons(others: st.SearchStrategy[Any], *names: str) -> st.SearchStrategy[Operation]:
    """`container == other` and so on, with plain objects on the right."""
    tests = [getattr(operator, name) for name in names or ("eq", "ne", "lt", "le", "gt", "ge")]
    return apply("compared", lambda container, test, other: test(container, other), st.sampled_from(tests), others)


class ContainerMachine(Machine):
    """Two containers of a kind. The test gives `originals` and `store`, beside `operations`."""

    side = Containers
    race = None  # steps of several in flight are mixed by the test's own rules
    originals: ClassVar[st.SearchStrategy[Any]]
    store: ClassVar[Callable[[Any], Any]]

    @initialize(first=drawn("originals"), second=drawn("originals"))
    def fill(self, first: Any, second: Any) -> None:
        self.bench.committed.root.update({"deep": {"x": copy.deepcopy(second)}, "x": copy.deepcopy(first)})
        with self.arena.transaction():
            self.arena.root["deep"] = {"x": self.store(copy.deepcopy(second))}
            self.arena.root["x"] = self.store(copy.deepcopy(first))


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
    given = {"operations": with_savepoints(simple), "originals": originals, "store": staticmethod(store)}
    return case_of(type("ContainerMachine", (ContainerMachine,), given), examples=20)


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
