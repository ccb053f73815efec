"""How the benchmarks' servers are run: aiohttp on a free port, until SIGTERM; and how their CPU time is read."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from typing import Any


@contextlib.asynccontextmanager
async def listening(app: Any, port: int = 0, *, shared: bool = False) -> AsyncIterator[int]:
    """Serve an application, give its port, and clean it up at the end; `shared`: other processes may have the same port."""
    from aiohttp import web

    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, reuse_port=shared)
        await site.start()
        yield site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    finally:
        await runner.cleanup()


async def terminated() -> None:
    """Wait for SIGTERM."""
    done = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.set)
    await done.wait()


def cpu_ns(process: int) -> int:
    """Return nanoseconds of CPU time of a process; its clock's id is made as clock_getcpuclockid() does."""
    return time.clock_gettime_ns(~process << 3 | 2)
