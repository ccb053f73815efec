"""recoverable on FastAPI: routes as transactions, dependencies, response models, functions in threads."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, File, Form, HTTPException, UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from recoverable import (
    Arena,
    Array,
    Counter,
    Deque,
    NoTransactionError,
    Record,
    Set,
    after_commit,
    attempt,
    recoverable,
)
from recoverable.fastapi import setup, transaction
from support.asgi import client_of, served

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Lose = Callable[[], Awaitable[Any]]


Root = Annotated[Any, Depends(transaction)]


class Item(BaseModel):
    """What is bought."""

    name: str
    count: int = 1


def content(arena: Arena) -> dict[Any, Any]:
    """Return the root's items, read outside any transaction."""
    return dict(arena.root.items())


PROTECT = pytest.mark.parametrize("protect", ["decorated", "depends", "all"])


def application(arena: Arena, endpoint: Any, protect: str, **options: Any) -> FastAPI:
    """Build an application with one path function, whose route is a transaction in one of three ways."""
    app = FastAPI()
    if protect == "decorated":
        endpoint = recoverable(endpoint)
    depends = [Depends(transaction)] if protect == "depends" else []
    app.api_route("/", methods=["GET", "POST"], dependencies=depends, **options)(endpoint)
    setup(app, arena, protect="all" if protect == "all" else "decorated")
    return app


# -- commit and rollback ----------------------------------------------------------------------------------------------


@PROTECT
@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize(
    ("status", "raised", "kept"),
    [
        (200, False, True),
        (404, False, True),
        (503, False, False),
        (303, True, True),
        (404, True, False),
        (500, True, False),
    ],
)
async def test_responses_and_http_exceptions(
    shared: tuple[Arena, Arena],
    log: list[dict[str, Any]],
    protect: str,
    kind: str,
    status: int,
    raised: bool,
    kept: bool,
) -> None:
    """Returned below 500 and raised below 400 commit; everything else rolls back, in the loop's thread and in others."""
    arena, for_app = shared
    threads: list[bool] = []

    def work() -> Any:
        threads.append(threading.current_thread() is threading.main_thread())
        arena.root["a"] = 1
        if raised:
            raise HTTPException(status, headers={"Location": "/x"})
        return JSONResponse({}, status)

    async def working() -> Any:
        return work()

    async with client_of(application(for_app, work if kind == "sync" else working, protect)) as client:
        assert (await client.get("/")).status_code == status
    assert content(arena) == ({"a": 1} if kept else {})
    assert threads == [kind == "async"]
    crashes = [event for event in log if event["event"] == "request.rolled_back" and event["log_level"] == "warning"]
    assert len(crashes) == (protect != "all" and raised and status >= 500)


@PROTECT
async def test_a_response_model_that_fails_rolls_back(shared: tuple[Arena, Arena], protect: str) -> None:
    """What a function returns has to fit its model, before anything of it is committed."""
    arena, for_app = shared
    after: list[int] = []

    async def endpoint(good: bool) -> Any:
        after_commit(after.append, 1)
        arena.root["n"] = 1
        return {"name": "pear"} if good else {"count": "many"}

    async with client_of(application(for_app, endpoint, protect, response_model=Item)) as client:
        assert (await client.get("/?good=0")).status_code == 500
        assert (content(arena), after) == ({}, [])
        assert (await client.get("/?good=1")).json() == {"name": "pear", "count": 1}
    assert (content(arena), after) == ({"n": 1}, [1])


async def test_a_request_that_is_not_valid_is_an_answer(shared: tuple[Arena, Arena], log: list[dict[str, Any]]) -> None:
    """What FastAPI answers with 422 is rolled back, is no crash, and is not retried."""
    arena, for_app = shared
    runs: list[int] = []
    app = FastAPI()

    def dependency() -> None:
        runs.append(1)
        arena.root["n"] = 1

    @app.get("/", dependencies=[Depends(dependency)])
    @recoverable(retries=2)
    async def endpoint(n: int) -> None: ...

    setup(app, for_app)
    async with client_of(app) as client:
        assert (await client.get("/?n=x")).status_code == 422
    assert (runs, content(arena)) == ([1], {})
    assert [event for event in log if event["log_level"] == "warning"] == []


