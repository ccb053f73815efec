"""Named shared-memory objects under a file lock: the only place that makes, opens and removes them.

Creating, attaching and unlinking an arena happen while holding an `flock` on the object itself. The object that was
locked may have been unlinked by whoever held the lock before; then its name belongs to nobody, or to a newer object,
and the whole step starts anew. That is read off its link count, so no path is looked up twice.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import posix_ipc

from recoverable.errors import ArenaBusyError, ArenaNotFoundError, ArenaPermissionError, ArenaSystemError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["capacity", "locked", "unlink"]

_POLL: Final = 0.005  # seconds between two tries for the lock: flock can't wait with a time limit


def _path(name: str) -> str:
    return f"/recoverable.{name}"


def _open(name: str, create: bool) -> int:
    flags = os.O_CREAT if create else 0
    try:
        return int(posix_ipc.SharedMemory(_path(name), flags, mode=0o600, size=0).fd)
    except posix_ipc.ExistentialError:
        raise ArenaNotFoundError(
            f"there is no arena named {name!r}. Nothing was opened. "
            f"Arena.open({name!r}, create=True) makes one; `ls /dev/shm` lists those that exist."
        ) from None
    except (posix_ipc.PermissionsError, PermissionError):
        raise ArenaPermissionError(
            f"arena {name!r} belongs to another user, or /dev/shm is closed to this one. Nothing was opened or "
            "changed. Run as the user who made it, or choose another name."
        ) from None
    except OSError as error:
        raise ArenaSystemError(
            error.errno or 0, f"the shared memory of arena {name!r} can't be opened: {error.strerror}. Nothing changed."
        ) from error


def _lock(fd: int, name: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                raise
            if time.monotonic() >= deadline:
                raise ArenaBusyError(
                    f"another process has been opening or unlinking arena {name!r} for longer than busy_timeout. "
                    "Nothing was opened or changed. Try again, or end that process."
                ) from None
            time.sleep(_POLL)
        else:
            return


@contextmanager
def locked(name: str, *, create: bool, timeout: float) -> Iterator[int]:
    """Hold the file lock of the object that has this name now.

    Args:
        name: An arena's name, checked.
        create: Whether to make the object, empty and with mode 0600, where there is none.
        timeout: Seconds to wait for the lock.

    Yields:
        The object's file descriptor, closed afterwards.

    Raises:
        ArenaNotFoundError: There is none, and `create` is false.
        ArenaPermissionError: The system does not let this user open it.
        ArenaBusyError: The lock was not to be had in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        fd = _open(name, create)
        try:
            _lock(fd, name, deadline)
            if os.fstat(fd).st_nlink:
                try:
                    yield fd
                finally:
                    # The core keeps a duplicate of fd, which shares the lock: closing would not release it.
                    fcntl.flock(fd, fcntl.LOCK_UN)
                return
        finally:
            os.close(fd)


def unlink(name: str) -> None:
    """Remove the name. Call it while holding the lock of the object that has it."""
    try:
        posix_ipc.unlink_shared_memory(_path(name))
    except posix_ipc.ExistentialError:
        pass
    except (posix_ipc.PermissionsError, PermissionError):
        raise ArenaPermissionError(
            f"arena {name!r} can't be unlinked by this user. It is unchanged. Run as the user who made it."
        ) from None


def capacity(fd: int) -> int:
    """Return how many bytes the file system of shared memory holds in all."""
    system = os.fstatvfs(fd)
    return system.f_blocks * system.f_frsize
