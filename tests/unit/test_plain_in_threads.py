"""`@recoverable` on plain functions in pools of threads and in processes: who waits for whom, who is stopped, what survives."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, ArenaBusyError, StepTooLongError, after_commit, attempt, recoverable
from recoverable._native import _switches
from recoverable._native import feed as native_feed
from recoverable._native import journal as native_journal
from recoverable.errors import InDoubtError, JournalError
from support.children import child
from support.forks import in_child
from support.watched import LIMIT, compute, told, watched_arena

if TYPE_CHECKING:
    from collections.abc import Callable

in_test_builds = pytest.mark.skipif(not _switches.test_build(), reason="needs a build with -Dcrashpoints=true")

THREADS, EACH = 4, 50


def content(arena: Arena) -> dict[Any, Any]:
    """Return the root's items, read outside any transaction."""
    return dict(arena.root.items())


# -- who waits ------------------------------------------------------------------------------------------------------------


def test_threads_run_one_after_another(arena: Arena) -> None:
    """None of what they count is lost, and none of them meets a conflict."""
    runs: list[int] = []

    @recoverable(max_conflicts=0)
    def add(n: int) -> int:
        runs.append(attempt())
        arena.root["sum"] = arena.root.get("sum", 0) + n
        return arena.root["sum"]  # type: ignore[no-any-return]

    with ThreadPoolExecutor(THREADS) as pool:
        sums = list(pool.map(add, [1] * THREADS * EACH))
    assert sorted(sums) == list(range(1, THREADS * EACH + 1))
    assert set(runs) == {1}


def test_processes_run_one_after_another(arena: Arena) -> None:
    """Of several processes, too; independent transactions inside give the arena back, so that they may lose and run again."""

    @recoverable(nested="independent")
    def audit() -> None:
        arena.root["audits"] = arena.root.get("audits", 0) + 1

    @recoverable(max_conflicts=1000)
    def add() -> None:
        n = arena.root.get("sum", 0)
        audit()
        arena.root["sum"] = n + 1

    def work() -> None:
        for _ in range(EACH):
            add()

    with child(work), child(work):
        pass
    assert arena.root["sum"] == 2 * EACH
    assert arena.root["audits"] >= 2 * EACH


def test_it_holds_the_arena_from_its_first_access_to_its_end(arena: Arena) -> None:
    """Others wait for all of that, and not for what it does before."""
    before, touch, inside, end = (threading.Event() for _ in range(4))
    order: list[str] = []

    @recoverable
    def long() -> None:
        before.set()
        touch.wait(10)
        arena.root["long"] = True
        inside.set()
        end.wait(10)
        order.append("long")

    @recoverable
    def short() -> None:
        arena.root["short"] = "long" in arena.root
        order.append("short")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(long)
        assert before.wait(10)
        short()
        touch.set()
        assert inside.wait(10)
        second = pool.submit(short)
        while not any(request.waits_for == "lock" for request in arena.requests()):
            assert not second.done()
            time.sleep(0.001)
        end.set()
        first.result(10)
        second.result(10)
    assert order == ["short", "long", "short"]
    assert content(arena) == {"long": True, "short": True}


def test_who_waits_too_long_is_told_whom_for(name: str, log: list[dict[str, Any]]) -> None:
    """ArenaBusyError after `busy_timeout`, as for a block, which is retried where `retries` says so."""
    inside, go_on = threading.Event(), threading.Event()
    with Arena.temporary("4 MiB", name=name, busy_timeout=0.05) as arena:

        @recoverable
        def holds() -> None:
            arena.root["n"] = 1
            inside.set()
            go_on.wait(10)

        runs: list[int] = []

        @recoverable(retries=1)
        def waits() -> None:
            runs.append(attempt())
            arena.root["n"] += 1

        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(holds)
            inside.wait(10)
            with pytest.raises(ArenaBusyError, match="holds"):
                waits()
            go_on.set()
            held.result(10)
        assert runs == [1, 2]
        assert content(arena) == {"n": 1}
    assert "arena.busy" in {event["event"] for event in log}


