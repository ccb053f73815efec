"""Lines: whoever waits for what only looking tells is woken, whatever interrupts the one who looks."""

from __future__ import annotations

import asyncio
import contextlib
import dis
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, lines

if TYPE_CHECKING:
    from types import FrameType


def test_a_signal_whose_handler_raises_while_a_line_looks_wakes_nobody_too_late(arena: Arena) -> None:
    """A loop that survives a KeyboardInterrupt, raised in the middle of a look, looks again."""
    looks, over = 0, False

    def is_over() -> bool:
        nonlocal looks
        looks += 1
        if looks == 4:  # the first three are those of who begins to wait
            signal.raise_signal(signal.SIGINT)
        return over

    loop = asyncio.new_event_loop()
    try:
        waits = [loop.create_task(lines.wait(arena.native, "what", is_over, 20)) for _ in range(2)]
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.gather(*waits))
        over = True
        done, late = loop.run_until_complete(asyncio.wait(waits, timeout=2))
        assert not late
        assert [task.result() for task in done] == [True, True]
        assert arena.native.lines == {}
    finally:
        loop.close()


class Interrupter:
    """Raises KeyboardInterrupt where Python looks for signals for the nth time in recoverable.lines: after a call, and in a loop.

    Not where a function begins: one that a timer calls can't be interrupted there and know of it.
    """

    def __init__(self, nth: int) -> None:
        self.left = nth
        self.where = ""
        self._before: dict[FrameType, str] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Trace calls."""
        if frame.f_code.co_filename != lines.__file__:
            return None
        frame.f_trace_opcodes = True
        sys.settrace(self)  # Python 3.12 takes the line above to heart only with the next settrace()
        return self._opcode

    def _opcode(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event != "opcode":
            return self._opcode
        before, self._before[frame] = self._before.get(frame, ""), dis.opname[frame.f_code.co_code[frame.f_lasti]]
        if before.startswith(("CALL", "JUMP_BACKWARD")):
            self.left -= 1
            if self.left == 0:
                self.where = f"{frame.f_code.co_qualname}, line {frame.f_lineno}"
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._opcode


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_signal_whose_handler_raises_anywhere_keeps_nobody_waiting(arena: Arena) -> None:
    """Of three who wait one is woken, two are cancelled; whatever is interrupted there, those who are left are woken in time."""
    nth, left = 0, 0
    while left <= 0:
        nth += 1
        interrupter, loop = Interrupter(nth), asyncio.new_event_loop()
        try:
            left = _interrupted(arena, loop, interrupter)
        finally:
            sys.settrace(None)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
    assert nth > 50


def _interrupted(arena: Arena, loop: asyncio.AbstractEventLoop, interrupter: Interrupter) -> int:
    over = [False] * 4
    tasks: dict[int, asyncio.Task[bool]] = {}

    def begin(number: int) -> asyncio.Task[bool]:
        tasks[number] = loop.create_task(lines.wait(arena.native, "what", lambda: over[number], 20))
        return tasks[number]

    async def main() -> None:
        first, second, third = begin(0), begin(1), begin(2)
        await asyncio.sleep(0.001)
        over[0] = True
        await asyncio.wait([first])
        second.cancel()
        await asyncio.sleep(0.001)
        third.cancel()
        await asyncio.wait([second, third])

    async def rest() -> None:
        begin(3)
        await asyncio.sleep(0.001)
        for number, task in tasks.items():
            over[number] = not task.done()  # what was interrupted stays as it is
        _, late = await asyncio.wait(tasks.values(), timeout=2)
        assert not late, f"interrupted at {interrupter.where}"

    sys.settrace(interrupter)
    try:
        running = loop.create_task(main())
        with contextlib.suppress(KeyboardInterrupt):
            loop.run_until_complete(running)
    finally:
        sys.settrace(None)
    loop.run_until_complete(rest())
    loop.run_until_complete(asyncio.wait([running]))
    for task in [running, *tasks.values()]:
        if not task.cancelled():
            task.exception()
    return interrupter.left


async def test_what_can_not_be_looked_at_is_raised_where_it_is_waited_for(arena: Arena) -> None:
    """An exception of one's own look is one's own; who stands behind is looked at next."""
    wrong = False

    def fails() -> bool:
        if wrong:
            raise ValueError("can't look")
        return False

    first = asyncio.ensure_future(lines.wait(arena.native, "what", fails, 20))
    await asyncio.sleep(0)
    behind = asyncio.ensure_future(lines.wait(arena.native, "what", lambda: wrong, 20))
    await asyncio.sleep(0)
    wrong = True
    ends = await asyncio.wait_for(asyncio.gather(first, behind, return_exceptions=True), 5)
    assert [type(end) for end in ends] == [ValueError, bool]
    assert arena.native.lines == {}


async def test_who_has_waited_for_long_enough_is_woken_behind_one_who_may_wait_longer(arena: Arena) -> None:
    """Steps of a request wait for `busy_timeout` in all, so a later one may stand behind who has just begun to wait."""
    over = False
    first = asyncio.ensure_future(lines.wait(arena.native, "what", lambda: over, 20))
    await asyncio.sleep(0)
    behind = [
        asyncio.ensure_future(lines.wait(arena.native, "what", lambda: over, seconds)) for seconds in (20, 0.03, 0.001)
    ]
    for number in (2, 1):
        assert await asyncio.wait_for(asyncio.shield(behind[number]), 5) is False
        assert [each.done() for each in behind[:2]] == [False, number == 1]
    assert not first.done()
    over = True
    assert await asyncio.wait_for(asyncio.gather(first, behind[0]), 5) == [True, True]
    assert arena.native.lines == {}
