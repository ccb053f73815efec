"""The tasks and threads that are in an async block by their context."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from recoverable import (
    Arena,
    ConflictError,
    NoTransactionError,
    StepTooLongError,
)
from support.async_blocks import AppError, commit, outside


def test_tasks_that_it_starts_are_in_it(arena: Arena, run: Any) -> None:
    """Plain tasks too, which see what it wrote, and whose writes go with it. Those that outlive it are outside."""
    root = arena.root

    async def child(key: str) -> int:
        root[key] = root["a"]
        await asyncio.sleep(0)
        return len(root)

    async def late(begin: asyncio.Event) -> None:
        await begin.wait()
        assert root["a"] == 1
        with pytest.raises(NoTransactionError):
            root["late"] = 1
        commit(arena, "own", 1)

    async def main() -> None:
        begin = asyncio.Event()
        async with arena.transaction():
            root["a"] = 1
            assert await asyncio.create_task(child("b")) == 2
            await asyncio.gather(child("c"), child("d"))
            outlives = asyncio.create_task(late(begin))
            assert await outside(lambda: dict(root)) == {}
        begin.set()
        await outlives
        assert dict(root) == {"a": 1, "b": 1, "c": 1, "d": 1, "own": 1}

    run(main())


def test_functions_in_threads_are_in_it(arena: Arena, run: Any) -> None:
    """With and without a block of their own; a block that fails undoes its part."""
    root = arena.root

    def plain() -> int:
        root["n"] = root.get("n", 0) + 1
        return int(root["n"])

    def block(fails: bool) -> None:
        with arena.transaction():
            root["n"] += 1
            if fails:
                raise AppError

    async def main() -> None:
        async with arena.transaction():
            root["n"] = 10
            assert await asyncio.to_thread(plain) == 11
            assert root["n"] == 11
            await asyncio.to_thread(block, False)
            with pytest.raises(AppError):
                await asyncio.to_thread(block, True)
            assert root["n"] == 12
            assert await outside(lambda: dict(root)) == {}
        assert root["n"] == 12

    run(main())


def test_a_function_in_a_thread_leaves_no_lock_behind(arena: Arena, run: Any) -> None:
    """One that sleeps after it has used the arena holds up neither the loop, nor other threads, nor other transactions."""
    root = arena.root
    slept, wake = threading.Event(), threading.Event()

    def sleeper() -> None:
        root["mine"] = 1
        slept.set()
        assert wake.wait(20)
        root["mine"] += 1

    def other() -> None:
        commit(arena, "thread", 1)

    async def main() -> None:
        async with arena.transaction():
            asleep = asyncio.create_task(asyncio.to_thread(sleeper))
            await asyncio.to_thread(slept.wait)
            await outside(functools.partial(commit, arena, "loop", 1))
            thread = threading.Thread(target=other)
            thread.start()
            await asyncio.get_running_loop().run_in_executor(None, thread.join)
            assert root["mine"] == 1
            wake.set()
            await asleep
            assert root["mine"] == 2
        assert dict(root) == {"loop": 1, "thread": 1, "mine": 2}

    run(main())


def test_a_thread_waits_for_a_block_that_stands_still_in_the_loop(arena: Arena, run: Any) -> None:
    """A loop that blocks while a thread has left its step mounted: another thread gets the arena all the same."""
    root = arena.root
    done = threading.Event()

    def work() -> None:
        root["a"] = 1

    def other() -> None:
        commit(arena, "other", 1)
        done.set()

    async def main() -> None:
        async with arena.transaction():
            begun = asyncio.get_running_loop().run_in_executor(None, contextvars.copy_context().run, work)
            await begun
            thread = threading.Thread(target=other)
            thread.start()
            assert done.wait(20)  # the loop stands still
            thread.join()
        assert dict(root) == {"a": 1, "other": 1}

    run(main())


def test_two_of_them_never_share_a_mount(arena: Arena, run: Any, seed: int) -> None:
    """Transfers in threads, tasks and blocks of many transactions at once: no money is made, and none is lost."""
    root, rng = arena.root, random.Random(seed)
    with arena.transaction():
        root.update({f"a{i}": 100 for i in range(8)})
    ends = {"committed": 0, "conflicts": 0, "failed": 0}
    stop = threading.Event()

    def move(source: str, target: str, pause: float, block: bool) -> None:
        money = root[source]
        time.sleep(pause)
        root[source] = money - 1
        if block:
            with arena.transaction():
                root[target] += 1
        else:
            root[target] += 1

    async def transfers() -> None:
        for _ in range(10):
            source, target = (f"a{i}" for i in rng.sample(range(8), 2))
            try:
                async with arena.transaction():
                    if rng.random() < 0.7:
                        await asyncio.to_thread(move, source, target, rng.choice((0, 0.002)), rng.random() < 0.3)
                    else:
                        root[source] -= 1
                        await asyncio.sleep(0)
                        root[target] += 1
                    if rng.random() < 0.2:
                        raise AppError
                ends["committed"] += 1
            except ConflictError:
                ends["conflicts"] += 1
            except AppError:
                ends["failed"] += 1

    def others() -> None:
        while not stop.wait(0.0005):
            commit(arena, "z", time.monotonic())

    async def main() -> None:
        await asyncio.gather(*(transfers() for _ in range(16)))

    thread = threading.Thread(target=others)
    thread.start()
    try:
        run(main())
    finally:
        stop.set()
        thread.join()
    assert sum(root[f"a{i}"] for i in range(8)) == 800, ends
    assert min(ends.values()) > 0
    assert arena.stats().in_flight == 0
    assert arena.verify().leaked_blocks == 0


def test_two_arenas_have_one_each(arena: Arena, run: Any, name: str) -> None:
    """Blocks of two arenas in each other are two transactions."""
    with Arena.temporary("4 MiB", name=f"{name}-b") as other:

        async def main() -> None:
            async with arena.transaction(), other.transaction():
                arena.root["a"] = 1
                await asyncio.sleep(0)
                other.root["b"] = arena.root["a"]
                await asyncio.to_thread(other.root.update, {"c": 2})
            with pytest.raises(AppError):
                async with arena.transaction():
                    arena.root["a"] = 2
                    async with other.transaction():
                        other.root["b"] = 2
                    raise AppError

        run(main())
        assert dict(arena.root) == {"a": 1}
        assert dict(other.root) == {"b": 2, "c": 2}


def test_a_step_in_a_thread_is_watched(arena: Arena, run: Any) -> None:
    """One that does not come back is stopped in its thread, and what its thread does later is not."""
    arena.step_limit = 0.4

    def spin() -> None:
        arena.root["a"] = 1
        with arena.transaction():
            arena.root["b"] = 1
            end = time.monotonic() + 20
            while time.monotonic() < end:
                pass

    async def main() -> None:
        with pytest.raises(StepTooLongError):
            async with arena.transaction():
                await asyncio.to_thread(spin)
        assert dict(arena.root) == {}

    run(main())


def test_who_has_gone_on_to_something_else_is_not_stopped(arena: Arena, run: Any) -> None:
    """Its event loop stands still, and can't end the step: the watchdog has it give way instead."""
    arena.step_limit = 0.2
    ended: list[str] = []

    def work() -> None:
        arena.root["a"] = 1

    def something_else() -> None:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            pass
        ended.append("untouched")

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            async with arena.transaction():
                pool.submit(contextvars.copy_context().run, work).result()
                pool.submit(something_else).result()
                arena.root["b"] = 1

    run(main())
    assert ended == ["untouched"]
    assert dict(arena.root) == {"a": 1, "b": 1}
