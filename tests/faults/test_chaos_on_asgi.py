"""Chaos in ASGI applications: who may arm it, what its rules mean, and what a client sees of each fault."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from recoverable import Arena, FaultsNotAllowedError, FaultSyntaxError, asgi, recoverable
from recoverable import fastapi as recoverable_fastapi
from recoverable.faults import Disconnect, Raise, Rule, _watch, inject
from recoverable.faults.asgi import serving
from support.asgi import served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

KINDS = ("starlette", "fastapi", "fastapi, all", "middleware")


def shop(arena: Arena, kind: str, **options: Any) -> Any:
    """Make the shop: a handler that is decorated, unless all are protected, and a plain one."""

    async def checkout(request: Request) -> PlainTextResponse:
        root = arena.root
        root["stock"] -= 1
        await asyncio.sleep(0)
        root["orders"].append((await request.body()).decode())
        return PlainTextResponse("ok")

    async def plain(request: Request) -> PlainTextResponse:
        await asyncio.sleep(0)
        return PlainTextResponse("ok")

    handler: Any = checkout if kind == "fastapi, all" else recoverable(checkout)
    if kind.startswith("fastapi"):
        app = FastAPI()
        app.post("/checkout", response_model=None)(handler)
        app.get("/plain", response_model=None)(plain)
        protect: Any = "all" if kind == "fastapi, all" else "decorated"
        recoverable_fastapi.setup(app, arena, protect=protect, **options)
        return app
    inner = [Route("/checkout", handler, methods=["POST"]), Mount("/", routes=[Route("/plain", plain)])]
    starlette = Starlette(routes=inner)
    if kind == "middleware":
        return asgi.Middleware(starlette, arena, **options)
    asgi.setup(starlette, arena, **options)
    return starlette


@pytest.fixture
def open_shop(arena: Arena) -> Callable[..., contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]:
    """Give what serves the shop of a kind, with options of setup()'s, and gives a client."""
    with arena.transaction():
        arena.root["stock"], arena.root["orders"] = 100, []

    @contextlib.asynccontextmanager
    async def opening(kind: str, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
        async with serving(shop(Arena.open(arena.name), kind, **options)) as client:
            yield client

    return opening


async def order(client: httpx.AsyncClient, times: int = 1) -> list[int]:
    """Send so many orders; return the answers, 0 for a connection that was closed."""
    answers = []
    for _ in range(times):
        try:
            answers.append((await client.post("/checkout", content=b"it")).status_code)
        except httpx.TransportError:
            answers.append(0)
    return answers


def whole(arena: Arena) -> bool:
    """Tell whether nothing is lost."""
    return bool(arena.root["stock"] + len(arena.root["orders"]) == 100)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["variable", "text", "rules"])
