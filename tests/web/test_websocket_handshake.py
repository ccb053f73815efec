"""A WebSocket's transaction ends in `prepare()`: it commits there, a conflict begins again, and the connection is outside."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from recoverable import (
    Arena,
    NoTransactionError,
    TransactionError,
    after_commit,
    attempt,
    gather,
    recoverable,
)
from recoverable.aiohttp import setup
from support.web import application, lose, ok, serving

Shared = tuple[Arena, Arena]
HANDLERS = ["decorated", "all", "both", "arena.run"]


def app_of(how: str, arena: Arena, for_app: Arena, handler: Any) -> web.Application:
    """Build an application whose handler at /ws is run as a transaction in this way."""

    async def runs(request: web.Request) -> Any:
        return await arena.run(handler, request)

    route = {"arena.run": runs, "all": handler}.get(how) or recoverable(handler)
    return application(for_app, {"/ws": route}, protect="all" if how in ("all", "both") else "decorated")


@pytest.mark.parametrize("how", HANDLERS)
async def test_the_handshake_commits_and_leaves(shared: Shared, how: str) -> None:
    """What is written before `prepare()` is committed there, callbacks run there, and messages are transactions after it."""
    arena, for_app = shared
    order: list[str] = []

    async def handler(request: web.Request) -> web.WebSocketResponse:
        arena.root["joined"] = attempt()
        after_commit(order.append, "callback")
        if attempt() == 1:
            await lose(arena)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        order.append("prepared")
        assert arena.root["joined"] == 2
        with pytest.raises(NoTransactionError):
            arena.root["outside"] = 1

        async def put(text: str) -> None:
            arena.root[text] = 1
            if text == "crash":
                raise RuntimeError

        async for message in socket:
            try:
                await arena.run(put, message.data)
            except RuntimeError:
                await socket.send_str("undone")
            else:
                await socket.send_str("kept")
        with arena.transaction():
            arena.root["left"] = 1
        return socket

    async with serving(app_of(how, arena, for_app, handler)) as client:
        async with client.ws_connect("/ws") as socket:
            answers = []
            for text in ("one", "crash", "two"):
                await socket.send_str(text)
                answers.append(await socket.receive_str())
                assert arena.root.get("one") == 1
                assert arena.stats().in_flight == 0
        assert answers == ["kept", "undone", "kept"]
    assert order == ["callback", "prepared"]
    assert arena.root.to_python() == {"contended": 1, "joined": 2, "one": 1, "two": 1, "left": 1}


@pytest.mark.parametrize("how", HANDLERS)
async def test_a_conflict_at_the_handshake_begins_again(shared: Shared, how: str) -> None:
    """One that shows only at the commit is run again too, for nothing was sent; the client sees one handshake."""
    arena, for_app = shared
    runs: list[int] = []

    async def handler(request: web.Request) -> web.WebSocketResponse:
        runs.append(attempt())
        before = arena.root.get("n", 0)
        socket = web.WebSocketResponse()
        if attempt() < 3:

            async def other() -> None:
                with arena.transaction():
                    arena.root["n"] = 10

            await asyncio.create_task(other())
        try:
            arena.root["n"] = before + 1
            await socket.prepare(request)
        except Exception:
            pytest.fail("a conflict is no Exception")
        await socket.send_str("hello")
        await socket.close()
        return socket

    async with serving(app_of(how, arena, for_app, handler)) as client, client.ws_connect("/ws") as socket:
        assert await socket.receive_str() == "hello"
    assert runs == [1, 2, 3]
    assert arena.root["n"] == 11


async def test_a_handshake_that_fails_rolls_back(shared: Shared) -> None:
    """A client that can't speak WebSocket gets its 400, and nothing of the handler stays; the header switches nothing off."""
    arena, for_app = shared

    async def handler(request: web.Request) -> web.WebSocketResponse:
        arena.root["joined"] = 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        return socket

    async def plain(request: web.Request) -> web.Response:
        with arena.transaction():
            arena.root["a"] = 1
        raise RuntimeError

    app = application(for_app, {"/ws": handler, "/plain": plain}, protect="all")
    async with serving(app) as client:
        for headers in ({}, {"Upgrade": "websocket"}, {"Upgrade": "websocket", "Connection": "upgrade"}):
            assert (await client.get("/ws", headers=headers)).status == 400
            assert (await client.post("/plain", headers=headers)).status == 500
    assert arena.root.to_python() == {}


async def test_a_crash_after_the_handshake_undoes_nothing(shared: Shared, log: list[dict[str, Any]]) -> None:
    """What was committed stays, the handler is neither run again nor replaced by its fallback, its time limit is over."""
    arena, for_app = shared
    runs: list[int] = []

    @recoverable(retries=3, timeout=0.05, fallback=lambda *_: runs.append(-1))
    async def handler(request: web.Request) -> web.WebSocketResponse:
        runs.append(attempt())
        arena.root["joined"] = 1
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await asyncio.sleep(0.1)
        await socket.send_str("hello")
        raise RuntimeError

    async with serving(application(for_app, {"/ws": handler})) as client, client.ws_connect("/ws") as socket:
        assert await socket.receive_str() == "hello"
        await socket.receive()
    assert runs == [1]
    assert arena.root["joined"] == 1
    assert [event["event"] for event in log if event["event"].startswith("request.")] == ["request.committed"]


