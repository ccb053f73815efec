"""Where event loops wait for the feed: for a commit, or for a sink to have taken one.

One thread a process and arena sleeps in the core while somebody waits, in whatever loop, and wakes them all whenever something has
happened. So a loop is never stopped, and a process where nobody waits has no such thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING

from recoverable import _registry
from recoverable._native import feed as native_feed
from recoverable._native.runtime import own_thread

if TYPE_CHECKING:
    from recoverable._native.runtime import NativeArena

__all__ = ["Bell", "of", "stop"]

_SLEEP = 1.0  # seconds in the core at a time
_IDLE = 5.0  # seconds without anybody that waits, until the thread ends


class Bell:
    """Who waits in event loops of this process for an arena's feed, and the thread that wakes them."""

    def __init__(self, native: NativeArena) -> None:
        self._native = native
        self._lock = threading.Lock()
        self._waiting: dict[asyncio.Future[None], int] = {}  # and what they have seen
        self._thread: threading.Thread | None = None
        self._ended = False

    async def moved(self, seen: int) -> None:
        """Wait until the bell is not `seen` any more, or the arena is about to be closed."""
        future = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._ended or native_feed.bell(self._native) != seen:
                return
            self._waiting[future] = seen
            if self._thread is None:
                self._start()
        try:
            await future
        finally:
            with self._lock:
                self._waiting.pop(future, None)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="recoverable-feed", daemon=True)
        own_thread(1)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
            own_thread(-1)
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
            own_thread(-1)
            with self._lock:
                self._thread = None
                if self._waiting and not self._ended:  # somebody came while it was about to end
                    self._start()

    def end(self) -> None:
        """Wake all, and end the thread: the arena is about to be closed."""
        with self._lock:
            self._ended = True
            waiting, self._waiting = list(self._waiting), {}
            thread = self._thread
        for future in waiting:
            _wake(future)
        if thread is not None and thread is not threading.current_thread():
            native_feed.wake(self._native)
            thread.join(timeout=2 * _SLEEP)


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
    """End it: the arena is about to be closed."""
    found, native.bell = native.bell, None
    if found is not None:
        found.end()


def _forked() -> None:
    """Who waits, and the thread, are the parent's."""
    for segment in _registry.all_open():
        segment.native.bell = None


os.register_at_fork(after_in_child=_forked)
