"""Compaction: a new snapshot is made from the last one and the journal, and what nobody needs any more is dropped.

What we want: a journal that does not grow for ever, without a server that stops for it; and what is dropped is not needed, whatever
happens in the middle of it.

What does: only files are read, and of the journal only those that have a successor. The last snapshot is copied, the copy is
brought forward, all in it is walked in a private copy of it, and it gets its name when it is durable. Then what is needed for
neither of the last two snapshots, nor for the history that is to be kept, is dropped: older snapshots first, files of commits in
their order after that.

    copy -> replay -> verify -> checksum -> fsync -> rename -> fsync of the folder -> drop

Killed before the rename, there is a file `snapshot.next`, which the next one removes; killed behind it, there is more than is
needed. Where anything that is read on the way is damaged, nothing is dropped: what is older may be what is left.

Walking takes a second copy, since whoever attaches stores: a small one lies in memory, a larger one in the folder, without a name;
the file system may share its blocks, and it is never flushed. It finds what no checksum does: a change that was not recorded.

Where it still fails: a disk that fills up while the copy is mapped kills the process (SIGBUS). It leaves what a kill leaves. So
there has to be room first.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from recoverable._descriptors import opened
from recoverable._native.feed import Restore
from recoverable.errors import ArenaCorruptError, JournalError
from recoverable.journal import keep as kept
from recoverable.journal import order, snapshots
from recoverable.journal.replay import replay
from recoverable.journal.snapshots import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from recoverable._native.journal import Start
    from recoverable.journal.damaged import Damaged
    from recoverable.journal.folder import Folder

    Progress = Callable[[int, int, str], None]

__all__ = ["Compacted", "compact"]

_NEXT: Final = "snapshot.next"
_CHECK: Final = "snapshot.check"  # has a name for a moment
_IN_MEMORY: Final = 64 * 1024**2  # bytes of a copy that is walked there
_FILES: Final = 2  # of commits: room that is left for the server meanwhile
_FLUSHED: Final = 8 * 1024**2  # bytes at a time: what a server flushes must not wait for all of it
_NOREPLACE: Final = 1


class Compacted(NamedTuple):
    """What a compaction has done.

    Attributes:
        snapshot: That was made; None: there is nothing new since the last one, but in the file that is being written.
        records: How many commits were replayed for it, and `bytes` of them.
        snapshots: How many snapshots were dropped, and `files` of commits; `freed` bytes of both, one file may serve again.
        seconds: How long it took.
    """

    snapshot: Snapshot | None
    records: int
    bytes: int
    snapshots: int
    files: int
    freed: int
    seconds: float


class _Pace:
    """Holds up what is done to so many bytes a second, and has it written to the disk bit by bit."""

    def __init__(self, rate: float, progress: Progress | None) -> None:
        self._rate, self._progress = rate, progress
        self._bytes, self._doing, self._before = 0, "", 0
        self._begun, self._flushed = time.monotonic(), 0
        self.fd = -1  # what is written

    def __call__(self, done: int, total: int, doing: str) -> None:
        if doing != self._doing:
            self._doing, self._before = doing, 0
        self._bytes += done - self._before
        self._before = done
        if self._bytes - self._flushed > _FLUSHED:
            self._flushed = self._bytes
            os.fdatasync(self.fd)
        if self._rate:
            time.sleep(max(0.0, self._begun + self._bytes / self._rate - time.monotonic()))
        if self._progress is not None:
            self._progress(done, total, doing)


def compact(
    folder: Folder, verify: Callable[[int], object], *, rate: float = 0.0, progress: Progress | None = None
) -> Compacted:
    """Make a new snapshot of a journal, beside a server that writes it or without one, and drop what is before the last two.

    Args:
        folder: Of the journal.
        verify: Walks all that is in a copy of a segment, behind a descriptor; raises ArenaCorruptError.
        rate: Bytes a second that are read or replayed at most; 0: without a limit.
        progress: Called with bytes done, bytes in all (0: not known), and what is being done.

    Raises:
        ArenaCorruptError: A snapshot or a file is damaged. Nothing was dropped.
        ArenaBusyError: Another process does so.
        JournalError: There is no journal, or the disk is full. Nothing was dropped.
    """
    begun = time.monotonic()
    try:
        with folder.kept():
            _tidy(folder)
            starts, damaged = folder.heads()
            if not starts and not damaged:
                raise JournalError(f"there is no journal in {folder.path!r}. Nothing was changed.")
            failures = [ArenaCorruptError(f"{each.why}.") for each in damaged]
            if damaged and (not starts or damaged[-1].number > starts[-1].number):
                raise _damaged(None, failures[-1])
            try:
                made, records, size, sound = _make(folder, starts, damaged, verify, _Pace(rate, progress), failures)
            finally:
                _tidy(folder)
            if failures:
                raise _damaged(made, failures[0])
            dropped = _drop(folder, starts, sound)
    except OSError as error:
        raise JournalError(
            f"journal {folder.path!r} can't be compacted: {error.strerror or error}. Nothing that is needed was dropped."
        ) from error
    return Compacted(made, records, size, *dropped, time.monotonic() - begun)


def _tidy(folder: Folder) -> None:
    for name in (_NEXT, _CHECK):
        with contextlib.suppress(FileNotFoundError):
            Path(folder.path, name).unlink()


def _damaged(made: Snapshot | None, why: Exception) -> ArenaCorruptError:
    told = f"A new one, up to commit {made.seq}, was made from what is sound" if made else "No new one was made"
    return ArenaCorruptError(f"{why} {told}, and nothing was dropped. Move the damaged one away to have it go on.")


# -- making one --------------------------------------------------------------------------------------------------------------


def _make(
    folder: Folder,
    starts: list[Start],
    bad: list[Damaged],
    verify: Callable[[int], object],
    pace: _Pace,
    failures: list[ArenaCorruptError],
) -> tuple[Snapshot | None, int, int, set[int]]:
    """Make a snapshot of where the last file begins.

    Returns:
        It, or None: there is one; commits and bytes that were replayed; the positions of snapshots that are known to be sound.
    """
    for source, fd in snapshots.latest(folder, failures):
        if source.position > order.cut_of(source, starts, bad):
            continue
        if source.position >= starts[-1].position:
            if snapshots.checksum(fd, source.size) == source.crc:
                return None, 0, 0, {source.position}
            failures.append(snapshots.damaged(source))
            continue
        behind, spare = starts[-1].position - source.position, _FILES * starts[-1].size
        _need(folder, _taken(fd) + behind + spare)
        with opened(f"{folder.path}/{_NEXT}", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW) as target:
            pace.fd = target
            try:
                snapshots.copy(source, fd, target, pace)
            except ArenaCorruptError as error:
                failures.append(error)
                continue
            _need(folder, behind + spare)
            records, size = _bring_forward(folder, starts, bad, source, target, pace)
            _need(folder, spare + (_taken(target) if _taken(target) > _IN_MEMORY else 0))
            crc = _walk(folder, source, target, verify, pace)
            last = starts[-1]
            made = Snapshot(source.arena, last.epoch, last.position, last.seq, last.at, source.size, crc, last.chain)
            snapshots.finish(folder, target, _NEXT, made)
            return made, records, size, {source.position, made.position}
    if failures:
        raise _damaged(None, failures[0])
    raise JournalError(
        f"journal {folder.path!r} has no snapshot that a new one could be made from. Nothing was changed."
    )


def _bring_forward(
    folder: Folder, starts: list[Start], bad: list[Damaged], source: Snapshot, target: int, pace: _Pace
) -> tuple[int, int]:
    last = starts[-1]
    copy = Restore(target, "snapshot")
    try:
        replayed, _ = replay(folder, copy, source, files=starts, damaged=bad, progress=pace)
        if (replayed.position, replayed.seq) != (last.position, last.seq):
            raise ArenaCorruptError(
                f"journal {folder.path!r} ends at commit {replayed.seq}, position {replayed.position}, in front of file "
                f"{last.number}, which goes on behind commit {last.seq}, position {last.position}. Nothing was changed."
            )
        copy.finish(last.position, last.epoch)
    finally:
        copy.close()
    return replayed.records, replayed.bytes


def _walk(folder: Folder, source: Snapshot, target: int, verify: Callable[[int], object], pace: _Pace) -> int:
    """Have all that is in a copy walked, in a copy of it; return the checksum."""

    def told(done: int, total: int, _: str) -> None:
        pace(done, total, "verified")

    if _taken(target) <= _IN_MEMORY:
        scratch = os.memfd_create("recoverable.snapshot", os.MFD_CLOEXEC)
    else:
        path = f"{folder.path}/{_CHECK}"
        scratch = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(path)  # noqa: PTH108
    try:
        crc = snapshots.duplicate(target, scratch, source.size, told)
        verify(scratch)
    finally:
        os.close(scratch)
    return crc


def _taken(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def _need(folder: Folder, size: int) -> None:
    """See that the disk has room: where a store into a mapped file finds none, the process is killed, and a server waits."""
    disk = os.statvfs(folder.path)
    if disk.f_bavail * disk.f_frsize < size:
        raise JournalError(
            f"journal {folder.path!r} can't be compacted: its disk has no room for {size >> 20} MiB more. Nothing was "
            "dropped. Make room."
        )


# -- dropping ----------------------------------------------------------------------------------------------------------------


def _drop(folder: Folder, starts: list[Start], sound: set[int]) -> tuple[int, int, int]:
    """Drop what is before the last two snapshots. Returns how many snapshots, how many files, and bytes."""
    failures: list[ArenaCorruptError] = []
    valid: list[Snapshot] = []  # the newest first
    cut: list[Snapshot] = []
    for snapshot, fd in snapshots.latest(folder, failures):
        if snapshot.position > order.cut_of(snapshot, starts):
            cut.append(snapshot)
            continue
        valid.append(snapshot)
        if len(valid) <= 2 and snapshot.position not in sound and snapshots.checksum(fd, snapshot.size) != snapshot.crc:
            failures.append(snapshots.damaged(snapshot))
    if failures:
        raise _damaged(None, failures[0])
    if len(valid) < 2:
        return 0, 0, 0
    older = _needed(folder, starts, valid).position
    old = [each for each in valid if each.position < older] + [
        each for each in cut if order.cut_of(each, starts) <= older
    ]
    numbers = []
    for i, each in enumerate(starts[:-1]):
        end = order.until(starts, i)
        if end > older or (
            end == older and each.position == end
        ):  # it may be what the next one goes on from: `order.goes_on`
            break
        numbers.append(each.number)
    if not (old or numbers):
        return 0, 0, 0
    if len(sound) < 2:  # nothing was replayed just now
        replay(folder, None, valid[1], files=starts)
    freed = 0
    for snapshot in old:
        path = folder.snapshot_path(snapshot.position)
        freed += os.stat(path).st_blocks * 512  # noqa: PTH116
        os.unlink(path)  # noqa: PTH108
    for number in numbers:
        path = f"{folder.path}/journal-{number:016x}"
        freed += os.stat(path).st_blocks * 512  # noqa: PTH116
        if not _make_spare(folder, path):
            os.unlink(path)  # noqa: PTH108
    return len(old), len(numbers), freed


def _needed(folder: Folder, starts: list[Start], valid: list[Snapshot]) -> Snapshot:
    """Return the oldest snapshot that is needed: the last but one, or an older one that history is kept from."""
    keep = kept.read(folder)
    at, needed, size = keep.oldest(), valid[1], 0
    for newer, each in itertools.pairwise(valid):
        if at is not None and newer.at > at:  # states of that moment begin with this one
            needed = each
        if keep.bytes is not None and each is not valid[1]:  # that one a start needs
            size += os.stat(folder.snapshot_path(each.position)).st_blocks * 512  # noqa: PTH116
            size += newer.position - each.position
            if size <= keep.bytes:
                needed = each
    return needed


def _make_spare(folder: Folder, path: str) -> bool:
    """Have a file serve again as the next one, if there is none. The writer may make one at the same moment: it is not replaced."""
    with contextlib.suppress(AttributeError):  # an old C library
        rename = ctypes.CDLL(None).renameat2
        spare = os.fsencode(f"{folder.path}/spare")
        return rename(-100, os.fsencode(path), -100, spare, ctypes.c_uint(_NOREPLACE)) == 0  # type: ignore[no-any-return]
    return False
