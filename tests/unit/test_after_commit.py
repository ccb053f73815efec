"""Callbacks of a commit: all of them run, whatever one raises, whoever is cancelled, and when the program ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import structlog
import uvloop

from recoverable import Arena, NoTransactionError, after_commit, callbacks, recoverable
from recoverable.transaction import running_loop
from support.workers import Request, pause

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


async def until(done: Callable[[], bool]) -> None:
    """Let the loop run until something is so."""
    while not done():  # noqa: ASYNC110 -- there is no event to wait for: it is somebody else's state
        await asyncio.sleep(0)


class Fatal(BaseException):
    """Stands for what is no `Exception`."""


def failures(log: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return which callbacks failed, and of what."""
    failed = [event for event in log if event["event"] == "after_commit.failed"]
    return [(event["hook"].rpartition(".")[2], event["exc_info"][0].__name__) for event in failed]


class Mailer:
    """Three callbacks: one that awaits until it is let go on, one that is plain, one that awaits a turn."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def mail(self) -> None:
        self.seen.append("mail")
        self.begun.set()
        await self.go_on.wait()
        self.seen.append("sent")

    def wake(self) -> None:
        self.seen.append("woken")

    async def last(self) -> None:
        await asyncio.sleep(0)
        self.seen.append("last")

    def give(self) -> None:
        for callback in (self.mail, self.wake, self.last):
            after_commit(callback)

    async def ended(self) -> None:
        """Let them go on to their end."""
        assert self.seen == ["mail"], "whoever was cancelled has not waited, and the callbacks were not cancelled"
        self.go_on.set()
        await until(lambda: not callbacks._running)
        assert self.seen == ["mail", "sent", "woken", "last"]


# -- cancelled meanwhile --------------------------------------------------------------------------------------------


async def cancel(request: Any, mailer: Mailer) -> None:
    """Cancel the task."""
    task = asyncio.create_task(request)
    await mailer.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelling() == 1


async def timeout(request: Any, mailer: Mailer) -> None:
    """Have the time be over around it."""
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await request
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def wait_for(request: Any, mailer: Mailer) -> None:
    """Use asyncio's own function."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(request, 0.01)


async def sibling(request: Any, mailer: Mailer) -> None:
    """Fail beside it in a TaskGroup."""

    async def fail() -> None:
        await mailer.begun.wait()
        raise OSError

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(request)
            group.create_task(fail())


async def gathered(request: Any, mailer: Mailer) -> None:
    """Cancel what gathers it."""
    both = asyncio.gather(request, asyncio.sleep(60))
    await mailer.begun.wait()
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both


async def everybody(request: Any, mailer: Mailer) -> None:
    """Cancel all tasks, as a shutdown does, from within the loop."""
    task = asyncio.create_task(request)
    await mailer.begun.wait()
    for other in asyncio.all_tasks() - {asyncio.current_task()}:
        other.cancel()
        other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def closed(request: Any, mailer: Mailer) -> None:
    """Finalise the coroutine where it waits."""
    request.send(None)
    await until(mailer.begun.is_set)
    request.close()


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("how", [cancel, timeout, wait_for, sibling, gathered, everybody, closed])
@pytest.mark.parametrize("way", ["decorated", "run", "independent", "again", "untouched"])
def test_a_cancellation_does_not_reach_them(arena: Arena, loops: Any, how: Any, way: str) -> None:
    """The request ends at once as cancelled; its callbacks go on, each in its turn."""

    async def main() -> None:
        mailer, runs = Mailer(), []

        async def handler() -> None:
            runs.append(1)
            mailer.give()
            if way != "untouched":
                arena.root["a"] = len(runs)
            if way == "again" and len(runs) == 1:
                raise OSError

        async def around() -> None:
            arena.root["b"] = 1
            await arena.run(handler, nested="independent")

        requests: dict[str, Callable[[], Any]] = {
            "decorated": lambda: recoverable(timeout=60)(handler)() if how is not closed else recoverable(handler)(),
            "run": lambda: arena.run(handler),
            "independent": lambda: arena.run(around),
            "again": lambda: arena.run(handler, retries=1),
            "untouched": lambda: arena.run(handler),
        }
        await how(requests[way](), mailer)
        assert dict(arena.root.items()) == ({} if way == "untouched" else {"a": len(runs)})
        await mailer.ended()

    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(main())