async def test_where_a_handshake_is_refused(shared: Shared) -> None:
    """In a block, a part, an independent transaction, and a task of its own it can't commit the request's transaction."""
    arena, for_app = shared

    async def handler(request: web.Request) -> Any:
        where = request.query["where"]
        arena.root[where] = 1
        prepare = web.WebSocketResponse().prepare

        async def run() -> None:
            await prepare(request)

        if where == "block":
            with arena.transaction():
                await run()
        elif where == "part":
            await gather(run())
        elif where == "independent":
            await arena.run(run, nested="independent")
        else:
            await asyncio.create_task(run())

    async with serving(application(for_app, {"/ws": handler}, protect="all")) as client:
        for where in ("block", "part", "independent", "task"):
            with pytest.raises(aiohttp.WSServerHandshakeError, match="500"):
                await client.ws_connect(f"/ws?where={where}")
    assert arena.root.to_python() == {}


async def test_a_handshake_leaves_the_transactions_of_all_arenas(shared: Shared, new_name: Any) -> None:
    """Applications inside one another, each with an arena of its own: all of them commit, and all are left."""
    arena, for_app = shared
    with Arena.temporary("4 MiB", name=new_name()) as other:
        seen: list[Any] = []

        @web.middleware
        async def outer(request: web.Request, handler: Any) -> Any:
            arena.root["a"] = 1
            response = await handler(request)
            with arena.transaction():
                seen.append("outside")
            with pytest.raises(NoTransactionError):
                arena.root["b"] = 1
            return response

        async def handler(request: web.Request) -> web.WebSocketResponse:
            other.root["a"] = 1
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.send_str("hello")
            await socket.receive()
            return socket

        sub = application(other, {"/ws": handler}, protect="all")
        app = web.Application(middlewares=[outer])
        app.add_subapp("/sub", sub)
        setup(app, for_app, protect="all")
        async with serving(app) as client, client.ws_connect("/sub/ws") as socket:
            assert await socket.receive_str() == "hello"
            assert arena.root.to_python() == other.root.to_python() == {"a": 1}
            assert arena.stats().in_flight == other.stats().in_flight == 0
        assert seen == ["outside"]


async def test_asyncio_wait_for_around_a_handshake(shared: Shared) -> None:
    """`wait_for` makes a task of its own up to Python 3.11, where it is refused by name; later it is the handler's."""
    arena, for_app = shared
    errors: list[BaseException] = []

    async def handler(request: web.Request) -> web.WebSocketResponse:
        arena.root["joined"] = 1
        socket = web.WebSocketResponse()
        try:
            await asyncio.wait_for(socket.prepare(request), 5)
        except TransactionError as error:
            errors.append(error)
            raise
        return socket

    async with serving(application(for_app, {"/ws": handler}, protect="all")) as client:
        if sys.version_info >= (3, 12):
            await (await client.ws_connect("/ws")).close()
            assert arena.root["joined"] == 1
        else:
            with pytest.raises(aiohttp.WSServerHandshakeError, match="500"):
                await client.ws_connect("/ws")
            assert "asyncio.timeout()" in str(errors[0])
            assert arena.root.to_python() == {}


# -- applications inside one another --------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["decorated", "all"])
@pytest.mark.parametrize("decorated", [False, True])
async def test_a_sub_application_joins(shared: Shared, inner: Any, decorated: bool) -> None:
    """An application and its sub-application on one arena are one transaction a request, failures answered once."""
    arena, for_app = shared
    seen: list[str] = []

    @web.middleware
    async def late(request: web.Request, handler: Any) -> Any:
        arena.root["outer"] = 1
        try:
            response = await handler(request)
        except Exception as error:
            seen.append(type(error).__name__)
            raise
        if "crash" in request.query:
            raise RuntimeError
        return response

    async def handler(request: web.Request) -> web.Response:
        arena.root["inner"] = 1
        if "full" in request.query:
            arena.root["big"] = b"x" * (32 << 20)
        return ok()

    sub = application(Arena.open(arena.name), {"/": recoverable(handler) if decorated else handler}, protect=inner)
    app = web.Application(middlewares=[late])
    app.add_subapp("/sub", sub)
    setup(app, for_app, protect="all")
    async with serving(app) as client:
        assert (await client.get("/sub/?crash")).status == 500
        assert (await client.get("/sub/?full")).status == 507
        assert arena.root.to_python() == {}
        assert (await client.get("/sub/")).status == 200
    assert arena.root.to_python() == {"outer": 1, "inner": 1}
    assert seen == ["ArenaFullError"]


async def test_the_arena_is_closed_after_all_clean_up(name: str) -> None:
    """Clean-up of sub-applications, and what is added after `setup()`, has the arena; a failure does not keep it open."""
    arena = Arena.open(name, "4 MiB")
    order: list[str] = []

    def cleans(what: str) -> Any:
        async def clean(app: web.Application) -> None:
            with arena.transaction():
                arena.root[what] = 1
            order.append(what)
            if what == "last":
                raise RuntimeError

        return clean

    app, sub, deeper = web.Application(), web.Application(), web.Application()
    setup(app, arena)
    setup(sub, handle := Arena.open(name))
    deeper.on_cleanup.append(cleans("deeper"))
    sub.add_subapp("/deeper", deeper)
    sub.on_cleanup.append(cleans("sub"))
    app.add_subapp("/sub", sub)
    app.on_cleanup.append(cleans("app"))
    app.on_cleanup.append(cleans("last"))
    with pytest.raises(RuntimeError):
        async with serving(app):
            pass
    assert order == ["deeper", "sub", "app", "last"]
    assert arena.closed
    assert handle.closed
    with Arena.open(name, create=False) as arena:
        assert set(arena.root) == set(order)
