"""What does reading a `str` key of 10,000 cost, in a transaction that is open?"""

from __future__ import annotations

import contextlib
import random

from benchmarks import stores
from benchmarks.harness import Report, Run, Settings, Timed, compare, digits
from benchmarks.stores import KEYS, key


def run(settings: Settings) -> Report:
    report = Report("read", f"What does reading a str key of {KEYS:,} cost?")
    timed = measure(settings)
    ours, lmdb = "recoverable, in a transaction", "LMDB get, bytes to bytes"
    report.aim("one read, against LMDB's `get` of bytes", 0.7, timed.ratio(ours, lmdb), "x")
    rows = []
    for name in timed.samples:
        per = 1 / KEYS
        report.figure(name, timed[name].scaled(per))
        rows.append([name, str(timed[name].scaled(per)), digits(timed.ratio(name, ours).median)])
    report.table(
        "ns of CPU time a read, every key once in random order", ["", "median (quartiles)", "x recoverable"], rows
    )
    return report


def measure(settings: Settings) -> Timed:
    """Time reading all keys, by way of reading."""
    numbers = {key(i): i for i in range(KEYS)}
    order = [key(i) for i in random.Random(1).sample(range(KEYS), KEYS)]

    def loop(n: int) -> None:
        for _ in range(n):
            for k in order:
                k

    cases: dict[str, Run] = {"an empty loop": loop}
    with contextlib.ExitStack() as opened:
        for store in stores.compared():
            opened.enter_context(store).load_numbers(numbers)
            cases |= store.reads(order)
        return compare(cases, settings, title="read")
