"""Who waits for the disk in an event loop.

The thread of the core that writes (or that watches who does) puts a byte into a pipe of each event loop in which somebody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import weakref
from itertools import count
from typing import TYPE_CHECKING, Final

from recoverable._descriptors import identity
from recoverable.errors import TransactionError

if TYPE_CHECKING:
    from recoverable._native.journal import Flusher

__all__ = ["LOOK", "Waiters"]

LOOK: Final = 0.05  # seconds: a pipe that somebody has closed must not be waited for
_SHORT: Final = 10 * LOOK  # timeouts that are looked after one by one


class Waiters:
    """Who waits in one event loop, by position.

    Where several have been answered together, those who come next are asked for together, too: at the end of the loop's pass,
    when all that were ready have committed. So a batch is what the loop had to do, and costs one call of the core; a request that
    is alone is asked for at once.
    """

    def __init__(self, flusher: Flusher, loop: asyncio.AbstractEventLoop) -> None:
        self._flusher = flusher
        self._loop = weakref.ref(loop)
        self._heap: list[tuple[int, int, float, asyncio.Future[None]]] = []  # position, order, deadline
        self._order = count()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._pipe = identity(self._read)
        self._timer: asyncio.TimerHandle | None = None
        self._most = 0  # the position that was waited for last
        self._asking = False  # at the end of this pass
        self._together = 0  # were answered by the last look
        try:
            loop.add_reader(self._read, self._rung)
        except BaseException:
            self.leave()
            raise

    async def wait(self, loop: asyncio.AbstractEventLoop, position: int, timeout: float) -> None:
        """Wait until all before a position is durable.

        Raises:
            TimeoutError: It is not, after so many seconds.
        """
        future: asyncio.Future[None] = loop.create_future()
        heapq.heappush(self._heap, (position, next(self._order), loop.time() + timeout, future))
        self._most = max(self._most, position)
        if self._timer is None:
            self._timer = loop.call_later(LOOK, self._look_again)
        if self._together <= 1:
            self._ask()
        elif not self._asking:
            self._asking = True
            loop.call_soon(self._ask)
        if timeout < _SHORT:
            async with asyncio.timeout(timeout):
                await future
        else:
            await future

    def _ask(self) -> None:
        """Have all that is waited for written now."""
        self._asking = False
        try:
            if identity(self._write) != self._pipe:
                raise TransactionError("the pipe of a loop that waits for the disk was closed")
            if self._flusher.ask(self._most, self._write):
                self._look()
        except Exception as error:
            self._fail(error)

    def _rung(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if identity(self._read) == self._pipe:
                os.read(self._read, 4096)
        self._look()

    def _look(self) -> None:
        """Answer those whose position is durable."""
        try:
            durable = self._flusher.durable()
        except Exception as error:
            self._fail(error)
            return
        together = 0
        while self._heap and (self._heap[0][0] <= durable or self._heap[0][3].done()):
            future = heapq.heappop(self._heap)[3]
            if not future.done():
                future.set_result(None)
                together += 1
        self._together = together or self._together

    def _look_again(self) -> None:
        """Answer those that nobody has rung for, and those whose time is over."""
        self._timer = None
        self._look()
        loop = self._loop()
        if not self._heap or loop is None:
            self._enough()
            return
        now = loop.time()
        for _, _, deadline, future in self._heap:
            if deadline <= now and not future.done():
                future.set_exception(TimeoutError())
        self._timer = loop.call_later(LOOK, self._look_again)
        self._ask()  # of several processes another may have begun to write, which does not know yet

    def _enough(self) -> None:
        if self._pipe is not None:
            self._flusher.enough(self._write, *self._pipe)

    def _fail(self, error: Exception) -> None:
        waiting, self._heap = self._heap, []
        for *_, future in waiting:
            if not future.done():
                future.set_exception(error)

    def end(self, durable: int) -> None:
        """Nothing more becomes durable."""
        waiting, self._heap = self._heap, []
        for position, *_, future in waiting:
            if not future.done() and not future.get_loop().is_closed():
                if position <= durable:
                    future.set_result(None)
                else:
                    future.set_exception(TimeoutError())
        self.close()

    def close(self) -> None:
        """Nobody waits any more."""
        self._enough()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):
                loop.remove_reader(self._read)
        self.leave()

    def leave(self) -> None:
        """Close this process's ends of the pipe, unless the program has closed them and has the numbers for something else."""
        for fd in (self._read, self._write):
            if identity(fd) == self._pipe:
                os.close(fd)
