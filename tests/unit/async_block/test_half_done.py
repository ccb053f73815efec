"""What ends an async block, or a run, in the middle of something: the end of the whole, signals, groups of tasks that fail."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import random
import signal
import warnings
from typing import Any

import pytest

from recoverable import Arena, TransactionClosedError, after_commit, attempt, recoverable
from support.async_blocks import AppError


def test_a_part_says_that_the_whole_was_rolled_back(arena: Arena, run: Any) -> None:
    """A block in a task that outlives the block around is not left as if it had been committed."""
    calls: list[str] = []

    async def main() -> None:
        go_on = asyncio.Event()

        async def part() -> None:
            async with arena.transaction():
                arena.root["part"] = 1
                after_commit(calls.append, "part")
                await go_on.wait()

        with contextlib.suppress(AppError):
            async with arena.transaction():
                task = asyncio.create_task(part())
                await asyncio.sleep(0)
                raise AppError
        go_on.set()
        with pytest.raises(TransactionClosedError, match="was left after that was rolled back"):
            await task

    run(main())
    assert dict(arena.root) == {}
    assert calls == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may raise in a finaliser
@pytest.mark.timeout(60, method="thread")  # the usual one has this signal
def test_no_signal_leaves_one_half_done(arena: Arena, run: Any, seed: int) -> None:
    """Its handler raises anywhere: what was left cleanly is committed and called back, and no transaction is left behind."""

    class Alarm(Exception):
        """Raised by the signal's handler."""

    rng = random.Random(seed)
    calls: list[int] = []
    clean: list[int] = []
    armed = False

    def handle(*_: object) -> None:
        if armed:
            raise Alarm

    async def job(i: int) -> None:
        async with arena.transaction():
            arena.root[i] = 1
            after_commit(calls.append, i)

    async def main() -> None:
        nonlocal armed
        for i in range(1500):
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 1e-4))
                armed = True
                try:
                    await job(i)
                    clean.append(i)
                finally:
                    armed = False
            except Alarm:
                pass

    before = signal.signal(signal.SIGALRM, handle)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # what leaves a block may be never awaited
            run(main())
            gc.collect()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert 0 < len(clean) < 1500
    assert set(clean) <= set(calls) == set(arena.root)
    assert arena.stats().in_flight == 0


def test_a_block_that_begins_the_next_keeps_nothing_of_those_before(arena: Arena, run: Any) -> None:
    """A job that starts its successor in its block goes on for ever, and what it holds does not grow."""

    async def main() -> None:
        done = asyncio.Event()

        async def job(left: int) -> None:
            async with arena.transaction():
                arena.root["n"] = left
                if left:
                    tasks.append(asyncio.create_task(job(left - 1)))
            if not left:
                done.set()

        tasks = [asyncio.create_task(job(200))]
        await done.wait()
        await asyncio.gather(*tasks)
        tasks.clear()
        gc.collect()

        async def count() -> int:
            return sum(type(each).__name__ == "Ambient" for each in gc.get_objects())

        counts.append(await asyncio.create_task(count(), context=contextvars.Context()))

    counts: list[int] = []
    run(main())
    assert counts[0] < 20


# -- with others' ways to wait ---------------------------------------------------------------------------------------------


def test_a_group_that_has_failed_is_no_cancellation(arena: Arena, run: Any) -> None:
    """A run that has handled the failure of an `asyncio.TaskGroup`, and then loses, is run again."""
    runs: list[int] = []

    async def other() -> None:
        with arena.transaction():
            arena.root["n"] = len(runs)

    async def fails() -> None:
        await asyncio.sleep(0)
        raise AppError

    @recoverable(arena=arena)
    async def handler() -> str:
        runs.append(attempt())
        seen = arena.root.get("n")
        with contextlib.suppress(BaseExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
        if len(runs) == 1:
            await asyncio.create_task(other(), context=contextvars.Context())
        arena.root["seen"] = seen
        return "done"

    async def main() -> None:
        assert await handler() == "done"
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(main())
    assert (len(runs), arena.root["seen"]) == (2, 1)


def test_a_cancellation_beside_a_group_that_has_failed_stays_one(arena: Arena, run: Any) -> None:
    """Both come in the same turn of the loop: the request ends, and is not run again."""
    runs: list[int] = []

    @recoverable(arena=arena)
    async def handler(task: list[asyncio.Task[Any]]) -> str:
        runs.append(attempt())
        arena.root.get("n")

        async def fails() -> None:
            await asyncio.sleep(0)
            task[0].cancel()
            raise AppError

        with contextlib.suppress(BaseExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
        await asyncio.create_task(other(), context=contextvars.Context())
        arena.root["n"] = 1
        return "done"

    async def other() -> None:
        with arena.transaction():
            arena.root["n"] = 7

    async def main() -> None:
        tasks: list[asyncio.Task[Any]] = []
        tasks.append(asyncio.create_task(handler(tasks)))
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]

    run(main())
    assert len(runs) == 1
