"""A journal's folder: what lies in it, and whose it is.

    journal-<number>    commits, in files that are numbered from 1
    snapshot-<position> the state at a position of the feed
    spare               the next file of commits, before it is used
    lock                who writes there
    keep                how much history is kept, if somebody has said so
    compacting          who makes a snapshot and drops what is before it, or must not be disturbed by that
    snapshot.new        a snapshot that is being made: the first of all, or one of memory
    snapshot.next       one that a compaction makes
    snapshot.check      a copy of it that is walked, and has a name for a moment

All numbers have 16 hex digits, so names sort as they are meant to. Nothing else is looked at, and nothing else removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from recoverable import _shm
from recoverable._descriptors import opened
from recoverable._native.journal import File, Lock, host
from recoverable.errors import (
    ArenaBusyError,
    ArenaCorruptError,
    ArenaNotFoundError,
    ArenaOptionError,
    ArenaSystemError,
    JournalError,
    RecoverableError,
)
from recoverable.journal.damaged import Damaged, begin_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from recoverable._native.journal import Batch, Start

__all__ = ["NEW", "Damaged", "Folder", "Tip"]

#: The name of the first snapshot while it is made.
NEW: Final = "snapshot.new"

_NUMBERED: Final = re.compile(r"(journal|snapshot)-([0-9a-f]{16})")
_MOST: Final = (1 << 64) - 1
_NO_FILES: Final = {errno.EISDIR: "a folder", errno.ELOOP: "a link"}
_MOVES: Final = 3.0  # seconds in which a mark that is alive is touched: once a second
_FRESH: Final = 10.0  # seconds: a mark that was touched since is of somebody who writes there


class Tip(NamedTuple):
    """How far a journal goes.

    Attributes:
        start: Of its last file.
        last: The last batch there, or None.
        torn: The bytes of a batch behind it that was not finished.
    """

    start: Start
    last: Batch | None
    torn: int

    @property
    def position(self) -> int:
        """Where in the feed it ends."""
        return self.start.position if self.last is None else self.last.end

    def as_start(self) -> Start:
        """Return what a file that goes on from here would say, but with the number of the last one."""
        if self.last is None:
            return self.start
        last = self.last
        return self.start._replace(position=last.end, seq=last.seq, at=last.at, chain=last.chain)

    @property
    def seq(self) -> int:
        """The number of its last commit."""
        return self.start.seq if self.last is None else self.last.seq


class _Mark(NamedTuple):
    """Who writes in a folder, and how many seconds ago he has said so."""

    host: str
    pid: int
    age: float

    @property
    def is_foreign(self) -> bool:
        """Whether that is another machine's, or this one's before it was started: locks of one kernel are as good as they look.

        Each container has a name of its own, and all of them the machine's boot id; a system may have none.
        """
        boot, own = self.host.rpartition("/")[2], host().rpartition("/")[2]
        return boot != own if own else self.host != host()


class Folder:
    """The folder of a journal.

    Attributes:
        path: Its absolute path.
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = False, write: bool = True) -> None:
        """Check a folder.

        Args:
            path: Its path.
            create: Whether to make it if it is not there.
            write: Whether it has to be writable; for looking into it, it need not.

        Raises:
            ArenaOptionError: That is no path.
            JournalError: It can't be used: the message says why.
        """
        text = os.fsdecode(path)
        if not text or "\0" in text:
            raise ArenaOptionError(
                f"journal={text!r} is no path. Nothing was opened or changed. Name a folder, by an absolute path; "
                "leave journal out to have none."
            )
        self.path = os.path.abspath(text)  # noqa: PTH100 -- a path that may hold any bytes
        self._made = False
        if create:
            with contextlib.suppress(FileExistsError), _told(self.path, "made"):
                os.mkdir(self.path, 0o700)  # noqa: PTH102
                self._made = True
                flush_folder(os.path.dirname(self.path))  # noqa: PTH120 -- not every file system keeps it with what lies in it
        with _told(self.path, "opened"):
            status = os.stat(self.path)  # noqa: PTH116
        if not stat.S_ISDIR(status.st_mode):
            raise JournalError(
                f"journal {self.path!r} is no folder. Nothing was opened or changed. Name one, or a new one."
            )
        if status.st_uid != os.geteuid():
            raise JournalError(
                f"journal {self.path!r} belongs to user {status.st_uid}, and this process runs as user {os.geteuid()}. Nothing was "
                "opened or changed: who can write there could change what is restored. Run as that user, or give the folder to "
                "this one."
            )
        if not os.access(self.path, (os.W_OK if write else os.R_OK) | os.X_OK):
            raise JournalError(
                f"journal {self.path!r} can't be {'written to' if write else 'read'}. Nothing was opened or changed. Mount it, or "
                "set its mode, so that it can."
            )

    def is_at(self, path: str) -> bool:
        """Return whether that path leads to it, too."""
        with contextlib.suppress(OSError):
            return path == self.path or os.path.samefile(path, self.path)  # noqa: PTH121
        return False

    def discard(self) -> None:
        """Remove the folder, if it was made here and no journal has begun in it: what it was made for did not come about."""
        with contextlib.suppress(OSError, RecoverableError):
            if self._made and self.empty:
                lock = self.take()  # somebody else may have found it meanwhile
                for name in ("spare", "lock"):  # whoever starts next makes a lock of its own, and a spare after it
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(f"{self.path}/{name}")  # noqa: PTH108
                os.rmdir(self.path)  # noqa: PTH106
                lock.release()

    # -- what lies in it -----------------------------------------------------------------------------------------------

    def _numbers(self, kind: str) -> list[int]:
        with _told(self.path, "read"):
            names = os.listdir(self.path)  # noqa: PTH208
        found = (_NUMBERED.fullmatch(name) for name in names)
        return sorted(int(match[2], 16) for match in found if match is not None and match[1] == kind)

    def files(self) -> list[int]:
        """Return the numbers of the files of commits."""
        return self._numbers("journal")

    def snapshots(self) -> list[int]:
        """Return the positions that there are snapshots of, the oldest first."""
        return self._numbers("snapshot")

    @property
    def empty(self) -> bool:
        """Whether there is no journal in it."""
        return not self.files() and not self.snapshots()

    def snapshot_path(self, position: int) -> str:
        """Return where the snapshot of that position lies."""
        return f"{self.path}/snapshot-{position:016x}"

    def file_path(self, number: int) -> str:
        """Return where the file of commits of that number lies."""
        return f"{self.path}/journal-{number:016x}"

    def drop_new(self) -> None:
        """Remove a first snapshot that whoever made it was killed over: nobody else has the right to write there."""
        with contextlib.suppress(OSError):
            os.unlink(f"{self.path}/{NEW}")  # noqa: PTH108

    @contextlib.contextmanager
    def open_file(self, number: int) -> Iterator[File]:
        """Open a file of commits to read it.

        Raises:
            ArenaCorruptError, ArenaVersionError: As of `File`.
        """
        try:
            with contextlib.ExitStack() as stack:
                with _told(self.path, "opened"):
                    fd = stack.enter_context(opened(self.path, os.O_RDONLY | os.O_DIRECTORY))
                file = File(fd, self.path, number)
        except ArenaSystemError as error:
            if error.errno not in _NO_FILES:
                raise
            name = os.path.basename(self.file_path(number))  # noqa: PTH119
            raise ArenaCorruptError(
                f'journal "{self.path}": {name} is no file of a journal: it is {_NO_FILES[error.errno]}'
            ) from None
        try:
            yield file
        finally:
            file.close()

    def tip(self) -> Tip | None:
        """Return how far it goes, by its last file; None: it has none.

        Raises:
            ArenaCorruptError: That file is damaged.
        """
        numbers = self.files()
        if not numbers:
            return None
        with self.open_file(numbers[-1]) as file:
            last = None
            while (batch := file.next()) is not None:
                last = batch
            return Tip(file.start(), last, file.torn)

    @property
    def changed(self) -> int:
        """When names in it have changed last, in nanoseconds since the epoch."""
        with _told(self.path, "read"):
            return os.stat(self.path).st_mtime_ns  # noqa: PTH116

    def heads(self, known: Mapping[int, Start] | None = None) -> tuple[list[Start], list[Damaged]]:
        """Return what the heads of all files say, and which are damaged; files that a compaction drops meanwhile are left out.

        `known`: those that are not to be read again, by number.
        """
        found: list[Start] = []
        damaged: list[Damaged] = []
        for number in self.files():
            try:
                found.append(known[number] if known and number in known else self.start_of(number))
            except ArenaNotFoundError:
                continue
            except ArenaCorruptError as error:
                damaged.append(self._damaged(number, error))
            except ArenaSystemError as error:
                if (
                    error.errno != errno.EIO
                ):  # the disk has lost that place; all else passes, or is told of a whole folder
                    raise
                damaged.append(self._damaged(number, error))
        return found, [self._with_end(found, each) for each in damaged]

    def _damaged(self, number: int, why: Exception) -> Damaged:
        return Damaged(number, str(why), begin_of(self.file_path(number), number))

    def _with_end(self, starts: list[Start], each: Damaged) -> Damaged:
        """Return it with where the file before it ends, unless no restore began with it: the files around it are of one epoch."""
        before = max((start.number for start in starts if start.number < each.number), default=0)
        epochs = {start.number: start.epoch for start in starts}
        after = min((start.number for start in starts if start.number > each.number), default=0)
        if each.position is None or not before or (after and epochs[after] == epochs[before]):
            return each
        if before != each.number - 1:  # that one is missing, or damaged
            return each._replace(end=_MOST)
        end = _MOST
        with contextlib.suppress(ArenaCorruptError, ArenaNotFoundError), self.open_file(before) as file:
            reached = file.start().position
            while (batch := file.next()) is not None:
                reached = batch.end
            end = reached
        return each._replace(end=end)

    def starts(self, known: Mapping[int, Start] | None = None) -> list[Start]:
        """Return what the heads of all files say that can be read."""
        return self.heads(known)[0]

    def start_of(self, number: int) -> Start:
        """Return what the head of a file says."""
        with self.open_file(number) as file:
            return file.start()

    # -- whose it is -----------------------------------------------------------------------------------------------------

    def take(self) -> Lock:
        """Take the right to write in it, and leave a mark that says who has it.

        Raises:
            JournalError: Another process has it, on this machine or another.
        """
        mark = self._mark()
        is_foreign = mark is not None and mark.is_foreign
        if is_foreign and self._moves():
            raise self._in_use(mark)
        try:
            lock = Lock(self.path)
        except ArenaBusyError:
            raise self._in_use(mark) from None
        except RecoverableError as error:
            raise JournalError(
                f"journal {self.path!r} can't be locked: {error}. Nothing was opened or changed."
            ) from None
        if is_foreign:  # others may have found the same, and locks may not hold: the last one to leave a mark has it
            time.sleep(_MOVES)
            mark = self._mark()
            if mark is None or (mark.host, mark.pid) != (host(), os.getpid()):
                lock.release()
                raise self._in_use(mark)
        return lock

    def _moves(self) -> bool:
        """Return whether somebody touches the mark. No clock of another machine is compared with this one's."""
        end, before = time.monotonic() + _MOVES, None
        while True:
            try:
                now = os.stat(f"{self.path}/lock").st_mtime_ns  # noqa: PTH116
            except OSError:
                return False
            if before not in (None, now):
                return True
            if time.monotonic() > end:
                return False
            before = now
            time.sleep(_MOVES / 30)

    def touch(self) -> None:
        """Say again that this process writes there, as its thread does once a second where there is one."""
        with contextlib.suppress(OSError):
            os.utime(f"{self.path}/lock")

    def is_being_taken(self, name: str) -> bool:
        """Return whether somebody may be looking if another machine's mark moves, which takes up to twice `_MOVES`.

        Until he has it, the mark is the other machine's; then his, while the arena's object has nothing in it yet.
        """
        mark = self._mark()
        if mark is None:
            return False
        with contextlib.suppress(OSError):
            is_empty = os.stat(_shm.path_of(name)).st_size == 0  # noqa: PTH116
            return mark.is_foreign or (is_empty and abs(mark.age) < _FRESH)
        return False

    @property
    def marked(self) -> bool:
        """Whether somebody has said lately that he writes there."""
        mark = self._mark()
        return mark is not None and abs(mark.age) < _FRESH

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what lies in it from being dropped by others, meanwhile.

        Raises:
            ArenaBusyError: Another process does so, or is about to drop something.
        """
        with contextlib.ExitStack() as stack:
            with _told(self.path, "locked"):
                fd = stack.enter_context(opened(f"{self.path}/compacting", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW))
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArenaBusyError(
                    f"journal {self.path!r} is being compacted, verified or restored by another process. Nothing was changed. "
                    "Try again when that has ended."
                ) from None
            yield

    def _in_use(self, mark: _Mark | None) -> JournalError:
        who = f"process {mark.pid} on {mark.host}" if mark else "another process"
        return JournalError(
            f"journal {self.path!r} is written by {who}. Nothing was opened or changed. One arena at a time can use it, on one "
            f"machine; the mark of a machine that is gone counts until nobody has touched it for {_MOVES:g} s."
        )

    def _mark(self) -> _Mark | None:
        """Return what the mark says; None: there is none."""
        path = Path(self.path, "lock")
        try:
            where, pid = path.read_text().split()
            return _Mark(where, int(pid), time.time() - path.stat().st_mtime)
        except (OSError, ValueError):
            return None


def flush_folder(path: str) -> None:
    """Have the disk have which names there are in a folder."""
    with opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)


@contextlib.contextmanager
def _told(path: str, doing: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise
    except FileNotFoundError:
        link = "it is a link that leads nowhere" if os.path.islink(path) else "it does not exist"  # noqa: PTH114
        raise JournalError(
            f"journal {path!r} can't be {doing}: {link}. Nothing was opened or changed. Check the path; if it is right, make "
            "the folder."
        ) from None
    except OSError as error:
        raise JournalError(
            f"journal {path!r} can't be {doing}: {os.strerror(error.errno or errno.EIO)}. Nothing was opened or changed."
        ) from None
    except ArenaSystemError as error:
        raise JournalError(f"journal {path!r} can't be {doing}: {error}. Nothing was opened or changed.") from None
