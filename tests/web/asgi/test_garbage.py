"""What a request leaves behind: nothing that only the collector would find, so that memory is flat between its runs."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena
from support.asgi import client_of, lifespan_of
from support.posted import POSTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from recoverable._asgi import App

REQUESTS = 20


def counted() -> Counter[str]:
    """Count the objects of our classes, and what holds on to such."""
    names = (f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())
    return Counter(name for name in names if name.startswith("recoverable.") or name.endswith((".Task", ".coroutine")))


@pytest.mark.parametrize(("make", "protect"), POSTED)
@pytest.mark.parametrize("body", [{"a": 1}, {"crash": True}], ids=["commits", "crashes"])
async def test_a_request_leaves_no_cycles(
    shared: tuple[Arena, Arena],
    make: Callable[[Arena, Any, list[int]], App],
    protect: str,
    body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the collector off, there are as many objects after many requests as before."""
    if "crash" in body:
        if make.__name__ == "quart":
            pytest.skip("what crashes in Quart is held by a cycle of its own")
        monkeypatch.setattr(
            logging.root.manager, "disable", logging.CRITICAL
        )  # pytest keeps all records, their tracebacks too
    app = make(shared[1], protect, [])
    async with lifespan_of(app), client_of(app) as client:
        for _ in range(3):
            await client.post("/", json=body)
        gc.collect()
        gc.disable()
        try:
            before = counted()
            for _ in range(REQUESTS):
                await client.post("/", json=body)
            more = counted() - before
        finally:
            gc.enable()
    assert not {name: count for name, count in more.items() if count >= REQUESTS}
