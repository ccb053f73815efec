"""What stops a run that has met a conflict: it never leaves the transaction, and no cancellation is lost in it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

import recoverable
from recoverable import Arena, ConflictError
from recoverable.errors import _Doomed
from support.workers import Request, pause

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
TURNS = range(6)  # of the loop, after the conflict, until the cancellation comes: before, while and after it is noticed


def inside(error: BaseException | None) -> list[type]:
    """Return the types of an exception, its causes and the members of a group."""
    if error is None:
        return []
    found = [type(error), *inside(error.__cause__)]
    if isinstance(error, BaseExceptionGroup):
        found += [kind for member in error.exceptions for kind in inside(member)]
    return found


class Scene:
    """A handler that reads x, stands still, and finds x changed when it goes on to write y."""

    def __init__(self, arena: Arena, other: Arena, where: str) -> None:
        self.arena, self.other = arena, other
        self.handler: Callable[[], Awaitable[None]] = getattr(self, where)
        self.options: dict[str, Any] = {"commit_if": self._commit_if} if where == "commit_if" else {}
        self.reached, self.go = asyncio.Event(), asyncio.Event()
        self.runs = 0
        self.seen: list[BaseException] = []
        with arena.transaction():
            arena.root.update({"x": 0, "y": 0, "z": 0})

    async def run(self) -> None:
        await self.arena.run(self._run, **self.options)

    async def _run(self) -> None:
        self.runs += 1
        await self.handler()

    async def strike(self) -> None:
        """Commit what the handler has read, and let it go on."""
        await self.reached.wait()
        await asyncio.sleep(0)
        with self.arena.transaction():
            self.arena.root["x"] += 1
        self.go.set()

    async def _read(self) -> None:
        assert self.arena.root["x"] in (0, 1)
        self.reached.set()
        await self.go.wait()

    async def _stand_still(self) -> None:
        self.other.root["b"] = 1
        self.reached.set()
        await self.go.wait()

    def _write(self) -> None:
        self.arena.root["y"] = self.runs

    # -- where the conflict is met --

    async def access(self) -> None:
        await self._read()
        self._write()

    async def commit(self) -> None:
        self._write()
        await self._read()

    async def cleanup(self) -> None:
        try:
            await self._read()
        finally:
            self._write()

    async def commit_if(self) -> None:
        self._write()
        await self._read()

    def _commit_if(self, result: Any) -> bool:
        return bool(self.arena.root["x"] >= 0)

    async def gathered(self) -> None:
        await recoverable.gather(self.access(), self._sleep())

    async def gathered_results(self) -> None:
        results = await recoverable.gather(self.access(), self._sleep(), return_exceptions=True)
        assert results == [None, None], "a run that has lost does not get here"

    async def grouped(self) -> None:
        async with recoverable.TaskGroup() as group:
            group.create_task(self.access())
            group.create_task(self._sleep())

    async def beside_a_group(self) -> None:
        async with recoverable.TaskGroup() as group:
            group.create_task(self._sleep())
            await self.access()

    async def awaited_part(self) -> None:
        async with recoverable.TaskGroup() as group:
            await asyncio.gather(group.create_task(self.access()), group.create_task(self._sleep()))

    async def part_of_a_part(self) -> None:
        await recoverable.gather(self.grouped(), self._sleep())

    async def limited(self) -> None:
        await recoverable.wait_for(self.access(), 60)

    async def generated(self) -> None:
        async def numbers() -> Any:
            try:
                yield self.arena.root["x"]
                await self._read()
                yield self._write()
            finally:
                await asyncio.sleep(0)

        async for _ in numbers():
            pass

    async def in_another_run(self) -> None:
        self.arena.root["x"]
        await self.other.run(self._stand_still)
        self._write()

    async def in_another_block(self) -> None:
        await self._read()
        with self.other.transaction():
            self.other.root["b"] = 1
        self._write()

    async def after_an_independent_run(self) -> None:
        self.arena.root["x"]
        await self.arena.run(self._independent, nested="independent")
        self._write()

    async def _independent(self) -> None:
        self.arena.root["z"] += 1
        await self._read()

    async def swallowed(self) -> None:
        await self._read()
        for _ in range(3):
            try:
                self._write()
            except BaseException as error:
                self.seen.append(error)

    async def raised_again(self) -> None:
        """Keep what stopped the first run, and raise it in the second, which then is an ordinary crash."""
        if self.seen:
            raise self.seen[0]
        await self.swallowed()

    async def raised_again_in_a_group(self) -> None:
        try:
            await self.raised_again()
        except BaseException as error:
            raise BaseExceptionGroup("several", [error, OSError()]) from None

    async def _sleep(self) -> None:
        if self.runs == 1:  # results are waited for, failures end the others
            await asyncio.sleep(0.02 if self.handler == self.gathered_results else 60)


WHERE = [
    "access",
    "commit",
    "cleanup",
    "commit_if",
    "gathered",
    "gathered_results",
    "grouped",
    "beside_a_group",
    "awaited_part",
    "part_of_a_part",
    "limited",
    "generated",
    "in_another_run",
    "in_another_block",
    "after_an_independent_run",
    "swallowed",
]
LOOPING = pytest.mark.parametrize("loops", LOOPS)
STRIKING = pytest.mark.parametrize("where", WHERE)


@pytest.fixture
def scene(arena: Arena, new_name: Callable[[], str]) -> Any:
    """Give a function that runs a coroutine function with a scene, on a loop."""
    with Arena.temporary("4 MiB", name=new_name()) as other:

        def on(loops: Any, where: str, main: Callable[[Scene], Awaitable[Any]]) -> Any:
            async def run() -> Any:
                return await main(Scene(arena, other, where))

            with asyncio.Runner(loop_factory=loops) as runner:
                return runner.run(run())

        yield on


@LOOPING
@STRIKING
def test_it_becomes_a_run_of_its_own(scene: Any, loops: Any, where: str) -> None:
    """Wherever the conflict is met, the handler is run again and commits; nobody sees anything of it."""

    async def main(it: Scene) -> None:
        before = asyncio.current_task()
        assert before is not None
        striking = asyncio.create_task(it.strike())
        await it.run()
        await striking
        assert (it.runs, it.arena.root["y"], it.arena.root["x"]) == (2, 2, 1)
        assert before.cancelling() == 0
        assert it.arena.stats().in_flight == 0

    scene(loops, where, main)


@LOOPING
@STRIKING
def test_a_cancellation_at_the_same_time_is_not_lost(scene: Any, loops: Any, where: str) -> None:
    """A task that says that it is being cancelled ends as cancelled, a turn before or after the conflict as well."""

    async def main(it: Scene, turns: int) -> None:
        task = asyncio.create_task(it.run())
        await it.strike()
        for _ in range(turns):
            await asyncio.sleep(0)
        asked = task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() is asked, f"after {turns} turns: {task!r}"
        assert task.cancelling() == int(asked)
        assert it.arena.root["y"] == (0 if asked else 2), f"after {turns} turns"
        assert it.arena.stats().in_flight == 0

    for turns in TURNS:
        scene(loops, where, lambda it, turns=turns: main(it, turns))


@LOOPING
@STRIKING
def test_a_time_limit_around_it_at_the_same_time(scene: Any, loops: Any, where: str) -> None:
    """`asyncio.timeout()` is in time or late, and says so; afterwards the task is not being cancelled."""

    async def main(it: Scene, turns: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        limit = asyncio.timeout(None)

        async def late() -> None:
            await it.strike()
            for _ in range(turns):
                await asyncio.sleep(0)
            with contextlib.suppress(RuntimeError):  # it has ended
                limit.reschedule(0)

        striking = asyncio.create_task(late())
        error: BaseException | None = None
        try:
            async with limit:
                await it.run()
        except TimeoutError as late_error:
            error = late_error
        assert limit.expired() is (error is not None)
        assert _Doomed not in inside(error)
        assert it.arena.root["y"] == (0 if error else 2)
        assert task.cancelling() == 0
        await striking
        await asyncio.sleep(0)

    for turns in TURNS:
        scene(loops, where, lambda it, turns=turns: main(it, turns))


@LOOPING
@STRIKING
@pytest.mark.parametrize("how", ["body", "child"])
def test_a_failing_sibling_at_the_same_time(scene: Any, loops: Any, where: str, how: str) -> None:
    """A TaskGroup around it raises the sibling's exception and no other; afterwards the task is not being cancelled."""

    async def main(it: Scene, turns: int) -> None:
        task = asyncio.current_task()
        assert task is not None

        async def fail() -> None:
            await it.strike()
            for _ in range(turns):
                await asyncio.sleep(0)
            raise OSError

        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                if how == "body":
                    await it.run()
                else:
                    group.create_task(it.run())
        assert [type(error) for error in raised.value.exceptions] == [OSError]
        assert _Doomed not in inside(raised.value)
        assert it.arena.root["y"] in (0, 2)
        # Before Python 3.13 a group does not take back that it has cancelled its own task.
        assert task.cancelling() <= (sys.version_info < (3, 13))
        await asyncio.sleep(0)

    for turns in TURNS:
        scene(loops, where, lambda it, turns=turns: main(it, turns))


