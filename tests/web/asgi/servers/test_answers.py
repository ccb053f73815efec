"""What each framework answers over a socket, and what state is left: one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest

if TYPE_CHECKING:
    from recoverable import Arena
    from support.frameworks.served import Served

pytestmark = pytest.mark.slow


class Row(NamedTuple):
    """What is asked for, and what is to come of it; a dict says where that differs, as `Served.of` reads it."""

    query: str
    status: Any
    kept: Any
    path: str = "/do"
    skips: tuple[str, ...] = ()
    closes: Any = False  # whether the server closes the connection after the answer
    items: Any = ()  # more items that are left
    body: bytes = b""
    headers: Any = ()  # those that the answer has


#: uvicorn closes the connection where the application has raised after its answer, as Starlette does with one of 500.
HANGS_UP = {"starlette": True, "fastapi": True, "": False}
ROWS = {
    "returns 200": Row("what=return", 200, True),
    "returns 302": Row("what=return&status=302", 302, True),
    "returns 404": Row("what=return&status=404", 404, True),
    "returns 500": Row("what=return&status=500", 500, False),
    "returns 503": Row("what=return&status=503", 503, False),
    "raises 302": Row("what=raise&status=302", 302, True),
    "raises 404": Row("what=raise&status=404", 404, False),
    "raises 500": Row("what=raise&status=500", 500, False),
    "crashes": Row("what=crash", 500, False, closes=HANGS_UP),
    "cancels itself": Row("what=cancel", 500, False, closes=True),
    "times out": Row("what=gate", 500, False, "/late", ("all",), closes=HANGS_UP),
    "no room": Row("what=full", 507, False),
    "background": Row("what=background", 200, True, items=["after"]),
    "background, lost": Row("what=background&fails=1", 500, False, closes=HANGS_UP),
    "background of a 503": Row("what=background&status=503", 503, False, items=[]),
    "dependency": Row("what=return", 200, True, "/dependency", ("starlette",), items=["dependency"]),
    "dependency, crash": Row(
        "what=crash",
        500,
        False,
        "/dependency",
        ("starlette",),
        HANGS_UP,
        {"": [], "litestar decorated": ["dependency"], "quart decorated": ["dependency"]},
    ),
    "mounted": Row("what=return", 200, True, "/sub/do"),
    "mounted, 503": Row("what=return&status=503", 503, False, "/sub/do"),
    "mounted, crash": Row("what=crash", 500, False, "/sub/do", closes={"": True, "quart": False}),
    "mounted, no room": Row(
        "what=full", {"": 507, "litestar": 500}, False, "/sub/do", closes={"": False, "litestar": True}
    ),
    "middleware": Row("what=return", 200, True, "/pure/do", body=b"four", headers={"x-between": "4"}),
    "middleware makes it 503": Row("what=return&instead=503", 503, {"": True, "all": False}, "/pure/do"),
    "middleware, crash": Row("what=crash", 500, False, "/pure/do", body=b"four", closes=HANGS_UP),
    "middleware, no room": Row("what=full", 507, False, "/pure/do", body=b"four"),
    "task": Row("what=return", 200, True, "/base/do", ("litestar", "quart"), body=b"four", headers={"x-between": "4"}),
    "task makes it 503": Row(
        "what=return&instead=503", 503, {"": True, "all": False}, "/base/do", ("litestar", "quart")
    ),
    "task, crash": Row("what=crash", 500, False, "/base/do", ("litestar", "quart"), True, body=b"four"),
    "task, no room": Row("what=full", 507, False, "/base/do", ("litestar", "quart"), body=b"four"),
}


@pytest.mark.parametrize("name", ROWS)
async def test_a_request(server: Served, arena: Arena, client: httpx.AsyncClient, name: str) -> None:
    """The answer is the framework's or ours, the state is committed or what it was, and the connection goes on."""
    row = ROWS[name]
    if {server.framework, server.protect} & set(row.skips):
        pytest.skip("it has no such thing")
    key = name.replace(" ", "-").replace(",", "")
    answer = await client.post(f"{row.path}?key={key}&{row.query}", content=row.body)
    ended, kept = await server.ended(key), arena.root.get(key, 0)
    assert (answer.status_code, kept) == (server.of(row.status), int(server.of(row.kept))), (ended, answer.text)
    assert dict(row.headers).items() <= dict(answer.headers).items()
    assert await closed(client) == server.of(row.closes)
    items = server.of(row.items)
    if "after" in items:
        await server.after(key)
        assert arena.root[f"{key}-after"] == kept
    assert {item for item in ("after", "dependency", "big") if f"{key}-{item}" in arena.root} == set(items)


async def closed(client: httpx.AsyncClient) -> bool:
    """Return whether the connection of the request before was closed; the next one is well."""
    connected: list[str] = []

    async def trace(event: str, info: Any) -> None:
        if event == "connection.connect_tcp.complete":
            connected.append(event)

    try:
        answer = await client.post("/do?key=next&what=return", extensions={"trace": trace})
    except (httpx.ReadError, httpx.RemoteProtocolError):  # the end of it had not arrived yet
        answer = await client.post("/do?key=next&what=return", extensions={"trace": trace})
    assert answer.status_code == 200
    return bool(connected)
