"""What `@recoverable` makes, as those see it who take it for a function, and a call of it for a coroutine."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import inspect
import pickle
import sys
import threading
import types
import typing
import warnings
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from recoverable import Arena, ConflictError, TransactionError, after_commit, attempt, event_log, recoverable
from recoverable._native.runtime import current_transaction
from support.forks import in_child

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@recoverable
async def module_level(a: int, *, b: str = "x") -> list[str]:
    """Say something."""
    await asyncio.sleep(0)
    return [b] * a


def content(arena: Arena) -> dict[Any, Any]:
    """Return the root's items, read outside any transaction."""
    return dict(arena.root.items())


@types.coroutine
def pause(value: Any = None) -> Any:
    """Suspend, by hand: give the value, return what is sent."""
    return (yield value)


def conflict(arena: Arena, call: Coroutine[Any, Any, Any]) -> None:
    """Drive a call up to its pause after it has read "n", and commit a change of that."""
    call.send(None)
    with arena.transaction():
        arena.root["n"] = arena.root.get("n", 0) + 10


# -- a function ---------------------------------------------------------------------------------------------------------


def test_it_is_a_coroutine_function_to_whoever_asks() -> None:
    """`inspect` and `asyncio` say so, of it, of partials and bound methods of it; frameworks that look for a function find one."""

    class View:
        @recoverable
        async def method(self) -> None: ...

        @recoverable
        @staticmethod
        async def static() -> None: ...

        @recoverable
        @classmethod
        async def of_class(cls) -> None: ...

    called = recoverable(functools.partial(module_level, 1))
    for fn in (
        module_level,
        functools.partial(module_level, 1),
        View.method,
        View().method,
        View.static,
        View.of_class,
        called,
    ):
        assert inspect.iscoroutinefunction(fn)
        assert asyncio.iscoroutinefunction(fn)
        assert not inspect.isgeneratorfunction(fn)
        assert not inspect.isasyncgenfunction(fn)
    assert inspect.isfunction(module_level)
    assert inspect.ismethod(View().method)
    assert inspect.isroutine(module_level)
    assert callable(module_level)


def test_it_has_what_a_function_has() -> None:
    """Names, signature, hints, attributes, weak references, copies and pickles are those of the function that it wraps."""
    fn: Any = module_level
    assert (fn.__name__, fn.__qualname__, fn.__module__) == ("module_level", "module_level", __name__)
    assert fn.__doc__ == "Say something."
    assert str(inspect.signature(fn)) == "(a: 'int', *, b: 'str' = 'x') -> 'list[str]'"
    assert inspect.signature(fn, follow_wrapped=False) == inspect.signature(fn)
    assert typing.get_type_hints(fn) == {"a": int, "b": str, "return": list[str]}
    assert inspect.unwrap(fn) is fn.__wrapped__
    assert fn.__code__ is fn.__wrapped__.__code__
    fn.mark = 1
    assert vars(fn)["mark"] == 1
    assert weakref.ref(fn)() is fn
    assert pickle.loads(pickle.dumps(fn)) is fn
    assert copy.copy(fn) is copy.deepcopy(fn) is fn
    assert {fn: 1}[fn] == 1
    assert "module_level" in repr(fn)
    again = functools.wraps(fn)(lambda: None)
    assert (again.__name__, inspect.signature(again)) == ("module_level", inspect.signature(fn))


async def test_it_is_bound_as_a_function_is(arena: Arena) -> None:
    """A method, a partial method, a class method: all get what they are called with."""

    class Shop:
        @recoverable
        async def add(self, key: str, value: int = 1) -> Any:
            arena.root[key] = value
            return self

        add_two = functools.partialmethod(add, value=2)

        @recoverable
        @classmethod
        async def open(cls) -> Any:
            return cls

    shop = Shop()
    assert await shop.add("a") is shop
    assert await shop.add_two("b") is shop
    assert await Shop.add(shop, key="c", value=3) is shop
    assert await shop.open() is Shop
    assert content(arena) == {"a": 1, "b": 2, "c": 3}


async def test_keywords_are_its_own(arena: Arena) -> None:
    """A dict of keywords that the caller changes afterwards changes nothing of the call, nor of its next run."""
    runs = []

    @recoverable(retries=1)
    async def handler(**given: Any) -> Any:
        runs.append(dict(given))
        given.clear()
        if len(runs) == 1:
            raise OSError
        return runs[-1]

    keywords = {"a": 1}
    call = handler.__call__(**keywords)
    keywords["a"] = 2
    assert await call == {"a": 1}
    assert runs == [{"a": 1}] * 2


