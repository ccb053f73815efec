"""What does the time limit of a request cost?

`@recoverable(timeout=...)` beside `asyncio.timeout()` and no limit at all, on uvloop: around a coroutine that lets the event loop
run once, and around one that never suspends. The limits are met, as nearly all are: what is compared is beginning and ending
them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from benchmarks.harness import Report, Settings, compare
from recoverable import Arena, recoverable
from recoverable._native.runtime import TimeLimit

SECONDS = 30.0


async def work() -> None:
    await asyncio.sleep(0)


async def no_wait() -> None:
    pass


async def under_asyncio() -> None:
    async with asyncio.timeout(SECONDS):
        await work()


async def under_ours() -> None:
    limit = TimeLimit(SECONDS)
    limit.begin()
    try:
        await work()
    finally:
        limit.end()


def run(settings: Settings) -> Report:
    report = Report("timelimit", "What does the time limit of a request cost?")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, Arena.temporary(size="16 MiB") as arena:

        def calls(fn: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[int], None]:
            async def many(n: int) -> None:
                for _ in range(n):
                    await fn()

            return lambda n: runner.run(many(n))

        timed = compare(
            {
                "no limit": calls(work),
                "asyncio.timeout()": calls(under_asyncio),
                "TimeLimit": calls(under_ours),
                "@recoverable": calls(recoverable(arena=arena)(work)),
                "@recoverable(timeout=...)": calls(recoverable(arena=arena, timeout=SECONDS)(work)),
                "@recoverable, no suspension": calls(recoverable(arena=arena)(no_wait)),
                "@recoverable(timeout=...), no suspension": calls(recoverable(arena=arena, timeout=SECONDS)(no_wait)),
            },
            settings,
            title="timelimit",
        )
    limit = timed.difference("@recoverable(timeout=...)", "@recoverable").scaled(1e-3)
    other = timed.difference("asyncio.timeout()", "no limit").scaled(1e-3)
    report.aim("a time limit of @recoverable, above one without", 2, limit, "µs")
    rows = []
    for name in timed.samples:
        report.figure(name, timed[name])
        rows.append([name, str(timed[name].scaled(1e-3))])
    rows.append(["a limit, above none", str(limit)])
    rows.append(["asyncio.timeout(), above none", str(other)])
    report.table("µs of CPU time", ["", "median (quartiles)"], rows)
    return report