@PROTECT
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_crash_rolls_back(shared: tuple[Arena, Arena], protect: str, kind: str) -> None:
    """An exception is a 500, wherever it is raised."""
    arena, for_app = shared

    def work() -> None:
        arena.root["a"] = 1
        raise RuntimeError("crash")

    async def working() -> None:
        work()

    async with client_of(application(for_app, work if kind == "sync" else working, protect)) as client:
        assert (await client.get("/")).status_code == 500
    assert content(arena) == {}


# -- dependencies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protect", ["decorated", "depends", "all"])
@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("fails", [False, True])
async def test_dependencies_are_in_the_transaction(
    shared: tuple[Arena, Arena], protect: str, kind: str, fails: bool
) -> None:
    """What a dependency writes, a plain one, one in a thread or one that yields, is committed or rolled back with the rest."""
    arena, for_app = shared
    seen: list[Any] = []

    def plain() -> int:
        arena.root["plain"] = 1
        return 1

    async def awaits() -> int:
        arena.root["async"] = 1
        await asyncio.sleep(0)
        return arena.root["async"]

    def yields() -> Iterator[int]:
        arena.root["yields"] = 1
        try:
            yield 1
        except RuntimeError as error:
            seen.append(type(error))
            raise

    async def yields_async() -> AsyncIterator[int]:
        arena.root["yields_async"] = 1
        yield 1
        seen.append("ended")

    def work(
        a: int = Depends(plain), b: int = Depends(awaits), c: int = Depends(yields), d: int = Depends(yields_async)
    ) -> int:
        arena.root["sum"] = a + b + c + d
        if fails:
            raise RuntimeError
        return arena.root["sum"]

    async def working(
        a: int = Depends(plain), b: int = Depends(awaits), c: int = Depends(yields), d: int = Depends(yields_async)
    ) -> int:
        return work(a, b, c, d)

    async with client_of(application(for_app, work if kind == "sync" else working, protect)) as client:
        answer = await client.get("/")
    assert answer.status_code == (500 if fails else 200)
    names = {"plain": 1, "async": 1, "yields": 1, "yields_async": 1, "sum": 4}
    assert content(arena) == ({} if fails else names)
    assert seen == ([RuntimeError] if fails else ["ended"])


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("caught", [False, True])
async def test_a_dependency_of_the_function_ends_inside(shared: tuple[Arena, Arena], kind: str, caught: bool) -> None:
    """What it writes at its end is committed with the rest, from a thread too; one that keeps an error to itself gets a 500."""
    arena, for_app = shared

    def yields() -> Iterator[int]:
        with contextlib.suppress(*([RuntimeError] if caught else [])):
            yield 1
        arena.root["after"] = dict(arena.root.items())

    async def yields_async() -> AsyncIterator[int]:
        with contextlib.suppress(*([RuntimeError] if caught else [])):
            yield 1
        arena.root["after"] = dict(arena.root.items())

    async def work(a: int = Depends(yields if kind == "sync" else yields_async, scope="function")) -> int:
        arena.root["a"] = a
        if caught:
            raise RuntimeError
        return a

    async with client_of(application(for_app, work, "decorated")) as client:
        assert (await client.get("/")).status_code == (500 if caught else 200)
    assert arena.root.to_python() == ({} if caught else {"a": 1, "after": {"a": 1}})


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_depends_transaction_gives_the_root(shared: tuple[Arena, Arena], kind: str) -> None:
    """`Depends(transaction)` is the root, in the request's transaction, for handlers in either thread."""
    arena, for_app = shared
    app = FastAPI()

    if kind == "sync":

        @app.post("/{n}")
        def add(n: int, root: Root) -> int:
            root["n"] = root.get("n", 0) + n
            if n < 0:
                raise HTTPException(400)
            return root["n"]
    else:

        @app.post("/{n}")
        async def add_async(n: int, root: Root) -> int:
            root["n"] = root.get("n", 0) + n
            await asyncio.sleep(0)
            if n < 0:
                raise HTTPException(400)
            return root["n"]

    setup(app, for_app)
    async with client_of(app) as client:
        assert (await client.post("/2")).json() == 2
        assert (await client.post("/-5")).status_code == 400
        assert (await client.post("/3")).json() == 5
    assert content(arena) == {"n": 5}


