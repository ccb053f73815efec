"""`arena.transaction()`, `arena.savepoint()`, `after_commit` and `attempt`."""
# what raises is a `with` block: its body is the point

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from recoverable import (
    Arena,
    NoTransactionError,
    TransactionError,
    after_commit,
    attempt,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class AppError(Exception):
    """Stands for any error of an application."""


def content(arena: Arena) -> dict[Any, Any]:
    """Return the root's items, read outside any transaction."""
    return dict(arena.root.items())


# -- one step -----------------------------------------------------------------------------------------------------


def test_a_clean_end_commits(arena: Arena) -> None:
    """What the block wrote is there afterwards."""
    with arena.transaction():
        arena.root["a"] = 1
        assert arena.root["a"] == 1
    assert content(arena) == {"a": 1}


@pytest.mark.parametrize("error", [AppError, KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_any_exception_rolls_back(arena: Arena, error: type[BaseException]) -> None:
    """Whatever leaves the block undoes it and goes on."""
    with pytest.raises(error), arena.transaction():
        arena.root["a"] = 1
        raise error
    assert content(arena) == {}


def test_an_empty_block_is_fine(arena: Arena) -> None:
    """A block that touches nothing commits nothing."""
    before = arena.stats().commit_seq
    with arena.transaction():
        pass
    assert arena.stats().commit_seq == before


def test_a_block_is_for_one_use(arena: Arena) -> None:
    """Entering a block object again is refused."""
    block = arena.transaction()
    with block:
        arena.root["a"] = 1
    with pytest.raises(TransactionError, match="one use"):
        block.__enter__()


def test_a_block_that_is_never_left_is_undone(arena: Arena) -> None:
    """A block that is entered by hand and dropped is rolled back, and the thread goes on outside of it."""
    block = arena.transaction()
    block.__enter__()
    arena.root["a"] = 1
    del block
    gc.collect()
    with pytest.raises(NoTransactionError):
        arena.root["b"] = 1
    with arena.transaction():
        arena.root["c"] = 1
    assert content(arena) == {"c": 1}
    arena.close()


def test_blocks_of_two_arenas_nest(new_name: Callable[[], str]) -> None:
    """A block of another arena inside is a transaction of its own, and the outer one goes on after it."""
    with Arena.temporary("4 MiB", name=new_name()) as first, Arena.temporary("4 MiB", name=new_name()) as second:
        with pytest.raises(AppError), first.transaction():
            first.root["a"] = 1
            with second.transaction():
                second.root["b"] = 2
            first.root["c"] = 3
            raise AppError
        assert content(first) == {}
        assert content(second) == {"b": 2}


def test_a_thread_has_transactions_of_its_own(arena: Arena) -> None:
    """A block in another thread waits for this one's, and is not part of it."""
    entered = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            entered.wait(10)
            with arena.transaction():
                arena.root["n"] = arena.root["n"] + 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    with arena.transaction():
        arena.root["n"] = 1
        entered.set()
    thread.join()
    assert failures == []
    assert content(arena) == {"n": 2}


# -- nested ------------------------------------------------------------------------------------------------------


def test_a_nested_block_joins_and_undoes_only_itself(arena: Arena) -> None:
    """An exception that leaves the inner block and is caught in the outer one undoes the inner one alone."""
    with arena.transaction():
        arena.root["outer"] = 1
        with pytest.raises(AppError), arena.transaction():
            arena.root["outer"] = 2
            arena.root["inner"] = 3
            raise AppError
        with arena.transaction():
            arena.root["second"] = 4
    assert content(arena) == {"outer": 1, "second": 4}


def test_a_nested_block_commits_with_the_outer_one(arena: Arena) -> None:
    """A clean inner block is undone when the outer one fails."""
    with pytest.raises(AppError), arena.transaction():
        with arena.transaction():
            arena.root["inner"] = 1
        raise AppError
    assert content(arena) == {}


def test_a_savepoint_undoes_its_block(arena: Arena) -> None:
    """Savepoints nest, and each goes back to its own start."""
    with arena.transaction():
        arena.root["a"] = 1
        with pytest.raises(AppError), arena.savepoint():
            arena.root["a"] = 2
            with contextlib.suppress(AppError), arena.savepoint():
                arena.root["b"] = 3
                raise AppError
            assert content(arena) == {"a": 2}
            raise AppError
        assert content(arena) == {"a": 1}
        with arena.savepoint():
            arena.root["c"] = 4
    assert content(arena) == {"a": 1, "c": 4}


def test_a_savepoint_needs_a_transaction(arena: Arena) -> None:
    """Without one there is nothing to go back in."""
    with pytest.raises(NoTransactionError, match="savepoint"), arena.savepoint():
        pass


# -- in an event loop --------------------------------------------------------------------------------------------

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def run(main: Any, loop_factory: Any) -> Any:
    """Run a coroutine on a loop of that kind."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_await_inside_is_refused(arena: Arena, loop: Any) -> None:
    """A block that is open across an await is rolled back, and its end says why."""

    async def main() -> None:
        with pytest.raises(TransactionError, match=r"await inside arena\.transaction\(\)"), arena.transaction():
            arena.root["a"] = 1
            await asyncio.sleep(0)
        assert content(arena) == {}
        with arena.transaction():
            arena.root["b"] = 2

    run(main(), loop)
    assert content(arena) == {"b": 2}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_write_after_the_await_is_refused(arena: Arena, loop: Any) -> None:
    """After the await the block's transaction is over: a write raises, and so does the end of the block."""

    async def main() -> None:
        with pytest.raises(TransactionError, match="await inside") as raised, arena.transaction():
            arena.root["a"] = 1
            await asyncio.sleep(0)
            arena.root["a"] = 2
        assert isinstance(raised.value.__cause__, NoTransactionError)
        assert content(arena) == {}

    run(main(), loop)


@pytest.mark.parametrize("loop", LOOPS)
def test_many_tasks_that_await_inside_are_all_refused(arena: Arena, loop: Any) -> None:
    """Blocks of several tasks left open in one loop iteration are each rolled back; those that close in time commit."""

    async def bad(number: int) -> None:
        with arena.transaction():
            arena.root[f"bad{number}"] = 1
            await asyncio.sleep(0)

    async def good(number: int) -> None:
        with arena.transaction():
            arena.root[f"good{number}"] = 1
        await asyncio.sleep(0)
        with arena.transaction():
            arena.root[f"good{number}"] = 2

    async def main() -> None:
        jobs = [job(number) for number in range(5) for job in (bad, good)]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        assert [type(result) for result in results] == [TransactionError, type(None)] * 5

    run(main(), loop)
    assert content(arena) == {f"good{number}": 2 for number in range(5)}
    arena.verify()


@pytest.mark.parametrize("loop", LOOPS)
def test_cancellation_inside_stays_a_cancellation(arena: Arena, loop: Any) -> None:
    """A task that is cancelled at the await inside a block ends as cancelled, rolled back."""

    async def main() -> None:
        async def bad() -> None:
            with arena.transaction():
                arena.root["a"] = 1
                await asyncio.sleep(10)

        task = asyncio.create_task(bad())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main(), loop)
    assert content(arena) == {}


def test_one_sentinel_serves_an_iteration(arena: Arena) -> None:
    """Blocks that end in time leave one callback behind for all of them."""
    calls = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        call_soon = loop.call_soon
        loop.call_soon = lambda *args, **kwargs: calls.append(args) or call_soon(*args, **kwargs)  # type: ignore[method-assign]
        for _ in range(10):
            with arena.transaction():
                arena.root["a"] = 1
        del loop.call_soon

    asyncio.run(main())
    assert len(calls) == 1


def test_an_await_in_a_savepoint_is_refused(arena: Arena) -> None:
    """A savepoint is part of one step: an await inside raises there, and the block is undone."""

    async def handler() -> None:
        arena.root["a"] = 1
        with pytest.raises(TransactionError, match="await inside"), arena.savepoint():
            arena.root["b"] = 2
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(arena.run(handler))
    assert content(arena) == {"a": 1}


def test_an_await_in_a_nested_block_is_refused(arena: Arena) -> None:
    """`arena.transaction()` in a handler is part of one step, too."""

    async def handler() -> None:
        with arena.transaction():
            arena.root["b"] = 2
            await asyncio.sleep(0)

    with pytest.raises(TransactionError, match="await inside"):
        asyncio.run(arena.run(handler))
    assert content(arena) == {}


# -- after_commit -----------------------------------------------------------------------------------------------


def test_callbacks_run_in_order_after_the_commit(arena: Arena) -> None:
    """They see the committed state, outside the transaction, in the order in which they were given."""
    seen: list[Any] = []
    with arena.transaction():
        after_commit(lambda: seen.append(content(arena)))
        arena.root["a"] = 1
        with arena.transaction():
            after_commit(seen.append, 2)
        assert seen == []
    assert seen == [{"a": 1}, 2]


def test_callbacks_are_dropped_by_a_rollback(arena: Arena) -> None:
    """A rolled-back transaction calls nothing; a rolled-back savepoint only drops its own."""
    seen: list[int] = []
    with pytest.raises(AppError), arena.transaction():
        after_commit(seen.append, 1)
        raise AppError
    with arena.transaction():
        after_commit(seen.append, 2)
        with contextlib.suppress(AppError), arena.savepoint():
            after_commit(seen.append, 3)
            raise AppError
        after_commit(seen.append, 4)
    assert seen == [2, 4]


def test_a_failing_callback_is_logged_and_nothing_else(arena: Arena, log: list[dict[str, Any]]) -> None:
    """The commit stands, the other callbacks run, and the event names the callback."""
    seen: list[int] = []

    def fails() -> None:
        raise AppError

    with arena.transaction():
        arena.root["a"] = 1
        after_commit(fails)
        after_commit(seen.append, 1)
    assert seen == [1]
    assert content(arena) == {"a": 1}
    (event,) = [event for event in log if event["event"] == "after_commit.failed"]
    assert event["hook"].endswith("fails")
    assert event["log_level"] == "error"


def test_a_callback_may_open_a_transaction(arena: Arena) -> None:
    """Callbacks run when nothing is open any more."""

    def write() -> None:
        with arena.transaction():
            arena.root["b"] = 2

    with arena.transaction():
        arena.root["a"] = 1
        after_commit(write)
    assert content(arena) == {"a": 1, "b": 2}


def test_a_block_refuses_coroutine_callbacks(arena: Arena, log: list[dict[str, Any]]) -> None:
    """A `with` block can't await: a coroutine function is refused, a coroutine that comes back is reported."""

    async def later() -> None:
        """Do nothing."""

    with arena.transaction():
        with pytest.raises(TransactionError, match="coroutine function"):
            after_commit(later)
        after_commit(lambda: later())
    assert [event["event"] for event in log] == ["after_commit.failed"]


def test_outside_a_transaction_there_is_nothing_to_ask(arena: Arena) -> None:
    """`after_commit` and `attempt` need a running transaction."""
    for call in (lambda: after_commit(print), attempt):
        with pytest.raises(NoTransactionError, match="running transaction"):
            call()
    with arena.transaction():
        assert attempt() == 1
