"""`recoverable.asgi.Middleware` around any ASGI application: what is held, what is sent, what is run again."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from recoverable import Arena, ArenaBusyError, ArenaOptionError, FaultsNotAllowedError, attempt, recoverable, runner
from recoverable.asgi import Middleware, setup
from recoverable.journal import answers
from support.asgi import Socket, client_of, lifespan_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Lose = Callable[[], Awaitable[Any]]

PROTECT = pytest.mark.parametrize("protect", ["decorated", "all"])


async def answer(send: Any, status: int, *parts: bytes) -> None:
    """Send an answer in these parts."""
    await send({"type": "http.response.start", "status": status, "headers": []})
    for i, part in enumerate(parts):
        await send({"type": "http.response.body", "body": part, "more_body": i + 1 < len(parts)})


async def body_of(receive: Any) -> bytes:
    """Receive a whole body."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def content(arena: Arena) -> dict[Any, Any]:
    """Return the root's items, read outside any transaction."""
    return dict(arena.root.items())


@pytest.mark.parametrize(("status", "kept"), [(200, True), (404, True), (500, False), (503, False)])
async def test_the_status_decides(shared: tuple[Arena, Arena], status: int, kept: bool) -> None:
    """All below is one transaction, which commits before the answer leaves, or is rolled back before that."""
    arena, for_app = shared
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        arena.root["a"] = 1
        await answer(send, status, b"one", b"two")
        seen.append("ended")

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            seen.append((message["type"].rpartition(".")[2], content(arena)))
            await send(message)

        await Middleware(app, for_app, protect="all")(scope, receive, sending)

    async with client_of(watched) as client:
        response = await client.get("/")
    assert (response.status_code, response.content) == (status, b"onetwo")
    after = {"a": 1} if kept else {}
    sent = [("start", after), ("body", after), ("body", after)]
    assert seen == ([*sent, "ended"] if kept else ["ended", *sent])


async def test_no_answer_is_no_success(shared: tuple[Arena, Arena]) -> None:
    """An application that ends without an answer is rolled back."""
    arena, for_app = shared

    async def app(scope: Any, receive: Any, send: Any) -> None:
        arena.root["a"] = 1

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await Middleware(app, for_app, protect="all")(scope, lambda: asyncio.sleep(1), lambda message: asyncio.sleep(1))
    assert content(arena) == {}


@PROTECT
async def test_a_decorated_application(shared: tuple[Arena, Arena], lose: Lose, protect: str) -> None:
    """An ASGI application that is decorated itself, or is all protected, is run again with the body and the scope as they were."""
    arena, for_app = shared
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await body_of(receive), "mark" in scope, dict(scope["state"])))
        scope["mark"] = scope["state"]["mark"] = True
        if attempt() == 1:
            await lose()
        arena.root["n"] = attempt()
        await answer(send, 200, b"ok")

    async def stateful(scope: Any, receive: Any, send: Any) -> None:
        scope["state"] = {"of": "server"}
        below = app if protect == "all" else recoverable(app)
        await Middleware(below, for_app, protect=protect)(scope, receive, send)  # type: ignore[arg-type]

    async with client_of(stateful) as client:
        response = await client.post("/", content=b"body")
        assert response.content == b"ok"
    assert seen == [(b"body", False, {"of": "server"})] * 2
    assert arena.root["n"] == 2


async def test_what_has_left_is_not_taken_back(shared: tuple[Arena, Arena], lose: Lose) -> None:
    """A decorated application that conflicts when its answer has begun is not run again; the error goes on to the server."""
    arena, for_app = shared
    runs: list[int] = []

    @recoverable
    async def app(scope: Any, receive: Any, send: Any) -> None:
        runs.append(1)
        arena.root["n"] = 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await lose()

    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    with pytest.raises(Exception, match="its response was being sent already"):
        await Middleware(app, for_app)(scope, lambda: asyncio.sleep(1), send)
    assert (runs, sent) == ([1], ["http.response.start"])
    assert "n" not in arena.root


