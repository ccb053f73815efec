"""recoverable on Quart: decorated view functions, and all of a request as one transaction."""

from __future__ import annotations

import contextvars
import threading
from typing import TYPE_CHECKING, Any

import pytest
from quart import Quart, Response, abort, after_this_request, flash, g, redirect, request, session
from werkzeug.exceptions import HTTPException, ServiceUnavailable

from recoverable import Arena, ArenaBusyError, ArenaOptionError, ConflictError, after_commit, attempt, recoverable
from recoverable.asgi import Middleware, setup
from support.asgi import client_of, lifespan_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Lose = Callable[[], Awaitable[Any]]

Shared = tuple[Arena, Arena]
PROTECT = pytest.mark.parametrize("protect", ["decorated", "all"])


def application(arena: Arena, view: Any, protect: str = "decorated", name: str = "shop") -> Quart:
    """Build an application with one view function at "/", decorated unless all is protected anyway."""
    if protect == "decorated":
        view = recoverable(view)
    app = Quart(name)
    app.secret_key = "secret"
    app.route("/", methods=["GET", "POST"])(view)
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

    def work() -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        after_commit(after.append, 1)
        arena.root["a"] = 1
        if raised:
            abort(redirect("/x") if status == 302 else status)
        return redirect("/x") if status == 302 else Response("", status)

    async def working() -> Any:
        return work()

    async with client_of(application(for_app, work if sync else working, protect)) as client:
        assert (await client.get("/")).status_code == status
    assert content(arena) == ({"a": 1} if kept else {})
    assert after == ([1] if kept else [])
    assert threads == [not sync]
    crashes = [event for event in log if event["event"] == "request.rolled_back" and event["log_level"] == "warning"]
    assert len(crashes) == (protect == "decorated" and raised and status >= 500)


@PROTECT
@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("text", 200),
        ({"n": 1}, 200),
        (("text", 404), 404),
        (("text", 503), 503),
        (("text", "503"), 503),
        (({"n": 1}, 500, {"X-N": "1"}), 500),
        (([1], 404, {"X-N": "1"}), 404),
        (("text", {"X-N": "1"}), 200),
        ((Response("", 503), {"X-N": "1"}), 503),
        (ServiceUnavailable(), 503),
    ],
)
async def test_what_a_view_function_returns(shared: Shared, protect: str, answer: Any, status: int) -> None:
    """A status beside a body is the answer's: 500 and above roll back."""
    arena, for_app = shared

    async def view() -> Any:
        arena.root["a"] = 1
        return answer

    async with client_of(application(for_app, view, protect)) as client:
        assert (await client.get("/")).status_code == status
    assert content(arena) == ({"a": 1} if status < 500 else {})


async def test_a_tuple_that_is_no_answer(arena: Arena) -> None:
    """Outside of requests a tuple is a value like any other; in one, two numbers are."""
    seen: list[Any] = []

    @recoverable(arena=arena)
    async def function(value: Any) -> Any:
        arena.root["n"] = len(seen)
        seen.append(value)
        return value

    assert await function(("text", 503)) == ("text", 503)
    assert arena.root["n"] == 0
    app = Quart("shop")
    async with app.test_request_context("/"):
        for value in (1, 503), (None, 503), ("a", "b"), ("a", 1, 2, 3), ("a", True), ("a", 7):
            await function(value)
            assert arena.root["n"] == len(seen) - 1
        await function(("text", 503))
        assert arena.root["n"] == len(seen) - 2


@PROTECT
async def test_a_crash_leaves_nothing(
    shared: Shared, log: list[dict[str, Any]], caplog: pytest.LogCaptureFixture, protect: str
) -> None:
    """An exception is a 500; its traceback is written once."""
    arena, for_app = shared

    async def view() -> Any:
        arena.root["a"] = 1
        raise RuntimeError("crash")

    async with client_of(application(for_app, view, protect, "crashing")) as client:
        assert (await client.get("/", headers={"X-Request-ID": "mine"})).status_code == 500
    assert content(arena) == {}
    (event,) = [event for event in log if event["event"] == "request.rolled_back"]
    assert event["request_id"] == "mine"
    (record,) = [record for record in caplog.records if record.name == "crashing"]
    if protect == "decorated":
        assert event["exception_type"] == "RuntimeError"
        assert record.getMessage() == (
            "Exception on request GET /: RuntimeError; see request.rolled_back, request_id=mine"
        )


