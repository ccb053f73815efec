"""What tests of `async with arena.transaction():` share."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from recoverable import Arena


class AppError(Exception):
    """Stands for any error of an application."""


def outside(fn: Callable[[], Any]) -> Any:
    """Call a function in a task that has nothing of the context."""

    async def call() -> Any:
        return fn()

    return asyncio.get_running_loop().create_task(call(), context=contextvars.Context())


def commit(arena: Arena, key: str, value: Any) -> None:
    """Commit one value."""
    with arena.transaction():
        arena.root[key] = value
