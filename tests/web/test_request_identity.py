"""Which request the running code belongs to: however it is hidden, what can't be run again is not, and its arena is used."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from recoverable import Arena, ConflictError, attempt, recoverable
from recoverable.aiohttp import middleware
from support.web import application, key, lose, ok, serving

if TYPE_CHECKING:
    from collections.abc import Callable

Shared = tuple[Arena, Arena]
SETUPS = ["setup", "nothing"]
BODY, USER = key("body"), key("user")


class Injected:
    """An object whose methods are handlers."""

    def __init__(self, arena: Arena, body: Any) -> None:
        self.arena, self.body = arena, body

    @recoverable
    async def method(self, db: object, request: web.Request) -> web.Response:
        """Get the request as the last of several."""
        return await self.body(request)  # type: ignore[no-any-return]


def hidden(arena: Arena, body: Any) -> dict[str, Any]:
    """Return handlers that run `body(request)` in a transaction, each with the request elsewhere."""

    @recoverable
    async def third(db: object, config: object, request: web.Request) -> web.Response:
        return await body(request)  # type: ignore[no-any-return]

    @recoverable
    async def keyword(*, request: web.Request) -> web.Response:
        return await body(request)  # type: ignore[no-any-return]

    @recoverable
    async def reader(content: Any, handle: Any) -> web.Response:
        return await handle()  # type: ignore[no-any-return]

    class View(web.View):
        @recoverable
        async def post(self) -> web.Response:
            return await body(self.request)  # type: ignore[no-any-return]

    class Held:
        def __init__(self, request: web.Request) -> None:
            self.request = request

        @recoverable
        async def run(self) -> web.Response:
            return await body(self.request)  # type: ignore[no-any-return]

    async def call_keyword(request: web.Request) -> web.Response:
        return await keyword(request=request)

    async def closure(request: web.Request) -> web.Response:
        return await arena.run(lambda: body(request))

    async def partial(request: web.Request) -> web.Response:
        return await arena.run(functools.partial(body, request))

    async def nested(request: web.Request) -> web.Response:
        async def helper() -> web.Response:
            async def inner() -> web.Response:
                return await body(request)  # type: ignore[no-any-return]

            return await arena.run(inner)

        return await helper()

    async def held(request: web.Request) -> web.Response:
        return await Held(request).run()

    async def content(request: web.Request) -> web.Response:
        return await reader(request.content, lambda: body(request))

    return {
        "/third": functools.partial(third, 1, 2),
        "/keyword": call_keyword,
        "/method": functools.partial(Injected(arena, body).method, 1),
        "/view": View,
        "/closure": closure,
        "/partial": partial,
        "/nested": nested,
        "/held": held,
        "/content": content,
    }


KINDS = list(hidden(None, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("how", SETUPS)
async def test_a_streamed_body_is_never_committed_empty(shared: Shared, how: str) -> None:
    """A run that consumed the body as a stream is not repeated, wherever its request is; one that read() it is."""
    arena, for_app = shared

    async def body(request: web.Request) -> web.Response:
        streams = "stream" in request.query
        data = await (request.content.read() if streams else request.read())
        if attempt() == 1:
            await lose(arena)
        arena.root["length"] = len(data)
        return ok()

    app = application(for_app if how == "setup" else None, hidden(arena, body))
    async with serving(app) as client:
        for path in KINDS:
            answer = await client.post(f"{path}?stream", data=b"x" * 3000)
            assert answer.status == (503 if how == "setup" else 500), path
            assert "length" not in arena.root, path
            assert (await client.post(path, data=b"x" * 3000)).status == 200, path
            with arena.transaction():
                assert arena.root.pop("length") == 3000, path
    for_app.close()


@pytest.mark.parametrize("how", SETUPS)
async def test_there_is_one_status_line(shared: Shared, how: str) -> None:
    """A run that has begun to send an answer is not repeated, wherever its request is: its connection is closed."""
    arena, for_app = shared
    runs: list[str] = []

    async def body(request: web.Request) -> web.StreamResponse:
        runs.append(request.path)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        await lose(arena)
        arena.root["n"] = 1
        return response

    app = application(for_app if how == "setup" else None, hidden(arena, body))
    async with serving(app) as client:
        for path in KINDS:
            reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
            assert (await asyncio.wait_for(reader.read(), 5)).count(b"HTTP/1.1") == 1, path
            writer.close()
    assert runs == KINDS
    assert "n" not in arena.root
    for_app.close()


async def test_what_was_consumed_before_the_run_does_not_matter(shared: Shared) -> None:
    """A run begins again if an outer middleware has streamed the body, or the answer was begun before it."""
    arena, for_app = shared

    @web.middleware
    async def streams(request: web.Request, handler: Any) -> web.StreamResponse:
        request[BODY] = await request.content.read()
        return await handler(request)  # type: ignore[no-any-return]

    @recoverable
    async def inner(request: web.Request) -> web.Response:
        if attempt() == 1:
            await lose(arena)
        arena.root["length"] = len(request[BODY])
        return ok()

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)

        async def step() -> int:
            if attempt() == 1:
                await lose(arena)
            arena.root["steps"] = arena.root.get("steps", 0) + 1
            return attempt()

        for _ in range(2):
            await response.write(b"%d" % await arena.run(step))
        return response

    async with serving(application(for_app, {"/": inner, "/events": events}, (streams,))) as client:
        assert (await client.post("/", data=b"x" * 3000)).status == 200
        assert arena.root["length"] == 3000
        assert await (await client.get("/events")).read() == b"22"
        assert arena.root["steps"] == 2


async def test_a_task_that_outlives_its_request_is_free(shared: Shared) -> None:
    """A transaction in a task that a handler left behind is repeated, although the answer was sent meanwhile."""
    arena, for_app = shared
    answered = asyncio.Event()
    tasks: list[asyncio.Task[Any]] = []

    async def audit(*ignored: object) -> int:
        await lose(arena) if attempt() == 1 else None
        await answered.wait()
        arena.root["audits"] = arena.root.get("audits", 0) + 1
        return attempt()

    async def handler(request: web.Request) -> web.Response:
        await request.read()
        given = (request,) if "given" in request.query else ()
        tasks.append(asyncio.create_task(arena.run(audit, *given)))
        await asyncio.sleep(0.01)
        return ok()

    async with serving(application(for_app, {"/": handler})) as client:
        for query in ("", "?given"):
            answered.clear()
            assert (await client.post(f"/{query}", data=b"x")).status == 200
            answered.set()
            assert await tasks[-1] == 2
    assert arena.root["audits"] == 2


async def test_a_task_beside_its_handler_leaves_the_request_alone(shared: Shared) -> None:
    """What a handler puts on the request, and reads of it, stays while a transaction of a task beside it is repeated."""
    arena, for_app = shared
    begun, go = asyncio.Event(), asyncio.Event()

    async def visit() -> int:
        if attempt() == 1:
            await lose(arena)
            begun.set()
            await go.wait()
        arena.root["visits"] = 1
        return attempt()

    async def handler(request: web.Request) -> web.Response:
        task = asyncio.create_task(arena.run(visit))
        await begun.wait()
        request[USER] = "me"
        await request.read()
        go.set()
        runs = await task
        return ok(f"{request[USER]} {await request.text()} {runs}")

    async def streams(request: web.Request) -> web.Response:
        async def store() -> None:
            arena.root["body"] = await request.content.read()
            await lose(arena)

        try:
            await asyncio.create_task(arena.run(store))
        except ConflictError as error:
            return ok(error.reason)
        return ok("committed")

    async with serving(application(for_app, {"/": handler, "/streams": streams})) as client:
        assert await (await client.post("/", data=b"body")).text() == "me body 2"
        assert "was streamed" in await (await client.post("/streams", data=b"body")).text()
    assert "body" not in arena.root


async def test_the_arena_is_that_of_the_request(new_name: Callable[[], str]) -> None:
    """With several arenas open, code without an arena of its own uses its application's, and so does a task left behind."""
    first, second = new_name(), new_name()
    with Arena.temporary("4 MiB", name=first) as one, Arena.temporary("4 MiB", name=second) as two:
        arenas = {first: one, second: two}
        answered = asyncio.Event()
        tasks: list[asyncio.Task[Any]] = []

        @recoverable
        async def write(name: str, key: str) -> None:
            arenas[name].root[key] = 1

        async def late(name: str) -> None:
            await answered.wait()
            await write(name, "late")

        def handler(name: str) -> Any:
            async def handle(request: web.Request) -> web.Response:
                await write(name, "now")
                tasks.append(asyncio.create_task(late(name)))
                return ok()

            return handle

        sub = application(Arena.open(second), {"/": handler(second)})
        app = application(Arena.open(first), {"/": handler(first)})
        app.add_subapp("/sub", sub)
        alone = application(None, {"/": handler(second)}, (middleware(two),))
        async with serving(app) as client, serving(alone) as other:
            for ask in (client.get("/"), client.get("/sub/"), other.get("/")):
                assert (await ask).status == 200
            answered.set()
            await asyncio.gather(*tasks)
        for arena in (one, two):
            assert arena.root.to_python() == {"now": 1, "late": 1}


