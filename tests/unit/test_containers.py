"""Each kind of container: one parent, handles that say who is meant, an order that stays."""

from __future__ import annotations

import copy
import pickle
from collections import deque
from collections.abc import Callable, MutableSequence, MutableSet
from typing import Any

import pytest

from recoverable import (
    Arena,
    Array,
    Counter,
    Deque,
    Dict,
    List,
    NoTransactionError,
    Record,
    Set,
    StaleReferenceError,
    TransactionError,
)
from support.kinds import MAKE, Leaf

kinds = pytest.mark.parametrize("kind", MAKE)

# -- one parent ---------------------------------------------------------------------------------------------------


@kinds
def test_a_container_has_one_parent(arena: Arena, kind: str) -> None:
    """Storing a stored container again is refused, points to .copy(), and changes nothing; its copy can be stored."""
    root = arena.root
    with arena.transaction():
        root["x"] = MAKE[kind]()
        root["l"] = []
        before = root.to_python()
        for store in (
            lambda: root.__setitem__("y", root["x"]),
            lambda: root["l"].append(root["x"]),
            lambda: root.__setitem__("y", {"deep": [root["x"]]}),
        ):
            with pytest.raises(TransactionError, match=r"one parent.*\.copy\(\)"):
                store()
            assert root.to_python() == before
        if kind != "array":
            root["y"] = root["x"].copy()
            assert root["y"] == root["x"]
    assert arena.verify().leaked_blocks == 0


def test_no_cycles(arena: Arena) -> None:
    """A list or dict that contains itself can't be stored, and nothing of it is."""
    root = arena.root
    plain: list[Any] = [1]
    plain.append(plain)
    mapping: dict[str, Any] = {}
    mapping["self"] = mapping
    handle: List[Any] = List([1])
    handle.append(handle)
    with arena.transaction():
        root["kept"] = [1]
        for value in (plain, mapping, [plain], deque([plain])):
            with pytest.raises(RecursionError):
                root["x"] = value
        for value in (handle, root, {"deep": root}):
            with pytest.raises(TransactionError, match="one parent"):
                root["x"] = value
        with pytest.raises(TransactionError, match="one parent"):
            root["kept"].append(root["kept"])
    assert root == {"kept": [1]}
    assert arena.verify().leaked_blocks == 0


def test_the_root_of_another_arena_cannot_be_stored(arena: Arena) -> None:
    """A container of another arena is refused; the message names .copy()."""
    with Arena.temporary("1 MiB") as other:
        with other.transaction():
            other.root["x"] = [1]
        with arena.transaction():
            with pytest.raises(TransactionError, match=r"store a \.copy\(\) of it"):
                arena.root["x"] = other.root["x"]
            arena.root["x"] = other.root["x"].to_python()
        assert arena.root["x"] == [1]


@pytest.mark.parametrize("value", [object(), 1j, bytearray(b"x"), lambda: 0, (1, [2]), range(3)], ids=repr)
def test_unsupported_values_are_refused_everywhere(arena: Arena, value: Any) -> None:
    """What an arena can't hold is a TypeError that names the way out; the container is as it was."""
    root = arena.root
    with arena.transaction():
        root.update({"d": {}, "l": [1], "q": Deque([1]), "s": {1}})
        before = root.to_python()
        for store in (
            lambda: root["d"].__setitem__("x", value),
            lambda: root["d"].__setitem__("x", [1, {"deep": value}]),
            lambda: root["l"].append(value),
            lambda: root["l"].extend([2, 3, value]),
            lambda: root["l"].__setitem__(slice(0, 1), [5, value]),
            lambda: root["l"].insert(0, [value]),
            lambda: root["q"].appendleft(value),
            lambda: root["q"].extend([2, value]),
            lambda: root.__setitem__("new", Deque([value])),
        ):
            with pytest.raises(TypeError, match=r"register_codec|a tuple with a 'list' in it .* use a list"):
                store()
            assert root.to_python() == before
        with pytest.raises(TypeError):
            root["s"].update([2, [1]])
        assert root.to_python() == before
    assert arena.verify().leaked_blocks == 0


# -- handles ------------------------------------------------------------------------------------------------------


USE: dict[str, Callable[[Any], Any]] = {
    "dict": lambda c: c["a"],
    "list": lambda c: c[0],
    "set": lambda c: 1 in c,
    "deque": lambda c: c[0],
    "counter": lambda c: c.value,
    "record": lambda c: c.name,
    "array": lambda c: c[0],
}


