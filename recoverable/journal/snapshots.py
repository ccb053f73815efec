"""Snapshots: an arena's state at a position of its feed, in a file.

The segment's bytes lie where they lie in the segment, so that a copy can be mapped as one; holes are zeros. Behind them a page says
what it is of, with a checksum over all that is no hole, and one over itself. A file counts from when it has its name, which it gets
when all of it is durable.

What we want: a snapshot that can be relied on before anything older is dropped, and a server that never stops for it.

What does not work: copying memory again and again while requests change it. It is done in slices under the lock, and takes memory's
word for what the journal has.

What does: bringing the last snapshot forward by the journal, in another process, from files alone. The server is not asked,
and each record of the journal has been replayed before it is dropped. The first one has none before it: `first`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from recoverable import _descriptors
from recoverable._native.journal import crc32c
from recoverable.errors import ArenaCorruptError, JournalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from recoverable.journal.folder import Folder

__all__ = ["Snapshot", "Sums", "checksum", "copy", "damaged", "duplicate", "finish", "latest", "opened", "read"]

_UNREADABLE: Final = (errno.EACCES, errno.EPERM, errno.ENXIO, errno.ELOOP, errno.EIO)
_MAGIC: Final = b"recoverable-copy"
_FORMAT: Final = 1
_PAGE: Final = struct.Struct(
    "<16sII32sQQQQQII"
)  # magic, format, crc of this, arena, epoch, position, seq, at, size, crc, chain
_PIECE: Final = 256 * 1024
_ZEROS: Final = bytes(_PIECE)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot is of.

    Attributes:
        arena: The arena's identity.
        epoch: How often its state had been restored before.
        position: Of the feed: it has all commits before it.
        seq: The number of the last of those; `at` its time, nanoseconds since the epoch.
        size: Of the segment, in bytes.
        crc: Over its content.
        chain: The checksum of the batch of the journal that has that last commit.
    """

    arena: str
    epoch: int
    position: int
    seq: int
    at: int
    size: int
    crc: int
    chain: int

    def page(self) -> bytes:
        """Return the page behind its content."""

        def packed(crc: int) -> bytes:
            return _PAGE.pack(
                _MAGIC,
                _FORMAT,
                crc,
                self.arena.encode(),
                self.epoch,
                self.position,
                self.seq,
                self.at,
                self.size,
                self.crc,
                self.chain,
            )

        return packed(crc32c(0, packed(0)))


# -- content -------------------------------------------------------------------------------------------------------------


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield what is no hole of a file, in pieces at multiples of the same size: (offset, length)."""
    at = 0
    while at < size:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            return
        hole = min(os.lseek(fd, data, os.SEEK_HOLE), size)
        at = data // _PIECE * _PIECE
        while at < hole:
            yield at, min(_PIECE, size - at)
            at += _PIECE


def _pieces(fd: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield what is no zeros of a file: (offset, bytes)."""
    for at, length in _extents(fd, size):
        piece = os.pread(fd, length, at)
        if len(piece) != length:
            raise OSError(0, "the file is shorter than it was")
        if piece != (_ZEROS if length == _PIECE else _ZEROS[:length]):
            yield at, piece


def _crc(at: int, piece: bytes, before: int) -> int:
    return crc32c(crc32c(before, at.to_bytes(8, "little")), piece)


def checksum(fd: int, size: int) -> int:
    """Return the checksum of a file's content: of each piece that is not zeros, and of where it lies."""
    crc = 0
    for at, piece in _pieces(fd, size):
        crc = _crc(at, piece, crc)
    return crc


def _behind(length: int) -> Callable[[int], int]:
    """Return what takes the checksum of something to its part in that of something longer, by so many bytes.

    A CRC is linear: crc32c(a, b) == crc32c(0, b) ^ behind(a), whatever the bytes are. So zeros tell what it does to each bit.
    """
    zeros = bytes(length)
    tables = []
    for shift in 0, 8, 16, 24:
        table = [0]
        for bit in range(8):
            column = crc32c(1 << shift + bit, zeros) ^ crc32c(0, zeros)
            table += [value ^ column for value in table]
        tables.append(table)
    a, b, c, d = tables
    return lambda crc: a[crc & 255] ^ b[crc >> 8 & 255] ^ c[crc >> 16 & 255] ^ d[crc >> 24]


