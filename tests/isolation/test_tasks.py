"""`gather`, `wait_for` and `TaskGroup`: tasks that are parts of a transaction."""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import pytest

import recoverable
from recoverable import Arena, ConflictError, NoTransactionError, TransactionClosedError, TransactionError
from recoverable._native.runtime import current_transaction
from recoverable._native.runtime import part as part_of
from recoverable.tasks import _start


class Undone(Exception):
    """Rolls a request back."""


@pytest.fixture
def arena(arena: Arena) -> Arena:
    """Give an arena with a number and a Dict."""
    with arena.transaction():
        arena.root.update({"n": 0, "d": {}})
    return arena


async def put(arena: Arena, key: Any, turns: int = 1) -> Any:
    """Write a key after some turns of the loop, and once more after another."""
    for _ in range(turns):
        await asyncio.sleep(0)
    arena.root["d"][key] = 1
    await asyncio.sleep(0)
    arena.root["d"][key] += 1
    return key


async def group(arena: Arena, *parts: Any) -> list[Any]:
    """Run coroutines in a TaskGroup; their results in order."""
    async with recoverable.TaskGroup() as tasks:
        started = [tasks.create_task(part, name=f"part {i}") for i, part in enumerate(parts)]
    return [task.result() for task in started]


async def gathered(arena: Arena, *parts: Any) -> list[Any]:
    """Run coroutines with gather."""
    return await recoverable.gather(*parts)


@pytest.mark.parametrize("together", [group, gathered])
async def test_parts_commit_and_roll_back_with_the_handler(arena: Arena, together: Any) -> None:
    """What tasks write is the handler's: nobody sees it before, all of it stays or goes."""

    async def handler(end: Exception | None) -> list[Any]:
        arena.root["n"] += 1
        results: list[Any] = await together(arena, *(put(arena, i, i) for i in range(5)))
        assert arena.root["d"].to_python() == dict.fromkeys(range(5), 2)
        if end:
            raise end
        return results

    async def watch() -> None:
        for _ in range(12):
            assert arena.root["d"].to_python() in ({}, dict.fromkeys(range(5), 2))
            await asyncio.sleep(0)

    with pytest.raises(Undone):
        await asyncio.gather(arena.run(handler, Undone()), watch())
    assert arena.root.to_python() == {"n": 0, "d": {}}
    results, _ = await asyncio.gather(arena.run(handler, None), watch())
    assert results == [0, 1, 2, 3, 4]
    assert arena.root.to_python() == {"n": 1, "d": dict.fromkeys(range(5), 2)}


async def test_many_handlers_with_parts_are_serialisable(arena: Arena) -> None:
    """Twenty handlers, each with parts that read and raise one number: none of the additions is lost."""

    async def add(times: int) -> None:
        for _ in range(times):
            n = arena.root["n"]
            await asyncio.sleep(0)
            arena.root["n"] = n + 1

    async def handler() -> None:
        await recoverable.gather(add(1), asyncio.sleep(0))
        await recoverable.wait_for(add(1), 5)

    await asyncio.gather(*(arena.run(handler, max_conflicts=50) for _ in range(20)))
    assert arena.root["n"] == 40


async def test_a_failing_part_ends_the_others_first(arena: Arena) -> None:
    """gather() raises the first exception once every other part has ended, so a handler may catch it and go on."""
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            arena.root["d"]["slow"] = "ended"
            await asyncio.sleep(0)
            ended.append("slow")

    async def fail() -> None:
        await asyncio.sleep(0)
        raise Undone

    async def handler() -> None:
        with pytest.raises(Undone):
            await recoverable.gather(slow(), fail())
        ended.append("handler")

    await arena.run(handler)
    assert ended == ["slow", "handler"]
    assert arena.root["d"]["slow"] == "ended"


