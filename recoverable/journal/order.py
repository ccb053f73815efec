"""How the files of a journal go on from each other, and which of them a state's line has.

Each restore begins an *epoch*, and a file of the journal that says so. Files of another line of states may lie in the same folder:
what a restore has cut off, and copies that somebody has put back. So a file counts if it goes on from what comes before it: by its
place in the feed, by the checksum of the batch before, and by its epoch, which is that of the one before it, or of a later restore.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple

from recoverable._native.journal import Replayed
from recoverable.errors import ArenaCorruptError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recoverable._native.journal import Start
    from recoverable.journal.damaged import Damaged
    from recoverable.journal.folder import Folder
    from recoverable.journal.snapshots import Snapshot

__all__ = [
    "END",
    "Used",
    "before_all",
    "cut_of",
    "ends_of",
    "gap",
    "goes_on",
    "is_older",
    "lives",
    "replayed_none",
    "until",
]

#: Of positions, numbers and times: no bound.
END: Final = (1 << 64) - 1


def lives(epoch: int) -> int:
    """Return how often a state was restored. An epoch has 32 random bits besides: two restores of one copy are two epochs."""
    return epoch >> 32


def until(starts: list[Start], index: int, damaged: Sequence[Damaged] = ()) -> int:
    """Return the position that a file counts up to: a later one may have begun before its end, also one that is damaged."""
    return ends_of(starts, damaged)[index]


def ends_of(starts: list[Start], damaged: Sequence[Damaged] = ()) -> list[int]:
    """Return `until` of each."""
    ends, least = [], END
    left = [(each.number, each.position) for each in damaged if each.position is not None]
    for start in reversed(starts):
        while left and left[-1][0] > start.number:
            least = min(least, left.pop()[1])
        ends.append(least)
        least = min(least, start.position)
    return ends[::-1]


def cut_of(snapshot: Snapshot, starts: list[Start], damaged: Sequence[Damaged] = ()) -> int:
    """Return the position where a later epoch left the line of states that a snapshot is of: one beyond it must not be used.

    What epoch began with a damaged file is not known. If it may have been a later one, and the snapshot may be of what it cut off
    from the file before it, that counts: an older snapshot does as well.
    """
    cut = min((start.position for start in starts if start.epoch > snapshot.epoch), default=END)
    for each in damaged:
        before = max((start.epoch for start in starts if start.number < each.number), default=-1)
        after = min((start.epoch for start in starts if start.number > each.number), default=END)
        if (
            each.position is not None
            and before >= snapshot.epoch
            and after > snapshot.epoch
            and each.position < snapshot.position <= each.end
        ):
            cut = min(cut, each.position)
    return cut


class Used(NamedTuple):
    """What a file has to go on from.

    Attributes:
        number: Of the file that was replayed last; before the first one, of the last that the snapshot has all of, or 0.
        epoch: Of that file; before the first one, the snapshot's.
        restores: How many restores lie between that file and the snapshot: each of them has begun a file behind it.
    """

    number: int
    epoch: int
    restores: int = 0


def is_older(start: Start, snapshot: Snapshot) -> bool:
    """Return whether a file is of a life before the snapshot's: the restore between the two has left nothing that it lacks."""
    return lives(start.epoch) < lives(snapshot.epoch)


def before_all(snapshot: Snapshot, starts: list[Start], damaged: Sequence[Damaged]) -> Used:
    """Return what the first file that is replayed has to go on from: the snapshot, and the last of the files that it has all of."""
    last = None
    for start, end in zip(starts, ends_of(starts, damaged), strict=True):
        if is_older(start, snapshot) or (start.epoch == snapshot.epoch and end <= snapshot.position):
            last = start
    if last is None:
        return Used(0, snapshot.epoch)
    return Used(last.number, snapshot.epoch, lives(snapshot.epoch) - lives(last.epoch))


def replayed_none(snapshot: Snapshot) -> Replayed:
    """Return what a snapshot is before anything is replayed."""
    return Replayed(0, 0, snapshot.position, snapshot.seq, snapshot.at, snapshot.chain, False, False)


def gap(folder: Folder, snapshot: Snapshot, starts: list[Start], index: int, before: Used, total: Replayed) -> str:
    """Say why a file does not go on from what was replayed; "": it does."""
    start = starts[index]
    name = f"file {start.number} of journal {folder.path!r}"
    if start.arena != snapshot.arena:
        return f"{name} is another arena's"
    if start.position > total.position:
        return (
            f"journal {folder.path!r} lacks the commits from position {total.position} to {start.position} of its feed: "
            f"before file {start.number} one is missing"
        )
    later = start.epoch != before.epoch
    if later and (lives(start.epoch) <= lives(before.epoch) or start.position < total.position):
        return f"{name} is of another restore of the same state than what is before it, or the file between them is missing"
    if start.position == total.position and not goes_on(folder, starts, index, total.chain):
        return f"{name} does not go on from the last batch before it: it is of another line, or a file between them is missing"
    return ""


def goes_on(folder: Folder, starts: list[Start], index: int, chain: int) -> bool:
    """Return whether a file goes on from the batch with that checksum, at the file's position.

    Of files that end where they begin, batches without commits may lie between the two, which a clean end writes.
    """
    start, known = starts[index], {chain}
    for each in starts[:index] if start.chain != chain else ():
        if each.position == start.position and each.chain in known:
            with contextlib.suppress(ArenaCorruptError), folder.open_file(each.number) as file:
                while (batch := file.next(tail=True)) is not None and not batch.records:
                    known.add(batch.chain)
    return start.chain in known
