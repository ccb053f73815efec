"""A segment that this process has mapped: how it gets there, and when it goes.

One segment is mapped once in a process, however often it is opened: its lock belongs to a thread, and a second mapping
would wait for the first. So `Arena.open` of a name that is open already gives another `Arena` on the same mapping, with
the options of the first; each is closed for itself, and the mapping goes with the last.
"""

from __future__ import annotations

import contextlib
import gc
import os
import stat
from typing import TYPE_CHECKING, Any, Final

from recoverable import _options, _registry, _shm, bell, inflight, watchdog
from recoverable._native import _core, _counts
from recoverable._native.runtime import NativeArena, current_transaction
from recoverable.containers import Dict  # importing it makes the containers known to the core
from recoverable.errors import ArenaFullError, ArenaPermissionError, RecoverableError, TransactionError

if TYPE_CHECKING:
    from recoverable.arena import Arena
    from recoverable.reports import Restoration

__all__ = ["Segment", "map_segment"]

_DEFAULT_SIZE: Final = 256 * 1024**2
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Segment:
    """One mapped segment of this process, and the arenas that use it."""

    __slots__ = ("arenas", "key", "name", "native", "restored", "root", "size")

    def __init__(self, name: str, key: tuple[int, int], address: int) -> None:
        self.name = name
        self.key = key
        self.native = NativeArena(address)
        self.root: Dict[Any, Any] = self.native.root()
        self.arenas: list[Arena] = []
        self.restored: Restoration | None = None
        self.size = _counts.stats(self.native)["size"]

    def close(self) -> None:
        """Roll back what is in flight and unmap; refused while raw buffers live.

        Where the journal's disk has not answered for `busy_timeout`, it stays mapped, for the thread that waits for that.
        """
        if current_transaction(self.native) is not None:
            raise TransactionError(
                f"arena {self.name!r} can't be closed inside one of its own transactions. It stays open and nothing "
                "was rolled back. Close it after the transaction has ended."
            )
        if self.native.raw_count():
            gc.collect()  # views that only a reference cycle keeps
        if views := self.native.raw_count():
            raise TransactionError(
                f"arena {self.name!r} can't be closed: {views} raw buffer(s) of its memory are alive (array views, "
                "memoryviews). It stays open and nothing was lost. Delete them (del view; memoryview.release()), then "
                "close it."
            )
        watched = watchdog.limit_of(self.native) is not None
        listens = inflight.stop(self.native)
        bell.stop(self.native)
        journal = self.native.journal
        try:
            left = journal is not None and not journal.close()
            with _registry.lock:
                self.native.close(left)
                _registry.remove(self)
        except BaseException:
            bell.go_on(self.native)
            if listens:
                with contextlib.suppress(RuntimeError):  # the interpreter ends
                    inflight.listen(self.native)
            if journal is not None:
                with contextlib.suppress(RecoverableError, RuntimeError):
                    journal.begin_again()
            raise
        if watched:
            watchdog.settle()


def map_segment(name: str, fd: int, asked: int | None, create: bool, **options: Any) -> Segment:
    """Make or attach the segment behind `fd`, whose file lock is held. A failure leaves no object that it made."""
    status = os.fstat(fd)
    if status.st_uid != os.geteuid():  # first: what failed below is unlinked where it is empty
        raise ArenaPermissionError(
            f"arena {name!r} belongs to user {status.st_uid}, and this process runs as user {os.geteuid()}. Nothing was "
            "opened or changed. Run as that user, or choose another name."
        )
    if stat.S_IMODE(status.st_mode) != _shm.MODE:
        os.fchmod(fd, _shm.MODE)
    empty = create and status.st_size == 0  # new, or of somebody who died before giving it a size: nobody's data
    try:
        size = asked or 0
        if empty:
            room = _shm.capacity(fd)
            size = asked or min(_DEFAULT_SIZE, room // _PAGE * _PAGE)
            if size > room:
                raise ArenaFullError(
                    f"arena {name!r} with size {_options.human_size(size)} can't be made: /dev/shm holds "
                    f"{_options.human_size(room)} in all. Nothing was made. Ask for less, or enlarge it "
                    "(mount -o remount,size=...; docker run --shm-size=...)."
                )
        with _registry.lock:
            address = _core.open_segment(fd, name=name, size=size, create=create, **options)
            try:
                segment = Segment(name, (status.st_dev, status.st_ino), address)
            except BaseException:
                empty = empty or (create and _core.created(address))
                _core.close_segment(address)  # it has no transaction and no handle yet
                raise
            _registry.add(segment)
    except BaseException:
        if empty:
            _shm.unlink(name)
        raise
    return segment