@pytest.mark.parametrize("loops", LOOPS)
def test_the_end_of_run_waits_for_them(arena: Arena, loops: Any) -> None:
    """`asyncio.run()` that ends while callbacks are awaited, or right after their request was cancelled, ends after them."""
    mailers: list[Mailer] = []

    async def handler(mailer: Mailer) -> None:
        arena.root["a"] = 1
        mailer.give()
        asyncio.get_running_loop().call_later(0.02, mailer.go_on.set)

    async def main(cancelled: bool) -> None:
        mailers.append(Mailer())
        task = asyncio.create_task(arena.run(handler, mailers[-1]))
        await mailers[-1].begun.wait()
        if cancelled:
            task.cancel()
            await asyncio.wait([task])

    for cancelled in (True, False):
        with asyncio.Runner(loop_factory=loops) as runner:
            runner.run(main(cancelled))
        assert mailers[-1].seen == ["mail", "sent", "woken", "last"]
    assert not callbacks._running


async def test_a_callbacks_own_time_limit_and_group_work(arena: Arena, log: list[dict[str, Any]]) -> None:
    """What cancels from inside, such as `asyncio.timeout()`, cancels the callback's task, and only what it is around."""
    seen: list[str] = []
    tasks: list[Any] = [asyncio.current_task()]

    async def caught() -> None:
        tasks.append(asyncio.current_task())
        try:
            async with asyncio.timeout(0.005):
                await asyncio.sleep(60)
        except TimeoutError:
            seen.append("caught")
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(60))
                await group.create_task(fails())
        except* OSError:
            seen.append("group")

    async def fails() -> None:
        raise OSError

    async def late() -> None:
        async with asyncio.timeout(0.005):
            await asyncio.sleep(60)

    async def ends_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    @recoverable
    async def handler() -> str:
        arena.root["a"] = 1
        for callback in (caught, late, ends_itself, fails):
            after_commit(callback)
        after_commit(seen.append, "last")
        return "ok"

    assert await handler() == "ok"
    assert seen == ["caught", "group", "last"]
    assert failures(log) == [("late", "TimeoutError"), ("ends_itself", "CancelledError"), ("fails", "OSError")]
    assert tasks[0] is not tasks[1]
    assert tasks[0].cancelling() == 0


async def test_plain_callbacks_make_no_task(arena: Arena) -> None:
    """A request whose callbacks are plain functions pays for no task, and waits for no turn of the loop."""
    seen: list[Any] = []

    @recoverable
    async def handler() -> None:
        arena.root["a"] = 1
        after_commit(lambda: seen.append(asyncio.current_task()))

    with pytest.raises(StopIteration):
        handler().send(None)
    assert seen == [asyncio.current_task()]


async def test_callbacks_of_callbacks(arena: Arena) -> None:
    """A callback may run transactions with callbacks of their own, whoever is cancelled."""
    mailer = Mailer()

    async def inner() -> None:
        arena.root["inner"] = 1
        mailer.give()

    async def handler() -> None:
        arena.root["a"] = 1
        after_commit(arena.run, inner)

    await cancel(arena.run(handler), mailer)
    await mailer.ended()
    assert dict(arena.root.items()) == {"a": 1, "inner": 1}


async def test_callbacks_inside_another_arenas_transaction(arena: Arena, new_name: Callable[[], str]) -> None:
    """They are outside of that one, too: it may be rolled back, and they can't be."""
    seen: list[str] = []

    async def awaits() -> None:
        with pytest.raises(NoTransactionError):
            arena.root["x"] = 1
        seen.append("awaits")

    def plain() -> None:
        with pytest.raises(NoTransactionError):
            arena.root["x"] = 1
        seen.append("plain")

    with Arena.temporary("4 MiB", name=new_name()) as other:

        async def inside() -> None:
            other.root["b"] = 1
            after_commit(plain)
            after_commit(awaits)

        async def around() -> None:
            arena.root["a"] = 1
            await other.run(inside)

        await arena.run(around)
    assert seen == ["plain", "awaits"]


# -- what they raise ------------------------------------------------------------------------------------------------

RAISED = [OSError, StopIteration, asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit, Fatal]


