"""`@recoverable` on plain functions: one step in the thread that calls it, with the rules of coroutine functions."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import logging
import pickle
import sys
import typing
import warnings
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from recoverable import (
    Arena,
    ArenaOptionError,
    ConflictError,
    NoTransactionError,
    TransactionError,
    after_commit,
    attempt,
    event_log,
    recoverable,
)
from recoverable._native.runtime import current_transaction
from recoverable.outcome import Options

if TYPE_CHECKING:
    from collections.abc import Callable


class AppError(Exception):
    """Stands for any error of an application."""


@recoverable
def module_level(a: int, *, b: str = "x") -> list[str]:
    """Say something."""
    return [b] * a


def content(arena: Arena) -> dict[Any, Any]:
    """Return the root's items, read outside any transaction."""
    return dict(arena.root.items())


def lose(arena: Arena) -> None:
    """Have another transaction change what the running one has read here, so that it loses: it gives the arena back for that."""
    seen = arena.root.get("contended", 0)

    def winner() -> None:
        with arena.transaction():
            arena.root["contended"] = seen + 1

    contextvars.Context().run(winner)


# -- a function ---------------------------------------------------------------------------------------------------------


def test_it_is_a_plain_function_to_whoever_asks() -> None:
    """No coroutine function; name, signature, annotations, defaults and attributes are those of the function; it can be pickled."""
    assert not inspect.iscoroutinefunction(module_level)
    assert inspect.isfunction(module_level)
    assert module_level.__name__ == "module_level"
    assert module_level.__doc__ == "Say something."
    assert str(inspect.signature(module_level)) == "(a: 'int', *, b: 'str' = 'x') -> 'list[str]'"
    assert typing.get_type_hints(module_level) == {"a": int, "b": str, "return": list[str]}
    assert pickle.loads(pickle.dumps(module_level)) is module_level
    assert not inspect.iscoroutinefunction(functools.partial(module_level, 1))


def test_a_decorated_function_shows_its_options() -> None:
    """`__recoverable__` is there on plain functions, coroutine functions and methods, and nowhere else."""

    class View:
        @recoverable(retries=2)
        def get(self) -> None: ...

    @recoverable(retries=3)
    async def handler() -> None: ...

    found = [each.__recoverable__ for each in (module_level, View.get, View().get, handler)]  # type: ignore[attr-defined]
    assert all(isinstance(each, Options) for each in found)
    assert [each.retries for each in found] == [0, 2, 2, 3]
    assert not hasattr(content, "__recoverable__")


def callables(arena: Arena) -> dict[str, Any]:
    """Return what can be decorated, decorated, to be called with a number: it writes that at the second attempt."""

    def write(n: int) -> int:
        arena.root["n"] = n
        if attempt() == 1:
            raise AppError
        return n

    class Called:
        def __call__(self, n: int) -> int:
            return write(n)

        def method(self, extra: int, n: int) -> int:
            return write(n + extra)

    again = recoverable(retries=1)

    class Class:
        @again
        def of_instance(self, n: int) -> int:
            assert isinstance(self, Class)
            return write(n)

        @again
        @staticmethod
        def static(n: int) -> int:
            return write(n)

        @staticmethod
        @again
        def inner(n: int) -> int:
            return write(n)

        @again
        @classmethod
        def of_class(cls, n: int) -> int:
            assert cls is Class
            return write(n)

        def _two(self, extra: int, n: int) -> int:
            return write(n + extra)

        partial = again(functools.partialmethod(_two, 0))  # type: ignore[arg-type]

    return {
        "function": again(write),
        "lambda": again(lambda n: write(n)),
        "partial": again(functools.partial(Called().method, 0)),
        "partial of object": again(functools.partial(Called())),
        "bound method": again(Called().__call__),
        "object": again(Called()),
        "Mock": again(Mock(side_effect=write)),
        "method": Class().of_instance,
        "staticmethod": Class.static,
        "staticmethod outside": Class().inner,
        "classmethod": Class.of_class,
        "partialmethod": Class().partial,
    }


