"""Connections that stay in memory: requests reach the real code of a server, and only the system calls are missing.

Parser, router, handler, response and writer are those of every server: aiohttp's request handler, and uvicorn's with httptools.
"""

from __future__ import annotations

import asyncio
from typing import Any

PATIENCE = 600  # seconds a request may take: callgrind is slow


class Loopback(asyncio.Transport):
    """A transport that hands an answer to who waits for it.

    Args:
        writes: How many an answer is written in; the first begins with its status.
    """

    def __init__(self, writes: int = 1) -> None:
        super().__init__()
        self.answered: asyncio.Future[None] | None = None
        self._writes, self._left = writes, 0

    def write(self, data: Any) -> None:
        if self._left == 0:
            if data[9:12] != b"200":
                raise RuntimeError(f"not an answer of 200: {bytes(data[:400])!r}")
            self._left = self._writes
        self._left -= 1
        if self._left == 0 and self.answered is not None:
            self.answered.set_result(None)
            self.answered = None

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


Connection = tuple[Any, Loopback]  # a protocol, whose data_received() takes requests, and its transport


async def connected(app: Any, many: int) -> list[Connection]:
    """Serve an application of aiohttp or of ASGI, and return so many connections to it."""
    from aiohttp import web

    made: list[Connection] = []
    if isinstance(app, web.Application):
        runner = web.AppRunner(app, access_log=None, keepalive_timeout=PATIENCE)
        await runner.setup()
        made += [(runner.server(), Loopback()) for _ in range(many)]
    else:
        from uvicorn.config import Config
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
        from uvicorn.server import ServerState

        config = Config(app, http="httptools", ws="none", lifespan="off", access_log=False, timeout_keep_alive=PATIENCE)
        config.load()
        state = ServerState()
        made += [(HttpToolsProtocol(config, state, {}), Loopback(writes=2)) for _ in range(many)]  # its head, its body
    for handler, transport in made:
        handler.connection_made(transport)
    await asyncio.sleep(0.01)  # the handlers' tasks begin
    return made
