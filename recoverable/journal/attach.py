"""Opening an arena with its journal: which of the two is right, and that they go on together.

All of it happens under the file lock of the arena's object, so that no two processes do it at once; who comes later finds a segment
whose journal is being written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING, Final

from recoverable import _registry, _shm, _times, events
from recoverable._native import _core
from recoverable._native import feed as native_feed
from recoverable._native import journal as native_journal
from recoverable._native.journal import Start
from recoverable.errors import ArenaCorruptError, ArenaFullError, JournalError, RecoverableError, StaleReferenceError
from recoverable.journal import first, order, restorable, start
from recoverable.journal.gate import Gate
from recoverable.journal.watched import half_made, its_turn, touch, watched
from recoverable.reports import Restoration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from recoverable._native.journal import Lock
    from recoverable._native.runtime import NativeArena
    from recoverable._segment import Segment
    from recoverable.journal.folder import Folder, Tip
    from recoverable.journal.start import Restored

__all__ = ["opened", "restore", "ring_for"]

_POLL: Final = 0.01
_RING: Final = 64 * 1024**2
_LEAST_RING: Final = 1024**2
_TRIES: Final = 3
_GOES_ON: Final = (
    "No restore could have brought the state back. It is in memory, and the journal goes on from a new snapshot of that; earlier "
    "moments may be lost."
)
_DEFAULT_SIZE: Final = 256 * 1024**2


def ring_for(size: int | None) -> int:
    """Return how many bytes of feed an arena of that size gets for its journal."""
    return max(_LEAST_RING, min(_RING, (size or _DEFAULT_SIZE) // 16))


def opened(
    name: str, folder: Folder, make: Callable[[int], Segment], create: bool, timeout: float
) -> tuple[Segment, Segment | None]:
    """Open an arena's segment, or restore it, and have its commits written to a journal.

    Args:
        name: The arena's.
        folder: Of its journal.
        make: Maps the segment behind a descriptor, or makes it there.
        create: Make the arena if neither the segment nor the journal has it.
        timeout: Seconds to wait for others who open it.

    Returns:
        The segment; and itself if this process had it open, else None.
    """
    try:
        return _opened(name, folder, make, create, timeout)
    except BaseException:
        folder.discard()
        raise


def _opened(
    name: str, folder: Folder, make: Callable[[int], Segment], create: bool, timeout: float
) -> tuple[Segment, Segment | None]:
    restored: Restoration | None = None
    while True:
        with its_turn(name, folder, create or not folder.empty, timeout) as fd:
            shared = _registry.find_behind(fd)
            if shared is not None:
                _check_shared(shared, folder)
                return shared, shared
            if os.fstat(fd).st_size == 0 and not folder.empty:
                restored = _report(restore(name, folder, timeout=timeout))
                for found in restored.damaged:
                    events.journal_damaged(name, folder.path, found)
                events.journal_restored(name, folder.path, restored)
                continue
            segment = make(fd)
            try:
                if _go_on_together(segment, folder, timeout):
                    segment.restored = restored
                    return segment, None
            except BaseException:
                _undo(segment)
                raise
            made = _core.created(segment.native)
            segment.close()
            _set_aside(name, folder, made)


def _undo(segment: Segment) -> None:
    """Close what can't be opened; where it was made for this, it goes."""
    made = _core.created(segment.native)
    with contextlib.suppress(RecoverableError):
        segment.close()
    if made:
        _shm.unlink(segment.name)


def _check_shared(segment: Segment, folder: Folder) -> None:
    gate = segment.native.journal
    if gate is None or not folder.is_at(gate.path):
        has = "without a journal" if gate is None else f"with journal {gate.path!r}"
        raise JournalError(
            f"arena {segment.name!r} is open in this process {has}, so it can't be opened with {folder.path!r}. It stays as it is. "
            "Open it with the same journal everywhere, or close it first."
        )


def _set_aside(name: str, folder: Folder, made: bool) -> None:
    """Take the name from a segment that must not be used: one just made, or of a life before the journal's end."""
    if made:
        _shm.unlink(name)
        return
    aside = f"{_shm.path_of(name)}~{time.strftime('%Y%m%dT%H%M%S')}"
    os.rename(_shm.path_of(name), aside)  # noqa: PTH104
    events.journal_set_aside(name, folder.path, aside)


