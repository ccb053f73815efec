"""What can be told of a journal's folder without reading all of it: each question is a function of what it found."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from recoverable._options import human_size
from recoverable.cli import _journal_files
from recoverable.cli._doctor import Finding
from recoverable.cli._render import ago
from recoverable.errors import RecoverableError
from recoverable.journal import snapshots
from recoverable.journal.folder import Folder
from recoverable.journal.keeper import is_due

if TYPE_CHECKING:
    from recoverable.journal.snapshots import Snapshot

__all__ = ["disk", "examine", "file_system", "flushing", "room", "sound", "writer"]

_IN_MEMORY: Final = ("tmpfs", "ramfs")
_ELSEWHERE: Final = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p")
_SLOW: Final = 0.02  # seconds
_FLUSHES: Final = 16


def examine(path: str) -> list[Finding]:
    """Answer every question about a folder."""
    try:
        folder = Folder(path)
    except RecoverableError as error:
        return [Finding("bad", "journal", str(error))]
    found = [disk(file_system(os.stat(folder.path).st_dev, _text("/proc/self/mountinfo")))]  # noqa: PTH116
    with contextlib.suppress(OSError):
        found.append(flushing(_flush(folder.path)))
    if folder.empty:
        return [*found, Finding("note", "journal", "there is none in this folder yet")]
    last, taken, bad = _last(folder)
    status = os.statvfs(folder.path)
    with contextlib.suppress(RecoverableError):
        found.append(
            room(status.f_bavail * status.f_frsize, taken, max((each.size for each in folder.starts()), default=0))
        )
    if last is None and not bad:
        bad = "there is no snapshot that a start could begin with"
    found += [writer(folder.marked), sound(folder, bad)]
    if last is not None:
        found.append(_snapshot(folder, last, taken))
    return found


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def file_system(device: int, mounts: str) -> str:
    """Return the type of the file system on a device, as /proc/self/mountinfo has it; "": not known."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        if fields.split()[2:3] == [number] and rest:
            return rest.split()[0]
    return ""


def disk(kind: str) -> Finding:
    """Judge the type of the folder's file system."""
    what = "journal's disk"
    if kind in _IN_MEMORY:
        remedy = "a power loss or the end of the container takes it: name a folder on a disk, or a volume"
        return Finding("note", what, f"{kind}: it is memory", remedy)
    if kind in _ELSEWHERE:
        remedy = "see that it flushes what fdatasync() asks for, and that its locks hold between machines"
        return Finding("note", what, f"{kind}: it is another machine's", remedy)
    return Finding("ok", what, kind or "of a type that is not known")


def _flush(path: str) -> float:
    """Return what a flush of a page to a file that does not grow takes, in seconds: the median of some."""
    with tempfile.TemporaryFile(dir=path) as file:
        file.write(bytes(_FLUSHES * 4096))
        file.flush()
        os.fsync(file.fileno())
        took = []
        for i in range(_FLUSHES):
            begun = time.perf_counter()
            os.pwrite(file.fileno(), b"x" * 4096, i * 4096)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - begun)
    return sorted(took)[_FLUSHES // 2]


def flushing(seconds: float) -> Finding:
    """Judge what a flush takes."""
    found = f"a flush takes {seconds * 1e3:.2f} ms"
    if seconds > _SLOW:
        return Finding("note", "journal's disk", found, 'answers under durable="disk" take that long: a faster disk')
    return Finding("ok", "journal's disk", found)


def room(free: int, snapshot: int, file: int) -> Finding:
    """Judge the bytes free on the disk, given those of the last snapshot and of a file: a compaction needs more of both."""
    found = f"{human_size(free)} free on the journal's disk"
    needed = 2 * snapshot + 3 * file
    if free < 2 * file:
        return Finding("bad", "journal's room", found, "commits wait when it is full: make room")
    if free < needed:
        remedy = f"a compaction needs {human_size(needed)}, and without one the journal grows: make room"
        return Finding("note", "journal's room", found, remedy)
    return Finding("ok", "journal's room", found)


def writer(marked: bool) -> Finding:
    """Judge whether a process has said lately that it writes there."""
    if marked:
        return Finding("ok", "journal's writer", "a process writes there")
    return Finding("note", "journal's writer", "nobody writes there", "commits are in memory only, if a server runs")


def _last(folder: Folder) -> tuple[Snapshot | None, int, str]:
    """Return the last snapshot that has a sound end, what it takes, and what is wrong with a later one or with any head."""
    failures: list[RecoverableError] = []
    last, taken, why = None, 0, ""
    for snapshot, fd in snapshots.latest(folder, failures):  # type: ignore[arg-type]
        last, taken = snapshot, os.fstat(fd).st_blocks * 512
        break
    try:
        arenas = {each.arena for each in folder.starts()} | ({last.arena} if last else set())
        bad = [f"{each.name}: {each.note}" for each in _journal_files.listed(folder) if not each.sound]
    except RecoverableError as error:
        return last, taken, str(error)
    if len(arenas) > 1:
        why = "files of several arenas lie there"
    return last, taken, "; ".join([*map(str, failures), *bad]) or why


def sound(folder: Folder, why: str) -> Finding:
    """Judge what the heads of files, the ends of snapshots and the last file say."""
    if why:
        return Finding("bad", "journal's files", why, f"recoverable journal verify {folder.path} reads all of it")
    found = f"{len(folder.files())} files and {len(folder.snapshots())} snapshots, with sound heads"
    return Finding("ok", "journal's files", found)


def _snapshot(folder: Folder, last: Snapshot, taken: int) -> Finding:
    found = f"of commit {last.seq}, {ago(last.at / 1e9)}, {human_size(taken)}"
    if is_due(folder):
        remedy = "a server that writes there does it by itself, and events say if it can't: journal.compaction_failed"
        return Finding("note", "last snapshot", f"{found}; a compaction is due", remedy)
    return Finding("ok", "last snapshot", found)
