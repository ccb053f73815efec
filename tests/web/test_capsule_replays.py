"""Does a request that crashed fail in the same way when it is replayed, and does a replay leave everything else as it is?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from recoverable import Arena, CapsuleError, Deque, Set, after_commit, between, recoverable
from recoverable.aiohttp import arena_key, setup
from recoverable.capsules import Capsule, Capsules
from support.capsules import crashing, kept, only
from support.web import application, key, ok, serving


def shop(arena: Arena, capsules: Capsules | None = None) -> web.Application:
    """Make an application whose /pay crashes in its second step, if another request has changed the price meanwhile."""

    @recoverable
    async def pay(request: web.Request) -> web.Response:
        root = arena.root
        price = root["prices"]["tea"]
        await asyncio.sleep(0.05)
        seen = root["seen"]
        root["paid"] = price
        await asyncio.sleep(0)
        assert root["paid"] == price
        raise RuntimeError(f"{price} {list(seen)} {root['stock']['tea']} {sorted(root['tags'])} {list(root['queue'])}")

    @recoverable
    async def change(request: web.Request) -> web.Response:
        root = arena.root
        root["seen"].append("after")
        root["stock"]["tea"] -= 1
        root["tags"].add("new")
        root["queue"].popleft()
        root["made"] = {"in": ["between"]}
        del root["gone"]
        return ok()

    app = web.Application()
    setup(app, arena, capsules=capsules)
    app.router.add_get("/pay", pay)
    app.router.add_get("/change", change)
    return app


def fill(arena: Arena) -> None:
    """Make the state before."""
    with arena.transaction():
        arena.root.update({"prices": {"tea": 3}, "seen": ["before"], "stock": {"tea": 5}, "gone": 1})
        arena.root["tags"], arena.root["queue"] = Set({"old"}), Deque([1, 2, 3])


@pytest.fixture
async def paid(journaled: Arena, capsules: Capsules) -> Capsule:
    """Give the capsule of a request that has crashed after another one's commit, between its steps; and commits after it."""
    fill(journaled)
    app = shop(Arena.open(journaled.name, journal=journaled.native.journal.path), capsules)
    async with serving(app) as client:
        answer = asyncio.ensure_future(client.get("/pay"))
        await asyncio.sleep(0.02)
        assert (await client.get("/change")).status == 200
        assert (await answer).status == 500
    with journaled.transaction():
        journaled.root.clear()
    await journaled.durable()
    return only(capsules)


async def test_a_replay_sees_what_each_step_saw(paid: Capsule, journaled: Arena) -> None:
    """Before each step the private arena is brought to what that step saw: another request's commit lies between two of them."""
    assert [seq - paid.steps[0][0] for seq, _ in paid.steps] == [0, 1, 1]

    def around() -> Any:
        own = list(Path("/dev/shm").glob(f"*{os.getpid()}*"))
        return own, sorted(Path(paid.arena["journal"]).iterdir()), journaled.stats().commit_seq

    before = around()
    replay = await paid.replay_async(shop)
    assert replay.same, replay.text
    assert str(replay.error) == "3 ['before', 'after'] 4 ['new', 'old'] [2, 3]"
    assert replay.steps == tuple(seq for seq, _ in paid.steps)
    assert "the time, random numbers" in replay.text
    assert around() == before


async def test_an_application_that_has_an_arena_of_its_own_is_replayed_on_the_private_one(
    paid: Capsule, arena: Arena
) -> None:
    """An application object, set up on a test's arena and with handlers that name it, leaves that as it is, again and again."""
    app = shop(arena)
    for _ in range(2):
        replay = await paid.replay_async(app)
        assert replay.same, replay.text
        assert len(arena.root) == 0
        assert not arena.closed