@pytest.mark.parametrize("kind", list(callables(None)))  # type: ignore[arg-type]
def test_what_can_be_decorated(arena: Arena, kind: str, log: list[dict[str, Any]]) -> None:
    """It runs as a transaction, is run again, and has a name."""
    handler = callables(arena)[kind]
    assert not inspect.iscoroutinefunction(handler)
    assert handler(7) == 7
    assert arena.root["n"] == 7
    assert [event["event"] for event in log if "attempt" in event] == ["request.rolled_back", "request.committed"]
    assert all(event["handler"] for event in log if "handler" in event)


def test_what_only_a_coroutine_function_can_have_is_refused(arena: Arena) -> None:
    """A time limit, which names `step_limit`, and a fallback that would have to be awaited; before anything is run."""

    async def later(error: BaseException) -> None: ...

    with pytest.raises(ArenaOptionError, match=r"timeout=1 can't end .*a plain function.* Arena\.open\(step_limit="):
        recoverable(timeout=1)(lambda: None)
    with pytest.raises(ArenaOptionError, match="coroutine function"):
        recoverable(fallback=later)(lambda: None)
    assert recoverable(arena=arena, fallback=lambda error: 1)(lambda: 2)() == 2


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_coroutine_that_comes_back_is_refused(arena: Arena, wrapped: bool) -> None:
    """It would run outside of the transaction: that is rolled back, and the coroutine is closed."""

    async def own() -> None: ...

    inner = recoverable(own) if wrapped else own

    @recoverable
    def forgets_async() -> Any:
        arena.root["n"] = 1
        return inner()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match=r"has returned a coroutine, .*rolled back.*`async def`"):
            forgets_async()
        gc.collect()
    assert content(arena) == {}


async def test_a_task_that_comes_back_is_not(arena: Arena) -> None:
    """It runs by itself."""

    async def own() -> int:
        return 3

    @recoverable
    def starts() -> asyncio.Task[int]:
        arena.root["n"] = 1
        return asyncio.get_running_loop().create_task(own())

    assert await starts() == 3
    assert content(arena) == {"n": 1}


# -- what commits -------------------------------------------------------------------------------------------------------


def test_what_it_writes_commits_when_it_returns_and_not_when_it_raises(arena: Arena, log: list[dict[str, Any]]) -> None:
    """The exception goes on, one event tells of it, and the next call is one of its own."""

    @recoverable
    def put(key: str, *, fail: bool = False) -> str:
        arena.root[key] = True
        if fail:
            raise AppError(key)
        return key

    assert put("a") == "a"
    with pytest.raises(AppError, match="b"):
        put("b", fail=True)
    assert put(key="c") == "c"
    assert content(arena) == {"a": True, "c": True}
    told = [event for event in log if event["event"] == "request.rolled_back"]
    assert len(told) == 1
    assert told[0]["handler"].endswith("put")
    assert told[0]["exception_type"] == "AppError"
    assert [event["event"] for event in log].count("request.committed") == 2


def test_a_response_says_whether_it_commits(arena: Arena, log: list[dict[str, Any]]) -> None:
    """As for coroutine functions: 5xx and errors that are raised roll back, redirects commit, answers are not retried."""

    @recoverable(retries=3, fallback=lambda error, *args: "fallen")
    def answer(key: str, make: Callable[[], Any]) -> Any:
        arena.root[key] = attempt()
        made = make()
        if isinstance(made, web.HTTPException):
            raise made
        return made

    assert answer("404", lambda: web.Response(status=404)).status == 404
    assert answer("503", lambda: web.Response(status=503)).status == 503
    with pytest.raises(web.HTTPFound):
        answer("redirect", lambda: web.HTTPFound("/"))
    with pytest.raises(web.HTTPNotFound):
        answer("raised", web.HTTPNotFound)
    assert content(arena) == {"404": 1, "redirect": 1}
    assert [event["then"] for event in log if event["event"] == "request.rolled_back"] == ["return", "raise"]


def test_commit_if_decides(arena: Arena) -> None:
    """A result that it does not like is returned, and rolled back."""

    @recoverable(commit_if=lambda result: result > 0)
    def put(n: int) -> int:
        arena.root[n] = True
        return n

    assert [put(-1), put(1)] == [-1, 1]
    assert content(arena) == {1: True}


