"""Random work on an arena, over all kinds of containers, raw buffers, savepoints, requests and independent transactions."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from recoverable import (
    Arena,
    Array,
    ConflictError,
    Counter,
    Deque,
    Record,
    Set,
    StaleReferenceError,
    TransactionError,
    recoverable,
)

__all__ = ["Doing", "Undone", "plain", "prepare"]

KINDS = ["dict", "list", "deque", "record", "array", "deep"]


class Spot(Record, name="support.doing.Spot"):
    x: int = 0
    note: str = ""


class Undone(Exception):
    """Ends a transaction by a rollback."""


def plain(arena: Arena) -> Any:
    """Read everything, comparably."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(each) for key, each in value.items()}
        if isinstance(value, np.ndarray):
            return "array", value.dtype.str, value.tobytes()
        return [walk(each) for each in value] if isinstance(value, list | tuple) else value

    return walk(arena.root.to_python())


def prepare(arena: Arena) -> None:
    """Fill an arena with what Doing changes."""
    with arena.transaction():
        arena.root.update(
            {"d": {}, "l": [], "big": {}, "q": Deque(), "c": Counter(), "s": Set(), "a": Array(4096, "f8")}
        )
        arena.root["r"] = Spot()
        arena.root["boxes"] = {}
        for kind in KINDS:
            arena.root["boxes"][kind] = box(kind, 0, 0)
        arena.root["row"] = [{"n": i, "in": {"x": 0}} for i in range(4)]
        arena.root["line"] = Deque([{"n": i, "in": {"x": 0}} for i in range(4)])


def box(kind: str, x: Any, y: Any) -> Any:
    """Return a container of a kind, of two values."""
    match kind:
        case "dict":
            return {"x": x, "y": y}
        case "list":
            return [x, y]
        case "deque":
            return Deque([x, y])
        case "record":
            return Spot(x=x, note=str(y))
        case "array":
            return Array([x, y], "i8")
    return {"x": {"z": [x]}, "y": {"z": [y]}}


