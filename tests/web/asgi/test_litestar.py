"""recoverable on Litestar: decorated handlers, and all of a request as one transaction."""

from __future__ import annotations

import functools
import logging
import threading
from typing import TYPE_CHECKING, Annotated, Any

import litestar
import pytest
from litestar import Litestar, Request, Response, WebSocket
from litestar.datastructures import UploadFile
from litestar.di import Provide
from litestar.enums import RequestEncodingType
from litestar.exceptions import HTTPException
from litestar.logging import LoggingConfig
from litestar.params import Body
from litestar.response import Redirect

from recoverable import Arena, ArenaBusyError, ArenaOptionError, ConflictError, after_commit, attempt, recoverable
from recoverable.asgi import Middleware, setup
from support.asgi import Socket, client_of, lifespan_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Lose = Callable[[], Awaitable[Any]]

Shared = tuple[Arena, Arena]

#: An application that leaves the program's logging as it is: otherwise a thread of its own writes that.
application_of = functools.partial(Litestar, logging_config=None)
config_of_logs = functools.partial(
    LoggingConfig,
    log_exceptions="always",
    configure_root_logger=False,
    handlers={"queue_listener": {"class": "logging.StreamHandler"}},
)

# The newest one wants parameters to be declared in a way that the oldest one does not know.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*(declared using deprecated|Deprecated use of|Inferred dependency)")
PROTECT = pytest.mark.parametrize("protect", ["decorated", "all"])


def application(arena: Arena, handler: Any, protect: str = "decorated", sync: bool = False, **options: Any) -> Litestar:
    """Build an application with one handler at "/", decorated unless all is protected anyway."""
    if protect == "decorated":
        handler = recoverable(handler)
    route = litestar.route(
        "/", http_method=["GET", "POST"], status_code=200, **({"sync_to_thread": True} if sync else {})
    )
    app = application_of([route(handler)], openapi_config=None, **options)
    setup(app, arena, protect=protect)  # type: ignore[arg-type]
    return app


def content(arena: Arena) -> dict[Any, Any]:
    """Return the root's items, read outside any transaction."""
    return dict(arena.root.items())


# -- commit and rollback ----------------------------------------------------------------------------------------------


@PROTECT
@pytest.mark.parametrize("sync", [False, True])
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
    shared: Shared, log: list[dict[str, Any]], protect: str, sync: bool, status: int, raised: bool, kept: bool
) -> None:
    """Returned below 500 and raised below 400 commit; everything else rolls back; the client gets the answer anyway."""
    arena, for_app = shared
    after: list[int] = []
    threads: list[bool] = []

    def work() -> Response[Any]:
        threads.append(threading.current_thread() is threading.main_thread())
        after_commit(after.append, 1)
        arena.root["a"] = 1
        if raised:
            raise HTTPException(status_code=status, headers={"Location": "/x"})
        return Redirect("/x", status_code=302) if status == 302 else Response({}, status_code=status)

    async def working() -> Response[Any]:
        return work()

    async with client_of(application(for_app, work if sync else working, protect, sync)) as client:
        assert (await client.get("/")).status_code == status
    assert content(arena) == ({"a": 1} if kept else {})
    assert after == ([1] if kept else [])
    assert threads == [not sync]
    crashes = [event for event in log if event["event"] == "request.rolled_back" and event["log_level"] == "warning"]
    assert len(crashes) == (protect == "decorated" and raised and status >= 500)


@PROTECT
async def test_plain_values(shared: Shared, protect: str) -> None:
    """What a handler returns plainly has the status of its route: it commits; so does a response without a status of its own."""
    arena, for_app = shared

    async def handler(kind: str) -> Any:
        arena.root[kind] = 1
        return Response({"n": 1}) if kind == "response" else {"n": 1}

    async with client_of(application(for_app, handler, protect)) as client:
        for kind in ("plain", "response"):
            answer = await client.get(f"/?kind={kind}")
            assert (answer.status_code, answer.json()) == (200, {"n": 1})
    assert content(arena) == {"plain": 1, "response": 1}


async def test_the_status_of_the_route(shared: Shared) -> None:
    """A response without a status of its own has the one of its route."""
    arena, for_app = shared

    @litestar.get("/", status_code=503)
    @recoverable
    async def handler() -> Response[None]:
        arena.root["a"] = 1
        return Response(None)

    app = application_of([handler], openapi_config=None)
    setup(app, for_app)
    async with client_of(app) as client:
        assert (await client.get("/")).status_code == 503
    assert content(arena) == {}


