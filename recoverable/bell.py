"""Where event loops and threads wait for the feed: for a commit, or for a sink to have taken one.

One thread a process and arena sleeps in the core while somebody waits, in whatever loop, and wakes them all whenever something has
happened. So a loop is never stopped, and a process where nobody waits has no such thread.

Whoever sleeps in the core uses the arena, which can't be closed meanwhile. So who closes it ends all this first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

from recoverable import _registry
from recoverable._native import feed as native_feed
from recoverable._threads import OwnThread

if TYPE_CHECKING:
    from recoverable._native.runtime import NativeArena

__all__ = ["Bell", "of", "stop"]

_SLEEP = 1.0  # seconds in the core at a time: who has committed may have been killed before it woke anybody
_CLOSING = 0.001  # seconds: how often is looked whether the arena that is being closed is closed
_IDLE = 5.0  # seconds without anybody that waits, until the thread ends


class Bell:
    """Who waits in event loops of this process for an arena's feed, and the thread that wakes them."""

    def __init__(self, native: NativeArena) -> None:
        self._native = native
        self._lock = threading.Lock()
        self._waiting: dict[asyncio.Future[None], int] = {}  # and what they have seen
        self._thread: threading.Thread | None = None
        self._sleepers = 0  # other threads that sleep in the core
        self._woken = threading.Condition(self._lock)
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether the arena is being closed."""
        return self._ended

    async def moved(self, seen: int) -> None:
        """Wait until the bell is not `seen` any more, or the arena is about to be closed."""
        if self.ended:
            await asyncio.sleep(_CLOSING)
            return
        future = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._ended or native_feed.bell(self._native) != seen:
                return
            if self._thread is None:
                self._start()
            self._waiting[future] = seen
        try:
            await future
        finally:
            with self._lock:
                self._waiting.pop(future, None)

    def sleep(self, seen: int, seconds: float) -> None:
        """Have this thread wait for the same, for so long at most."""
        if self.ended:
            time.sleep(_CLOSING)
            return
        with self._lock:
            if self._ended:
                return
            self._sleepers += 1
        try:
            native_feed.wait(self._native, seen, seconds)
        finally:
            with self._lock:
                self._sleepers -= 1
                self._woken.notify_all()

    def _start(self) -> None:
        self._thread = OwnThread(target=self._run, name="recoverable-feed", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
            raise

    def _run(self) -> None:
        idle = 0.0
        try:
            while idle < _IDLE:
                now = native_feed.bell(self._native)
                with self._lock:
                    if self._ended:
                        return
                    due = [future for future, seen in self._waiting.items() if seen != now]
                    for future in due:
                        del self._waiting[future]
                    idle = 0.0 if self._waiting or due else idle + _SLEEP
                for future in due:
                    _wake(future)
                native_feed.wait(self._native, now, _SLEEP)
        finally:
            waiting: list[asyncio.Future[None]] = []
            with self._lock:
                self._thread = None
                if self._waiting and not self._ended:  # somebody came while it was about to end
                    try:
                        self._start()
                    except RuntimeError:  # each finds that out for itself
                        waiting, self._waiting = list(self._waiting), {}
            for future in waiting:
                _wake(future)

    def end(self) -> None:
        """Wake all, and end the thread: the arena is about to be closed."""
        with self._lock:
            self._ended = True
            waiting, self._waiting = list(self._waiting), {}
            thread = self._thread
        for future in waiting:
            _wake(future)
        native_feed.wake(self._native)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=2 * _SLEEP)
        with self._lock:
            self._woken.wait_for(lambda: self._sleepers == 0, timeout=2 * _SLEEP)


def _wake(future: asyncio.Future[None]) -> None:
    with contextlib.suppress(RuntimeError):  # that loop was closed with somebody waiting
        future.get_loop().call_soon_threadsafe(_set, future)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def of(native: NativeArena) -> Bell:
    """Return the arena's, made at the first call."""
    if native.bell is None:
        native.bell = Bell(native)
    return native.bell  # type: ignore[no-any-return]


def stop(native: NativeArena) -> None:
    """End it: the arena is about to be closed. If that fails, go_on() is next."""
    if native.has_feed:
        of(native).end()


def go_on(native: NativeArena) -> None:
    """It was not closed after all: the next who waits begins anew."""
    native.bell = None


def _forked() -> None:
    """Who waits, and the thread, are the parent's."""
    for segment in _registry.all_open():
        segment.native.bell = None


os.register_at_fork(after_in_child=_forked)
