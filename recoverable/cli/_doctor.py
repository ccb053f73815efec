"""What this machine allows: each question is a function of what it found, so that every answer can be tested."""

from __future__ import annotations

import contextlib
import os
import re
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from recoverable._native import _switches
from recoverable._options import human_size
from recoverable.arena import Arena
from recoverable.cli import _outside
from recoverable.cli._outside import SHARED
from recoverable.errors import RecoverableError

__all__ = [
    "Finding",
    "address_space",
    "examine",
    "journals",
    "map_count",
    "memory_limit",
    "orphans",
    "page_size",
    "remove_ipc",
    "segv_handlers",
    "shared_memory",
    "trial",
]

_DOCKER: Final = 64 * 1024**2  # what a container has unless told otherwise
_MAPS: Final = 65530  # the kernel's own default of vm.max_map_count
_SEGV_BIT: Final = 1 << 10  # of signal 11 in the masks of /proc/PID/status


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer.

    Attributes:
        level: "ok"; "note" for what may matter later; "bad" for what stops arenas from working.
        what: What was looked at.
        found: What it is here.
        remedy: What to do about it, or "".
    """

    level: Literal["ok", "note", "bad"]
    what: str
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Answer every question about this machine, and about this process as one that will open arenas."""
    try:
        system = os.statvfs(SHARED)
        room: tuple[int, int] | None = (system.f_blocks * system.f_frsize, system.f_bavail * system.f_frsize)
    except OSError:
        room = None
    caught = _status("SigCgt", 16)  # before the trial installs our own
    return [
        shared_memory(room, writable=os.access(SHARED, os.W_OK)),
        memory_limit(_cgroup_limit(Path("/sys/fs/cgroup"), _text(Path("/proc/self/cgroup"))), room),
        map_count(_number(_text(Path("/proc/sys/vm/max_map_count")))),
        page_size(os.sysconf("SC_PAGE_SIZE")),
        segv_handlers(caught),
        address_space(resource.getrlimit(resource.RLIMIT_AS)[0]),
        remove_ipc(os.getuid(), Path("/run/systemd/system").exists(), _logind(Path("/etc/systemd"))),
        orphans(_deleted_maps(Path("/proc")), _outside.names()),
        journals(_outside.looked_at()),
        trial(),
    ]


def shared_memory(room: tuple[int, int] | None, *, writable: bool) -> Finding:
    """Judge the file system of shared memory, given its size and what is free of it, in bytes."""
    what = "shared memory"
    if room is None or not writable:
        why = "there is no /dev/shm" if room is None else "/dev/shm can't be written to"
        return Finding("bad", what, why, "mount it: mount -t tmpfs -o mode=1777,size=1g tmpfs /dev/shm")
    total, free = room
    found = f"{human_size(free)} free of {human_size(total)} in /dev/shm"
    remedy = (
        "make it larger: mount -o remount,size=2g /dev/shm; docker run --shm-size=2g; an emptyDir with medium: Memory"
    )
    if free < 1024**2:
        return Finding("bad", what, found, f"remove what is not needed (recoverable ls, recoverable rm), or {remedy}")
    if total <= _DOCKER:
        return Finding("note", what, found, f"this is a container's default, and an arena can't be larger; {remedy}")
    return Finding("ok", what, found)


def memory_limit(limit: int | None, room: tuple[int, int] | None) -> Finding:
    """Judge the control group's memory limit in bytes, None for none: arenas count against it."""
    what = "container limit"
    if limit is None:
        return Finding("ok", what, "no memory limit")
    found = f"memory limited to {human_size(limit)}"
    if room is not None and room[0] > limit:
        return Finding(
            "note",
            what,
            f"{found}, below the {human_size(room[0])} of /dev/shm",
            "arenas count against the limit, and beyond it the kernel kills a process instead of answering 'full': "
            "keep the sizes of all arenas, plus the processes' own memory, below it, or raise it (docker run --memory, "
            "MemoryMax= of the systemd unit)",
        )
    return Finding("ok", what, found)


def map_count(limit: int | None) -> Finding:
    """Judge vm.max_map_count: raw writes to scattered pages take an entry each."""
    what = "vm.max_map_count"
    if limit is None:
        return Finding("note", what, "can't be read", "look at it outside of the container: sysctl vm.max_map_count")
    if limit < _MAPS:
        return Finding(
            "note",
            what,
            str(limit),
            "a step that writes to many scattered pages of array views will unprotect, and log, more than it "
            f"writes: sysctl -w vm.max_map_count={_MAPS}",
        )
    return Finding("ok", what, str(limit))


def page_size(size: int) -> Finding:
    """Judge the page size in bytes."""
    what = "page size"
    if size != 4096:
        return Finding(
            "note",
            what,
            str(size),
            "raw writes are tracked by pages, so each costs more than on a machine with 4096; an exported arena can only "
            "be imported where pages are as large",
        )
    return Finding("ok", what, str(size))


def segv_handlers(caught: int | None) -> Finding:
    """Judge who catches SIGSEGV before the library does, given the mask of caught signals of this process."""
    what = "SIGSEGV handlers"
    if caught is None:
        return Finding("note", what, "can't be read", "mount /proc")
    if caught & _SEGV_BIT:
        return Finding(
            "note",
            what,
            "another one was there before ours (faulthandler, a profiler, a crash reporter)",
            "the library hands on the faults that are not its own. One that is installed after the first "
            "Arena.open displaces ours until the next step: start it first (PYTHONFAULTHANDLER=1, -X faulthandler)",
        )
    return Finding("ok", what, "none but ours")