@kinds
@pytest.mark.parametrize("how", ["deleted", "replaced", "cleared", "rolled back", "savepoint", "parent deleted"])
def test_handle_of_a_gone_container_is_stale(arena: Arena, kind: str, how: str) -> None:
    """A handle of a container that was deleted or rolled back raises, also when its memory holds another one."""
    root = arena.root
    handle: Any = None

    def store() -> None:
        root["p"] = {"x": MAKE[kind]()}

    if how == "rolled back":
        with pytest.raises(ZeroDivisionError), arena.transaction():
            store()
            handle = root["p"]["x"]
            USE[kind](handle)
            raise ZeroDivisionError
    elif how == "savepoint":
        with arena.transaction():
            with pytest.raises(ZeroDivisionError), arena.savepoint():
                store()
                handle = root["p"]["x"]
                raise ZeroDivisionError
            with pytest.raises(StaleReferenceError):
                USE[kind](handle)
    else:
        with arena.transaction():
            store()
        handle = root["p"]["x"]
        USE[kind](handle)
        with arena.transaction():
            match how:
                case "deleted":
                    del root["p"]["x"]
                case "replaced":
                    root["p"]["x"] = MAKE[kind]()
                case "cleared":
                    root["p"].clear()
                case _:
                    del root["p"]
            with pytest.raises(StaleReferenceError):
                USE[kind](handle)
    with pytest.raises(StaleReferenceError):
        USE[kind](handle)
    for turn in range(40):  # its memory is reclaimed and used again
        with arena.transaction():
            root[f"again {turn}"] = MAKE[kind]()
            with pytest.raises(StaleReferenceError):
                USE[kind](handle)
    with pytest.raises(StaleReferenceError):
        handle.to_python()


@kinds
def test_two_handles_of_one_container_are_equal_and_see_each_others_changes(arena: Arena, kind: str) -> None:
    """Handles are cheap names: which one is used makes no difference."""
    with arena.transaction():
        arena.root["x"] = MAKE[kind]()
        a, b = arena.root["x"], arena.root["x"]
        assert a is not b
        if kind != "array":
            assert a == b
        match kind:
            case "dict":
                a["new"] = 1
            case "list" | "deque":
                a.append("new")
            case "set":
                a.add("new")
            case "counter":
                a.add(1)
            case "record":
                a.name = "new"
            case _:
                a[0] = 1.0
        assert b.to_python() == a.to_python()
        if kind == "counter":
            with pytest.raises(TypeError):
                hash(a)


@kinds
def test_a_stored_object_is_the_handle(arena: Arena, kind: str) -> None:
    """The object that was stored goes on as a handle of what it was stored as."""
    value = MAKE[kind]()
    if not isinstance(value, Dict | List | Set | Deque | Counter | Record | Array):
        value = {"dict": Dict, "list": List, "set": Set, "deque": Deque}[kind](value)
    with arena.transaction():
        arena.root["x"] = value
        assert value.to_python() == arena.root["x"].to_python()
        arena.root["other"] = 1
    assert value.to_python() == arena.root["x"].to_python()
    with pytest.raises(NoTransactionError):
        arena.root["x"] = 1


def test_an_object_whose_storing_failed_can_be_stored_later(arena: Arena) -> None:
    """A failed operation gives the containers that it was to store back, with their content."""
    inner: List[Any] = List([1])
    outer = Dict({"in": inner, "bad": object()})
    with arena.transaction():
        with pytest.raises(TypeError):
            arena.root["x"] = outer
        with pytest.raises(IndexError):
            arena.root.setdefault("l", [])[3] = inner
        del outer["bad"]
        arena.root["x"] = outer
    assert arena.root == {"l": [], "x": {"in": [1]}}
    assert arena.verify().leaked_blocks == 0


def test_popped_containers_come_as_plain_copies(arena: Arena) -> None:
    """What is taken out of a container is plain Python; the handle that was there is stale."""
    with arena.transaction():
        arena.root.update({"d": {"x": {"a": 1}}, "l": [[1], {"b": 2}], "q": Deque([[3], {4: 5}])})
        handle = arena.root["l"][1]
        popped = [arena.root["d"].pop("x"), arena.root["l"].pop(), arena.root["q"].popleft(), arena.root["q"].pop()]
        with pytest.raises(StaleReferenceError):
            handle["b"]
    assert popped == [{"a": 1}, {"b": 2}, [3], {4: 5}]
    assert all(type(value) in (dict, list) for value in popped)


