"""Lines: those of an event loop who wait for what only looking tells, such as what another process does.

What we want: hundreds may wait for one thing, and one timer runs; the loop goes on meanwhile.

What does not work: having the first who waits look, whenever it wakes up. It may be a part of a task whose outer part waits as
well, in the same line, behind it.

What does: the line itself looks, every millisecond, on behalf of the first; whoever may go makes room for the next one. Who
knows better has it look at once.
"""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop as running_loop  # None where there is none; documented for this use
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from recoverable._native.runtime import NativeArena

__all__ = ["look", "wait"]

_POLL: Final = 0.001  # seconds between two looks


class _Line:
    """Who waits for one thing in one event loop, in the order in which they came."""

    __slots__ = ("_loop", "_timer", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self.waiting: dict[asyncio.Future[bool], Callable[[], bool]] = {}

    def look(self) -> None:
        """Wake those who need not wait any longer, up to the first who must; come back while there is one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for future, is_over in list(self.waiting.items()):
            if future.done():
                continue
            try:
                over = is_over()
            except Exception as error:
                future.set_exception(error)
                continue
            if not over:
                self._timer = self._loop.call_later(_POLL, self.look)
                return
            future.set_result(True)

    def stop(self) -> None:
        """Nobody waits any longer."""
        if self._timer is not None:
            self._timer.cancel()


async def wait(native: NativeArena, what: Hashable, is_over: Callable[[], bool], seconds: float) -> bool:
    """Wait in the running loop's line for that thing, at most so long: return whether it is over."""
    if is_over():
        return True
    loop = asyncio.get_running_loop()
    key = what, loop
    line: _Line = native.lines.get(key) or native.lines.setdefault(key, _Line(loop))
    future: asyncio.Future[bool] = loop.create_future()
    limit = loop.call_later(seconds, _give_up, future)
    line.waiting[future] = is_over
    try:
        if len(line.waiting) == 1:
            line.look()
        return await future
    finally:
        limit.cancel()
        del line.waiting[future]
        if line.waiting:
            line.look()
        elif native.lines.get(key) is line:
            line.stop()
            del native.lines[key]


def _give_up(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)


def look(native: NativeArena, what: Hashable) -> None:
    """Have the running loop's line for that thing look now."""
    line = native.lines.get((what, running_loop()))
    if line is not None:
        line.look()