@PROTECT
async def test_around_a_framework(shared: tuple[Arena, Arena], protect: str) -> None:
    """A failure of ours that Starlette makes a 500 of is a 503 all the same; one of the program's stays one, and goes on."""
    _, for_app = shared

    async def endpoint(request: Request) -> Response:
        raise ArenaBusyError("held") if "busy" in request.query_params else RuntimeError("crash")

    app = Starlette(routes=[Route("/", endpoint)])
    async with client_of(Middleware(app, for_app, protect=protect)) as client:  # type: ignore[arg-type]
        busy, crash = [await client.get(f"/?{kind}=1") for kind in ("busy", "crash")]
    assert (busy.status_code, busy.headers["Retry-After"]) == (503, "1")
    assert (crash.status_code, crash.text) == (500, "Internal Server Error")


async def test_a_middleware_inside_another(shared: tuple[Arena, Arena], lose: Lose) -> None:
    """An application that is set up, inside one that is protected as a whole, is part of its transaction."""
    arena, for_app = shared

    @recoverable
    async def endpoint(request: Request) -> Response:
        arena.root["n"] = attempt()
        if attempt() == 1:
            await lose()
        return PlainTextResponse(str(attempt()), 500 if "fail" in request.query_params else 200)

    app = Starlette(routes=[Route("/", endpoint)])
    setup(app, for_app)
    async with client_of(Middleware(app, for_app, protect="all")) as client:
        assert (await client.get("/")).text == "2"
        assert content(arena)["n"] == 2
        assert (await client.get("/?fail=1")).status_code == 500
    assert content(arena)["n"] == 2


@PROTECT
async def test_a_websocket_that_is_one_run(shared: tuple[Arena, Arena], lose: Lose, protect: str) -> None:
    """A decorated connection that has exchanged messages can't be run again."""
    arena, for_app = shared

    @recoverable
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        arena.root["n"] = 1
        await lose()

    socket = Socket(Middleware(app, for_app, protect=protect), "/")  # type: ignore[arg-type]
    assert (await socket.next())["type"] == "websocket.accept"
    with pytest.raises(Exception, match="make a message the unit"):
        await socket.running
    assert "n" not in arena.root


async def test_a_traceback_is_written_once(shared: tuple[Arena, Arena], log: list[dict[str, Any]]) -> None:
    """The server's own record of a crash points to our event, by the request's id."""
    arena, for_app = shared

    async def app(scope: Any, receive: Any, send: Any) -> None:
        arena.root["a"] = 1
        raise KeyError("crash")

    records: list[logging.LogRecord] = []
    logger = logging.getLogger("uvicorn.error")
    keep = logging.Handler()
    keep.emit = records.append  # type: ignore[method-assign]
    logger.addHandler(keep)
    logger.propagate = False
    try:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"x-request-id", b"mine")]}
        await Middleware(app, for_app, protect="all")(scope, lambda: asyncio.sleep(1), lambda message: asyncio.sleep(0))
    except KeyError as error:
        logger.error("Exception in ASGI application", exc_info=error)
    finally:
        logger.removeHandler(keep)
        logger.propagate = True
    (record,) = records
    assert record.getMessage() == ("Exception in ASGI application: KeyError; see request.rolled_back, request_id=mine")
    assert [event["request_id"] for event in log if event["event"] == "request.rolled_back"] == ["mine"]


