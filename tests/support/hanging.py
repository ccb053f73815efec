"""Requests that hang: in this process, and in a forked child that tells others of them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
from typing import TYPE_CHECKING, Any

from support.children import child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from recoverable import Arena


async def helper() -> None:
    """Await for somebody."""
    await asyncio.sleep(30)  # here


def line_of(function: Callable[..., Any], text: str) -> str:
    """Return where that text stands in a function, as a request says where it is."""
    lines, first = inspect.getsourcelines(function)
    (at,) = (n for n, line in enumerate(lines) if text in line)
    return f"{inspect.getsourcefile(function)}:{first + at} in {function.__qualname__}"


@contextlib.asynccontextmanager
async def running(*coroutines: Any) -> AsyncIterator[list[asyncio.Future[Any]]]:
    """Have them run as tasks, up to where they wait; they are cancelled in the end."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    await asyncio.sleep(0.02)
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def serve(arena: Arena, writer: int, requests: int = 1) -> None:
    """Hang with so many requests, and tell others of them."""

    async def hang() -> None:
        arena.listen()
        async with running(*(arena.run(helper) for _ in range(requests))):
            os.write(writer, b".")
            await asyncio.sleep(60)

    asyncio.run(hang())


@contextlib.contextmanager
def serving(arena: Arena, requests: int = 1) -> Iterator[int]:
    """Have a forked child serve meanwhile; gives its id."""
    reader, writer = os.pipe()
    with child(lambda: serve(arena, writer, requests)) as pid:
        try:
            os.read(reader, 1)
            yield pid
        finally:
            os.kill(pid, signal.SIGKILL)
            os.close(reader)
            os.close(writer)