async def test_transaction_needs_setup(arena: Arena) -> None:
    """Where nothing is set up, the dependency says so."""
    app = FastAPI()

    @app.get("/")
    async def endpoint(root: Annotated[Any, Depends(transaction)]) -> None: ...

    with pytest.raises(NoTransactionError, match="setup"):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            await client.get("/")


# -- conflicts ----------------------------------------------------------------------------------------------------------


@PROTECT
@pytest.mark.parametrize("kind", ["json", "form", "multipart"])
async def test_a_conflict_runs_the_route_again(
    shared: tuple[Arena, Arena], lose: Lose, protect: str, kind: str
) -> None:
    """The next run is given the body, and dependencies of its own; those of the run that has lost have ended."""
    arena, for_app = shared
    runs: list[Any] = []
    dependencies: list[Any] = []

    async def dependency() -> AsyncIterator[int]:
        dependencies.append("begin")
        try:
            yield 1
        finally:
            dependencies.append("end")

    async def work(value: Any) -> int:
        runs.append(value)
        arena.root["n"] = len(runs)
        if len(runs) == 1:
            await lose()
        arena.root["n"] = len(runs)
        return len(runs)

    if kind == "json":

        async def endpoint(item: Item, d: int = Depends(dependency)) -> int:
            return await work(item.name)
    elif kind == "form":

        async def endpoint(name: Annotated[str, Form()], d: int = Depends(dependency)) -> int:
            return await work(name)
    else:

        async def endpoint(file: Annotated[UploadFile, File()], d: int = Depends(dependency)) -> int:
            return await work((await file.read()).decode())

    body: dict[str, Any] = {
        "json": {"json": {"name": "pear"}},
        "form": {"data": {"name": "pear"}},
        "multipart": {"files": {"file": ("f.txt", b"pear")}},
    }[kind]
    async with client_of(application(for_app, endpoint, protect)) as client:
        answer = await client.post("/", **body)
    assert (answer.status_code, answer.text) == (200, "2")
    assert runs == ["pear", "pear"]
    assert dependencies == ["begin", "end"] * 2
    assert arena.root["n"] == 2


async def test_a_conflict_at_the_commit(shared: tuple[Arena, Arena]) -> None:
    """One that is only met after the function has returned ends the dependencies of that run as well."""
    arena, for_app = shared
    dependencies: list[Any] = []

    async def dependency() -> AsyncIterator[int]:
        dependencies.append("begin")
        try:
            yield 1
        except Exception as error:
            dependencies.append(type(error).__name__)
            raise
        dependencies.append("end")

    async def late() -> AsyncIterator[int]:
        seen = arena.root.get("contended", 0)
        arena.root["n"] = attempt()
        yield 1
        if attempt() == 1:

            async def other() -> None:
                with arena.transaction():
                    arena.root["contended"] = seen + 1

            await asyncio.get_running_loop().create_task(other(), context=contextvars.Context())

    app = FastAPI()

    @app.get("/")
    @recoverable
    async def endpoint(d: int = Depends(dependency), e: int = Depends(late, scope="function")) -> int:
        return attempt()

    setup(app, for_app)
    async with client_of(app) as client:
        assert (await client.get("/")).json() == 2
    assert dependencies == ["begin", "ConflictError", "begin", "end"]


# -- options of the decorator ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_commit_if_and_fallback_are_the_functions(shared: tuple[Arena, Arena], kind: str) -> None:
    """They are given what the function returns, and what it is given, not a response and a request."""
    arena, for_app = shared
    app = FastAPI()

    def work(n: int) -> Any:
        arena.root["n"] = n
        if n > 9:
            raise RuntimeError
        return {"n": n}

    async def working(n: int) -> Any:
        return work(n)

    wraps = recoverable(
        commit_if=lambda result: result["n"] > 0,
        fallback=lambda error, n: {"instead": n, "why": type(error).__name__},
        retries=1,
    )
    app.get("/")(wraps(work if kind == "sync" else working))
    setup(app, for_app)
    async with client_of(app) as client:
        assert (await client.get("/?n=1")).json() == {"n": 1}
        assert (await client.get("/?n=-1")).json() == {"n": -1}
        assert content(arena) == {"n": 1}
        assert (await client.get("/?n=10")).json() == {"instead": 10, "why": "RuntimeError"}
        assert (await client.get("/?n=x")).status_code == 422
    assert content(arena) == {"n": 1}


