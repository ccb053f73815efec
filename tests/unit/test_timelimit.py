"""The time limit that requests share a timer for: whom it cancels, when, and whose cancellation that was."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from recoverable import Arena, after_commit, recoverable
from recoverable._native.runtime import TimeLimit, limits_waiting

Loops = Callable[[], asyncio.AbstractEventLoop]
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


def run(loops: Loops, main: Coroutine[Any, Any, Any]) -> Any:
    """Run it on a loop of that kind."""
    with asyncio.Runner(loop_factory=loops) as runner:
        return runner.run(main)


async def limited(seconds: float, work: float) -> str:
    """Sleep under a limit; say how it ended."""
    limit = TimeLimit(seconds)
    assert limit.begin()
    try:
        await asyncio.sleep(work)
    except asyncio.CancelledError:
        return "late" if limit.end() else "cancelled"
    assert not limit.end()
    return "done"


@pytest.mark.parametrize("loops", LOOPS)
def test_each_is_cancelled_at_its_own_time(loops: Loops) -> None:
    """Limits that began one after the other end so, and those that are met are left alone; many share a timer."""
    timers = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        begun, ends = loop.time(), {}

        async def one(n: int) -> None:
            await asyncio.sleep(n * 0.02)
            ends[n] = await limited(0.1, 0.001 if n % 2 else 10), loop.time() - begun - n * 0.02

        set_timer = loop.call_later
        spy: Any = loop
        if loops is asyncio.new_event_loop:
            spy.call_later = lambda delay, fn, *args, **context: (
                timers.append(fn.__qualname__),
                set_timer(delay, fn, *args, **context),
            )[1]
        await asyncio.gather(*(one(n) for n in range(10)))
        assert [ends[n][0] for n in range(10)] == ["late", "done"] * 5
        assert all(0.095 <= ends[n][1] <= 0.3 for n in range(0, 10, 2)), ends
        assert not any(limits_waiting().values())

    run(loops, main())
    if loops is asyncio.new_event_loop:
        assert 1 <= timers.count("TimeLine.fire") <= 6, "one for each that was late, and the first"


@pytest.mark.parametrize("loops", LOOPS)
def test_what_is_met_costs_no_timer(loops: Loops) -> None:
    """A thousand requests in turn have one timer; the line is forgotten after it has found nothing."""

    async def main() -> None:
        for _ in range(1000):
            assert await limited(0.2, 0) == "done"
        assert limits_waiting() == {0.2: 0}
        await asyncio.sleep(0.3)
        assert limits_waiting() == {}
        assert await limited(0.01, 10) == "late"

    run(loops, main())


@pytest.mark.parametrize("loops", LOOPS)
def test_a_cancellation_by_somebody_else_stays_one(loops: Loops) -> None:
    """Who is cancelled from outside, before its time is over or at the same moment, is cancelled and not late."""

    async def main() -> None:
        early = asyncio.create_task(limited(10, 10))
        await asyncio.sleep(0)
        early.cancel()
        assert await early == "cancelled"

        async def both() -> str:
            limit = TimeLimit(0.01)
            limit.begin()
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_at(limit.when, task.cancel)
            while task.cancelling() < 2:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(10)
            return "late" if limit.end() else "cancelled"

        assert await asyncio.create_task(both()) == "cancelled"

    run(loops, main())


async def test_the_task_can_go_on_after_its_end() -> None:
    """A limit that is over takes its cancellation back: the task is as if it had never been cancelled."""
    task = asyncio.current_task()
    assert task is not None
    assert await limited(0.005, 10) == "late"
    assert task.cancelling() == 0
    async with asyncio.timeout(5):
        await asyncio.sleep(0.001)


async def test_one_inside_another() -> None:
    """Each limit knows its own: the inner one is over first, then the outer one, of one length or of two."""
    for inner_seconds in (0.01, 0.02):
        outer = TimeLimit(0.02)
        outer.begin()
        assert await limited(inner_seconds, 10 if inner_seconds < 0.02 else 0) in ("late", "done")
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(10)
        assert outer.expired
        assert outer.end()
        assert not outer.end(), "once"


def test_loops_that_take_turns_in_a_thread() -> None:
    """A loop that stands still keeps its limits, and they end when it goes on."""
    first, second = asyncio.new_event_loop(), uvloop.new_event_loop()
    try:
        waiting = first.create_task(limited(0.02, 10))
        first.run_until_complete(asyncio.sleep(0))
        assert second.run_until_complete(limited(0.02, 10)) == "late"
        assert second.run_until_complete(limited(0.02, 0)) == "done"
        assert first.run_until_complete(waiting) == "late"
    finally:
        first.close()
        second.close()


def test_threads_have_lines_of_their_own() -> None:
    """Loops in several threads at once, with limits of one length."""
    found: list[str] = []

    async def main() -> None:
        found.extend(await asyncio.gather(*(limited(0.05, 10 if n % 2 else 0.001) for n in range(20))))

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found) == ["done"] * 30 + ["late"] * 30


def test_without_a_task_there_is_nothing_to_limit(arena: Arena) -> None:
    """A handler with a timeout that is driven by hand says so where it suspends, is rolled back, and is not run again."""
    ran = []

    @recoverable(timeout=1, retries=2)
    async def handler(suspends: bool) -> str:
        ran.append(1)
        arena.root["suspends"] = suspends
        if suspends:
            await asyncio.sleep(0)
        return "done"

    with pytest.raises(RuntimeError, match="needs a task"):
        handler(True).send(None)
    assert dict(arena.root.items()) == {}
    with pytest.raises(StopIteration, match="done"):
        handler(False).send(None)
    assert dict(arena.root.items()) == {"suspends": False}


@pytest.mark.parametrize("loops", LOOPS)
def test_the_time_runs_from_the_call(loops: Loops, arena: Arena) -> None:
    """A handler that blocks past its limit is cancelled where it first suspends, as soon as the loop runs; a part of it counts."""

    @recoverable(timeout=0.03)
    async def blocks(seconds: float) -> None:
        arena.root["a"] = 1
        time.sleep(seconds)
        await asyncio.sleep(10)

    async def main() -> None:
        for seconds, left in (0.04, 0.0), (0.02, 0.01):
            begun = time.monotonic()
            call = blocks(seconds)
            await limited(0.03, 0)  # the line has a timer, which is later
            with pytest.raises(TimeoutError):
                await call
            assert seconds + left - 0.002 <= time.monotonic() - begun <= seconds + left + 0.02
            assert not any(limits_waiting().values())

    run(loops, main())
    assert dict(arena.root.items()) == {}


def test_one_that_never_suspends_has_no_limit(arena: Arena) -> None:
    """It can't be cancelled, so there is nothing to wait for, and its result stands however long it took."""

    @recoverable(timeout=0.005)
    async def blocks() -> str:
        arena.root["a"] = 1
        time.sleep(0.01)
        return "done"

    async def main() -> None:
        assert await blocks() == "done"
        assert limits_waiting() == {}
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert dict(arena.root.items()) == {"a": 1}


