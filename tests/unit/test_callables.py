"""What `@recoverable` and `arena.run` take beside coroutine functions: partials, objects that are called, mocks."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

import pytest

from recoverable import attempt, recoverable

if TYPE_CHECKING:
    from recoverable import Arena


class Called:
    """A class-based handler."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena

    async def __call__(self, n: int) -> int:
        """Write what it was called with, at the second attempt."""
        self.arena.root["n"] = n
        if attempt() == 1:
            raise OSError
        return n

    async def method(self, extra: int, n: int) -> int:
        """Do the same."""
        return await self(n + extra)


class Inherited(Called):
    """One that inherits what is called."""


def callables(arena: Arena) -> dict[str, Any]:
    """Return what gives a coroutine when it is called with a number."""
    called = Called(arena)

    class Class:
        @recoverable(retries=1)
        @staticmethod
        async def static(n: int) -> int:
            return await called(n)

        @staticmethod
        @recoverable(retries=1)
        async def inner(n: int) -> int:
            return await called(n)

        @recoverable(retries=1)
        @classmethod
        async def of_class(cls, n: int) -> int:
            assert cls is Class
            return await called(n)

        async def _two(self, extra: int, n: int) -> int:
            return await called(n + extra)

        partial = recoverable(retries=1)(functools.partialmethod(_two, 0))

    again = recoverable(retries=1)
    return {
        "partial": again(functools.partial(called.method, 0)),
        "partial of partial": again(functools.partial(functools.partial(called.method, 0))),
        "partial of object": again(functools.partial(called)),
        "bound method": again(called.__call__),
        "object": again(called),
        "inherited": again(Inherited(arena)),
        "AsyncMock": again(AsyncMock(side_effect=called.__call__)),
        "staticmethod": Class.static,
        "staticmethod outside": Class().inner,
        "classmethod": Class.of_class,
        "partialmethod": Class().partial,
    }


@pytest.mark.parametrize("kind", list(callables(None)))  # type: ignore[arg-type]
async def test_what_can_be_decorated(arena: Arena, kind: str, log: list[dict[str, Any]]) -> None:
    """It runs as a transaction, is run again, is a coroutine function as aiohttp wants it, and has a name."""
    handler = callables(arena)[kind]
    assert inspect.iscoroutinefunction(handler)
    assert await handler(7) == 7
    assert arena.root["n"] == 7
    names = {event["handler"] for event in log if "handler" in event}
    assert names
    assert all(name and "wrapper" not in name for name in names)


@pytest.mark.parametrize("kind", ["partial", "object", "AsyncMock", "awaitable"])
async def test_what_arena_run_takes(arena: Arena, kind: str) -> None:
    """The same without the decorator, and any function that gives an awaitable."""
    called = Called(arena)
    fn: Any = {
        "partial": functools.partial(called.method, 0),
        "object": called,
        "AsyncMock": AsyncMock(side_effect=called.__call__),
        "awaitable": lambda n: called(n),
    }[kind]
    assert await arena.run(fn, 7, retries=1) == 7
    assert arena.root["n"] == 7


def test_what_is_no_function_is_refused() -> None:
    """Classes, generators and partials of those, and what can't be called: a TypeError that names them."""

    def generator() -> Any:
        yield

    for fn, name in (
        (generator, "generator"),
        (functools.partial(generator), "generator"),
        (Called, "Called"),
        (object(), "object"),
    ):
        with pytest.raises(TypeError, match=f"{name} is not one"):
            recoverable(fn)  # type: ignore[arg-type]


async def test_arena_run_refuses_what_gives_nothing_to_await(arena: Arena) -> None:
    """A plain function is rolled back, and the error says how to make it a transaction."""

    def plain() -> int:
        arena.root["n"] = 1
        return 1

    for fn in plain, recoverable(plain):
        with pytest.raises(TypeError, match=r"plain returned 1\. It was rolled back\. .* by @recoverable"):
            await arena.run(fn)  # type: ignore[arg-type]
    assert "n" not in arena.root
