"""Where requests that crash are kept, and functions and applications that crash."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, recoverable
from recoverable.capsules import Capsule, Capsules
from support.web import application, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp.test_utils import TestClient

__all__ = ["arenas", "crashed", "crashing", "current", "divide", "fails", "flush", "kept", "only"]


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


def flush(arena: Arena) -> None:
    """Have all that is committed on the disk."""
    asyncio.run(arena.durable(timeout=30))


def fails(coroutine: Any) -> None:
    """Run what fails."""

    async def main() -> Any:
        return await coroutine

    with pytest.raises(Exception):  # noqa: B017 -- whatever the test is about
        asyncio.run(main())


#: The arenas that a program has in a global variable, the last one of which counts.
arenas: list[Arena] = []


def current() -> Arena:
    """Return the arena that a program has in a global variable."""
    return arenas[-1]


@recoverable
async def divide(key: str, by: dict[str, int], *, pin: str = "") -> float:
    """Fail, as a caller's arguments have it."""
    root = current().root
    before = root[key]
    await asyncio.sleep(0)
    root[key] = before + 1
    return before / by["n"]  # type: ignore[no-any-return]


def crashed(arena: Arena, capsules: Capsules) -> Capsule:
    """Return the capsule of a function that has crashed."""
    arenas.append(arena)
    with arena.transaction():
        arena.root["a"] = 4
    fails(divide("a", {"n": 0}))
    flush(arena)
    return only(capsules)
