"""The keeper: has a journal compacted when it has grown, by a child process, while the server works.

What we want: a journal that does not grow for ever although nobody thinks of it, and a server that does not notice.

What does not work: compacting in a thread of the server. It takes the GIL, and a disk that fills up while a copy is mapped kills
the process. A timer of the machine: it is forgotten.

What does: each process that has the arena open with its journal has a thread that sleeps. Now and then that of the one which
writes looks whether there is a new file of commits, and if so, at the heads of the files. It starts `python -m
recoverable._compaction` when the full files behind the last snapshot take as much as that does, or 64 MiB if that is more: so what
is written for snapshots is at most what is written for commits. Where history of a time is kept, also four times in it, if there
is a full file: a state is then made from a snapshot of its time. The folder's lock keeps two from doing it at once.

    asleep -> a new file? -> enough behind the last snapshot? -> child -> journal.compacted
                                                                       -> journal.compaction_failed, and a pause

A child that outlives its server, or the arena that was closed meanwhile, goes on to its end: it needs files alone, and killed it
leaves what is needed (`compact`). So where workers are replaced often, compactions end all the same.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, Final

from recoverable import events
from recoverable._threads import OwnThread
from recoverable.journal import keep as kept
from recoverable.journal import order, snapshots
from recoverable.journal.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from recoverable.journal.health import Health

__all__ = ["Keeper", "is_due"]

_LEAST: Final = 64 * 1024**2  # bytes of files that are worth a snapshot
_PARTS: Final = 4  # of the time that history is kept for, a snapshot for each: so little more is kept
_OFTEN: Final = 3600.0  # seconds between two of those at least
_LOOK: Final = 5.0  # seconds
_BUSY: Final = 15.0  # seconds, until a folder that somebody verifies or compacts is tried again
_AGAIN: Final = 60.0  # seconds after a failure; twice that after the next one
_AGAIN_MOST: Final = 3600.0
_RATE: Final = 100e6  # bytes a second
_ENDING: Final = 2.0  # seconds
_PYTHON: Final = re.compile(r"python[0-9.]*t?d?")


def is_due(folder: Folder) -> bool:
    """Return whether a journal has grown by so much that it is to be compacted, or history of a time is to begin its next part.

    Raises:
        ArenaCorruptError: It has no sound snapshot.
        JournalError: What is to be kept can't be read.
    """
    starts = folder.starts()
    keep = kept.read(folder).seconds
    old = 0 if keep is None else (time.time() - max(_OFTEN, keep / _PARTS)) * 1e9
    failures: list[Any] = []
    for snapshot, fd in snapshots.latest(folder, failures):
        if snapshot.position <= order.cut_of(snapshot, starts):
            behind = sum(each.size for i, each in enumerate(starts[:-1]) if order.until(starts, i) > snapshot.position)
            return behind >= max(_LEAST, os.fstat(fd).st_blocks * 512) or (behind > 0 and snapshot.at < old)
    if failures:
        raise failures[0]
    return False


class Keeper:
    """The thread that has an arena's journal compacted, if its process is the one that writes, and sees whether it fails."""

    def __init__(self, name: str, path: str, number: Callable[[], int], health: Health) -> None:
        """Begin it.

        Args:
            name: The arena's.
            path: The folder's.
            number: Returns the number of the file that this process writes to; 0: another process writes, or nobody.
            health: Tells of a journal that fails.
        """
        self._name, self._path, self._number, self._health = name, path, number, health
        self._lock = threading.Lock()  # held where the arena is used
        self._ending = threading.Event()
        self._compacting = False
        self._thread = OwnThread(target=self._run, name="recoverable-keeper", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End it, since the arena is about to be closed. A compaction goes on, and is told about when it has ended."""
        with self._lock:
            self._ending.set()
            compacting = self._compacting
        if not compacting and self._thread is not threading.current_thread():
            self._thread.join(_ENDING)

    def again(self) -> Keeper:
        """Return another one like it, for a forked child, which has not inherited the thread."""
        return Keeper(self._name, self._path, self._number, self._health)

    # -- the thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        seen, due, pause = 0, 0.0, _AGAIN
        while not self._ending.wait(_LOOK):
            with self._lock:
                if self._ending.is_set():
                    return
                number = self._number()
            self._looked()
            if number in (0, seen) or time.monotonic() < due:
                continue
            try:
                done = self._compacted() if is_due(Folder(self._path)) else {}
            except Exception as error:  # whatever it is, the server goes on
                done = {"error": str(error) or type(error).__name__}
            if done is None:
                return
            if "busy" in done:
                due = time.monotonic() + _BUSY
            elif "error" in done:
                self._tell(events.journal_compaction_failed, done["error"], round(pause))
                due, pause = time.monotonic() + pause, min(2 * pause, _AGAIN_MOST)
            else:
                seen, pause = number, _AGAIN
                if done and (done["snapshot"] is not None or done["snapshots"] or done["files"]):
                    keys = ("snapshot", "records", "bytes", "snapshots", "files", "freed")
                    self._tell(events.journal_compacted, *map(done.get, keys), round(done["seconds"] * 1000))

    def _looked(self) -> None:
        """Tell of a journal that fails, and of its last snapshot, unless the arena is being closed."""
        with self._lock:
            if self._ending.is_set() or not self._health.beat():
                return
        found = self._health.last_snapshot()  # a disk that hangs holds up nobody who closes the arena
        with self._lock:
            if not self._ending.is_set():
                self._health.note(found)

    def _compacted(self) -> dict[str, Any] | None:
        """Compact, and return what came of it; None: the arena is being closed."""
        with self._lock:
            if self._ending.is_set():
                return None
            self._compacting = True
        try:
            return compacted(self._path, _RATE, self._looked)
        finally:
            with self._lock:
                self._compacting = False

    def _tell(self, event: Callable[..., None], *facts: Any) -> None:
        try:
            event(self._name, self._path, *facts)
        except Exception:  # the program's log pipeline may raise, and nobody is there to whom it could
            traceback.print_exc()


# -- the child ---------------------------------------------------------------------------------------------------------------


def interpreter() -> str | None:
    """Return the program that a child of this one can be; None: there is none.

    Where a server embeds Python, as uWSGI does, `sys.executable` may be that server, or nothing.
    """
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    folders = [f"{sys.prefix}/bin", sysconfig.get_config_var("BINDIR") or "", f"{sys.base_prefix}/bin"]
    beside = [f"{folder}/{name}" for folder in folders if folder for name in (f"python{version}", "python3", "python")]
    for path in [sys.executable, *beside, getattr(sys, "_base_executable", None)]:
        if path and _PYTHON.fullmatch(os.path.basename(path)) and os.access(path, os.X_OK):  # noqa: PTH119
            return path
    return None


def compacted(path: str, rate: float, look: Callable[[], None]) -> dict[str, Any]:
    """Compact a folder in a child process, and return what it says of that: as `Compacted`, or "busy", or "error".

    Args:
        path: The folder's.
        rate: Bytes a second.
        look: Is called now and then meanwhile.
    """
    python = interpreter()
    if python is None:
        return {
            "error": f"journal {path!r} can't be compacted by a child of this process: it found no Python interpreter to start. "
            "Have `recoverable journal compact` run by a timer, and open the arena with compact=False."
        }
    with open(os.memfd_create("recoverable.compaction", os.MFD_CLOEXEC), "w+b") as out:  # noqa: PTH123 -- a descriptor
        child = subprocess.Popen(
            [python, "-P", "-m", "recoverable._compaction", path, str(rate)],
            stdin=subprocess.DEVNULL,
            stdout=out,  # no pipe: a process that was forked just then would keep it open, and the child would seem to live
            stderr=out,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(each or "." for each in sys.path)},
        )
        while True:
            try:
                code = child.wait(_LOOK)
                break
            except subprocess.TimeoutExpired:
                look()
        out.seek(0)
        lines = out.read().decode("utf-8", "replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    try:
        done = json.loads(last)
    except ValueError:
        done = None
    if isinstance(done, dict):
        return done
    try:
        ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    except ValueError:
        ended = f"ended by signal {-code}"
    said = f": {last.strip()}" if last else ""
    return {"error": f"the process that compacts journal {path!r} {ended}{said}. Nothing that is needed was dropped."}
