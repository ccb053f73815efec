"""The gate: where an answer waits until what it says is on the disk.

It comes after the commit, before callbacks and answer, and outside of the time limit: the commit stands, whatever comes of it.
Requests that have only read wait, too, until what they saw is durable: else a client would know what a power loss takes back.

The thread of the core that writes (or that watches who does) puts a byte into a pipe of each event loop in which somebody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import weakref
from asyncio import _get_running_loop as running_loop  # returns None outside a loop; documented for this use
from itertools import count
from typing import TYPE_CHECKING, Final

from recoverable import _registry, callbacks, events
from recoverable._native import feed as native_feed
from recoverable._native import journal as native_journal
from recoverable._native.journal import Flusher
from recoverable.errors import (
    ArenaOptionError,
    ArenaSystemError,
    InDoubtError,
    JournalError,
    RecoverableError,
    StaleReferenceError,
)

if TYPE_CHECKING:
    from typing import Any

    from recoverable import outcome
    from recoverable._native.journal import Lock
    from recoverable._native.runtime import NativeArena, Transaction

__all__ = ["Gate", "is_before", "passed"]

_DELAY: Final = 0.005  # seconds between two looks for commits that nobody waits for: on the disk they are after two
_LOOK: Final = 0.05  # seconds: a pipe that somebody has closed must not be waited for


class _Waiters:
    """Who waits in one event loop, by position."""

    def __init__(self, flusher: Flusher, loop: asyncio.AbstractEventLoop) -> None:
        self._flusher = flusher
        self._loop = weakref.ref(loop)
        self._heap: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._timer: asyncio.TimerHandle | None = None
        loop.add_reader(self._read, self._rung)

    async def wait(self, position: int) -> None:
        loop = asyncio.get_running_loop()
        if self._flusher.ask(position, self._write):
            return
        future: asyncio.Future[None] = loop.create_future()
        heapq.heappush(self._heap, (position, next(self._order), future))
        if self._timer is None:
            self._timer = loop.call_later(_LOOK, self._look_again)
        await future

    def _rung(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)
        self._look()

    def _look_again(self) -> None:
        self._timer = None
        self._look()
        loop = self._loop()
        if self._heap and loop is not None:
            self._timer = loop.call_later(_LOOK, self._look_again)

    def _look(self) -> None:
        while self._heap and self._heap[0][2].done():
            heapq.heappop(self._heap)
        if not self._heap:
            return
        try:
            durable = self._flusher.durable()
            while self._heap and (self._heap[0][0] <= durable or self._heap[0][2].done()):
                future = heapq.heappop(self._heap)[2]
                if not future.done():
                    future.set_result(None)
            if self._heap:  # of several processes another may have begun to write, which does not know yet
                self._flusher.ask(self._heap[0][0], self._write)
        except Exception as error:
            waiting, self._heap = self._heap, []
            for _, _, future in waiting:
                if not future.done():
                    future.set_exception(error)
        if not self._heap:
            self._flusher.enough(self._write)

    def end(self, durable: int) -> None:
        """Nothing more becomes durable."""
        waiting, self._heap = self._heap, []
        for position, _, future in waiting:
            if not future.done() and not future.get_loop().is_closed():
                if position <= durable:
                    future.set_result(None)
                else:
                    future.set_exception(TimeoutError())
        self.close()

    def close(self) -> None:
        """Nobody waits any more."""
        self._flusher.enough(self._write)
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):
                loop.remove_reader(self._read)
        self.leave()

    def leave(self) -> None:
        """Close this process's ends of the pipe."""
        for fd in (self._read, self._write):
            with contextlib.suppress(OSError):
                os.close(fd)


