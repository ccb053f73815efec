"""Commits as they come to a journal's folder: what is read there while a server writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recoverable.errors import HistoryError
from recoverable.history.line import Line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from recoverable._native.journal import Batch
    from recoverable.journal.folder import Folder

__all__ = ["Follower"]


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
        self._read: tuple[int, int, int, int] | None = (
            None  # a file; the end of a batch of it, there and in the feed; its chain
        )

    def back_to(self, position: int) -> None:
        """Read from an earlier position on."""
        self.position, self._read = position, None

    def batches(self) -> Iterator[tuple[Batch, bytes]]:
        """Yield those that have come, with their records. What is being written is there the next time.

        Raises:
            HistoryError: What comes next was dropped, or cut off by a restore.
            JournalError, ArenaCorruptError: The folder can't be read, or is damaged.
        """
        self.line = line = Line(self._folder)
        self._check(line)
        for stretch in line.stretches:
            if stretch.end <= self.position:
                continue
            with line.opened(stretch) as file:
                if self._read is not None and self._read[0] == stretch.number:
                    file.go_on(*self._read[1:])
                tail = stretch.number == line.starts[-1].number
                while self.position < stretch.end and (read := file.next(data=True, tail=tail)) is not None:
                    batch, data = read
                    self._read = stretch.number, file.offset, batch.end, batch.chain
                    if batch.end <= self.position:
                        continue
                    if batch.position > self.position:
                        raise line.lacks(self.position, batch.position)
                    self.position = min(batch.end, stretch.end)
                    yield batch, data

    def _check(self, line: Line) -> None:
        """Raise HistoryError if what comes next is not what came before goes on with."""
        cut = min((start.position for start in line.starts if start.epoch > self._epoch), default=self.position)
        if cut < self.position:
            raise HistoryError(
                f"journal {self._folder.path!r} was restored to a commit before those that were read. Nothing was changed. "
                "Begin to watch it again.",
                line.oldest,
                line.newest,
            )
        if line.starts and line.starts[0].position > self.position:
            raise line.gone()
        self._epoch = line.epoch
