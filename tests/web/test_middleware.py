"""recoverable on aiohttp, over real sockets: commits before responses, errors as responses, what can't be run again."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from recoverable import (
    Arena,
    ArenaBusyError,
    ArenaOptionError,
    Array,
    RecoverableError,
    after_commit,
    attempt,
    recoverable,
)
from recoverable.aiohttp import arena_key, middleware, setup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Handler = Any


@contextlib.asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[TestClient[Any, Any]]:
    """Serve the application on a socket of its own; give a client of it."""
    async with TestClient(TestServer(app)) as client:
        yield client


def application(arena: Arena, routes: dict[str, Handler], **options: Any) -> web.Application:
    """Build an application with these handlers for GET and POST, set up on the arena."""
    app = web.Application()
    for path, handler in routes.items():
        app.router.add_route("*", path, handler)
    setup(app, arena, **options)
    return app


def content(arena: Arena) -> dict[Any, Any]:
    """Return the root's items, read outside any transaction."""
    return dict(arena.root.items())


@pytest.fixture
def shared(name: str) -> Any:
    """Give an arena that the application may close: it is opened twice."""
    with Arena.temporary("16 MiB", name=name) as arena:
        yield arena, Arena.open(name)


def ok() -> web.Response:
    """Return an answer."""
    return web.json_response({"ok": True})


# -- commit and rollback ----------------------------------------------------------------------------------------------


async def test_a_request_commits_before_its_response_is_sent(shared: tuple[Arena, Arena]) -> None:
    """When the client has the answer the state is there; a crash is 500 and leaves nothing."""
    arena, for_app = shared

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        arena.root["a"] = request.query["value"]
        await asyncio.sleep(0)
        if "crash" in request.query:
            raise RuntimeError
        return ok()

    async with serving(application(for_app, {"/": handler})) as client:
        assert (await client.get("/?value=1")).status == 200
        assert content(arena) == {"a": "1"}
        assert (await client.get("/?value=2&crash=1")).status == 500
        assert content(arena) == {"a": "1"}