async def test_exceptions_can_be_results(arena: Arena) -> None:
    """return_exceptions, one awaitable given twice, and futures from outside work as in asyncio."""
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.set_result(5)

    async def fail() -> None:
        raise Undone

    async def handler() -> list[Any]:
        twice = put(arena, "k")
        return await recoverable.gather(twice, fail(), future, twice, return_exceptions=True)

    first, failure, five, again = await arena.run(handler)
    assert (first, five, again) == ("k", 5, "k")
    assert isinstance(failure, Undone)
    assert await recoverable.gather(asyncio.sleep(0, 1), future) == [1, 5]  # outside: asyncio's own
    assert await recoverable.gather() == []


async def test_a_cancelled_handler_ends_its_parts(arena: Arena) -> None:
    """Cancellation reaches every part; nothing of them is left."""
    started = asyncio.Event()

    async def part() -> None:
        arena.root["d"]["x"] = 1
        started.set()
        await asyncio.sleep(60)

    async def handler(together: Any) -> None:
        await together(arena, part(), asyncio.sleep(60))

    for together in (group, gathered):
        started.clear()
        task = asyncio.create_task(arena.run(handler, together))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1
        assert arena.root["d"].to_python() == {}
        assert arena.stats().in_flight == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("together", [group, gathered])
async def test_a_part_that_is_cancelled_before_it_began_is_closed(arena: Arena, together: Any) -> None:
    """As with asyncio's own, nobody is warned of a coroutine that was never awaited."""
    parts = [put(arena, "a"), put(arena, "b")]

    async def handler() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await together(arena, *parts)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(arena.run(handler))
    assert [part.cr_frame for part in parts] == [None, None]


async def test_wait_for_is_inside_and_ends_in_time(arena: Arena) -> None:
    """What it awaits writes in the transaction; a time-out is a TimeoutError that the handler may catch."""

    async def handler() -> None:
        assert await recoverable.wait_for(put(arena, "in time"), 5) == "in time"
        with pytest.raises(TimeoutError):
            await recoverable.wait_for(put(arena, "late", 10**9), 0.001)
        await recoverable.wait_for(put(arena, "no limit"), None)

    await arena.run(handler)
    assert arena.root["d"].to_python() == {"in time": 2, "no limit": 2}


async def test_asyncios_own_wait_for(arena: Arena) -> None:
    """It is inside where it makes no task; before Python 3.12 it makes one, and the error of a write says what to use."""

    async def helper() -> None:
        await put(arena, "helped")

    async def deeper() -> None:
        await asyncio.sleep(0)
        recoverable.after_commit(print)

    async def handler(function: Any) -> None:
        await asyncio.wait_for(function(), 5)

    await arena.run(lambda: asyncio.wait_for(helper(), None))
    assert arena.root["d"].to_python() == {"helped": 2}
    with arena.transaction():
        arena.root["d"].clear()
    for function in (helper, deeper):
        if sys.version_info >= (3, 12):
            await arena.run(handler, function)
            continue
        with pytest.raises(
            NoTransactionError, match=r"asyncio\.wait_for\(\) has made .* Use recoverable\.wait_for\(\)"
        ):
            await arena.run(handler, function)

        async def ours(function: Any = function) -> None:
            await recoverable.wait_for(function(), 5)

        await arena.run(ours)
    assert arena.root["d"].to_python() == {"helped": 2}


async def test_an_error_in_another_task_does_not_name_wait_for(arena: Arena) -> None:
    """Only the task that it has made is told of it."""

    async def write() -> None:
        await put(arena, "x")

    with pytest.raises(NoTransactionError) as raised:
        await arena.run(lambda: asyncio.create_task(write()))
    assert "has made" not in str(raised.value)
    with pytest.raises(NoTransactionError) as raised:
        arena.root["n"] = 1
    assert "has made" not in str(raised.value)