async def test_events_have_the_id_of_a_hidden_request(shared: Shared, log: list[dict[str, Any]]) -> None:
    """`X-Request-ID` is in the events of a transaction that was not given its request."""
    arena, for_app = shared

    async def body(request: web.Request) -> web.Response:
        if attempt() == 1:
            await lose(arena)
        arena.root["n"] = 1
        return ok()

    async with serving(application(for_app, hidden(arena, body))) as client:
        for path in KINDS:
            log.clear()
            await client.post(path, headers={"X-Request-ID": "abc"})
            ids = {event["request_id"] for event in log if "request_id" in event and event.get("handler") != "lose"}
            assert "abc" in ids, path
            assert {"abc"} == {event["request_id"] for event in log if event["event"] == "request.conflict"}, path


@pytest.mark.parametrize("writer", [None, object()])
async def test_a_request_made_by_a_test_is_run_again(arena: Arena, writer: Any) -> None:
    """A request that a test has made needs no writer that counts: nothing of an answer has been sent."""
    runs: list[int] = []

    @recoverable
    async def handler(request: web.Request) -> None:
        runs.append(request.setdefault(BODY, attempt()))
        if attempt() == 1:
            await lose(arena)
        arena.root["n"] = 1

    await handler(make_mocked_request("GET", "/", writer=writer))
    assert runs == [1, 2]