async def test_its_last_run_waits_for_another_that_is_privileged(arena: Arena) -> None:
    """Where no event loop runs in its thread, as the last run of a coroutine function does."""
    others, go_on = asyncio.Event(), asyncio.Event()
    order: list[str] = []

    def lose(key: str) -> None:
        """Have another transaction change what the running one has read there."""
        seen = arena.root.get(key, 0)
        contextvars.Context().run(recoverable(arena.root.update), {key: seen + 1})

    @recoverable(max_conflicts=1)
    async def privileged() -> None:
        arena.root["a"] = 1
        if attempt() == 1:
            lose("one")
            await asyncio.sleep(0)
        else:
            others.set()
            await go_on.wait()
            order.append("privileged")

    @recoverable(max_conflicts=1)
    def plain() -> None:
        if attempt() == 1:
            lose("other")
        else:
            order.append("plain")
        arena.root["b"] = 1

    first = asyncio.create_task(privileged())
    await others.wait()
    second = asyncio.create_task(asyncio.to_thread(plain))
    while not any(request.waits_for == "privilege" for request in arena.requests()):
        assert not second.done()
        await asyncio.sleep(0.001)
    go_on.set()
    await asyncio.gather(first, second)
    assert order == ["privileged", "plain"]


async def test_a_loop_goes_on_while_its_threads_run_them(arena: Arena) -> None:
    """`asyncio.to_thread` is how a coroutine calls one that may take long; outside of the coroutine's own transaction."""

    @recoverable
    def put(n: int) -> int:
        arena.root[n] = True
        return n

    @recoverable
    async def handler() -> None:
        before = await asyncio.to_thread(put, 1)
        arena.root["handler"] = before
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await handler()
    assert await asyncio.gather(*(asyncio.to_thread(put, n) for n in range(5))) == list(range(5))
    assert content(arena) == dict.fromkeys(range(5), True)


def test_others_see_where_it_is(arena: Arena) -> None:
    """`requests()` has its line and its request id, the one of its events."""
    inside, go_on = threading.Event(), threading.Event()

    @recoverable
    def handler() -> None:
        arena.root["n"] = 1
        inside.set()
        go_on.wait(10)  # here

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(handler)
        inside.wait(10)
        (request,) = arena.requests()
        go_on.set()
        running.result(10)
    assert request.handler.endswith("handler")
    assert request.what == "request"
    assert request.request_id is not None
    assert request.running
    assert request.line is not None
    assert __file__ in request.line


# -- who is stopped -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("where", ["thread", "loop"])
def test_one_that_holds_the_arena_too_long_is_stopped(name: str, log: list[dict[str, Any]], where: str) -> None:
    """By `step_limit`, in the middle of its code; it is rolled back, not retried, and others go on."""
    with watched_arena(name) as arena:
        runs: list[int] = []

        @recoverable(retries=3)
        def computes() -> None:
            runs.append(attempt())
            arena.root["n"] = 1
            compute(10)

        async def in_a_loop() -> None:
            computes()

        with ThreadPoolExecutor(1) as pool, pytest.raises(StepTooLongError) as raised:
            if where == "loop":
                asyncio.run(in_a_loop())
            else:
                pool.submit(computes).result(20)
        assert LIMIT <= raised.value.seconds < 2 * LIMIT
        assert "computes" in raised.value.handler
        assert __file__ in raised.value.stack
        assert runs == [1]
        assert content(arena) == {"n": 0}
        assert [event["event"] for event in told(log, 2)] == ["step.slow", "step.stopped"]


@pytest.mark.slow
def test_what_it_does_before_it_touches_the_arena_is_not_watched(name: str, log: list[dict[str, Any]]) -> None:
    """It may take as long as it likes: nobody waits for it."""
    with watched_arena(name) as arena:

        @recoverable
        def computes() -> None:
            compute(2.2 * LIMIT)  # its process would have ended
            arena.root["n"] += 1

        computes()
        assert content(arena) == {"n": 1}
    assert not [event for event in log if event["event"].startswith("step.")]


@pytest.mark.slow
def test_one_that_is_stopped_has_its_fallback(name: str) -> None:
    """As a coroutine function's."""
    with watched_arena(name) as arena:

        @recoverable(fallback=lambda error: type(error).__name__)
        def computes() -> str:
            arena.root["n"] = 1
            while True:
                pass

        assert computes() == "StepTooLongError"
        assert content(arena) == {"n": 0}


# -- what survives ---------------------------------------------------------------------------------------------------------