@pytest.mark.parametrize("partial", [False, True])
async def test_class_based_views_and_partials(shared: tuple[Arena, Arena], partial: bool) -> None:
    """A decorated method is decorated as a path function, too, and what a partial is of."""
    arena, for_app = shared

    class View:
        @recoverable
        async def get(self, n: int) -> JSONResponse:
            arena.root["n"] = n
            return JSONResponse({}, 200 if n else 500)

    app = FastAPI()
    app.get("/")(functools.partial(View.get, View()) if partial else View().get)
    setup(app, for_app)
    async with client_of(app) as client:
        assert (await client.get("/?n=0")).status_code == 500
        assert content(arena) == {}
        assert (await client.get("/?n=1")).status_code == 200
    assert content(arena) == {"n": 1}


# -- what follows ---------------------------------------------------------------------------------------------------------


@PROTECT
async def test_background_tasks_run_after_the_commit(shared: tuple[Arena, Arena], protect: str) -> None:
    """They see what was committed, and are lost with a rollback."""
    arena, for_app = shared
    seen: list[Any] = []

    async def endpoint(tasks: BackgroundTasks, fails: bool) -> None:
        arena.root["n"] = 1
        tasks.add_task(lambda: seen.append(content(arena)))
        if fails:
            raise RuntimeError

    async with client_of(application(for_app, endpoint, protect)) as client:
        await client.get("/?fails=1")
        assert seen == []
        await client.get("/?fails=0")
    assert seen == [{"n": 1}]


# -- where routes are -----------------------------------------------------------------------------------------------------


def shop() -> FastAPI:
    """Build an application with all kinds of routes."""
    app, inner, router, nested = FastAPI(), FastAPI(), APIRouter(), APIRouter()

    @recoverable
    async def buy(item: Item, n: int = 1) -> Item:
        """Buy something."""
        return item

    def plain(item: Item) -> Item:
        return item

    app.post("/buy", response_model=Item)(buy)
    app.post("/sync")(recoverable(plain))
    app.post("/depends", dependencies=[Depends(transaction)])(plain)
    app.post("/plain")(plain)
    nested.post("/buy/{x}")(buy)
    router.include_router(nested, prefix="/nested")
    router.post("/buy")(buy)
    app.include_router(router, prefix="/router", tags=["shop"])
    inner.post("/buy")(buy)
    app.mount("/mounted", inner)
    return app


async def test_openapi_is_untouched(shared: tuple[Arena, Arena]) -> None:
    """What an application says of itself is the same with and without us."""
    _, for_app = shared
    without, app = shop(), shop()
    setup(app, for_app)
    async with client_of(app) as client, client_of(without) as other:
        for path in ("/openapi.json", "/mounted/openapi.json"):
            assert (await client.get(path)).json() == (await other.get(path)).json()
            assert (await client.get(path)).json()["paths"]


@pytest.mark.parametrize("path", ["/buy", "/router/buy", "/router/nested/buy/7", "/mounted/buy"])
async def test_all_routes_are_found(shared: tuple[Arena, Arena], lose: Lose, path: str) -> None:
    """Those of routers that are included, and of applications that are mounted, roll back a response of 500, and failing models."""
    arena, for_app = shared
    app, inner, router, nested = FastAPI(), FastAPI(), APIRouter(), APIRouter()

    @recoverable
    async def endpoint(what: str) -> Any:
        arena.root["n"] = 1
        return {"name": 1} if what == "bad" else {"name": "pear"}

    app.get("/buy", response_model=Item)(endpoint)
    nested.get("/buy/{x}", response_model=Item)(endpoint)
    router.get("/buy", response_model=Item)(endpoint)
    router.include_router(nested, prefix="/nested")
    app.include_router(router, prefix="/router")
    inner.get("/buy", response_model=Item)(endpoint)
    app.mount("/mounted", inner)
    app.openapi()  # which has routers make their routes
    setup(app, for_app)
    async with client_of(app) as client:
        assert (await client.get(f"{path}?what=bad")).status_code == 500
        assert content(arena) == {}
        assert (await client.get(f"{path}?what=good")).json() == {"name": "pear", "count": 1}
    assert content(arena) == {"n": 1}