class Doing:
    """Random changes to an arena that prepare() has filled; `large`: to containers of any size."""

    def __init__(self, arena: Arena, rng: random.Random, *, large: bool = True) -> None:
        self.arena, self.rng, self.large = arena, rng, large
        self.changes: list[Callable[[], object]] = [
            getattr(self, name) for name in sorted(dir(self)) if name.startswith("do_")
        ]

    def do_set(self) -> None:
        value = self.rng.choice(
            [1, 2.5, None, "short", "x" * self.rng.randrange(1, 3000), b"y" * self.rng.randrange(200)]
        )
        self.arena.root["d"][f"key{self.rng.randrange(300)}"] = value

    def do_delete(self) -> None:
        self.arena.root["d"].pop(f"key{self.rng.randrange(300)}", None)

    def do_clear(self) -> None:
        if self.rng.random() < 0.1:
            self.arena.root["d"].clear()

    def do_extend(self) -> None:
        self.arena.root["l"].extend(range(self.rng.randrange(60)))

    def do_cut(self) -> None:
        items = self.arena.root["l"]
        if len(items):
            del items[self.rng.randrange(len(items)) :]

    def do_queue(self) -> None:
        queue = self.arena.root["q"]
        queue.append(self.rng.randrange(10**6)) if self.rng.random() < 0.6 or not len(queue) else queue.popleft()

    def do_count(self) -> None:
        self.arena.root["c"].add(self.rng.randrange(-5, 9))

    def do_add(self) -> None:
        (self.arena.root["s"].add if self.rng.random() < 0.6 else self.arena.root["s"].discard)(self.rng.randrange(500))

    def do_item(self) -> None:
        self.arena.root["a"][self.rng.randrange(4096)] = self.rng.random()

    def do_raw(self) -> None:
        at = self.rng.randrange(4000)
        self.arena.root["a"].view[at : at + 50] += 1.0

    def do_edit(self) -> None:
        with self.arena.root["a"].edit() as view:
            view[self.rng.randrange(4096)] = self.rng.random()

    def do_again(self) -> None:
        """Write an item raw and by announcement, in any order, often the same value."""
        at, value = self.rng.randrange(4096), self.rng.random()
        for way in self.rng.choices(["item", "items", "view", "edit"], k=3):
            match way:
                case "item":
                    self.arena.root["a"][at] = value
                case "items":
                    self.arena.root["a"][at : at + 20] = value
                case "view":
                    self.arena.root["a"].view[at] = value
                case "edit":
                    with self.arena.root["a"].edit(slice(at, at + 1)) as part:
                        part[0] = value
            value = value if self.rng.random() < 0.8 else self.rng.random()

    def do_record(self) -> None:
        self.arena.root["r"].x += 1
        self.arena.root["r"].note = "n" * self.rng.randrange(100)

    def do_tree(self) -> None:
        n = self.rng.randrange(200 if self.large else 20)
        self.arena.root["big"][self.rng.randrange(20)] = {f"k{i}": [i, {"z": i}] for i in range(n)}

    def do_fell(self) -> None:
        self.arena.root["big"].pop(self.rng.randrange(20), None)

    def do_array(self) -> None:
        self.arena.root["big"]["array"] = Array(
            self.rng.choice([10, 600, 20000, 100000][: None if self.large else 2]), "f4"
        )

    def do_fill(self) -> None:
        if "array" in self.arena.root["big"]:
            view = self.arena.root["big"]["array"].view
            view[: len(view) // 2] = self.rng.random()

    def do_replace(self) -> None:
        """Put another container of its kind in a container's place: often one that is equal, or nearly."""
        boxes, kind = self.arena.root["boxes"], self.rng.choice(KINDS)
        copy = boxes[kind].copy() if self.rng.random() < 0.5 else box(kind, self.rng.randrange(3), 0)
        boxes[kind] = copy
        if self.rng.random() < 0.3:
            self.do_open()

    def do_open(self) -> None:
        """Write to what is in a container that may be replaced."""
        boxes, kind, n = self.arena.root["boxes"], self.rng.choice(KINDS), self.rng.randrange(3)
        match kind:
            case "dict":
                boxes[kind][self.rng.choice("xy")] = n
            case "record":
                boxes[kind].x = n
            case "deep":
                boxes[kind][self.rng.choice("xy")]["z"][0] = n
            case _:
                boxes[kind][self.rng.randrange(2)] = n

    def do_shift(self) -> None:
        """Move the containers in a List or a Deque, and change some of them."""
        items: Any = self.arena.root[self.rng.choice(["row", "line"])]
        for _ in range(self.rng.randrange(1, 4)):
            match self.rng.randrange(5):
                case 0:
                    items.insert(self.rng.randrange(len(items) + 1), {"n": -1, "in": {"x": -1}})
                case 1 if len(items):
                    del items[self.rng.randrange(len(items))]
                case 2:
                    items.reverse()
                case _ if len(items):
                    item = items[self.rng.randrange(len(items))]
                    item["n"] = item["in"]["x"] = self.rng.randrange(9)

    def one(self) -> None:
        """Change something."""
        self.rng.choice(self.changes)()

    def block(self) -> None:
        """Some changes in a block, some of them undone."""
        # StaleReferenceError: it has written raw to an Array, and then dropped it.
        with contextlib.suppress(Undone, StaleReferenceError), self.arena.transaction():
            for _ in range(self.rng.randrange(1, 5)):
                self.one()
            if self.rng.random() < 0.2:
                raise Undone
            with contextlib.suppress(Undone), self.arena.savepoint():
                self.one()
                if self.rng.random() < 0.3:
                    raise Undone

    async def request(self) -> None:
        """Some changes over several steps, with an independent transaction."""

        @recoverable(arena=self.arena, max_conflicts=20)
        async def handler() -> None:
            for _ in range(self.rng.randrange(1, 4)):
                self.one()
                await asyncio.sleep(0)
            if self.rng.random() < 0.2:
                with contextlib.suppress(TransactionError):  # what it is not allowed to write
                    await audit()
            if self.rng.random() < 0.1:
                raise Undone

        @recoverable(arena=self.arena, nested="independent")
        async def audit() -> None:
            self.arena.root["c"].add(1)

        await handler()

    def step(self) -> None:
        """Do one thing or several at once."""
        if self.rng.random() < 0.6:
            self.block()
            return

        async def many() -> None:
            for ending in await asyncio.gather(*(self.request() for _ in range(4)), return_exceptions=True):
                if ending is not None and not isinstance(ending, (Undone, ConflictError, StaleReferenceError)):
                    raise ending

        asyncio.run(many())
