"""Where an arena's state comes from when it is opened with a journal: its segment, or a snapshot and the journal.

The segment in shared memory wins if it is at or beyond the end of the journal: what it has and the journal has not, its feed still
holds. One that is behind is of a former life, of a pod, say, that has come back to a node: it is set aside, never attached. Without
one, the newest sound snapshot is copied into a new object, and the commits behind it are replayed. Each such restore begins an
*epoch*, and a file of the journal that says so: a segment of an earlier one is behind, whatever its numbers say.

A restored object gets the arena's name when it is whole. Killed before, it is made again. Nothing is deleted to make a start
succeed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from recoverable._native import feed as native_feed
from recoverable._native import journal as native_journal
from recoverable._native.feed import Restore
from recoverable.errors import ArenaCorruptError, ArenaFullError, ArenaSystemError, HistoryError, JournalError
from recoverable.journal import snapshots
from recoverable.journal.folder import flush_folder
from recoverable.journal.watched import beating, spare_beside

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from recoverable._native.journal import Start
    from recoverable._native.runtime import NativeArena
    from recoverable.journal.damaged import Damaged
    from recoverable.journal.folder import Folder, Tip
    from recoverable.journal.snapshots import Snapshot

__all__ = [
    "END",
    "Restored",
    "State",
    "another",
    "cut_of",
    "ends_of",
    "goes_on",
    "is_behind",
    "lives",
    "replay",
    "restore",
    "state_of",
    "until",
]

#: Of positions, numbers and times: no bound.
END: Final = (1 << 64) - 1


class Restored(NamedTuple):
    """What a state was restored from.

    Attributes:
        snapshot: That it began with.
        position: Where in the feed it ends; `seq` and `at` are of its last commit.
        records: How many commits were replayed, and `bytes` of them.
        torn: Bytes of a last batch that was not finished, and is left out.
        damaged: What was found of snapshots that are newer than that one, and damaged, the newest first; and of files whose heads
            are, and which were not needed.
        seconds: How long it took.
        epoch: That began with it.
    """

    snapshot: Snapshot
    position: int
    seq: int
    at: int
    records: int
    bytes: int
    torn: int
    damaged: tuple[str, ...]
    seconds: float
    epoch: int
    chain: int


def lives(epoch: int) -> int:
    """Return how often a state was restored. An epoch has 32 random bits besides: two restores of one copy are two epochs."""
    return epoch >> 32


def _next_epoch(epoch: int) -> int:
    return (lives(epoch) + 1) << 32 | int.from_bytes(os.urandom(4))


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
) -> tuple[native_journal.Replayed, int]:
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


def replayed_none(snapshot: Snapshot) -> native_journal.Replayed:
    """Return what a snapshot is before anything is replayed."""
    return native_journal.Replayed(0, 0, snapshot.position, snapshot.seq, snapshot.at, snapshot.chain, False, False)


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


def gap(
    folder: Folder, snapshot: Snapshot, starts: list[Start], index: int, before: Used, total: native_journal.Replayed
) -> str:
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


def _up_to_damage(
    folder: Folder, number: int, total: native_journal.Replayed, replayed_seq: int
) -> native_journal.Replayed | None:
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
    return native_journal.Replayed(records, size, last.end, last.seq, last.at, last.chain, True, False)


def _end_of(folder: Folder, starts: list[Start]) -> tuple[int, int] | None:
    """Return where the last file ends, and its chain: who writes there although another has the right to moves that."""
    for start in starts[-1:]:
        chain = start.chain
        with contextlib.suppress(ArenaCorruptError), folder.open_file(start.number) as file:
            while (batch := file.next(tail=True)) is not None:
                chain = batch.chain
            return file.offset, chain
    return None


def restore(
    folder: Folder,
    target: int,
    name: str,
    *,
    seq: int = END,
    at: int = END,
    progress: Callable[[int, int, str], None] | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Restored:
    """Make an arena's state in an empty object, and begin an epoch with it in the journal.

    Args:
        folder: Of the journal, with the right to write there.
        target: The object's descriptor.
        name: What messages call it.
        seq: The last commit to be restored.
        at: The last moment, in nanoseconds since the epoch.
        progress: Called with bytes done, bytes in all (0: not known), and what is being done.
        alive: Called again and again where nothing can be said of that, and from other threads.

    Raises:
        ArenaCorruptError: No snapshot is sound, or the journal is damaged.
        HistoryError: All snapshots are of later states.
        ArenaFullError: /dev/shm has no room.
    """
    begun = time.monotonic()
    found: Snapshot | None = None
    failures: list[ArenaCorruptError] = []
    later: list[Snapshot] = []
    starts, passed = folder.heads()
    end = _end_of(folder, starts)
    numbers = [each.number for each in starts] + [each.number for each in passed]
    for snapshot, fd in snapshots.latest(folder, failures):
        if snapshot.position > cut_of(snapshot, starts, passed):
            continue
        if snapshot.seq > seq or snapshot.at > at:
            later.append(snapshot)
            continue
        try:
            snapshots.copy(snapshot, fd, target, progress)
        except ArenaCorruptError as error:
            failures.append(error)
            os.ftruncate(target, 0)
            continue
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise ArenaFullError(
                f"/dev/shm has no room for arena {name!r}. Nothing was made. Remove what is not needed there (recoverable ls, "
                "recoverable rm), or enlarge it (mount -o remount,size=...; docker run --shm-size=...)."
            ) from None
        found = snapshot
        break
    if found is None and later and not failures:
        raise HistoryError(
            f"journal {folder.path!r} does not go back as far as that: its oldest state is the one after commit {later[-1].seq}. "
            "Nothing was changed. keep= of Arena.open says how much history is kept.",
            later[-1].seq,
        )
    if found is None:
        raise _none_sound(folder, failures, later)
    copy = Restore(target, name)
    try:
        with beating(alive):
            copy.back()
        with spare_beside(folder, alive):
            replayed, torn = replay(folder, copy, found, seq=seq, at=at, progress=progress)
        last = starts[-1] if starts else None
        epoch = _next_epoch(max(found.epoch, last.epoch if last is not None else 0))
        copy.finish(replayed.position, epoch)
    finally:
        copy.close()
    _begin_file(
        folder,
        native_journal.Start(
            found.arena,
            1 + max(numbers, default=0),
            0,
            epoch,
            replayed.position,
            replayed.seq,
            replayed.at,
            replayed.chain,
        ),
    )
    if _end_of(folder, starts) != end:
        with contextlib.suppress(OSError):
            os.unlink(folder.file_path(1 + max(numbers, default=0)))  # noqa: PTH108 -- just made, with nothing in it
            flush_folder(folder.path)
        raise JournalError(
            f"journal {folder.path!r} was written to while it was restored, so another host, or a process with another segment, "
            "uses it. Nothing was opened. One arena at a time can use it: end the other one, and try again."
        )
    seconds = time.monotonic() - begun
    return Restored(
        found,
        replayed.position,
        replayed.seq,
        replayed.at,
        replayed.records,
        replayed.bytes,
        torn,
        (*map(str, failures), *(each.why for each in passed)),
        seconds,
        epoch,
        replayed.chain,
    )


def _none_sound(
    folder: Folder, failures: list[ArenaCorruptError], later: list[Snapshot]
) -> ArenaCorruptError | JournalError:
    """Return the error of a folder without a snapshot to begin with: the damaged ones, and the sound ones of later states."""
    if not failures:
        return JournalError(
            f"journal {folder.path!r} has no snapshot that the state could be restored from. Nothing was changed. Put a copy of "
            "one that was in it back, or name another folder to begin a new journal."
        )
    found = " ".join(str(each).removesuffix(" It is unchanged.") for each in failures)
    if later:
        return ArenaCorruptError(
            f"journal {folder.path!r} can't go back as far as that: {found} The others are of later states, the oldest of them "
            f"after commit {later[-1].seq}. Nothing was changed. Put a copy of a damaged one back, or restore a later state."
        )
    return ArenaCorruptError(
        f"journal {folder.path!r} has no sound snapshot that the state could be restored from: {found} Nothing was changed. Put a "
        "copy of a damaged one back: all commits behind it that are in the folder still count. Without one, what is here can't be "
        "restored: keep the folder, and name another to begin a new journal."
    )


def _begin_file(folder: Folder, begins: Start) -> None:
    """Begin the file that a restore begins with.

    Raises:
        JournalError: The disk does not take it.
    """
    try:
        native_journal.create_file(folder.path, begins)
    except (ArenaFullError, ArenaSystemError) as error:
        spare = f"{folder.path}/spare"
        is_file = not os.path.lexists(spare) or (os.path.isfile(spare) and not os.path.islink(spare))  # noqa: PTH113, PTH114
        then = "See to that" if is_file else f"Move {spare} away, which is no file"
        why = error.strerror if isinstance(error, ArenaSystemError) else error
        raise JournalError(
            f"the state could be restored, but not go on in a new file: {why}. Nothing was opened, and what the journal has is "
            f"unchanged. {then}, and start again."
        ) from None


# -- a segment that is there --------------------------------------------------------------------------------------------------

#: What `feed.state` tells: identity, epoch, size of the ring, tail, head, number and time of the last commit.
State: TypeAlias = tuple[str, int, int, int, int, int, int]


def state_of(native: NativeArena, name: str) -> State:
    """Return the state of an arena's feed.

    Raises:
        JournalError: It has none.
    """
    state = native_feed.state(native)
    if state is None:
        raise JournalError(
            f"arena {name!r} was made without a feed, so it can have no journal. It is unchanged. Move it into one with a "
            f"feed: recoverable export {name} FILE --portable; recoverable rm {name}; recoverable import {name} FILE --feed 64MiB."
        )
    return state


def another(name: str, folder: Folder) -> JournalError:
    """Return the error of a folder that is another arena's."""
    return JournalError(
        f"journal {folder.path!r} is of another arena than {name!r} in shared memory. Nothing was changed. "
        f"Name that one's folder, or another one; recoverable rm {name} drops what is in memory."
    )


def is_behind(state: State, name: str, folder: Folder, tip: Tip) -> bool:
    """Return whether a segment is of a life before the journal's end: it must not be used.

    Raises:
        JournalError: It is another arena's journal, or one that is behind the segment in a way that nothing explains.
    """
    arena, epoch, _, _, head, _, _ = state
    if tip.start.arena != arena:
        raise another(name, folder)
    if epoch != tip.start.epoch and lives(epoch) == lives(tip.start.epoch):
        raise JournalError(
            f"journal {folder.path!r} and arena {name!r} in shared memory go on from two restores of the same copy. Nothing was "
            "changed. Which of them is right only you can say: begin another folder to go on from memory, or remove the arena "
            f"(recoverable rm {name}) to go on from the journal."
        )
    if epoch > tip.start.epoch:
        raise JournalError(
            f"journal {folder.path!r} is of epoch {lives(tip.start.epoch)}, and arena {name!r} in shared memory of {lives(epoch)}: "
            "files have gone from the folder, or it is an old copy of it. Nothing was changed. Bring the newer files back, or "
            "begin another folder."
        )
    return epoch < tip.start.epoch or head < tip.position
