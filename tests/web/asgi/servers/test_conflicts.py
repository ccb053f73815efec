"""Conflicts with another process, an arena that another one holds, and what the next run is given."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from recoverable import Arena
    from support.frameworks.served import Served

pytestmark = pytest.mark.slow

BODIES: dict[str, dict[str, Any]] = {
    "json": {"json": {"text": "the body"}},
    "form": {"data": {"text": "the body"}},
    "multipart": {"files": {"file": ("f.txt", b"the body")}},
    "open": {"files": {"file": ("f.txt", b"the body")}},  # the file is not closed by who has read it
    "raw": {"content": b"the body"},
    "parts": {"content": b"the body"},
}


PATHS = ["/do", "/sub/do", "/pure/do", "/base/do"]
#: Behind which middlewares what was streamed, and files that were closed, are gone.
GONE = {"litestar decorated": "/pure/do", "": None}


def lose(arena: Arena, key: str) -> None:
    """Commit what the request at the gate has read, from here."""
    with arena.transaction():
        arena.root[key] = 10


@pytest.mark.parametrize(
    ("kind", "path"), [(kind, path) for kind in BODIES for path in PATHS if kind == "json" or path != "/sub/do"]
)
async def test_the_next_run_reads_the_body_again(
    server: Served, arena: Arena, client: httpx.AsyncClient, path: str, kind: str
) -> None:
    """The loser is run again, and is given the body in whichever way it reads it, behind middlewares as well."""
    if path == "/base/do" and server.framework not in ("starlette", "fastapi"):
        pytest.skip("it has no such middleware")
    key = f"{kind}{path.replace('/', '-')}"
    asking = asyncio.create_task(client.post(f"{path}?key={key}&what=gate&read={kind}", **BODIES[kind]))
    await server.there(key)
    lose(arena, key)
    server.go(key, 1)
    server.go(key, 2)
    answer = await asking
    if server.of(GONE) == path and kind in ("multipart", "parts"):
        assert (answer.status_code, answer.headers["retry-after"], arena.root[key]) == (503, "1", 10)
    else:
        assert (answer.status_code, answer.text, arena.root[key]) == (200, "gate", 11)
        assert server.runs(key) == ["the body"] * 2


async def test_a_body_that_is_not_kept(server: Served, arena: Arena, client: httpx.AsyncClient) -> None:
    """One beyond the limit that was read in parts is gone: 503 says so, and the connection is usable."""
    asking = asyncio.create_task(client.post("/do?key=large&what=gate&read=parts", content=b"x" * 2**17))
    await server.there("large")
    lose(arena, "large")
    server.go("large")
    answer = await asking
    assert (answer.status_code, arena.root["large"]) == (503, 10)
    assert answer.headers["retry-after"] == "1"
    assert "its body was streamed" in answer.text
    assert (await client.get("/do?key=large&what=return")).status_code == 200
    assert arena.root["large"] == 11


async def test_a_last_run_that_loses(server: Served, arena: Arena, client: httpx.AsyncClient) -> None:
    """With `max_conflicts=0` the loser is answered with 503 and Retry-After; inside of a whole request that one decides."""
    asking = asyncio.create_task(client.get("/once?key=once&what=gate"))
    await server.there("once")
    lose(arena, "once")
    server.go("once", 1)
    server.go("once", 2)
    answer = await asking
    if server.protect == "all":
        assert (answer.status_code, arena.root["once"]) == (200, 11)
    else:
        assert (answer.status_code, answer.headers["retry-after"], arena.root["once"]) == (503, "1", 10)


async def test_a_busy_arena(server: Served, arena: Arena, client: httpx.AsyncClient) -> None:
    """While another process holds the arena for longer than `busy_timeout`: 503 and Retry-After; then all is well."""
    with httpx.Client(base_url=server.url, verify=False) as blocking:
        with arena.transaction():
            arena.root["held"] = True
            answer = blocking.get("/do?key=busy&what=return")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "busy" not in arena.root
        assert blocking.get("/do?key=busy&what=return").status_code == 200
    assert arena.root["busy"] == 1


async def test_two_requests(server: Served, arena: Arena) -> None:
    """Of two that add to one number at once, one is run again: both are answered, and both have been added."""
    async with server.client() as one, server.client() as other:
        path, clients = "/do?key=two&what=gate&read=raw", {"a": one, "b": other}
        both = [asyncio.create_task(client.post(path, content=text)) for text, client in clients.items()]
        await server.there("two", 2)
        for number in 1, 2, 3:
            server.go("two", number)
        assert [(await answer).status_code for answer in both] == [200, 200]
    assert arena.root["two"] == 2
    assert sorted(server.runs("two"))[::2] == ["a", "b"]
