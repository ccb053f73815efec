"""A request whose coroutine is closed, or collected, before its end: nobody waits for it, so nothing follows."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest

from recoverable import Arena, recoverable
from recoverable._native.runtime import Requests, Served, limits_waiting
from recoverable.errors import TransactionClosedError


class Step:
    """What suspends whoever awaits it, without an event loop."""

    def __await__(self) -> Generator[None, None, None]:
        yield


OPTIONS: list[dict[str, Any]] = [
    {"retries": 3},
    {"fallback": lambda error: "instead"},
    {"retries": 3, "timeout": 5, "fallback": lambda error: "instead"},
]


def suspended(arena: Arena, runs: list[int], first: int, options: dict[str, Any]) -> Any:
    """A request that has suspended in its run of that number, and whose `finally` will raise."""

    @recoverable(arena=arena, **options)
    async def handler() -> None:
        runs.append(len(runs))
        arena.root["runs"] = len(runs)
        if len(runs) < first:
            raise ValueError("again")
        if len(runs) == first:
            try:
                await Step()
            finally:
                raise LookupError("while it was closed")

    request = handler()
    request.send(None)
    return request


def in_task(of: Callable[[], None], options: dict[str, Any]) -> None:
    """Call it where a time limit can begin."""

    async def main() -> None:
        of()

    if "timeout" in options:
        asyncio.run(main())
    else:
        of()


@pytest.mark.parametrize("options", OPTIONS)
def test_closed_is_not_run_again(arena: Arena, options: dict[str, Any]) -> None:
    """A `finally` that fails while its request is closed is raised from there: no other run, no fallback, nothing committed."""
    runs: list[int] = []

    def of() -> None:
        request = suspended(arena, runs, 1, options)
        with pytest.raises(LookupError):
            request.close()
        with pytest.raises(RuntimeError, match="cannot reuse"):
            request.send(None)
        if "timeout" in options:
            assert not any(limits_waiting().values())

    in_task(of, options)
    assert runs == [0]
    assert "runs" not in arena.root


@pytest.mark.parametrize("options", [each for each in OPTIONS if "retries" in each])
def test_closed_in_a_later_run(arena: Arena, options: dict[str, Any]) -> None:
    """The same in a run after the first."""
    runs: list[int] = []

    def of() -> None:
        request = suspended(arena, runs, 2, options)
        with pytest.raises(LookupError):
            request.close()

    in_task(of, options)
    assert runs == [0, 1]
    assert "runs" not in arena.root


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_collected_is_not_run_again(arena: Arena) -> None:
    """One that the collector finds suspended runs nothing but its `finally`."""
    runs: list[int] = []
    cycle: list[Any] = [suspended(arena, runs, 1, {"retries": 3})]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert runs == [0]
    assert "runs" not in arena.root


def test_thrown_is_no_exception(arena: Arena) -> None:
    """What is no exception can't be thrown into a request, which goes on."""

    @recoverable(arena=arena)
    async def handler() -> str:
        arena.root["a"] = 1
        await Step()
        return "done"

    request: Any = handler()
    request.send(None)
    for wrong in (5, int):
        with pytest.raises(TypeError, match="deriving from BaseException"):
            request.throw(wrong)
    with pytest.raises(StopIteration, match="done"):
        request.send(None)
    assert arena.root["a"] == 1


class Calls(list[int]):
    """A list that calls something when it is being stored."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__([1])
        self.call = call

    def __iter__(self) -> Any:
        self.call()
        return super().__iter__()


@pytest.mark.parametrize("how", ["close", "drop", "collect"])
def test_closed_in_the_middle_of_anothers_operation(arena: Arena, how: str) -> None:
    """What is closed or collected there is closed: its `finally` has no part in the other request's transaction."""
    found: list[str] = []

    @recoverable(arena=arena)
    async def abandoned() -> None:
        arena.root["a"] = 1
        try:
            await Step()
        finally:
            try:
                arena.root["leak"] = 1
            except TransactionClosedError:
                found.append("closed")

    @recoverable(arena=arena)
    async def other(held: list[Any]) -> None:
        def act() -> None:
            if how == "close":
                held[0].close()
            held.clear()
            gc.collect()

        arena.root["list"] = Calls(act)

    cycle: list[Any] = [abandoned()]
    held = [cycle[0]]
    held[0].send(None)
    if how == "collect":
        cycle.append(cycle)
    del cycle
    with pytest.raises(StopIteration):
        other(held).send(None)
    assert found == ["closed"]
    assert dict(arena.root.items()).keys() == {"list"}


