"""Dict against the plain dict: the same operations, over several transactions in flight, and re-attached between."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize

import recoverable
from recoverable import Arena
from support.machines import Machine, Named, case_of, with_savepoints
from support.models import NoPlaceError, Operation, Place, canonical
from support.workers import Request, pause

NAN = float("nan")
LONG = "k" * 5000  # longer than a page
# Not -0.0: as a key it equals 0.0 and is kept as that.
KEYS: list[Any] = [
    "a", "b", "c", "", b"", b"a", "\ud800", "\ud800x", "ß", LONG, LONG + "x", LONG.encode(),
    None, 0, 1, 1.0, True, False, 0.0, -1, 2, 2.5, NAN, float("inf"), 2**53, float(2**53), 2**63 - 1, -(2**63), 2**63,
    float(2**63), 2**64, float(2**64), 10**40, -(10**40), "x" * 11, "x" * 12, "x" * 15, "x" * 16,
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**63 - 1, -(2**63), 2**63, 10**50, -(10**50), 0.0, -0.0, 1.5, NAN, float("-inf"),
    "", "x", "x" * 11, "x" * 12, "x" * 13, "x" * 14, "x" * 15, "x" * 16, "\ud800", "ü" * 9, "v" * 5000,
    b"", b"\0" * 11, b"\0" * 14, b"\0" * 15, b"\xff" * 300,
]  # fmt: skip

keys = st.sampled_from(KEYS)
few_keys = st.sampled_from(["a", "b", "c", 1, True, None, ""])
scalars = st.sampled_from(VALUES)
trees = st.recursive(scalars, lambda inner: st.dictionaries(few_keys, inner, max_size=4), max_leaves=6)


class Dicts(Place):
    """A root in which a path may lead nowhere."""

    def at(self, path: list[str]) -> Any:
        found = self.root
        for key in path:
            if key not in found:
                raise NoPlaceError
            found = found[key]
            if not isinstance(found, dict | recoverable.Dict):
                raise NoPlaceError
        return found


def plain(value: Any) -> Any:
    return value.to_python() if isinstance(value, recoverable.Dict) else copy.deepcopy(value)


def set_item(path: list[str], key: Any, value: Any) -> Operation:
    def run(place: Dicts) -> None:
        place.at(path)[key] = copy.deepcopy(value)

    return Named(f"set {path} {key!r:.20} {value!r:.30}", run)


def delete(path: list[str], key: Any) -> Operation:
    def run(place: Dicts) -> None:
        del place.at(path)[key]

    return Named(f"del {path} {key!r:.20}", run)


def get(path: list[str], key: Any) -> Operation:
    return Named(f"get {path} {key!r:.20}", lambda place: plain(place.at(path)[key]))


def contains(path: list[str], key: Any) -> Operation:
    return Named(f"in {path} {key!r:.20}", lambda place: key in place.at(path))


def pop(path: list[str], key: Any) -> Operation:
    return Named(f"pop {path} {key!r:.20}", lambda place: place.at(path).pop(key, "none"))


def setdefault(path: list[str], key: Any, value: Any) -> Operation:
    return Named(
        f"setdefault {path} {key!r:.20}",
        lambda place: plain(place.at(path).setdefault(key, copy.deepcopy(value))),
    )


def walk(path: list[str], what: str) -> Operation:
    def run(place: Dicts) -> Any:
        there = place.at(path)
        if what == "len":
            return len(there)
        if what == "reversed":
            return list(reversed(there))
        if what == "first":
            return next(iter(there), None)
        return [plain(item) if what == "values" else canonical(item) for item in getattr(there, what)()]

    return Named(f"{what} {path}", run)


def many(path: list[str], first: int, amount: int) -> Operation:
    def run(place: Dicts) -> None:
        there = place.at(path)
        for i in range(first, first + amount):
            there[i] = i

    return Named(f"many {path} {first}+{amount}", run)


def fewer(path: list[str], amount: int) -> Operation:
    def run(place: Dicts) -> None:
        there = place.at(path)
        for key in list(there)[:amount]:
            del there[key]

    return Named(f"fewer {path} {amount}", run)


places = st.sampled_from([[], [], ["n"], ["n"], ["n", "m"]])  # few, so that requests meet
often = st.sampled_from(["a", "b", "n", "m", 1])
simple = st.one_of(
    st.builds(set_item, places, often, scalars),
    st.builds(set_item, places, often, scalars),
    st.builds(set_item, places, keys, scalars),
    st.builds(set_item, places, st.sampled_from(["n", "m", "a"]), trees),
    st.builds(delete, places, often),
    st.builds(delete, places, keys),
    st.builds(get, places, often),
    st.builds(get, places, keys),
    st.builds(contains, places, often),
    st.builds(contains, places, keys),
    st.builds(pop, places, often),
    st.builds(setdefault, places, often, trees),
    st.builds(walk, places, st.sampled_from(["len", "keys", "values", "items", "reversed", "first"])),
    st.builds(lambda path: Named(f"popitem {path}", lambda place: place.at(path).popitem()), places),
    st.builds(lambda path: Named(f"clear {path}", lambda place: place.at(path).clear()), places),
    st.builds(many, places, st.integers(0, 50), st.integers(1, 40)),
    st.builds(fewer, places, st.integers(1, 60)),
)


class DictMachine(Machine):
    side = Dicts
    operations = with_savepoints(simple)

    @initialize(content=st.dictionaries(keys, trees, max_size=5), nested=st.dictionaries(few_keys, scalars, max_size=3))
    def fill(self, content: dict[Any, Any], nested: dict[Any, Any]) -> None:
        with self.arena.transaction():
            for root in (self.arena.root, self.bench.committed.root):
                root.update(copy.deepcopy(content))
                root["n"] = {**copy.deepcopy(nested), "m": {}}


TestDictModel = case_of(DictMachine, examples=80)


@pytest.mark.slow
@pytest.mark.parametrize("in_steps", [False, True])
def test_growth_over_every_depth_keeps_order_and_keys(in_steps: bool) -> None:
    """Thousands of keys, past each size of the bucket table, in one step or in many, and all deletable again."""
    with Arena.temporary("64 MiB") as arena:
        model: dict[int, int] = {}

        async def fill() -> None:
            root = arena.root
            for i in range(3000):
                root[i * 7919 % 10007] = i
                model[i * 7919 % 10007] = i
                if in_steps and i % 500 == 0:
                    await pause()

        request = Request(arena, fill)
        while not request.done:
            request.step()
            if not request.done:
                assert len(arena.root) == 0
        assert list(arena.root.items()) == list(model.items())
        arena.verify()
        with arena.transaction():
            for key in list(model)[::2]:
                del model[key], arena.root[key]
        assert list(arena.root.items()) == list(model.items())
        assert arena.verify().leaked_blocks == 0


@pytest.mark.slow
def test_a_table_of_three_levels_holds_every_key() -> None:
    """More than 512 x 512 buckets need a third level; nothing is lost, and deleting it gives the memory back."""
    amount = 512 * 512 + 5000
    with Arena.temporary("128 MiB", undo_size="64 MiB") as arena:
        with arena.transaction():
            arena.root["big"] = {}
        for first in range(0, amount, 20000):
            with arena.transaction():
                big = arena.root["big"]
                for i in range(first, min(first + 20000, amount)):
                    big[i] = i
        big = arena.root["big"]
        assert len(big) == amount
        assert all(big[i] == i for i in range(0, amount, 97))
        assert all(a == b for a, b in zip(big, range(amount), strict=True))
        used = arena.stats().used
        arena.verify()
        with arena.transaction():
            del arena.root["big"]
        turns = 0
        while arena.stats().used > used // 100:  # reclaimed a slice at each commit
            with arena.transaction():
                arena.root["n"] = turns
            turns += 1
            assert turns < amount
        assert arena.verify().leaked_blocks == 0
