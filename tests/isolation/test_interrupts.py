"""KeyboardInterrupt between any two bytecodes or in a wait, cancellation at every await: nothing stays half-done, none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest

import recoverable
from recoverable import Arena
from support.workers import Request, pause


class Interrupter:
    """Raises KeyboardInterrupt before the nth bytecode that runs in the library's Python half or in this file."""

    def __init__(self, nth: int) -> None:
        self.left = nth
        self.where = ""

    def __enter__(self) -> Interrupter:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: Any) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        ours = name == __file__ or ("recoverable" in name and "_native" not in name and "events" not in name)
        if not ours or frame.f_code.co_name in ("__exit__", "finish", "step"):
            return None
        frame.f_trace_opcodes = True
        sys.settrace(self._call)  # Python 3.12 takes the line above to heart only with the next settrace()
        return self._opcode

    def _opcode(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                self.where = f"{frame.f_code.co_qualname}, line {frame.f_lineno} of {frame.f_code.co_filename}"
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._opcode


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # interrupted between making and awaiting it
def test_an_interrupt_leaves_nothing_behind(arena: Arena, log: list[Any]) -> None:
    """A handler with a nested call, a savepoint, a callback and an independent block, interrupted at each bytecode."""
    with arena.transaction():
        arena.root.update({"n": 0, "l": [], "own": 0})
    called: list[int] = []

    @recoverable.recoverable(arena=arena)
    async def nested() -> None:
        arena.root["l"].append(1)

    async def handler() -> None:
        arena.root["n"] += 1
        await nested()
        await pause()
        with contextlib.suppress(ValueError), arena.savepoint():
            arena.root["l"].append("tried")
            raise ValueError
        with arena.transaction(independent=True):
            arena.root["own"] += 1
        recoverable.after_commit(called.append, 1)
        arena.root["n"] += 1

    nth, runs, points = 0, 0, 0
    while True:
        nth += 1
        points += 1
        before = arena.root.to_python()
        request = Request(arena, handler)
        try:
            with Interrupter(nth) as interrupter:
                request.finish()
        except KeyboardInterrupt:
            pass
        else:
            break
        finally:
            sys.settrace(None)
            request.close()
            del request
            log.clear()  # the events have the exception, whose traceback keeps the block
        after = arena.root.to_python()
        done = {"n": before["n"] + 2, "l": [*before["l"], 1]}
        same = {"n": before["n"], "l": before["l"]}
        assert {"n": after["n"], "l": after["l"]} in (same, done), f"at {interrupter.where}"
        assert after["own"] in (before["own"], before["own"] + 1)
        assert arena.stats().in_flight == 0, f"at {interrupter.where}"
        with arena.transaction():  # the lock is free, and nobody is current
            runs += 1
    assert points > 150
    assert arena.verify().leaked_blocks == 0


@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_cancellation_at_every_await(arena: Arena, how: str) -> None:
    """Each await of a handler in turn is where the task is cancelled, or where its time is over: rolled back, all of it."""
    with arena.transaction():
        arena.root.update({"n": 0, "d": {}})
    awaits = 7

    async def handler(at: int) -> None:
        for i in range(awaits):
            arena.root["d"][i] = {"deep": [i]}
            if i == at:
                reached.set()
                await asyncio.Event().wait()
            await asyncio.sleep(0)
        await recoverable.gather(part(at, awaits), part(at, awaits + 1))
        arena.root["n"] += 1

    async def part(at: int, number: int) -> None:
        arena.root["d"][number] = number
        if number == at:
            reached.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    used = arena.stats().used
    for at in range(awaits + 2):
        reached = asyncio.Event()
        if how == "cancel":
            task = asyncio.create_task(arena.run(handler, at))
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.005):
                    await arena.run(handler, at)
        assert arena.root.to_python() == {"n": 0, "d": {}}
        assert arena.stats().in_flight == 0
    assert arena.stats().used == used
    await arena.run(handler, -1)
    assert arena.root["n"] == 1


class Signalled(BaseException):
    """What a signal's handler raises."""


@pytest.mark.parametrize("use", [lambda arena: arena.root["n"], lambda arena: arena.verify()], ids=["read", "verify"])
def test_a_signal_in_a_wait_for_the_lock_is_not_lost(arena: Arena, use: Any) -> None:
    """A thread that stands for the lock outside of any transaction, for so long that this is told, ends by what is raised.

    The lock that it had come to have by then is free: for others, too.
    """
    with arena.transaction():
        arena.root["n"] = 0
    holds = threading.Event()

    def hold() -> None:
        with arena.transaction():
            arena.root["n"] = 1
            holds.set()
            time.sleep(0.15)

    def handler(number: int, frame: FrameType | None) -> None:
        raise Signalled

    before = signal.signal(signal.SIGUSR1, handler)
    holder, killer = threading.Thread(target=hold), threading.Timer(0.03, os.kill, [os.getpid(), signal.SIGUSR1])
    try:
        holder.start()
        holds.wait(10)
        killer.start()
        with pytest.raises(Signalled):
            use(arena)
    finally:
        killer.join()
        holder.join()
        signal.signal(signal.SIGUSR1, before)
    with ThreadPoolExecutor(1) as another:
        assert another.submit(lambda: arena.root["n"]).result() == 1
