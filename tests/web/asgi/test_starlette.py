"""recoverable on Starlette: decorated endpoints, and all of a request as one transaction."""

from __future__ import annotations

import asyncio
import contextvars
import copy
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute

from recoverable import (
    Arena,
    ArenaBusyError,
    ArenaOptionError,
    ConflictError,
    RecoverableError,
    after_commit,
    attempt,
    recoverable,
)
from recoverable._starlette import adapter
from recoverable.asgi import setup
from support.asgi import Socket, client_of, lifespan_of, served, served_by_hypercorn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Lose = Callable[[], Awaitable[Any]]

PROTECT = pytest.mark.parametrize("protect", ["decorated", "all"])


def application(arena: Arena, endpoint: Any, protect: str = "decorated", **options: Any) -> Starlette:
    """Build an application with one endpoint at "/", decorated unless all is protected anyway."""
    if protect == "decorated":
        endpoint = recoverable(endpoint)
    app = Starlette(routes=[Route("/", endpoint, methods=["GET", "POST"])], **options)
    setup(app, arena, protect=protect)  # type: ignore[arg-type]
    return app


def content(arena: Arena) -> dict[Any, Any]:
    """Return the root's items, read outside any transaction."""
    return dict(arena.root.items())


# -- commit and rollback ----------------------------------------------------------------------------------------------


@PROTECT
@pytest.mark.parametrize(
    ("status", "raised", "kept"),
    [
        (200, False, True),
        (302, False, True),
        (404, False, True),
        (500, False, False),
        (503, False, False),
        (302, True, True),
        (400, True, False),
        (404, True, False),
        (500, True, False),
    ],
)
async def test_responses_and_http_exceptions(
    shared: tuple[Arena, Arena], log: list[dict[str, Any]], protect: str, status: int, raised: bool, kept: bool
) -> None:
    """Returned below 500 and raised below 400 commit; everything else rolls back; the client gets the answer anyway."""
    arena, for_app = shared
    after: list[int] = []

    async def endpoint(request: Request) -> Response:
        after_commit(after.append, 1)
        arena.root["a"] = 1
        if raised:
            raise HTTPException(status, headers={"Location": "/x"})
        return RedirectResponse("/x", status) if status == 302 else JSONResponse({}, status)

    async with client_of(application(for_app, endpoint, protect)) as client:
        assert (await client.get("/")).status_code == status
    assert content(arena) == ({"a": 1} if kept else {})
    assert after == ([1] if kept else [])
    crashes = [event for event in log if event["event"] == "request.rolled_back" and event["log_level"] == "warning"]
    assert len(crashes) == (protect == "decorated" and raised and status >= 500)


class _Own(PlainTextResponse):
    """A class that only its base says the status of."""