# -- again --------------------------------------------------------------------------------------------------------------


def test_it_is_retried_and_falls_back_by_the_same_rules(arena: Arena) -> None:
    """`retry_on` says what is run again, `retries` how often; then the fallback answers, outside of any transaction."""
    runs: list[int] = []

    def fallback(error: BaseException, *args: Any) -> str:
        assert isinstance(error, AppError)
        with pytest.raises(NoTransactionError):
            arena.root["x"] = 1
        return f"fallen {args}"

    @recoverable(retries=2, retry_on=AppError, fallback=fallback)
    def fails(kind: type[BaseException]) -> None:
        runs.append(attempt())
        arena.root["n"] = attempt()
        raise kind

    assert fails(AppError) == f"fallen {(AppError,)}"  # type: ignore[func-returns-value]
    assert runs == [1, 2, 3]
    with pytest.raises(KeyboardInterrupt):
        fails(KeyboardInterrupt)
    assert runs == [1, 2, 3, 1]
    assert content(arena) == {}


def test_a_conflict_is_no_retry(arena: Arena) -> None:
    """However many there were, the retries are still there."""

    @recoverable(retries=1)
    def add() -> int:
        if attempt() < 3:
            lose(arena)
        arena.root["n"] = 1
        if attempt() == 3:
            raise AppError
        return attempt()

    assert add() == 4


def test_its_crashes_are_not_kept(arena: Arena) -> None:
    """A capsule could not be replayed: that runs coroutine functions."""
    arena.native.capsules = capsules = Mock()

    @recoverable(retries=1)
    def fails() -> None:
        arena.root["n"] = 1
        raise AppError

    try:
        with pytest.raises(AppError):
            fails()
    finally:
        arena.native.capsules = None
    assert capsules.method_calls == []


def test_a_fallback_that_gives_a_coroutine_is_refused(arena: Arena) -> None:
    """Nobody would await it: it is closed, and the error says whose it was."""

    async def later() -> None: ...

    @recoverable(fallback=lambda error: later())
    def fails() -> None:
        arena.root["n"] = 1
        raise AppError

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            TypeError, match=r"the fallback of .*fails, a plain function, returned a coroutine"
        ) as raised:
            fails()
        gc.collect()
    assert isinstance(raised.value.__cause__, AppError)
    assert content(arena) == {}


def test_another_run_finds_its_request_as_it_was(arena: Arena) -> None:
    """What a run has stored in it is undone before the next one and the fallback, which can't answer where an answer has begun."""
    seen: list[Any] = []

    def fallback(error: BaseException, request: web.Request) -> web.Response:
        seen.append(request.get("run"))
        return web.Response()

    @recoverable(retries=1, fallback=fallback)
    def handler(request: web.Request) -> web.Response:
        seen.append(request.get("run"))
        request["run"] = arena.root["run"] = attempt()
        if begins:
            request._payload_writer.output_size = 10
        raise AppError

    for begins in False, True:
        writer: Any = Mock(output_size=0)
        request = make_mocked_request("GET", "/", writer=writer)
        if begins:
            with pytest.raises(AppError):
                handler(request)
        else:
            assert handler(request).status == 200
    assert seen == [None] * 5
    assert content(arena) == {}


def test_another_run_knows_nothing_of_the_exception_before_it(arena: Arena) -> None:
    """Nothing is being handled in it, and what it raises has no context."""

    @recoverable(retries=1)
    def fails() -> None:
        assert sys.exc_info() == (None, None, None)
        raise AppError(attempt())

    with pytest.raises(AppError, match="2") as raised:
        fails()
    assert raised.value.__context__ is None


def test_a_conflict_runs_it_again(arena: Arena, log: list[dict[str, Any]]) -> None:
    """It can lose where it gives the arena back before its end; retries don't count, and callbacks of the lost run are dropped."""
    called: list[int] = []

    @recoverable
    def add() -> int:
        after_commit(called.append, attempt())
        if attempt() < 3:
            lose(arena)
        arena.root["n"] = arena.root.get("contended", 0)
        return attempt()

    assert add() == 3
    assert called == [3]
    assert content(arena) == {"contended": 2, "n": 2}
    conflicts = [event for event in log if event["event"] == "request.conflict"]
    assert [event["attempt"] for event in conflicts] == [1, 2]
    assert {event["then"] for event in conflicts} == {"rerun"}
    assert conflicts[0]["key"] == "'contended'"
    assert len({event["request_id"] for event in log if "request_id" in event}) == 1


