"""Async blocks beside others that want the arena: they give way, and are given way to."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from typing import Any

import pytest

from recoverable import (
    Arena,
    RecoverableError,
    TransactionError,
    recoverable,
)
from recoverable import gather as recoverable_gather
from recoverable._native.runtime import share_transaction, unshare_transaction
from support.async_blocks import AppError, outside


def hold(arena: Arena, begun: threading.Event, seconds: float) -> None:
    """Have the arena for a while."""
    with arena.transaction():
        arena.root["third"] = 1
        begun.set()
        time.sleep(seconds)


@pytest.mark.parametrize("block", [False, True])
def test_a_thread_that_waits_for_the_lock_goes_on_in_its_step(arena: Arena, run: Any, block: bool) -> None:
    """The loop comes by meanwhile: it waits for the thread, takes nothing away from it, and nobody stands for `busy_timeout`."""
    root, begun = arena.root, threading.Event()

    def work() -> None:
        if block:
            with contextlib.suppress(AppError), arena.transaction():
                root["a"] = 1
                raise AppError
        else:
            root["a"] = 1

    async def main() -> None:
        third = threading.Thread(target=hold, args=(arena, begun, 0.2))
        async with arena.transaction():
            third.start()
            await asyncio.to_thread(begun.wait)
            working = asyncio.create_task(asyncio.to_thread(work))
            await asyncio.sleep(0.05)
            root["loop"] = 1
            await working
        third.join()

    before = time.monotonic()
    run(main())
    assert time.monotonic() - before < arena.native.busy_timeout
    assert dict(root) == {"third": 1, "loop": 1} | ({} if block else {"a": 1})
    assert arena.native.lock_is_free()


def test_the_arena_is_closed_while_a_thread_waits(name: str, run: Any) -> None:
    """A thread that has waited for a step of its transaction finds the arena closed, and says so."""
    ends: list[str] = []
    stop = threading.Event()

    def work(arena: Arena) -> None:
        while not stop.is_set():
            try:
                arena.root["n"] = arena.root.get("n", 0) + 1
            except RecoverableError as error:
                ends.append(type(error).__name__)
                return

    async def main(arena: Arena) -> None:
        block = arena.transaction()
        await block.__aenter__()
        working = [asyncio.create_task(asyncio.to_thread(work, arena)) for _ in range(3)]
        try:
            for _ in range(2000):  # it is refused while a thread waits for the lock
                await asyncio.sleep(0.001)
                with contextlib.suppress(TransactionError):
                    await outside(arena.close)
                    break
        finally:
            stop.set()
            await asyncio.gather(*working)
        assert arena.closed

    for _ in range(5):
        stop.clear()
        with Arena.temporary("4 MiB", name=name) as arena:
            run(main(arena))
    assert set(ends) == {"TransactionClosedError"}


def test_a_plain_function_in_a_thread_holds_the_arena(arena: Arena, run: Any) -> None:
    """What it reads is still so when it writes, also for other threads of the same transaction."""
    root = arena.root
    with arena.transaction():
        root["n"] = 0

    @recoverable
    def add() -> None:
        n = root["n"]
        time.sleep(0.01)
        root["n"] = n + 1

    async def main() -> None:
        async with arena.transaction():
            await asyncio.gather(*(asyncio.to_thread(add) for _ in range(4)))
            await asyncio.to_thread(add)

    run(main())
    assert root["n"] == 5


def test_closing_a_generator_leaves_its_closer_where_it_is(arena: Arena, run: Any) -> None:
    """A block that was entered in another context, and is left in this one, takes nothing from the block around."""
    root = arena.root

    async def values() -> Any:
        async with arena.transaction():
            root["theirs"] = 1
            yield 1

    async def main() -> None:
        generator = values()
        await asyncio.get_running_loop().create_task(anext(generator), context=contextvars.Context())
        async with arena.transaction():
            root["mine"] = 1
            await generator.aclose()
            assert root["mine"] == 1
            root["more"] = 1
        assert dict(root) == {"mine": 1, "more": 1}

    run(main())


def test_blocks_of_two_arenas_cross(arena: Arena, run: Any, name: str) -> None:
    """A step of the one that begins inside a block of the other hides nothing, and is no part of it."""
    with Arena.temporary("4 MiB", name=f"{name}-b") as other:
        a, b = arena.root, other.root

        async def main() -> None:
            async with arena.transaction():
                with other.transaction():
                    a["x"] = 1
                    b["x"] = 1
                    a["y"] = 1
                a["z"] = b["x"]
            with pytest.raises(AppError):
                async with arena.transaction(), other.transaction():
                    a["w"] = 1
                    with arena.transaction():
                        assert a["w"] == 1
                        a["v"] = 1
                    raise AppError

        run(main())
        assert dict(a) == {"x": 1, "y": 1, "z": 1}
        assert dict(b) == {"x": 1}


def test_a_step_begun_in_the_middle_of_another_is_not_in_its_way(arena: Arena, run: Any) -> None:
    """A task that runs at once, as eager tasks do, uses the arena inside a handler's step, and inside a block."""
    root = arena.root

    async def theirs(block: Any) -> None:
        await block.__aenter__()
        root["theirs"] = 1

    async def main() -> None:
        contexts = [contextvars.copy_context() for _ in range(2)]
        blocks = [arena.transaction() for _ in range(2)]

        def begin(i: int) -> None:
            with contextlib.suppress(StopIteration):
                contexts[i].run(theirs(blocks[i]).send, None)

        @recoverable
        async def handler() -> None:
            root["h1"] = 1
            begin(0)
            root["h2"] = 1

        await handler()
        with arena.transaction():
            root["w1"] = 1
            begin(1)
            root["w2"] = 1
        for block in blocks:
            await block.__aexit__(AppError, AppError(), None)

    run(main())
    assert dict(root) == {"h1": 1, "h2": 1, "w1": 1, "w2": 1}


