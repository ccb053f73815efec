"""A container of each kind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from recoverable import Array, Counter, List, Record


class Leaf(Record, name="unit.Leaf"):
    n: int = 0


class Tree(Record, name="unit.Tree"):
    name: str
    leaf: Leaf | None = None
    maybe: int | None = None
    ratio: float = 1.0
    marks: List[int] = List()


MAKE: dict[str, Callable[[], Any]] = {
    "dict": lambda: {"a": {"b": 1}},
    "list": lambda: [1, [2]],
    "set": lambda: {1, 2},
    "deque": lambda: deque([1, [2]], 5),
    "counter": lambda: Counter(3),
    "record": lambda: Tree("t", Leaf(1)),
    "array": lambda: Array((3,), "f8"),
}
