"""recoverable on Starlette: decorated endpoints, and all of a request as one transaction."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

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
from support.asgi import client_of, lifespan_of

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
        (503, False, False),
        (302, True, True),
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


@PROTECT
async def test_a_conflict_runs_the_request_again(shared: tuple[Arena, Arena], lose: Lose, protect: str) -> None:
    """The second run finds the request's state as the first one did."""
    arena, for_app = shared
    runs: list[bool] = []

    async def endpoint(request: Request) -> Response:
        runs.append(hasattr(request.state, "run"))
        request.state.run = True
        arena.root["n"] = len(runs)
        if len(runs) == 1:
            await lose()
        return JSONResponse({"runs": len(runs)})

    async with client_of(application(for_app, endpoint, protect)) as client:
        assert (await client.post("/")).json() == {"runs": 2}
    assert runs == [False, False]
    assert arena.root["n"] == 2


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


async def test_the_route_of_a_working_set(shared: tuple[Arena, Arena]) -> None:
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


async def test_what_lies_in_a_session_is_as_before(shared: tuple[Arena, Arena], lose: Lose) -> None:
    """A list in it that a run has appended to, and lost, has that once, however many runs there were."""
    arena, for_app = shared
    runs: list[int] = []

    async def endpoint(request: Request) -> Response:
        runs.append(attempt())
        request.session.setdefault("cart", ["old"]).append("new")
        arena.root.get("contended")
        if len(runs) % 4:
            await lose()
        arena.root["a"] = 1
        request.session["changed"] = True
        return JSONResponse(request.session["cart"])

    app = application(for_app, endpoint, middleware=[Middleware(SessionMiddleware, secret_key="secret")])
    async with client_of(app) as client:
        assert (await client.get("/")).json() == ["old", "new"]
        assert (await client.get("/")).json() == ["old", "new", "new"]
    assert len(runs) == 8


def test_sentry_finds_nothing_that_it_cannot_patch(name: str) -> None:
    """It puts something into the classes of middlewares, and has done so before the application is set up."""
    program = f"""
        import sentry_sdk
        from starlette.applications import Starlette
        from recoverable import Arena
        from recoverable.asgi import setup
        sentry_sdk.init("http://a@127.0.0.1:1/1", default_integrations=True, transport=lambda event: None)
        with Arena.temporary("4 MiB", name={name!r}) as arena:
            app = Starlette()
            setup(app, arena)
            app.build_middleware_stack()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