# -- a segment that is there -------------------------------------------------------------------------------------------


def _take(native: NativeArena, folder: Folder, timeout: float) -> Lock | None:
    """Take the right to write in the folder; None: another process that has this segment open has it.

    One that is closing the arena may have left the segment already, and have the folder until its last commits are on the disk.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return folder.take()
        except JournalError:
            if len(_core.processes(native)) > 1:
                return None
            if time.monotonic() >= deadline:
                raise
        time.sleep(_POLL)


def _go_on_together(segment: Segment, folder: Folder, timeout: float) -> bool:
    """Have a mapped segment's commits written to the journal; False: it must not be, the journal is further."""
    native, name = segment.native, segment.name
    lock = _take(native, folder, timeout)
    try:
        if lock is not None and not _is_next(native, name, folder, timeout):
            return False
        if lock is None:
            _check_same(native, name, folder)
        native.journal = Gate(native, name, folder.path, lock)
    finally:
        if lock is not None:
            lock.release()  # unless the thread that writes has it
    return True


def _is_served(native: NativeArena) -> bool:
    return any(name == "journal" and pid for _, name, _, _, pid, *_ in native_feed.sinks(native))


def _check_same(native: NativeArena, name: str, folder: Folder) -> None:
    numbers = folder.files()
    state = start.state_of(native, name)
    if numbers and folder.start_of(numbers[-1]).arena != state[0]:
        raise start.another(name, folder)


def _is_alone(native: NativeArena, timeout: float) -> bool:
    """Return whether no other process has the segment open; one that is closing it is waited for."""
    deadline = time.monotonic() + timeout
    while len(_core.processes(native)) > 1:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL)
    return True


def _is_next(native: NativeArena, name: str, folder: Folder, timeout: float) -> bool:
    """See that the journal goes on where the segment does; False: the journal is further, and nobody else has the segment."""
    try:
        tip = folder.tip()
    except ArenaCorruptError as error:
        raise ArenaCorruptError(
            f"{error}. Nothing was changed. Arena {name!r} in shared memory has its state: don't unlink it. Move the folder away "
            f"(mv {folder.path} {folder.path}.damaged) and start again: a new journal begins with a snapshot of what is in memory."
        ) from None
    start.state_of(native, name)
    is_elsewhere = _is_served(native) if tip is None else native_journal.durable(native) > tip.position
    if is_elsewhere and not _is_alone(native, timeout):
        raise JournalError(
            f"arena {name!r} has its journal in another folder than {folder.path!r}: other processes that have it open write there."
            " Nothing was changed. Open it with the same journal everywhere, by an absolute path."
        )
    if tip is None:
        _begin(native, folder, None)
        return True
    state = start.state_of(native, name)  # who was waited for may have committed
    if start.is_behind(state, name, folder, tip) or _core.created(native):
        if not _is_alone(native, timeout):
            raise JournalError(
                f"arena {name!r} in shared memory is behind journal {folder.path!r}, which was restored elsewhere since, and "
                "other processes use it. Nothing was changed. End them; the next start restores it from the journal."
            )
        return False
    was = native_journal.state(native)
    has_stopped = was is not None and was.stopped != 0
    lack = restorable.lack(folder)
    if not lack and not has_stopped and native_journal.goes_on(native, tip.position):
        return True
    last = _last_durable(native, folder, tip) if has_stopped else native_journal.settle(folder.path)
    if lack or last.position < state[3]:  # what is missing, or lies between, is nowhere but in memory
        try:
            _begin(native, folder, last)
        except JournalError as error:
            if not lack:
                raise
            raise JournalError(f"{lack}. {error}") from None
        if lack:
            events.journal_damaged(name, folder.path, f"{lack}. {_GOES_ON}")
        return True
    if has_stopped:  # what the kernel has dropped of the old file, nobody knows
        native_journal.create_file(folder.path, last._replace(number=last.number + 1))
    native_journal.attach(native, last.position, last.seq)
    return True