async def test_a_rerun_is_where_it_first_suspends(arena: Arena) -> None:
    """A first run that ended without suspending has used its time: the second is limited to what is left."""
    runs = []

    @recoverable(timeout=0.03, retries=1)
    async def handler() -> None:
        runs.append(time.monotonic())
        if len(runs) == 1:
            time.sleep(0.02)
            raise OSError
        await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        await handler()
    assert len(runs) == 2
    assert 0.028 <= time.monotonic() - runs[0] <= 0.05


async def test_one_called_first_may_suspend_last() -> None:
    """Limits of one length end in the order of their calls, whichever suspended first."""
    ended = []

    async def under(limit: TimeLimit, name: str) -> None:
        limit.begin()
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            ended.append(name)
            assert limit.end()

    limits = []
    for _ in range(4):
        limits.append(TimeLimit(0.02))
        time.sleep(0.001)
    await asyncio.gather(*(under(limits[n], str(n)) for n in (2, 0, 3, 1)))
    assert ended == ["0", "1", "2", "3"]


async def test_a_limit_by_the_clock_of_the_loop(arena: Arena) -> None:
    """A loop with a clock of its own, as tests have, is what limits go by."""
    loop: Any = asyncio.get_running_loop()
    ahead = 0.0
    real = loop.time
    loop.time = lambda: real() + 1000 + ahead

    @recoverable(timeout=500)
    async def handler() -> None:
        await asyncio.sleep(10_000)

    try:
        running = asyncio.create_task(handler())
        await asyncio.sleep(0)
        assert limits_waiting() == {500.0: 1}
        ahead = 501.0
        with pytest.raises(TimeoutError):
            await running
    finally:
        loop.time = real


def test_what_a_closed_loop_left_is_collected(arena: Arena) -> None:
    """A request that waited when its loop was closed is rolled back by the collector, and leaves its line."""
    gone = []

    @recoverable(timeout=1000)
    async def handler() -> None:
        arena.root["a"] = 1
        try:
            await asyncio.Event().wait()
        finally:
            gone.append(1)

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    task = loop.create_task(handler())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del loop, task
    gc.collect()
    assert gone == [1]
    assert dict(arena.root.items()) == {}