# -- conflicts ----------------------------------------------------------------------------------------------------------


@PROTECT
@pytest.mark.parametrize("cache", [False, True])
async def test_a_conflict_runs_the_request_again(shared: Shared, lose: Lose, protect: str, cache: bool) -> None:
    """The second run finds the request that the context has, its body, the session and `g` as the first one did."""
    arena, for_app = shared
    bodies: list[Any] = []
    seen: list[Any] = []

    async def view() -> Any:
        bodies.append(await request.get_json(cache=cache))
        bodies[-1]["a"].append(2)
        seen.append((dict(session), g.get("run"), request.method))
        session["run"] = g.run = len(bodies)
        await flash(f"run {len(bodies)}")

        @after_this_request
        async def count(response: Response) -> Response:
            response.headers.add("X-Run", str(len(bodies)))
            return response

        arena.root["n"] = len(bodies)
        if len(bodies) == 1:
            await lose()
        return {"runs": len(bodies)}

    async with client_of(application(for_app, view, protect)) as client:
        answer = await client.post("/", json={"a": [1]})
    assert answer.json() == {"runs": 2}
    assert bodies[0] == bodies[1]
    assert seen == [({}, None, "POST")] * 2
    assert answer.headers.get_list("X-Run") == ["2"]
    assert arena.root["n"] == 2


async def test_what_was_read_before_stays_read(shared: Shared, lose: Lose) -> None:
    """A run begins where a function before it has ended: with the rest of the body, and with its session."""
    arena, for_app = shared
    seen: list[Any] = []

    @recoverable
    async def view() -> Any:
        seen.append((await request.get_data(as_text=True), session["user"], list(g.items)))
        g.items = [*g.items, 2]
        arena.root["n"] = len(seen)
        if len(seen) == 1:
            await lose()
        return ""

    app = application(for_app, view.fn)

    @app.before_request
    async def before() -> None:
        session["user"], g.items = "me", [1]

    async with client_of(app) as client:
        assert (await client.post("/", content=b"body")).status_code == 200
    assert seen == [("body", "me", [1])] * 2


async def test_a_body_beyond_the_limit_is_not_run_again(shared: Shared, lose: Lose) -> None:
    """What was streamed and not kept is gone: 503, which says so; what the request itself has kept is there."""
    arena, for_app = shared
    lengths: list[int] = []

    @recoverable
    async def view() -> Any:
        if "stream" in request.args:
            lengths.append(sum([len(part) async for part in request.body]))
        else:
            lengths.append(len(await request.get_data()))
        arena.root["n"] = 1
        if len(lengths) in (1, 3):
            await lose()
        return ""

    app = Quart("shop")
    app.route("/", methods=["POST"])(view)
    setup(app, for_app, body_limit=100)
    async with client_of(app) as client:
        assert (await client.post("/", content=b"x" * 101)).status_code == 200
        answer = await client.post("/?stream=1", content=b"x" * 101)
    assert answer.status_code == 503
    assert "its body was streamed" in answer.text
    assert lengths == [101] * 3


async def test_a_plain_view_function_runs_again(shared: Shared) -> None:
    """In its thread, with the request of its context."""
    arena, for_app = shared
    seen: list[Any] = []

    def view() -> Any:
        seen.append((request.method, g.get("run")))
        g.run = 1
        if attempt() == 1:
            value = arena.root.get("contended", 0)
            contextvars.Context().run(recoverable(arena=arena)(arena.root.update), {"contended": value + 1})
        arena.root["n"] = attempt()
        return str(attempt())

    async with client_of(application(for_app, view)) as client:
        assert (await client.post("/", content=b"body")).text == "2"
    assert seen == [("POST", None)] * 2
    assert arena.root["n"] == 2


