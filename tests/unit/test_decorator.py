"""`@recoverable` and `arena.run`: what commits, what rolls back, what runs again."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import (
    Arena,
    ArenaFullError,
    ArenaOptionError,
    ConflictError,
    NoTransactionError,
    after_commit,
    attempt,
    recoverable,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class AppError(Exception):
    """Stands for any error of an application."""


def content(arena: Arena) -> dict[Any, Any]:
    """Return the root's items, read outside any transaction."""
    return dict(arena.root.items())


async def tick(times: int = 1) -> None:
    """Let the loop run something else."""
    for _ in range(times):
        await asyncio.sleep(0)


# -- the wrapper --------------------------------------------------------------------------------------------------


def test_the_wrapper_is_a_coroutine_function_with_the_name_of_its_own() -> None:
    """Aiohttp accepts it, and introspection shows the handler."""

    @recoverable
    async def plain(a: int, *, b: str = "") -> int:
        """Say something."""
        return a

    @recoverable(retries=1)
    async def with_options(a: int) -> int:
        return a

    for wrapped in (plain, with_options):
        assert asyncio.iscoroutinefunction(wrapped)
        assert inspect.iscoroutinefunction(wrapped)
    assert plain.__name__ == "plain"
    assert plain.__doc__ == "Say something."
    assert str(inspect.signature(plain)) == "(a: 'int', *, b: 'str' = '') -> 'int'"


def test_only_functions_can_be_decorated() -> None:
    """Classes, generators and what can't be called are a TypeError that says what to do."""

    async def generator() -> Any:
        yield

    class View: ...

    for bad, words in ((generator, "generator"), (View, "methods"), (7, "give a function")):
        with pytest.raises(TypeError, match=words):
            recoverable(bad)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match=words):
            recoverable(retries=1)(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no Arena"):
        recoverable(arena="shop")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "bad",
    [
        {"retries": -1},
        {"retries": 1.5},
        {"retries": True},
        {"max_conflicts": -1},
        {"max_conflicts": None},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"timeout": "1"},
        {"retry_on": "x"},
        {"retry_on": (1,)},
        {"fallback": 1},
        {"commit_if": 1},
        {"nested": "alone"},
    ],
)
def test_bad_options_are_refused_when_decorating(bad: dict[str, Any]) -> None:
    """An option that can't be is found at import, not at the first request."""
    with pytest.raises(ArenaOptionError, match=next(iter(bad))):
        recoverable(**bad)


async def test_methods_and_keyword_arguments_work(arena: Arena) -> None:
    """`self`, positional and keyword arguments reach the function."""

    class Shop:
        @recoverable
        async def buy(self, item: str, *, count: int) -> int:
            arena.root[item] = count
            return count

    assert await Shop().buy("tea", count=2) == 2
    assert content(arena) == {"tea": 2}


# -- commit and rollback --------------------------------------------------------------------------------------------


async def test_a_return_commits_across_awaits(arena: Arena) -> None:
    """Writes before and after an await commit together, and nobody sees them before."""
    seen = []

    @recoverable
    async def handler() -> str:
        arena.root["a"] = 1
        await tick()
        arena.root["b"] = 2
        return "done"

    task = asyncio.create_task(handler())
    await tick()
    seen.append(content(arena))
    assert await task == "done"
    assert seen == [{}]
    assert content(arena) == {"a": 1, "b": 2}


