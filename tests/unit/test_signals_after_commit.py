"""A signal whose handler raises, right after a commit: the callbacks of what was committed are called all the same."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import gc
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

import recoverable
from recoverable import Arena, after_commit, callbacks
from recoverable._native.runtime import Transaction

RAISE = ctypes.PyDLL(None)["raise"]  # unlike signal.raise_signal(), it does not run the handler at once


class Alarm(BaseException):
    """Stands for what a signal's handler raises."""


@pytest.fixture
def alarm() -> Iterator[int]:
    """Give a signal whose handler raises."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise Alarm

    before = signal.signal(signal.SIGUSR1, handler)
    yield signal.SIGUSR1
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_during_the_commit_of_a_block(arena: Arena, alarm: int) -> None:
    """The signal comes in the block's last instruction, its handler is run once the commit stands."""
    seen: list[str] = []
    with pytest.raises(Alarm), arena.transaction():
        arena.root["a"] = 1
        after_commit(seen.append, "first")
        after_commit(seen.append, "second")
        [*map(RAISE, (alarm,))]  # no bytecode after it that would run the handler before the block is left
    assert seen == ["first", "second"]
    assert arena.root["a"] == 1


def test_a_signal_at_the_end_of_an_independent_block(arena: Arena, alarm: int) -> None:
    """The block is undone, the transaction around it can go on, and nobody waits for a lock."""
    seen: list[str] = []
    with arena.transaction():
        arena.root["around"] = 1
        with pytest.raises(Alarm), arena.transaction(independent=True):
            arena.root["a"] = 1
            after_commit(seen.append, "first")
            [*map(RAISE, (alarm,))]
        arena.root["around"] += 1
    assert (arena.root.to_python(), seen) == ({"around": 2}, [])
    assert arena.stats().in_flight == 0


class Striking:
    """Raises at the n-th call or return of a function of the library's after the handler has ended, or at the n-th bytecode."""

    def __init__(self, nth: int, *, bytecodes: bool = False) -> None:
        self.left = nth
        self.events = ("opcode",) if bytecodes else ("call", "return")
        self.files = ("callbacks.py",) if bytecodes else ("runner.py", "callbacks.py", "decorator.py")
        self.armed = self.struck = False

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if self.armed and "recoverable" in name and name.endswith(self.files):
            if event in self.events:
                self.left -= 1
            elif "opcode" in self.events:
                frame.f_trace_opcodes = True
                sys.settrace(self.trace)  # Python 3.12 takes the line above to heart only with the next settrace()
            if self.left < 0:
                self.armed, self.struck = False, True
                sys.settrace(None)
                raise Alarm
        return self.trace

    def run(self, main: Callable[[], Any]) -> None:
        before = sys.gettrace()
        sys.settrace(self.trace)
        try:
            main()
        finally:
            sys.settrace(before)


async def decorated(arena: Arena, handler: Any) -> None:
    """Run it by the decorator."""
    await recoverable.recoverable(arena=arena, timeout=60, fallback=lambda error: pytest.fail("it was committed"))(
        handler
    )()


async def run(arena: Arena, handler: Any) -> None:
    """Run it by the arena's method."""
    await arena.run(handler)


async def again(arena: Arena, handler: Any) -> None:
    """Run it a second time."""
    runs: list[int] = []

    async def fails_first() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise OSError
        await handler()

    await arena.run(fails_first, retries=1)


