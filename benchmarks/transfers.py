"""Tasks of one process that move money between accounts: what the benchmarks of the journal load an arena with."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import uvloop

from benchmarks.harness import percentile
from recoverable import Arena, recoverable

ACCOUNTS, OPENING = 1000, 1_000_000
Handler = Callable[[int, int], Awaitable[None]]


def fill(arena: Arena) -> None:
    """Make the accounts."""
    with arena.transaction():
        arena.root["accounts"] = {f"account-{i}": OPENING for i in range(ACCOUNTS)}


def flush(arena: Arena) -> None:
    """Wait until all is on the disk."""
    asyncio.run(arena.durable(timeout=60))


def transfers(arena: Arena, level: str) -> Handler:
    """Return a handler that moves a coin and is answered under a level of durability."""
    accounts: Any = arena.root["accounts"]
    keys = [f"account-{i}" for i in range(ACCOUNTS)]

    @recoverable(arena=arena, durable=level)
    async def transfer(a: int, b: int) -> None:
        accounts[keys[a]] -= 1
        accounts[keys[b]] += 1

    return transfer


@dataclass(frozen=True)
class Window:
    """What a while of load gave."""

    commits: int
    seconds: float
    p50: float  # seconds
    p99: float

    @property
    def rate(self) -> float:
        """Commits a second."""
        return self.commits / self.seconds


def load(handler: Handler, tasks: int, seconds: float, beside: Callable[[], object] | None = None) -> Window:
    """Have so many tasks send one transfer after the other, for a while, or until something beside them, in a thread, has ended."""
    return uvloop.run(_load(handler, tasks, seconds, beside))


async def _load(handler: Handler, tasks: int, seconds: float, beside: Callable[[], object] | None) -> Window:
    took: list[float] = []
    at, now = itertools.count(), time.perf_counter
    begun = now()
    stop = math.inf if beside else begun + seconds

    async def client() -> None:
        last = now()
        while last < stop:
            i = next(at)
            await handler(i % ACCOUNTS, (i * 7 + 331) % ACCOUNTS)
            done = now()
            took.append(done - last)
            last = done

    clients = [asyncio.create_task(client()) for _ in range(tasks)]
    if beside:
        await asyncio.to_thread(beside)
        stop = 0.0
    await asyncio.gather(*clients)
    return Window(len(took), now() - begun, percentile(took, 50), percentile(took, 99))
