"""One watched run: counts the points that it reaches and strikes where its plan says."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Final

from recoverable._native import _faults
from recoverable.faults import _watch
from recoverable.faults._points import NATIVE, PLACES, Disconnect, Fault, Plan, Point

if TYPE_CHECKING:
    from recoverable._native.runtime import NativeArena
    from recoverable.arena import Arena

__all__ = ["Trace", "armed", "short", "watching"]

_KINDS: Final = {
    "alloc": _faults.FAULT_ROOM,
    "phase": _faults.FAULT_PHASE,
    "recover": _faults.FAULT_PHASE,
    "store": _faults.FAULT_STORE,
}
_ALL: Final = frozenset(PLACES)
_ACTIONS: Final = {
    "full": _faults.FAULT_FULL,
    "kill": _faults.FAULT_KILL,
    "oom": _faults.FAULT_KILL,
    "segv": _faults.FAULT_SEGV,
}


class Trace:
    """What a run reaches, and what strikes it.

    Args:
        plan: The faults.
        lines: Whether lines are points.
        files: Files whose lines are, besides those of the handlers that run.

    Attributes:
        points: Those that Python code has reached, in their order.
        native: How many points of each native place there were when the plan's first fault struck.
        since: How many of `points` there were then; None: it has not struck.
        reached: The lines, as (file, number).
        followed: The handlers that ran.
        clients: Whether there was a client to hang up on.
    """

    def __init__(self, plan: Plan, *, lines: bool, files: set[str]) -> None:
        self.plan = plan
        self.lines = lines
        self.files = set(files)
        self.points: list[Point] = []
        self.native: dict[str, int] = {}
        self.since: int | None = None
        self.struck = 0
        self.reached: set[str] = set()
        self.followed: dict[CodeType, None] = {}
        self.clients = False
        self._counts: Counter[str] = Counter()
        self._steps = {(point.place, point.nth): fault for point, fault in plan if point.place not in NATIVE}

    def reach(self, place: str, where: str, handler: str, *, connected: bool = True) -> Fault | None:
        """Count a point; return the plan's fault for it, if it can strike."""
        if place == "line":
            self.reached.add(where)
        elif place == "await":
            self.clients |= connected
        self._counts[place] += 1
        nth = self._counts[place]
        self.points.append(Point(place, nth, where))
        fault = self._steps.get((place, nth))
        if fault is None or (isinstance(fault, Disconnect) and not connected):
            return None
        self.strike()
        return fault

    def strike(self) -> None:
        """Note that a fault strikes now."""
        self.struck += 1
        if self.since is None:
            self.since = len(self.points)
            self.native = _passed()
        _faults.fault_count()

    def follow(self, code: CodeType) -> None:
        """Note a handler that runs; its file's lines are points."""
        self.followed[code] = None
        self.files.add(code.co_filename)

    def wants(self, handler: str) -> frozenset[str]:
        """Return all places: it counts."""
        return _ALL

    def begin(self, handler: str) -> None:
        """Do nothing."""

    def end(self, handler: str) -> None:
        """Do nothing."""

    def native_points(self, place: str) -> list[Point]:
        """Return the points of a native place; ask before the next run is watched."""
        names = _faults.fault_names(_KINDS[place])
        return [Point(place, nth, name) for nth, name in enumerate(names, 1)]


def _passed() -> dict[str, int]:
    return {place: len(_faults.fault_names(kind)) for place, kind in _KINDS.items() if place != "recover"}


@contextlib.contextmanager
def watching(trace: Trace, arenas: list[NativeArena], *, stores: bool = False) -> Iterator[None]:
    """Watch what the block does. The core's counts can be asked for until the next one.

    Args:
        trace: Who watches.
        arenas: The arenas whose writes are points.
        stores: Whether a test build's crash points are as well.
    """
    _faults.fault_clear()
    _watch.arm(trace, arenas)
    try:
        _faults.fault_watch(_faults.FAULT_ROOM)
        _faults.fault_watch(_faults.FAULT_PHASE)
        if stores:
            _faults.fault_watch(_faults.FAULT_STORE)
        for point, fault in trace.plan:
            if point.place in NATIVE and point.place != "recover":
                _faults.fault_at(_KINDS[point.place], point.nth, _ACTIONS[fault.name])
        yield
    finally:
        _watch.disarm()


@contextlib.contextmanager
def armed(plan: Plan | str, arena: Arena) -> Iterator[Trace]:
    """Have a plan's faults strike in the block: a test's own run, where no exploration is wanted.

    Lines and awaits are those of recoverable handlers. What a fault raises leaves the block as it would leave the handler.

    Args:
        plan: The plan, or its text: "write:3=raise".
        arena: The arena whose writes are points.
    """
    plan = Plan.parse(plan) if isinstance(plan, str) else plan
    trace = Trace(plan, lines=any(point.place == "line" for point, _ in plan), files=set())
    with watching(trace, [arena.native]):
        yield trace


_short: dict[str, str] = {}


def short(where: str) -> str:
    """Write a place in code relative to the current folder, where that is shorter."""
    if where not in _short:
        folder = f"{Path.cwd()}{os.sep}"
        _short[where] = where.removeprefix(folder)
    return _short[where]
