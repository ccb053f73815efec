"""An arena whose steps are watched."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from recoverable import Arena

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