async def test_a_crash_in_time_leaves_no_limit_behind(arena: Arena) -> None:
    """Whatever ends a request ends its limit: a return, a crash, a retry, a cancellation."""

    @recoverable(timeout=0.05, retries=1)
    async def handler(how: str) -> None:
        arena.root["a"] = how
        await asyncio.sleep(0)
        if how == "crash":
            raise ValueError(how)
        if how == "wait":
            await asyncio.sleep(10)

    await handler("return")
    with pytest.raises(ValueError, match="crash"):
        await handler("crash")
    cancelled = asyncio.create_task(handler("wait"))
    await asyncio.sleep(0.01)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    closed = handler("wait")
    closed.send(None)
    closed.close()
    assert limits_waiting() == {0.05: 0}
    await asyncio.sleep(0.1)  # and nobody is cancelled now


# -- in @recoverable ---------------------------------------------------------------------------------------------------


async def test_a_timeout_rolls_back(arena: Arena) -> None:
    """A handler that takes too long ends in `TimeoutError`, undone, and is not retried."""
    runs = []

    @recoverable(timeout=0.02, retries=5)
    async def handler() -> None:
        runs.append(1)
        arena.root["a"] = 1
        await asyncio.sleep(10)

    with pytest.raises(TimeoutError, match=r"0\.02 s"):
        await handler()
    assert runs == [1]
    assert dict(arena.root.items()) == {}


async def test_the_timeout_spans_all_runs(arena: Arena) -> None:
    """Retries do not get time of their own."""
    runs = []

    @recoverable(timeout=0.05, retries=1000)
    async def handler() -> None:
        runs.append(1)
        await asyncio.sleep(0.02)
        raise OSError

    with pytest.raises(TimeoutError):
        await handler()
    assert 1 <= len(runs) <= 4


async def test_a_handlers_own_timeout_error_is_retried(arena: Arena) -> None:
    """A TimeoutError from inside is an exception like any other."""
    runs = []

    @recoverable(timeout=10, retries=1)
    async def handler() -> str:
        runs.append(1)
        if len(runs) == 1:
            raise TimeoutError
        return "ok"

    assert await handler() == "ok"


async def test_a_timeout_has_the_fallback(arena: Arena) -> None:
    """The fallback answers after a time-out and is outside the limit."""

    async def slow(error: BaseException) -> str:
        await asyncio.sleep(0.05)
        return type(error).__name__

    @recoverable(timeout=0.01, fallback=slow)
    async def handler() -> None:
        await asyncio.sleep(10)

    assert await handler() == "TimeoutError"


@pytest.mark.parametrize("way", ["decorated", "run", "second run"])
async def test_callbacks_are_outside_the_time_limit(arena: Arena, way: str) -> None:
    """A slow `after_commit` can't turn a committed request into a timed-out one."""
    seen, runs = [], []

    async def slow() -> None:
        await asyncio.sleep(0.05)
        seen.append(1)

    async def handler() -> str:
        runs.append(1)
        arena.root["a"] = 1
        if way == "second run" and len(runs) == 1:
            raise OSError
        after_commit(slow)
        return "ok"

    if way == "run":
        assert await arena.run(handler, timeout=0.02) == "ok"
    else:
        assert await recoverable(timeout=0.02, retries=1)(handler)() == "ok"
    assert seen == [1]


async def test_an_independent_part_has_a_limit_of_its_own(arena: Arena) -> None:
    """It is rolled back when its time is over; the transaction around it catches that and commits."""

    @recoverable(nested="independent", timeout=0.02)
    async def part() -> None:
        arena.root["part"] = 1
        await asyncio.sleep(10)

    @recoverable(timeout=5)
    async def whole() -> None:
        arena.root["before"] = 1
        with pytest.raises(TimeoutError, match=r"0\.02 s"):
            await part()
        await asyncio.sleep(0.001)  # nobody is cancelled any more
        arena.root["after"] = 1

    await whole()
    assert dict(arena.root.items()) == {"before": 1, "after": 1}


async def test_one_that_goes_while_the_timer_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has lost its timer to a signal's handler; setting it, the loop runs code that drops the oldest limit."""
    loop = asyncio.get_running_loop()
    call_later, fires = loop.call_later, []
    oldest, limit, last = ([TimeLimit(10.0)] for _ in range(3))

    def remembering(delay: float, fire: Any) -> Any:
        fires.append(fire)
        return call_later(delay, fire)

    def raising(delay: float, fire: Any) -> Any:
        raise KeyboardInterrupt

    def dropping(delay: float, fire: Any) -> Any:
        oldest.clear()
        return call_later(delay, fire)

    monkeypatch.setattr(loop, "call_later", remembering)
    oldest[0].begin()
    monkeypatch.setattr(loop, "call_later", raising)
    with pytest.raises(KeyboardInterrupt):
        fires[0]()
    monkeypatch.setattr(loop, "call_later", dropping)
    limit[0].begin()
    last[0].begin()
    assert not oldest
    assert limits_waiting() == {10.0: 2}
    last[0].end()
    limit[0].end()
    assert limits_waiting() == {10.0: 0}
