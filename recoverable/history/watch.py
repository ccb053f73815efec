"""Changes as they come: what a watched place becomes, by whom, for `for` in a thread and `async for` in an event loop.

What is seen is what is on the disk. Where the arena is open in this process, its feed's bell tells when to look: it moves when the
journal has taken something. Beside other processes, the file that is being written is looked at ten times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Final

from recoverable import bell, feed_state
from recoverable._native import feed as native_feed
from recoverable._native import journal as native_journal
from recoverable.errors import HistoryError, JournalError, RecoverableError, TransactionError
from recoverable.history.commits import parsed
from recoverable.history.follow import Follower
from recoverable.history.line import Line
from recoverable.history.states import Stepper
from recoverable.history.trail import Change, Trail
from recoverable.journal.order import END

if TYPE_CHECKING:
    from recoverable._native.runtime import NativeArena
    from recoverable.history.commits import Search
    from recoverable.history.places import Path
    from recoverable.journal.folder import Folder
    from recoverable.journal.snapshots import Snapshot

__all__ = ["Watch"]

_POLL: Final = 0.1  # seconds between looks at a folder
_SLEEP: Final = 0.5  # seconds that a thread waits for the bell at a time: how often it looks for signals
_PACE: Final = 0.01  # seconds from one reading to the next, beside a server that never rests
_FRESH: Final = 1.0  # seconds: what was written since may have been written to again with the same time


class Watch(Iterator[Change], AsyncIterator[Change]):
    """Changes of a place from a commit on, the oldest first.

    It has two states of the arena of its own, which are made when the first change is asked for: not in an event loop. What has
    come is read when the next one is. What a compaction drops before that ends it by a HistoryError.
    """

    def __init__(
        self, folder: Folder, native: NativeArena | None, line: Line, place: Path | None, search: Search, seq: int
    ) -> None:
        self._folder = folder
        self._native = native
        self._place = place
        self._search = search
        self._ready: deque[Change] = deque()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._seen: tuple[int, int, int] | None = None  # the file that is written: number, size, time
        self._at = 0.0  # when it was read last
        self._seq = seq
        self._epoch = line.epoch
        self._frame: Snapshot | None = None
        self._stepper: Stepper | None = None
        self._trail: Trail | None = None
        self._follower: Follower | None = None  # it and these: not made yet

    def close(self) -> None:
        """End it: whoever waits for its next change gets none. Closing twice is fine."""
        self._ended.set()
        if self._native is not None and not self._native.closed:
            native_feed.wake(self._native)

    # -- reading -------------------------------------------------------------------------------------------------------------

    def _has_ended(self) -> bool:
        if self._native is not None and self._native.closed:
            self._ended.set()
        return self._ended.is_set()

    def _begin(self) -> Follower:
        """Make what it reads with, from the commit on that it was begun behind."""
        line = Line(self._folder)
        if any(start.epoch > self._epoch and start.seq < self._seq for start in line.starts):
            raise line.restored()
        self._frame = line.keyframe(self._seq)
        position = self._frame.position
        if self._place is not None:
            self._stepper = Stepper(line, self._frame, self._seq)
            self._trail = Trail(self._stepper, self._place, self._search)
            position = self._stepper.position
        self._follower = Follower(self._folder, line, position)
        return self._follower

    def _news(self) -> bool:
        """Return whether something may have come to the disk since it was read."""
        if self._follower is None:
            return True
        if self._native is not None:
            try:
                state = native_journal.state(self._native)  # first: what was durable before it stopped is given
                if native_journal.durable(self._native) > self._follower.position:
                    return True
            except RecoverableError:
                if self._has_ended():  # it was closed meanwhile
                    return False
                raise
            if state is not None and state.stopped:
                self._ended.set()
                raise JournalError(
                    f"journal {self._folder.path!r} has stopped: {feed_state.why(state.stopped)}. What is committed is in memory, "
                    "and no further change comes to the disk. Restart with a sound disk, and watch from then on."
                )
            return False
        if self._follower.holds:
            return True
        number = self._folder.files()[-1:] or [0]
        try:
            status = os.stat(self._folder.file_path(number[0]))  # noqa: PTH116
        except FileNotFoundError:  # the next look says why
            return True
        now = number[0], status.st_size, status.st_mtime_ns
        if now == self._seen:
            return False
        self._seen = now if time.time() - status.st_mtime > _FRESH else None
        return True

    def _durable(self) -> int | None:
        """Return the position of the feed up to which all is on the disk; None: the arena is not open here."""
        if self._native is None:
            return None
        try:
            return native_journal.durable(self._native)
        except RecoverableError:
            if self._has_ended():  # it was closed meanwhile
                return 0
            raise

    def _take(self) -> None:
        """Read until there is a change to give, or nothing more."""
        with self._lock:
            if self._ready:
                return
            try:
                follower = self._follower or self._begin()
                begin = follower.position
                for batch, data in follower.batches(self._durable()):
                    if self._stepper is None:  # of one that is read again, what is new
                        found = self._search.find_in(data, batch.position, max(batch.position, begin), batch.end)
                        begin = batch.end
                        for offset, length, _ in found:
                            self._ready += [Change(each, ()) for each in parsed(data[offset : offset + length])]
                    else:
                        self._step(self._stepper, data, batch.position, follower.position)
                    self._seq = batch.seq if batch.records else self._seq
                    if self._ready:
                        self._seen = None  # there may be more behind it
                        break
                self._renew(follower)
            except BaseException:  # it may be in the middle of a commit
                self._ended.set()
                raise

    def _step(self, stepper: Stepper, data: bytes, begin: int, end: int) -> None:
        assert self._trail is not None
        for record in stepper.through(data, begin, end, self._trail.find):
            change = self._trail.change(record)
            if change is not None:
                self._ready.append(change)

    def _renew(self, follower: Follower) -> None:
        """Go on from a newer keyframe, if there is one.

        What was changed since the old one is in this process's memory, and its file is on the disk as long as we have it.
        """
        line, place = follower.line, self._place
        frame = line.keyframes[-1]
        if place is None or self._frame is None or not self._frame.position < frame.position <= follower.position:
            return
        with contextlib.suppress(HistoryError):  # a compaction has dropped it: there is a newer one
            self._stepper = Stepper(line, frame, self._seq)
            self._trail = Trail(self._stepper, place, self._search.between(self._seq + 1, END))
            follower.back_to(self._stepper.position)
            self._frame = frame

    # -- waiting -------------------------------------------------------------------------------------------------------------

    def _bell(self) -> int:
        return 0 if self._native is None else native_feed.bell(self._native)

    def _pause(self) -> float:
        """Return for how many seconds not to read again yet."""
        now = time.monotonic()
        pause, self._at = self._at + _PACE - now, now
        return max(pause, 0.0)

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> Change:
        while not self._has_ended():
            seen = self._bell()
            if self._ready:
                return self._ready.popleft()
            if self._news():
                self._ended.wait(self._pause())
                self._take()
            elif asyncio._get_running_loop() is not None:
                raise TransactionError(
                    "the next change was waited for in an event loop, which would stand still. Nothing was changed. "
                    "Use `async for`."
                )
            elif self._native is None:
                self._ended.wait(_POLL)
            else:
                bell.of(self._native).sleep(seen, _SLEEP)
        raise StopIteration

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> Change:
        while not self._has_ended():
            seen = self._bell()
            if self._ready:
                return self._ready.popleft()
            if self._news():
                await asyncio.sleep(self._pause())
                await asyncio.to_thread(self._take)
            elif self._native is None:
                await asyncio.sleep(_POLL)
            else:
                await bell.of(self._native).moved(seen)
        raise StopAsyncIteration