async def test_the_route_and_the_arguments(shared: tuple[Arena, Arena]) -> None:
    """A request is known by its method and its route, also of a router that is included."""
    from recoverable import _asgi
    from recoverable._native.runtime import running_request

    _, for_app = shared
    routes: list[Any] = []

    @recoverable
    async def endpoint() -> None:
        here = running_request.get().request
        routes.append((_asgi.adapter.route(here), _asgi.adapter.arguments(here)))

    app, router = FastAPI(), APIRouter()
    router.get("/users/{id}")(endpoint)
    app.include_router(router, prefix="/api")
    setup(app, for_app)
    async with client_of(app) as client:
        await client.get("/api/users/7")
    assert routes == [("GET /api/users/{id}", ("7",))]


# -- middlewares, WebSockets, sockets -----------------------------------------------------------------------------------


@PROTECT
async def test_behind_a_middleware_of_the_programs(shared: tuple[Arena, Arena], lose: Lose, protect: str) -> None:
    """`@app.middleware("http")` runs what is below in a task of its own, which is in the transaction all the same."""
    arena, for_app = shared
    runs: list[Any] = []

    async def endpoint(item: Item) -> int:
        runs.append(item.name)
        arena.root["n"] = len(runs)
        if len(runs) == 1:
            await lose()
        arena.root["n"] = len(runs)
        return len(runs)

    app = FastAPI()
    app.post("/", dependencies=[Depends(transaction)] if protect == "depends" else [])(
        recoverable(endpoint) if protect == "decorated" else endpoint
    )

    @app.middleware("http")
    async def between(request: Any, call_next: Any) -> Any:
        if protect == "all":
            arena.root["middleware"] = True
        answer = await call_next(request)
        answer.headers["X-Between"] = "yes"
        return answer

    setup(app, for_app, protect="all" if protect == "all" else "decorated")
    async with client_of(app) as client:
        answer = await client.post("/", json={"name": "pear"})
    assert (answer.text, answer.headers["X-Between"]) == ("2", "yes")
    assert runs == ["pear", "pear"]
    assert arena.root["n"] == 2


@PROTECT
async def test_under_uvicorn(shared: tuple[Arena, Arena], protect: str) -> None:
    """Over sockets many requests at once, in the loop and in threads, add up."""
    arena, for_app = shared
    app = FastAPI()
    depends = [Depends(transaction)] if protect == "depends" else []
    wraps = recoverable if protect == "decorated" else lambda fn: fn

    @app.post("/async", dependencies=depends)
    @wraps
    async def add() -> int:
        n = arena.root.get("n", 0)
        await asyncio.sleep(0)
        arena.root["n"] = n + 1
        return n

    @app.post("/sync", dependencies=depends)
    @wraps
    def add_in_thread() -> int:
        n = arena.root.get("n", 0)
        arena.root["n"] = n + 1
        return n

    setup(app, for_app, protect="all" if protect == "all" else "decorated")
    async with served(app) as url, httpx.AsyncClient(base_url=url) as client:
        answers = await asyncio.gather(*(client.post(path) for path in ["/async", "/sync"] * 20))
        assert {answer.status_code for answer in answers} <= {200, 503}
        done = sum(answer.status_code == 200 for answer in answers)
        assert done > 20
        assert arena.root["n"] == done


async def test_a_router_that_is_shared_with_an_application_without_setup(shared: tuple[Arena, Arena]) -> None:
    """There a decorated path function is a transaction all the same."""
    arena, for_app = shared
    router = APIRouter()

    @router.get("/")
    @recoverable(arena=arena)
    async def endpoint() -> dict[str, int]:
        arena.root["n"] = arena.root.get("n", 0) + 1
        return {"n": arena.root["n"]}

    apps = FastAPI(), FastAPI()
    for app in apps:
        app.include_router(router)
    setup(apps[0], for_app)
    for n, app in enumerate(apps, 1):
        async with client_of(app) as client:
            assert (await client.get("/")).json() == {"n": n}
    assert arena.root["n"] == 2