# -- a coroutine ----------------------------------------------------------------------------------------------------------


def test_a_call_is_a_coroutine(arena: Arena) -> None:
    """`asyncio` takes it for one, and tells where it stands."""

    async def main() -> None:
        call: Any = module_level(2)
        assert asyncio.iscoroutine(call)
        assert inspect.isawaitable(call)
        assert not call.cr_running
        task = asyncio.ensure_future(call)
        await asyncio.sleep(0)
        assert inspect.getcoroutinestate(call) == inspect.CORO_SUSPENDED
        assert [frame.f_code.co_name for frame in task.get_stack()] == ["module_level"]
        assert "module_level() running at" in repr(task)
        assert await task == ["x", "x"]
        assert inspect.getcoroutinestate(call) == inspect.CORO_CLOSED
        assert call.__qualname__ == "module_level"

    asyncio.run(main())


def test_nothing_happens_before_it_is_awaited(arena: Arena) -> None:
    """The handler is not called by the call; whether it is part of a transaction is asked where it is awaited."""
    runs = []

    @recoverable
    async def inner() -> Any:
        runs.append(1)
        arena.root["inner"] = 1

    @recoverable
    async def outer() -> Any:
        call = inner()
        assert runs == []
        await asyncio.create_task(call)  # outside of this transaction: its own
        raise OSError

    with pytest.raises(OSError):
        asyncio.run(outer())
    assert content(arena) == {"inner": 1}


