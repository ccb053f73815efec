"""What the core counts: of an arena, of each handler, of its lock."""

from __future__ import annotations

import ctypes
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

from recoverable._native._binding import NAME, arena_function, c_int, check, core_function, locked, u64
from recoverable.lock_times import CLASSES, Counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from recoverable._native.runtime import NativeArena

_STAT_TOTAL = 2  # RCV_STAT_TOTAL


class _Times(ctypes.Structure):
    _fields_ = (("count", u64), ("nanos", u64), ("in_class", u64 * CLASSES))


class LockTimes(ctypes.Structure):
    _fields_ = (("held", _Times), ("waited", _Times), ("running", u64))


class _StatInfo(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("metric", ctypes.c_char_p), ("help", ctypes.c_char_p), ("type", c_int))


class Stat(NamedTuple):
    """A member of `struct rcv_stats`: the metric it becomes ("" for none), the help text of that, and whether it only grows."""

    name: str
    metric: str
    help: str
    total: bool


def _listed(name: str, result: Any) -> Iterator[Any]:
    """Return what a function of the core gives for 0, 1, 2 and so on, until it gives NULL."""
    function = core_function(name, result, ctypes.c_uint)
    return itertools.takewhile(bool, map(function, itertools.count()))


#: What the core counts, as counters.h lists it.
STATS = tuple(
    Stat(info.name.decode(), info.metric.decode(), info.help.decode(), info.type == _STAT_TOTAL)
    for info in (found.contents for found in _listed("rcv_stat_info", ctypes.POINTER(_StatInfo)))
)
#: What the board counts of each handler.
BOARD = tuple(name.decode() for name in _listed("rcv_board_name", ctypes.c_char_p))


class _Stats(ctypes.Structure):
    _fields_ = tuple((stat.name, u64) for stat in STATS)


class _HandlerCounts(ctypes.Structure):
    _fields_ = (("count", u64 * len(BOARD)), ("rest", u64), ("handler", ctypes.c_char * NAME))


class _HotSpot(ctypes.Structure):
    _fields_ = (("container", u64), ("id", u64), ("kind", u64), ("arg", u64), ("count", u64), ("error", u64))


class _BoardSeen(ctypes.Structure):
    _fields_ = (
        ("rows", u64),
        ("spots", u64),
        ("row", _HandlerCounts * 64),
        ("spot", _HotSpot * 32),
        ("queue", u64 * 32),
    )


_get_stats = arena_function("rcv_get_stats", c_int, ctypes.POINTER(_Stats))
_get_lock_times = arena_function("rcv_get_lock_times", None, ctypes.POINTER(LockTimes))
_peek_board = core_function("rcv_peek_board", c_int, c_int, ctypes.c_char_p, ctypes.POINTER(_BoardSeen))


def stats(arena: NativeArena) -> dict[str, int]:
    """Return the counters of `struct rcv_stats` by name."""
    out = _Stats()
    locked(arena, lambda: int(_get_stats(arena, ctypes.byref(out))))
    return {stat.name: getattr(out, stat.name) for stat in STATS}


def lock_times_of(times: LockTimes) -> Counted:
    held, waited = ((t.count, t.nanos, tuple(t.in_class)) for t in (times.held, times.waited))
    return Counted(held, waited, times.running)


def lock_times(arena: NativeArena) -> Counted:
    """Return for how long the lock was held and waited for."""
    out = LockTimes()
    _get_lock_times(arena, ctypes.byref(out))
    return lock_times_of(out)


def peek_board(fd: int, name: str) -> tuple[dict[str | None, dict[str, int]], list[dict[str, int]]]:
    """Read what came of each handler's runs, and where conflicts were lost, without attaching.

    Returns:
        Counts by BOARD's names, by handler (None: those that were too many to tell apart); and the places of conflicts
        that stand out, with their counts, how much too high these may be and how many stand there, certainly most frequent first.
    """
    out = _BoardSeen()
    check(_peek_board(fd, name.encode(), ctypes.byref(out)))
    handlers: dict[str | None, dict[str, int]] = {}
    for row in out.row[: out.rows]:
        text = row.handler.decode("utf-8", "replace")
        printable = "".join(letter if letter.isprintable() else "?" for letter in text)
        handlers[None if row.rest else printable] = dict(zip(BOARD, row.count, strict=True))
    spots = [
        {field: getattr(spot, field) for field, _ in spot._fields_} | {"queue": queue}
        for spot, queue in zip(out.spot[: out.spots], out.queue, strict=False)
    ]
    return handlers, sorted(spots, key=lambda spot: spot["error"] - spot["count"])