async def test_decorators_in_the_wrong_order_are_told(shared: tuple[Arena, Arena]) -> None:
    """The route has the function that is not decorated: that is said when the application starts up."""
    app = FastAPI()

    @recoverable
    @app.get("/wrong")
    async def wrong() -> None: ...

    @app.get("/right")
    @recoverable
    async def right() -> None: ...

    setup(app, shared[1])
    with pytest.warns(RuntimeWarning, match="/wrong calls .*wrong as it was before it was decorated") as told:
        async with client_of(app) as client:
            await client.get("/right")
    assert len(told) == 1


async def test_a_dependency_that_translates_exceptions_ends_no_run(shared: tuple[Arena, Arena]) -> None:
    """What it makes of a conflict that the commit has met is not the end: the route runs again."""
    arena, for_app = shared
    runs: list[int] = []

    async def translating() -> AsyncIterator[None]:
        try:
            yield
        except Exception as error:
            raise HTTPException(500) from error

    async def other() -> None:
        with arena.transaction():
            arena.root["n"] = 10

    @recoverable
    async def endpoint() -> int:
        runs.append(attempt())
        n = arena.root.get("n", 0)
        arena.root["m"] = n
        if len(runs) == 1:
            await asyncio.create_task(other(), context=contextvars.Context())
        return n

    app = FastAPI()
    app.get("/", dependencies=[Depends(translating)])(endpoint)
    setup(app, for_app)
    async with client_of(app) as client:
        assert (await client.get("/")).json() == 10
    assert len(runs) == 2


async def test_another_decorator_in_between(shared: tuple[Arena, Arena]) -> None:
    """One that uses `functools.wraps`: the route is the transaction all the same."""
    arena, for_app = shared
    sent: list[str] = []

    def limited(fn: Any) -> Any:
        @functools.wraps(fn)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await fn(*args, **kwargs)

        return wrapper

    async def endpoint(tasks: BackgroundTasks, bad: bool = False) -> Any:
        arena.root["n"] = -1
        tasks.add_task(sent.append, "mail")
        return {"name": 1} if bad else JSONResponse({}, 503)

    app = FastAPI()
    app.get("/", response_model=Item)(limited(recoverable(endpoint)))
    setup(app, for_app)
    async with client_of(app) as client:
        assert (await client.get("/")).status_code == 503
        assert (await client.get("/?bad=1")).status_code == 500
    assert content(arena) == {}
    assert sent == []


# -- what is answered ---------------------------------------------------------------------------------------------------


class Place(Record):
    """A record of the program."""

    name: str
    tags: list[str]


@pytest.mark.parametrize("annotated", ["no", "any", "dict"])
async def test_containers_are_answered_as_what_they_hold(shared: tuple[Arena, Arena], annotated: str) -> None:
    """Empty and nested ones, pairs, sets, counters and records: their JSON is that of the Python values."""
    arena, for_app = shared
    with arena.transaction():
        arena.root["all"] = {
            "empty": [],
            "pairs": [["a", "b"], ["c", "d"]],
            "codes": ["ab", "cd"],
            "set": Set(["xy"]),
            "counter": Counter(7),
            "deque": Deque([1, [2]]),
            "place": Place(name="here", tags=["x"]),
            "array": Array(3, "i4"),
            "nested": {"a": {"b": [{}]}},
        }
    expected = arena.root["all"].to_python()
    app = FastAPI()

    @recoverable
    async def endpoint(key: str | None = None) -> Any:
        found = arena.root["all"]
        return {"it": found if key is None else found[key]}

    if annotated == "no":
        del endpoint.__wrapped__.__annotations__["return"]
    elif annotated == "dict":
        endpoint.__wrapped__.__annotations__["return"] = dict[str, Any]
    app.get("/")(endpoint)
    setup(app, for_app)
    async with client_of(app) as client:
        assert (await client.get("/")).json() == {"it": expected}
        for key, value in expected.items():
            assert (await client.get("/", params={"key": key})).json() == {"it": value}
