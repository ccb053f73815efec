"""What does a transaction of four read-modify-writes cost, committed and rolled back?

Four counters of 10,000, at random, are read and raised by one. LMDB raises bytes; SQLite does it in one `UPDATE` a
key; copy.deepcopy is what people do who have nothing else: copy the state, work, and put the copy in place, or drop
it. Where an exception ends the transaction, what raising and catching it costs is taken off.
"""

from __future__ import annotations

import contextlib
import random
from typing import Any

from benchmarks import stores
from benchmarks.harness import Report, Settings, Spread, Timed, compare, digits, exceptions
from benchmarks.stores import KEYS, Store, key
from benchmarks.stores.plain import DeepCopy, Plain

OURS, EXCEPTION = "recoverable", "the exception alone"
COMMITTED = {"LMDB": 0.25, "SQLite": 0.2, "ZODB": 0.02, Plain.name: 2.2}
ROLLED_BACK = COMMITTED | {"LMDB": 0.4}


def run(settings: Settings) -> Report:
    report = Report("transaction", "What does a transaction of four read-modify-writes cost?")
    committed, rolled = measure(settings)
    for other, limit in COMMITTED.items():
        report.aim(f"four read-modify-writes, committed, against {other}", limit, committed.ratio(OURS, other), "x")
    for other, limit in ROLLED_BACK.items():
        ratio = rolled.ratio(OURS, other, less=EXCEPTION)
        report.aim(f"four read-modify-writes, rolled back, the exception aside, against {other}", limit, ratio, "x")
    table(report, "committed", committed, less=None)
    table(report, "rolled back", rolled, less=EXCEPTION)

    def draw(axes: Any) -> None:
        names = list(committed.samples)
        for shift, timed, less, label in (
            (-0.2, committed, None, "committed"),
            (0.2, rolled, EXCEPTION, "rolled back"),
        ):
            values = [cost(timed, name, less).median / 1e3 for name in names]
            bars = axes.barh([i + shift for i in range(len(names))], values, 0.38, label=label)
            axes.bar_label(bars, [f" {digits(v)}" for v in values], fontsize=8)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set(xscale="log", xlabel="µs of CPU time (log)", title="a transaction of four read-modify-writes")
        axes.margins(x=0.15)
        axes.legend()

    report.plot(settings, "transaction.svg", "a transaction of four read-modify-writes", draw)
    return report


def measure(settings: Settings) -> tuple[Timed, Timed]:
    """Time the transaction in all stores, committed and rolled back."""
    numbers = {key(i): i for i in range(KEYS)}
    rng = random.Random(2)
    fours = [tuple(key(i) for i in rng.sample(range(KEYS), 4)) for _ in range(1000)]
    compared: list[Store] = [*stores.compared(), DeepCopy()]
    with contextlib.ExitStack() as opened:
        for store in compared:
            opened.enter_context(store).load_numbers(numbers)
        commit = {store.name: store.fours(fours, commit=True) for store in compared}
        rollback = {store.name: store.fours(fours, commit=False) for store in compared}
        rollback = {Plain.name: rollback[Plain.name], EXCEPTION: exceptions} | rollback  # the order of the rows
        return compare(commit, settings, title="commit"), compare(rollback, settings, title="rollback")


def cost(timed: Timed, name: str, less: str | None) -> Spread:
    """Return what a case took; `less`: a case whose time is taken off ours, the only one that an exception ends."""
    return timed.difference(name, less) if less and name == OURS else timed[name]


def table(report: Report, caption: str, timed: Timed, less: str | None) -> None:
    rows = []
    for name in timed.samples:
        spread = cost(timed, name, less)
        report.figure(f"{caption}: {name}", spread)
        ratio = timed.ratio(OURS, name, less=less)
        rows.append([name, str(spread.scaled(1e-3)), digits(ratio.median) if name != OURS else ""])
    report.table(
        f"four read-modify-writes, {caption}: µs of CPU time", ["", "median (quartiles)", "recoverable / it"], rows
    )
