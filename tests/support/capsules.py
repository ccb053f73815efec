"""Where requests that crash are kept, and an application whose handler crashes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recoverable import Arena
from recoverable.capsules import Capsule, Capsules
from support.web import application, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp.test_utils import TestClient

__all__ = ["crashing", "kept", "only"]


def kept(capsules: Capsules) -> list[Capsule]:
    """Return what was kept, the oldest first."""
    assert capsules.flush(10)
    folder = Path(capsules.folder)
    return [Capsule.open(path) for path in sorted(folder.glob("[!.]*"))] if folder.exists() else []


def only(capsules: Capsules) -> Capsule:
    """Return the one that was kept."""
    (found,) = kept(capsules)
    return found


@contextlib.asynccontextmanager
async def crashing(
    arena: Arena, handler: Any, capsules: Capsules, path: str = "/x", **options: Any
) -> AsyncIterator[TestClient[Any, Any]]:
    """Serve a handler whose crashes are kept; the arena goes on when it is over."""
    app = application(
        Arena.open(arena.name, journal=getattr(arena.native.journal, "path", None)),
        {path: handler},
        capsules=capsules,
        **options,
    )
    async with serving(app) as client:
        yield client