@pytest.mark.parametrize("most", [0, 2])
def test_a_conflict_too_many_says_where_it_was_lost(arena: Arena, most: int) -> None:
    """The error has the path, the key, the winner and the number of runs; nothing is committed."""

    @recoverable(max_conflicts=most)
    def add() -> None:
        lose(arena)
        arena.root["n"] = 1

    with pytest.raises(ConflictError) as raised:
        add()
    error = raised.value
    assert (error.path, error.key, error.runs) == ("root", "'contended'", most + 1)
    assert error.winner is not None
    assert error.winner.endswith("winner")
    assert "add met a conflict at root, 'contended'" in str(error)
    assert content(arena) == {"contended": most + 1}


def test_what_others_change_elsewhere_is_no_conflict(arena: Arena) -> None:
    """It records what it reads: another's commit meanwhile is no matter where that has not changed."""

    @recoverable(max_conflicts=0)
    def reads() -> None:
        arena.root["n"] = arena.root.get("mine", 0) + 1
        contextvars.Context().run(recoverable(lambda: arena.root.update(other=1)))
        arena.root["n"] += 1

    reads()
    assert content(arena) == {"n": 2, "other": 1}


def test_the_last_run_is_privileged(arena: Arena) -> None:
    """As that of a coroutine function: others would give way to it while it has given the arena back."""
    seen: list[bool] = []

    @recoverable(max_conflicts=1)
    def add() -> None:
        transaction = current_transaction()
        assert transaction is not None
        seen.append(transaction.privileged)
        if attempt() == 1:
            lose(arena)
        arena.root["n"] = 1

    add()
    assert seen == [False, True]
    assert not arena.native.privileged_here()


async def test_in_an_event_loop_it_does_not_wait_for_a_privileged_run(arena: Arena) -> None:
    """The one that has the privilege may be a request of the same loop: it goes on without."""
    go_on = asyncio.Event()

    @recoverable(max_conflicts=1)
    async def privileged() -> None:
        arena.root["a"] = arena.root.get("own", 0)
        if attempt() == 1:
            await asyncio.get_running_loop().create_task(_winner())
        else:
            go_on.set()
            await asyncio.sleep(0.01)

    async def _winner() -> None:
        with arena.transaction():
            arena.root["own"] = arena.root.get("own", 0) + 1

    @recoverable(max_conflicts=1)
    def add() -> int:
        if attempt() == 1:
            lose(arena)
        arena.root["n"] = 1
        return attempt()

    running = asyncio.create_task(privileged())
    await go_on.wait()
    assert add() == 2
    await running


# -- inside others --------------------------------------------------------------------------------------------------------


async def test_inside_a_transaction_it_is_a_part_of_it(arena: Arena) -> None:
    """Of a coroutine function's, a plain function's and a block's, whose options decide; it can be rolled back with it only."""

    @recoverable(retries=5)
    def part(key: str) -> None:
        arena.root[key] = attempt()

    @recoverable
    async def outer(key: str) -> None:
        part(key)
        await asyncio.sleep(0)
        raise AppError

    @recoverable(retries=1)
    def plain(key: str) -> None:
        part(key)
        if attempt() == 1:
            raise AppError

    with pytest.raises(AppError):
        await outer("a")
    plain("b")
    with pytest.raises(AppError), arena.transaction():
        part("c")
        raise AppError
    with arena.transaction():
        part("d")
    assert content(arena) == {"b": 2, "d": 1}


