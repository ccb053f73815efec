"""Is a private arena that is brought forward what the past was: the same values, and the same containers?"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

from recoverable import Arena, Array, Counter, Deque, List, Record, Set, StaleReferenceError
from recoverable._native import feed as native_feed
from recoverable._native import paths
from recoverable._native.runtime import Container
from recoverable.capsules.forward import Forward
from recoverable.capsules.private import Past, private
from recoverable.history.commits import containers_within
from recoverable.history.places import Path as Place
from support.states import told

ROUNDS = 12


class Spot(Record, name="test_forward.Spot"):
    what: Any = None
    tag: str = ""


#: What Python finds equal, and an arena has as different values.
ALIKE = [1, True, 1.0, 0, 0.0, -0.0, False, "", (1,), (True,), (-0.0,)]


class Acts:
    """Random changes of everything at any depth, most of them with something equal near by."""

    def __init__(self, arena: Arena, rng: random.Random) -> None:
        self._root, self._rng = arena.root, rng

    def value(self, depth: int = 2) -> Any:
        """Make a value."""
        kinds = [self.rng_leaf] * 3 + ([self.rng_container] if depth else [])
        return self._rng.choice(kinds)(depth)

    def rng_leaf(self, depth: int) -> Any:
        return self._rng.choice(ALIKE)

    def rng_container(self, depth: int) -> Any:
        some = [self.value(depth - 1) for _ in range(self._rng.randrange(4))]
        return self._rng.choice(
            [
                lambda: dict(zip([1, "a", 2, "b"], some, strict=False)),
                lambda: List(some),
                lambda: Deque(some, self._rng.choice([None, 4])),
                lambda: Set(each for each in [self._rng.choice(ALIKE)]),
                lambda: Counter(len(some)),
                lambda: Array([len(some)], "int64"),
                lambda: Spot(what=some[0] if some else None, tag=str(len(some))),
            ]
        )()

    def act(self) -> None:
        """Change something somewhere."""
        rng = self._rng
        it = rng.choice(list(containers_within(self._root)))
        if isinstance(it, (List, Deque)):
            n = len(it)
            what = rng.choice(["insert", "put", "del", "again", "pop", "reverse", "append"])
            if what in ("insert", "append") or not n:
                with contextlib.suppress(IndexError):  # it is full
                    it.insert(rng.randrange(n + 1) if what == "insert" else n, self.value())
            elif what == "put":
                it[rng.randrange(n)] = self.value()
            elif what == "again":
                at = rng.randrange(n)
                it[at] = it[at].copy() if isinstance(it[at], Container) else it[at]
            elif what == "reverse" and not any(isinstance(each, Container) for each in it):
                it.reverse()
            else:
                del it[rng.randrange(n) if what == "del" else 0]
        elif isinstance(it, Set):
            key = rng.choice(ALIKE)
            it.discard(key)
            if rng.random() < 0.7:
                it.add(key)
        elif isinstance(it, Counter):
            it.add(rng.choice([-1, 2]))
        elif isinstance(it, Array):
            it[0] += 1
        elif isinstance(it, Spot):
            it.what = self.value()
        else:
            key = rng.choice([1, True, 1.0, "a", 2, "b"])
            if key in it and rng.random() < 0.4:
                part = it[key].copy() if isinstance(it[key], Container) else it[key]
                if rng.random() < 0.5:
                    del it[key]
                it[key] = part
            elif key in it and rng.random() < 0.3:
                del it[key]
            else:
                it[key] = self.value()


def flush(arena: Arena) -> int:
    """Have all that is committed on the disk; return the number of the last commit."""
    asyncio.run(arena.durable(timeout=30))
    return arena.history.newest


def unordered(value: Any) -> Any:
    """Give what `told` has, without the order of keys."""
    if isinstance(value, tuple) and value and value[0] in ("Dict", "Set"):
        return value[0], sorted(map(repr, map(unordered, value[1])))
    return type(value)(map(unordered, value)) if isinstance(value, (list, tuple)) else value


def past_of(arena: Arena) -> Past:
    """Return what a capsule would have of the arena's past."""
    state = native_feed.state(arena.native)
    assert state is not None
    facts = {"name": arena.name, "identity": state[0], "epoch": state[1]}
    return Past(arena.native.journal.path, facts, (arena.history.newest, 0))


def test_states_and_containers_are_what_they_were(arena: Arena, seed: int) -> None:
    """After each leap forward all values have the same type and bytes; a handle is stale where it was, and there alone."""
    acts = Acts(arena, random.Random(seed))
    with arena.transaction():
        arena.root.update({"a": {}, "b": [1, {"x": 1}], 1: Deque([{"y": 1}, 2])})
    seqs = [flush(arena)]
    for _ in range(ROUNDS):
        for _ in range(acts._rng.randrange(1, 4)):
            with arena.transaction():
                for _ in range(acts._rng.randrange(1, 4)):
                    acts.act()
        seqs.append(flush(arena))
    past = past_of(arena)
    with private(past, seqs[0], None) as copy:
        forward = Forward(copy, past.history, past.line, seqs[0])
        held: dict[int, Any] = {}
        for seq in seqs:
            forward.to(seq)
            then = past.history.at(seq)
            assert unordered(told(copy.root)) == unordered(told(then)), f"--seed={seed}"
            there = {paths.number_of(each): str(Place.of(each)) for each in containers_within(then)}
            for number, handle in held.items():
                try:
                    handle._parts()
                except StaleReferenceError:
                    assert number not in there, f"--seed={seed}"
                else:
                    assert str(Place.of(handle)) == there.get(number), f"--seed={seed}"
            here = {str(Place.of(each)): each for each in containers_within(copy.root)}
            held.update({number: here[place] for number, place in there.items()})
        held.clear()
