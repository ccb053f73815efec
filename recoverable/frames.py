"""Where code is: the lines at which a suspended coroutine awaits, or at which a thread runs."""

from __future__ import annotations

import os
import sysconfig
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from recoverable.errors import InternalError, RecoverableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

__all__ = ["awaited", "caller", "calls", "innermost", "line_of", "without_ours"]

_DEEPEST: Final = 200  # coroutines that await each other
_LIBRARY: Final = (sysconfig.get_path("stdlib") + os.sep, sysconfig.get_path("platstdlib") + os.sep)
_OTHERS: Final = os.sep + "site-packages" + os.sep
_OURS: Final = os.path.dirname(__file__) + os.sep  # noqa: PTH120 -- as frames have it
_PACKAGE: Final = f"{__package__}."


def awaited(coroutine: Any) -> list[FrameType]:
    """Return the frames of a suspended coroutine and of what it awaits, the outermost first."""
    frames: list[FrameType] = []
    for _ in range(_DEEPEST):
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:  # else it is a native one
            frames.append(frame)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
        if coroutine is None:
            break
    return frames


def calls(stack: list[FrameType], found: Callable[[FrameType], bool]) -> list[FrameType]:
    """Return the innermost frame of a thread that is looked for and those that it has called, the outermost first; [] without one.

    Args:
        stack: The thread's frames, the innermost first.
        found: Returns whether a frame is the one.
    """
    for i, frame in enumerate(stack):
        if found(frame):
            return stack[i::-1]
    return []


def innermost(frames: list[FrameType]) -> FrameType | None:
    """Return the innermost frame outside of Python's own library and of this one; if there is none, the innermost of all."""
    for frame in reversed(frames):
        if _is_the_programs(frame.f_code):
            return frame
    return frames[-1] if frames else None


def _is_the_programs(code: CodeType) -> bool:
    file = code.co_filename
    return not file.startswith((_OURS, "<frozen")) and not (file.startswith(_LIBRARY) and _OTHERS not in file)


def caller(running: list[CodeType]) -> str:
    """Return the name of the program's function among those that run in a thread, the innermost first."""
    found = next(filter(_is_the_programs, running), running[0] if running else None)
    return "(unknown)" if found is None else found.co_qualname


def line_of(frame: FrameType | None) -> str | None:
    """Return the line that it is at."""
    return None if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"


def without_ours(error: BaseException, trace: TracebackType | None) -> TracebackType | None:
    """Return an exception's traceback without the frames of this library, which stand between the program's own.

    Those at its end are left out for an error that we raise on purpose, whose text says what is wrong. Otherwise they are where
    it happened, and stay; so do all where none is the program's.
    """
    entries: list[TracebackType] = []
    while trace is not None:
        entries.append(trace)
        trace = trace.tb_next
    theirs = [not str(entry.tb_frame.f_globals.get("__name__")).startswith(_PACKAGE) for entry in entries]
    meant = isinstance(error, RecoverableError) and not isinstance(error, InternalError)
    last = next((i for i in reversed(range(len(entries))) if theirs[i]), None)
    if last is None or all(theirs):
        return entries[0] if entries else None
    left = [entry for i, entry in enumerate(entries) if theirs[i] or (i > last and not meant)]
    for entry in reversed(left):
        line = entry.tb_lineno or 0  # None where it is at no line, as an interrupt may be
        trace = TracebackType(trace, entry.tb_frame, entry.tb_lasti, line)
    return trace
