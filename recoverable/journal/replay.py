"""Bringing a copy of a snapshot forward by the journal: to what is wanted, or up to damage, which is told with what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recoverable._native.journal import Replayed
from recoverable.errors import ArenaCorruptError
from recoverable.journal import snapshots
from recoverable.journal.order import END, Used, before_all, cut_of, ends_of, gap, is_older, replayed_none

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from recoverable._native.feed import Restore
    from recoverable._native.journal import Start
    from recoverable.journal.damaged import Damaged
    from recoverable.journal.folder import Folder
    from recoverable.journal.snapshots import Snapshot

__all__ = ["replay"]


def replay(
    folder: Folder,
    copy: Restore | None,
    snapshot: Snapshot,
    *,
    seq: int = END,
    at: int = END,
    files: list[Start] | None = None,
    damaged: Sequence[Damaged] = (),
    progress: Callable[[int, int, str], None] | None = None,
) -> tuple[Replayed, int]:
    """Bring a copy of a snapshot forward by the journal; without a copy, look whether it could be.

    A file is used if it goes on from what comes before it: by its place in the feed, by the checksum of the batch before, and by
    its epoch, which is that of the one before it, or of a later restore. So files of another line of states are not taken for this
    one's, whatever their numbers say. Files that are damaged at their heads, or gone, are missed if they are needed.

    Args:
        folder: Of the journal.
        copy: Of the snapshot's content.
        snapshot: What it begins with.
        seq: The last commit to be replayed.
        at: The last moment, in nanoseconds since the epoch.
        files: The heads of those to be used, and of the one behind them, which somebody may be writing; None: use all.
        damaged: With these, the ones that can't be used.
        progress: As of `restore`.

    Returns:
        What was replayed, and the bytes of a torn batch at the end.

    Raises:
        ArenaCorruptError: A file is damaged, or one is missing. What came before is applied.
    """
    starts, damaged = folder.heads() if files is None else (files, damaged)
    total = replayed_none(snapshot)
    before, torn, reached = before_all(snapshot, starts, damaged), 0, False
    ends = ends_of(starts, damaged)
    for i, start in enumerate(starts):
        end = ends[i]
        if is_older(start, snapshot) or end <= max(snapshot.position, start.position):
            continue  # it was not wanted, also where the file behind it is gone; or all of it was cut off
        is_writers = files is not None and i == len(starts) - 1
        if is_writers and start.position != total.position:
            break
        if why := gap(folder, snapshot, starts, i, before, total):
            if total.seq >= seq:  # numbers only grow: nothing more is wanted
                reached = True
                break
            found = [each.why for each in damaged if before.number < each.number < start.number]
            raise _damaged(folder, starts, damaged, before, total.seq, found[-1] if found else why)
        if is_writers:
            break
        before = Used(start.number, start.epoch)
        with folder.open_file(start.number) as file:
            try:
                while True:
                    part = file.replay(copy, total.position, end, seq, at)
                    if progress is not None:
                        progress(total.bytes + part.bytes, 0, "replayed")
                    if not part.more:
                        break
            except ArenaCorruptError as error:
                sound = _up_to_damage(folder, start.number, total, file.replayed_seq)
                if sound is None and not file.replayed_seq and total.seq >= seq:  # nothing of it was wanted
                    reached = True
                    break
                if sound is None or (sound.seq < seq and sound.position < end):  # else no more of it was wanted
                    reached_seq = max(total.seq, file.replayed_seq)
                    raise _damaged(folder, starts, damaged, before, reached_seq, str(error)) from None
                part = sound
            torn = file.torn if i == len(starts) - 1 else 0
            if part.bytes:
                total = part._replace(records=total.records + part.records, bytes=total.bytes + part.bytes)
            elif start.position == total.position:  # there may be a batch without records
                total = total._replace(chain=part.chain)
            if part.reached and end > part.position:  # of the caller's
                reached = True
                break
    last = starts[-1].number if starts else 0
    if not reached and total.seq < seq and damaged and damaged[-1].number > last:
        why = next(each.why for each in damaged if each.number > last)
        raise _damaged(folder, starts, damaged, before, total.seq, why)
    return total, torn


def _up_to_damage(folder: Folder, number: int, total: Replayed, replayed_seq: int) -> Replayed | None:
    """Return what was replayed of a file that is damaged behind it; None: that is not a whole number of batches."""
    last, records = None, 0
    with folder.open_file(number) as file:
        try:
            while (batch := file.next()) is not None:
                last = batch if batch.records else last
                records += batch.records if batch.end > total.position else 0
        except ArenaCorruptError:
            pass
    if last is None or last.seq != replayed_seq or last.end <= total.position:
        return None
    size = last.end - total.position
    return Replayed(records, size, last.end, last.seq, last.at, last.chain, True, False)


# -- damage --------------------------------------------------------------------------------------------------------------


def _unknown(starts: list[Start], damaged: Sequence[Damaged], before: Used) -> int:
    """Return the number of a file that may have cut off some of what was replayed; 0: what was replayed counts, for sure.

    One that is gone, or damaged so that its place in the feed can't be read either, may have begun with a restore to anything
    before it, unless the next one says that no epoch began there.
    """
    if before.number == 0:
        begun = max((start.number for start in starts if start.epoch == before.epoch), default=0)
        return next((each.number for each in damaged if each.position is None and each.number > begun), 0)
    sound = {start.number for start in starts}
    placed = {each.number for each in damaged if each.position is not None}
    left = before.restores
    for number in range(before.number + 1, max(sound | {each.number for each in damaged}) + 1):
        if number in sound:
            left = 0
        elif left:  # the snapshot is of a restore that has begun there, or later
            left -= 1
        elif number not in placed:
            after = next((start.epoch for start in starts if start.number > number), None)
            if after != before.epoch:
                return number
    return 0


def _oldest(folder: Folder, starts: list[Start], damaged: Sequence[Damaged]) -> Snapshot | None:
    """Return the oldest snapshot that counts, and is sound: no restore has gone back behind it."""
    oldest = None
    for snapshot, fd in snapshots.latest(folder, []):
        if (
            snapshot.position <= cut_of(snapshot, starts, damaged)
            and snapshots.checksum(fd, snapshot.size) == snapshot.crc
        ):
            oldest = snapshot
    return oldest


def _damaged(
    folder: Folder, starts: list[Start], damaged: Sequence[Damaged], before: Used, seq: int, why: str
) -> ArenaCorruptError:
    """Return the error of a journal that is damaged behind a commit, which says what to go back to."""
    unknown = _unknown(starts, damaged, before)
    certain = _oldest(folder, starts, damaged) if unknown else None
    if certain is not None and certain.seq < seq:
        return ArenaCorruptError(
            f"{why.removesuffix('.')}. What is before it can be read up to commit {seq}, but file {unknown} may have begun "
            f"with a restore to an earlier one, and where, can't be read: only up to commit {certain.seq}, of the oldest snapshot, "
            "is it certain that nothing was cut off. Nothing was changed. Look for a copy of that file. To go on from what is "
            f"certain: recoverable journal restore --to {certain.seq} --name NAME {folder.path}; or with --to {seq} if you know "
            "that the state was not restored to an earlier commit"
        )
    return ArenaCorruptError(
        f"{why.removesuffix('.')}. The state is sound up to commit {seq}. Nothing was changed. To go on from there, without what "
        f"came after it: recoverable journal restore --to {seq} --name NAME {folder.path}"
    )
