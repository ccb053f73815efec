"""The watchdog, as far as it needs Python: what is told of a step that takes long, and the error that it is stopped by.

`_native/src/watch.c` looks, and says what to do about what it has seen; its top has all of it. Here are the words: the line of
code that a step is at, its stack, the events, the error. `_look` runs in a thread that is made for it, with the GIL, while the
step's own thread waits for that or for something outside of Python.

Where a C extension keeps the GIL, `_look` comes too late, and the stack is found out by a signal, which faulthandler handles:
it writes the stack of the thread that gets it to a file in memory. That file belongs to one process, so a forked child makes
another.
"""

from __future__ import annotations

import contextlib
import faulthandler
import linecache
import math
import os
import signal
import sysconfig
import threading
import traceback
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from recoverable import _registry, events, waits
from recoverable._native import watchdog as native
from recoverable._native.frames import of_thread
from recoverable.errors import ArenaOptionError, StepTooLongError

if TYPE_CHECKING:
    from types import FrameType

    from recoverable._native.runtime import NativeArena, Transaction

__all__ = ["VARIABLE", "At", "limit_of", "parse_limit", "set_limit", "settle", "stop", "too_long"]

#: Replaces the limit that the program sets: seconds, or "off", for whoever debugs it.
VARIABLE: Final = "RECOVERABLE_STEP_LIMIT"

_SHORTEST: Final = 0.01  # seconds
_FRAMES: Final = 24
_TELLERS: Final = 4  # threads that write events at a time
_UNTOLD: Final = 64  # what they have not come to: the oldest goes
_LIBRARY: Final = tuple(
    {path for key in ("stdlib", "platstdlib", "purelib", "platlib") if (path := sysconfig.get_paths().get(key))}
)
_DEBUGGERS: Final = frozenset({"bdb", "pdb", "pydevd", "debugpy"})
_AROUND: Final = frozenset({"asyncio.events", "asyncio.base_events", "asyncio.runners"})  # what runs a step


class At(NamedTuple):
    """Where a step is.

    Attributes:
        where: The line of the program's code: `file:line in function: source`; "" where it is not known.
        stack: A line a frame, as faulthandler writes them, the innermost first.
    """

    where: str
    stack: str


class _Stopped(NamedTuple):
    at: At
    seconds: float
    limit: float


_stopped: weakref.WeakKeyDictionary[Transaction, _Stopped] = weakref.WeakKeyDictionary()


# -- whether to watch ---------------------------------------------------------------------------------------------------


def parse_limit(seconds: object) -> float:
    """Return the limit of a step in seconds that is asked for, or what the environment has in its place; 0: none, as for None.

    Raises:
        ArenaOptionError: One of them is no limit. Also a `ValueError`.
    """
    limit = _parse(seconds)
    return _overruled(limit) if limit else limit


def _parse(seconds: object) -> float:
    if seconds is None:
        return 0.0
    if (
        isinstance(seconds, (int, float))
        and not isinstance(seconds, bool)
        and math.isfinite(seconds)
        and _SHORTEST <= seconds <= 86400
    ):
        return float(seconds)
    raise ArenaOptionError(
        f"step_limit={seconds!r} is not a limit: give seconds from {_SHORTEST} to 86400, or None. Nothing was changed."
    )


def _overruled(limit: float) -> float:
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return limit
    if text.lower() in {"off", "none", "0"}:
        return 0.0
    try:
        return _parse(float(text))
    except ValueError:
        raise ArenaOptionError(
            f"{VARIABLE}={text!r} is not a limit: seconds from {_SHORTEST} to 86400, or off. Nothing was changed."
        ) from None


def limit_of(arena: NativeArena) -> float | None:
    """Return how long a step may hold it, or None."""
    return native.limit(arena) or None


def set_limit(arena: NativeArena, seconds: object) -> None:
    """Say how long a step may hold it; None: as long as it likes.

    Raises:
        ArenaOptionError: That is no limit.
    """
    native.set_limit(arena, parse_limit(seconds))
    settle()