async def test_a_start_up_that_fails_closes_the_arena(shared: tuple[Arena, Arena]) -> None:
    """Nothing will be served, and no shut-down follows."""
    _, for_app = shared
    sent: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    async def send(message: Any) -> None:
        assert for_app.closed
        sent.append(message["type"])

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    await Middleware(app, for_app)({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.failed"]


async def test_the_lifespan(shared: tuple[Arena, Arena]) -> None:
    """The arena is closed when the server shuts down, after the application's own shut-down."""
    _, for_app = shared

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                assert not for_app.closed
                return

    async with lifespan_of(Middleware(app, for_app)) as said:
        assert [message["type"] for message in said] == ["lifespan.startup.complete"]
    assert for_app.closed


def test_what_is_refused(shared: tuple[Arena, Arena]) -> None:
    """Options that can't be, and faults in production, are named errors."""
    _, for_app = shared

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    with pytest.raises(ArenaOptionError, match="protect="):
        Middleware(app, for_app, protect="no")  # type: ignore[arg-type]
    with pytest.raises(FaultsNotAllowedError):
        Middleware(app, for_app, faults="*=raise@await")
    with pytest.raises(TypeError, match="is no Arena"):
        Middleware(app, "arena")  # type: ignore[arg-type]


@PROTECT
async def test_an_answer_waits_for_the_disk(
    new_name: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protect: str
) -> None:
    """With durable="disk" an answer leaves when what it says is on the disk, also where the commit is in the middle of a run."""
    seen: list[str] = []
    passed = answers.passed

    async def passing(*args: Any) -> None:
        await passed(*args)
        seen.append("on the disk")

    monkeypatch.setattr(answers, "passed", passing)
    with Arena.open(new_name(), size="16 MiB", journal=tmp_path / "journal", compact=False) as arena:

        async def endpoint(request: Request) -> Response:
            arena.root["a"] = 1
            return PlainTextResponse("ok")

        app = Starlette(routes=[Route("/", endpoint if protect == "all" else recoverable(endpoint))])
        setup(app, arena, protect=protect, durable="disk")  # type: ignore[arg-type]

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            async def sending(message: Any) -> None:
                seen.append(message["type"])
                await send(message)

            await app(scope, receive, sending)

        async with client_of(watched) as client:
            assert (await client.get("/")).text == "ok"
    assert seen == ["on the disk", "http.response.start", "http.response.body"]


async def test_a_long_answer_of_500_is_not_held_in_memory(shared: tuple[Arena, Arena]) -> None:
    """Beyond `body_limit` it leaves as it comes; what its application has done is rolled back all the same."""
    arena, for_app = shared
    sent: list[int] = []
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        arena.root["a"] = 1
        await send({"type": "http.response.start", "status": 500, "headers": []})
        for _ in range(5):
            await send({"type": "http.response.body", "body": bytes(400), "more_body": True})
            seen.append(sum(sent))
        await send({"type": "http.response.body"})

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            sent.append(len(message.get("body", b"")))
            await send(message)

        await protected(scope, receive, sending)

    protected = Middleware(app, for_app, protect="all", body_limit=1000)
    async with client_of(watched) as client:
        response = await client.get("/")
    assert (response.status_code, len(response.content)) == (500, 2000)
    assert seen == [0, 0, 1200, 1600, 2000]
    assert content(arena) == {}


@pytest.mark.parametrize("body_limit", [1000, 10])
async def test_one_that_its_client_does_not_take_is_rolled_back_too(
    shared: tuple[Arena, Arena], body_limit: int
) -> None:
    """The task that sends a long answer of 500 is cancelled, as Starlette does when the client hangs up, and no error is left."""
    arena, for_app = shared
    stuck = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        arena.root["a"] = 1
        await send({"type": "http.response.start", "status": 500, "headers": []})
        sending = asyncio.create_task(send({"type": "http.response.body", "body": bytes(100), "more_body": True}))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])

    async def send(message: Any) -> None:
        await stuck.wait()

    async def receive() -> Any:
        return {"type": "http.request"}

    scope: Any = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    serving = asyncio.create_task(Middleware(app, for_app, protect="all", body_limit=body_limit)(scope, receive, send))
    await asyncio.wait([serving], timeout=0.2)
    stuck.set()
    await serving
    assert content(arena) == {}