@STRIKING
def test_with_no_runs_left_it_is_a_conflict_error(scene: Any, where: str) -> None:
    """The caller sees `ConflictError` and nothing internal, alone or among the results of `asyncio.gather`."""

    async def main(it: Scene) -> None:
        it.options["max_conflicts"] = 0
        error, _ = await asyncio.gather(it.run(), it.strike(), return_exceptions=True)
        assert isinstance(error, ConflictError)
        assert _Doomed not in inside(error)
        assert it.runs == 1

    scene(asyncio.new_event_loop, where, main)


@pytest.mark.parametrize("how", ["raised_again", "raised_again_in_a_group"])
def test_what_was_kept_and_is_raised_again(scene: Any, how: str) -> None:
    """In another run, where no conflict was met, it is an ordinary error, whatever is around it."""

    async def main(it: Scene) -> None:
        error, _ = await asyncio.gather(it.run(), it.strike(), return_exceptions=True)
        assert isinstance(error, ConflictError if how == "raised_again" else ExceptionGroup)
        assert _Doomed not in inside(error)
        assert it.runs == 2
        kept = it.seen[0]

        async def once_more() -> None:
            raise kept

        for run in (it.arena.run(once_more), it.arena.run(lambda: it.other.run(once_more))):
            with pytest.raises(ConflictError, match="raised again"):
                await run
        with pytest.raises(ConflictError, match="raised again"), it.arena.transaction():
            raise kept
        assert (it.arena.root["y"], it.arena.stats().in_flight) == (0, 0)

    scene(asyncio.new_event_loop, how, main)