class Sums:
    """The checksum of the content of a file that is still being written to: only what has changed is read again.

    Attributes:
        touched: A byte for each piece: 1, it has been written to since it was read.
    """

    def __init__(self, fd: int, size: int) -> None:
        """Begin with a file that is nothing but zeros."""
        self._fd, self._size = fd, size
        self._of: dict[int, int] = {}  # of each piece that is no zeros, by its number
        self.touched = bytearray(-(-size // _PIECE))

    def touch(self, at: int, length: int) -> None:
        """Note that bytes were written there."""
        first, end = at // _PIECE, -(-(at + length) // _PIECE)
        self.touched[first:end] = b"\1" * (end - first)

    def read(self) -> Iterator[int]:
        """Read what has been written to so far, piece by piece: the bytes of each."""
        for number in [number for number, touched in enumerate(self.touched) if touched]:
            self.touched[number] = 0
            at = number * _PIECE
            piece = os.pread(self._fd, min(_PIECE, self._size - at), at)
            if piece == _ZEROS[: len(piece)]:
                self._of.pop(number, None)
            else:
                self._of[number] = _crc(at, piece, 0)
            yield len(piece)

    def total(self) -> int:
        """Return the checksum of all of it, as it was read: of each piece that is not zeros, and of where it lies."""
        crc = 0
        behind, last = _behind(8 + _PIECE), len(self.touched) - 1
        for number, own in sorted(self._of.items()):
            behind = behind if number < last else _behind(8 + self._size - last * _PIECE)
            crc = behind(crc) ^ own
        return crc


def _clone(source: int, target: int, at: int, length: int) -> bool:
    """Have the kernel copy a piece, which shares its blocks where the file system can; False: it can't, between these two."""
    end = at + length
    while at < end:
        try:
            done = os.copy_file_range(source, target, end - at, at, at)
        except OSError as error:
            if error.errno in _FULL:
                raise
            return False
        if done == 0:
            return False
        at += done
    return True


def duplicate(source: int, target: int, size: int, progress: Callable[[int, int, str], None] | None = None) -> int:
    """Copy a file's content into an empty file, but for zeros, and return its checksum."""
    os.ftruncate(target, size)
    crc = done = 0
    clones = True
    for at, piece in _pieces(source, size):
        crc = _crc(at, piece, crc)
        clones = clones and _clone(source, target, at, len(piece))
        if not clones:
            os.pwrite(target, piece, at)
        done += len(piece)
        if progress is not None:
            progress(done, size, "copied")
    return crc


def damaged(snapshot: Snapshot) -> ArenaCorruptError:
    """Return the error of a snapshot whose content is not what it was."""
    return ArenaCorruptError(
        f"snapshot-{snapshot.position:016x} is damaged: its content is not what its checksum is of. It is unchanged."
    )


def copy(snapshot: Snapshot, source: int, target: int, progress: Callable[[int, int, str], None] | None = None) -> None:
    """Copy a snapshot's content into an empty file, checking it on the way.

    Raises:
        ArenaCorruptError: It is not what it was.
    """
    if duplicate(source, target, snapshot.size, progress) != snapshot.crc:
        raise damaged(snapshot)


# -- files ------------------------------------------------------------------------------------------------------------------


def opened(path: str) -> AbstractContextManager[int]:
    """Open what lies there for a block, to be given to `read`: whatever it is, that waits for nobody."""
    return _descriptors.opened(path, os.O_RDONLY | os.O_NONBLOCK)


def read(path: str, fd: int) -> Snapshot:
    """Return what the snapshot in that file is of; its content is not looked at.

    Raises:
        ArenaCorruptError: It is none.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise ArenaCorruptError(f"snapshot {path!r} is damaged: it is no file. It is unchanged.")
    size = status.st_size - _PAGE.size
    try:
        page = os.pread(fd, _PAGE.size, max(size, 0))
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise ArenaCorruptError(
            f"snapshot {path!r} is damaged at offset {max(size, 0)}: the disk can't read it. It is unchanged."
        ) from None
    if len(page) == _PAGE.size:
        magic, version, crc, arena, *rest = _PAGE.unpack(page)
        blank = page[:20] + bytes(4) + page[24:]
        if magic == _MAGIC and version != _FORMAT:
            raise JournalError(
                f"snapshot {path!r} has format {version}, and this version reads {_FORMAT}. It is unchanged."
            )
        if magic == _MAGIC and crc == crc32c(0, blank):
            found = Snapshot(arena.decode(), *rest)
            if found.size == size:
                return found
    raise ArenaCorruptError(
        f"snapshot {path!r} is damaged at offset {max(size, 0)}: no page that ends one is there. It is unchanged."
    )


def finish(folder: Folder, fd: int, name: str, snapshot: Snapshot) -> None:
    """Give a file with the content its last page and its name, durably."""
    os.pwrite(fd, snapshot.page(), snapshot.size)
    os.fsync(fd)
    os.rename(f"{folder.path}/{name}", folder.snapshot_path(snapshot.position))  # noqa: PTH104
    with _descriptors.opened(folder.path, os.O_RDONLY | os.O_DIRECTORY) as folder_fd:
        os.fsync(folder_fd)


def latest(folder: Folder, failures: list[ArenaCorruptError]) -> Iterator[tuple[Snapshot, int]]:
    """Yield the snapshots, the newest first, each with a descriptor, which is closed afterwards. Damaged ones go to `failures`."""
    for position in reversed(folder.snapshots()):
        path = folder.snapshot_path(position)
        with contextlib.ExitStack() as stack:
            try:
                fd = stack.enter_context(opened(path))
            except FileNotFoundError:  # a compaction has dropped it, which keeps two newer ones
                continue
            except OSError as error:
                if error.errno not in _UNREADABLE:
                    raise
                failures.append(
                    ArenaCorruptError(f"snapshot {path!r} can't be opened: {error.strerror}. It is unchanged.")
                )
                continue
            try:
                found = read(path, fd)
            except ArenaCorruptError as error:
                failures.append(error)
                continue
            yield found, fd
