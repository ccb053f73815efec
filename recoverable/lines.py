"""Lines: those of an event loop who wait for what only looking tells, such as what another process does.

What we want: hundreds may wait for one thing, and one timer runs; the loop goes on meanwhile.

What does not work: having the first who waits look, whenever it wakes up. It may be a part of a task whose outer part waits as
well, in the same line, behind it.

What does: the line itself looks on behalf of the first; whoever may go makes room for the next one. Who knows better has it look
at once. Otherwise it looks every millisecond, and less often where only those could be waited for who will say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import time
from asyncio import _get_running_loop as running_loop  # returns None outside a loop; documented for this use
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from recoverable._native.runtime import NativeArena

__all__ = ["look", "wait"]

_OFTEN: Final = 0.001  # seconds between two looks
_SELDOM: Final = (
    0.016  # where who is waited for is of this process, and does not say so only if it hangs, or was forgotten
)


class Wait(NamedTuple):
    """What somebody waits for.

    Attributes:
        is_over: Returns whether it is there.
        end: By `time.monotonic()`: when it is not waited for any longer.
        is_elsewhere: Returns whether it depends on others than this process.
        rank: Who has a lower one stands before it, whenever it came.
    """

    is_over: Callable[[], bool]
    end: float
    is_elsewhere: Callable[[], bool]
    rank: int


class _Line:
    """Who waits for one thing in one event loop, in the order in which they came."""

    __slots__ = ("_loop", "_soonest", "_timer", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._soonest = math.inf  # nobody is waited for any longer before that
        self.waiting: dict[asyncio.Future[bool], Wait] = {}

    def add(self, future: asyncio.Future[bool], what: Wait) -> None:
        """Have somebody wait, behind those who came before."""
        last = next(reversed(self.waiting.values())).rank if self.waiting else what.rank
        self.waiting[future] = what
        if what.rank < last:  # it has left the line for a moment
            self.waiting = dict(sorted(self.waiting.items(), key=lambda each: each[1].rank))
        self._soonest = min(self._soonest, what.end)

    def look(self) -> None:
        """Wake those who need not wait any longer, up to the first who must; come back while there is one.

        Who has waited for long enough is woken behind others, too: who came later may have less time left.
        """
        if self._loop.is_closed():  # the collector closes those who waited when it ended
            return
        for future, what in list(self.waiting.items()):
            if future.done():
                continue
            try:
                over = what.is_over()
            except Exception as error:
                future.set_exception(error)
                continue
            if not over and time.monotonic() < what.end:
                self._wake_late()
                if self._timer is None:
                    pause = _OFTEN if what.is_elsewhere() else _SELDOM
                    self._timer = self._loop.call_later(pause, self._look_again, context=contextvars.Context())
                return
            future.set_result(over)

    def _wake_late(self) -> None:
        """Wake those for whom it is time, if there are any."""
        now = time.monotonic()
        if now < self._soonest:
            return
        left = {future: what.end for future, what in self.waiting.items() if not future.done()}
        for future, end in left.items():
            if end <= now:
                future.set_result(False)
        self._soonest = min((end for end in left.values() if end > now), default=math.inf)

    def _look_again(self) -> None:
        self._timer = None
        try:
            self.look()
        except BaseException:  # a signal's handler has raised, which the loop may survive
            self.stop()
            self._timer = self._loop.call_later(_SELDOM, self._look_again, context=contextvars.Context())
            raise

    def stop(self) -> None:
        """Nobody waits any longer."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


async def wait(
    native: NativeArena,
    what: Hashable,
    is_over: Callable[[], bool],
    seconds: float,
    is_elsewhere: Callable[[], bool] = lambda: True,
    rank: int = 0,
    *,
    in_order: bool = False,
) -> bool:
    """Wait in the running loop's line for that thing, for about so long at most: return whether it is over.

    Whoever looks may go on at once, before those who wait; `in_order`, only if nobody does.
    """
    loop = asyncio.get_running_loop()
    if not (in_order and loop in native.lines.get(what, ())) and is_over():
        return True
    lines: dict[asyncio.AbstractEventLoop, _Line] = native.lines.setdefault(what, {})
    line = lines.get(loop) or _new_line(native, lines, loop)
    future: asyncio.Future[bool] = loop.create_future()
    try:
        line.add(future, Wait(is_over, time.monotonic() + seconds, is_elsewhere, rank))
        if next(iter(line.waiting)) is future:
            line.look()
        return await future
    finally:
        line.waiting.pop(future, None)  # a signal's handler may have raised before it was there
        if line.waiting:
            line.look()
        else:
            line.stop()
            lines.pop(loop, None)
            if not lines and native.lines.get(what) is lines:
                native.lines.pop(what, None)


def _new_line(
    native: NativeArena, lines: dict[asyncio.AbstractEventLoop, _Line], loop: asyncio.AbstractEventLoop
) -> _Line:
    for each in list(native.lines.values()):
        for other in [one for one in list(each) if one.is_closed()]:
            each.pop(other, None)  # lest those who waited when it ended wait for ever, in memory
    return lines.setdefault(loop, _Line(loop))


def look(native: NativeArena, what: Hashable) -> None:
    """Have the lines for that thing look now, those of other event loops as well."""
    lines: dict[asyncio.AbstractEventLoop, _Line] | None = native.lines.get(what)
    if lines is None:
        return
    here = running_loop()
    for loop, line in list(lines.items()):
        if loop is here:
            line.look()
        elif not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                loop.call_soon_threadsafe(line.look)