def test_one_that_is_never_awaited_says_so(arena: Arena) -> None:
    """As a coroutine does; one that is closed first is silent, and so is one that was awaited."""
    with pytest.warns(RuntimeWarning, match="coroutine 'module_level' was never awaited"):
        module_level(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call = module_level(1)
        call.close()
        call.close()
        with pytest.raises(RuntimeError, match="already awaited"):
            call.send(None)
        assert asyncio.run(module_level(1)) == ["x"]


def test_it_is_awaited_once(arena: Arena) -> None:
    """A second await, or a step while one is running, is refused, and does it no harm."""
    calls: list[Any] = []

    @recoverable
    async def handler() -> str:
        arena.root["a"] = 1
        for step in (lambda: calls[0].send(None), lambda: calls[0].throw(OSError), lambda: calls[0].close()):
            with pytest.raises(ValueError, match="already executing"):
                step()
        await pause()
        arena.root["b"] = 2
        return "done"

    async def second() -> Any:
        return await calls[0]

    calls.append(handler())
    with pytest.raises(TypeError, match="non-None"):
        calls[0].send(1)
    calls[0].send(None)
    with pytest.raises(RuntimeError, match="awaited already"):
        second().send(None)
    with pytest.raises(StopIteration, match="done"):
        calls[0].send(None)
    with pytest.raises(RuntimeError, match="already awaited"):
        second().send(None)
    assert content(arena) == {"a": 1, "b": 2}


@pytest.mark.parametrize("value", [None, 7, (1, 2), (), StopIteration(3), ValueError("x"), StopIteration])
def test_any_result_comes_through(arena: Arena, value: Any) -> None:
    """By hand and by await, with and without a suspension: also what StopIteration would take for its arguments."""

    @recoverable
    async def handler(suspends: bool) -> Any:
        arena.root["a"] = 1
        if suspends:
            await asyncio.sleep(0)
        return value

    async def nested(suspends: bool) -> Any:
        return await handler(suspends)

    for suspends in (False, True):
        assert asyncio.run(handler(suspends)) is value
        assert asyncio.run(nested(suspends)) is value
    with pytest.raises(StopIteration) as stopped:
        handler(False).send(None)
    assert stopped.value.value is value


def test_what_is_sent_arrives(arena: Arena) -> None:
    """Values that a driver other than asyncio's sends reach the handler, in its first run and in a later one."""

    @recoverable
    async def handler() -> Any:
        n = arena.root.get("n", 0)
        got = await pause(("attempt", attempt()))
        arena.root["n"] = n + 1
        return got

    call = handler()
    assert call.send(None) == ("attempt", 1)
    with arena.transaction():
        arena.root["n"] = 5
    assert call.send("first") == ("attempt", 2)
    with pytest.raises(StopIteration, match="second"):
        call.send("second")
    assert content(arena) == {"n": 6}


# -- a conflict, and other ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loops", LOOPS)
def test_a_conflict_runs_it_again(arena: Arena, loops: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Two that read the same and write: the loser runs again, and both count, callbacks once each."""
    runs, called = [], []

    @recoverable(timeout=10)
    async def add(who: str) -> int:
        runs.append(who)
        n = arena.root.get("n", 0)
        await asyncio.sleep(0)
        arena.root["n"] = n + 1
        after_commit(called.append, who)
        return attempt()

    async def main() -> list[int]:
        return await asyncio.gather(*(add(str(i)) for i in range(3)))

    with asyncio.Runner(loop_factory=loops) as runner:
        attempts = runner.run(main())
    assert content(arena) == {"n": 3}
    assert sum(attempts) == len(runs) > 3
    assert sorted(called) == ["0", "1", "2"]


@pytest.mark.parametrize("max_conflicts", [0, 2])
def test_a_conflict_that_goes_on(arena: Arena, max_conflicts: int) -> None:
    """After the last run it is a ConflictError; the fallback gets it where there is one."""

    async def handler() -> None:
        n = arena.root.get("n", 0)
        await pause()
        arena.root["n"] = n + 1

    call = recoverable(max_conflicts=0)(handler)()
    conflict(arena, call)
    with pytest.raises(ConflictError):
        call.send(None)
    call = recoverable(max_conflicts=0, fallback=lambda error: type(error).__name__)(handler)()
    conflict(arena, call)
    with pytest.raises(StopIteration, match="ConflictError"):
        call.send(None)
    assert content(arena) == {"n": 20}


@pytest.mark.parametrize("when", ["first run", "second run", "callbacks", "before"])
@pytest.mark.parametrize("how", ["close", "throw", "collected", "cancelled"])
def test_its_end_from_outside(arena: Arena, when: str, how: str) -> None:
    """Wherever it is closed, collected or cancelled: it ends, and what was not committed is undone."""
    seen: list[str] = []

    async def callback() -> None:
        await pause()

    @recoverable(timeout=None)
    async def handler() -> None:
        n = arena.root.get("n", 0)
        if when == "callbacks":
            arena.root["n"] = n + 1
            after_commit(callback)
            return
        try:
            await pause()
            arena.root["n"] = n + 1
            await pause()
        finally:
            seen.append("closed" if current_transaction() is None else "inside")

    call: Any = handler()
    if when == "second run":
        conflict(arena, call)
    if when != "before":
        call.send(None)
    if how == "close":
        call.close()
    elif how == "collected":
        if when == "before":
            with pytest.warns(RuntimeWarning, match="never awaited"):
                del call
        else:
            del call
    else:
        error = GeneratorExit if how == "throw" else asyncio.CancelledError
        with pytest.raises(error):
            call.throw(error())
    gc.collect()
    assert content(arena) == {"callbacks": {"n": 1}, "second run": {"n": 10}}.get(when, {})
    assert len(seen) == {"first run": 1, "second run": 2}.get(when, 0)
    with arena.transaction():  # the lock is free
        arena.root["after"] = 1


def test_one_that_is_in_a_cycle_is_finalised(arena: Arena) -> None:
    """The collector rolls it back with its `finally` blocks outside of the transaction, again and again."""
    seen = []

    @recoverable
    async def handler(around: list[Any]) -> None:
        arena.root["a"] = 1
        try:
            await pause()
        finally:
            seen.append(1)

    for _ in range(3):
        around: list[Any] = []
        around.append(handler(around))
        around[0].send(None)
        del around
        gc.collect()
        assert content(arena) == {}
    assert len(seen) == 3


def test_a_handler_that_ignores_its_end(arena: Arena) -> None:
    """One that awaits while it is closed is a RuntimeError, as for a coroutine, and rolled back."""

    @recoverable
    async def handler() -> None:
        arena.root["a"] = 1
        try:
            await pause()
        finally:
            await pause()

    call = handler()
    call.send(None)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        call.close()
    assert content(arena) == {}


def test_what_it_held_is_free_at_its_end(arena: Arena) -> None:
    """Arguments, result and handler of a call that is over are held by nobody, whether or not the call itself is."""

    class Thing: ...

    for suspends in (False, True):
        thing = Thing()
        gone = weakref.ref(thing)

        @recoverable
        async def handler(given: Any, suspends: bool = suspends) -> Any:
            arena.root["a"] = 1
            if suspends:
                await pause()

        call = handler(thing)
        for _ in range(2 if suspends else 1):
            try:
                call.send(None)
            except StopIteration:
                break
        del thing
        assert gone() is None
        function = weakref.ref(handler)
        del call, handler
        gc.collect()
        assert function() is None


def test_calls_that_are_over_are_used_again(arena: Arena) -> None:
    """A call's next life knows nothing of the one before: of its end, its error, its waiting for others, its weak references."""
    seen, ended = [], []

    @recoverable
    async def handler(n: int) -> int:
        arena.root["n"] = n
        if n % 3 == 1:
            raise OSError(n)
        if n % 3 == 2:
            await pause()
        return n

    for n in range(200):
        call = handler(n)
        watch = weakref.ref(call, lambda _: seen.append(1))
        try:
            call.send(None)
            if n % 2:
                call.close()
            else:
                call.send(None)
        except StopIteration as stopped:
            ended.append(stopped.value)
        except OSError as error:
            ended.append(error.args[0])
        del call
        assert watch() is None
        assert content(arena).get("n", 0) % 3 != 1
    assert len(seen) == 200
    assert ended == [n for n in range(200) if n % 3 != 2 or n % 2 == 0]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks(arena: Arena) -> None:
    """A task that begins inside another's step is outside of that one's transaction, whether it suspends or not."""

    @recoverable
    async def inner(key: str, suspends: bool) -> None:
        arena.root[key] = 1
        if suspends:
            await asyncio.sleep(0)

    @recoverable
    async def outer() -> None:
        tasks = [asyncio.create_task(inner(key, key == "b")) for key in "ab"]
        await asyncio.gather(*tasks)
        arena.root["outer"] = 1
        raise OSError

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        with pytest.raises(OSError):
            await outer()

    asyncio.run(main())
    assert content(arena) == {"a": 1, "b": 1}


def test_in_another_thread(arena: Arena) -> None:
    """A call that is made in one thread and awaited in another works; its step is refused to others while it runs."""
    call: Any = None
    inside, go_on, refused = threading.Event(), threading.Event(), []

    @recoverable
    async def handler() -> str:
        arena.root["a"] = 1
        inside.set()
        go_on.wait(10)
        return "done"

    call = handler()
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(asyncio.run(call)))
    thread.start()
    assert inside.wait(10)
    try:
        call.send(None)
    except ValueError as error:
        refused.append(error)
    go_on.set()
    thread.join(10)
    assert results == ["done"]
    assert len(refused) == 1
    assert content(arena) == {"a": 1}


@pytest.mark.crash
def test_a_fork_while_it_waits(arena: Arena) -> None:
    """The transaction goes on in the parent only; a child that steps it is told so, and begins its own."""

    @recoverable
    async def handler() -> None:
        arena.root["a"] = 1
        await pause()
        arena.root["b"] = 1

    call = handler()
    call.send(None)

    def child() -> str:
        try:
            call.send(None)
        except TransactionError as error:
            return f"{type(error).__name__} {asyncio.run(module_level(1))}"
        return "went on"

    assert in_child(child).value == "TransactionClosedError ['x']"
    with pytest.raises(StopIteration):
        call.send(None)
    assert content(arena) == {"a": 1, "b": 1}


def test_the_ends_of_a_thousand_calls_leak_nothing(arena: Arena) -> None:
    """Neither objects nor transactions stay, however calls end."""

    @recoverable(timeout=10, retries=1)
    async def handler(n: int) -> None:
        arena.root["n"] = n
        if n % 4 == 1:
            raise OSError
        if n % 4 == 2:
            await asyncio.sleep(0)
        if n % 4 == 3:
            await asyncio.sleep(10)

    async def main(times: int) -> None:
        for n in range(times):
            task = asyncio.ensure_future(handler(n))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with event_log.quietly():  # pytest keeps what is logged
        asyncio.run(main(100))
        gc.collect()
        before = len(gc.get_objects())
        asyncio.run(main(400))
        gc.collect()
    assert len(gc.get_objects()) - before < 200


def test_closing_it_again_while_it_is_being_closed(arena: Arena) -> None:
    """The collector closes what it finds in any order, so it may come by twice: the second time is no error."""
    calls: list[Any] = []
    ends: list[str] = []

    @recoverable(arena=arena)
    async def handler() -> None:
        arena.root["n"] = 1
        try:
            await pause()
        finally:
            calls[0].close()
            ends.append("closed")

    calls.append(handler())
    calls[0].send(None)
    calls[0].close()
    assert ends == ["closed"]
    assert "n" not in arena.root
    calls.clear()
