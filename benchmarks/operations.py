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


Case = tuple[Callable[[int], None], Callable[[int], None]]  # the operation n times, and what takes it back


def operations(root: Any, many: int) -> dict[str, Case]:
    """Return the operations by name. Called in a transaction, in which the state is made."""
    words = [f"word{i}" for i in range(many)]
    return (
        on_list(root, many)
        | on_deque(root, many)
        | on_set(root, words)
        | on_record(root)
        | on_counter(root)
        | on_dict(root, words)
        | on_array(root)
    )


def keep(n: int) -> None:
    """Take nothing back."""


def each_number(root: Any, name: str, method: str) -> Callable[[int], None]:
    """Return what calls a method of a container with 0, 1, … n - 1."""

    def work(n: int) -> None:
        call = getattr(root[name], method)
        for i in range(n):
            call(i)

    return work


def each_time(root: Any, name: str, method: str) -> Callable[[int], None]:
    """Return what calls a method of a container n times, without an argument."""

    def work(n: int) -> None:
        call = getattr(root[name], method)
        for _ in range(n):
            call()

    return work


def on_list(root: Any, many: int) -> dict[str, Case]:
    root["list"] = list(range(many))

    def cut(n: int) -> None:
        del root["list"][-n:]

    def get(n: int) -> None:
        items = root["list"]
        for i in range(n):
            items[i]

    return {"List.append": (each_number(root, "list", "append"), cut), "List item read": (get, keep)}


def on_deque(root: Any, many: int) -> dict[str, Case]:
    root["deque"] = Deque(range(many))

    def refill(n: int) -> None:
        root["deque"].extend(range(n))

    def refill_left(n: int) -> None:
        root["deque"].extendleft(range(n))

    push, pushleft = each_number(root, "deque", "append"), each_number(root, "deque", "appendleft")
    pop, popleft = each_time(root, "deque", "pop"), each_time(root, "deque", "popleft")
    return {
        "Deque.append": (push, pop),
        "Deque.appendleft": (pushleft, popleft),
        "Deque.pop": (pop, refill),
        "Deque.popleft": (popleft, refill_left),
    }


def on_set(root: Any, words: list[str]) -> dict[str, Case]:
    root["set"] = set()

    def add(n: int) -> None:
        put = root["set"].add
        for word in words[:n]:
            put(word)

    def take_out(n: int) -> None:
        for word in words[:n]:
            root["set"].discard(word)

    return {"Set.add, new": (add, take_out)}


def on_record(root: Any) -> dict[str, Case]:
    root["account"] = Account(owner="ann")

    def read(n: int) -> None:
        account = root["account"]
        for _ in range(n):
            account.balance

    def write(n: int) -> None:
        account = root["account"]
        for i in range(n):
            account.balance = i

    return {"Record field read": (read, keep), "Record field write": (write, keep)}


def on_counter(root: Any) -> dict[str, Case]:
    root["counter"] = Counter()

    def count(n: int) -> None:
        plus = root["counter"].add
        for _ in range(n):
            plus(1)

    return {"Counter.add": (count, keep)}


def on_dict(root: Any, words: list[str]) -> dict[str, Case]:
    root["dict"] = {}
    root["full"] = dict.fromkeys(words, 0)

    def insert(n: int) -> None:
        into = root["dict"]
        for word in words[:n]:
            into[word] = 1

    def delete(n: int) -> None:
        for word in words[:n]:
            del root["dict"][word]

    def overwrite(n: int) -> None:
        into = root["full"]
        for word in words[:n]:
            into[word] = 2

    def has(n: int) -> None:
        known = root["full"]
        for word in words[:n]:
            word in known  # noqa: B015

    return {"Dict insert": (insert, delete), "Dict overwrite": (overwrite, keep), "Dict `in`": (has, keep)}


def on_array(root: Any) -> dict[str, Case]:
    root["array"] = Array(1024, "i8")

    def read(n: int) -> None:
        array = root["array"]
        for i in range(n):
            array[i & 1023]

    def write(n: int) -> None:
        array = root["array"]
        for i in range(n):
            array[i & 1023] = i

    return {"Array item read": (read, keep), "Array item write": (write, keep)}


def run(settings: Settings) -> Report:
    report = Report("operations", "What do everyday operations cost inside a transaction?")
    alone, shared = measure(settings)
    rows = []
    for name in alone:
        one, other = Spread.of(alone[name]), Spread.of(shared[name])
        report.figure(name, one)
        report.figure(f"{name}, with its commit", other)
        rows.append([name, str(one), str(other)])
        if name in AIMED:
            report.aim(name, LIMIT, one.scaled(1e-3), "µs")
    report.table("ns of CPU time an operation, loop included", ["", "alone", "with its share of a commit"], rows)

    def draw(axes: Any) -> None:
        names = list(alone)
        bars = axes.barh(names, [Spread.of(alone[name]).median for name in names], color="C0")
        axes.bar_label(bars, fmt=" %.0f", fontsize=8)
        axes.axvline(LIMIT * 1000, color="C3", ls=":", label="aim")
        axes.invert_yaxis()
        axes.set(xlabel="ns of CPU time", title="operations in a transaction")
        axes.legend()

    report.plot(settings, "operations.svg", "everyday operations in a transaction", draw)
    return report


def measure(settings: Settings) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the nanoseconds of each operation by round, alone and with its share of a commit."""
    many, rounds = settings.pick((10_000, 15), (2_000, 3))
    alone: dict[str, list[float]] = {}
    shared: dict[str, list[float]] = {}
    with Arena.temporary(size="512 MiB") as arena:
        begin = arena.transaction
        with begin():
            cases = operations(arena.root, many)
        for i in range(rounds):
            progress(f"operations: round {i + 1} of {rounds}")
            for name, (work, undo) in cases.items():
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
    return alone, shared
