"""An arena whose steps are watched."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from recoverable import Arena
from recoverable._native import watchdog as native

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 0.4  # seconds: the process ends at twice that, which a busy machine must not come to by itself


@contextlib.contextmanager
def watched_arena(name: str, limit: float = LIMIT) -> Iterator[Arena]:
    """Give one of that name, with "n" at 0."""
    with Arena.temporary("4 MiB", name=name, step_limit=limit) as opened:
        with opened.transaction():
            opened.root["n"] = 0
        yield opened


@contextlib.contextmanager
def spared_arena(name: str) -> Iterator[Arena]:
    """Give one whose steps are stopped soon, and never end the process."""
    with watched_arena(name) as opened:
        native.set_limit(opened.native, LIMIT / 4, ends=False)
        yield opened


def compute(seconds: float) -> None:
    """Keep the thread, not the GIL."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def seen(arena: Arena, stage: int) -> native.Overdue:
    """Wait until a step has come to that."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        found = native.due(arena.native)
        if found is not None and found.stage >= stage:
            return found
        time.sleep(0.002)
    raise AssertionError("nothing was seen")


def told(log: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return the events of steps when there are so many: they are written beside the program, which may be faster."""
    until = time.monotonic() + 10
    while True:
        found = [event for event in list(log) if event["event"].startswith("step.")]
        if len(found) >= count or time.monotonic() > until:
            return found
        time.sleep(0.005)
