"""The gate: where an answer waits until what it says is on the disk.

It comes after the commit, before callbacks and answer, and outside of the time limit: the commit stands, whatever comes of it.
Requests that have only read wait, too, until what they saw is durable: else a client would know what a power loss takes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import traceback
from asyncio import _get_running_loop as running_loop  # returns None outside a loop; documented for this use
from typing import TYPE_CHECKING, Final

from recoverable import _registry, events
from recoverable._native import feed as native_feed
from recoverable._native import journal as native_journal
from recoverable._native.journal import Flusher
from recoverable._threads import OwnThread
from recoverable.errors import (
    ArenaFullError,
    ArenaOptionError,
    ArenaSystemError,
    InDoubtError,
    RecoverableError,
    StaleReferenceError,
    TransactionClosedError,
    TransactionError,
)
from recoverable.journal.health import Health
from recoverable.journal.keeper import Keeper
from recoverable.journal.waiters import LOOK, Waiters

if TYPE_CHECKING:
    from recoverable._native.journal import Lock
    from recoverable._native.runtime import NativeArena

__all__ = ["Gate"]

_DELAY: Final = 0.005  # seconds between two looks for commits that nobody waits for: on the disk they are after two
_POLL: Final = 0.002  # seconds between two looks whether closing has come to its end
_ASK: Final = 1e-6  # seconds that asking for a position takes at most
_TURN: Final = 1.0  # seconds: who closes the arena waits for who begins again, but not in a handler of the same thread
_INTERRUPTED: Final = "its disk does not answer, for which closing it was to wait, and was interrupted"


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
        self._loops: dict[asyncio.AbstractEventLoop, Waiters] = {}
        self._lock = threading.Lock()
        self._health = Health(native, name, path, lambda: self._flusher.error(), lambda: self._flusher.serves())
        self._keeper: Keeper | None = None
        self.doubts = 0  # requests that were answered by an InDoubtError
        self._closed_at: int | None = None  # all before that position was durable when the arena was closed
        self._again = (
            False  # it was not closed after all, and is written again when the thread that was to end has ended
        )
        self._turn = threading.Lock()  # of who begins again
        if lock is not None:
            self._health.note(self._health.last_snapshot())

    def keep(self, compact: bool) -> None:
        """Have failures told; and the journal compacted when it has grown, as long as this process writes to it."""
        self._keeper = Keeper(self._name, self.path, self._number if compact else lambda: 0, self._health)

    def _number(self) -> int:
        """Return the number of the file that this process writes to; 0: it does not write."""
        state = native_journal.state(self._native) if self._flusher.serves() else None
        return 0 if state is None else state.number

    @property
    def stopped(self) -> bool:
        """Whether nothing more becomes durable."""
        return (self._flusher.ended and not self._again) or self._has_failed()

    def _has_failed(self) -> bool:
        state = native_journal.state(self._native)
        return state is not None and state.stopped != 0

    def is_durable(self, position: int) -> bool:
        """Return whether all before that position is."""
        closed_at = self._closed_at
        return (native_journal.durable(self._native) if closed_at is None else closed_at) >= position

    @staticmethod
    def position(native: NativeArena, seq: int | None) -> int:
        """Return where in the feed the record of a commit ends; None: of the last one."""
        state = native_feed.state(native)
        assert state is not None
        if seq is None:
            return state[4]
        if type(seq) is not int:
            raise TypeError(
                f"seq={seq!r} is not a commit's number: give an int, as Commit.seq. Nothing was waited for."
            )
        if not 0 <= seq <= state[5]:
            raise ArenaOptionError(
                f"seq={seq} is no commit that there was: the last one is {state[5]}. Nothing was waited for."
            )
        try:
            return native_feed.seek(native, seq)
        except (
            StaleReferenceError
        ):  # overwritten, which no commit is before it is on the disk, unless the journal has stopped
            again = native_feed.state(native)
            assert again is not None
            return 0 if native_journal.durable(native) >= again[3] else again[4]

    async def wait(self, position: int, timeout: float) -> None:
        """Wait until all before a position is durable.

        Raises:
            InDoubtError: It is not, after `timeout` seconds or since the journal has stopped.
        """
        if self.is_durable(position):
            return
        loop = running_loop()
        if loop is None:  # driven by hand
            self.wait_here(position, timeout)
            return
        self._is_back()
        end = time.monotonic() + timeout
        try:
            durable = await self._pass(loop, position, timeout) or await self._poll(position, end)
        except TimeoutError:
            durable = False
        except ArenaSystemError as error:
            raise self.in_doubt("", error) from error
        if not durable:
            raise self.in_doubt(f"within {timeout:g} s")

    def wait_here(self, position: int, timeout: float) -> None:
        """Do so in a thread that stands still, and its event loop with it, if it has one.

        Raises:
            InDoubtError: It is not, after `timeout` seconds or since the journal has stopped.
        """
        if self.is_durable(position):
            return
        self._is_back()
        try:
            durable = self._stand(position, time.monotonic() + timeout)
        except ArenaSystemError as error:
            raise self.in_doubt("", error) from error
        if not durable:
            raise self.in_doubt(f"within {timeout:g} s")

    async def _pass(self, loop: asyncio.AbstractEventLoop, position: int, timeout: float) -> bool:
        """Wait in a loop until it is rung for; return whether that could be: the program may have closed the pipe, say."""
        if self._closed_at is not None:  # nobody would ring
            return False
        try:
            waiters = self._of(loop)
        except (OSError, TransactionClosedError):  # no descriptors; it is closed just now
            return False
        try:
            await waiters.wait(loop, position, timeout)
        except (
            ArenaFullError,
            TransactionError,
        ):  # no room for its loop; its pipe was closed by others; the arena is being closed
            with self._lock:
                if self._loops.get(loop) is waiters:
                    self._loops.pop(loop).close()
            return False
        return True

    async def _poll(self, position: int, end: float) -> bool:
        """Wait in a loop that nobody rings for; return whether it is durable. It needs neither a pipe nor a thread."""
        while not self._flusher.wait(position, _ASK):
            if self._closed_at is not None or time.monotonic() >= end or self.is_durable(position):
                return self.is_durable(position)
            self._is_back()
            await asyncio.sleep(_POLL)
        return True

    def _stand(self, position: int, end: float) -> bool:
        """Wait in a thread that stands still; return whether it is durable. Who closes the arena meanwhile writes all first."""
        while not self._flusher.wait(position, max(0.0, end - time.monotonic())):
            if self._closed_at is not None or time.monotonic() >= end or self.is_durable(position):
                return self.is_durable(position)
            self._is_back()
            time.sleep(_POLL)  # it was ended, and soon is closed
        return True

    def in_doubt(self, when: str, error: Exception | None = None) -> InDoubtError:
        """Return the error that says so."""
        what = f"arena {self._name!r}: what was committed is in memory, and not known to be on the disk"
        if self._again or not self._flusher.ended:
            with contextlib.suppress(TransactionClosedError):  # another thread closes it meanwhile
                self._health.look()
                why = self._health.why() or error or (_INTERRUPTED if self._again else "")
                told = f": {why}" if why else ""
                return InDoubtError(
                    f"{what}{' ' if when else ''}{when}{told}. It is not undone: look for its effect before you send it again."
                )
        return InDoubtError(
            f"{what}: the arena was closed first. It is not undone: the next process that opens the arena with its journal "
            "writes it, while the machine goes on. Look for its effect before you send it again."
        )

    def _of(self, loop: asyncio.AbstractEventLoop) -> Waiters:
        found = self._loops.get(loop)
        if found is None:
            with self._lock:  # loops of other threads
                for other in [each for each in list(self._loops) if each.is_closed()]:
                    ended = self._loops.pop(other, None)
                    if ended is not None:  # else close() has it
                        ended.close()
                found = self._loops[loop] = Waiters(self._flusher, loop)
            if self._closed_at is not None and self._loops.pop(loop, None) is found:  # close() has not seen it
                found.close()
                raise TransactionClosedError(f"arena {self._name!r} was closed meanwhile")
        return found

    def close(self) -> bool:
        """Write all that is committed, and end: the arena is about to be closed. Whoever still waits is told what came of it.

        Returns:
            Whether it has ended; else the disk has not answered for `busy_timeout`, and the arena has to stay mapped.
        """
        if self._keeper is not None:
            self._keeper.end()
        over = self._end()
        left = not over
        with contextlib.suppress(TransactionClosedError):  # another thread closes it meanwhile
            self._health.look()
            left = left or (not self._has_failed() and native_journal.is_left_behind(self._native))
        durable = self._closed_at = native_journal.durable(self._native)
        here = running_loop()
        while self._loops:  # other threads may add theirs
            loop, waiters = self._loops.popitem()
            if loop is here or loop.is_closed():
                waiters.end(durable)
            else:
                with contextlib.suppress(RuntimeError):  # closed meanwhile
                    loop.call_soon_threadsafe(waiters.end, durable)
        if left:
            try:
                events.journal_abandoned(self._name, self.path, self._health.why())
            except Exception:  # the program's log pipeline may raise, and the arena is closed all the same
                traceback.print_exc()
        return over

    def _end(self) -> bool:
        """Write all that is committed; return whether that has ended."""
        timeout = self._native.busy_timeout
        mine = self._turn.acquire(timeout=_TURN)
        try:
            over = self._flusher.end(timeout)
            again = over and self._again  # it was to end before the last commits
            if again and native_journal.is_left_behind(self._native):
                with contextlib.suppress(RecoverableError):  # no thread could be made; another thread closes it
                    self._flusher = Flusher(self._native, self.path, _DELAY)
                    over = self._flusher.end(timeout)
            return over
        finally:
            self._again = False  # before anybody else has the turn
            if mine:
                self._turn.release()

    def begin_again(self) -> None:
        """The arena was not closed after all; what would have closed it may have been interrupted anywhere.

        The thread that was to end may wait for a disk that hangs. It goes on with that, and another one begins when it has ended.
        """
        if self._native.closed:  # it was, and what came of it came behind that
            return
        self._again = self._flusher.ended
        self._closed_at = None
        if not self._is_back():
            self._wait_for_it()
        if self._keeper is not None:
            self._keeper.end()
            self._keeper = self._keeper.again()

    def _is_back(self) -> bool:
        """Return whether all that is committed is written, and have it so if it can be."""
        if not self._again:
            return True
        if not self._turn.acquire(blocking=False):  # somebody else does so, or closes the arena
            return False
        try:
            self._write_again()
        except RecoverableError:  # no thread could be made; it is closed meanwhile
            return False
        finally:
            self._turn.release()
        return not self._again

    def _write_again(self) -> None:
        """Have another thread write if the one that was to end has ended. Whoever calls it has the turn."""
        if self._again and self._flusher.is_over():
            self._flusher = Flusher(self._native, self.path, _DELAY)
            self._again = False

    def _wait_for_it(self) -> None:
        """Have a thread look whether it is back, so that what nobody waits for is written, too."""

        def look() -> None:
            while not self._native.closed and not self._is_back():
                time.sleep(LOOK)

        with contextlib.suppress(RuntimeError):  # no more threads: the next to wait here looks
            OwnThread(target=look, name="recoverable-journal", daemon=True).start()

    def forget(self) -> None:
        """In a forked child: the loops are the parent's, and so are their pipes. It writes by itself if nobody else does."""
        self._lock, self._turn = threading.Lock(), threading.Lock()  # a thread of the parent may have held them
        self._health.forget()
        for waiters in self._loops.values():
            waiters.leave()
        self._loops.clear()
        self.doubts = 0
        with contextlib.suppress(RecoverableError):  # no thread could be made: the next to wait here tries again
            self._flusher.go_on()
        if not self._is_back():
            self._wait_for_it()
        if self._keeper is not None:
            with contextlib.suppress(RuntimeError):  # no more threads: others keep it, or who compacts by hand
                self._keeper = self._keeper.again()


def _forked() -> None:
    for segment in _registry.all_open():
        if segment.native.journal is not None:
            segment.native.journal.forget()


os.register_at_fork(after_in_child=_forked)