def settle() -> None:
    """Watch if there is an open arena whose steps have a limit, else don't."""
    with _registry.lock:  # one at a time
        if any(native.limit(segment.native) for segment in _registry.all_open() if not segment.native.closed):
            _dumps.get_ready()
            native.begin(_look)
        else:
            native.end()


def stop() -> None:
    """Watch nothing any more: the interpreter ends."""
    with _registry.lock:
        native.end(for_good=True)


def _forked() -> None:
    _dumps.forget()
    _read.clear()
    _untold.forget()
    native.forget_raised()
    settle()


os.register_at_fork(after_in_child=_forked)


class _Dumps:
    """The file to which faulthandler writes the stack of a thread that keeps the GIL, and the signal for it.

    The handler stays for good: a signal that is on its way must not find none.
    """

    def __init__(self) -> None:
        self.fd = -1
        self.key: tuple[int, int] | None = None
        self.signal: int | None = None

    def get_ready(self) -> None:
        """Make the file, if the program has not left it alone; choose a signal that nobody uses. Without either, do without."""
        if self._is_ours():
            return
        if self.signal is None:
            free = (n for n in range(signal.SIGRTMAX - 1, signal.SIGRTMIN, -1) if native.signal_is_free(n))
            self.signal = next(free, None)
        if self.signal is None:
            return
        with contextlib.suppress(OSError):  # it may be forbidden
            self.fd = os.memfd_create("recoverable-stack")
            status = os.fstat(self.fd)
            self.key = status.st_dev, status.st_ino
            faulthandler.register(self.signal, file=self.fd, all_threads=False, chain=False)
            native.use_signal(self.fd, self.signal)

    def forget(self) -> None:
        """What there is belongs to the process that this one was forked from."""
        if self._is_ours():
            os.close(self.fd)
        self.fd, self.key = -1, None

    def _is_ours(self) -> bool:
        if self.key is None:
            return False
        try:
            status = os.fstat(self.fd)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self.key


_dumps = _Dumps()


# -- where a step is ------------------------------------------------------------------------------------------------


def _at(frames: list[FrameType]) -> At:
    """Say where a thread is whose frames those are, the innermost first."""
    lines: list[str] = []
    where, debugged = "", False
    for frame in frames:
        if len(lines) >= _FRAMES and where:
            break
        code, module = frame.f_code, str(frame.f_globals.get("__name__", ""))
        if module in _AROUND and lines:
            break
        package = module.partition(".")[0]
        debugged = debugged or package in _DEBUGGERS
        lines.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}')
        if not where and package != "recoverable" and not code.co_filename.startswith((*_LIBRARY, "<frozen")):
            source = "breakpoint()" if debugged else _source(code.co_filename, frame.f_lineno)
            where = f"{code.co_filename}:{frame.f_lineno} in {code.co_name}" + (f": {source}" if source else "")
    return At(where or (lines[0].strip() if lines else ""), "\n".join(lines[:_FRAMES]))


_read: Final[set[str]] = set()  # files that somebody reads


def _source(path: str, line: int) -> str:
    """Return a line of code; "" while another thread reads that file, which may lie on a disk that does not answer."""
    if path in _read:
        return ""
    _read.add(path)
    try:
        return linecache.getline(path, line).strip()
    finally:
        _read.discard(path)


# -- what there is to do --------------------------------------------------------------------------------------------


class _Untold:
    """What is to be written of steps. A few threads do that: a log may hang, and each step that is late calls another one."""

    def __init__(self) -> None:
        self.found: deque[tuple[native.Overdue, At, bool]] = deque(maxlen=_UNTOLD)
        self.places = threading.Semaphore(_TELLERS)

    def forget(self) -> None:
        """What there is, the parent tells."""
        self.found.clear()
        self.places = threading.Semaphore(_TELLERS)

    def _next(self) -> tuple[native.Overdue, At, bool] | None:
        try:
            return self.found.popleft()
        except IndexError:  # another one has come to it
            return None

    def tell(self) -> None:
        """Write it, unless there are enough who do."""
        while self.found and self.places.acquire(blocking=False):
            try:
                each = self._next()
                if each is not None:
                    _tell(*each)
            except BaseException:  # the program's log pipeline may raise, and nobody is there to whom it could
                _print()
            finally:
                self.places.release()


