"""The first snapshot of a journal: of an arena in memory, in which other processes may be at work.

They never wait for longer than a slice takes. Slices are of different moments; what was committed since the first one is written
over them, from the feed, until the copy is what the arena was after the last one. `snapshot.c` says why that is so. Where the feed
overwrites commits before they are read, it is begun again, and at last copied under the arena's lock.

The feed goes on while the copy gets its checksum and is written to the disk, and must not overrun it there either. So pieces of it
are read for the checksum in rounds, with a look at the feed between any two; each round has only what was written to during the one
before. What comes behind the last look is short: a few pieces, and flushes with little to do.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final

from recoverable._descriptors import opened
from recoverable._native import feed as native_feed
from recoverable._native import journal as native_journal
from recoverable.errors import ArenaFullError, JournalError, StaleReferenceError
from recoverable.journal import snapshots
from recoverable.journal.folder import NEW
from recoverable.journal.snapshots import Snapshot, Sums
from recoverable.journal.watched import beating, spare_beside

if TYPE_CHECKING:
    from recoverable._native.runtime import NativeArena
    from recoverable.journal.folder import Folder

__all__ = ["take", "unwritable"]

_SLICE: Final = 256 * 1024  # bytes that are copied under the lock: some 50 µs
_ZEROS: Final = bytes(_SLICE)
_READ: Final = 1024 * 1024  # bytes of the feed at a time
_FLUSHED: Final = 8 * 1024**2  # bytes at a time, so that there are never many to wait for
_TOUCHED: Final = 1.0  # seconds
_TRIES: Final = 3
_ROUNDS: Final = 8
_FEW: Final = 8  # pieces: 2 MiB, which are read in less than 1 ms


def unwritable(folder: Folder, error: OSError | ArenaFullError) -> JournalError:
    """Return the error of a first snapshot that can't be written, or of the file behind it; what there was of them is removed."""
    why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return JournalError(
        f"the first snapshot of journal {folder.path!r} can't be written: {why}. Nothing was opened, and what was written of it is "
        "removed."
    )


def take(folder: Folder, native: NativeArena, chain: int) -> Snapshot:
    """Take one of an arena in memory.

    Args:
        folder: Of the journal, with the right to write there.
        native: The arena, with a feed.
        chain: The checksum that the next batch goes on from.

    Raises:
        JournalError: It can't be written.
        StaleReferenceError: The feed is faster, whatever is tried.
    """
    path = f"{folder.path}/{NEW}"
    try:
        with opened(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW) as fd:
            for _ in range(_TRIES):
                with contextlib.suppress(StaleReferenceError):  # the feed was faster
                    found = _Copy(folder, native, fd).made(chain)
                    break
                os.ftruncate(fd, 0)
            else:
                found = _Copy(folder, native, fd, at_once=True).made(chain)
            snapshots.finish(folder, fd, NEW, found)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108
        if isinstance(error, (OSError, ArenaFullError)):
            raise unwritable(folder, error) from None
        raise
    return found


class _Copy:
    """A copy that is being made."""

    def __init__(self, folder: Folder, native: NativeArena, fd: int, *, at_once: bool = False) -> None:
        """Copy what has to be of one moment, at which it begins; or all, while nobody commits."""
        self._folder, self._native, self._fd = folder, native, fd
        self._touched, self._unflushed = time.monotonic(), 0
        state, self._size, small, self._parts = native_journal.snapshot_begin(native)
        self._sums = Sums(fd, self._size)
        os.ftruncate(fd, self._size)
        if at_once:
            with beating(self._touch):
                state = native_journal.snapshot_write(native, fd, folder.path)
            small, self._parts = [], []
            self._sums.touch(0, self._size)
        self._arena, self._epoch, _, _, self._position, self._seq, self._at = state
        for offset, data in small:
            self._write(offset, data)

    def made(self, chain: int) -> Snapshot:
        """Copy the rest.

        Raises:
            StaleReferenceError: The feed has overwritten what was committed meanwhile.
        """
        with spare_beside(self._folder, self._catch_up):  # which takes long where disks are slow
            self._copy()
            for _ in range(_ROUNDS):
                if self._settle() <= _FEW:
                    break
        self._catch_up()
        for _ in self._sums.read():
            pass
        crc = self._sums.total()
        return Snapshot(self._arena, self._epoch, self._position, self._seq, self._at, self._size, crc, chain)

    def _copy(self) -> None:
        piece = bytearray(_SLICE)
        for offset, size in self._parts:
            for at in range(offset, offset + size, _SLICE):
                n = min(_SLICE, offset + size - at)
                native_journal.snapshot_read(self._native, at, n, piece)
                data = piece if n == _SLICE else piece[:n]
                if data != _ZEROS[:n]:
                    self._write(at, data)
                self._catch_up()

    def _settle(self) -> int:
        """Read for the checksum what has been written to up to now, and flush it; return how many pieces that were."""
        n = 0
        for _ in self._sums.read():
            n += 1
            self._catch_up()
        os.fdatasync(self._fd)
        self._unflushed = 0
        self._catch_up()
        return n

    def _catch_up(self) -> None:
        """Write over the copy what was committed up to now."""
        state = native_feed.state(self._native)
        assert state is not None
        while self._position < state[4]:
            records = native_feed.read(self._native, self._position, _READ)
            self._seq, self._at = native_journal.snapshot_apply(
                self._fd, self._size, self._folder.path, records, self._sums.touched
            )
            self._position += len(records)
            self._flush(len(records))
        self._touch()

    def _write(self, at: int, data: bytes | bytearray) -> None:
        os.pwrite(self._fd, data, at)
        self._sums.touch(at, len(data))
        self._flush(len(data))

    def _flush(self, written: int) -> None:
        self._unflushed += written
        if self._unflushed > _FLUSHED:
            self._unflushed = 0
            os.fdatasync(self._fd)

    def _touch(self) -> None:
        """Have others see that it goes on: they wait for as long as it does."""
        if time.monotonic() - self._touched > _TOUCHED:
            self._touched = time.monotonic()
            os.utime(self._fd)
            self._folder.touch()