def test_faults_are_refused_unless_the_application_allows_them(
    arena: Arena, kind: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without allow_faults=True a set variable, a text or rules are a named error, and nothing is set up or armed."""
    options: dict[str, Any] = {"text": {"faults": "*=raise@line"}, "rules": {"faults": [Rule("*", Raise(), "line")]}}
    if how == "variable":
        monkeypatch.setenv("RECOVERABLE_FAULTS", "*=raise@line")
    with pytest.raises(FaultsNotAllowedError, match=r"Is this production\?"):
        shop(arena, kind, **options.get(how, {}))
    assert _watch.armed() is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_text_stops_the_start(arena: Arena, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the variable is an error at the start and not a server without faults."""
    monkeypatch.setenv("RECOVERABLE_FAULTS", "*=boom@line")
    with pytest.raises(FaultSyntaxError, match="no fault 'boom'"):
        shop(arena, kind, allow_faults=True)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_variable_arms_and_the_shut_down_disarms(
    arena: Arena, kind: str, open_shop: Any, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Armed faults are announced, those that strike are events that are counted, and the end of the lifespan ends them."""
    before = arena.stats().faults
    monkeypatch.setenv("RECOVERABLE_FAULTS", "checkout=raise(KeyError)@write:0.4")
    monkeypatch.setenv("RECOVERABLE_FAULTS_SEED", "77")
    async with open_shop(kind, allow_faults=True) as client:
        (armed,) = [event for event in log if event["event"] == "faults.armed"]
        assert (armed["seed"], armed["rules"]) == (77, ["checkout=raise(KeyError)@write:0.4"])
        answers = await order(client, 20)
    assert _watch.armed() is None
    struck = [event for event in log if event["event"] == "fault.injected"]
    assert answers.count(500) == len(struck) == arena.stats().faults - before > 0 < answers.count(200)
    assert {event["handler"].rpartition(".")[2] for event in struck} == {"checkout"}
    assert all("test_chaos_on_asgi.py:" in event["where"] for event in struck)
    assert whole(arena)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        ("checkout=raise@line", 500),
        ("checkout=raise@await", 500),
        ("checkout=timeout@await", 500),
        ("checkout=cancel@await", 500),
        ("checkout=disconnect@await", 0),
        ("*=delay(1ms)@await", 200),
        ("*=full@write", 507),
        ("*=full@alloc", 507),
        ("*=conflict@resume", 503),
        ("*=conflict@commit", 503),
        ("other=raise@line", 200),
    ],
)
async def test_each_fault_strikes_a_request(arena: Arena, kind: str, rule: str, answer: int, open_shop: Any) -> None:
    """What a client sees of each fault; none leaves the state in between. Here the body is read when the client has gone."""
    async with open_shop(kind, faults=rule, allow_faults=True) as client:
        assert await order(client) == [answer]
    assert whole(arena)
    assert len(arena.root["orders"]) == (answer == 200)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_handler_that_is_not_decorated_fails_too(kind: str, open_shop: Any) -> None:
    """Lines and awaits of plain handlers are points, also in what is mounted; a rule means only the handler that it names."""
    for rule in ("plain=raise@line", "*.plain=timeout@await"):
        async with open_shop(kind, faults=rule, allow_faults=True) as client:
            assert (await client.get("/plain")).status_code == 500
            assert await order(client) == [200]


async def test_nothing_of_it_can_be_armed_through_a_request(open_shop: Any) -> None:
    """Whatever a client sends where it might be listened to, nothing is armed."""
    text = "*=raise@line"
    async with open_shop("fastapi", allow_faults=True) as client:
        for name in ("RECOVERABLE_FAULTS", "X-Recoverable-Faults", "faults", "allow_faults"):
            for more in ({"headers": {name: text}}, {"params": {name: text}}, {"json": {name: text}}):
                assert (await client.post("/checkout", **more)).status_code == 200
        assert _watch.armed() is None


async def test_a_fault_at_a_chosen_point_of_a_plain_path_function(arena: Arena) -> None:
    """In the thread that it runs in, a write is a point of the function's."""
    with arena.transaction():
        arena.root["stock"] = 100
    app = FastAPI()

    @app.post("/buy")
    @recoverable
    def buy() -> None:
        arena.root["stock"] -= 1

    recoverable_fastapi.setup(app, Arena.open(arena.name))
    async with serving(app) as client:
        with inject("*buy", Raise(ValueError), at="write") as injection:
            assert (await client.post("/buy")).status_code == 500
            assert injection.struck
            assert (await client.post("/buy")).status_code == 200
    assert arena.root["stock"] == 99


async def test_a_disconnect_cuts_the_connection_of_a_server(arena: Arena) -> None:
    """Under uvicorn the client's connection is closed, the application is told when it reads on, and the next request is served."""
    with arena.transaction():
        arena.root["stock"], arena.root["orders"] = 100, []
    app = shop(Arena.open(arena.name), "fastapi")
    async with served(app) as address, httpx.AsyncClient(base_url=address) as client:
        with inject("*checkout", Disconnect(), at="await") as injection:
            assert await order(client) == [0]
            assert injection.struck
        assert await order(client) == [200]
    assert whole(arena)
    assert arena.root["stock"] == 99