class Gate:
    """Where requests of one arena and process wait for its journal."""

    def __init__(self, native: NativeArena, name: str, path: str, lock: Lock | None = None) -> None:
        """Have an arena's commits written to a folder from now on, by this process or another one.

        Args:
            native: The arena.
            name: Its name in messages.
            path: The folder's, absolute.
            lock: The right to write there, if this process has it; it goes to the thread that writes.
        """
        self._native = native
        self._flusher = Flusher(native, path, _DELAY, lock)
        self._name = name
        self.path = path
        self._loops: dict[asyncio.AbstractEventLoop, _Waiters] = {}

    @property
    def stopped(self) -> bool:
        """Whether nothing more becomes durable."""
        return self._flusher.stopped()

    def is_durable(self, position: int) -> bool:
        """Return whether all before that position is."""
        return self._flusher.durable() >= position

    @staticmethod
    def position(native: NativeArena, seq: int | None) -> int:
        """Return where in the feed the record of a commit ends; None: of the last one."""
        state = native_feed.state(native)
        assert state is not None
        if seq is None:
            return state[4]
        if seq > state[5]:
            raise ArenaOptionError(
                f"seq={seq} is no commit that there was: the last one is {state[5]}. Nothing was waited for."
            )
        try:
            return native_feed.seek(native, seq)
        except StaleReferenceError:
            return 0  # overwritten, which no commit is before it is on the disk

    async def wait(self, position: int, timeout: float) -> None:
        """Wait until all before a position is durable.

        Raises:
            InDoubtError: It is not, after `timeout` seconds or since the journal has stopped.
        """
        if self.is_durable(position):
            return
        loop = running_loop()
        try:
            if loop is None:  # driven by hand
                if not self._flusher.wait(position, timeout):
                    raise TimeoutError
            else:
                async with asyncio.timeout(timeout):
                    await self._of(loop).wait(position)
        except TimeoutError:
            raise self._in_doubt(f"within {timeout:g} s") from None
        except ArenaSystemError as error:
            raise self._in_doubt("", error) from error

    def wait_here(self, position: int, timeout: float) -> None:
        """Do so in a thread."""
        try:
            if not self._flusher.wait(position, timeout):
                raise self._in_doubt(f"within {timeout:g} s")
        except ArenaSystemError as error:
            raise self._in_doubt("", error) from error

    def _in_doubt(self, when: str, error: Exception | None = None) -> InDoubtError:
        why = self._flusher.error()
        told = f": {error or why}" if error or why else ""
        return InDoubtError(
            f"arena {self._name!r}: what was committed is in memory, and not known to be on the disk{' ' if when else ''}{when}"
            f"{told}. It is not undone: look for its effect before you send it again."
        )

    def _of(self, loop: asyncio.AbstractEventLoop) -> _Waiters:
        found = self._loops.get(loop)
        if found is None:
            for other in [each for each in self._loops if each.is_closed()]:
                self._loops.pop(other).close()
            found = self._loops[loop] = _Waiters(self._flusher, loop)
        return found

    def close(self) -> None:
        """Write all that is committed, and end: the arena is about to be closed. Whoever still waits is told what came of it."""
        self._flusher.end()
        durable = native_journal.durable(self._native)
        here = running_loop()
        for loop, waiters in list(self._loops.items()):
            if loop is here or loop.is_closed():
                waiters.end(durable)
            else:
                with contextlib.suppress(RuntimeError):  # closed meanwhile
                    loop.call_soon_threadsafe(waiters.end, durable)
        self._loops.clear()

    def begin_again(self) -> None:
        """The arena was not closed after all."""
        self._flusher = Flusher(self._native, self.path, _DELAY)

    def forget(self) -> None:
        """In a forked child: the loops are the parent's, and so are their pipes. It writes by itself if nobody else does."""
        for waiters in self._loops.values():
            waiters.leave()
        self._loops.clear()
        with contextlib.suppress(RecoverableError):  # no thread could be made: the next to wait here tries again
            self._flusher.go_on()


# -- of requests -------------------------------------------------------------------------------------------------------------


def is_before(transaction: Transaction, options: outcome.Options) -> bool:
    """Return whether a request's answer waits for the disk.

    Raises:
        JournalError: It is to, and its arena has no journal.
    """
    native = transaction.arena
    if not (native.gated if options.durable is None else options.durable == "disk"):
        return False
    if native.journal is None:
        raise JournalError(
            f'{transaction.handler} is durable="disk", and arena {native.owner.name!r} was opened without a journal. It is '
            "committed in memory. Open the arena with journal=, the path of a folder."
        )
    return True


async def passed(transaction: Transaction) -> None:
    """Wait until what a request has committed, and what it has seen, is durable. Its callbacks wait with it, or longer.

    Raises:
        InDoubtError: It is not, after `busy_timeout`.
    """
    native, position = transaction.arena, transaction.position
    try:
        await native.journal.wait(position, native.busy_timeout)
    except BaseException as error:
        hooks, transaction.hooks = transaction.hooks, None
        if hooks is not None:
            _later(native, position, transaction, hooks, error)
        raise


_running: set[asyncio.Task[None]] = set()


def _later(native: NativeArena, position: int, transaction: Transaction, hooks: Any, error: BaseException) -> None:
    """Have callbacks run when the position is durable after all; if it never is, each is told as failed."""

    async def run() -> None:
        try:
            while not native.closed and not native.journal.is_durable(position):
                with contextlib.suppress(InDoubtError):
                    await native.journal.wait(position, 60.0)
                    break
                if native.journal.stopped:
                    raise error
        except BaseException as failure:
            _failed(native, transaction, hooks, failure)
            raise
        transaction.hooks = hooks
        await callbacks.run_hooks(transaction)

    if running_loop() is None:
        _failed(native, transaction, hooks, error)
        return
    task = asyncio.get_running_loop().create_task(run(), name=f"after_commit of {transaction.handler}")
    _running.add(task)
    task.add_done_callback(_over)


def _over(task: asyncio.Task[None]) -> None:
    _running.discard(task)
    if not task.cancelled():
        task.exception()  # it was told


def _failed(native: NativeArena, transaction: Transaction, hooks: Any, error: BaseException) -> None:
    for hook in hooks:
        events.hook_failed(native.owner.name, transaction.handler, callbacks.name_of(hook.func), error)


def _forked() -> None:
    """Forget what is the parent's."""
    _running.clear()
    for segment in _registry.all_open():
        if segment.native.journal is not None:
            segment.native.journal.forget()


os.register_at_fork(after_in_child=_forked)