async def test_a_part_that_is_awaited_from_outside(arena: Arena) -> None:
    """Whoever has the task sees a `ConflictError`; the handler is stopped all the same, and is run again."""
    with arena.transaction():
        arena.root.update({"x": 0, "y": 0})
    parts: list[asyncio.Task[None]] = []
    runs = []

    async def part() -> None:
        arena.root["x"]
        if len(runs) == 1:
            await asyncio.create_task(strike())
        arena.root["y"] += 1

    async def strike() -> None:
        with arena.transaction():
            arena.root["x"] += 1

    async def handler() -> None:
        runs.append(1)
        with contextlib.suppress(Exception):
            async with recoverable.TaskGroup() as group:
                parts.append(group.create_task(part()))
        assert len(runs) == 2, "a run that has lost does not get here"

    await arena.run(handler)
    with pytest.raises(ConflictError, match="part of a transaction"):
        await parts[0]
    assert _Doomed not in inside(parts[0].exception())
    assert parts[1].exception() is None
    assert arena.root["y"] == 1


async def test_a_cancellation_that_came_with_a_parts_error(arena: Arena) -> None:
    """asyncio.gather() prefers the error to the cancellation; a handler that catches it would go on although cancelled."""
    failed = asyncio.Event()

    async def fail() -> None:
        failed.set()
        raise OSError

    async def handler() -> None:
        arena.root["a"] = 1
        with contextlib.suppress(OSError):
            await recoverable.gather(fail(), asyncio.sleep(60))

    task = asyncio.create_task(arena.run(handler))
    await failed.wait()
    assert task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert "a" not in arena.root


async def test_an_end_that_counts_as_false(arena: Arena) -> None:
    """What the program ends a run with, after a conflict, is raised whatever its class says of its truth."""

    class Empty(BaseException):
        def __len__(self) -> int:
            return 0

    with arena.transaction():
        arena.root.update({"x": 0, "y": 0})

    async def other() -> None:
        with arena.transaction():
            arena.root["x"] += 1

    async def handler() -> None:
        arena.root["x"]
        await asyncio.create_task(other())
        try:
            arena.root["y"] = 1
        except BaseException:
            raise Empty from None

    gc.disable()
    try:
        raised = None
        try:
            await arena.run(handler)
        except Empty as error:
            raised = weakref.ref(error)
        assert raised is not None
        assert raised() is None  # nothing that it refers to refers to it
    finally:
        gc.enable()
    assert arena.root.to_python() == {"x": 1, "y": 0}


def test_by_hand(arena: Arena) -> None:
    """Without an event loop it is the same: a conflict, or what was thrown in."""
    for thrown in (None, asyncio.CancelledError, KeyboardInterrupt):
        with arena.transaction():
            arena.root.update({"x": 0, "y": 0})

        async def handler() -> None:
            arena.root["x"]
            try:
                await pause()
            finally:
                arena.root["y"] = 1

        request = Request(arena, handler)
        request.step()
        with arena.transaction():
            arena.root["x"] = 1
        with pytest.raises(thrown or ConflictError) as raised:
            request.throw(thrown()) if thrown else request.step()
        assert _Doomed not in inside(raised.value)
        assert arena.root["y"] == 0
