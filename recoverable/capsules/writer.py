"""The thread that writes capsules.

What we want: a file for each crash, and a server that does not notice, however often it crashes and whatever the disk does. What
does not work: to write where the request crashed, in the event loop. What does: the facts are taken there, some tens of
microseconds; a thread hides what is secret, writes, and drops the oldest. What waits for it is bounded in number and size; what
does not fit, or can't be written, is counted and told of once, until what waits is written.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import re
import secrets
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final

from recoverable import _options, events
from recoverable._descriptors import opened
from recoverable._threads import OwnThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from recoverable.capsules.contents import Facts

__all__ = ["FILE", "Writer"]

#: The name of a capsule's file: when, by which process, and which handler's.
FILE: Final = re.compile(r"\d{8}T\d{6}-\d{6}-[0-9a-f]{8}-\d+(-[\w.]+)?\.json")
_LEFT: Final = re.compile(r"\.\d{8}T\d{6}-.*\.json\.new")
_OLD: Final = 3600.0  # seconds, after which a file that was not finished is nobody's
_WAITING: Final = 32  # capsules that wait to be written
_WAITING_BYTES: Final = 16 * 1024**2
_PACE: Final = 0.02  # seconds that one takes at least: a storm of crashes is not to be one of the disk
_ENDING: Final = 2.0  # seconds


class Writer:
    """Writes capsules into a folder.

    Attributes:
        written: How many this process has written.
        dropped: How many it has not.
    """

    def __init__(self, folder: str, keep: int, hide: tuple[str, ...], limit: int) -> None:
        """Say where, how many, what to hide, and how many bytes of a body; nothing is touched before the first one."""
        self._folder, self._keep, self._hide, self._limit = folder, keep, hide, limit
        self.forked()
        _all.add(self)

    def forked(self) -> None:
        """Begin: also in a child, where the thread is missing, a lock may be taken, and what was counted is the parent's."""
        self.written = self.dropped = 0
        self._lock = threading.RLock()  # a collection inside may end an abandoned handler, which is a crash as well
        self._wake = threading.Condition(self._lock)
        self._waiting: deque[tuple[str, Facts]] = deque()
        self._bytes = 0
        self._busy = False
        self._thread: OwnThread | None = None
        self._told = False
        self._process = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    def take(self, handler: str, make: Callable[[], Facts]) -> str | None:
        """Have facts written; return the name of their file, or None: they are dropped, and were not made."""
        with self._lock:
            full = len(self._waiting) >= _WAITING or self._bytes >= _WAITING_BYTES
        if full:
            self.drop(f"{_WAITING} of them, or {_options.human_size(_WAITING_BYTES)}, wait to be written already")
            return None
        facts = make()
        seconds, fraction = divmod(facts.at, 1)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(seconds)) + f"-{int(fraction * 1e6):06d}"
        part = re.sub(r"[^A-Za-z0-9_.]+", "", handler.rpartition("<locals>.")[2])[:60]
        name = f"{stamp}-{self._process}-{next(self._numbers)}" + (f"-{part}" if part else "") + ".json"
        with self._lock:
            if self._thread is None:
                self._thread = OwnThread(target=self._run, name="recoverable-capsules", daemon=True)
                try:
                    self._thread.start()
                except BaseException:
                    self._thread = None
                    raise
            self._waiting.append((name, facts))
            self._bytes += facts.size()
            self._wake.notify_all()
        return name

    def drop(self, why: str) -> None:
        """Count one that is not written, and say so once."""
        self.dropped += 1
        if not self._told:
            self._told = True
            with contextlib.suppress(Exception):  # the program's log pipeline may raise
                events.capsule_dropped(self._folder, why)

    def flush(self, seconds: float = _ENDING) -> bool:
        """Wait until what was taken so far is written, for so long at most; return whether it is."""
        end = time.monotonic() + seconds
        with self._lock:
            while self._waiting or self._busy:
                if not self._wake.wait(end - time.monotonic()) and time.monotonic() >= end:
                    return False
        return True

    def _run(self) -> None:
        lock, wake = self._lock, self._wake
        while True:
            with lock:
                while not self._waiting:
                    wake.wait()
                name, facts = self._waiting.popleft()
                self._bytes -= facts.size()
                self._busy = True
            begun = time.monotonic()
            try:
                self._write(name, facts)
                self.written += 1
                with lock:
                    self._told = self._told and bool(
                        self._waiting
                    )  # a storm is told of once, however many come through
            except OSError as error:
                self.drop(f"{error.strerror or error}")
            except Exception as error:
                self.drop(f"{type(error).__name__}: {error}")
            del facts
            with lock:
                self._busy = False
                wake.notify_all()
                more = bool(self._waiting)
            if more:
                time.sleep(max(0.0, _PACE - (time.monotonic() - begun)))

    def _write(self, name: str, facts: Facts) -> None:
        text = json.dumps(facts.written(self._hide, self._limit), indent=1, ensure_ascii=True).encode()
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._folder, 0o700)  # noqa: PTH102
        with opened(self._folder, os.O_RDONLY | os.O_DIRECTORY) as folder:
            new = f".{name}.new"
            try:
                with opened(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, dir_fd=folder) as fd:
                    with open(fd, "wb", closefd=False) as file:
                        file.write(text)
                    os.fsync(fd)
                os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(new, dir_fd=folder)
                raise
            self._tidy(folder)

    def _tidy(self, folder: int) -> None:
        """Drop the oldest beyond those to be kept, and what was not finished."""
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        kept = sorted(name for name in names if FILE.fullmatch(name))
        left = [name for name in names if _LEFT.fullmatch(name) and self._is_old(folder, name)]
        for name in [*kept[: -self._keep], *left]:
            with contextlib.suppress(OSError):  # another process has; or it may not be, and the others may
                os.unlink(name, dir_fd=folder)

    @staticmethod
    def _is_old(folder: int, name: str) -> bool:
        try:
            return time.time() - os.stat(name, dir_fd=folder).st_mtime > _OLD
        except FileNotFoundError:
            return False


_all: weakref.WeakSet[Writer] = weakref.WeakSet()


def _flush_all() -> None:
    for each in list(_all):
        each.flush()


def _fork_all() -> None:
    for each in list(_all):
        each.forked()


atexit.register(_flush_all)
os.register_at_fork(after_in_child=_fork_all)