@pytest.mark.crash
def test_a_process_that_is_killed_in_it_leaves_nothing(arena: Arena) -> None:
    """The next one undoes what it has written."""

    @recoverable
    def dies() -> None:
        arena.root["n"] = 1
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(dies).signal == signal.SIGKILL
    assert content(arena) == {}
    recoverable(lambda: arena.root.update(n=2))()
    assert content(arena) == {"n": 2}
    arena.verify()


def test_a_child_that_is_forked_in_it_has_no_part_in_it(arena: Arena) -> None:
    """It can't write there, nor commit; the parent's goes on."""
    endings = []

    def write() -> str:
        try:
            arena.root["child"] = 1
        except Exception as error:
            return type(error).__name__
        return "written"

    @recoverable
    def forks() -> None:
        arena.root["n"] = 1
        endings.append(in_child(write))
        arena.root["n"] += 1

    forks()
    assert endings[0].value == "TransactionClosedError"
    assert content(arena) == {"n": 2}


def is_durable(arena: Arena) -> bool:
    """Return whether all that is committed is on the disk."""
    state = native_feed.state(arena.native)
    assert state is not None
    return native_journal.durable(arena.native) >= state[4]


def in_a_thread(call: Callable[[], Any]) -> Any:
    """Call it in a thread without an event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(20)


def in_a_loop(call: Callable[[], Any]) -> Any:
    """Call it in the thread of an event loop, which stands still meanwhile."""

    async def main() -> Any:
        return call()

    return asyncio.run(main())


@pytest.mark.parametrize("there", [in_a_thread, in_a_loop])
def test_its_answer_waits_for_the_disk(name: str, folder: str, there: Callable[[Callable[[], Any]], Any]) -> None:
    """When it returns, what it did is durable, and what it saw; so it is when its callbacks run, and its fallback's value."""
    with Arena.temporary("16 MiB", name=name, journal=folder, durable="disk") as arena:
        durable: list[bool] = []

        @recoverable
        def put(n: int) -> None:
            arena.root["n"] = n
            after_commit(lambda: durable.append(is_durable(arena)))

        @recoverable
        def get() -> Any:
            return arena.root["n"]

        @recoverable(fallback=lambda error: "fallen")
        def fails() -> str:
            arena.root["n"]
            raise ValueError

        @recoverable
        def refuses() -> None:
            raise KeyError(arena.root["n"])  # a 409, say, tells of what it saw

        def all_of_them() -> None:
            for n in range(5):
                put(n)
                durable.append(is_durable(arena))
                with arena.transaction():
                    arena.root["n"] += 10
                assert get() == n + 10
                durable.append(is_durable(arena))
                with arena.transaction():
                    arena.root["n"] += 10
                assert fails() == "fallen"
                durable.append(is_durable(arena))
                with arena.transaction():
                    arena.root["n"] += 10
                with pytest.raises(KeyError):
                    refuses()
                durable.append(is_durable(arena))

        there(all_of_them)
        assert durable == [True] * 25


@in_test_builds
@pytest.mark.parametrize("there", [in_a_thread, in_a_loop])
def test_where_the_disk_fails_it_is_in_doubt(
    name: str, folder: str, log: list[dict[str, Any]], there: Callable[[Callable[[], Any]], Any]
) -> None:
    """It is committed, is not run again, and its callbacks are told as failed."""
    with Arena.temporary("16 MiB", name=name, journal=folder, durable="disk", busy_timeout=0.5) as arena:
        runs: list[int] = []
        called: list[int] = []

        @recoverable(retries=3, fallback=lambda error: "fallen")
        def put() -> None:
            runs.append(attempt())
            arena.root["n"] = 1
            after_commit(called.append, 1)

        _switches.fail_at(_switches.FAIL_SYNC, 1)
        with pytest.raises(InDoubtError, match="not known to be on the disk"):
            there(put)
        assert (runs, called, content(arena)) == ([1], [], {"n": 1})


def test_durability_needs_a_journal(arena: Arena) -> None:
    """Where the arena is named that is an error of the decoration, else of the call; nothing is run."""
    with pytest.raises(JournalError, match="without a journal"):
        recoverable(arena=arena, durable="disk")(lambda: None)
    with pytest.raises(JournalError, match="Nothing was run"):
        recoverable(durable="disk")(lambda: arena.root.update(n=1))()
    assert content(arena) == {}
