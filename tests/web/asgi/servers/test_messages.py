"""WebSockets over sockets: a message is the unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from websockets.asyncio.client import ClientConnection, connect

if TYPE_CHECKING:
    from recoverable import Arena
    from support.frameworks.served import Served

pytestmark = pytest.mark.slow


def talk(server: Served, key: str, path: str = "/socket") -> connect:
    """Connect to it."""
    return connect(f"{server.url.replace('http', 'ws')}{path}?key={key}")


async def ask(connection: ClientConnection, text: str) -> str | bytes:
    """Send a message, and return the answer."""
    await connection.send(text)
    return await connection.recv()


@pytest.mark.parametrize("path", ["/socket", "/pure/socket"])
async def test_messages(server: Served, arena: Arena, path: str) -> None:
    """Each commits before it is answered; a crash in one rolls back that one, and the connection goes on."""
    key = f"talk{path.replace('/', '-')}"
    async with talk(server, key, path) as connection:
        for text, kept in [("ok", 1), ("crash", 1), ("ok", 2)]:
            assert await ask(connection, f"{key} {text}") == {"ok": "ok", "crash": "crashed"}[text]
            assert arena.root[key] == kept


async def test_a_message_that_conflicts(server: Served, arena: Arena) -> None:
    """It is run again, with the same message, and answered once."""
    async with talk(server, "lost") as connection:
        await connection.send("lost gate")
        await server.there("lost")
        with arena.transaction():
            arena.root["lost"] = 10
        server.go("lost", 1)
        server.go("lost", 2)
        assert await connection.recv() == "gate"
        assert arena.root["lost"] == 11
        assert await ask(connection, "lost ok") == "ok"
    assert arena.root["lost"] == 12


#: What comes of a message whose client has hung up: Quart cancels its handling, the others don't notice.
GOES_ON = {"": True, "quart": False}


async def test_a_client_that_hangs_up(server: Served, arena: Arena) -> None:
    """What was answered stays; the message that is being handled goes on and commits, or is cancelled and rolled back."""
    async with talk(server, "hung") as connection:
        assert await ask(connection, "hung ok") == "ok"
        await connection.send("hung gate")
        await server.there("hung")
        connection.transport.abort()
    if server.of(GOES_ON):
        server.go("hung")
    await server.ended("hung")
    assert arena.root["hung"] == 1 + server.of(GOES_ON)
