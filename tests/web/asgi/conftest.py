"""An arena that the application may close, and one place where a run can be made to lose."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator


@pytest.fixture
def shared(name: str) -> Iterator[tuple[Arena, Arena]]:
    """Give an arena, and a second handle of it for the application, which closes it."""
    with Arena.temporary("16 MiB", name=name) as arena, Arena.open(name) as for_app:
        yield arena, for_app


@pytest.fixture
def lose(shared: tuple[Arena, Arena]) -> Callable[[], Awaitable[Any]]:
    """Give what has another transaction change what the running one has read: it loses a conflict at its next access."""
    arena, _ = shared

    async def losing() -> None:
        seen = arena.root.get("contended", 0)

        async def other() -> None:
            with arena.transaction():
                arena.root["contended"] = seen + 1

        await asyncio.get_running_loop().create_task(other(), context=contextvars.Context())

    return losing