@pytest.mark.parametrize(
    ("status", "raised", "kept"),
    [
        (200, False, True),
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
    shared: tuple[Arena, Arena], status: int, raised: bool, kept: bool
) -> None:
    """Returned below 500 and raised below 400 commit; everything else rolls back; the client gets the answer anyway."""
    arena, for_app = shared
    runs: list[int] = []
    after: list[int] = []
    kinds = {302: web.HTTPFound("/elsewhere"), 400: web.HTTPBadRequest(), 404: web.HTTPNotFound()}

    @recoverable(retries=0 if status >= 500 else 3)
    async def handler(request: web.Request) -> web.Response:
        runs.append(1)
        after_commit(after.append, 1)
        arena.root["a"] = 1
        if raised:
            raise kinds.get(status, web.HTTPInternalServerError())
        return web.Response(status=status)

    async with serving(application(for_app, {"/": handler})) as client:
        assert (await client.get("/", allow_redirects=False)).status == status
    assert content(arena) == ({"a": 1} if kept else {})
    assert runs == [1]
    assert after == ([1] if kept else [])


async def test_an_answer_that_touched_nothing_passes(shared: tuple[Arena, Arena]) -> None:
    """An HTTP exception below 500 of a handler that wrote nothing is neither retried nor replaced by the fallback."""
    runs: list[int] = []
    after: list[int] = []

    @recoverable(retries=3, fallback=lambda *_: ok())
    async def handler(request: web.Request) -> web.Response:
        runs.append(1)
        after_commit(after.append, 1)
        raise web.HTTPFound("/x") if "found" in request.query else web.HTTPForbidden

    async with serving(application(shared[1], {"/": handler})) as client:
        assert (await client.get("/")).status == 403
        assert after == []
        assert (await client.get("/?found=1", allow_redirects=False)).status == 302
    assert runs == [1, 1]
    assert after == [1]


async def test_views_are_recoverable(shared: tuple[Arena, Arena]) -> None:
    """Methods of a `web.View` find the arena and the request through it."""
    arena, for_app = shared

    class View(web.View):
        @recoverable
        async def get(self) -> web.Response:
            arena.root["a"] = self.request.path
            if "crash" in self.request.query:
                raise RuntimeError
            return ok()

    async with serving(application(for_app, {"/v": View})) as client:
        assert (await client.get("/v?crash=1")).status == 500
        assert content(arena) == {}
        assert (await client.get("/v")).status == 200
    assert content(arena) == {"a": "/v"}


async def test_a_client_that_goes_away_is_rolled_back(shared: tuple[Arena, Arena]) -> None:
    """With aiohttp's `handler_cancellation` a disconnect cancels the handler, and its writes are undone."""
    arena, for_app = shared
    started, ended = asyncio.Event(), asyncio.Event()

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        arena.root["a"] = 1
        started.set()
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()
        return ok()

    server = TestServer(application(for_app, {"/": handler}), handler_cancellation=True)
    async with TestClient(server) as client:
        request = asyncio.create_task(client.get("/"))
        await started.wait()
        request.cancel()
        await ended.wait()
        await asyncio.sleep(0)
        assert content(arena) == {}
        assert arena.stats().in_flight == 0


# -- errors as responses
# ------------------------------------------------------------------------------------------------


async def test_a_full_arena_is_507(shared: tuple[Arena, Arena]) -> None:
    """A handler that runs out of room is answered 507, and the state is as before."""
    arena, for_app = shared

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        for number in range(1000):
            arena.root[number] = b"x" * 100_000
        return ok()

    async with serving(application(for_app, {"/": handler})) as client:
        assert (await client.get("/")).status == 507
    assert content(arena) == {}


async def test_an_exhausted_conflict_is_503(shared: tuple[Arena, Arena]) -> None:
    """After the last run the client is told to try again."""
    arena, for_app = shared

    @recoverable(max_conflicts=2)
    async def handler(request: web.Request) -> web.Response:
        value = arena.root.get("n", 0)
        await asyncio.get_running_loop().create_task(other())
        arena.root["n"] = value + 1
        return ok()

    async def other() -> None:
        with arena.transaction():
            arena.root["n"] = -1

    async with serving(application(for_app, {"/": handler})) as client:
        response = await client.get("/")
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1


async def test_a_busy_arena_is_503(shared: tuple[Arena, Arena]) -> None:
    """`ArenaBusyError` is answered 503 with Retry-After."""

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        raise ArenaBusyError("held by another")

    async with serving(application(shared[1], {"/": handler})) as client:
        response = await client.get("/")
        assert (response.status, response.headers["Retry-After"]) == (503, "1")


async def test_other_middlewares_exceptions_pass(shared: tuple[Arena, Arena]) -> None:
    """What another middleware raises is answered as if we were not there."""

    @web.middleware
    async def guard(request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]) -> Any:
        if "pay" in request.query:
            raise web.HTTPPaymentRequired
        if "crash" in request.query:
            raise RuntimeError
        return await handler(request)

    async def handler(request: web.Request) -> web.Response:
        return ok()

    app = web.Application(middlewares=[guard])
    app.router.add_get("/", handler)
    setup(app, shared[1])
    async with serving(app) as client:
        assert (await client.get("/")).status == 200
        assert (await client.get("/?pay=1")).status == 402
        assert (await client.get("/?crash=1")).status == 500


async def test_the_middleware_is_outermost(shared: tuple[Arena, Arena]) -> None:
    """Another middleware sees our errors as exceptions, before they become responses."""
    seen: list[str] = []

    @web.middleware
    async def watch(request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]) -> Any:
        try:
            return await handler(request)
        except Exception as error:
            seen.append(type(error).__name__)
            raise

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        raise ArenaBusyError("held by another")

    app = web.Application(middlewares=[watch])
    app.router.add_get("/", handler)
    setup(app, shared[1])
    async with serving(app) as client:
        assert (await client.get("/")).status == 503
    assert seen == ["ArenaBusyError"]