# -- failures of ours -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["decorated", "all", "around", "outside"])
async def test_failures_become_responses(
    shared: Shared, lose: Lose, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """No room is 507; a conflict that is not solved, and an arena that is held, are 503 with Retry-After; no traceback."""
    arena, for_app = shared

    async def view() -> Any:
        arena.root["n"] = 1
        if request.args["kind"] == "full":
            arena.root["big"] = b"x" * 2**26
        if request.args["kind"] == "busy":
            raise ArenaBusyError("held")
        await lose()
        return ""

    app: Any
    if how in ("decorated", "all"):
        app = application(for_app, view, how, "failing")
    else:
        app = Quart("failing")
        app.route("/")(recoverable(view))
        if how == "outside":
            app = Middleware(app, for_app)
        else:
            app.asgi_app = Middleware(app.asgi_app, for_app)
    async with client_of(app) as client:
        full, busy, lost = [await client.get(f"/?kind={kind}") for kind in ("full", "busy", "lost")]
    assert (full.status_code, full.text) == (507, "507: no room for this change; nothing was changed\n")
    assert (busy.status_code, busy.headers["Retry-After"]) == (503, "1")
    assert (lost.status_code, lost.headers["Retry-After"]) == (503, "1")
    assert "n" not in arena.root
    assert [record for record in caplog.records if record.name == "failing"] == []


async def test_the_programs_own_handler_comes_first(shared: Shared, lose: Lose) -> None:
    """An error handler for our failures is the program's; one for any exception is not meant."""
    arena, for_app = shared

    async def view() -> Any:
        arena.root["n"] = 1
        if "busy" in request.args:
            raise ArenaBusyError("held")
        await lose()
        return ""

    app = application(for_app, view)

    @app.errorhandler(ConflictError)
    async def mine(error: Exception) -> Any:
        return "mine", 409

    @app.errorhandler(Exception)
    async def others(error: Exception) -> Any:
        return "others", 500

    async with client_of(app) as client:
        lost, busy = await client.get("/"), await client.get("/?busy=1")
    assert (lost.status_code, lost.text) == (409, "mine")
    assert busy.status_code == 503


# -- around view functions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
async def test_all_is_what_is_before_and_after_too(shared: Shared, fails: bool) -> None:
    """With protect="all" functions before and after a request, and middlewares, are in the transaction."""
    arena, for_app = shared

    async def view() -> Any:
        arena.root["view"] = 1
        if fails:
            abort(400)
        return ""

    app = Quart("shop")
    app.route("/")(view)

    @app.before_request
    def before() -> None:
        arena.root["before"] = 1

    @app.after_request
    async def after(response: Response) -> Response:
        arena.root["after"] = 1
        return response

    inner = app.asgi_app

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        arena.root["middleware"] = 1
        await inner(scope, receive, send)

    app.asgi_app = counting  # type: ignore[method-assign]
    setup(app, for_app, protect="all")
    async with client_of(app) as client:
        assert (await client.get("/")).status_code == (400 if fails else 200)
    assert content(arena) == ({} if fails else {"before": 1, "view": 1, "after": 1, "middleware": 1})


@PROTECT
async def test_the_route_of_a_working_set(shared: Shared, protect: str) -> None:
    """A request is known by its method and the path of its route, placeholders and all."""
    from recoverable import _asgi
    from recoverable._native.runtime import running_request

    _, for_app = shared
    routes: list[Any] = []

    async def view(number: int, tag: str) -> Any:
        here = running_request.get().request
        routes.append((_asgi.adapter.route(here), _asgi.adapter.arguments(here)))
        return ""

    app = Quart("shop")
    app.route("/users/<int:number>/<string(length=2):tag>")(recoverable(view) if protect == "decorated" else view)
    setup(app, for_app, protect=protect)  # type: ignore[arg-type]
    async with client_of(app) as client:
        assert (await client.get("/users/7/ab")).status_code == 200
    assert routes == [("GET /users/{number}/{tag}", (7, "ab"))]


async def test_the_lifespan_closes_the_arena(shared: Shared) -> None:
    """The arena is open in the application's own shut-down, and closed after it."""
    arena, for_app = shared
    app = Quart("shop")

    @app.after_serving
    async def ends() -> None:
        with for_app.transaction():
            arena.root["end"] = True

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
    app = Quart("shop")
    setup(app, for_app)
    with pytest.raises(ArenaOptionError, match="has an arena already"):
        setup(app, for_app)


def test_an_exception_with_a_response() -> None:
    """abort(response) raises an exception whose status is the response's."""
    from recoverable import web

    assert web.status_of(HTTPException(response=Response("", 307))) == 307
