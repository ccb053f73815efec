"""Hot keys of an application's routes: who asks for another key of the same route does not queue with those."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from recoverable import Arena, contention, recoverable
from support.web import application, ok, serving

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_first_runs_queue_by_the_arguments_of_the_route(arena: Arena) -> None:
    """A handler whose requests for one key always lose has first runs wait for that key, and for no other."""
    runs: list[str] = []

    @recoverable
    async def sell(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        runs.append(name)
        left = arena.root[name]
        arena.root[name] = left - 1
        await asyncio.sleep(0.002)
        return ok()

    with arena.transaction():
        arena.root.update({"hot": 1000, **{f"cold {i}": 1000 for i in range(60)}})
    async with serving(application(arena, {"/sell/{name}": sell})) as client:

        async def buy(name: str) -> None:
            async with client.get(f"/sell/{name}") as answer:
                assert answer.status == 200

        for _ in range(4):
            await asyncio.gather(*(buy("hot") for _ in range(15)), *(buy(f"cold {i}") for i in range(60)))
        hot = runs.count("hot")
        assert arena.root["hot"] == 940
        assert len(runs) - hot == 240  # each of those ran once
        assert 60 < hot < 120  # first come, all lose; from then on nearly each waits for its turn first
        queues = {key[1]: habit.queues for key, habit in arena.native.habits.items()}
        assert queues.pop(("hot",))
        assert not any(queues.values())


async def test_what_is_learned_of_ever_new_arguments_is_bounded(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of one handler that lose, each with another argument: the oldest habits are forgotten, and nothing else is kept."""
    monkeypatch.setattr(contention, "_HABITS", 8)

    @recoverable
    async def sell(request: web.Request) -> web.Response:
        left = arena.root["stock"]
        arena.root["stock"] = left - 1
        await asyncio.sleep(0.001)
        return ok()

    with arena.transaction():
        arena.root["stock"] = 1000
    async with serving(application(arena, {"/sell/{name}": sell})) as client:

        async def buy(name: int) -> None:
            async with client.get(f"/sell/{name}") as answer:
                assert answer.status == 200

        for n in range(0, 60, 12):
            await asyncio.gather(*(buy(name) for name in range(n, n + 12)))
        native = arena.native
        assert arena.root["stock"] == 940
        assert [len(each) for each in (native.habits, native.watches, native.watched, native.lines)] == [8, 1, 1, 0]
        assert {int(key[1][0]) for key in native.habits} <= set(range(48, 60))


def made_body(arena: Arena, streamed: bool) -> Callable[[web.Request], Any]:
    """Return a handler that reads its body, and then needs the arena."""

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        text = (await request.content.read()).decode() if streamed else await request.text()
        arena.root["runs"] = arena.root.get("runs", 0) + 1
        return ok(text)

    return handler


async def test_a_run_that_is_held_up_begins_again_with_its_body(arena: Arena) -> None:
    """A request whose first access finds the lock held is run again later, and reads the same body; others are served meanwhile."""
    async with serving(
        application(arena, {"/kept": made_body(arena, False), "/streamed": made_body(arena, True), "/ping": ping})
    ) as client:
        held, end = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def hold() -> None:
            with arena.transaction():
                arena.root["held"] = 1
                loop.call_soon_threadsafe(held.set)
                asyncio.run_coroutine_threadsafe(end.wait(), loop).result()

        holder = loop.run_in_executor(None, hold)
        await held.wait()

        async def post(path: str) -> str:
            async with client.post(path, data="a body") as answer:
                assert answer.status == 200
                return await answer.text()

        posts = asyncio.gather(post("/kept"), post("/kept"))
        await asyncio.sleep(0.05)
        async with client.get("/ping") as answer:
            assert answer.status == 200
        assert not posts.done()
        end.set()
        await holder
        assert await posts == ["a body", "a body"]
        assert await post("/streamed") == "a body"
        assert arena.root["runs"] == 3


async def ping(request: web.Request) -> web.Response:
    """Answer without the arena."""
    return ok("pong")
