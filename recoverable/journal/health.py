"""A journal that fails is told of, once each time, by each process that has it open: a full disk, a flush that has failed.

Whoever looks reads what the thread that writes has left in the segment, and asks no disk: a request may, in its event loop. What
the keeper asks the disk for, it asks without a lock that closing the arena would wait for.
"""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
from typing import TYPE_CHECKING, Any

from recoverable import events, feed_state
from recoverable._native import journal as native_journal
from recoverable.errors import RecoverableError
from recoverable.journal import snapshots
from recoverable.journal.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from recoverable._native.runtime import NativeArena

__all__ = ["Health"]


class Health:
    """What has been told of it so far."""

    def __init__(
        self, native: NativeArena, name: str, path: str, error: Callable[[], str], serves: Callable[[], bool]
    ) -> None:
        """Nothing has been told.

        Args:
            native: The arena.
            name: Its name.
            path: The folder's.
            error: Returns what this process knows of the failure, or "".
            serves: Returns whether it is this process that writes.
        """
        self._native, self._name, self._path, self._error, self._serves = native, name, path, error, serves
        self._lock = threading.Lock()  # a request may look while the keeper does
        self._stopped = self._delayed = 0
        self._snapshot: list[int] = []  # its position, if there is one

    def forget(self) -> None:
        """In a forked child: a thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def look(self) -> None:
        """Look at it, and tell what is new. The arena is open."""
        state = native_journal.state(self._native)
        if state is None:
            return
        with self._lock:
            stopped, delayed = state.stopped and not self._stopped, state.delayed and not self._delayed
            self._stopped, self._delayed = state.stopped, state.delayed
        why = self.why()
        try:
            if stopped:
                events.journal_stopped(self._name, self._path, why)
            elif delayed:
                events.journal_delayed(self._name, self._path, why)
        except Exception:  # the program's log pipeline may raise, and what was to be done goes on
            traceback.print_exc()

    def beat(self) -> bool:
        """Do so now and then; return whether this process writes, so that it is to tell of the last snapshot."""
        self.look()
        return self._serves()

    def last_snapshot(self) -> tuple[int, int, int] | None:
        """Return the last snapshot's number, time and bytes, if it is a new one. It asks the disk, and the arena nothing.

        A folder that can't be read says so where it matters.
        """
        failures: list[Any] = []
        with contextlib.suppress(RecoverableError, OSError):
            folder = Folder(self._path)
            if folder.snapshots()[-1:] == self._snapshot:
                return None
            self._snapshot = folder.snapshots()[-1:]
            for found, fd in snapshots.latest(folder, failures):
                return found.seq, found.at, os.fstat(fd).st_blocks * 512
        return None

    def note(self, found: tuple[int, int, int] | None) -> None:
        """Have everybody learn of the last snapshot. The arena is open."""
        if found is not None:
            native_journal.note_snapshot(self._native, *found)

    def why(self) -> str:
        """Return why nothing becomes durable, or what has failed last in this process; "": nothing has."""
        state = native_journal.state(self._native)
        if state is None:
            return self._error()
        return self._error() or feed_state.why(state.stopped or state.delayed)
