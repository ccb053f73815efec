"""The example chat, for real: WebSockets, one transaction a message, a history that survives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from examples.chat.load import problems, visit
from support.servers import serving

if TYPE_CHECKING:
    from support.servers import Client

pytestmark = pytest.mark.slow  # each starts a server


def enter(client: Client, who: str) -> Any:
    """Connect to the lobby."""
    return client.session.ws_connect(f"{client.url}/rooms/lobby?who={who}")


def said(n: int, who: str, text: str) -> dict[str, Any]:
    """Give a message as it is heard."""
    return {"n": n, "who": who, "text": text}


async def test_message_is_heard_by_all_and_kept() -> None:
    """Who is in the room hears a message once, who comes later finds it in the history."""
    async with serving("chat") as client:
        async with enter(client, "ann") as ann, enter(client, "bob") as bob:
            await ann.send_json({"text": "hello"})
            assert await ann.receive_json() == await bob.receive_json() == said(1, "ann", "hello")
            await bob.send_json({"text": "hi"})
            assert await ann.receive_json() == await bob.receive_json() == said(2, "bob", "hi")
        async with enter(client, "eve") as eve:
            assert [await eve.receive_json(), await eve.receive_json()] == [
                said(1, "ann", "hello"),
                said(2, "bob", "hi"),
            ]


async def test_message_that_crashes_is_told_to_its_sender_only() -> None:
    """A message whose transaction crashes is undone, nobody else hears of it, and the connection goes on."""
    async with serving("chat") as client, enter(client, "ann") as ann, enter(client, "bob") as bob:
        await ann.send_json({"text": "oops", "crash": "raise"})
        assert "error" in await ann.receive_json()
        await ann.send_json({"text": "again"})
        assert await ann.receive_json() == await bob.receive_json() == said(1, "ann", "again")
        assert await client.get("/rooms/lobby/history") == {"said": 1, "history": [said(1, "ann", "again")]}


async def test_nonsense_is_answered_with_an_error() -> None:
    """What is no message is answered with an error, and the connection goes on."""
    async with serving("chat") as client, enter(client, "ann") as ann:
        for bad in ("", "{", "[]", '{"text": ""}', '{"text": 1}', '{"text": "x", "crash": "burn", "more": 1}'):
            await ann.send_str(bad)
        heard = [await ann.receive_json() for _ in range(6)]
        assert ["error" in one for one in heard] == [True] * 5 + [False]  # an unknown crash is none
        assert (await client.send("GET", "/rooms/attic/history"))[0] == 404


async def test_history_outlives_the_process() -> None:
    """A server killed in the middle of a message comes back with every message before it and none of that one."""
    async with serving("chat") as client:
        async with enter(client, "ann") as ann:
            await ann.send_json({"text": "before"})
            await ann.receive_json()
            await ann.send_json({"text": "fatal", "crash": "die"})
            assert (await ann.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        await client.server.killed()
        await client.start()
        assert [bool(records) for records in client.server.undone()] == [False, True]
        async with enter(client, "bob") as bob:
            assert await bob.receive_json() == said(1, "ann", "before")


async def test_shutdown_does_not_wait_for_the_clients() -> None:
    """A server that is told to end closes its connections and ends."""
    async with serving("chat") as client, enter(client, "ann") as ann:
        message, _ = await asyncio.gather(ann.receive(), client.server.stop())
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
        assert client.server.log() == ""


async def test_numbers_have_no_gaps_under_crashes(seed: int) -> None:
    """With one message in five crashing, each room's history is numbered without a gap."""
    async with serving("chat", "--crash-rate", "0.2") as client:
        kept = await client.visits(visit, seed, 5)
        assert sum(kept) > 0
        assert await problems(client.session, client.url) == []
        assert (await client.get("/stats"))["rollbacks"] > 0
