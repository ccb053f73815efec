"""Millions of random operations over all containers, committed and rolled back: does all memory come back?

    python -m benchmarks.soak [operations] [seed]

Every transaction does a few operations on the containers of one arena and on plain Python copies of them; some end in an
exception, some go back to a savepoint first. At the end the contents are compared, everything is deleted, what waits
to be reclaimed is drained, and as many bytes must be in use as at the start.
"""

from __future__ import annotations

import collections
import contextlib
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from recoverable import Arena, Array, Counter, Deque, List, Record

LONG = "long " * 30
MOST = 400  # items of a container


class Row(Record, name="soak.Row"):
    n: int = 0
    text: str = ""
    items: List[Any] = List()


class Undone(Exception):
    """Rolls a transaction back."""


def value(rng: random.Random) -> Any:
    """Something to store: mostly small."""
    kind = rng.randrange(12)
    if kind < 6:
        return rng.randrange(1000)
    return ["text", LONG, [1, [2]], {"a": 1}, {"b": [LONG]}, 10**30][kind - 6]


def on_dict(rng: random.Random, d: Any) -> None:
    key = rng.randrange(MOST)
    if rng.random() < 0.6:
        d[key] = value(rng)
    else:
        d.pop(key, None)


def on_list(rng: random.Random, l: Any) -> None:  # noqa: E741 -- it is one
    n = len(l)
    what = rng.randrange(8)
    if n > MOST:
        del l[rng.randrange(n // 2) :]
    elif what < 4 or n == 0:
        l.append(value(rng))
    elif what == 4:
        l.insert(rng.randrange(n), value(rng))
    elif what == 5:
        l[rng.randrange(n)] = value(rng)
    elif what == 6:
        l.pop(rng.randrange(n))
    else:
        l.pop()


def on_deque(rng: random.Random, q: Any) -> None:
    what = rng.randrange(6)
    if what == 0:
        q.appendleft(value(rng))
    elif what < 3 or not q:
        q.append(value(rng))
    elif what < 5:
        q.popleft()
    else:
        q.pop()
    if len(q) > MOST:
        q.clear()


def on_set(rng: random.Random, s: Any) -> None:
    member = rng.randrange(MOST)
    if rng.random() < 0.6:
        s.add(member)
    else:
        s.discard(member)


def on_record(rng: random.Random, r: Any) -> None:
    what = rng.randrange(3)
    if what == 0:
        r.n += 1
    elif what == 1:
        r.text = rng.choice(["", LONG])
    else:
        r.items = [value(rng)]


def on_counter(rng: random.Random, n: Any) -> None:
    n.add(rng.randrange(-5, 6))


def on_array(rng: random.Random, a: Any) -> None:
    a[rng.randrange(100)] = rng.randrange(100)


class PlainRow:
    def __init__(self) -> None:
        self.n, self.text, self.items = 0, "", []


class PlainCounter:
    def __init__(self) -> None:
        self.value = 0

    def add(self, n: int) -> None:
        self.value += n


# name -> (what it is in the arena, its plain copy, an operation on either)
CONTAINERS: dict[str, tuple[Callable[[], Any], Callable[[], Any], Callable[[random.Random, Any], None]]] = {
    "dict": (dict, dict, on_dict),
    "list": (list, list, on_list),
    "deque": (Deque, collections.deque, on_deque),
    "set": (set, set, on_set),
    "record": (Row, PlainRow, on_record),
    "counter": (Counter, PlainCounter, on_counter),
    "array": (lambda: Array((100,), "i8"), lambda: [0] * 100, on_array),
}


def plain(there: Any) -> Any:
    """What a plain copy and a container's to_python() both look like."""
    if isinstance(there, PlainRow):
        return vars(there)
    if isinstance(there, PlainCounter):
        return there.value
    if isinstance(there, set):
        return sorted(there)
    return list(there) if isinstance(there, collections.deque) else there


def same(arena: Arena, model: dict[str, Any], name: str) -> bool:
    """Whether the container holds what the plain copy does."""
    found = arena.root[name].to_python()
    if name == "set":
        found = sorted(found)
    if name == "array":
        found = list(arena.root[name])
    return bool(found == plain(model[name]))


def drain(arena: Arena) -> None:
    """Run empty boundaries until nothing is left to reclaim."""
    arena.root
    used, still = -1, 0
    while still < 20:
        with arena.transaction():
            arena.root["turn"] = still
        now = arena.stats().used
        still = still + 1 if now == used else 0
        used = now


class Soak:
    """One run: an arena, plain copies of its containers, and how much was done."""

    def __init__(self, arena: Arena, rng: random.Random) -> None:
        self.arena = arena
        self.rng = rng
        self.model = {name: plain() for name, (_, plain, _) in CONTAINERS.items()}
        self.done = self.commits = self.rollbacks = 0
        with arena.transaction():
            for name, (make, _, _) in CONTAINERS.items():
                arena.root[name] = make()

    def transaction(self) -> None:
        """Run operations on one container; if they are committed, run the same on its plain copy."""
        rng = self.rng
        amount = rng.randrange(1, 40)
        name = rng.choice(list(CONTAINERS))
        fails = rng.random() < 0.1
        nested = rng.random() < 0.05
        inner = random.Random(rng.random())
        drawn = inner.getstate()

        def operate(there: Any) -> None:
            inner.setstate(drawn)
            for _ in range(amount):
                CONTAINERS[name][2](inner, there)

        try:
            with self.arena.transaction():
                there = self.arena.root[name]
                if nested:
                    with contextlib.suppress(Undone), self.arena.savepoint():
                        operate(there)
                        raise Undone
                operate(there)
                if fails:
                    raise Undone
            self.commits += 1
            operate(self.model[name])
        except Undone:
            self.rollbacks += 1
        self.done += amount * (1 + nested)

    def replace_one(self) -> None:
        """Put an empty container in the place of one: all of it goes at once."""
        name = self.rng.choice(list(CONTAINERS))
        make, plain, _ = CONTAINERS[name]
        self.model[name] = plain()
        with self.arena.transaction():
            self.arena.root[name] = make()

    def delete_all(self) -> None:
        with self.arena.transaction():
            for name in CONTAINERS:
                del self.arena.root[name]

    def compare(self, when: str) -> None:
        for name in CONTAINERS:
            assert same(self.arena, self.model, name), f"{name} differs {when}"
        assert self.arena.verify().leaked_blocks == 0


def soak(operations: int, seed: int = 1, report: Callable[[str], None] = print) -> dict[str, float]:
    """Run that many operations.

    Returns:
        Figures of the run: `operations`, `seconds`, `commits`, `rollbacks`, and bytes in use `before`, `most` and `after`.

    Raises:
        AssertionError: A container differs from its plain copy, or memory is lost.
    """
    rng = random.Random(seed)
    with Arena.temporary("32 MiB") as arena:
        with arena.transaction():  # the schema of the records stays
            arena.root["turn"] = 0
            arena.root["record"] = Row()
        with arena.transaction():
            del arena.root["record"]
        drain(arena)
        before = arena.stats().used
        most, next_look = 0, 0
        began = time.perf_counter()
        run = Soak(arena, rng)
        while run.done < operations:
            run.transaction()
            if run.done >= next_look:
                next_look += max(operations // 20, 20_000)
                run.compare(f"after {run.done} operations (seed {seed})")
                used = arena.stats().used
                most = max(most, used)
                report(f"{run.done:>12,} operations  {time.perf_counter() - began:8.1f} s  {used:>10,} bytes")
                if rng.random() < 0.5:
                    run.replace_one()
        seconds = time.perf_counter() - began
        run.compare(f"at the end (seed {seed})")
        run.delete_all()
        drain(arena)
        after = arena.stats().used
        assert arena.verify().leaked_blocks == 0
        assert after == before, f"{after - before} bytes are lost (seed {seed})"
    return {
        "operations": run.done,
        "seconds": seconds,
        "commits": run.commits,
        "rollbacks": run.rollbacks,
        "before": before,
        "most": most,
        "after": after,
    }


if __name__ == "__main__":
    arguments = [int(argument.replace("_", "")) for argument in sys.argv[1:]]
    print(soak(*(arguments or [10_000_000])))