# -- running again
# --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["read", "text", "json", "post", "multipart"])
async def test_a_body_can_be_read_again(shared: tuple[Arena, Arena], how: str) -> None:
    """A re-run finds the body, however it was read, files of a form included."""
    arena, for_app = shared
    bodies: list[Any] = []

    @recoverable(retries=1)
    async def handler(request: web.Request) -> web.Response:
        if how == "multipart":
            form = await request.post()
            bodies.append(form["file"].file.read())  # type: ignore[union-attr]
        elif how == "post":
            bodies.append((await request.post())["a"])
        else:
            bodies.append(await getattr(request, how)())
        arena.root["a"] = 1
        if attempt() == 1:
            raise RuntimeError
        return ok()

    data: dict[str, Any] = {"data": b'{"a": 1}'}
    if how == "post":
        data = {"data": {"a": "1"}}
    elif how == "multipart":
        form = aiohttp.FormData()
        form.add_field("file", b"content of the file", filename="f")
        data = {"data": form}
    elif how == "json":
        data = {"json": {"a": 1}}
    async with serving(application(for_app, {"/": handler})) as client:
        assert (await client.post("/", **data)).status == 200
    assert len(bodies) == 2
    assert bodies[0] == bodies[1] != b""


async def test_a_streamed_body_is_not_run_again(shared: tuple[Arena, Arena]) -> None:
    """A handler that consumed the body as a stream fails with its own exception instead of running on an empty one."""
    arena, for_app = shared
    bodies: list[bytes] = []

    @recoverable(retries=3)
    async def handler(request: web.Request) -> web.Response:
        bodies.append(await request.content.read())
        arena.root["a"] = 1
        raise RuntimeError

    async with serving(application(for_app, {"/": handler})) as client:
        assert (await client.post("/", data=b"x" * 1000)).status == 500
    assert [len(body) for body in bodies] == [1000]
    assert content(arena) == {}


async def test_a_response_that_has_begun_is_not_run_again(
    shared: tuple[Arena, Arena], log: list[dict[str, Any]]
) -> None:
    """A conflict after the headers have left closes the connection and is logged; the state is as before."""
    arena, for_app = shared
    runs: list[int] = []

    @recoverable
    async def handler(request: web.Request) -> web.StreamResponse:
        runs.append(1)
        value = arena.root.get("n", 0)
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"half")
        await asyncio.get_running_loop().create_task(other())
        arena.root["n"] = value + 1
        await response.write_eof()
        return response

    async def other() -> None:
        with arena.transaction():
            arena.root["n"] = 7

    async with serving(application(for_app, {"/": handler})) as client:
        response = await client.get("/")
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    assert runs == [1]
    assert content(arena) == {"n": 7}
    (event,) = [event for event in log if event["event"] == "request.conflict"]
    assert event["then"] == "raise"


async def test_the_clients_request_id_is_in_the_events(shared: tuple[Arena, Arena], log: list[dict[str, Any]]) -> None:
    """`X-Request-ID` is used as it is; without one there is a new id for each request."""
    arena, for_app = shared

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        arena.root["a"] = 1
        return ok()

    async with serving(application(for_app, {"/": handler})) as client:
        await client.get("/", headers={"X-Request-ID": "abc-1"})
        await client.get("/")
        await client.get("/")
    ids = [event["request_id"] for event in log if event["event"] == "request.committed"]
    assert ids[0] == "abc-1"
    assert len(set(ids)) == 3


# -- protect="all"
# ----------------------------------------------------------------------------------------------------------


async def test_all_handlers_can_be_protected(shared: tuple[Arena, Arena]) -> None:
    """With `protect="all"` undecorated handlers and Views are transactions too."""
    arena, for_app = shared

    async def handler(request: web.Request) -> web.Response:
        arena.root["h"] = 1
        if "crash" in request.query:
            raise RuntimeError
        return ok()

    class View(web.View):
        async def get(self) -> web.Response:
            arena.root["v"] = 1
            return ok()

    @recoverable
    async def decorated(request: web.Request) -> web.Response:
        arena.root["d"] = 1
        return ok()

    routes = {"/h": handler, "/v": View, "/d": decorated}
    async with serving(application(for_app, routes, protect="all")) as client:
        assert (await client.get("/h?crash=1")).status == 500
        assert content(arena) == {}
        for path in routes:
            assert (await client.get(path)).status == 200
    assert content(arena) == {"h": 1, "v": 1, "d": 1}


async def test_all_leaves_websockets_alone(shared: tuple[Arena, Arena]) -> None:
    """A WebSocket handler is no transaction; each of its messages can be one."""
    arena, for_app = shared

    async def handler(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)

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
        return socket

    app = application(for_app, {"/ws": handler}, protect="all")
    async with serving(app) as client, client.ws_connect("/ws") as socket:
        answers = []
        for text in ("one", "crash", "two"):
            await socket.send_str(text)
            answers.append(await socket.receive_str())
            if text == "one":
                assert content(arena) == {"one": 1}
    assert answers == ["kept", "undone", "kept"]
    assert content(arena) == {"one": 1, "two": 1}


