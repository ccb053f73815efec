"""Descriptors of files that are open for a while, in programs that close numbers which are not theirs, as daemons that close all.

A number that was closed under our hands may be another file's when we come to close it: an event loop's, perhaps. So a number is
believed only if what it leads to is what the path leads to, and closed only if it is that still. What nobody can tell apart stays
open.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["identity", "opened"]

_TRIES: Final = 8


def identity(fd: int) -> tuple[int, int] | None:
    """Return what tells the file behind a number from all others; None: nothing is."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextlib.contextmanager
def opened(path: str, flags: int, *, dir_fd: int | None = None) -> Iterator[int]:
    """Open a file for a block; one that is made is its owner's alone.

    Args:
        path: The file's.
        flags: As of `os.open`; no child inherits it.
        dir_fd: A folder that the path begins at.

    Raises:
        OSError: It can't be opened, or the number is closed again and again.
    """
    fd, key = _open(path, flags, dir_fd)
    try:
        yield fd
    finally:
        if identity(fd) == key:
            os.close(fd)


def _open(path: str, flags: int, dir_fd: int | None) -> tuple[int, tuple[int, int]]:
    for _ in range(1 if flags & os.O_EXCL else _TRIES):
        fd = os.open(path, flags | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
        key = identity(fd)
        try:
            status = os.stat(path, dir_fd=dir_fd, follow_symlinks=not flags & os.O_NOFOLLOW)
        except FileNotFoundError:  # removed meanwhile
            if key is not None:
                return fd, key
        else:
            if key == (status.st_dev, status.st_ino):
                return fd, key
            _let_go(fd, path)
    raise OSError(errno.EBADF, os.strerror(errno.EBADF), path)


def _let_go(fd: int, path: str) -> None:
    """Close it if it is of a file that had that name, and has been replaced."""
    with contextlib.suppress(OSError):
        if os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)") == os.path.realpath(path):  # noqa: PTH115
            os.close(fd)
