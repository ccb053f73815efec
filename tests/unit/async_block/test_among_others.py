"""Async blocks beside others that want the arena: they give way, and are given way to."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import (
    Arena,
    RecoverableError,
    TransactionError,
    recoverable,
)
from support.async_blocks import AppError, outside

if TYPE_CHECKING:
    pass


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