@PROTECT
async def test_a_crash_leaves_nothing(
    shared: Shared, log: list[dict[str, Any]], caplog: pytest.LogCaptureFixture, protect: str
) -> None:
    """An exception is a 500; its traceback is written once."""
    arena, for_app = shared

    async def handler() -> None:
        arena.root["a"] = 1
        raise RuntimeError("crash")

    app = application(for_app, handler, protect, logging_config=config_of_logs())
    logger = logging.getLogger("litestar")
    logger.propagate = True
    async with client_of(app) as client:
        assert (await client.get("/", headers={"X-Request-ID": "mine"})).status_code == 500
    assert content(arena) == {}
    (event,) = [event for event in log if event["event"] == "request.rolled_back"]
    assert event["request_id"] == "mine"
    (record,) = [record for record in caplog.records if record.name == "litestar"]
    if protect == "decorated":
        assert event["exception_type"] == "RuntimeError"
        assert record.getMessage() == (
            "Uncaught exception (path=/): RuntimeError; see request.rolled_back, request_id=mine"
        )


async def test_the_programs_settings_of_the_log_hold(shared: Shared, caplog: pytest.LogCaptureFixture) -> None:
    """Who wants no record of crashes gets none, neither Litestar's nor one that points to our event."""

    async def handler() -> None:
        shared[0].root["a"] = 1
        raise RuntimeError("crash")

    app = application(shared[1], handler, logging_config=config_of_logs(log_exceptions="never"))
    logging.getLogger("litestar").propagate = True
    async with client_of(app) as client:
        assert (await client.get("/")).status_code == 500
    assert [record for record in caplog.records if record.name == "litestar"] == []


# -- conflicts ----------------------------------------------------------------------------------------------------------


@PROTECT
async def test_a_conflict_runs_the_request_again(shared: Shared, lose: Lose, protect: str) -> None:
    """The second run finds the request's state as the first one did."""
    arena, for_app = shared
    runs: list[bool] = []

    async def handler(request: Request[Any, Any, Any]) -> dict[str, int]:
        runs.append("run" in request.scope["state"])
        request.scope["state"]["run"] = True
        arena.root["n"] = len(runs)
        if len(runs) == 1:
            await lose()
        return {"runs": len(runs)}

    async with client_of(application(for_app, handler, protect)) as client:
        assert (await client.post("/")).json() == {"runs": 2}
    assert runs == [False, False]
    assert arena.root["n"] == 2


@PROTECT
async def test_a_conflict_of_a_handler_without_the_request(shared: Shared, lose: Lose, protect: str) -> None:
    """A file that the handler was given is read from its beginning again."""
    arena, for_app = shared
    seen: list[bytes] = []

    async def handler(data: Any) -> int:
        seen.append(await data.read())
        arena.root["n"] = len(seen)
        if len(seen) == 1:
            await lose()
        return len(seen)

    handler.__annotations__["data"] = Annotated[UploadFile, Body(media_type=RequestEncodingType.MULTI_PART)]
    app = application_of(
        [litestar.post("/")(recoverable(handler) if protect == "decorated" else handler)], openapi_config=None
    )
    setup(app, for_app, protect=protect)  # type: ignore[arg-type]
    async with client_of(app) as client:
        answer = await client.post("/", files={"data": ("f.txt", b"upload")})
    assert answer.json() == 2, answer.text
    assert seen == [b"upload", b"upload"]


async def test_a_plain_handler_runs_again(shared: Shared) -> None:
    """In its thread, where no event loop says which task it is."""
    import contextvars

    arena, for_app = shared

    def handler() -> int:
        if attempt() == 1:
            seen = arena.root.get("contended", 0)
            contextvars.Context().run(recoverable(arena=arena)(arena.root.update), {"contended": seen + 1})
        arena.root["n"] = attempt()
        return attempt()

    async with client_of(application(for_app, handler, sync=True)) as client:
        assert (await client.get("/")).json() == 2
    assert arena.root["n"] == 2