# -- setting up
# -----------------------------------------------------------------------------------------------------------


async def test_the_arena_of_the_app_is_found(new_name: Callable[[], str]) -> None:
    """With several arenas open a handler uses its application's, in sub-applications too; another app's is another."""

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        request.config_dict[arena_key].root["a"] = 1
        return ok()

    first, second = new_name(), new_name()
    with Arena.temporary("4 MiB", name=first) as one, Arena.temporary("4 MiB", name=second) as two:
        sub = web.Application()
        sub.router.add_get("/x", handler)
        app = application(Arena.open(first), {"/": handler})
        app.add_subapp("/sub", sub)
        async with serving(app) as client:
            assert (await client.get("/sub/x")).status == 200
            assert content(one) == {"a": 1}
        async with serving(application(Arena.open(second), {"/": handler})) as client:
            assert (await client.get("/")).status == 200
            assert content(two) == {"a": 1}


async def test_a_closed_arena_of_the_app_is_not_replaced_by_another(new_name: Callable[[], str]) -> None:
    """When the application's arena is closed, its handlers fail instead of writing into the only one that is open."""

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        return ok()

    first, second = new_name(), new_name()
    with Arena.temporary("4 MiB", name=first) as one, Arena.temporary("4 MiB", name=second):
        async with serving(application(one, {"/": handler})) as client:
            assert (await client.get("/")).status == 200
            one.close()
            assert (await client.get("/")).status == 500


async def test_the_middleware_alone_names_its_arena(new_name: Callable[[], str]) -> None:
    """Without `setup`, handlers behind `middleware(arena)` use that arena, and the application closes it itself."""
    first, second = new_name(), new_name()
    with Arena.temporary("4 MiB", name=first) as one, Arena.temporary("4 MiB", name=second):

        @recoverable
        async def handler(request: web.Request) -> web.Response:
            one.root["a"] = 1
            return ok()

        app = web.Application(middlewares=[middleware(one)])
        app.router.add_get("/", handler)
        async with serving(app) as client:
            assert (await client.get("/")).status == 200
        assert content(one) == {"a": 1}


async def test_shutdown_closes_the_arena_after_the_handlers(name: str) -> None:
    """A request in flight at shutdown may still commit; then the arena is closed."""
    arena = Arena.open(name, "4 MiB")
    started = asyncio.Event()

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        arena.root["a"] = 1
        started.set()
        await asyncio.sleep(0.05)
        arena.root["b"] = 2
        return ok()

    async with serving(application(arena, {"/": handler})) as client:
        request = asyncio.create_task(client.get("/"))
        await started.wait()
        await client.server.close()
        with contextlib.suppress(aiohttp.ClientError):
            await request
    assert arena.closed
    with Arena.open(name, create=False) as arena:
        assert content(arena) in ({"a": 1, "b": 2}, {})


async def test_views_that_live_at_shutdown_are_logged(name: str, log: list[dict[str, Any]]) -> None:
    """A view that keeps the arena open does not disturb the rest of the clean-up."""
    pytest.importorskip("numpy")
    arena = Arena.open(name, "4 MiB")
    with arena.transaction():
        arena.root["m"] = Array((4,), "f8")
    view = arena.root["m"].view
    async with serving(application(arena, {})):
        pass
    assert [event["event"] for event in log][-1] == "arena.not_closed"
    assert view.sum() == 0
    del view
    arena.close()


async def test_setting_up_twice_or_wrongly_is_refused(arena: Arena) -> None:
    """One application has one arena; `protect` is one of two words; what is no arena is refused."""
    app = web.Application()
    with pytest.raises(ArenaOptionError, match="protect"):
        setup(app, arena, protect="none")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no Arena"):
        setup(app, "shop")  # type: ignore[arg-type]
    assert len(app.middlewares) == 0
    setup(app, arena)
    with pytest.raises(ArenaOptionError, match="already"):
        setup(app, arena)
    assert isinstance(ArenaOptionError("x"), RecoverableError)