@pytest.mark.parametrize("together", [group, gathered])
async def test_a_conflict_in_a_part_runs_the_handler_again(arena: Arena, together: Any) -> None:
    """A part that meets another's commit stops, its siblings too, and the whole handler is run again."""
    runs = 0

    async def part() -> None:
        n = arena.root["n"]
        if runs == 1:
            await asyncio.create_task(other())
        arena.root["n"] = n + 1

    async def other() -> None:
        with arena.transaction():
            arena.root["n"] += 10

    async def handler() -> None:
        nonlocal runs
        runs += 1
        await together(arena, part(), put(arena, "k", 3))

    await arena.run(handler)
    assert runs == 2
    assert arena.root.to_python() == {"n": 11, "d": {"k": 2}}


async def test_a_conflict_in_a_part_is_an_error_at_last(arena: Arena) -> None:
    """With max_conflicts=0 the caller gets ConflictError, not a group of internal things."""

    async def part() -> None:
        n = arena.root["n"]
        with pytest.raises(ConflictError):
            await arena.run(part_of_itself, max_conflicts=0, nested="independent")
        arena.root["n"] = n + 1

    async def part_of_itself() -> None:
        assert arena.root["n"] == 0
        await asyncio.create_task(other())
        arena.root["d"]["never"] = 1

    async def other() -> None:
        with arena.transaction():
            arena.root["n"] += 10

    with pytest.raises(ConflictError):
        await arena.run(group, arena, part(), max_conflicts=0)
    assert arena.root.to_python() == {"n": 10, "d": {}}


async def test_an_await_in_a_parts_savepoint_is_refused(arena: Arena) -> None:
    """A part's step is the transaction's step."""

    async def part() -> None:
        with pytest.raises(TransactionError, match="await inside"), arena.savepoint():
            arena.root["n"] = 5
            await asyncio.sleep(0)
        arena.root["d"]["ok"] = 1

    await arena.run(group, arena, part(), put(arena, "k"))
    assert arena.root.to_python() == {"n": 0, "d": {"ok": 1, "k": 2}}


async def test_a_part_that_outlives_its_handler_is_stopped(arena: Arena) -> None:
    """Were one left behind, it would find the transaction ended, and write nothing."""
    outcome: list[BaseException] = []

    async def part() -> None:
        try:
            await asyncio.sleep(0.001)
        except TransactionClosedError as error:
            outcome.append(error)
            with pytest.raises(NoTransactionError, match="gather"):
                arena.root["n"] = 1
            raise

    async def handler() -> Any:
        arena.root["d"]["x"] = 1
        task = _start(part(), current_transaction(arena.native))
        await asyncio.sleep(0)
        return task

    task = await arena.run(handler)
    with pytest.raises(TransactionClosedError, match="has ended"):
        await task
    assert len(outcome) == 1
    assert arena.root.to_python() == {"n": 0, "d": {"x": 1}}


async def test_a_part_that_is_thrown_away_stops_the_handler(arena: Arena) -> None:
    """Half of what it was to do may be in the transaction, which can only roll back."""

    async def part() -> None:
        arena.root["n"] = 1
        await asyncio.Event().wait()

    async def handler() -> None:
        transaction = current_transaction(arena.native)
        assert transaction is not None
        thrown = part_of(part(), transaction)
        thrown.send(None)  # type: ignore[attr-defined]
        del thrown
        gc.collect()

    with pytest.raises(TransactionClosedError):
        await arena.run(handler)
    assert arena.root["n"] == 0


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_eager_parts(arena: Arena) -> None:
    """With the eager task factory a part begins inside the handler's step."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    try:

        async def handler() -> None:
            arena.root["n"] = 1
            await group(arena, put(arena, 1, 0), put(arena, 2, 0))
            await recoverable.gather(put(arena, 3, 0), put(arena, 4, 2))
            arena.root["n"] += 1

        await arena.run(handler)
    finally:
        loop.set_task_factory(None)
    assert arena.root.to_python() == {"n": 2, "d": {1: 2, 2: 2, 3: 2, 4: 2}}
