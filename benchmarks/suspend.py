"""What does it cost that a request with pending writes waits?

At an `await` its writes are copied into its stash and undone; at the next access they are validated and written back. Both
together, for a transaction that has written a kibibyte in ten places, and for others, to see what it grows with.
"""

from __future__ import annotations

import types
from collections.abc import Generator
from typing import Any

from benchmarks.harness import Report, Settings, compare
from recoverable import Arena, Array
from recoverable._native.runtime import StepDriver, Transaction

KIB = "1 KiB in 10 places of an Array"


@types.coroutine
def pause() -> Generator[None, int, int]:
    return (yield)


def run(settings: Settings) -> Report:
    report = Report("suspend", "What does a suspension cost a transaction with pending writes?")
    with Arena.temporary(size="64 MiB") as arena:
        root = arena.root
        with arena.transaction():
            root.update(
                {"a": Array(1 << 20, "u1"), "d": dict.fromkeys(range(2000), 0), "s": dict.fromkeys(range(10), "")}
            )
        piece = list(range(102))

        def ranges() -> None:
            for i in range(10):
                root["a"][i * 5000 : i * 5000 + 102] = piece

        def texts() -> None:
            for i in range(10):
                root["s"][i] = "x" * 102

        def numbers(n: int) -> Any:
            def write() -> None:
                for i in range(n):
                    root["d"][i] = n

            return write

        def inserts() -> None:
            for i in range(10):
                root["d"][-1 - i] = i

        works = {
            "nothing written, one key read": lambda: root["d"][0],
            "one number": numbers(1),
            KIB: ranges,
            "10 strings of 102 characters": texts,
            "10 numbers": numbers(10),
            "100 numbers": numbers(100),
            "1,000 numbers": numbers(1000),
            "10 new keys": inserts,
        }
        flying = []

        async def request(transaction: Transaction, work: Any) -> None:
            work()
            while True:
                for _ in range(await pause()):
                    transaction.mount()
                    transaction.suspend()

        def case(work: Any) -> Any:
            transaction = Transaction(arena.native, "suspend", False)
            driver = StepDriver(request(transaction, work), transaction, None)
            flying.append(driver)
            driver.send(None)
            return driver.send

        timed = compare({name: case(work) for name, work in works.items()}, settings, title="suspend")
        for driver in flying:
            driver.close()
    report.aim("suspend and resume a transaction that wrote 1 KiB in 10 places", 3.0, timed[KIB].scaled(1e-3), "µs")
    for name in works:
        report.figure(name, timed[name])
    rows = [[name, str(timed[name].scaled(1e-3))] for name in works]
    report.table("µs of CPU time for both, nobody else having committed", ["written", "median (quartiles)"], rows)
    return report
