"""An arena with a small commit feed."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from recoverable import Arena
from recoverable._native import feed as native_feed

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def fed_arena(name: str, busy_timeout: float = 0.3) -> Iterator[Arena]:
    """Give one of that name, whose feed has 256 KiB, with a dict "d"."""
    with Arena.temporary("16 MiB", name=name, feed="256 KiB", busy_timeout=busy_timeout) as arena:
        with arena.transaction():
            arena.root["d"] = {"a": 0}
        yield arena


def fill(arena: Arena, times: int = 40) -> None:
    """Commit more than the ring holds."""
    for _ in range(times):
        with arena.transaction():
            arena.root["d"]["blob"] = os.urandom(8000)


def end(arena: Arena) -> tuple[int, int]:
    """Return the position behind the newest commit, and that one's number."""
    state = native_feed.state(arena.native)
    assert state is not None
    return state[4], state[5]
