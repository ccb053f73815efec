"""`async with arena.transaction():`, and the tasks and threads that are in it by their context."""
# what raises is a `with` block: its body is the point

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from recoverable import (
    Arena,
    Array,
    ConflictError,
    NoTransactionError,
    RecoverableError,
    StepTooLongError,
    TransactionError,
    after_commit,
    attempt,
    recoverable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class AppError(Exception):
    """Stands for any error of an application."""


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"], autouse=True)
def loop(request: pytest.FixtureRequest) -> Any:
    """Give each kind of event loop."""
    return request.param


@pytest.fixture
def run(loop: Any) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine in a new event loop."""

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=loop) as runner:
            return runner.run(coroutine)

    return run


def outside(fn: Callable[[], Any]) -> Any:
    """Call a function in a task that has nothing of the context."""

    async def call() -> Any:
        return fn()

    return asyncio.get_running_loop().create_task(call(), context=contextvars.Context())


# -- one block --------------------------------------------------------------------------------------------------------


def test_a_clean_end_commits_all_of_its_steps(arena: Arena, run: Any) -> None:
    """What was written before and after an await is committed at the end, and nobody sees it before."""
    root = arena.root

    async def main() -> None:
        async with arena.transaction():
            root["a"] = 1
            await asyncio.sleep(0)
            root["b"] = root["a"] + 1
            assert await outside(lambda: dict(root)) == {}
            assert dict(root) == {"a": 1, "b": 2}
        assert await outside(lambda: dict(root)) == {"a": 1, "b": 2}
        assert arena.stats().in_flight == 0

    run(main())


@pytest.mark.parametrize("error", [AppError, SystemExit, asyncio.CancelledError])
def test_any_exception_rolls_back(arena: Arena, run: Any, error: type[BaseException]) -> None:
    """Whatever leaves the block undoes it and goes on, and so does a cancellation."""
    root = arena.root

    async def main() -> None:
        with pytest.raises(error):
            async with arena.transaction():
                root["a"] = 1
                await asyncio.sleep(0)
                raise error
        task = asyncio.create_task(sleeper())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert dict(root) == {}
        assert arena.stats().in_flight == 0

    async def sleeper() -> None:
        async with arena.transaction():
            root["a"] = 1
            await asyncio.sleep(10)

    run(main())


def test_a_conflict_is_raised_at_its_exit(arena: Arena, run: Any) -> None:
    """Of blocks that read the same and write it, one commits; the others tell where, and by whom."""
    root = arena.root

    async def bump() -> None:
        async with arena.transaction():
            n = root.get("n", 0)
            await asyncio.sleep(0.01)
            root["n"] = n + 1

    async def main() -> None:
        ends = await asyncio.gather(*(bump() for _ in range(4)), return_exceptions=True)
        lost = [end for end in ends if end is not None]
        assert [type(end) for end in lost] == [ConflictError] * 3
        assert lost[0].path == "root"  # type: ignore[union-attr]
        assert lost[0].key == "'n'"  # type: ignore[union-attr]
        assert "bump" in str(lost[0].winner)  # type: ignore[union-attr]
        assert lost[0].runs == 1  # type: ignore[union-attr]
        assert root["n"] == 1

    run(main())


def test_what_its_code_makes_of_a_conflict_does_not_matter(arena: Arena, run: Any) -> None:
    """A block that keeps what stops it has lost all the same."""
    root = arena.root
    with arena.transaction():
        root["n"] = 0

    async def main() -> None:
        with pytest.raises(ConflictError):
            async with arena.transaction():
                assert root["n"] == 0
                await outside(functools.partial(commit, arena, "n", 5))
                with contextlib.suppress(BaseException):
                    root["n"] = 1
        assert root["n"] == 5

    run(main())


def commit(arena: Arena, key: str, value: Any) -> None:
    """Commit one value."""
    with arena.transaction():
        arena.root[key] = value


def test_callbacks_may_be_coroutine_functions(arena: Arena, run: Any) -> None:
    """They are awaited after the commit; never after a rollback."""
    called: list[Any] = []

    async def note(value: Any) -> None:
        await asyncio.sleep(0)
        called.append((value, dict(arena.root)))

    async def main() -> None:
        async with arena.transaction():
            arena.root["a"] = attempt()
            after_commit(note, "once")
            after_commit(called.append, "plain")
        assert called == [("once", {"a": 1}), "plain"]
        with pytest.raises(AppError):
            async with arena.transaction():
                arena.root["a"] = 2
                after_commit(note, "never")
                raise AppError
        assert len(called) == 2

    run(main())


def test_a_block_is_for_one_use(arena: Arena, run: Any) -> None:
    """Once more, or left without being entered, it says so; so does one without an event loop."""

    async def main() -> None:
        block = arena.transaction()
        async with block:
            arena.root["a"] = 1
        with pytest.raises(TransactionError, match="one use"):
            async with block:
                raise AssertionError
        with pytest.raises(TransactionError, match="not been entered"):
            await arena.transaction().__aexit__(None, None, None)

    run(main())
    with pytest.raises(TransactionError, match="asyncio event loop"):
        arena.transaction().__aenter__().send(None)  # type: ignore[attr-defined]
    assert dict(arena.root) == {"a": 1}


def test_one_that_is_never_left_is_rolled_back(arena: Arena, run: Any) -> None:
    """Its generator is closed, or collected, or its loop ends: nothing of it stays, and the arena is free."""
    root = arena.root

    async def values() -> Any:
        async with arena.transaction():
            root["a"] = 1
            yield root["a"]

    async def main() -> None:
        async for value in values():
            assert value == 1
            break
        kept = values()
        await anext(kept)
        del kept
        block = arena.transaction()
        await block.__aenter__()
        root["b"] = 1

    run(main())
    gc.collect()
    with arena.transaction():
        root["c"] = 1
    assert dict(root) == {"c": 1}
    assert arena.stats().in_flight == 0


# -- inside another -----------------------------------------------------------------------------------------------------


def test_in_a_transaction_it_is_a_part_of_that(arena: Arena, run: Any) -> None:
    """In a handler, in arena.run() and in another such block: what it wrote goes with them."""
    root = arena.root

    async def part() -> None:
        async with arena.transaction():
            root["n"] = root.get("n", 0) + 1
            await asyncio.sleep(0)

    async def whole() -> None:
        await part()
        raise AppError

    async def main() -> None:
        for fn in (whole, recoverable(whole)):
            with pytest.raises(AppError):
                await arena.run(fn)
        with pytest.raises(AppError):
            async with arena.transaction():
                await whole()
        assert dict(root) == {}
        await arena.run(part)
        async with arena.transaction():
            await part()
            await recoverable(part)()
            with arena.transaction():
                root["n"] += 1
        assert root["n"] == 4

    run(main())


def test_what_is_one_step_has_none_inside(arena: Arena, run: Any) -> None:
    """In a block or a savepoint, and as an independent one inside a transaction, it is refused."""

    async def enter(**options: Any) -> None:
        async with arena.transaction(**options):
            raise AssertionError

    async def main() -> None:
        with arena.transaction(), pytest.raises(TransactionError, match="part of one step"):
            await enter()
        async with arena.transaction():
            with arena.savepoint(), pytest.raises(TransactionError, match="part of one step"):
                await enter()
            with pytest.raises(TransactionError, match="independent"):
                await enter(independent=True)

    run(main())


def test_an_await_in_a_savepoint_inside_dooms_it(arena: Arena, run: Any) -> None:
    """The way back to a savepoint ends with its step."""

    async def main() -> None:
        with pytest.raises(TransactionError):
            async with arena.transaction():
                arena.root["a"] = 1
                with arena.savepoint():
                    arena.root["b"] = 1
                    await asyncio.sleep(0.01)
                    arena.root["c"] = 1
        assert dict(arena.root) == {}
        assert arena.stats().in_flight == 0

    run(main())


def test_raw_views_are_refused(arena: Arena, run: Any) -> None:
    """Nothing could say when a step ends that stores through them; items and slices are fine, and a handler's own views."""
    pytest.importorskip("numpy")
    with arena.transaction():
        arena.root["m"] = Array((4,), "f8")

    async def main() -> None:
        async with arena.transaction():
            arena.root["m"][0] = 1.0
            with pytest.raises(TransactionError, match="raw view"):
                _ = arena.root["m"].view
        assert list(arena.root["m"]) == [1.0, 0.0, 0.0, 0.0]

    run(main())


# -- tasks and threads ----------------------------------------------------------------------------------------------------


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


# -- in the middle of others --------------------------------------------------------------------------------------------


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
        await arena.transaction().__aenter__()
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
    assert set(ends) <= {"TransactionClosedError"}


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
