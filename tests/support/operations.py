"""What transactions of recorded histories do: operations as data, which run alike on an arena and on plain objects.

An operation is a tuple, its name first: `("d.set", "x", 7)`. `run(operation, root)` gives its answer as plain data. The
plain objects are the model by which a history is judged (support.serial), so no operation looks at more than content.
"""

from __future__ import annotations

import pickle
import random
import types
from collections import deque
from collections.abc import Callable
from typing import Any

from recoverable import Arena, Array, Counter, Deque, Record

Operation = tuple[Any, ...]
Root = Any

ITEMS = 700  # of 8 bytes: two pages
KEYS = ("x", "y", "z", "u", "v", "w")
PLACES = (0, 1, 2, 3, 510, 511, 512, 513, 690)  # items of the Array, around its page's end
RAISED = "raised"
APART = 10**6  # the values of a Dice: farther than additions to one of them reach, which would make another of them


class Row(Record, name="histories.Row"):
    """Two fields."""

    x: int = 10
    y: int = 20


class Number:
    """The plain object that a Counter stands for."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def add(self, n: int) -> None:
        self.value += n


class Undone(Exception):
    """Leaves a savepoint or a block, and rolls it back."""


def model() -> dict[str, Any]:
    """Return what histories begin with, as plain objects."""
    return {
        "l": [10, 20, *range(30, 30 + 38)],  # several chunks
        "d": {"x": 10, "y": 20},
        "n": {"x": {"x": 1}, "y": {}},
        "s": {10, 20},
        "c": Number(),
        "q": deque([10, 20]),
        "a": [10, *[0] * (ITEMS - 1)],
        "r": types.SimpleNamespace(x=10, y=20),
    }


def fill(arena: Arena) -> None:
    """Store the same in an arena."""
    plain = model()
    stored = {"c": Counter(), "q": Deque(plain["q"]), "a": Array(plain["a"], "i8"), "r": Row()}
    with arena.transaction():
        arena.root.clear()
        arena.root.update(plain | stored)


def copy(state: dict[str, Any]) -> dict[str, Any]:
    """Copy a model."""
    return pickle.loads(pickle.dumps(state))  # type: ignore[no-any-return]


def look(root: Root) -> dict[str, Any]:
    """Return all of the content, order included where there is one, comparably."""
    return {
        "l": list(root["l"]),
        "d": list(root["d"].items()),
        "n": [(key, list(inner.items())) for key, inner in root["n"].items()],
        "s": sorted(root["s"]),
        "c": root["c"].value,
        "q": list(root["q"]),
        "a": _items(root["a"]),
        "r": (root["r"].x, root["r"].y),
    }


def _items(array: Any) -> list[int]:
    return list(array) if isinstance(array, list) else array.to_python()  # type: ignore[no-any-return]


def _raw(array: Any, at: int, values: list[int]) -> None:
    if isinstance(array, list):
        array[at : at + len(values)] = values
    else:
        array.view[at : at + len(values)] = values


def _store(container: Any, key: Any, value: Any) -> None:
    container[key] = value


def _add(container: Any, key: Any, n: int) -> int:
    container[key] += n
    return int(container[key])


def _delete(container: Any, key: Any) -> None:
    del container[key]


OPERATIONS: dict[str, Callable[..., Any]] = {
    "l.get": lambda root, i: root["l"][i],
    "l.set": lambda root, i, v: _store(root["l"], i, v),
    "l.append": lambda root, v: root["l"].append(v),
    "l.insert": lambda root, i, v: root["l"].insert(i, v),
    "l.pop": lambda root: root["l"].pop(),
    "l.delete": lambda root, i: _delete(root["l"], i),
    "l.len": lambda root: len(root["l"]),
    "l.all": lambda root: list(root["l"]),
    "l.reverse": lambda root: root["l"].reverse(),
    "d.get": lambda root, k: root["d"].get(k),
    "d.set": lambda root, k, v: _store(root["d"], k, v),
    "d.add": lambda root, k, n: _add(root["d"], k, n),
    "d.pop": lambda root, k: root["d"].pop(k),
    "d.has": lambda root, k: k in root["d"],
    "d.len": lambda root: len(root["d"]),
    "d.keys": lambda root: list(root["d"]),
    "d.items": lambda root: list(root["d"].items()),
    "d.clear": lambda root: root["d"].clear(),
    "n.new": lambda root, k, v: _store(root["n"], k, {"x": v}),
    "n.pop": lambda root, k: _delete(root["n"], k),
    "n.get": lambda root, k, f: root["n"][k].get(f),
    "n.set": lambda root, k, f, v: _store(root["n"][k], f, v),
    "n.all": lambda root: look(root)["n"],
    "s.add": lambda root, v: root["s"].add(v),
    "s.discard": lambda root, v: root["s"].discard(v),
    "s.has": lambda root, v: v in root["s"],
    "s.len": lambda root: len(root["s"]),
    "s.all": lambda root: sorted(root["s"]),
    "c.add": lambda root, n: root["c"].add(n),
    "c.value": lambda root: root["c"].value,
    "q.append": lambda root, v: root["q"].append(v),
    "q.appendleft": lambda root, v: root["q"].appendleft(v),
    "q.pop": lambda root: root["q"].pop(),
    "q.popleft": lambda root: root["q"].popleft(),
    "q.first": lambda root: root["q"][0],
    "q.len": lambda root: len(root["q"]),
    "q.all": lambda root: list(root["q"]),
    "a.get": lambda root, i: int(root["a"][i]),
    "a.set": lambda root, i, v: _store(root["a"], i, v),
    "a.add": lambda root, i, n: _add(root["a"], i, n),
    "a.some": lambda root, i, n: [int(v) for v in root["a"][i : i + n]],
    "a.fill": lambda root, i, values: _store(root["a"], slice(i, i + len(values)), values),
    "a.all": lambda root: sum(_items(root["a"])),
    "a.raw": lambda root, i, values: _raw(root["a"], i, values),
    "r.get": lambda root, f: getattr(root["r"], f),
    "r.set": lambda root, f, v: setattr(root["r"], f, v),
}


def run(operation: Operation, root: Root, arena: Arena | None = None) -> Any:
    """Run one operation; what it gave, or which error.

    Args:
        operation: `(name, *arguments)`, or `("savepoint", keep, operations)`.
        root: The arena's root, or a model.
        arena: The arena, where `root` is one's.
    """
    name, *arguments = operation
    if name == "savepoint":
        return _savepoint(*arguments, root, arena)
    try:
        return OPERATIONS[name](root, *arguments)
    except (KeyError, IndexError) as error:
        return (RAISED, type(error).__name__)


def _savepoint(keep: bool, operations: tuple[Operation, ...], root: Root, arena: Arena | None) -> list[Any]:
    answers: list[Any] = []
    if arena is None:
        before = copy(root)
        answers += [run(operation, root) for operation in operations]
        if not keep:
            root.update(before)
        return answers
    try:
        with arena.savepoint():
            answers += [run(operation, root, arena) for operation in operations]
            if not keep:
                raise Undone
    except Undone:
        pass
    return answers


class Dice:
    """Random operations, with few keys, so that they meet, and values that were never anywhere before they are written.

    Not even as the sum of another value and what was added to it: a raw store of what is committed there already can't be
    seen, and counts as none, which no model of plain objects does.

    Args:
        rng: Where the randomness comes from.
    """

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.value = 1000

    def fresh(self) -> int:
        """Return a value that no other operation writes or adds up to."""
        self.value += APART
        return self.value

    def operation(self, depth: int = 0) -> Operation:
        """Return one."""
        rng = self.rng
        if depth == 0 and rng.random() < 0.06:
            inner = tuple(self.operation(1) for _ in range(rng.randrange(1, 4)))
            return ("savepoint", rng.random() < 0.4, inner)
        name = rng.choice(NAMES)
        return (name, *(self._argument(kind, name) for kind in ARGUMENTS[name]))

    def operations(self, most: int) -> list[Operation]:
        """Return a few."""
        return [self.operation() for _ in range(self.rng.randrange(most + 1))]

    def _argument(self, kind: str, name: str) -> Any:
        rng = self.rng
        match kind:
            case "key":
                return rng.choice(KEYS)
            case "field":
                return rng.choice(("x", "y"))
            case "value" if name.startswith("s."):
                return rng.choice((10, 20, 30, 31, 32, 33))  # a set's are its keys
            case "value":
                return self.fresh()
            case "amount":
                return rng.randrange(1, 100)
            case "position":
                return rng.choice((0, 1, 2, 17, 35, -1))
            case "item":
                return rng.choice(PLACES)
            case "length":
                return rng.randrange(1, 9)
            case _:
                return [self.fresh() for _ in range(rng.randrange(1, 6))]


ARGUMENTS: dict[str, tuple[str, ...]] = {
    "l.get": ("position",), "l.set": ("position", "value"), "l.append": ("value",), "l.insert": ("position", "value"),
    "l.pop": (), "l.delete": ("position",), "l.len": (), "l.all": (), "l.reverse": (),
    "d.get": ("key",), "d.set": ("key", "value"), "d.add": ("key", "amount"), "d.pop": ("key",), "d.has": ("key",),
    "d.len": (), "d.keys": (), "d.items": (), "d.clear": (),
    "n.new": ("key", "value"), "n.pop": ("key",), "n.get": ("key", "field"), "n.set": ("key", "field", "value"),
    "n.all": (),
    "s.add": ("value",), "s.discard": ("value",), "s.has": ("value",), "s.len": (), "s.all": (),
    "c.add": ("amount",), "c.value": (),
    "q.append": ("value",), "q.appendleft": ("value",), "q.pop": (), "q.popleft": (), "q.first": (), "q.len": (),
    "q.all": (),
    "a.get": ("item",), "a.set": ("item", "value"), "a.add": ("item", "amount"), "a.some": ("item", "length"),
    "a.fill": ("item", "values"), "a.all": (), "a.raw": ("item", "values"),
    "r.get": ("field",), "r.set": ("field", "value"),
}  # fmt: skip

# Reads of everything meet everybody, and what shifts a list stops all others in it: seldom.
_RARE = {"l.all", "l.insert", "l.delete", "l.reverse", "l.len", "d.keys", "d.items", "d.len", "d.clear", "n.all",
         "n.pop", "s.all", "s.len", "q.len", "q.all", "a.all", "c.value"}  # fmt: skip
NAMES = [name for name in ARGUMENTS for _ in range(1 if name in _RARE else 4)]