@pytest.mark.parametrize("error", [AppError, asyncio.CancelledError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_any_exception_rolls_back_and_is_raised(arena: Arena, error: type[BaseException]) -> None:
    """The caller sees the handler's own exception, and the state is as before."""

    @recoverable
    async def handler() -> None:
        arena.root["a"] = 1
        raise error("mine")

    call = handler()
    with pytest.raises(error, match="mine"):
        call.send(None)
    assert content(arena) == {}


async def test_a_caught_exception_is_no_rollback(arena: Arena) -> None:
    """What the handler handles itself is its own business."""

    @recoverable
    async def handler() -> None:
        arena.root["a"] = 1
        try:
            raise AppError
        except AppError:
            arena.root["b"] = 2

    await handler()
    assert content(arena) == {"a": 1, "b": 2}


async def test_cancellation_rolls_back_and_stays_a_cancellation(arena: Arena) -> None:
    """A cancelled request is undone, never retried and has no fallback."""
    runs = []

    @recoverable(retries=3, fallback=lambda *_: "fallback")
    async def handler() -> None:
        runs.append(1)
        arena.root["a"] = 1
        await asyncio.sleep(10)

    task = asyncio.create_task(handler())
    await tick()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runs == [1]
    assert content(arena) == {}


async def test_a_cancellation_is_not_lost_in_a_conflict(arena: Arena) -> None:
    """A doomed run that is cancelled ends as cancelled instead of running again."""
    runs = []

    @recoverable
    async def handler() -> None:
        runs.append(1)
        arena.root["a"] = arena.root.get("a", 0) + 1
        try:
            await asyncio.sleep(10)
        finally:
            arena.root["a"] = 7

    task = asyncio.create_task(handler())
    await tick()
    with arena.transaction():
        arena.root["a"] = 100
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runs == [1]
    assert content(arena) == {"a": 100}


async def test_a_crash_that_comes_of_a_cancellation_is_not_retried(arena: Arena) -> None:
    """A `finally` that raises while the task is cancelled would otherwise start a run that nobody waits for."""
    runs = []

    @recoverable(retries=3)
    async def handler() -> None:
        runs.append(1)
        arena.root["a"] = 1
        try:
            await asyncio.sleep(10)
        finally:
            raise AppError

    task = asyncio.create_task(handler())
    await tick()
    task.cancel()
    with pytest.raises(AppError):
        await task
    assert runs == [1]
    assert content(arena) == {}


async def test_a_coroutine_that_is_thrown_away_is_rolled_back(arena: Arena) -> None:
    """Closing or collecting a suspended request undoes it; its `finally` can't write any more."""
    after = []

    @recoverable
    async def handler() -> None:
        arena.root["a"] = 1
        try:
            await asyncio.sleep(10)
        finally:
            try:
                arena.root["a"] = 2
            except BaseException as error:
                after.append(type(error).__name__)

    call = handler()
    call.send(None)
    call.close()
    assert len(after) == 1
    assert content(arena) == {}
    assert arena.stats().in_flight == 0


async def test_commit_if_decides(arena: Arena) -> None:
    """`commit_if(result)` decides on what was returned, and the result is returned either way."""

    @recoverable(commit_if=lambda result: result["ok"])
    async def handler(key: str, ok: bool) -> dict[str, Any]:
        arena.root[key] = 1
        return {"ok": ok}

    assert await handler("good", True) == {"ok": True}
    assert await handler("bad", False) == {"ok": False}
    assert content(arena) == {"good": 1}


async def test_a_failing_commit_if_rolls_back(arena: Arena) -> None:
    """An exception in `commit_if` is the call's exception."""

    @recoverable(commit_if=lambda result: 1 / 0)
    async def handler() -> None:
        arena.root["a"] = 1

    with pytest.raises(ZeroDivisionError):
        await handler()
    assert content(arena) == {}


async def test_a_result_with_a_status_is_not_taken_for_a_response(arena: Arena) -> None:
    """Only a web framework's responses have a status that means something here."""

    class Order:
        status = 500

    @recoverable
    async def handler() -> Order:
        arena.root["a"] = 1
        return Order()

    await handler()
    assert content(arena) == {"a": 1}


# -- retries ------------------------------------------------------------------------------------------------------


async def test_retries_start_from_the_state_before(arena: Arena) -> None:
    """Each run finds what the failed one had found, and `attempt()` counts them."""
    seen = []

    @recoverable(retries=2)
    async def handler() -> str:
        seen.append((attempt(), "a" in arena.root))
        arena.root["a"] = 1
        await tick()
        if attempt() < 3:
            raise AppError
        return "third"

    assert await handler() == "third"
    assert seen == [(1, False), (2, False), (3, False)]
    assert content(arena) == {"a": 1}


async def test_the_last_crash_is_raised(arena: Arena) -> None:
    """When all runs have crashed the last exception is the caller's."""
    runs = []

    @recoverable(retries=2)
    async def handler() -> None:
        runs.append(1)
        arena.root["a"] = 1
        raise AppError(len(runs))

    with pytest.raises(AppError, match="3"):
        await handler()
    assert len(runs) == 3
    assert content(arena) == {}


async def test_only_what_retry_on_names_is_retried(arena: Arena) -> None:
    """Other exceptions are raised at once."""
    runs = []

    @recoverable(retries=5, retry_on=ConnectionError)
    async def handler() -> None:
        runs.append(1)
        raise AppError if len(runs) == 2 else ConnectionResetError

    with pytest.raises(AppError):
        await handler()
    assert len(runs) == 2


@pytest.mark.parametrize("how", ["run", "decorated"])
async def test_what_a_cancelled_request_held_is_freed_at_once(arena: Arena, how: str) -> None:
    """Its arguments do not wait for the garbage collector."""

    class Body:
        pass

    async def handler(body: Body) -> None:
        arena.root["a"] = 1
        await asyncio.sleep(60)

    body = Body()
    held = weakref.ref(body)
    gc.disable()
    try:
        task = asyncio.create_task(arena.run(handler, body) if how == "run" else recoverable(handler)(body))
        del body
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        del task
        await asyncio.sleep(0)
        assert held() is None
    finally:
        gc.enable()


async def test_wrong_arguments_are_no_run(arena: Arena) -> None:
    """A function that can't take its arguments is an error of the call: raised at once, without retries and fallback."""
    asked = []

    async def handler(one: int) -> None:
        raise AssertionError(one)

    def fallback(*args: Any) -> None:
        asked.append(args)

    with pytest.raises(TypeError, match="positional argument"):
        await arena.run(handler, retries=2, fallback=fallback)
    with pytest.raises(TypeError, match="positional argument"):
        await recoverable(retries=2, fallback=fallback)(handler)()  # type: ignore[call-arg]
    assert asked == []


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_fallback_answers_when_all_runs_have_failed(arena: Arena, is_async: bool) -> None:
    """It gets the exception and the arguments, and runs outside the transaction."""

    def plain(error: BaseException, *args: Any, **kwargs: Any) -> Any:
        with pytest.raises(NoTransactionError):
            attempt()
        return (type(error), args, kwargs, content(arena))

    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        await tick()
        return plain(*args, **kwargs)

    @recoverable(retries=1, fallback=coroutine if is_async else plain)
    async def handler(number: int, *, word: str) -> Any:
        arena.root["a"] = 1
        raise AppError

    assert await handler(1, word="x") == (AppError, (1,), {"word": "x"}, {})


async def test_failed_exceptions_are_not_kept_alive(arena: Arena) -> None:
    """The run loop leaves no reference cycle with the exception behind: frames and requests are freed at once."""

    @recoverable
    async def handler(thing: Any) -> None:
        raise AppError

    class Thing: ...

    thing = Thing()
    gone = weakref.ref(thing)
    gc.disable()
    try:
        with contextlib.suppress(AppError):
            await handler(thing)
        del thing
        assert gone() is None
    finally:
        gc.enable()


# -- conflicts ------------------------------------------------------------------------------------------------------


async def test_a_conflict_runs_again_without_retries(arena: Arena) -> None:
    """Two requests that add to one key both count, whatever the order."""

    @recoverable
    async def add(number: int) -> int:
        value = arena.root.get("n", 0)
        await tick(number)
        arena.root["n"] = value + 1
        return attempt()

    runs = await asyncio.gather(add(1), add(3))
    assert content(arena) == {"n": 2}
    assert sorted(runs) == [1, 2]


async def _always_beaten(arena: Arena, **options: Any) -> tuple[int, Any]:
    """Run a handler that loses each time; return its runs and what came of it."""
    runs = []

    async def handler() -> None:
        runs.append(attempt())
        value = arena.root.get("n", 0)
        await tick()
        other = asyncio.get_running_loop().create_task(_write(arena), context=None)
        await other
        arena.root["n"] = value + 1

    try:
        result: Any = await recoverable(**options)(handler)()
    except ConflictError as error:
        result = error
    return len(runs), result


async def _write(arena: Arena) -> None:
    with arena.transaction():
        arena.root["n"] = arena.root.get("n", 0) + 1000


@pytest.mark.parametrize("most", [0, 1, 4])
async def test_conflicts_run_again_at_most_max_conflicts_times(arena: Arena, most: int) -> None:
    """After `max_conflicts` re-runs the caller sees `ConflictError`, which says where, who and how often."""
    runs, error = await _always_beaten(arena, max_conflicts=most)
    assert isinstance(error, ConflictError)
    assert runs == error.runs == most + 1
    assert error.key == "'n'"
    assert error.path
    assert error.winner == "_write"
    assert content(arena) == {"n": 1000 * (most + 1)}


async def test_an_exhausted_conflict_has_the_fallback(arena: Arena) -> None:
    """The fallback answers for conflicts, too."""
    _, result = await _always_beaten(arena, max_conflicts=1, fallback=lambda error, *_: ("fallback", type(error)))
    assert result == ("fallback", ConflictError)


async def test_a_conflict_error_of_another_call_is_an_ordinary_exception(arena: Arena) -> None:
    """A `ConflictError` that the handler itself raises is not taken for a conflict of its own transaction."""
    runs = []

    @recoverable
    async def handler() -> None:
        runs.append(1)
        raise ConflictError("of somebody else")

    with pytest.raises(ConflictError, match="of somebody else"):
        await handler()
    assert runs == [1]


# -- after_commit -----------------------------------------------------------------------------------------------------


async def test_callbacks_run_once_after_the_run_that_commits(arena: Arena) -> None:
    """Callbacks of failed runs are dropped; coroutine functions are awaited in their turn."""
    seen: list[Any] = []

    async def later(word: str) -> None:
        await tick()
        seen.append((word, content(arena)))

    @recoverable(retries=1)
    async def handler() -> None:
        after_commit(later, f"run {attempt()}")
        after_commit(seen.append, "plain")
        arena.root["a"] = attempt()
        await tick()
        if attempt() == 1:
            raise AppError

    await handler()
    assert seen == [("run 2", {"a": 2}), "plain"]


async def test_callbacks_run_when_nothing_was_touched(arena: Arena) -> None:
    """A handler that only sends a mail commits nothing, and still is a success."""
    seen: list[int] = []

    @recoverable(commit_if=lambda result: result)
    async def handler(result: bool) -> bool:
        after_commit(seen.append, 1)
        return result

    await handler(True)
    await handler(False)
    assert seen == [1]


# -- which arena, and joining
# -------------------------------------------------------------------------------------------


async def test_a_nested_call_joins(arena: Arena) -> None:
    """A recoverable function called by another is part of its transaction: undone with it, not retried by itself."""
    runs = []

    @recoverable(retries=5)
    async def inner() -> None:
        runs.append(1)
        arena.root["inner"] = 1
        await tick()
        raise AppError

    @recoverable
    async def outer() -> None:
        arena.root["outer"] = 1
        with pytest.raises(AppError):
            await inner()
        with pytest.raises(AppError):
            await arena.run(inner)

    await outer()
    assert len(runs) == 2
    assert content(arena) == {"outer": 1, "inner": 1}


async def test_a_named_arena_is_used(new_name: Callable[[], str]) -> None:
    """`arena=` decides where several are open; transactions of two arenas nest."""
    with Arena.temporary("4 MiB", name=new_name()) as first, Arena.temporary("4 MiB", name=new_name()) as second:

        @recoverable(arena=second)
        async def inner() -> None:
            second.root["b"] = 2
            await tick()

        @recoverable(arena=first)
        async def outer() -> None:
            first.root["a"] = 1
            await inner()
            await tick()
            raise AppError

        with pytest.raises(AppError):
            await outer()
        assert content(first) == {}
        assert content(second) == {"b": 2}


async def test_a_spawned_task_is_outside(arena: Arena) -> None:
    """A task that a handler starts is not in its transaction."""

    async def task() -> None:
        with pytest.raises(NoTransactionError):
            arena.root["a"] = 1

    @recoverable
    async def handler() -> None:
        arena.root["b"] = 1
        await asyncio.create_task(task())

    await handler()
    assert content(arena) == {"b": 1}


# -- arena.run
# ----------------------------------------------------------------------------------------------------------


async def test_run_takes_anything_that_gives_an_awaitable(arena: Arena) -> None:
    """Coroutine functions, partials, bound methods and functions that return awaitables can be run."""

    async def write(key: str, value: int = 0) -> str:
        arena.root[key] = value
        await tick()
        return key

    class Thing:
        async def method(self) -> str:
            return await write("method")

        async def __call__(self) -> str:
            return await write("object")

    assert await arena.run(write, "plain") == "plain"
    assert await arena.run(functools.partial(write, value=1), "partial") == "partial"
    assert await arena.run(Thing().method) == "method"
    assert await arena.run(Thing()) == "object"
    assert await arena.run(lambda: write("lambda")) == "lambda"
    assert content(arena) == {"plain": 0, "partial": 1, "method": 0, "object": 0, "lambda": 0}


async def test_run_takes_the_decorators_options(arena: Arena) -> None:
    """`retries` and the others work, an unknown one is a TypeError, a later one says so."""

    async def handler() -> int:
        if attempt() == 1:
            raise AppError
        return attempt()

    assert await arena.run(handler, retries=1) == 2
    with pytest.raises(TypeError):
        await arena.run(handler, retry=1)
    with pytest.raises(ArenaOptionError, match=r"must be .join. or .independent."):
        await arena.run(handler, nested="alone")


async def test_a_full_arena_rolls_the_handler_back(arena: Arena) -> None:
    """A handler that runs out of room raises `ArenaFullError`, undone; the next one works."""

    @recoverable
    async def handler(count: int) -> None:
        for number in range(count):
            arena.root[number] = b"x" * 100_000
            await tick()

    with pytest.raises(ArenaFullError):
        await handler(1000)
    assert content(arena) == {}
    await handler(3)
    assert len(arena.root) == 3
    arena.verify()