_untold = _Untold()


def _look() -> None:
    """Do what is to be done about steps of this process. In a thread of its own."""
    _untold.found.extend(_stop_late())  # all of them, before anything is written: a log may be slow
    _untold.tell()


def _stop_late() -> list[tuple[native.Overdue, At, bool]]:
    found = []
    for segment in _registry.all_open():
        overdue = None if segment.native.closed else native.due(segment.native)
        if overdue is not None:
            try:
                found.append((overdue, *_stop(overdue)))
            except BaseException:
                _print()
    native.looked()
    return found


def _print() -> None:
    with contextlib.suppress(Exception):  # standard error may be closed
        traceback.print_exc()


def _stop(overdue: native.Overdue) -> tuple[At, bool]:
    """Stop it if it is time for that: return where it was, and whether it could be stopped."""
    stage, told, transaction = overdue.stage, overdue.told, overdue.transaction
    if overdue.current:
        at = _at(of_thread(overdue.thread))
    else:  # it has kept the GIL until its end
        where, _, stack = overdue.text.partition("\n")
        at = At(where, stack)
    seconds = overdue.seconds
    first = transaction if stage >= native.STOP and told < native.STOP else None
    if first is not None:  # before it is stopped: its thread may run at once, and asks
        _stopped[first] = _Stopped(at, seconds, native.limit(overdue.arena))
    stopped = stage >= native.STOP and overdue.stop()
    if first is not None and not stopped and not first.late:  # else another one has done it
        _stopped.pop(first, None)
    not_now = native.STOP <= stage < native.ENDING and told < native.STOP and overdue.current and not stopped
    overdue.done(native.SLOW if not_now else stage)  # which is asked for again
    if told < native.SLOW:
        overdue.say(f"{at.where}\n{at.stack}")
    return at, stopped


def _tell(overdue: native.Overdue, at: At, stopped: bool) -> None:
    stage, told, transaction = overdue.stage, overdue.told, overdue.transaction
    handler = overdue.handler if transaction is None else transaction.handler
    request_id = None if transaction is None else waits.request_id(transaction)
    facts = (overdue.arena.owner.name, handler, request_id, round(overdue.seconds * 1000), at.where, at.stack)
    if told < native.SLOW:
        events.step_slow(*facts)
    if stopped and told < native.STOP:
        events.step_stopped(*facts)
    if overdue.current and stage >= native.ENDING:
        events.step_ends_process(*facts)


def too_long(transaction: Transaction, stopped: BaseException | None = None) -> StepTooLongError:
    """Build the error of a run whose step was stopped.

    Args:
        transaction: Its transaction.
        stopped: What stopped it, whose traceback says where, if that has come to us.
    """
    native.settle()
    at, seconds, limit = _stopped.pop(transaction, _Stopped(At("", ""), 0.0, 0.0))
    took = (
        f"a step of {transaction.handler} held the arena for {seconds:.3g} s, more than its step_limit of {limit:g} s"
    )
    if not seconds:
        took = f"a step of {transaction.handler} held the arena for longer than its step_limit"
    error = StepTooLongError(
        f"{took}{f', at {at.where}' if at.where else ''}. It was stopped and rolled back, and nothing of it was committed. Nobody "
        "else could use the arena meanwhile: put what takes long behind an await (asyncio.to_thread, an asynchronous client) or "
        "outside of the transaction, or raise step_limit.",
        handler=transaction.handler,
        seconds=seconds,
        where=at.where,
        stack=at.stack,
    )
    return error if stopped is None else error.with_traceback(stopped.__traceback__)
