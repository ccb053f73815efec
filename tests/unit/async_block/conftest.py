"""Each kind of event loop, and a way to run something in a new one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"], autouse=True)
def loop(request: pytest.FixtureRequest) -> Any:
    """Give each kind of event loop."""
    return request.param


@pytest.fixture
def run(loop: Any) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine in a new event loop."""

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=loop) as runner:
            return runner.run(coroutine)

    return run
