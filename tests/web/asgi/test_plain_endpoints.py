"""`@recoverable` on `def` endpoints, which Starlette runs in its pool of threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from recoverable import Arena, attempt, recoverable
from recoverable.asgi import setup
from support.asgi import client_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

Shared = tuple[Arena, Arena]


def application(arena: Arena, endpoint: Callable[[Request], Response], **options: Any) -> Starlette:
    """Build an application with one endpoint, decorated, at "/"."""
    app = Starlette(routes=[Route("/", recoverable(**options)(endpoint), methods=["GET", "POST"])])
    setup(app, arena)
    return app


def lose(arena: Arena) -> None:
    """Have another transaction change what the running one has read here, so that it loses."""
    seen = arena.root.get("contended", 0)
    contextvars.Context().run(recoverable(arena=arena)(arena.root.update), {"contended": seen + 1})


@pytest.mark.parametrize(
    ("status", "raised", "kept"),
    [
        (200, False, True),
        (404, False, True),
        (503, False, False),
        (303, True, True),
        (404, True, False),
        (500, True, False),
    ],
)
async def test_the_answer_says_whether_it_commits(shared: Shared, status: int, raised: bool, kept: bool) -> None:
    """As of a coroutine function; and it runs in a thread."""
    arena, for_app = shared
    threads: list[threading.Thread] = []

    def endpoint(request: Request) -> Response:
        threads.append(threading.current_thread())
        arena.root["n"] = 1
        if raised:
            raise HTTPException(status)
        return PlainTextResponse("", status)

    async with client_of(application(for_app, endpoint)) as client:
        assert (await client.get("/")).status_code == status
    assert ("n" in arena.root) == kept
    assert threading.main_thread() not in threads


async def test_a_conflict_runs_it_again_with_its_request(shared: Shared, log: list[dict[str, Any]]) -> None:
    """As it came, and under one id; where it may not run again, the client is told to send it again."""
    arena, for_app = shared
    seen: list[Any] = []

    def endpoint(request: Request) -> Response:
        seen.append(getattr(request.state, "run", None))
        request.state.run = attempt()
        if attempt() == 1:
            lose(arena)
        arena.root["n"] = attempt()
        return JSONResponse(attempt())

    async with client_of(application(for_app, endpoint)) as client:
        answer = await client.post("/", content=b"x", headers={"x-request-id": "r1"})
    assert (answer.status_code, answer.json()) == (200, 2)
    assert seen == [None, None]
    assert {event["request_id"] for event in log if event["event"] == "request.conflict"} == {"r1"}

    async with client_of(application(for_app, endpoint, max_conflicts=0)) as client:
        answer = await client.post("/")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert dict(arena.root) == {"contended": 2, "n": 2}


async def test_many_at_once_lose_nothing(shared: Shared) -> None:
    """They run in several threads, one after another where they use the arena."""
    arena, for_app = shared

    def endpoint(request: Request) -> Response:
        arena.root["n"] = n = arena.root.get("n", 0) + 1
        return JSONResponse(n)

    async with client_of(application(for_app, endpoint)) as client:
        answers = await asyncio.gather(*(client.get("/") for _ in range(50)))
    assert sorted(answer.json() for answer in answers) == list(range(1, 51))
