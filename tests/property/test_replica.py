"""Is a copy that the feed alone brings forward what the arena is, in both modes, whatever was done, and by whomever?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from recoverable import Arena, ArenaNotFoundError, Array, Counter, Deque, Record, Set, recoverable
from recoverable._native import _switches
from support.children import child
from support.forks import in_child
from support.replica import Replica

STEPS = int(os.environ.get("RECOVERABLE_REPLICA_STEPS", "150"))


class Spot(Record, name="a spot of the replica's test"):
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
    with arena.transaction():
        arena.root.update(
            {"d": {}, "l": [], "big": {}, "q": Deque(), "c": Counter(), "s": Set(), "a": Array(4096, "f8")}
        )
        arena.root["r"] = Spot()


class Doing:
    """Random changes to an arena that prepare() has filled."""

    def __init__(self, arena: Arena, rng: random.Random) -> None:
        self.arena, self.rng = arena, rng
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

    def do_record(self) -> None:
        self.arena.root["r"].x += 1
        self.arena.root["r"].note = "n" * self.rng.randrange(100)

    def do_tree(self) -> None:
        n = self.rng.randrange(200)
        self.arena.root["big"][self.rng.randrange(20)] = {f"k{i}": [i, {"z": i}] for i in range(n)}

    def do_fell(self) -> None:
        self.arena.root["big"].pop(self.rng.randrange(20), None)

    def do_array(self) -> None:
        self.arena.root["big"]["array"] = Array(self.rng.choice([10, 600, 20000, 100000]), "f4")

    def do_fill(self) -> None:
        if "array" in self.arena.root["big"]:
            view = self.arena.root["big"]["array"].view
            view[: len(view) // 2] = self.rng.random()

    def one(self) -> None:
        self.rng.choice(self.changes)()

    def block(self) -> None:
        """Some changes in a block, some of them undone."""
        with contextlib.suppress(Undone), self.arena.transaction():
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
                with contextlib.suppress(Exception):  # what it is not allowed to write
                    await audit()
            if self.rng.random() < 0.1:
                raise Undone

        @recoverable(arena=self.arena, independent=True)
        async def audit() -> None:
            self.arena.root["c"].add(1)

        await handler()

    def step(self) -> None:
        """Do one thing or several at once."""
        if self.rng.random() < 0.6:
            self.block()
            return

        async def many() -> None:
            await asyncio.gather(*(self.request() for _ in range(4)), return_exceptions=True)

        asyncio.run(many())


def same(arena: Arena, replica: Replica, use: bool = False) -> None:
    """Check that the copy is what the arena is, and can be used."""
    replica.follow(arena)
    with replica.opened() as copy:
        copy.verify()
        found, expected = plain(copy), plain(arena)
        # By name: how thousands of lines differ takes pytest minutes to find out, and where CI is set it does that on its own.
        assert [name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)] == []
        if use:
            with copy.transaction():
                copy.root["d"]["after"] = "promoted" * 100
                copy.root["big"]["tree"] = {i: str(i) * 50 for i in range(2000)}
                copy.root["big"]["more"] = Array(50000, "f8")
            assert copy.verify().leaked_blocks == 0


@pytest.fixture(params=["hybrid", "trap"])
def arena(request: pytest.FixtureRequest, new_name: Callable[[], str]) -> Iterator[Arena]:
    with Arena.temporary("32 MiB", name=new_name(), tracking=request.param, feed="4 MiB") as made:
        prepare(made)
        yield made


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_replica_is_what_the_arena_is(arena: Arena, seed: int) -> None:
    """Over random changes by blocks and requests, each state of the copy is the arena's, and it can be used."""
    doing = Doing(arena, random.Random(seed))
    kept = arena.root["a"].view  # a buffer lives: raw writes are possible all the time
    with contextlib.closing(Replica(arena.name)) as replica:
        for i in range(STEPS):
            doing.step()
            if i % (STEPS // 6) == 0:
                same(arena, replica)
        del kept
        same(arena, replica, use=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_commits_of_several_processes_are_in_one_order(arena: Arena, seed: int) -> None:
    """What four processes commit at the same time, over the ring's end again and again, leads a copy to the same state."""

    def work(number: int) -> None:
        doing = Doing(arena, random.Random(seed + number))
        for _ in range(STEPS // 5):
            doing.block()

    with contextlib.closing(Replica(arena.name)) as replica, contextlib.ExitStack() as stack:
        pids = [stack.enter_context(child(lambda n=n: work(n))) for n in range(3)]  # type: ignore[misc]
        doing = Doing(arena, random.Random(seed))
        for _ in range(STEPS // 5):
            doing.block()
            replica.follow(arena)
        stack.close()  # they have ended
        assert len(pids) == 3
        same(arena, replica, use=True)


@pytest.mark.slow
@pytest.mark.skipif(not _switches.test_build(), reason="needs a build with -Dcrashpoints=true")
@pytest.mark.parametrize("mutation", [name for name in _switches.mutations() if name.startswith("feed.")])
def test_what_a_record_must_carry_is_missed_when_it_is_left_out(mutation: str, new_name: Callable[[], str]) -> None:
    """Each thing that a record has for the copy's sake, left out, is found by comparing the two."""
    name = new_name()

    def found() -> bool:
        with Arena.temporary("32 MiB", name=name, feed="16 MiB", policy="full") as arena:
            prepare(arena)
            doing = Doing(arena, random.Random(7))
            kept = arena.root["a"].view
            for _ in range(5):
                with arena.transaction():
                    doing.do_raw()
            with contextlib.closing(Replica(name)) as replica:
                for _ in range(20):
                    _switches.mutate(mutation)
                    for _ in range(60):
                        doing.block()
                    replica.follow(arena)
                    _switches.mutate(None)
                    try:
                        same(arena, replica, use=True)
                    except Exception:
                        return True
            del kept
        return False

    ending = in_child(found)
    with contextlib.suppress(ArenaNotFoundError):
        Arena.unlink(name)  # of a child that has died of it
    assert ending.signal or ending.error or ending.value, f"without {mutation} the copy was the same"