def test_who_waits_for_the_lock_is_not_taken_for_done_when_another_has_it(arena: Arena, run: Any) -> None:
    """Threads wait in a transaction, and in independent ones inside it: who gets the lock first changes nothing for the others."""
    root, begun, go = arena.root, threading.Event(), threading.Event()
    ready = threading.Barrier(4)

    @recoverable(nested="independent")
    def audit(key: str) -> None:
        ready.wait(20)
        go.wait(20)  # nothing of the arena is touched so far
        root[key] = 1
        time.sleep(0.1)

    def block() -> None:
        with contextlib.suppress(AppError), arena.transaction():
            time.sleep(0.2)
            root["a"] = 1
            raise AppError

    async def main() -> None:
        third = threading.Thread(target=hold, args=(arena, begun, 0.3))
        async with arena.transaction():
            root["first"] = 1
            audits = [asyncio.create_task(asyncio.to_thread(audit, f"audit{i}")) for i in range(3)]
            await asyncio.to_thread(ready.wait, 20)
            third.start()
            await asyncio.to_thread(begun.wait, 20)
            go.set()
            await asyncio.sleep(0.1)  # they stand before the next one
            working = asyncio.create_task(asyncio.to_thread(block))
            await asyncio.sleep(0.1)
            for i in range(20):
                root["loop"] = i
                await asyncio.sleep(0.01)
            await asyncio.gather(working, *audits)
        third.join()

    before = time.monotonic()
    run(main())
    assert time.monotonic() - before < arena.native.busy_timeout
    assert dict(root) == {"first": 1, "third": 1, "loop": 19} | {f"audit{i}": 1 for i in range(3)}


@pytest.mark.parametrize("part", [False, True], ids=["route", "part"])
def test_a_thread_waits_for_a_step_in_which_another_context_has_used_the_arena(
    arena: Arena, run: Any, part: bool
) -> None:
    """A driver's step goes on up to its `await`, whatever it runs in a copy of its context: a thread does not come in between."""
    root, go, inside = arena.root, threading.Event(), threading.Event()

    def block() -> None:
        go.wait(20)
        with arena.transaction():
            inside.set()
            root["thread"] = root["step"]

    async def body() -> None:
        working = asyncio.create_task(asyncio.to_thread(block))
        await asyncio.sleep(0)
        root["step"] = 1
        assert contextvars.copy_context().run(root.get, "step") == 1
        go.set()
        assert not inside.wait(0.2)
        root["step"] = 2
        await working

    async def shared() -> None:
        token = share_transaction()
        try:
            await body()
        finally:
            unshare_transaction(token)

    async def main() -> None:
        if part:
            async with arena.transaction():
                await recoverable_gather(body())
        else:
            await arena.run(shared)

    run(main())
    assert dict(root) == {"step": 2, "thread": 2}


def test_a_wait_for_another_arena_begins_nothing_of_the_block(arena: Arena, run: Any, name: str) -> None:
    """A thread of the block reads an arena that is in use. What it waits for is that one alone, and both can be closed."""
    with Arena.temporary("4 MiB", name=f"{name}-b") as other:
        with other.transaction():
            other.root["x"] = 1
        ours, theirs, read = threading.Event(), threading.Event(), threading.Event()

        def hold_ours() -> None:
            with arena.transaction():
                arena.root["a"] = 1
                ours.set()
                assert read.wait(20)

        async def main() -> None:
            async with arena.transaction():
                holding = asyncio.create_task(asyncio.to_thread(hold_ours))
                await asyncio.to_thread(ours.wait, 20)
                third = threading.Thread(target=hold, args=(other, theirs, 0.1))
                third.start()
                await asyncio.to_thread(theirs.wait, 20)
                assert await asyncio.to_thread(other.root.get, "x") == 1  # while that block goes on
                read.set()
                await holding
            third.join()

        run(main())
        assert dict(arena.root) == {"a": 1}
        other.close()


def test_who_waits_already_is_given_way_to(arena: Arena, run: Any) -> None:
    """A thread of the block has the lock next, and leaves its step at rest while the loop stands still."""
    root, begun, done = arena.root, threading.Event(), threading.Event()

    def work() -> None:
        root["a"] = 1
        done.wait(20)

    def other() -> None:
        with arena.transaction():
            root["other"] = 1
        done.set()

    async def main() -> None:
        threads = [threading.Thread(target=hold, args=(arena, begun, 0.3))]
        async with arena.transaction():
            threads[0].start()
            assert begun.wait(20)
            threads.append(threading.Thread(target=contextvars.copy_context().run, args=(work,)))
            threads[1].start()
            time.sleep(0.1)  # it stands before the next one
            threads.append(threading.Thread(target=other))
            threads[2].start()
            assert done.wait(20)
            for thread in threads:
                thread.join()

    run(main())
    assert dict(root) == {"third": 1, "a": 1, "other": 1}


def test_threads_sleep_while_they_wait(arena: Arena, run: Any) -> None:
    """As they do where no block is in flight."""
    begun, seconds = threading.Event(), 1.0

    def add() -> None:
        with arena.transaction():
            arena.root["n"] = arena.root.get("n", 0) + 1

    async def main() -> float:
        threads = [
            threading.Thread(target=hold, args=(arena, begun, seconds)),
            *(threading.Thread(target=add) for _ in range(4)),
        ]
        async with arena.transaction():
            threads[0].start()
            assert begun.wait(20)
            before = time.process_time()
            for thread in threads[1:]:
                thread.start()
            for thread in threads:
                thread.join()
            return time.process_time() - before

    assert run(main()) < seconds / 3
    assert arena.root["n"] == 4
