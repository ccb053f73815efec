"""A private copy of an arena: its bytes at one moment, in an object that has no name.

What we want: to look at all of an arena without changing it, and to keep what was seen as a file. A segment at one
moment, its undo log included, *is* its committed state: opening it undoes what was under way, and that happens to the
copy. So a copy needs no format of its own.

The moment: where nobody is attached, the file lock keeps it so. Where somebody is, copy and look whether a step has ended
meanwhile: if none has, data copied first and the undo log after it are of one moment (`image.c` says why), and nobody has
noticed. A server that does not pause that long has to wait: the copy is made once more inside a transaction that writes
nothing and holds the arena's lock. That goes faster, since the copy has its memory by then. Only pages that hold data are
read.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from recoverable import _shm
from recoverable._native.feed import Restore
from recoverable.arena import Arena, open_copy
from recoverable.cli import _outside
from recoverable.errors import ArenaFullError, ArenaNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["capture", "extents", "opened_copy", "publish", "renew"]

_PIECE: Final = 1 << 22
_TRIES: Final = 3  # to copy without the lock


def extents(fd: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of the parts of a sparse file that hold data."""
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end - start


def _copy(source: int, target: int) -> None:
    """Copy a sparse file: as long, with the same bytes, and holes where it has holes."""
    os.ftruncate(target, os.fstat(source).st_size)
    for start, length in extents(source):
        _copy_range(source, target, start, length)


def _copy_range(source: int, target: int, start: int, length: int) -> None:
    os.lseek(target, start, os.SEEK_SET)
    at, end = start, start + length
    while at < end:
        copied = os.sendfile(target, source, at, min(_PIECE, end - at))
        if not copied:  # it was cut off meanwhile
            return
        at += copied


def _same(fd: int, arena: Arena) -> bool:
    status = os.fstat(fd)
    return (status.st_dev, status.st_ino) == arena._segment.key


def _copy_unnoticed(source: int, target: int, name: str) -> bool:
    """Copy an arena that others work in; return whether it is of one moment."""
    before = _outside.peek_fd(source, name)
    _copy(source, target)
    _copy_range(source, target, *_outside.peek_fd(source, name).backed[0])  # header and log, once more
    after = _outside.peek_fd(source, name)
    phases = {before.phase, after.phase}
    return before.cuts == after.cuts and (len(phases) == 1 or not (before.cuts % 2 or "publish" in phases))


def _copy_locked(source: int, target: int, name: str) -> None:
    """Copy an arena that others work in while they wait."""
    with Arena.open(name, create=False) as arena:
        if not _same(source, arena):
            raise ArenaNotFoundError(f"arena {name!r} was removed and made anew meanwhile; try again")
        with arena.transaction():
            len(arena.root)  # the first touch takes the lock, which is kept to the block's end
            _copy(source, target)


@contextmanager
def capture(name: str) -> Iterator[int]:
    """Copy the arena of that name as it is at one moment; unnoticed where its servers pause long enough for it.

    Yields:
        The file descriptor of the copy, closed afterwards.

    Raises:
        ArenaNotFoundError: It does not exist.
        ArenaBusyError: Its lock could not be acquired within five seconds.
        ArenaCorruptError: It is damaged.
    """
    copy = os.memfd_create(f"recoverable.{name}", os.MFD_CLOEXEC)
    try:
        with _shm.locked(name, create=False, timeout=5.0) as fd:
            quiet = not _outside.peek_fd(fd, name).alive
            if quiet:
                _copy(fd, copy)
        if not quiet:
            with _outside.opened(name) as fd:
                if not any(_copy_unnoticed(fd, copy, name) for _ in range(_TRIES)):
                    _copy_locked(fd, copy, name)
        yield copy
    finally:
        os.close(copy)


@contextmanager
def opened_copy(name: str) -> Iterator[Arena]:
    """Open a private copy of the arena of that name. Raises what `capture` and opening raise."""
    with capture(name) as fd:
        arena = open_copy(name, fd)
        try:
            yield arena
        finally:
            arena.close()


def renew(copy: int, name: str) -> None:
    """Make a copy another arena than the one that it is of: its feed begins anew, and no journal of that one's is its own."""
    arena = Restore(copy, name)
    try:
        arena.renew()
    finally:
        arena.close()


def publish(copy: int, name: str) -> bool:
    """Make an arena of a copy that is sound.

    The header comes last: until then an object is half-made, and whoever opens it makes it anew. What the header says
    has memory behind it gets that first, so that a full /dev/shm is found here and not by a write.

    Returns:
        Whether it was made; False where there is an arena of that name.

    Raises:
        ArenaFullError: /dev/shm has no room. Nothing is left of it.
    """
    backed = _outside.peek_fd(copy, name).backed
    with _shm.locked(name, create=True, timeout=5.0) as fd:
        if os.fstat(fd).st_size:
            return False
        try:
            os.ftruncate(fd, os.fstat(copy).st_size)
            for start, length in backed:
                for at in range(start, start + length, _PIECE):
                    os.posix_fallocate(fd, at, min(_PIECE, start + length - at))
            for start, length in [*extents(copy)][::-1]:
                _copy_range(copy, fd, start, length)
        except BaseException as error:
            _shm.unlink(name)
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise ArenaFullError(
                    f"/dev/shm has no room for arena {name!r}. Nothing was made. Remove what is not needed there "
                    "(recoverable ls, recoverable rm), or enlarge it (mount -o remount,size=...; docker run --shm-size=...)."
                ) from None
            raise
    return True
