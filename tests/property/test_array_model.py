"""Array against a plain list: items, slices, raw memory, over several transactions in flight."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any, Self

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from recoverable import Arena, Array
from support.machines import Machine, Named, case_of, with_savepoints
from support.models import Side

SIZE = 1300  # items of 8 bytes: two pages and a half
EDGES = [0, 1, 2, 7, 8, 511, 512, 513, 1023, 1024, 1025, SIZE - 1]


class Items(Side):
    """An Array of the arena, or the list that stands for it."""

    def __init__(self, items: Any, arena: Arena | None = None) -> None:
        self.items = items
        self.arena = arena

    @classmethod
    def of(cls, arena: Arena) -> Self:
        return cls(arena.root["a"], arena)

    @classmethod
    def model(cls) -> Self:
        return cls([0] * SIZE)

    def look(self) -> list[int]:
        return self.items.to_python() if self.arena else list(self.items)

    def copy(self) -> Self:
        return type(self)(list(self.items))

    def restore(self, kept: Self) -> None:
        self.items[:] = kept.items

    def get(self, i: int) -> int:
        return self.items[i]

    def put(self, i: int, value: int) -> None:
        self.items[i] = value

    def read(self, at: int, size: int) -> list[int]:
        return [int(n) for n in self.items[at : at + size]]

    def write(self, at: int, values: list[int]) -> None:
        values = values[: SIZE - at]
        self.items[at : at + len(values)] = values

    def fill(self, value: int) -> None:
        if self.arena:
            self.items.fill(value)
        else:
            self.items[:] = [value] * SIZE

    def raw(self, how: str, at: int, values: list[int]) -> None:
        """Write through memory that the library does not watch by calls."""
        if self.arena:
            values = values[: SIZE - at]
            RAW[how](self.items, at, values)
        else:
            self.write(at, values)


def by_numpy(array: Array, at: int, values: list[int]) -> None:
    array.view[at : at + len(values)] = values


def by_memoryview(array: Array, at: int, values: list[int]) -> None:
    with memoryview(array.view) as view:
        for i, value in enumerate(values):
            view[at + i] = value


def by_ctypes(array: Array, at: int, values: list[int]) -> None:
    structure = (ctypes.c_int64 * len(values)).from_buffer(memoryview(array.view).cast("B"), at * 8)
    for i, value in enumerate(values):
        structure[i] = value


def by_edit(array: Array, at: int, values: list[int]) -> None:
    with array.edit(slice(at, at + len(values))) as part:
        part[:] = values


RAW = {"numpy": by_numpy, "memoryview": by_memoryview, "ctypes": by_ctypes, "edit": by_edit}

places = st.one_of(st.sampled_from(EDGES[:4]), st.sampled_from(EDGES), st.integers(0, SIZE - 1))
values = st.integers(-5, 5) | st.sampled_from([2**63 - 1, -(2**63)])
lengths = st.sampled_from([1, 3, 8, 9, 64, 600])
runs = st.lists(values, min_size=1, max_size=40)
# A raw store of what is committed there already can't be seen, and is no write. So raw stores are of values that never come again.
serial = itertools.count(1_000_000)
unseen = st.just(0).map(lambda _: next(serial))
raw_runs = st.lists(unseen, min_size=1, max_size=40)
simple = st.one_of(
    st.builds(lambda i: Named(f"get {i}", lambda a: a.get(i)), places),
    st.builds(lambda i, v: Named(f"put {i} {v}", lambda a: a.put(i, v)), places, values),
    st.builds(lambda i: Named(f"add {i}", lambda a: a.put(i, (a.get(i) + 1) % 1000)), places),
    st.builds(lambda i, n: Named(f"read {i}+{n}", lambda a: a.read(i, n)), places, lengths),
    st.builds(lambda i, v: Named(f"write {i} {v}", lambda a: a.write(i, v)), places, runs),
    st.builds(lambda v: Named(f"fill {v}", lambda a: a.fill(v)), values),
    st.builds(
        lambda how, i, v: Named(f"{how} {i} {v}", lambda a: a.raw(how, i, v)),
        st.sampled_from(list(RAW)),
        places,
        raw_runs,
    ),
)


class ArrayMachine(Machine):
    side = Items
    operations = with_savepoints(simple)

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Any] = []
        with self.arena.transaction():
            self.arena.root["a"] = Array(SIZE, "i8")
            self.arena.root["neighbour"] = Array(SIZE, "i8")
            self.arena.root["neighbour"].fill(7)

    def let_go(self) -> None:
        super().let_go()
        self.held.clear()

    @precondition(lambda self: len(self.held) < 2)
    @rule()
    def hold_view(self) -> None:
        """A writable view that outlives its transaction makes every step enter at its start."""
        with self.arena.transaction():
            self.held.append(self.arena.root["a"].view)

    @precondition(lambda self: self.held)
    @rule(i=places, value=unseen)
    def write_held_in_a_block(self, i: int, value: int) -> None:
        with self.arena.transaction():
            self.held[-1][i] = value
        self.bench.committed.items[i] = value

    @precondition(lambda self: self.held and self.bench.workers)
    @rule(number=st.integers(0, 3), i=places, value=unseen)
    def write_held_in_a_step(self, number: int, i: int, value: int) -> None:
        view = self.held[-1]

        def write(items: Items) -> None:
            (view if items.arena else items.items)[i] = value

        self.bench.step(self.bench.worker(number), [Named(f"held {i} {value}", write)])

    @precondition(lambda self: self.held)
    @rule(i=places, value=unseen)
    def stray(self, i: int, value: int) -> None:
        """A raw write outside any step never reaches the arena."""
        self.held[-1][i] = value
        self.bench.check()

    @precondition(lambda self: self.held)
    @rule()
    def release(self) -> None:
        self.held.pop()

    @invariant()
    def neighbours_are_untouched(self) -> None:
        assert np.all(np.asarray(self.arena.root["neighbour"]) == 7)


TestArrayModel = case_of(ArrayMachine, examples=60)
