"""What does a step cost that does not touch the arena?

A `@recoverable` handler awaits many things that have nothing to do with its state. Each of those steps goes through
the boundary driver; this compares a coroutine under the driver with the same coroutine alone, both driven by hand.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any

from benchmarks.harness import Report, Settings, compare
from recoverable import Arena, recoverable


@types.coroutine
def pause() -> Generator[None]:
    yield


async def pauses(n: int) -> None:
    for _ in range(n):
        await pause()


def drive(coroutine: Coroutine[Any, Any, object]) -> None:
    send = coroutine.send
    try:
        while True:
            send(None)
    except StopIteration:
        pass


async def nothing() -> int:
    return 1


def run(settings: Settings) -> Report:
    report = Report("step", "What does a step cost that does not touch the arena?")
    with Arena.temporary(size="16 MiB") as arena:

        @recoverable(arena=arena)
        async def protected(n: int) -> None:
            for _ in range(n):
                await pause()

        wrapped = recoverable(arena=arena)(nothing)

        def calls(fn: Any) -> Any:
            def many(n: int) -> None:
                for _ in range(n):
                    try:
                        fn().send(None)
                    except StopIteration:
                        pass

            return many

        timed = compare(
            {
                "plain step": lambda n: drive(pauses(n)),
                "recoverable step": lambda n: drive(protected(n)),
                "plain call": calls(nothing),
                "recoverable call": calls(wrapped),
            },
            settings,
            title="step",
        )
    step = timed.difference("recoverable step", "plain step").scaled(1e-3)
    call = timed.difference("recoverable call", "plain call").scaled(1e-3)
    report.aim("a step that does not touch the arena, above the plain coroutine's", 0.4, step, "µs")
    rows = []
    for name in timed.samples:
        report.figure(name, timed[name])
        rows.append([name, str(timed[name].scaled(1e-3))])
    rows.append(["a step, above the plain one", str(step)])
    rows.append(["a whole call that awaits nothing and touches nothing, above the plain one", str(call)])
    report.table("µs of CPU time", ["", "median (quartiles)"], rows)
    return report