def _begin(native: NativeArena, folder: Folder, last: Start | None) -> None:
    """Have the journal go on from a snapshot of what is in memory, and from a file of its own."""
    chain, number = (0, 0) if last is None else (last.chain, last.number)
    before = folder.snapshots()
    for _ in range(_TRIES):
        with contextlib.suppress(StaleReferenceError), _made_of(folder) as made:
            taken = first.take(folder, native, chain)
            if taken.position not in before:
                path = folder.snapshot_path(taken.position)
                made.append((path, os.stat(path).st_ino))  # noqa: PTH116
            made.append((folder.file_path(number + 1), None))
            try:
                native_journal.create_file(
                    folder.path,
                    Start(taken.arena, number + 1, 0, taken.epoch, taken.position, taken.seq, taken.at, chain),
                )
            except RecoverableError:  # which has left nothing: a file of that name is another host's
                made.pop()
                raise
            native_journal.attach(native, taken.position, taken.seq)
            return
    raise JournalError(
        f"journal {folder.path!r} can't begin: other processes commit so much that the feed overwrites it before the first "
        "snapshot is on the disk. Nothing was opened, and what was written of it is removed. Try again when less goes on, or move "
        "the arena into one with a larger feed."
    )


@contextlib.contextmanager
def _made_of(folder: Folder) -> Iterator[list[tuple[str, int | None]]]:
    """Remove what a block has made, the last first, where it fails: nothing goes on from there.

    Gives a list of what it has made, to be added to: the path, and the number of the inode that is removed there, None: any.

    Raises:
        JournalError: The disk has failed it.
    """
    made: list[tuple[str, int | None]] = []
    try:
        yield made
    except BaseException as error:
        for path, inode in reversed(made):
            with contextlib.suppress(OSError):
                if inode in (None, os.stat(path).st_ino):  # noqa: PTH116
                    os.unlink(path)  # noqa: PTH108
        if isinstance(error, (OSError, ArenaFullError)):
            raise first.unwritable(folder, error) from None
        raise


def _last_durable(native: NativeArena, folder: Folder, tip: Tip) -> Start:
    """Return where a journal that has stopped goes on: behind what was known to be durable; what it has beyond that is in doubt."""
    known = native_journal.durable(native)
    found = tip.start
    with folder.open_file(tip.start.number) as file:
        while (batch := file.next()) is not None and batch.end <= known:
            found = found._replace(position=batch.end, seq=batch.seq, at=batch.at, chain=batch.chain)
    return found


# -- none, or none that can be used ---------------------------------------------------------------------------------------


def _taken(folder: Folder, timeout: float) -> Lock:
    deadline = time.monotonic() + timeout
    while True:
        try:
            return folder.take()
        except JournalError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_POLL)


def restore(
    name: str,
    folder: Folder,
    *,
    seq: int = order.END,
    at: int = order.END,
    progress: Callable[[int, int, str], None] | None = None,
    timeout: float = 0.0,
) -> Restored:
    """Make the segment from the journal, and give it the name, whose lock the caller holds.

    Args:
        name: The arena's.
        folder: Of its journal.
        seq: The last commit to be restored.
        at: The last moment, in nanoseconds since the epoch.
        progress: As of `start.restore`; None: have events say how far it is.
        timeout: Seconds to wait for who is about to let the folder go.
    """
    lock = _taken(folder, timeout)
    path = half_made(name)
    try:
        folder.drop_new()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108
        target = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, _shm.MODE)
        try:
            fcntl.flock(target, fcntl.LOCK_EX)
            restored = start.restore(
                folder,
                target,
                name,
                seq=seq,
                at=at,
                progress=watched(name, folder, progress),
                alive=lambda: touch(name, folder),
            )
            os.rename(path, _shm.path_of(name))  # noqa: PTH104
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108
            raise
        finally:
            os.close(target)
    finally:
        lock.release()
    return restored


def _report(restored: Restored) -> Restoration:
    return Restoration(
        seq=restored.seq,
        at=_times.of(restored.at),
        snapshot=restored.snapshot.seq,
        commits=restored.records,
        bytes=restored.bytes,
        torn=restored.torn,
        damaged=restored.damaged,
        milliseconds=round(restored.seconds * 1000),
        epoch=order.lives(restored.epoch),
    )