@pytest.mark.parametrize("kind", [Response, JSONResponse, PlainTextResponse, _Own])
async def test_responses_of_each_class(arena: Arena, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    """Whatever the class of a response, its status decides; of the framework's own ones without a call of Python's."""
    asked: list[Any] = []
    monkeypatch.setattr(adapter, "status_of", lambda answer: asked.append(answer) or answer.status_code)
    for status in (200, 503):

        async def answer(status: int = status) -> Any:
            arena.root["a"] = status
            return kind(None, status)

        await arena.run(answer)
        assert arena.root["a"] == 200
    assert len(asked) == (2 if kind is _Own else 0)


@PROTECT
async def test_a_crash_leaves_nothing(shared: tuple[Arena, Arena], log: list[dict[str, Any]], protect: str) -> None:
    """An exception is a 500, told once, and nothing is committed; what committed before its answer is there when that arrives."""
    arena, for_app = shared

    async def endpoint(request: Request) -> Response:
        arena.root["a"] = request.query_params["value"]
        await asyncio.sleep(0)
        if "crash" in request.query_params:
            raise RuntimeError("crash")
        return PlainTextResponse("ok")

    async with client_of(application(for_app, endpoint, protect)) as client:
        assert (await client.get("/?value=1")).text == "ok"
        assert content(arena) == {"a": "1"}
        assert (await client.get("/?value=2&crash=1", headers={"X-Request-ID": "mine"})).status_code == 500
    assert content(arena) == {"a": "1"}
    (event,) = [event for event in log if event["event"] == "request.rolled_back"]
    assert (event["exception_type"], event["request_id"]) == ("RuntimeError", "mine")


@PROTECT
async def test_a_cancelled_request_rolls_back(shared: tuple[Arena, Arena], protect: str) -> None:
    """A server that cancels the task of a request gets the cancellation, and nothing was done."""
    arena, for_app = shared
    there = asyncio.Event()

    async def endpoint(request: Request) -> Response:
        arena.root["a"] = 1
        there.set()
        await asyncio.Event().wait()
        return Response()

    async with client_of(application(for_app, endpoint, protect)) as client:
        request = asyncio.create_task(client.get("/"))
        await there.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    assert content(arena) == {}


async def test_a_time_out_rolls_back(shared: tuple[Arena, Arena]) -> None:
    """`timeout=` of the decorator ends a request as a 500."""
    arena, for_app = shared

    @recoverable(timeout=0.01)
    async def endpoint(request: Request) -> Response:
        arena.root["a"] = 1
        await asyncio.Event().wait()
        return Response()

    app = Starlette(routes=[Route("/", endpoint)])
    setup(app, for_app)
    async with client_of(app) as client:
        assert (await client.get("/")).status_code == 500
    assert content(arena) == {}


async def test_class_based_endpoints(shared: tuple[Arena, Arena]) -> None:
    """Methods of an HTTPEndpoint are decorated as functions are."""
    arena, for_app = shared

    class Endpoint(HTTPEndpoint):
        @recoverable
        async def get(self, request: Request) -> Response:
            arena.root["a"] = 1
            return PlainTextResponse("kept", 503 if "fail" in request.query_params else 200)

    app = Starlette(routes=[Route("/", Endpoint)])
    setup(app, for_app)
    async with client_of(app) as client:
        assert (await client.get("/?fail=1")).status_code == 503
        assert content(arena) == {}
        assert (await client.get("/")).status_code == 200
    assert content(arena) == {"a": 1}


# -- conflicts ----------------------------------------------------------------------------------------------------------


FORM = b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\n\r\nupload\r\n--x--\r\n'
BODIES = {
    "json": (b'{"a": [1]}', "application/json"),
    "body": (b"text", "text/plain"),
    "form": (b"a=1", "application/x-www-form-urlencoded"),
    "multipart": (FORM, "multipart/form-data; boundary=x"),
    "stream": (b"x" * 1000, "text/plain"),
}


async def read(request: Request, kind: str, forms: list[Any]) -> Any:
    """Read a request's body in that way; what is read may be changed by us. Forms are for the test to close."""
    if kind == "json":
        value = await request.json()
        read = copy.deepcopy(value)
        value["a"].append(2)
        return read
    if kind == "body":
        return (await request.body()).decode()
    if kind == "stream":
        return [len(part) async for part in request.stream() if part]
    form = await request.form()
    forms.append(form)
    if kind == "form":
        return form["a"]
    return (await form["f"].read()).decode()  # type: ignore[union-attr]


@PROTECT
@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize("kind", BODIES)
async def test_a_conflict_runs_the_request_again(
    shared: tuple[Arena, Arena], lose: Lose, protect: str, kind: str, between: bool
) -> None:
    """The second run finds the body, the scope and the request's state as the first one did, also behind a middleware."""
    arena, for_app = shared
    bodies: list[Any] = []
    forms: list[Any] = []

    async def endpoint(request: Request) -> Response:
        bodies.append(await read(request, kind, forms))
        assert not hasattr(request.state, "run")
        request.state.run = len(bodies)
        arena.root["n"] = len(bodies)
        if len(bodies) == 1:
            await lose()
        return JSONResponse({"runs": len(bodies)})

    class Between:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def receiving() -> Any:
                return await receive()

            await self.app(scope, receiving, send)

    options = {"middleware": [Middleware(Between)]} if between else {}
    body, content_type = BODIES[kind]
    async with client_of(application(for_app, endpoint, protect, **options)) as client:
        answer = await client.post("/", content=body, headers={"Content-Type": content_type})
    for form in forms:
        await form.close()
    assert answer.json() == {"runs": 2}
    assert bodies[0] == bodies[1]
    assert arena.root["n"] == 2


@PROTECT
async def test_a_body_beyond_the_limit_is_not_run_again(shared: tuple[Arena, Arena], lose: Lose, protect: str) -> None:
    """What was streamed and not kept is gone: 503, which says so."""
    arena, for_app = shared
    runs: list[int] = []

    async def endpoint(request: Request) -> Response:
        async for _ in request.stream():
            pass
        runs.append(1)
        arena.root["n"] = 1
        await lose()
        return Response()

    app = Starlette(
        routes=[Route("/", endpoint if protect == "all" else recoverable(endpoint), methods=["POST"])],
    )
    setup(app, for_app, protect=protect, body_limit=100)  # type: ignore[arg-type]
    async with client_of(app) as client:
        answer = await client.post("/", content=b"x" * 101)
    assert answer.status_code == 503
    assert "its body was streamed" in answer.text
    assert runs == [1]
    assert "n" not in arena.root


async def test_what_is_kept_of_a_body_is_enough(shared: tuple[Arena, Arena], lose: Lose) -> None:
    """A body that `body()` has read is with the Request, however long it is."""
    arena, for_app = shared
    lengths: list[int] = []

    @recoverable
    async def endpoint(request: Request) -> Response:
        lengths.append(len(await request.body()))
        arena.root["n"] = 1
        if len(lengths) == 1:
            await lose()
        return Response()

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    setup(app, for_app, body_limit=100)
    async with client_of(app) as client:
        assert (await client.post("/", content=b"x" * 1000)).status_code == 200
    assert lengths == [1000, 1000]


async def test_a_closed_upload(shared: tuple[Arena, Arena], lose: Lose) -> None:
    """A form whose files the run has closed is parsed again."""
    arena, for_app = shared
    seen: list[bytes] = []

    @recoverable
    async def endpoint(request: Request) -> Response:
        async with request.form() as form:
            seen.append(await form["f"].read())  # type: ignore[union-attr]
        arena.root["n"] = 1
        if len(seen) == 1:
            await lose()
        return Response()

    async with client_of(application(for_app, endpoint.fn)) as client:
        answer = await client.post("/", content=FORM, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 200, answer.text
    assert seen == [b"upload", b"upload"]


# -- failures of ours -------------------------------------------------------------------------------------------------


@PROTECT
async def test_failures_become_responses(shared: tuple[Arena, Arena], lose: Lose, protect: str) -> None:
    """No room is 507; a conflict that is not solved, and an arena that is held, are 503 with Retry-After."""
    arena, for_app = shared
    seen: list[int] = []

    async def endpoint(request: Request) -> Response:
        arena.root["n"] = 1
        if "full" in request.query_params:
            arena.root["big"] = b"x" * 2**26
        if "busy" in request.query_params:
            raise ArenaBusyError("held")
        await lose()
        return Response()

    class Sees(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            answer = await call_next(request)
            seen.append(answer.status_code)
            return answer

    options = {"middleware": [Middleware(Sees)]} if protect == "decorated" else {}
    async with client_of(application(for_app, endpoint, protect, **options)) as client:
        full, busy, lost = [await client.get(f"/?{kind}=1") for kind in ("full", "busy", "lost")]
    assert (full.status_code, full.text) == (507, "507: no room for this change; nothing was changed\n")
    assert (busy.status_code, busy.headers["Retry-After"]) == (503, "1")
    assert (lost.status_code, lost.headers["Retry-After"]) == (503, "1")
    assert seen == ([507, 503, 503] if options else [])
    assert "n" not in arena.root


async def test_the_programs_own_handler_comes_first(shared: tuple[Arena, Arena], lose: Lose) -> None:
    """An exception handler for our failures, or for what they are, is the program's."""
    arena, for_app = shared

    async def endpoint(request: Request) -> Response:
        arena.root["n"] = 1
        await lose()
        return Response()

    def mine(request: Any, error: Exception) -> Response:
        assert isinstance(error, ConflictError)
        return PlainTextResponse("mine", 409)

    app = application(for_app, endpoint, exception_handlers={RecoverableError: mine})
    async with client_of(app) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.text) == (409, "mine")


async def test_a_failure_in_a_middleware(shared: tuple[Arena, Arena]) -> None:
    """A failure that a middleware of the program's lets through is answered by us, in front of Starlette."""
    _, for_app = shared

    class Fails:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                raise ArenaBusyError("held")
            await self.app(scope, receive, send)

    async def endpoint(request: Request) -> Response:
        return Response()

    async with client_of(application(for_app, endpoint, middleware=[Middleware(Fails)])) as client:
        assert (await client.get("/")).status_code == 503


# -- after the commit -------------------------------------------------------------------------------------------------


@PROTECT
async def test_a_stream_begins_after_the_commit(shared: tuple[Arena, Arena], protect: str) -> None:
    """What was done before it is committed before its first byte; what it reads and writes itself is outside."""
    arena, for_app = shared
    seen: list[Any] = []

    async def parts() -> AsyncIterator[bytes]:
        seen.append(content(arena))
        yield b"data: 1\n\n"
        await asyncio.sleep(0)
        yield b"data: 2\n\n"

    async def endpoint(request: Request) -> Response:
        arena.root["a"] = 1
        return StreamingResponse(parts(), media_type="text/event-stream")

    async with client_of(application(for_app, endpoint, protect)) as client:
        assert (await client.get("/")).text == "data: 1\n\ndata: 2\n\n"
    assert content(arena) == {"a": 1}
    if protect == "decorated":
        assert seen == [{"a": 1}]


@PROTECT
async def test_background_tasks_run_after_the_commit(shared: tuple[Arena, Arena], protect: str) -> None:
    """They are outside, and may have transactions of their own; with a crash they are lost."""
    arena, for_app = shared
    after: list[Any] = []

    @recoverable
    async def background() -> None:
        after.append(attempt())
        arena.root["background"] = True

    async def endpoint(request: Request) -> Response:
        arena.root["a"] = 1
        if "crash" in request.query_params:
            raise RuntimeError
        return JSONResponse({}, background=BackgroundTask(background))

    async with client_of(application(for_app, endpoint, protect)) as client:
        await client.get("/?crash=1")
        assert after == []
        assert (await client.get("/")).status_code == 200
    assert after == [1]
    assert content(arena) == {"a": 1, "background": True}


# -- where it is served -------------------------------------------------------------------------------------------------


async def test_mounted_applications_find_the_arena(shared: tuple[Arena, Arena], name: str, lose: Lose) -> None:
    """An application that is mounted uses the arena of the one around it, and its failures are answered there, too."""
    arena, for_app = shared
    with Arena.temporary("8 MiB", name=f"{name}-other"):  # so that only the application says which is meant

        @recoverable(max_conflicts=0)
        async def endpoint(request: Request) -> Response:
            arena.root["a"] = 1
            if "lose" in request.query_params:
                await lose()
            return PlainTextResponse("mounted")

        inner = Starlette(routes=[Route("/there/{x}", endpoint)])
        app = Starlette(routes=[Mount("/sub/{tenant}", inner)])
        setup(app, for_app)
        async with client_of(app) as client:
            assert (await client.get("/sub/7/there/8?lose=1")).status_code == 503
            assert (await client.get("/sub/7/there/8")).text == "mounted"
    assert arena.root["a"] == 1


async def test_the_route_of_a_working_set(shared: tuple[Arena, Arena], monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is known by its method and the path of its route, placeholders and all."""
    from recoverable import _asgi
    from recoverable._native.runtime import running_request

    _, for_app = shared
    routes: list[Any] = []

    @recoverable
    async def endpoint(request: Request) -> Response:
        here = running_request.get().request
        routes.append((_asgi.adapter.route(here), _asgi.adapter.arguments(here)))
        return Response()

    inner = Starlette(routes=[Route("/there/{x}", endpoint)])
    app = Starlette(routes=[Mount("/sub/{tenant}", inner), Route("/users/{id:int}", endpoint)])
    setup(app, for_app)
    async with client_of(app) as client:
        await client.get("/users/7")
        await client.get("/sub/acme/there/8")
    assert routes == [("GET /users/{id:int}", (7,)), ("GET /sub/{tenant}/there/{x}", ("acme", "8"))]


async def test_the_lifespan_closes_the_arena(shared: tuple[Arena, Arena]) -> None:
    """The arena is open in the application's own shut-down, and closed after it."""
    import contextlib

    arena, for_app = shared
    seen: list[Any] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        yield
        seen.append(for_app.closed)
        with for_app.transaction():
            arena.root["end"] = True

    app = Starlette(lifespan=lifespan)
    setup(app, for_app)
    async with lifespan_of(app) as said:
        assert said == [{"type": "lifespan.startup.complete"}]
        assert not for_app.closed
    assert said[-1] == {"type": "lifespan.shutdown.complete"}
    assert seen == [False]
    assert for_app.closed
    assert arena.root["end"] is True


async def test_a_websocket_by_message(shared: tuple[Arena, Arena]) -> None:
    """A connection is no transaction; a message is, and finds the arena."""
    arena, for_app = shared

    @recoverable
    async def note(text: str) -> int:
        arena.root["last"] = text
        if text == "crash":
            raise RuntimeError
        return len(text)

    async def endpoint(websocket: Any) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            try:
                await websocket.send_text(str(await note(text)))
            except RuntimeError:
                await websocket.send_text("crashed")
        with arena.transaction():
            arena.root["left"] = True

    app = Starlette(routes=[WebSocketRoute("/", endpoint)])
    setup(app, for_app, protect="all")
    socket = Socket(app, "/")
    assert (await socket.next())["type"] == "websocket.accept"
    assert await socket.ask("one") == "3"
    assert await socket.ask("crash") == "crashed"
    assert arena.root["last"] == "one"
    await socket.close()
    assert arena.root["left"] is True


def test_what_setup_refuses(shared: tuple[Arena, Arena]) -> None:
    """A second arena, capsules, a `protect` that is neither, and what takes no middlewares."""
    _, for_app = shared
    app = Starlette()
    with pytest.raises(ArenaOptionError, match="protect='some'"):
        setup(app, for_app, protect="some")  # type: ignore[arg-type]
    with pytest.raises(ArenaOptionError, match="must be recoverable"):
        setup(app, for_app, capsules=object())  # type: ignore[arg-type]
    with pytest.raises(ArenaOptionError, match="body_limit"):
        setup(app, for_app, body_limit="much")
    with pytest.raises(TypeError, match="Middleware"):
        setup(lambda scope, receive, send: None, for_app)
    setup(app, for_app)
    with pytest.raises(ArenaOptionError, match="has an arena already"):
        setup(app, for_app)


# -- over sockets -----------------------------------------------------------------------------------------------------------


@PROTECT
async def test_under_uvicorn(shared: tuple[Arena, Arena], lose: Lose, protect: str) -> None:
    """Over sockets: a request, one that conflicts, a crash, a stream, a client that hangs up."""
    arena, for_app = shared
    runs: list[Any] = []
    gone, left = asyncio.Event(), asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        for i in range(3):
            yield b"%d" % i
            await asyncio.sleep(0)

    async def endpoint(request: Request) -> Response:
        arena.root["n"] = arena.root.get("n", 0) + 1
        what = request.query_params["what"]
        if what == "conflict":
            runs.append(await request.json())
            if len(runs) == 1:
                await lose()
        if what == "crash":
            raise RuntimeError
        if what == "stream":
            return StreamingResponse(parts())
        if what == "hang-up":
            gone.set()
            while (await request.receive())["type"] != "http.disconnect":
                pass
            left.set()
            return Response(status_code=500)
        return PlainTextResponse("ok")

    async with served(application(for_app, endpoint, protect)) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/?what=ok")).text == "ok"
        assert (await client.post("/?what=conflict", json={"a": 1})).text == "ok"
        assert runs == [{"a": 1}] * 2
        assert (await client.get("/?what=crash")).status_code == 500
        assert (await client.get("/?what=stream")).text == "012"
        request = asyncio.create_task(client.get("/?what=hang-up"))
        await gone.wait()
        request.cancel()
        await left.wait()
        assert arena.root["n"] == 3
    assert for_app.closed


@PROTECT
async def test_under_hypercorn(shared: tuple[Arena, Arena], lose: Lose, protect: str) -> None:
    """Another server: a request, one that conflicts, a crash, a stream; the arena is closed at its end."""
    arena, for_app = shared
    runs: list[Any] = []

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async def endpoint(request: Request) -> Response:
        arena.root["n"] = arena.root.get("n", 0) + 1
        what = request.query_params["what"]
        if what == "conflict":
            runs.append(await request.json())
            if len(runs) == 1:
                await lose()
            arena.root["what"] = what
        if what == "crash":
            raise RuntimeError
        return StreamingResponse(parts()) if what == "stream" else PlainTextResponse("ok")

    async with (
        served_by_hypercorn(application(for_app, endpoint, protect)) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        assert (await client.get("/?what=ok")).text == "ok"
        assert (await client.post("/?what=conflict", json={"a": 1})).text == "ok"
        assert (await client.get("/?what=crash")).status_code == 500
        assert (await client.get("/?what=stream")).text == "onetwo"
    assert runs == [{"a": 1}] * 2
    assert arena.root["n"] == 3
    assert for_app.closed


async def test_a_whole_request_is_called_by_its_endpoint(
    shared: tuple[Arena, Arena], log: list[dict[str, Any]]
) -> None:
    """What begins before its route is found has the name of the function that handles it, in events and to others."""
    arena, for_app = shared

    async def crashes(request: Request) -> Response:
        arena.root["n"] = 1
        raise ZeroDivisionError

    async def winner(request: Request) -> Response:
        arena.root["n"] = arena.root.get("n", 0) + 1
        return PlainTextResponse("won")

    async def loser(request: Request) -> Response:
        n = arena.root.get("n", 0)
        if attempt() == 1:
            await asyncio.get_running_loop().create_task(client.get("/winner"), context=contextvars.Context())
        arena.root["n"] = n + 1
        return PlainTextResponse("lost")

    app = Starlette(routes=[Route("/crashes", crashes), Route("/winner", winner), Route("/loser", loser)])
    setup(app, for_app, protect="all")
    async with client_of(app) as client:
        assert (await client.get("/crashes")).status_code == 500
        assert (await client.get("/loser")).text == "lost"
    told = {each["event"]: each for each in log if each["event"].startswith("request.")}
    assert told["request.rolled_back"]["handler"].endswith("crashes")
    assert told["request.conflict"]["handler"].endswith("loser")
    assert told["request.conflict"]["winner"].endswith("winner")


async def test_middlewares_are_made_as_older_starlettes_make_them(shared: tuple[Arena, Arena]) -> None:
    """They are given what is below by its name, which newer ones give by its place."""

    async def endpoint(request: Request) -> Response:
        return JSONResponse({})

    app = application(shared[1], endpoint)
    for each in app.user_middleware:
        each.cls(*each.args, app=app.router, **each.kwargs)
