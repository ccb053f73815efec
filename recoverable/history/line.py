"""What a journal's folder has of an arena's past: states that are kept whole, and the commits between them.

A *keyframe* is a snapshot that history begins a state with. Those that a later restore has left behind are of another line of
states, and are not looked at: history is of the line that the arena goes on with.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from typing import TYPE_CHECKING, Final, TypeAlias

from recoverable._descriptors import opened
from recoverable.errors import ArenaCorruptError, ArenaNotFoundError, HistoryError
from recoverable.journal import snapshots
from recoverable.journal.order import END, cut_of, ends_of, goes_on
from recoverable.journal.replay import replay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from recoverable._native.feed import Restore
    from recoverable._native.journal import File, Replayed, Start
    from recoverable.journal.damaged import Damaged
    from recoverable.journal.folder import Folder
    from recoverable.journal.snapshots import Snapshot

__all__ = ["Line", "Stretch"]


_FRESH: Final = 1.0  # seconds: what was changed since may have been changed again with the same time

_Stamp: TypeAlias = "tuple[int, int, int] | None"
_seen: weakref.WeakKeyDictionary[Folder, _Seen] = weakref.WeakKeyDictionary()


class Stretch:
    """The part of a file of commits that counts: from one position of the feed up to another."""

    __slots__ = ("begin", "end", "number")

    def __init__(self, number: int, begin: int, end: int) -> None:
        self.number = number
        self.begin = begin
        self.end = end


class _Seen:
    """What a folder had when it was looked at. Nobody changes it."""

    def __init__(
        self,
        heads: dict[int, tuple[_Stamp, Start]],
        damaged: list[Damaged],
        sound: dict[int, tuple[_Stamp, Snapshot]],
    ) -> None:
        self.heads = heads  # by number
        self.sound = sound  # by position; each with what tells that it is the same file
        self.starts: list[Start] = [start for _, start in heads.values()]
        ends = ends_of(self.starts, damaged)
        self.stretches = [
            Stretch(start.number, start.position, end)
            for start, end in zip(self.starts, ends, strict=True)
            if end > start.position
        ]
        cuts: dict[int, int] = {}  # by epoch: there are few
        for _, each in sound.values():
            if each.epoch not in cuts:
                cuts[each.epoch] = cut_of(each, self.starts)
        self.keyframes = [
            each
            for _, each in sound.values()
            if each.position <= cuts[each.epoch]
            and (not damaged or each.position <= cut_of(each, self.starts, damaged))
        ]
        self.changed = 0  # when names in the folder had changed last, if another change would have another time; else 0


def _look(folder: Folder) -> _Seen:
    """Return what a folder has. What was read before of files that are the same is not read again.

    As long as no name in it has changed, nothing is looked at but the time of that; within a second, one change may hide another.
    """
    before = _seen.get(folder)
    changed = folder.changed
    if before is not None and changed == before.changed:
        return before
    heads: dict[int, tuple[_Stamp, Start]] = {}
    sound: dict[int, tuple[_Stamp, Snapshot]] = {}
    known, stamps = {}, {}
    numbers, positions = folder.files(), folder.snapshots()
    for number in numbers:
        stamps[number] = stamp = _stamp(folder.file_path(number))
        if before is not None and number in before.heads and before.heads[number][0] == stamp is not None:
            known[number] = before.heads[number][1]
    starts, damaged = folder.heads(known)
    for start in starts:
        heads[start.number] = stamps.get(start.number), start
    for position in positions:
        path = folder.snapshot_path(position)
        stamp = _stamp(path)
        if before is not None and position in before.sound and before.sound[position][0] == stamp is not None:
            sound[position] = before.sound[position]
            continue
        with contextlib.suppress(FileNotFoundError, ArenaCorruptError):  # dropped meanwhile; an older one does as well
            sound[position] = stamp, _read(path)
    seen = _Seen(heads, damaged, sound)
    if time.time() - changed / 1e9 > _FRESH and [*heads] == numbers and [*sound] == positions:
        seen.changed = changed
    _seen[folder] = seen
    return seen


def _stamp(path: str) -> _Stamp:
    """Return what tells a file from all others that have had its name; None: it is gone."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns, status.st_size


def _read(path: str) -> Snapshot:
    with snapshots.opened(path) as fd:
        return snapshots.read(path, fd)


class Line:
    """The states of a folder, as they were when it was looked at.

    Attributes:
        keyframes: The snapshots that are its states, the oldest first.
        stretches: Where the commits lie, the oldest first.
        starts: What the heads of its files say.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        seen = _look(folder)
        self.starts, self.keyframes, self.stretches = seen.starts, seen.keyframes, seen.stretches
        if not self.keyframes:
            raise HistoryError(
                f"journal {folder.path!r} has no snapshot, so no state of the past can be made. It was left as it is. "
                "A folder gets its first snapshot when an arena is opened with it."
            )

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

    def replay(
        self,
        copy: Restore,
        begin: Snapshot,
        seq: int = END,
        at: int = END,
        progress: Callable[[int, int, str], None] | None = None,
    ) -> Replayed:
        """Bring a copy of the state that it begins with forward to a commit and a moment, whichever comes first."""
        files = self.starts
        if files:  # with one behind the last, which is used as well
            files = [*files, files[-1]._replace(number=files[-1].number + 1, position=END)]
        with self.read():
            done, _ = replay(self.folder, copy, begin, seq=seq, at=at, files=files, progress=progress)
        return done

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

    def restored(self) -> HistoryError:
        """Return the error of commits that were read, and that a restore has left behind since."""
        return HistoryError(
            f"journal {self.folder.path!r} was restored to a commit before those that were read. Nothing was changed. "
            "Begin to watch it again.",
            self.oldest,
            self.newest,
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
        with self.read(), opened(path, os.O_RDONLY) as fd:
            records = b"".join(os.pread(fd, length, offset) for offset, length, _ in found)
            if os.fstat(fd).st_ino != os.stat(path).st_ino:  # noqa: PTH116 -- it serves again, as another one
                raise FileNotFoundError
            return records

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