@pytest.mark.parametrize("way", [decorated, run, again])
def test_wherever_the_handler_of_a_signal_strikes(arena: Arena, way: Any) -> None:
    """It may raise at any call or return after the commit: each callback is called, and once."""
    for nth in range(100):
        seen: list[str] = []
        striking = Striking(nth)

        async def handler(striking: Striking = striking, seen: list[str] = seen, nth: int = nth) -> None:
            arena.root["a"] = nth
            after_commit(seen.append, "first")
            after_commit(seen.append, "second")
            striking.armed = True

        async def main(handler: Any = handler) -> None:
            await way(arena, handler)

        def drive(main: Any = main) -> None:
            with asyncio.Runner() as runner:
                runner.run(main())

        try:
            striking.run(drive)
        except Alarm:
            assert striking.struck
        committed = arena.root["a"] == nth
        assert seen == (["first", "second"] if committed else []), f"struck {nth} calls and returns after the handler"
        if not striking.struck:
            assert nth > 3
            return
    raise AssertionError("it never got through")


@pytest.fixture
def collected_here() -> Iterator[None]:
    """Have what was never awaited say so at the end of the test, not wherever the collector happens to run."""
    gc.disable()
    yield
    gc.enable()
    gc.collect()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # between its being made and awaited
def test_wherever_it_strikes_no_request_waits_for_ever(arena: Arena, collected_here: None) -> None:
    """It may raise at any bytecode of ours while callbacks are awaited: the request ends, and they are called, once, in order."""
    for nth in range(5000):
        seen: list[str] = []
        striking = Striking(nth, bytecodes=True)

        async def mail(name: str, seen: list[str] = seen) -> None:
            await asyncio.sleep(0)
            seen.append(name)

        async def handler(striking: Striking = striking, seen: list[str] = seen, mail: Any = mail) -> None:
            after_commit(mail, "first")
            after_commit(seen.append, "second")
            after_commit(mail, "third")
            striking.armed = True

        async def main(handler: Any = handler) -> None:
            await asyncio.wait_for(arena.run(handler), 5)

        def drive(main: Any = main) -> None:
            with asyncio.Runner() as runner:
                runner.get_loop().set_exception_handler(print)  # a log would keep it, with its frames
                runner.run(main())

        try:
            striking.run(drive)
        except Alarm:
            assert striking.struck
        assert seen == [name for name in ("first", "second", "third") if name in seen]
        assert callbacks._running == {}
        if not striking.struck:
            assert seen == ["first", "second", "third"]
            assert nth > 100
            return
    raise AssertionError("it never got through")


async def test_what_waited_to_be_awaited_is_awaited_by_who_comes_next(arena: Arena) -> None:
    """A signal's handler may raise between the first callback that returns a coroutine and its being awaited."""
    seen: list[str] = []

    async def mail(name: str) -> None:
        seen.append(name)

    transaction = Transaction(arena.native, "h", False)
    transaction.hooks = [
        functools.partial(mail, "first"),
        functools.partial(mail, "second"),
        functools.partial(seen.append, "third"),
    ]
    transaction.commit()
    interrupted = callbacks.begin_hooks(transaction)
    assert interrupted is not None
    interrupted.close()  # what becomes of it where nobody gets to await it
    assert seen == []
    await callbacks.run_hooks(transaction)
    assert seen == ["first", "second", "third"]
    assert transaction.hooks is None


async def test_a_task_that_is_stopped_before_its_first_bytecode(arena: Arena, log: list[dict[str, Any]]) -> None:
    """Plain callbacks are called, the others told, and the request ends by what the signal's handler has raised."""
    seen: list[str] = []

    async def never() -> None:
        seen.append("never")

    def strike(frame: FrameType, event: str, _: Any) -> None:
        if frame.f_code is callbacks._Task._run.__code__:
            sys.settrace(None)
            raise Alarm

    async def handler() -> None:
        arena.root["a"] = 1
        after_commit(never)
        after_commit(seen.append, "plain")
        sys.settrace(strike)

    before = sys.gettrace()
    try:
        with pytest.raises(Alarm):
            await asyncio.wait_for(arena.run(handler), 5)
    finally:
        sys.settrace(before)
    assert seen == ["plain"]
    assert [each["hook"].rpartition(".")[2] for each in log if each["event"] == "after_commit.failed"] == ["never"]
    assert not callbacks._running
