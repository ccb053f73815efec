"""A request that finds the lock held gives way to others of its loop, and runs again as it came: its body too."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena
from support.asgi import client_of, lifespan_of
from support.posted import POSTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from recoverable._asgi import App


@pytest.mark.parametrize(("make", "protect"), POSTED)
async def test_a_request_that_has_read_its_body(
    shared: tuple[Arena, Arena], make: Callable[[Arena, Any, list[int]], App], protect: str
) -> None:
    """The loop goes on although another thread holds the lock: it is this loop that has it let go."""
    arena, for_app = shared
    runs: list[int] = []
    app = make(for_app, protect, runs)
    inside, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with arena.transaction():
            arena.root["held"] = True
            inside.set()
            assert enough.wait(20), "the loop stood still"

    async with lifespan_of(app), client_of(app) as client:
        holder = threading.Thread(target=hold)
        holder.start()
        try:
            await asyncio.to_thread(inside.wait)
            asked = asyncio.create_task(client.post("/", json={"a": 1}))
            await asyncio.sleep(0.1)
            assert not asked.done()
        finally:
            enough.set()
            await asyncio.to_thread(holder.join)
        answer = await asked
        assert (answer.status_code, len(runs)) == (200, 2)
        assert arena.root["held"]
        assert arena.root["body"] in ({"a": 1}, 7)