@pytest.mark.parametrize("error", RAISED)
@pytest.mark.parametrize("way", ["block", "plain", "awaited", "by hand"])
def test_whatever_one_raises_the_others_run(
    arena: Arena, log: list[dict[str, Any]], error: type[BaseException], way: str
) -> None:
    """It is told; what is no `Exception`, and no mere end of the callback, goes on to the caller after the last of them."""
    seen: list[str] = []

    def plain() -> None:
        raise error

    async def awaited() -> None:
        await (pause() if running_loop() is None else asyncio.sleep(0))
        raise error

    def give() -> None:
        arena.root["a"] = 1
        after_commit(awaited if way in ("awaited", "by hand") else plain)
        after_commit(seen.append, "second")
        after_commit(seen.append, "third")

    async def handler() -> None:
        give()

    def run() -> None:
        if way == "block":
            with arena.transaction():
                give()
        elif way == "by hand":
            Request(arena, handler).finish()
        else:
            with asyncio.Runner() as runner:
                runner.run(arena.run(handler))

    goes_on = error in (KeyboardInterrupt, SystemExit, Fatal) or (way == "by hand" and error is asyncio.CancelledError)
    with pytest.raises(error) if goes_on else contextlib.nullcontext():
        run()
    assert seen == ["second", "third"]
    ((hook, _),) = failures(log)
    assert hook == ("awaited" if way in ("awaited", "by hand") else "plain")
    assert dict(arena.root.items()) == {"a": 1}


@pytest.mark.parametrize("by_hand", [False, True], ids=["loop", "by hand"])
@pytest.mark.parametrize("error", [GeneratorExit, StopAsyncIteration, asyncio.CancelledError])
def test_whatever_one_raises_the_others_are_awaited(
    arena: Arena, log: list[dict[str, Any]], error: type[BaseException], by_hand: bool
) -> None:
    """A GeneratorExit of its own is not taken for the end of what awaits it: coroutines after it are run to their end."""
    seen: list[str] = []

    async def turn() -> None:
        await (pause() if by_hand else asyncio.sleep(0))

    async def fails() -> None:
        await turn()
        raise error

    async def goes_on() -> None:
        await turn()
        seen.append("awaited")

    async def handler() -> None:
        arena.root["a"] = 1
        after_commit(fails)
        after_commit(goes_on)
        after_commit(seen.append, "plain")

    goes_on_to_caller = by_hand and error is asyncio.CancelledError
    with pytest.raises(error) if goes_on_to_caller else contextlib.nullcontext():
        if by_hand:
            Request(arena, handler).finish()
        else:
            asyncio.run(arena.run(handler))
    assert seen == ["awaited", "plain"]
    assert [hook for hook, _ in failures(log)] == ["fails"]


def test_one_that_turns_its_end_into_an_error(arena: Arena, log: list[dict[str, Any]]) -> None:
    """A callback that is closed while it waits and raises something else is told as it is; those after it are told, or run."""
    seen: list[str] = []

    async def stubborn() -> None:
        try:
            await pause()
        finally:
            raise OSError

    async def dropped() -> None:
        seen.append("dropped")

    async def handler() -> None:
        arena.root["a"] = 1
        after_commit(stubborn)
        after_commit(dropped)
        after_commit(seen.append, "plain")

    request = Request(arena, handler)
    request.step()
    request.close()
    assert seen == ["plain"]
    assert failures(log) == [("stubborn", "OSError"), ("dropped", "TransactionError")]


def test_a_broken_log_pipeline_drops_none(arena: Arena) -> None:
    """Were the event of a failure, or of the commit, itself to fail, the callbacks run all the same."""
    seen: list[int] = []

    def broken(*_: Any) -> Any:
        raise RuntimeError("the pipeline")

    def fails() -> None:
        raise OSError

    async def handler() -> None:
        arena.root["a"] = 1
        after_commit(fails)
        after_commit(seen.append, 1)

    async def only_the_commit() -> None:
        arena.root["a"] = 2
        after_commit(seen.append, 2)

    structlog.configure(processors=[broken])
    try:
        for function in (handler, only_the_commit):
            with pytest.raises(RuntimeError, match="pipeline"):
                asyncio.run(arena.run(function))
        with pytest.raises(RuntimeError, match="pipeline"), arena.transaction():
            after_commit(fails)
            after_commit(seen.append, 3)
    finally:
        structlog.reset_defaults()
    assert seen == [1, 2, 3]


# -- what can't run any more ----------------------------------------------------------------------------------------


def hang(arena: Arena, seen: list[str]) -> Callable[[], Any]:
    """Give a handler with a callback that hangs, a plain one, and one that awaits."""

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cleaned up")

    async def never() -> None:
        seen.append("never")

    async def handler() -> None:
        arena.root["a"] = 1
        after_commit(hangs)
        after_commit(seen.append, "plain")
        after_commit(never)

    return handler


