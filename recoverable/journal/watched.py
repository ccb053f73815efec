"""A restore, or a first snapshot, that others can see: how far it is, and that whoever does it is still there."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Final

from recoverable import _shm, events
from recoverable._native import journal as native_journal
from recoverable.errors import ArenaBusyError
from recoverable.journal.folder import NEW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from recoverable.journal.folder import Folder

__all__ = ["beating", "half_made", "its_turn", "spare_beside", "touch", "watched"]

_FIRST: Final = 1.0  # seconds: a shorter restore is told when it has ended
_NEXT: Final = 5.0
_TOUCHED: Final = 1.0
_POLL: Final = 0.01
_TAKEN: Final = (
    10.0  # seconds in which a folder with another machine's mark is taken, before there is anything to be seen
)
_NOTHING_YET: Final = (0, 0, 0)
_STILL: Final = 10.0  # seconds that what is waited for may stand still: it is touched once a second


def half_made(name: str) -> str:
    """Return where an arena lies while it is restored."""
    return f"{_shm.path_of(name)}~restoring"


def touch(name: str, folder: Folder) -> None:
    """Tell others that a restore goes on, whatever there is to be seen of it: others by the folder, starters by the object, too."""
    folder.touch()
    with contextlib.suppress(OSError):
        os.utime(half_made(name))


@contextlib.contextmanager
def beating(alive: Callable[[], None]) -> Iterator[None]:
    """Have a thread call `alive` once a second while a block is in a call that returns late, such as one that claims memory."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(_TOUCHED):
            alive()

    with _beside(beat, "recoverable-alive", over.set):
        yield


@contextlib.contextmanager
def spare_beside(folder: Folder, alive: Callable[[], None]) -> Iterator[None]:
    """Have what the next file is made of be made beside a block, which takes the processor, and this the disk.

    Where that takes longer than the block, `alive` is called again and again.
    """
    with _beside(lambda: native_journal.make_spare(folder.path), "recoverable-spare") as thread:
        yield
        while thread is not None and thread.is_alive():
            thread.join(_POLL)
            alive()


@contextlib.contextmanager
def _beside(
    work: Callable[[], None], name: str, end: Callable[[], None] = lambda: None
) -> Iterator[threading.Thread | None]:
    """Have a thread do something beside a block; at its end, `end` makes it return. None: no more threads can be had."""
    thread = threading.Thread(target=work, name=name)
    try:
        thread.start()
    except RuntimeError:  # it is done when it is needed
        yield None
        return
    try:
        yield thread
    finally:
        end()
        try:
            thread.join()  # nobody else may have the folder as long as it writes there
        except BaseException:
            thread.join()
            raise


def watched(
    name: str, folder: Folder, progress: Callable[[int, int, str], None] | None
) -> Callable[[int, int, str], None]:
    """Return what a restore calls with bytes done, bytes in all (0: not known), and what is being done.

    It keeps the mark in the folder fresh, which tells other machines and other starters that somebody is at it. What it is told
    goes to `progress`, or without one to the event `journal.restoring`.
    """
    begun = told = touched = time.monotonic()

    def call(done: int, total: int, doing: str) -> None:
        nonlocal told, touched
        now = time.monotonic()
        if now - touched > _TOUCHED:
            touched = now
            touch(name, folder)
        if progress is not None:
            progress(done, total, doing)
        elif now - told > (_FIRST if told == begun else _NEXT):
            told = now
            events.journal_restoring(name, folder.path, doing, done, total, round((now - begun) * 1000))

    return call


@contextlib.contextmanager
def its_turn(name: str, folder: Folder, create: bool, timeout: float) -> Iterator[int]:
    """Hold the file lock of the arena's object, as `_shm.locked` does; but wait for a restore or a snapshot as long as it goes on.

    Raises:
        ArenaBusyError: Another process has had the lock for longer than `timeout`, and does neither, or has stopped doing it.
    """
    begun = moved = time.monotonic()
    before: tuple[int, int, int] | None = None
    wait = timeout
    with contextlib.ExitStack() as stack:
        while True:
            try:
                fd = stack.enter_context(_shm.locked(name, create=create, timeout=wait))
                break
            except ArenaBusyError:
                made, now = _made(name, folder), time.monotonic()
                if made is None and now - begun < _TAKEN and folder.is_being_taken(name):
                    made = _NOTHING_YET
                moved = now if made != before else moved
                if made == before and (made is None or now - moved > _STILL):
                    raise
                before, wait = made, max(timeout, _NEXT)
                if made is not None and made != _NOTHING_YET:  # else it has just ended: the lock is let go next
                    if not folder.marked:
                        raise
                    events.journal_restoring(name, folder.path, "waited for", made[0], 0, round((now - begun) * 1000))
        yield fd


def _made(name: str, folder: Folder) -> tuple[int, int, int] | None:
    """Return how many bytes a restore of it has made, or a first snapshot, and what else moves with it; None: there is neither."""
    for path in half_made(name), f"{folder.path}/{NEW}":
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(path)  # noqa: PTH116
            return status.st_blocks * 512, status.st_mtime_ns, status.st_ino
    return None
