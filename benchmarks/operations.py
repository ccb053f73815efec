"""What do the containers' everyday operations cost inside a transaction?

"alone": many operations in one transaction, timed without its begin and commit. "with its commit": transactions of
100 operations, begin and commit included: intentions (the links of a Set, the number of a Counter) are paid for
there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Back, Report, Settings, Spread, progress
from recoverable import Arena, Array, Counter, Deque, Record

LIMIT = 0.3  # µs
AIMED = {
    "List.append",
    "Deque.append",
    "Deque.appendleft",
    "Deque.pop",
    "Deque.popleft",
    "Set.add, new",
    "Record field read",
    "Record field write",
    "Counter.add",
}


class Account(Record):
    owner: str
    balance: int = 0


def operations(root: Any, many: int) -> dict[str, tuple[Callable[[int], None], Callable[[int], None]]]:
    """Return, by name: the operation n times, and what takes it back. Called in a transaction that makes the state."""
    words = [f"word{i}" for i in range(many)]
    root["account"] = Account(owner="ann")
    root["counter"] = Counter()
    root["array"] = Array(1024, "i8")
    root["list"] = list(range(many))
    root["deque"] = Deque(range(many))
    root["set"] = set()
    root["dict"] = {}
    root["full"] = dict.fromkeys(words, 0)

    def keep(n: int) -> None: ...

    def cut(n: int) -> None:
        del root["list"][-n:]

    def take_out(n: int) -> None:
        for word in words[:n]:
            root["set"].discard(word)

    def delete(n: int) -> None:
        for word in words[:n]:
            del root["dict"][word]

    def refill(n: int) -> None:
        root["deque"].extend(range(n))

    def refill_left(n: int) -> None:
        root["deque"].extendleft(range(n))

    def append(n: int) -> None:
        add = root["list"].append
        for i in range(n):
            add(i)

    def get(n: int) -> None:
        items = root["list"]
        for i in range(n):
            items[i]

    def push(n: int) -> None:
        add = root["deque"].append
        for i in range(n):
            add(i)

    def pushleft(n: int) -> None:
        add = root["deque"].appendleft
        for i in range(n):
            add(i)

    def pop(n: int) -> None:
        take = root["deque"].pop
        for _ in range(n):
            take()

    def popleft(n: int) -> None:
        take = root["deque"].popleft
        for _ in range(n):
            take()

    def add(n: int) -> None:
        put = root["set"].add
        for word in words[:n]:
            put(word)

    def has(n: int) -> None:
        known = root["full"]
        for word in words[:n]:
            word in known  # noqa: B015

    def insert(n: int) -> None:
        into = root["dict"]
        for word in words[:n]:
            into[word] = 1

    def overwrite(n: int) -> None:
        into = root["full"]
        for word in words[:n]:
            into[word] = 2

    def read(n: int) -> None:
        account = root["account"]
        for _ in range(n):
            account.balance

    def write(n: int) -> None:
        account = root["account"]
        for i in range(n):
            account.balance = i

    def count(n: int) -> None:
        plus = root["counter"].add
        for _ in range(n):
            plus(1)

    def item(n: int) -> None:
        array = root["array"]
        for i in range(n):
            array[i & 1023]

    def put_item(n: int) -> None:
        array = root["array"]
        for i in range(n):
            array[i & 1023] = i

    return {
        "List.append": (append, cut),
        "List item read": (get, keep),
        "Deque.append": (push, pop),
        "Deque.appendleft": (pushleft, popleft),
        "Deque.pop": (pop, refill),
        "Deque.popleft": (popleft, refill_left),
        "Set.add, new": (add, take_out),
        "Record field read": (read, keep),
        "Record field write": (write, keep),
        "Counter.add": (count, keep),
        "Dict insert": (insert, delete),
        "Dict overwrite": (overwrite, keep),
        "Dict `in`": (has, keep),
        "Array item read": (item, keep),
        "Array item write": (put_item, keep),
    }


def run(settings: Settings) -> Report:
    report = Report("operations", "What do everyday operations cost inside a transaction?")
    many, rounds = settings.pick((10_000, 15), (2_000, 3))
    with Arena.temporary(size="512 MiB") as arena:
        begin = arena.transaction
        alone: dict[str, list[float]] = {}
        shared: dict[str, list[float]] = {}
        with begin():
            table = operations(arena.root, many)
        for i in range(rounds):
            progress(f"operations: round {i + 1} of {rounds}")
            for name, (work, undo) in table.items():
                with contextlib.suppress(Back), begin():
                    begun = time.thread_time_ns()
                    work(many)
                    alone.setdefault(name, []).append((time.thread_time_ns() - begun) / many)
                    raise Back
                total = 0
                for _ in range(20):
                    begun = time.thread_time_ns()
                    with begin():
                        work(100)
                    total += time.thread_time_ns() - begun
                    with begin():
                        undo(100)
                shared.setdefault(name, []).append(total / 2000)
        progress("")
    rows = []
    for name in table:
        one, other = Spread.of(alone[name]), Spread.of(shared[name])
        report.figure(name, one)
        report.figure(f"{name}, with its commit", other)
        rows.append([name, str(one), str(other)])
        if name in AIMED:
            report.aim(name, LIMIT, one.scaled(1e-3), "µs")
    report.table("ns of CPU time an operation, loop included", ["", "alone", "with its share of a commit"], rows)

    def draw(axes: Any) -> None:
        names = list(table)
        bars = axes.barh(names, [Spread.of(alone[name]).median for name in names], color="C0")
        axes.bar_label(bars, fmt=" %.0f", fontsize=8)
        axes.axvline(LIMIT * 1000, color="C3", ls=":", label="aim")
        axes.invert_yaxis()
        axes.set(xlabel="ns of CPU time", title="operations in a transaction")
        axes.legend()

    report.plot(settings, "operations.svg", "everyday operations in a transaction", draw)
    return report
