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
from recoverable._native import journal as native_journal
from recoverable._native.journal import Start
from recoverable.errors import JournalError, RecoverableError
from recoverable.journal import snapshots, start
from recoverable.journal.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from recoverable._native.journal import Lock
    from recoverable._native.runtime import NativeArena
    from recoverable._segment import Segment
    from recoverable.journal.folder import Folder, Tip
    from recoverable.journal.start import Restored

__all__ = ["opened", "restore", "ring_for"]

_RING: Final = 64 * 1024**2
_LEAST_RING: Final = 1024**2
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
    while True:
        with _shm.locked(name, create=create or not folder.empty, timeout=timeout) as fd:
            shared = _registry.find_behind(fd)
            if shared is not None:
                _check_shared(shared, folder)
                return shared, shared
            if os.fstat(fd).st_size == 0 and not folder.empty:
                _tell(name, folder, restore(name, folder))
                continue
            segment = make(fd)
            try:
                if _go_on_together(segment, folder):
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
    if gate is None or gate.path != folder.path:
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


def _go_on_together(segment: Segment, folder: Folder) -> bool:
    """Have a mapped segment's commits written to the journal; False: it must not be, the journal is further."""
    native, name = segment.native, segment.name
    try:
        lock: Lock | None = folder.take()
    except JournalError:
        if len(_core.processes(native)) < 2:
            raise
        lock = None  # of another process that has this segment open
    try:
        if lock is not None and not _is_next(native, name, folder):
            return False
        if lock is None:
            _check_same(native, name, folder)
        native.journal = Gate(native, name, folder.path, lock)
    finally:
        if lock is not None:
            lock.release()  # unless the thread that writes has it
    return True


def _check_same(native: NativeArena, name: str, folder: Folder) -> None:
    numbers = folder.files()
    state = start.state_of(native, name)
    if numbers and folder.start_of(numbers[-1]).arena != state[0]:
        raise start.another(name, folder)


def _is_next(native: NativeArena, name: str, folder: Folder) -> bool:
    """See that the journal goes on where the segment does; False: the journal is further, and nobody else has the segment."""
    tip = folder.tip()
    state = start.state_of(native, name)
    if tip is None:
        _begin(native, folder, None)
        return True
    if start.is_behind(state, name, folder, tip) or _core.created(native):
        if len(_core.processes(native)) > 1:
            raise JournalError(
                f"arena {name!r} in shared memory is behind journal {folder.path!r}, which was restored elsewhere since, and "
                "other processes use it. Nothing was changed. End them; the next start restores it from the journal."
            )
        return False
    was = native_journal.state(native)
    has_stopped = was is not None and was.stopped != 0
    last = _last_durable(native, folder, tip) if has_stopped else tip.as_start()
    if last.position < state[3]:  # what lies between is nowhere but in memory
        _begin(native, folder, last)
        return True
    if has_stopped:  # what the kernel has dropped of the old file, nobody knows
        native_journal.create_file(folder.path, last._replace(number=last.number + 1))
    native_journal.attach(native, last.position, last.seq)
    return True


def _begin(native: NativeArena, folder: Folder, last: Start | None) -> None:
    """Have the journal go on from a snapshot of what is in memory, and from a file of its own."""
    chain, number = (0, 0) if last is None else (last.chain, last.number)
    first = snapshots.take(folder, native, chain)
    native_journal.create_file(
        folder.path, Start(first.arena, number + 1, 0, first.epoch, first.position, first.seq, first.at, chain)
    )
    native_journal.attach(native, first.position, first.seq)


def _last_durable(native: NativeArena, folder: Folder, tip: Tip) -> Start:
    """Return where a journal that has stopped goes on: behind what was known to be durable; what it has beyond that is in doubt."""
    known = native_journal.durable(native)
    found = tip.start
    with folder.open_file(tip.start.number) as file:
        while (batch := file.next()) is not None and batch.end <= known:
            found = found._replace(position=batch.end, seq=batch.seq, at=batch.at, chain=batch.chain)
    return found


# -- none, or none that can be used ---------------------------------------------------------------------------------------


def restore(
    name: str,
    folder: Folder,
    *,
    seq: int = start.END,
    at: int = start.END,
    progress: Callable[[int, int, str], None] | None = None,
) -> Restored:
    """Make the segment from the journal, and give it the name, whose lock the caller holds.

    Args:
        name: The arena's.
        folder: Of its journal.
        seq: The last commit to be restored.
        at: The last moment, in nanoseconds since the epoch.
        progress: As of `start.restore`.
    """
    lock = folder.take()
    half_made = f"{_shm.path_of(name)}~restoring"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(half_made)  # noqa: PTH108
        target = os.open(half_made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, _shm.MODE)
        try:
            fcntl.flock(target, fcntl.LOCK_EX)
            restored = start.restore(folder, target, name, seq=seq, at=at, progress=progress)
            os.rename(half_made, _shm.path_of(name))  # noqa: PTH104
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(half_made)  # noqa: PTH108
            raise
        finally:
            os.close(target)
    finally:
        lock.release()
    return restored


def _tell(name: str, folder: Folder, restored: Restored) -> None:
    events.journal_restored(
        name,
        folder.path,
        restored.seq,
        _times.of(restored.at).isoformat(),
        restored.snapshot.seq,
        restored.records,
        restored.bytes,
        restored.torn,
        round(restored.seconds * 1000),
        restored.epoch,
    )
