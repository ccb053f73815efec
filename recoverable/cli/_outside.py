"""Arenas as they look from outside: which there are, and what their headers tell. Nothing here attaches."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from recoverable import _shm, feed_state
from recoverable._native import _peek
from recoverable._options import parse_name
from recoverable.errors import ArenaNotFoundError, ArenaPermissionError, ArenaSystemError, RecoverableError
from recoverable.lock_times import LockTimes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from recoverable.feed_state import FeedState

__all__ = ["SHARED", "Peek", "looked_at", "names", "opened", "others", "peek", "peek_fd"]

SHARED: Final = Path("/dev/shm")
_PREFIX: Final = "recoverable."


@dataclass(frozen=True, slots=True)
class Peek:
    """What can be told of an arena without attaching to it; numbers read one by one while others change them.

    Attributes:
        name: Its name.
        size: The ceiling of its data, in bytes.
        claimed: How much of that has memory behind it.
        used: How much of that is allocated.
        reserved: How much lies in chunks that processes have reserved for themselves.
        overhead: Memory behind tables, undo log and shadows, in bytes.
        commits: Commits since it was made.
        recoveries: How often a dead process's step was undone.
        recovered_at: When that was last, in seconds since the epoch; 0 for never, or not known.
        hot_pages: Pages in the estimated writable working set.
        uid: Whose it is.
        phase: "idle", "step" or "publish", at this moment.
        cuts: Moves, by two, with every step that ends; odd in between.
        holder: The process inside a step at this moment, or 0.
        handler: What ran last in a step, as far as known.
        alive: Ids of the attached processes.
        dead: Ids of those that ended without closing it.
        lock: For how long its lock was held and waited for.
        feed: How far its feed and its journal are; None: it has no feed.
        backed: Offset and length of the parts of its object that have to have memory behind them.
        attached_at: When each of `alive` attached, in seconds since the epoch.
        foreign: Whether the id of each of `alive` is of another PID namespace than ours, where it means another process.
    """

    name: str
    size: int
    claimed: int
    used: int
    reserved: int
    overhead: int
    commits: int
    recoveries: int
    recovered_at: int
    hot_pages: int
    uid: int
    phase: str
    cuts: int
    holder: int
    handler: str
    alive: tuple[int, ...]
    dead: tuple[int, ...]
    attached_at: tuple[int, ...]
    foreign: tuple[bool, ...]
    lock: LockTimes
    feed: FeedState | None
    backed: tuple[tuple[int, int], ...]


def names() -> list[str]:
    """Return the names of the arenas of this machine, sorted."""
    return [name for name in _objects() if "~" not in name]


def others() -> dict[str, str]:
    """Return what else of ours lies in shared memory: what it is called after its prefix, and what it is."""
    kinds = {
        "restoring": "being restored from a journal, or left by a restore that was killed",
        "in": "being imported, or left by an import that was killed",
    }
    found = [(name, name.rpartition("~")) for name in _objects() if "~" in name]
    return {
        name: kinds.get(
            kind, f"what {of} was when its journal was further; set aside, until you remove it: recoverable rm {name}"
        )
        for name, (of, _, kind) in found
    }


def _objects() -> list[str]:
    return sorted(path.name.removeprefix(_PREFIX) for path in SHARED.glob(f"{_PREFIX}*"))


def peek_fd(fd: int, name: str) -> Peek:
    """Look at the arena behind a file descriptor that is open for reading.

    Raises:
        ArenaNotFoundError: Its making was not finished.
        ArenaCorruptError: It is damaged.
        ArenaVersionError: Another format has made it.
    """
    found: dict[str, Any] = _peek.peek(fd, name)
    peers = found.pop("peers")
    backed = tuple(found.pop("backed"))
    return Peek(
        name=name,
        commits=found.pop("commit_seq"),
        alive=tuple(pid for pid, _, alive, _ in peers if alive),
        dead=tuple(pid for pid, _, alive, _ in peers if not alive),
        attached_at=tuple(at for _, at, alive, _ in peers if alive),
        foreign=tuple(foreign for _, _, alive, foreign in peers if alive),
        backed=backed,
        lock=LockTimes.of(found.pop("lock")),
        feed=feed_state.of_fd(fd, name),
        **found,
    )


@contextmanager
def opened(name: str) -> Iterator[int]:
    """Open the object of the arena of that name, for reading alone.

    Yields:
        Its file descriptor, closed afterwards.

    Raises:
        ArenaOptionError: It can't be the name of one.
        ArenaNotFoundError: It does not exist.
        ArenaPermissionError: It belongs to another user.
        ArenaSystemError: What has its place is no regular file.
    """
    path = SHARED / f"{_PREFIX}{parse_name(name)}"
    try:
        _shm.check_kind(name, path.lstat().st_mode)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ArenaNotFoundError(f"there is no arena named {name!r}; `recoverable ls` lists those that exist") from None
    except PermissionError:
        raise ArenaPermissionError(f"arena {name!r} belongs to another user; run as that one") from None
    except ArenaSystemError:
        raise
    except OSError as error:
        raise ArenaSystemError(error.errno or 0, f"arena {name!r} can't be opened: {error.strerror}") from None
    try:
        yield fd
    finally:
        os.close(fd)


def peek(name: str) -> Peek:
    """Look at the arena of that name. Raises what `opened` and `peek_fd` raise."""
    with opened(name) as fd:
        return peek_fd(fd, name)


def looked_at() -> list[Peek]:
    """Look at all arenas of this machine that can be looked at."""
    found = []
    for name in names():
        with suppress(RecoverableError):
            found.append(peek(name))
    return found