async def test_an_independent_one_commits_by_itself(arena: Arena) -> None:
    """Its commit outlives the rollback around it, which goes on afterwards; its callbacks run outside of both."""
    told: list[Any] = []

    @recoverable(nested="independent", retries=1)
    def audit() -> int:
        assert "outer" not in arena.root  # it sees what is committed
        arena.root["audit"] = arena.root.get("audit", 0) + 1
        after_commit(lambda: told.append(current_transaction()))
        if attempt() == 1:
            raise AppError
        return attempt()

    @recoverable
    async def coroutine() -> None:
        arena.root["outer"] = 1
        assert audit() == 2
        arena.root["outer"] += 1
        raise AppError

    @recoverable
    def plain() -> None:
        arena.root["outer"] = 1
        assert audit() == 2
        arena.root["outer"] += 1

    with pytest.raises(AppError):
        await coroutine()
    assert content(arena) == {"audit": 1}
    plain()
    assert content(arena) == {"audit": 2, "outer": 2}
    assert told == [None, None]
    with arena.transaction(), arena.savepoint(), pytest.raises(TransactionError, match="independent"):
        audit()


async def test_in_an_event_loop_it_is_a_step_of_its_own(arena: Arena) -> None:
    """Called by a coroutine outside of any transaction: committed when it returns, also beside requests that wait."""
    go_on = asyncio.Event()

    @recoverable
    async def waits() -> None:
        arena.root["a"] = 1
        await go_on.wait()

    @recoverable
    def put() -> None:
        assert "a" not in arena.root
        arena.root["b"] = 1

    waiting = asyncio.create_task(waits())
    await asyncio.sleep(0)
    put()
    assert content(arena) == {"b": 1}
    go_on.set()
    await waiting
    assert content(arena) == {"a": 1, "b": 1}


# -- callbacks and events ------------------------------------------------------------------------------------------------


def test_callbacks_run_after_the_commit(arena: Arena, log: list[dict[str, Any]]) -> None:
    """Outside of the transaction, all of them; one that would have to be awaited is refused, or told as failed."""
    called: list[Any] = []

    async def later() -> None: ...

    def write() -> None:
        assert current_transaction() is None
        with arena.transaction():
            arena.root["b"] = 2

    @recoverable
    def put(fail: bool) -> None:
        arena.root["a"] = 1
        after_commit(called.append, fail)
        after_commit(lambda: 1 / 0)
        after_commit(write)
        after_commit(lambda: later())
        with pytest.raises(TransactionError, match="put, a plain function, can't await"):
            after_commit(later)
        if fail:
            raise AppError

    with pytest.raises(AppError):
        put(True)
    assert (called, content(arena)) == ([], {})
    put(False)
    assert (called, content(arena)) == ([False], {"a": 1, "b": 2})
    assert [event["event"] for event in log].count("after_commit.failed") == 2


def test_callbacks_run_without_a_write(arena: Arena) -> None:
    """It ended as one that commits; where it did not, they don't."""
    called: list[int] = []

    @recoverable(commit_if=lambda result: result > 0)
    def only(n: int) -> int:
        after_commit(called.append, n)
        return n

    only(1)
    only(-1)
    assert called == [1]


@pytest.mark.parametrize("fails", [0, 1])
def test_a_signal_between_commit_and_callbacks_drops_none(arena: Arena, fails: int) -> None:
    """What its handler raises goes on when they have run, once; so it is in a second run."""
    committed: list[int] = []
    called: list[int] = []

    class Stop(BaseException):
        """What a handler raises."""

    def logging(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
        if event["event"] == "request.committed":
            committed.append(event["attempt"])
            raise Stop
        raise structlog.DropEvent

    @recoverable(retries=fails)
    def put() -> None:
        arena.root["a"] = 1
        after_commit(called.append, 1)
        if attempt() == fails:
            raise AppError

    structlog.configure(processors=[logging])
    try:
        with pytest.raises(Stop):
            put()
    finally:
        structlog.reset_defaults()
    assert called == [1]
    assert committed == [1 + fails]
    assert content(arena) == {"a": 1}


def test_callbacks_run_when_nothing_else_follows(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """No event is written of the commit, no journal waits: what a first run has asked for is called all the same."""
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    calls: list[str] = []

    @recoverable
    def write() -> str:
        arena.root["n"] = 1
        after_commit(calls.append, "called")
        return "done"

    @recoverable
    def read() -> None:
        after_commit(calls.append, "untouched")

    assert not event_log.committed_wanted()
    assert write() == "done"
    read()
    assert calls == ["called", "untouched"]