async def test_no_arena_of_the_program_s_is_written_or_removed(
    paid: Capsule, journaled: Arena, new_name: Callable[[], str]
) -> None:
    """Whichever it has open, whatever it does with them, and where it removes its own at the end."""
    with Arena.temporary("8 MiB", name=new_name()) as other:

        def makes(arena: Arena) -> web.Application:
            @recoverable
            async def pay(request: web.Request) -> web.Response:
                with other.transaction():
                    other.root["written"] = True
                return ok()

            async def remove(app: web.Application) -> None:
                Arena.unlink(journaled.name)

            app = web.Application()
            setup(app, arena)
            app.router.add_get("/pay", pay)
            app.on_cleanup.append(remove)
            return app

        assert (await paid.replay_async(makes)).error is None
        assert "written" not in other.root
        assert not journaled.orphaned


async def test_who_cancels_a_replay_ends_it(paid: Capsule, arena: Arena) -> None:
    """As Ctrl-C does, and a time limit around it: it is not taken for what the handler has raised."""

    @recoverable
    async def waits(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return ok()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await paid.replay_async(application(arena, {"/pay": waits}))


def test_a_replay_needs_no_event_loop(paid: Capsule) -> None:
    """In a plain test `replay()` does it, and inside of a loop it says what to use."""
    assert paid.replay(shop).same

    async def inside() -> None:
        with pytest.raises(CapsuleError, match="replay_async"):
            paid.replay(shop)

    asyncio.run(inside())


async def test_a_mended_handler_is_told_from_one_that_fails(paid: Capsule, arena: Arena) -> None:
    """A replay that returns, or raises something else, or the same elsewhere, is not the same, and says in what."""

    async def fine(request: web.Request) -> web.Response:
        return ok()

    async def other(request: web.Request) -> web.Response:
        raise KeyError("other")

    async def elsewhere(request: web.Request) -> web.Response:
        raise RuntimeError("3 ['before', 'after'] 4 ['new', 'old'] [2, 3]")

    async def says_else(request: web.Request) -> web.Response:
        raise RuntimeError("3")

    for handler, why in (
        (says_else, "another message"),
        (fine, "did not fail"),
        (other, "another exception"),
        (elsewhere, "another place"),
    ):
        replay = await paid.replay_async(application(arena, {"/pay": recoverable(handler)}))
        assert not replay.same
        assert why in replay.text
    assert (await paid.replay_async(application(arena, {"/pay": recoverable(other)}))).error.__class__ is KeyError


async def test_everything_around_a_request_is_there_again(journaled: Arena, capsules: Capsules) -> None:
    """Multipart, path, headers, what a middleware has put on the request, `protect="all"`: a handler finds it again."""
    user, other = key("user"), key("other")

    @web.middleware
    async def puts(request: web.Request, handler: Any) -> web.StreamResponse:
        request[user] = {"name": "ann"}
        request[other] = object()
        return await handler(request)  # type: ignore[no-any-return]

    async def crashes(request: web.Request) -> web.Response:
        arena = request.config_dict[arena_key]
        form = await request.post()
        field: Any = form["file"]
        arena.root["n"] = arena.root.get("n", 0) + 1
        raise ValueError(
            f"{request[user]} {request.match_info['id']} {form['a']} {field.file.read()!r} {request.headers['X-A']}"
        )

    def make(arena: Arena, capsules: Capsules | None = None, protect: Any = "decorated") -> web.Application:
        app, inner = web.Application(middlewares=[puts]), web.Application()
        inner.router.add_post("/{id}", crashes if protect == "all" else recoverable(crashes))
        app.add_subapp("/in", inner)
        setup(app, arena, capsules=capsules, protect=protect)
        return app

    for protect in "decorated", "all":
        arena = Arena.open(journaled.name, journal=journaled.native.journal.path)
        async with serving(make(arena, capsules, protect)) as client:
            form = aiohttp.FormData({"a": "1"})
            form.add_field("file", b"\x00\xff", filename="f")
            assert (await client.post("/in/7", data=form, headers={"X-A": "x"})).status == 500
        await journaled.durable()
        found = kept(capsules)[-1]
        assert found.whole_request == (protect == "all")
        replay = await found.replay_async(lambda arena, how=protect: make(arena, protect=how))
        assert replay.same, replay.text
        assert "{'name': 'ann'} 7 1 b'\\x00\\xff' x" in str(replay.error)


async def test_a_websocket_that_crashes_before_its_handshake(journaled: Arena, capsules: Capsules) -> None:
    """Its request is kept and replayed; when the handshake has committed, the replay ends."""
    crash = [True]

    @recoverable
    async def chat(request: web.Request) -> web.StreamResponse:
        journaled.root["n"] = 1
        if crash:
            raise ValueError("no")
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for _ in socket:
            pass
        return socket

    async with crashing(journaled, chat, capsules) as client:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.ws_connect("/x")
    await journaled.durable()
    found = only(capsules)
    assert (await found.replay_async(chat)).same
    crash.clear()
    begun = time.monotonic()
    replay = await found.replay_async(chat)
    assert (replay.same, replay.error) == (False, None)
    assert time.monotonic() - begun < 4


async def test_an_arena_without_a_journal_has_capsules_and_no_replays(arena: Arena, capsules: Capsules) -> None:
    """They are written all the same; a replay says what is missing."""

    @recoverable
    async def crashes(request: web.Request) -> web.Response:
        raise ValueError

    async with crashing(arena, crashes, capsules) as client:
        assert (await client.get("/x")).status == 500
    with pytest.raises(CapsuleError, match="had no journal"):
        await only(capsules).replay_async()


async def test_what_follows_a_replay_is_as_it_was(paid: Capsule, journaled: Arena) -> None:
    """Arenas, handlers and events are the program's own again, also after a replay that could not begin."""
    ran = []

    @recoverable(arena=journaled)
    async def writes() -> None:
        journaled.root["after"] = 1
        after_commit(lambda: ran.append(1))

    with pytest.raises(CapsuleError, match="no route"):
        await paid.replay_async(lambda: web.Application())
    await paid.replay_async(shop)
    await writes()
    assert (journaled.root["after"], ran) == (1, [1])
    assert between._notes is None


async def test_what_a_start_up_does_is_not_the_request_s(paid: Capsule) -> None:
    """A run that an application begins with, and one that goes on beside the request, are neither replayed nor judged."""
    ran = []

    def makes(arena: Arena) -> web.Application:
        @recoverable(arena=arena, retries=1)
        async def fills(n: int) -> None:
            arena.root["filled"] = n
            await asyncio.sleep(0)
            ran.append(n)
            raise ValueError("no request")

        async def begin(app: web.Application) -> None:
            with pytest.raises(ValueError, match="no request"):
                await fills(1)
            app[going] = asyncio.ensure_future(beside())

        async def beside() -> None:
            while True:
                with contextlib.suppress(ValueError):
                    await fills(2)

        async def end(app: web.Application) -> None:
            app[going].cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await app[going]

        going = web.AppKey("going", asyncio.Future[None])
        app = shop(arena)
        app.on_startup.append(begin)
        app.on_cleanup.append(end)
        return app

    replay = await paid.replay_async(makes)
    assert replay.same, replay.text
    assert replay.steps == tuple(seq for seq, _ in paid.steps)
    assert ran[:2] == [1, 1]
    assert 2 in ran


async def test_a_request_that_http_refuses_is_an_error(paid: Capsule) -> None:
    """It is not told as one that did not fail."""
    assert paid.request is not None
    paid.request["method"] = "G@T /x"
    with pytest.raises(CapsuleError, match=r"aiohttp refuses the request as it was kept: HTTP/1\.. 400"):
        await paid.replay_async(shop)


async def test_what_a_start_up_writes_is_put_back(paid: Capsule) -> None:
    """The request sees what it saw, also by what the application holds since it has started; and that is said."""
    held: list[Any] = []

    def makes(arena: Arena) -> web.Application:
        with arena.transaction():
            arena.root.update(seen=["mine"], prices={"tea": 9, "more": {}}, own={"new": 1})
            held[:] = arena.root["seen"], arena.root["prices"]
        return shop(arena)

    replay = await paid.replay_async(makes)
    assert replay.same, replay.text
    assert "what the application had written to the arena as it started up was put back" in replay.text


@pytest.mark.parametrize("how", ["block", "handler", "begun"])
async def test_what_tasks_of_the_application_write_meanwhile_is_the_journal_s(
    journaled: Arena, capsules: Capsules, how: str
) -> None:
    """A task of the start-up that writes while the request is replayed is cancelled: the request sees what it saw."""
    with journaled.transaction():
        journaled.root.update(ticks=1, other=0)
    ended: list[str] = []

    def makes(arena: Arena, capsules: Capsules | None = None) -> web.Application:
        began, wrote = asyncio.Event(), asyncio.Event()

        @recoverable(max_conflicts=0)
        async def reads(request: web.Request) -> web.Response:
            arena.root["mine"] = ticks = arena.root["ticks"]
            began.set()
            for _ in range(9):
                await asyncio.sleep(0)
            raise RuntimeError(f"{ticks} {arena.root['ticks']} {arena.root['other']}")

        @recoverable(arena=arena)
        async def ticks() -> None:
            if how == "begun":
                arena.root["ticks"] += 1
                wrote.set()
                await began.wait()
            else:
                arena.root["ticks"] += 1

        async def works() -> None:
            if how != "begun":
                await began.wait()
            try:
                if how == "block":
                    with arena.transaction():
                        arena.root["ticks"] += 1
                else:
                    await ticks()
                ended.append("committed")
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        async def goes_on(app: web.Application) -> AsyncIterator[None]:
            task = asyncio.create_task(works())
            if how == "begun":
                await wrote.wait()
            yield
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        app = web.Application()
        setup(app, arena, capsules=capsules)
        app.router.add_get("/reads", reads)
        if capsules is None:
            app.cleanup_ctx.append(goes_on)
        return app

    async with serving(makes(Arena.open(journaled.name, journal=journaled.native.journal.path), capsules)) as client:
        assert (await client.get("/reads")).status == 500
    await journaled.durable()
    replay = await only(capsules).replay_async(makes)
    assert replay.same, replay.text
    assert str(replay.error) == "1 1 0"
    assert ended == ["cancelled"]
    assert "tasks of the application that would have committed meanwhile were cancelled" in replay.text


async def test_a_start_up_that_fails_is_not_the_request_s_failure(paid: Capsule) -> None:
    """It is an error, which says that nothing was run."""

    def makes(arena: Arena) -> web.Application:
        raise ValueError("the database is down")

    with pytest.raises(CapsuleError, match="could not be called: ValueError: the database is down"):
        await paid.replay_async(makes)


async def test_a_temporary_arena_is_the_private_one(paid: Capsule) -> None:
    """As one with a name is."""

    def makes(arena: Arena) -> web.Application:
        with Arena.temporary() as other:
            assert other.root["prices"]["tea"] == 3
        return shop(arena)

    assert (await paid.replay_async(makes)).same


async def test_a_test_of_a_request_with_secrets_does_not_pass_by_a_refusal(
    journaled: Arena, capsules: Capsules
) -> None:
    """What was left out is named in it, and an answer that refuses is no success."""

    @web.middleware
    async def login(request: web.Request, handler: Any) -> web.StreamResponse:
        return (
            await handler(request)
            if request.headers.get("Authorization") == "Bearer 12345678"
            else web.Response(status=401)
        )

    async def crashes(request: web.Request) -> web.Response:
        journaled.root["n"] = 1
        raise ValueError

    def make(arena: Arena, capsules: Capsules | None = None) -> web.Application:
        app = web.Application(middlewares=[login])
        app.router.add_get("/x", crashes)
        setup(app, arena, protect="all", capsules=capsules)
        return app

    app = make(Arena.open(journaled.name, journal=journaled.native.journal.path), capsules)
    async with serving(app) as client:
        assert (await client.get("/x", headers={"Authorization": "Bearer 12345678"})).status == 500
    await journaled.durable()
    found = only(capsules)
    replay = await found.replay_async(make)
    assert (replay.error, replay.status) == (None, 401)
    text = found.as_test("shop:make")
    assert "headers={'Authorization': ''}" in text
    assert "assert (replay.status or 200) < 400" in text
    assert (await found.replay_async(make, headers={"Authorization": "Bearer 12345678"})).same