@pytest.mark.parametrize("loops", LOOPS)
def test_one_that_hangs_at_the_end_is_cancelled_and_told(
    arena: Arena, log: list[dict[str, Any]], loops: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the time of grace it is cancelled; plain functions after it are called, and of others it is told."""
    monkeypatch.setattr(callbacks, "GRACE", 0.02)
    seen: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().call_soon(asyncio.create_task, arena.run(hang(arena, seen)))
        await until(lambda: bool(callbacks._running))

    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(main())
    assert seen == ["cleaned up", "plain"]
    assert failures(log) == [("hangs", "CancelledError"), ("never", "TransactionError")]
    assert "waited 0.02 s" in str(log[-1]["exc_info"][1])
    assert not callbacks._running


@pytest.mark.parametrize("loops", LOOPS)
def test_a_loop_that_is_closed_under_them_is_told(arena: Arena, log: list[dict[str, Any]], loops: Any) -> None:
    """When the arena is closed, or others run, at the latest; plain functions are called, outside of any transaction."""
    for notice in ("close", "others"):
        seen: list[str] = []
        log.clear()
        loop = loops()
        task = loop.create_task(arena.run(hang(arena, seen)))
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        assert len(callbacks._running) == 1
        loop.close()
        assert (seen, failures(log)) == ([], [])
        if notice == "close":
            Arena.open(arena.name).close()
        else:

            async def other() -> None:
                arena.root["a"] = 1
                after_commit(asyncio.sleep, 0)

            asyncio.run(arena.run(other))
        assert seen == ["cleaned up", "plain"]
        assert failures(log) == [("hangs", "TransactionError"), ("never", "TransactionError")]
        assert not callbacks._running


def test_a_loop_that_is_stopped_before_they_begin(arena: Arena, log: list[dict[str, Any]]) -> None:
    """Plain ones are called, and the others told, also where the loop is closed before their task takes its first step."""
    seen: list[str] = []
    loop = asyncio.new_event_loop()

    async def never() -> None:
        seen.append("never")

    async def handler() -> None:
        arena.root["a"] = 1
        after_commit(never)
        after_commit(seen.append, "plain")
        loop.stop()

    task: Any = loop.create_task(arena.run(handler))
    loop.run_forever()
    loop.close()
    callbacks.abandon()
    assert seen == ["plain"]
    assert failures(log) == [("never", "TransactionError")]
    assert not callbacks._running
    task._log_destroy_pending = False


def test_driven_by_hand_and_thrown_away(arena: Arena, log: list[dict[str, Any]]) -> None:
    """Without an event loop there is no task; what a closed coroutine can't await any more is told."""
    seen: list[str] = []

    async def waits() -> None:
        await pause()

    async def never() -> None:
        seen.append("never")

    async def handler() -> None:
        arena.root["a"] = 1
        after_commit(waits)
        after_commit(never)
        after_commit(seen.append, "plain")

    request = Request(arena, handler)
    request.step()
    request.close()
    assert seen == ["plain"]
    assert failures(log) == [("waits", "TransactionError"), ("never", "TransactionError")]


@pytest.mark.slow
def test_the_end_of_the_program_is_told(name: str) -> None:
    """A program that stops its loop and ends leaves an event for what it did not wait for."""
    program = f"""
import asyncio
from recoverable import Arena, after_commit
async def waits(): await asyncio.Event().wait()
async def handler():
    arena.root["a"] = 1
    after_commit(waits)
    after_commit(print, "plain")
with Arena.temporary("4 MiB", name={name!r}) as arena:
    loop = asyncio.new_event_loop()
    task = loop.create_task(arena.run(handler))
    loop.run_until_complete(asyncio.sleep(0.01))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "plain\n"
    assert "after_commit.failed" in done.stderr
    assert "hook=waits" in done.stderr


@pytest.mark.slow
@pytest.mark.crash
async def test_a_forked_child_leaves_them_to_its_parent(arena: Arena) -> None:
    """What the parent still awaits is not called by a child that ends, closes the arena or collects garbage."""
    mailer = Mailer()
    reader, writer = os.pipe()

    async def handler() -> None:
        arena.root["a"] = 1
        mailer.give()
        after_commit(os.write, writer, b"x")

    await cancel(arena.run(handler), mailer)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            callbacks.abandon(at_exit=True)
            status = 0 if mailer.seen == ["mail"] else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    await mailer.ended()
    os.close(writer)
    with os.fdopen(reader, "rb") as written:
        assert written.read() == b"x"
