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
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from recoverable._native import feed as native_feed
from recoverable._native import journal as native_journal
from recoverable._native.feed import Restore
from recoverable.errors import ArenaCorruptError, ArenaFullError, ArenaSystemError, HistoryError, JournalError
from recoverable.journal import snapshots
from recoverable.journal.folder import flush_folder
from recoverable.journal.order import END, cut_of, lives
from recoverable.journal.replay import replay
from recoverable.journal.watched import beating, spare_beside

if TYPE_CHECKING:
    from collections.abc import Callable

    from recoverable._native.journal import Start
    from recoverable._native.runtime import NativeArena
    from recoverable.journal.folder import Folder, Tip
    from recoverable.journal.snapshots import Snapshot

__all__ = ["Restored", "State", "another", "is_behind", "restore", "state_of"]


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


def _next_epoch(epoch: int) -> int:
    return (lives(epoch) + 1) << 32 | int.from_bytes(os.urandom(4))


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
