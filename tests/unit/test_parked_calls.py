"""Calls that are over are used again for later ones, whoever let go of them, and whatever happened at that moment."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any

from aiohttp import web

from recoverable import recoverable
from support.web import application, key, ok, serving
from support.workers import finish, pause

if TYPE_CHECKING:
    from recoverable import Arena

MANY = 200  # more than are kept
HELD = key("held")


def test_each_life_ends_by_itself(arena: Arena) -> None:
    """One that is never awaited warns, and one that is dropped half-way is rolled back, in a second life, too."""

    @recoverable
    async def handler(n: int) -> int:
        arena.root["n"] = n
        await pause()
        return n

    for n in range(MANY):
        assert finish(handler(n)) == n
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            handler(-1)
        assert [str(each.message).partition("handler")[2] for each in told] == ["' was never awaited"]
        half = handler(-2)
        half.send(None)
        del half
        assert arena.root["n"] == n


def test_calls_that_a_finaliser_makes(arena: Arena) -> None:
    """What a call held may run anything when it goes: other calls, also by the callback of a weak reference to the call itself."""
    made: list[int] = []

    @recoverable
    async def handler(n: int, held: Any = None) -> int:
        arena.root["n"] = n
        return n

    class Calling:
        def __del__(self) -> None:
            many = [handler(i) for i in range(3)]
            made.extend(finish(call) for call in many)

    def called(_: Any) -> None:
        many = [handler(i) for i in range(MANY)]
        made.extend(finish(call) for call in many)

    watches = []
    for n in range(20):
        call: Any = handler(n, Calling())
        watches.append(weakref.ref(call, called))
        assert finish(call) == n
        del call
    assert all(watch() is None for watch in watches)
    assert made == [*range(3), *range(MANY)] * 20


def test_one_that_comes_back_to_life(arena: Arena) -> None:
    """A handler that keeps its own call alive while that is finalised: it has ended, and later calls are as good as any."""
    kept: list[Any] = []

    @recoverable
    async def handler(around: list[Any]) -> str:
        try:
            await pause()
        finally:
            kept.extend(around)
        return "returned"

    for _ in range(MANY):
        around: list[Any] = []
        around.append(handler(around))
        around[0].send(None)
        del around
        gc.collect(0)
    gc.collect()
    assert len(kept) == MANY
    assert all(call.cr_frame is None for call in kept)
    kept.clear()
    gc.collect()
    for _ in range(MANY):
        assert finish(handler([])) == "returned"


def test_calls_of_several_threads(arena: Arena) -> None:
    """A call may be of a thread that has ended when another one uses it again."""
    failed: list[BaseException] = []

    @recoverable(max_conflicts=1000)
    async def handler(n: int) -> int:
        arena.root["n"] = arena.root.get("n", 0) + 1
        await asyncio.sleep(0)
        return n

    async def several() -> None:
        assert await asyncio.gather(*(handler(n) for n in range(10))) == list(range(10))

    def run() -> None:
        try:
            for _ in range(5):
                asyncio.run(several())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert arena.root["n"] == 200


async def test_what_a_request_held_is_free_with_its_connection(name: str) -> None:
    """No handler, application or request is kept by what served it and is used again."""
    from recoverable import Arena  # an arena of its own, which the application closes

    class Kept: ...

    gone: list[Any] = []

    def make() -> web.Application:
        held = Kept()

        @recoverable
        async def handler(request: web.Request) -> web.Response:
            request[HELD] = held
            gone.append(weakref.ref(request))
            return ok()

        app = application(Arena.open(name, "4 MiB"), {"/{name}": handler, "/plain": handler})
        gone.append(weakref.ref(held))
        gone.append(weakref.ref(app))
        return app

    try:
        async with serving(make()) as client:
            for path in ("/x", "/plain") * 3:
                await (await client.get(path)).text()
        del client
        await asyncio.sleep(0)
        gc.collect()
        assert [each for each in gone if each() is not None] == []
    finally:
        Arena.unlink(name)