def address_space(limit: int) -> Finding:
    """Judge the limit of address space in bytes: an arena is mapped twice, whole."""
    what = "address space"
    if limit == resource.RLIM_INFINITY:
        return Finding("ok", what, "no limit")
    return Finding(
        "note",
        what,
        f"limited to {human_size(limit)}",
        "an arena takes twice its ceiling, and its undo log, of addresses: ulimit -v unlimited; LimitAS=infinity in the "
        "systemd unit",
    )


def remove_ipc(uid: int, systemd: bool, setting: str | None) -> Finding:
    """Judge systemd-logind's habit to remove a user's shared memory when his last session ends."""
    what = "RemoveIPC"
    if not systemd or uid < 1000 or setting in {"no", "false", "off", "0"}:
        return Finding("ok", what, "system services keep their shared memory" if systemd else "no systemd here")
    return Finding(
        "note",
        what,
        f"user {uid} loses its arenas when it logs out",
        "run the server as a system user (User= of a unit, uid below 1000), or loginctl enable-linger, or RemoveIPC=no in "
        "/etc/systemd/logind.conf",
    )


def journals(peeks: list[_outside.Peek]) -> Finding:
    """Judge the journals of the arenas in shared memory, as far as these tell."""
    what = "journals"
    kept = [(peek.name, peek.feed.flushes) for peek in peeks if peek.feed is not None and peek.feed.flushes is not None]
    wrong = [
        f"{name}: {flushes.stopped or flushes.delayed}" for name, flushes in kept if flushes.stopped or flushes.delayed
    ]
    if wrong:
        remedy = "what is committed is in memory only: docs/howto/journal.md says what to do; recoverable doctor --journal FOLDER"
        return Finding("bad", what, "; ".join(wrong), remedy)
    return Finding("ok", what, f"{len(kept)} of {len(peeks)} arenas have one" if kept else "no arena here has one")


def orphans(found: list[tuple[int, str]], there: list[str]) -> Finding:
    """Judge arenas whose name was removed while processes have them open.

    Args:
        found: Process and name, of each such arena that a process has mapped.
        there: The names that lead to an arena now.
    """
    what = "orphaned arenas"
    if not found:
        return Finding("ok", what, "none in the processes that this user may look into")
    parts = []
    for name in dict.fromkeys(name for _, name in found):
        pids = ", ".join(str(pid) for pid, other in found if other == name)
        parts.append(f"{name} in {pids}" + (" beside a new arena of that name" if name in there else ""))
    return Finding(
        "bad",
        what,
        f"removed or replaced under running processes: {'; '.join(parts)}",
        "processes that open the name get another arena, and what these commit is lost when they end: stop them, save "
        "their state if it matters, start them again (docs: deployment, When the name is lost); then see who removes "
        "files of /dev/shm (RemoveIPC, a cleaner of temporary files, recoverable rm --force)",
    )


def trial() -> Finding:
    """Make a small arena, write to it and roll back; what faults and copies cost is measured when it is made."""
    what = "trial"
    try:
        with Arena.temporary("1 MiB") as arena:
            with contextlib.suppress(_Undo), arena.transaction():
                arena.root["undone"] = 1
                raise _Undo
            left, stats = len(arena.root), arena.stats()
    except RecoverableError as error:
        return Finding("bad", what, str(error), "the message says what is missing")
    if left:
        return Finding("bad", what, "a rollback left something behind", "please report it, with the kernel's version")
    found = f"a fault costs {stats.cost_trap_ns / 1000:.1f} µs, copying a page {stats.cost_copy_ns / 1000:.2f} µs"
    if _switches.test_build():
        remedy = "install the release: pip install --force-reinstall recoverable"
        return Finding("note", what, f"{found}; a build for tests, which is slower", remedy)
    return Finding("ok", what, found)


class _Undo(Exception):
    """Ends the trial's transaction."""


# -- reading the system --------------------------------------------------------------------------------------


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


_DELETED: Final = re.compile(r"\s/dev/shm/recoverable\.(\S+) \(deleted\)$", re.MULTILINE)


def _deleted_maps(proc: Path) -> list[tuple[int, str]]:
    """Return the processes that have an arena mapped whose name is gone, and that name, as far as we may look."""
    own = os.getpid()
    pids = sorted(int(path.name) for path in proc.iterdir() if path.name.isdigit()) if proc.is_dir() else []
    return [
        (pid, name)
        for pid in pids
        if pid != own
        for name in sorted(set(_DELETED.findall(_text(proc / str(pid) / "maps") or "")))
    ]


def _number(text: str | None, base: int = 10) -> int | None:
    try:
        return None if text is None else int(text, base)
    except ValueError:
        return None


def _status(field: str, base: int) -> int | None:
    found = re.search(rf"^{field}:\s*(\S+)", _text(Path("/proc/self/status")) or "", re.MULTILINE)
    return _number(found[1], base) if found else None


def _cgroup_limit(root: Path, membership: str | None) -> int | None:
    """Return the least limit of this process's control group and those around it, version 2 or 1; None for none."""
    limits: list[int] = []
    for line in (membership or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in {"", "memory"}:
            continue
        base, file = (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
        group = base / path.lstrip("/")
        for folder in (
            group,
            *group.parents,
        ):  # inside a container the path may be of the host: then only the root is there
            limit = _number(_text(folder / file))
            if limit is not None and limit < 1 << 60:  # version 1 writes a huge number for none
                limits.append(limit)
            if folder == base:
                break
    return min(limits, default=None)


def _logind(folder: Path) -> str | None:
    """Return what logind's settings say of RemoveIPC, or None."""
    files = [folder / "logind.conf", *sorted(folder.glob("logind.conf.d/*.conf"))]
    found = None
    for file in files:
        for value in re.findall(r"^\s*RemoveIPC\s*=\s*(\S+)", _text(file) or "", re.MULTILINE):
            found = value.lower()
    return found