# -- failures of ours -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["decorated", "all", "around"])
async def test_failures_become_responses(
    shared: Shared, lose: Lose, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """No room is 507; a conflict that is not solved, and an arena that is held, are 503 with Retry-After; no traceback."""
    arena, for_app = shared

    async def handler(kind: str) -> None:
        arena.root["n"] = 1
        if kind == "full":
            arena.root["big"] = b"x" * 2**26
        if kind == "busy":
            raise ArenaBusyError("held")
        await lose()

    logs = config_of_logs()
    app: Any
    if how == "around":
        app = Middleware(
            application_of([litestar.get("/")(recoverable(handler))], openapi_config=None, logging_config=logs), for_app
        )
    else:
        app = application(for_app, handler, how, logging_config=logs)
    logging.getLogger("litestar").propagate = True
    async with client_of(app) as client:
        full, busy, lost = [await client.get(f"/?kind={kind}") for kind in ("full", "busy", "lost")]
    assert (full.status_code, full.text) == (507, "507: no room for this change; nothing was changed\n")
    assert (busy.status_code, busy.headers["Retry-After"]) == (503, "1")
    assert (lost.status_code, lost.headers["Retry-After"]) == (503, "1")
    assert "n" not in arena.root
    assert [record for record in caplog.records if record.name == "litestar"] == []


async def test_the_programs_own_handler_comes_first(shared: Shared, lose: Lose) -> None:
    """An exception handler for our failures is the program's; one for any exception is not meant."""
    arena, for_app = shared

    async def handler(kind: str) -> None:
        arena.root["n"] = 1
        if kind == "busy":
            raise ArenaBusyError("held")
        await lose()

    def mine(request: Any, error: Exception) -> Response[str]:
        return Response(type(error).__name__, status_code=409, media_type="text/plain")

    app = application(for_app, handler, exception_handlers={ConflictError: mine, Exception: mine})
    async with client_of(app) as client:
        lost, busy = [await client.get(f"/?kind={kind}") for kind in ("lost", "busy")]
    assert (lost.status_code, lost.text) == (409, "ConflictError")
    assert busy.status_code == 503


# -- around handlers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
async def test_all_is_dependencies_and_middlewares_too(shared: Shared, fails: bool) -> None:
    """With protect="all" what the application has around a handler is in the transaction."""
    arena, for_app = shared

    async def dependency() -> int:
        arena.root["dependency"] = 1
        return 1

    def counts(app: Any) -> Any:
        async def counting(scope: Any, receive: Any, send: Any) -> None:
            arena.root["middleware"] = 1
            await app(scope, receive, send)

        return counting

    async def handler(value: int) -> int:
        arena.root["handler"] = value
        if fails:
            raise HTTPException(status_code=400)
        return value

    app = application(for_app, handler, "all", middleware=[counts], dependencies={"value": Provide(dependency)})
    async with client_of(app) as client:
        assert (await client.get("/")).status_code == (400 if fails else 200)
    assert content(arena) == ({} if fails else {"dependency": 1, "middleware": 1, "handler": 1})


async def test_the_route_of_a_working_set(shared: Shared) -> None:
    """A request is known by its method and the path of its route, placeholders and all."""
    from recoverable import _asgi
    from recoverable._native.runtime import running_request

    _, for_app = shared
    routes: list[Any] = []

    @litestar.get("/users/{number:int}")
    @recoverable
    async def handler(number: int) -> None:
        here = running_request.get().request
        routes.append((_asgi.adapter.route(here), _asgi.adapter.arguments(here)))

    app = application_of([handler], openapi_config=None)
    setup(app, for_app)
    async with client_of(app) as client:
        assert (await client.get("/users/7")).status_code == 200
    assert routes == [("GET /users/{number}", (7,))]


async def test_the_lifespan_closes_the_arena(shared: Shared) -> None:
    """The arena is open in the application's own shut-down, and closed after it."""
    arena, for_app = shared

    async def ends() -> None:
        with for_app.transaction():
            arena.root["end"] = True

    app = application_of([], on_shutdown=[ends], openapi_config=None)
    setup(app, for_app)
    async with lifespan_of(app) as said:
        assert said == [{"type": "lifespan.startup.complete"}]
        assert not for_app.closed
    assert said[-1] == {"type": "lifespan.shutdown.complete"}
    assert for_app.closed
    assert arena.root["end"] is True


def test_a_second_arena_is_refused(shared: Shared) -> None:
    """setup() is called once."""
    _, for_app = shared
    app = application_of([], openapi_config=None)
    setup(app, for_app)
    with pytest.raises(ArenaOptionError, match="has an arena already"):
        setup(app, for_app)


async def test_a_message_whose_function_is_given_the_websocket(shared: Shared, lose: Lose) -> None:
    """After a conflict it runs again, as long as it has sent nothing."""
    arena, for_app = shared
    runs: list[int] = []

    @recoverable
    async def handle(socket: WebSocket[Any, Any, Any], text: str) -> str:
        runs.append(attempt())
        arena.root.get("contended")
        if len(runs) == 1:
            await lose()
        arena.root["text"] = text
        return f"{text}: {len(runs)}"

    @litestar.websocket("/")
    async def echo(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        await socket.send_text(await handle(socket, await socket.receive_text()))

    app = application_of([echo], openapi_config=None)
    setup(app, for_app)
    async with lifespan_of(app):
        socket = Socket(app, "/")
        assert (await socket.next())["type"] == "websocket.accept"
        assert await socket.ask("hello") == "hello: 2"
        await socket.close()
    assert arena.root["text"] == "hello"
