"""Answers that are sent in parts, and clients that hang up in the middle of whatever it is."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from recoverable import Arena
    from support.frameworks.served import Served

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("what", ["stream", "events"])
async def test_a_stream(server: Served, arena: Arena, client: httpx.AsyncClient, what: str, fails: bool) -> None:
    """What was done is committed before the first part is there; what the stream writes is a transaction of its own."""
    key = f"{what}-{fails}"
    parts: list[str] = []
    async with client.stream("GET", f"/do?key={key}&what={what}{'&fails=1' * fails}") as answer:
        try:
            async for part in answer.aiter_text():
                parts.append(part)
                assert arena.root[key] == 1
                server.go(key)
        except httpx.RemoteProtocolError:
            assert fails
    assert answer.status_code == 200
    expected = ["1"] if fails else ["1", "2"]
    if what == "events":
        expected = [f"data: {each}\n\n" for each in expected]
    assert "".join(parts).replace("\r\n", "\n") == "".join(expected)
    await server.ended(key)
    assert (arena.root[key], arena.root[f"{key}-part"]) == (1, 1)
    assert (await client.get("/do?key=next&what=return")).status_code == 200


async def test_a_stream_whose_client_hangs_up(server: Served, arena: Arena) -> None:
    """What was committed before the first part stays."""
    async with server.client() as client, client.stream("GET", "/do?key=left&what=stream") as it:
        assert await anext(it.aiter_text()) == "1"
    server.go("left")
    await server.ended("left")
    assert arena.root["left"] == 1


#: What comes of a handler whose client has hung up: Quart cancels it, the others don't notice.
GOES_ON = {"": True, "quart": False}


@pytest.mark.parametrize("path", ["/do", "/base/do"])
async def test_a_handler_whose_client_hangs_up(server: Served, arena: Arena, path: str) -> None:
    """It goes on and commits, or is cancelled and rolled back, as its framework has it."""
    if path == "/base/do" and server.framework not in ("starlette", "fastapi"):
        pytest.skip("it has no such middleware")
    key = f"gone{path.replace('/', '-')}"
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        client.sendall(f"GET {path}?key={key}&what=gate HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await server.there(key)
    if server.of(GOES_ON):
        server.go(key)
    await server.ended(key)
    assert arena.root.get(key, 0) == server.of(GOES_ON)


@pytest.mark.parametrize("kind", ["raw", "parts", "multipart"])
async def test_a_body_that_ends_in_the_middle(server: Served, arena: Arena, kind: str) -> None:
    """A client that hangs up while it sends its body leaves nothing."""
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        head = f"POST /do?key=half-{kind}&what=return&read={kind} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
        client.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\nContent-Disp".encode())
        await asyncio.sleep(0.05)  # whether it has been read by then or not
    await server.ended(f"half-{kind}")
    assert f"half-{kind}" not in arena.root
