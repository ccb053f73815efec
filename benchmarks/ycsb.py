"""YCSB core workloads A, B, C, D, F: records of 10 fields of 100 bytes, a transaction an operation.

Cooper et al., "Benchmarking Cloud Serving Systems with YCSB" (SoCC 2010). Reads take all fields, updates write one,
keys are zipfian (0.99) and scrambled; D reads the latest and inserts. E needs range scans, which none of our
containers has.

What each operation does is drawn beforehand and is the same for all stores; how each of them holds a record is said in
`benchmarks/stores/`.
"""

from __future__ import annotations

import contextlib
import random
import string
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import stores
from benchmarks.harness import Report, Settings, Spread, progress
from benchmarks.stores import FIELDS, INSERT, MODIFY, READ, UPDATE, Operation, Store, User, key
from benchmarks.stores.ours import Recoverable
from benchmarks.stores.plain import Plain

MIXES = {
    "A": ("50 % read, 50 % update", {READ: 0.5, UPDATE: 0.5}),
    "B": ("95 % read, 5 % update", {READ: 0.95, UPDATE: 0.05}),
    "C": ("100 % read", {READ: 1.0}),
    "D": ("95 % read the latest, 5 % insert", {READ: 0.95, INSERT: 0.05}),
    "F": ("50 % read, 50 % read-modify-write", {READ: 0.5, MODIFY: 0.5}),
}


def text(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_letters, k=100))


class Draw:
    """Draws the operations of a workload."""

    def __init__(self, records: int) -> None:
        self.records = records
        self.rng = np.random.default_rng(3)
        self.weights = np.cumsum(1 / np.arange(1, records + 1) ** 0.99)
        self.weights /= self.weights[-1]
        self.scrambled = np.random.default_rng(4).permutation(records)
        rng = random.Random(5)
        self.values = [text(rng) for _ in range(1000)]

    def operations(self, mix: dict[int, float], count: int, inserted: int, latest: bool) -> list[Operation]:
        """Draw `count` operations; new records are numbered from `inserted` on."""
        kinds = self.rng.choice(list(mix), count, p=list(mix.values()))
        ranks = np.searchsorted(self.weights, self.rng.random(count))
        fields = self.rng.integers(0, 10, count)
        values = self.rng.integers(0, 1000, count)
        out = []
        for kind, rank, field, value in zip(
            kinds.tolist(), ranks.tolist(), fields.tolist(), values.tolist(), strict=True
        ):
            if kind == INSERT:
                at, inserted = inserted, inserted + 1
            elif latest:
                at = max(0, inserted - 1 - rank)
            else:
                at = int(self.scrambled[rank])
            out.append((kind, key(at), FIELDS[field], self.values[value]))
        return out

    def user(self, i: int) -> User:
        """Return a record as it is loaded."""
        return {name: self.values[(i * 10 + j) % 1000] for j, name in enumerate(FIELDS)}


def run(settings: Settings) -> Report:
    records = settings.pick(100_000, 5_000)
    report = Report("ycsb", f"How many YCSB operations a second, on {records:,} records of 10 x 100 bytes?")
    draw = Draw(records)
    compared = stores.compared(size="2 GiB")
    rows, rates = [], {}
    with contextlib.ExitStack() as opened:
        for store in compared:
            progress(f"ycsb: loading {store.name}")
            opened.enter_context(store).load_users((key(i), draw.user(i)) for i in range(records))
        inserted = records
        for letter, (what, _) in MIXES.items():
            took, inserted = measure(compared, draw, letter, inserted, settings)
            spreads = {name: Spread.of(values) for name, values in took.items()}
            rates[letter] = {name: 1e6 / spread.median for name, spread in spreads.items()}
            for name, spread in spreads.items():
                report.figure(f"{letter}: {name}", spread)
            rows.append([f"{letter}: {what}", *(str(spread.scaled(1e-3)) for spread in spreads.values())])
            for other in ("LMDB", "SQLite"):
                ratio = Spread.of(a / b for a, b in zip(took[Recoverable.name], took[other], strict=True))
                limit = 0.9 if letter in "CD" and other == "LMDB" else 1.0
                report.aim(f"YCSB {letter}, time of an operation against {other}", limit, ratio, "x")
        progress("")
        verified = next(store for store in compared if isinstance(store, Recoverable)).arena.verify()
    report.table("µs of CPU time an operation", ["workload", *(store.name for store in compared)], rows)
    report.note(f"`arena.verify()` at the end: {verified}.")
    plot(report, settings, rates)
    return report


def measure(
    compared: Sequence[Store], draw: Draw, letter: str, inserted: int, settings: Settings
) -> tuple[dict[str, list[float]], int]:
    """Run a workload; return nanoseconds of an operation by store and round, and how many records there are then."""
    rounds, size = settings.pick((15, 4000), (3, 500))
    took: dict[str, list[float]] = {store.name: [] for store in compared}
    for i in range(rounds):
        progress(f"ycsb {letter}: round {i + 1} of {rounds}")
        operations = draw.operations(MIXES[letter][1], size, inserted, latest=letter == "D")
        inserted += sum(operation[0] == INSERT for operation in operations)
        first = i % len(compared)
        for store in [*compared[first:], *compared[:first]]:
            begun = time.thread_time_ns()
            store.operate(operations)
            took[store.name].append((time.thread_time_ns() - begun) / size)
    return took, inserted


def plot(report: Report, settings: Settings, rates: dict[str, dict[str, float]]) -> None:
    """Draw the thousand operations a CPU second, by workload and store."""

    def draw(axes: Any) -> None:
        names = [name for name in rates["A"] if name != Plain.name]
        for j, name in enumerate(names):
            xs = [i + (j - 1.5) * 0.2 for i in range(len(rates))]
            axes.bar(xs, [rates[letter][name] for letter in rates], 0.19, label=name)
        axes.set_xticks(range(len(rates)), list(rates))
        axes.set(yscale="log", ylabel="thousand operations a CPU second", title="YCSB, one transaction an operation")
        axes.grid(axis="y", alpha=0.3)
        axes.legend()

    report.plot(settings, "ycsb.svg", "YCSB throughput by store", draw)