def test_sorting_and_turning_round_keep_who_the_items_are(arena: Arena) -> None:
    """sort(), reverse() and rotate() move containers, they don't copy them: handles stay good."""
    with arena.transaction():
        arena.root["l"] = [{"n": i} for i in range(50)]
        arena.root["q"] = Deque({"n": i} for i in range(150))
        item, end = arena.root["l"][7], arena.root["q"][140]
        arena.root["l"].sort(key=lambda row: -row["n"])
        arena.root["l"].reverse()
        arena.root["q"].reverse()
        arena.root["q"].rotate(-3)
        item["seen"] = end["seen"] = True
        assert arena.root["l"][7] == {"n": 7, "seen": True}
        assert arena.root["q"][6] == {"n": 140, "seen": True}
    assert arena.verify().leaked_blocks == 0


def test_sort_is_stable_and_a_raising_key_changes_nothing(arena: Arena) -> None:
    """Equal keys keep their order, reversed too; an exception of the key or of a comparison leaves the List as it was."""
    rows = [[i % 3, i] for i in range(70)]
    with arena.transaction():
        arena.root["l"] = rows
        there = arena.root["l"]
        there.sort(key=lambda row: row[0])
        assert there == sorted(rows, key=lambda row: row[0])
        there.sort(key=lambda row: row[0], reverse=True)
        assert there == sorted(sorted(rows, key=lambda row: row[0]), key=lambda row: row[0], reverse=True)
        before = there.to_python()
        with pytest.raises(ZeroDivisionError):
            there.sort(key=lambda row: 1 / row[0])
        there.append("text")
        with pytest.raises(TypeError):
            there.sort()
        assert there.pop() == "text"
        assert there == before

        def meddle(row: Any) -> Any:
            there.append(0)
            return 0

        with pytest.raises(ValueError, match="modified during sort"):
            arena.root["l"].sort(key=meddle)


@pytest.mark.parametrize("kind", ["set", "deque", "dict"])
def test_mutation_during_iteration_is_noticed(arena: Arena, kind: str) -> None:
    """As with the originals, iterating over what changes its size is a RuntimeError."""
    with arena.transaction():
        arena.root["x"] = MAKE[kind]()
        there = arena.root["x"]
        change = {"set": lambda: there.add(9), "deque": lambda: there.append(9), "dict": lambda: there.pop("a")}[kind]
        with pytest.raises(RuntimeError):
            for _ in there:
                change()


def test_sets_keep_insertion_order_and_the_member_that_came_first(arena: Arena) -> None:
    """A Set iterates in the order of insertion; adding an equal member changes nothing."""
    with arena.transaction():
        arena.root["s"] = Set([3, 1, 2, True, 1.0])
        there = arena.root["s"]
        there.add(3.0)
        there.discard(3)
        there.add(3)
        there |= {9}
        assert list(there) == [1, 2, 3, 9]
        assert [type(member) for member in there] == [int] * 4
        assert list(reversed(there)) == [9, 3, 2, 1]
        assert there.pop() == 9
    assert repr(arena.root["s"]) == "Set({1, 2, 3})"
    assert repr(Set()) == "Set()"


def test_abcs() -> None:
    """isinstance() tells what they behave as."""
    assert isinstance(List(), MutableSequence)
    assert isinstance(Deque(), MutableSequence)
    assert isinstance(Set(), MutableSet)
    for value in (List(), Deque(), Set(), Counter(), Dict(), Leaf()):
        with pytest.raises(TypeError):
            hash(value)


@kinds
def test_copy_module_makes_a_copy_that_is_not_stored_and_pickle_says_why_not(arena: Arena, kind: str) -> None:
    """copy.copy and copy.deepcopy are .copy(); pickling a handle is a TypeError that names .to_python()."""
    with arena.transaction():
        arena.root["x"] = MAKE[kind]()
        there = arena.root["x"]
        for copied in (copy.copy(there), copy.deepcopy({"in": [there]})["in"][0]):
            assert type(copied) is type(there)
            arena.root["y"] = copied  # as nothing that is stored could be
            assert copied.to_python() == there.to_python()
        with pytest.raises(TypeError, match=r"pickled.*to_python"):
            pickle.dumps(there)
    assert arena.verify().leaked_blocks == 0