async def test_an_answer_of_another_application_is_not_its_own(shared: tuple[Arena, Arena]) -> None:
    """A handler calls an application in this process, which answers an exception: that says nothing of the request around."""
    arena, for_app = shared

    async def missing(request: Request) -> Response:
        raise HTTPException(404)

    other = Starlette(routes=[Route("/", missing)])

    async def endpoint(request: Request) -> Response:
        arena.root["a"] = 1
        async with client_of(other) as client:
            return PlainTextResponse(str((await client.get("/")).status_code))

    app = Starlette(routes=[Route("/", endpoint)])
    setup(app, for_app, protect="all")
    async with client_of(app) as client:
        assert (await client.get("/")).text == "404"
    assert content(arena) == {"a": 1}


@pytest.mark.parametrize(
    ("raised", "answered", "kept"), [(404, 200, True), (307, 503, False), (404, 410, True), (307, 307, True)]
)
async def test_what_a_middleware_makes_of_an_exceptions_answer_decides(
    shared: tuple[Arena, Arena], raised: int, answered: int, kept: bool
) -> None:
    """The client is told that, and the state goes with what it is told."""
    arena, for_app = shared

    async def endpoint(request: Request) -> Response:
        arena.root["a"] = 1
        raise HTTPException(raised, headers={"Location": "/"})

    class Changing:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def sending(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message["status"] = answered
                await send(message)

            await self.app(scope, receive, sending)

    app = Starlette(routes=[Route("/", endpoint)])
    app.add_middleware(Changing)
    setup(app, for_app, protect="all")
    async with client_of(app) as client:
        assert (await client.get("/")).status_code == answered
    assert content(arena) == ({"a": 1} if kept else {})


async def test_a_stream_that_fails_before_its_first_part_is_no_200(shared: tuple[Arena, Arena]) -> None:
    """It has been rolled back, and nothing had left: who serves it makes a 500 of it."""
    arena, for_app = shared
    sent: list[Any] = []

    async def parts() -> AsyncIterator[bytes]:
        raise KeyError("before the first part")
        yield b""

    async def endpoint(request: Request) -> Response:
        arena.root["a"] = 1
        return StreamingResponse(parts())

    app = Starlette(routes=[Route("/", endpoint)])
    setup(app, for_app, protect="all")

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.sleep(60)

    scope: Any = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    with pytest.raises(BaseException, match=r"before the first part|unhandled"):
        await app(scope, receive, send)
    assert sent[0]["status"] == 500
    assert content(arena) == {}


async def test_two_tasks_that_send_wait_for_the_commit(
    shared: tuple[Arena, Arena], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one has a part of the answer commit, another one's part does not let it out."""
    arena, for_app = shared
    seen: list[Any] = []
    leave = runner.leave

    async def leaving(*args: Any) -> None:
        await leave(*args)
        for _ in range(5):
            await asyncio.sleep(0)
        seen.append("committed")

    monkeypatch.setattr(runner, "leave", leaving)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        arena.root["a"] = 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        parts = ({"type": "http.response.body", "body": b"x", "more_body": more} for more in (True, False))
        await asyncio.gather(*(send(part) for part in parts))

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            seen.append(message["type"])
            await send(message)

        await Middleware(app, for_app, protect="all")(scope, receive, sending)

    async with client_of(watched) as client:
        assert (await client.get("/")).text == "xx"
    assert seen == ["committed", "http.response.start", "http.response.body", "http.response.body"]


@PROTECT
async def test_faults_strike(shared: tuple[Arena, Arena], protect: str) -> None:
    """Faults at random hit what is run on ASGI as well: requests fail, and what they have done is gone."""
    arena, for_app = shared

    async def endpoint(request: Request) -> Response:
        arena.root["n"] = arena.root.get("n", 0) + 1
        await asyncio.sleep(0)
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/", endpoint if protect == "all" else recoverable(endpoint))])
    setup(app, for_app, protect=protect, faults="*=raise@await:0.5", allow_faults=True, faults_seed=1)  # type: ignore[arg-type]
    statuses = []
    async with lifespan_of(app), client_of(app) as client:
        for _ in range(20):
            statuses.append((await client.get("/")).status_code)
    assert set(statuses) == {200, 500}
    assert arena.root["n"] == statuses.count(200)
