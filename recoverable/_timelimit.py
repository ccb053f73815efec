"""The time limit of a request, at the price of a dict entry.

`asyncio.timeout()` starts and cancels one timer of the event loop for each request, although nearly all of them are
cancelled. Here all limits of one length share a timer: they end in the order in which they began, so it is enough to
wait for the oldest. A limit that is met costs an entry in a dict that keeps that order; the timer fires about once per
length of the limit, however many requests there are.

What a limit does when it is over is what `asyncio.timeout()` does: it cancels the task, and takes the cancellation back
at its end, so that a caller's own cancellation is never mistaken for it.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import _get_running_loop as running_loop  # None where there is none; documented for this use

__all__ = ["TimeLimit"]

# Event loops round the time of a timer to their clock's resolution, uvloop to a millisecond: one that fires may be early.
_EARLY = 0.001  # seconds


class TimeLimit:
    """So many seconds from now on, for the running task.

    Args:
        seconds: After them the task is cancelled, unless `end` was called.

    Raises:
        RuntimeError: There is no running task.
    """

    __slots__ = ("_before", "_line", "_task", "expired", "when")

    def __init__(self, seconds: float) -> None:
        loop = running_loop()
        task = None if loop is None else asyncio.current_task(loop)
        if loop is None or task is None:
            raise RuntimeError(f"a timeout of {seconds:g} s needs a task to cancel, and there is none here")
        lines = _here.lines if _here.loop is loop else _here.move(loop)
        line = lines.get(seconds)
        if line is None:
            line = lines[seconds] = _Line(loop, lines, seconds)
        #: Whether the time was over before the end.
        self.expired = False
        #: When the time is over, by the event loop's clock.
        self.when = loop.time() + seconds
        self._task = task
        self._before = task.cancelling()
        self._line: _Line | None = line
        line.waiting[self] = None
        if line.timer is None:
            line.timer = loop.call_at(self.when, line.fire)

    def end(self) -> bool:
        """End it; without effect after the first time.

        Returns:
            Whether it is this limit, and nobody else, on whose behalf the task was cancelled.
        """
        line = self._line
        if line is None:
            return False
        self._line = None
        if not self.expired:
            del line.waiting[self]
            return False
        return self._task.uncancel() <= self._before

    @property
    def ended(self) -> bool:
        """Whether `end` was called."""
        return self._line is None

    def _expire(self) -> None:
        self.expired = True
        self._task.cancel()


class _Line:
    """The limits of one length on one event loop, the oldest first."""

    __slots__ = ("lines", "loop", "seconds", "timer", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, lines: dict[float, _Line], seconds: float) -> None:
        self.loop = loop
        self.lines = lines
        self.seconds = seconds
        self.waiting: dict[TimeLimit, None] = {}
        self.timer: asyncio.TimerHandle | None = None

    def fire(self) -> None:
        """Expire what is due and wait for the next one; without any, be forgotten."""
        self.timer = None
        now = self.loop.time() + _EARLY
        due = []
        for limit in self.waiting:
            if limit.when > now:
                self.timer = self.loop.call_at(limit.when, self.fire)
                break
            due.append(limit)
        for limit in due:
            del self.waiting[limit]
            limit._expire()
        if self.timer is None:
            self.lines.pop(self.seconds, None)


class _Here(threading.local):
    """The lines of this thread's event loop. Those of another loop are known to their limits and timers."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.lines: dict[float, _Line] = {}

    def move(self, loop: asyncio.AbstractEventLoop) -> dict[float, _Line]:
        self.loop, self.lines = loop, {}
        return self.lines


_here = _Here()
