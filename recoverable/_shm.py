"""Named shared-memory objects under a file lock: the only place that makes, opens and removes them.

Creating, attaching and unlinking an arena happen while holding an `flock` on the object itself. The object that was
locked may have been unlinked by whoever held the lock before; then its name belongs to nobody, or to a newer object,
and the whole step starts again. That is read off its link count, so no path is looked up twice.

Anybody may write into /dev/shm, so what has an arena's name need not be one. Only a regular file is opened: a FIFO would
block, and opening a device is an act of its own. A file that was made before us, empty and open to others, is made again,
since whoever opened it then could write into the arena.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import posix_ipc

from recoverable.errors import ArenaBusyError, ArenaNotFoundError, ArenaPermissionError, ArenaSystemError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MODE", "capacity", "check_kind", "locked", "path_of", "unlink"]

#: Of an arena's object: nobody else's business.
MODE: Final = 0o600

_POLL: Final = 0.005  # seconds between two tries for the lock: flock can't wait with a time limit
_KINDS: Final = (
    (stat.S_ISDIR, "a directory", errno.EISDIR),
    (stat.S_ISLNK, "a symbolic link", errno.ELOOP),
    (stat.S_ISFIFO, "a FIFO", errno.EINVAL),
    (stat.S_ISSOCK, "a socket", errno.EINVAL),
)


def path_of(name: str) -> str:
    """Return where the object of the arena of that name lies."""
    return f"/dev/shm/recoverable.{name}"


def _ipc_name(name: str) -> str:
    return f"/recoverable.{name}"


def check_kind(name: str, mode: int) -> None:
    """Raise ArenaSystemError if what has that arena's name is no regular file, by its `st_mode`."""
    if stat.S_ISREG(mode):
        return
    what, number = next(((what, number) for asks, what, number in _KINDS if asks(mode)), ("a device", errno.EINVAL))
    raise ArenaSystemError(
        number,
        f"{what} is in the place of arena {name!r}: {path_of(name)}. Nothing was opened or changed. "
        "Remove it, or choose another name.",
    )


def _not_found(name: str) -> ArenaNotFoundError:
    return ArenaNotFoundError(
        f"there is no arena named {name!r}. Nothing was opened. "
        f"Arena.open({name!r}, create=True) makes one; `ls /dev/shm` lists those that exist."
    )


def _open(name: str, create: bool) -> int:
    try:
        check_kind(name, os.lstat(path_of(name)).st_mode)
    except FileNotFoundError:
        if not create:
            raise _not_found(name) from None
    except ArenaSystemError:
        raise
    except OSError:
        pass  # opening it will tell
    try:
        fd = int(posix_ipc.SharedMemory(_ipc_name(name), os.O_CREAT if create else 0, mode=MODE, size=0).fd)
    except posix_ipc.ExistentialError:
        raise _not_found(name) from None
    except (posix_ipc.PermissionsError, PermissionError):
        raise ArenaPermissionError(
            f"arena {name!r} belongs to another user, or /dev/shm is closed to this one. Nothing was opened or "
            "changed. Run as the user who made it, or choose another name."
        ) from None
    except (OSError, ValueError, posix_ipc.Error) as error:
        number = getattr(error, "errno", None)
        why = os.strerror(number) if number else str(error)  # out of descriptors, posix_ipc gives no number
        raise ArenaSystemError(
            number or errno.EINVAL, f"the shared memory of arena {name!r} can't be opened: {why}. Nothing was changed."
        ) from error
    return fd


def _lock(fd: int, name: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                raise ArenaSystemError(
                    error.errno or 0, f"arena {name!r} can't be locked: {error.strerror}. Nothing was changed."
                ) from error
            if time.monotonic() >= deadline:
                raise ArenaBusyError(
                    f"another process has been opening or unlinking arena {name!r} for longer than busy_timeout. "
                    "Nothing was opened or changed. Try again, or end that process."
                ) from None
            time.sleep(_POLL)
        else:
            return


def _close(fd: int, key: tuple[int, int]) -> None:
    """Let the lock go and close `fd`, unless another thread has closed it, and it is another file's number by now."""
    try:
        status = os.fstat(fd)
    except OSError:
        return
    if (status.st_dev, status.st_ino) == key:
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _is_loose(status: os.stat_result) -> bool:
    """Return whether it is an empty file of ours that others may have opened."""
    return not status.st_size and status.st_uid == os.geteuid() and bool(stat.S_IMODE(status.st_mode) & ~MODE)


def _is_left_empty(fd: int, key: tuple[int, int]) -> bool:
    """Return whether that object of ours still has its name, and nothing in it."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    is_it = (status.st_dev, status.st_ino) == key and status.st_uid == os.geteuid()
    return is_it and status.st_nlink > 0 and status.st_size == 0


@contextmanager
def locked(name: str, *, create: bool, timeout: float) -> Iterator[int]:
    """Hold the file lock of the object that has this name now. If the block fails, an object that is still empty goes.

    Args:
        name: An arena's name, checked.
        create: Make the object, empty and with mode 0600, if it does not exist.
        timeout: Seconds to wait for the lock.

    Yields:
        The object's file descriptor, closed afterwards.

    Raises:
        ArenaNotFoundError: It does not exist, and `create` is false.
        ArenaPermissionError: The system does not let this user open it.
        ArenaSystemError: What has the name is no regular file.
        ArenaBusyError: The lock could not be acquired in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        fd = _open(name, create)
        status = os.fstat(fd)
        key = status.st_dev, status.st_ino
        try:
            check_kind(name, status.st_mode)
            _lock(fd, name, deadline)
            status = os.fstat(fd)
            if not status.st_nlink:
                continue
            if create and _is_loose(status):
                unlink(name)
                continue
            try:
                yield fd
            except BaseException:  # what it was made for did not come about
                if create and _is_left_empty(fd, key):
                    unlink(name)
                raise
            return
        finally:
            _close(fd, key)


def unlink(name: str) -> None:
    """Remove the name. Call it while holding the lock of the object that has it."""
    try:
        posix_ipc.unlink_shared_memory(_ipc_name(name))
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