# -- limits that are interrupted --------------------------------------------------------------------------------------


class Interrupted(Exception):
    """What a signal's handler raises."""


class Loop(asyncio.SelectorEventLoop):
    """An event loop in whose code a signal arrives."""

    interrupt = ""

    def _at(self, place: str) -> None:
        if self.interrupt == place:
            self.interrupt = ""
            raise Interrupted

    def time(self) -> float:
        self._at("time")
        return super().time()

    def call_later(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        self._at("call_later")
        return super().call_later(*args, **kwargs)


@pytest.fixture
def loop() -> Generator[Loop, None, None]:
    """An event loop in whose code a signal can be made to arrive."""
    made = Loop()
    yield made
    made.close()


@pytest.mark.parametrize("place", ["time", "call_later"])
def test_limit_interrupted_where_it_begins(arena: Arena, loop: Loop, place: str) -> None:
    """An exception out of the first suspension's limit is the end of the request: it is closed and rolled back then."""
    ended: list[str] = []

    @recoverable(arena=arena, timeout=5)
    async def handler() -> None:
        arena.root["a"] = 1
        try:
            loop.interrupt = place
            await Step()
        finally:
            ended.append("closed")

    async def main() -> None:
        request = handler()
        with pytest.raises(Interrupted):
            request.send(None)
        assert ended == ["closed"]
        with pytest.raises(RuntimeError, match="cannot reuse"):
            request.send(None)

    loop.run_until_complete(main())
    assert "a" not in arena.root


@pytest.mark.parametrize("interrupted", ["time", "call_later"])
def test_limits_outlive_an_interrupted_timer(arena: Arena, loop: Loop, interrupted: str) -> None:
    """Where setting their timer was interrupted, limits that wait already are over in time all the same."""
    go = threading.Event()

    @recoverable(arena=arena, timeout=0.05)
    async def handler(begin: asyncio.Event, *, interrupt: str = "") -> None:
        coroutine = begin.wait()
        loop.interrupt = interrupt
        await coroutine

    async def main() -> None:
        never = asyncio.Event()
        earlier = asyncio.ensure_future(handler(never))
        await asyncio.sleep(0)
        assert limits_waiting() == {0.05: 1}
        loop.interrupt = interrupted
        loop.set_exception_handler(lambda *_: go.set())
        # the timer fires, and its first look at the clock, or setting it again, is interrupted
        timer = next(each for each in loop._scheduled if "fire" in repr(each))  # type: ignore[attr-defined]
        timer._run()
        timer.cancel()  # it has been taken from the heap when it fires
        assert go.is_set()
        later = asyncio.ensure_future(handler(never))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(earlier), 5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(later), 5)
        assert earlier.done()
        assert later.done()

    loop.run_until_complete(main())


def test_lines_of_other_loops_meanwhile(arena: Arena) -> None:
    """A loop's first limit looks for loops that were closed, while other threads' loops come and go."""
    asked: list[None] = []

    @recoverable(arena=arena, timeout=5)
    async def handler() -> str:
        await asyncio.sleep(0)
        return "done"

    def in_thread() -> str:
        out: list[str] = []
        thread = threading.Thread(target=lambda: out.append(asyncio.run(handler())))
        thread.start()
        thread.join()
        return out[0]

    class Asked(asyncio.SelectorEventLoop):
        def is_closed(self) -> bool:
            if threading.current_thread() is not threading.main_thread() and not asked:
                asked.append(None)
                assert in_thread() == "done"
            return super().is_closed()

    async def main() -> None:
        assert await handler() == "done"
        assert in_thread() == "done"

    with asyncio.Runner(loop_factory=Asked) as runner:
        runner.run(main())
    assert asked


# -- copies -----------------------------------------------------------------------------------------------------------


async def of_a_route(request: object) -> None: ...


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda served: pickle.loads(pickle.dumps(served))])
def test_served_is_copied_as_its_handler(copied: Callable[[Any], Any]) -> None:
    """What stands in a handler's place in a route is copied and pickled as a function is."""
    assert copied(Served(of_a_route, None, Requests())) is of_a_route
