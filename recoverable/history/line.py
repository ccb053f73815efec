"""What a journal's folder has of an arena's past: states that are kept whole, and the commits between them.

A *keyframe* is a snapshot that history begins a state with. Those that a later restore has left behind are of another line of
states, and are not looked at: history is of the line that the arena goes on with.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from recoverable.errors import ArenaCorruptError, ArenaNotFoundError, HistoryError
from recoverable.journal import snapshots
from recoverable.journal.start import END, cut_of, goes_on, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from recoverable._native.journal import File, Start
    from recoverable.journal.folder import Folder
    from recoverable.journal.snapshots import Snapshot

__all__ = ["Line", "Stretch"]


class Stretch:
    """The part of a file of commits that counts: from one position of the feed up to another."""

    __slots__ = ("begin", "end", "number")

    def __init__(self, number: int, begin: int, end: int) -> None:
        self.number = number
        self.begin = begin
        self.end = end


class Line:
    """The states of a folder, as they were when it was looked at.

    Attributes:
        keyframes: The snapshots that are its states, the oldest first.
        stretches: Where the commits lie, the oldest first.
        starts: What the heads of its files say.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.starts: list[Start] = folder.starts()
        self.keyframes = list(self._keyframes())
        self.stretches = [
            Stretch(start.number, start.position, end)
            for i, start in enumerate(self.starts)
            if (end := until(self.starts, i)) > start.position
        ]
        if not self.keyframes:
            raise HistoryError(
                f"journal {folder.path!r} has no snapshot, so no state of the past can be made. It was left as it is. "
                "A folder gets its first snapshot when an arena is opened with it."
            )

    def _keyframes(self) -> Iterator[Snapshot]:
        for position in self.folder.snapshots():
            path = self.folder.snapshot_path(position)
            with contextlib.suppress(
                FileNotFoundError, ArenaCorruptError
            ):  # dropped meanwhile; an older one does as well
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    found = snapshots.read(path, fd)
                finally:
                    os.close(fd)
                if found.position <= cut_of(found, self.starts):
                    yield found

    @property
    def oldest(self) -> int:
        """The number of the oldest commit whose state can be made."""
        return self.keyframes[0].seq

    @property
    def newest(self) -> int:
        """The number of the last commit that is on the disk."""
        tip = self.folder.tip()
        return max(tip.seq if tip is not None else 0, self.keyframes[-1].seq)

    def keyframe(self, seq: int = END, at: int = END) -> Snapshot:
        """Return the newest one that is not behind a commit, and a moment.

        Raises:
            HistoryError: There is none any more.
        """
        found = None
        for each in self.keyframes:
            if each.seq <= seq and each.at <= at:
                found = each
        if found is None:
            raise self.gone()
        return found

    def gone(self) -> HistoryError:
        """Return the error of something that is older than all that is kept by now."""
        now = Line(self.folder)
        oldest, newest = now.oldest, now.newest
        return HistoryError(
            f"journal {self.folder.path!r} does not go back as far as that. It has the states after commits {oldest} to {newest}. "
            "Nothing was changed. keep= of Arena.open says how much history is kept.",
            oldest,
            newest,
        )

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Have what is read in the block told as gone where a compaction has dropped it meanwhile, or has it serve again.

        Raises:
            HistoryError: It was.
        """
        try:
            yield
        except (ArenaNotFoundError, ArenaCorruptError, FileNotFoundError):
            if {start.number for start in self.starts} <= set(self.folder.files()):
                raise
            raise self.gone() from None

    @contextlib.contextmanager
    def opened(self, stretch: Stretch) -> Iterator[File]:
        """Open the file of a stretch."""
        with self.read(), self.folder.open_file(stretch.number) as file:
            yield file

    def records(self, stretch: Stretch, found: list[tuple[int, int, int]]) -> bytes:
        """Return the records at (offset, length, position) of a stretch's file."""
        path = f"{self.folder.path}/journal-{stretch.number:016x}"
        with self.read():
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                records = b"".join(os.pread(fd, length, offset) for offset, length, _ in found)
                if os.fstat(fd).st_ino != os.stat(path).st_ino:  # noqa: PTH116 -- it serves again, as another one
                    raise FileNotFoundError
                return records
            finally:
                os.close(fd)

    def lacks(self, position: int, begin: int) -> ArenaCorruptError:
        """Return the error of commits that are missing between two positions."""
        return ArenaCorruptError(
            f"journal {self.folder.path!r} lacks the commits from position {position} to {begin} of its feed, so the states behind "
            "them can't be made. Nothing was changed. recoverable journal verify tells what it has."
        )

    def goes_on(self, stretch: Stretch, chain: int) -> bool:
        """Return whether a stretch goes on from the batch with that checksum, where it begins."""
        index = next(i for i, start in enumerate(self.starts) if start.number == stretch.number)
        return goes_on(self.folder, self.starts, index, chain)

    def strange(self, stretch: Stretch) -> ArenaCorruptError:
        """Return the error of a file that is of another line of states than the one before it."""
        return ArenaCorruptError(
            f"file {stretch.number} of journal {self.folder.path!r} does not go on from the last batch before it, so the states "
            "behind that can't be made. Nothing was changed. recoverable journal verify tells what it has."
        )

    @property
    def epoch(self) -> int:
        """Which line of states it is of."""
        return self.starts[-1].epoch if self.starts else self.keyframes[-1].epoch
