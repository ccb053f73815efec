"""Commits as they come to a journal's folder: what is read there while a server writes.

What is read may not be on the disk yet: it lies in the kernel's memory from when it is written, and a power loss takes it back.
Worse, where the flush fails for want of room, a longer batch is written in its place. So who has the arena open gives no more than
it says is durable. Who has not takes a batch when one is behind it, which is begun when it is durable; and the last one when it has
been as it is for a second, which says less: a flush may take longer. If it is another one by then, it is read again.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from recoverable.history.line import Line
from recoverable.journal.order import END

if TYPE_CHECKING:
    from collections.abc import Iterator

    from recoverable._native.journal import Batch, File
    from recoverable.journal.folder import Folder

__all__ = ["Follower"]

_SETTLED: Final = 1.0  # seconds


class Follower:
    """Where somebody has come to who reads the batches of a folder one after the other.

    Attributes:
        line: What the folder had when it was looked at last.
        position: Of the feed, up to which it has been read.
    """

    def __init__(self, folder: Folder, line: Line, position: int) -> None:
        self.line = line
        self.position = position
        self._folder = folder
        self._epoch = line.epoch
        # a file; the end of the last batch but one of those that were read of it, there and in the feed; its chain
        self._read: tuple[int, int, int, int] | None = None
        self._held: tuple[int, int, int] | None = None  # a last batch that may be another one soon: file, offset, chain
        self._until = 0.0  # when it is one that stays

    def back_to(self, position: int) -> None:
        """Read from an earlier position on."""
        self.position, self._read = position, None

    @property
    def holds(self) -> bool:
        """Whether there is a last batch to be looked at again now, although nothing has been written since."""
        return self._held is not None and time.monotonic() >= self._until

    def batches(self, durable: int | None = None) -> Iterator[tuple[Batch, bytes]]:
        """Yield those that have come, with their records. What is being written is there the next time.

        Args:
            durable: The position of the feed up to which all is on the disk; None: not known.

        Raises:
            HistoryError: What comes next was dropped, or cut off by a restore.
            JournalError, ArenaCorruptError: The folder can't be read, or is damaged.
        """
        known, self.line = self.line, Line(self._folder)
        line = self.line
        if self._read is None or line.starts is not known.starts:
            self._check(line)
        for stretch in line.stretches[bisect_right(line.stretches, self.position, key=attrgetter("end")) :]:
            with line.opened(stretch) as file:
                if self._read is not None and self._read[0] == stretch.number:
                    file.go_on(*self._read[1:])
                tail = stretch.number == line.starts[-1].number
                before = self._read
                while self.position < stretch.end and (read := file.next(data=True, tail=tail)) is not None:
                    batch, data = read
                    if batch.end > (END if durable is None else durable):
                        return
                    if batch.end > self.position:
                        if batch.position > self.position:
                            raise line.lacks(self.position, batch.position)
                        if tail and durable is None and not self._stays(stretch.number, file, batch):
                            return
                    self._read, before = before, (stretch.number, file.offset, batch.end, batch.chain)
                    if batch.end > self.position:
                        self.position = min(batch.end, stretch.end)
                        yield batch, data

    def _stays(self, number: int, file: File, batch: Batch) -> bool:
        """Return whether a batch of the last file is not going to be another one: as far as can be told without the arena."""
        behind, now = (file.offset, batch.end, batch.chain), time.monotonic()
        if file.next(tail=True) is not None:
            file.go_on(*behind)
            self._held = None
            return True
        file.go_on(*behind)
        seen = number, batch.offset, batch.chain
        if seen != self._held:
            age = time.time() - os.stat(self._folder.file_path(number)).st_mtime  # noqa: PTH116
            self._held, self._until = seen, now + (0.0 if age > _SETTLED else _SETTLED)
        if now < self._until:
            return False
        self._held = None
        return True

    def _check(self, line: Line) -> None:
        """Raise HistoryError if what comes next is not what came before goes on with."""
        cut = min((start.position for start in line.starts if start.epoch > self._epoch), default=self.position)
        if cut < self.position:
            raise line.restored()
        if line.starts and line.starts[0].position > self.position:
            raise line.gone()
        self._epoch = line.epoch
