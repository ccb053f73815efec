"""`setup()` without a middleware: which handlers are called by way of us, and what they still look like."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from recoverable import Arena, ArenaBusyError, ArenaOptionError, recoverable
from recoverable import _aiohttp as adapter_module
from recoverable import _aiohttp_routes as routes_module
from recoverable._native.runtime import Served, running_request
from recoverable.aiohttp import setup
from support.web import application, ok, serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Shared = tuple[Arena, Arena]


async def busy(request: web.Request) -> web.Response:
    """Fail as a handler that is not decorated does when it uses a busy arena."""
    raise ArenaBusyError("held by another")


async def which(request: web.Request) -> web.Response:
    """Say on which arena the running code is, and whether by way of us."""
    here = running_request.get()
    return ok(None if here is None else f"{here.arena.name} {here.request is request}")


def served(app: web.Application) -> list[bool]:
    """Return of each route whether it is served by way of us."""
    return [
        "_recoverable_view" in vars(r.handler) if isinstance(r.handler, type) else type(r.handler) is Served
        for r in app.router.routes()
    ]


# -- which handlers ---------------------------------------------------------------------------------------------------


class Page(web.View):
    async def get(self) -> web.Response:
        """Fail as a function does."""
        return await busy(self.request)

    async def put(self) -> web.Response:
        """Say where it runs."""
        return await which(self.request)


class Methods:
    async def method(self, request: web.Request) -> web.Response:
        """Fail as a function does."""
        return await busy(request)

    async def __call__(self, request: web.Request) -> web.Response:
        return await busy(request)

    async def extra(self, more: int, request: web.Request) -> web.Response:
        """Fail as a function does."""
        return await busy(request)


@pytest.mark.filterwarnings("ignore:Bare functions:DeprecationWarning")
async def test_handlers_of_all_kinds(shared: Shared, tmp_path: Path) -> None:
    """Functions, methods, objects, partials, Views, static files, any method and HEAD: each fails as 503 and has its request."""
    (tmp_path / "file.txt").write_text("static")
    methods = Methods()
    kinds = {
        "/function": busy,
        "/again": busy,
        "/method": methods.method,
        "/object": methods,
        "/partial": functools.partial(methods.extra, 1),
        "/lambda": lambda request: busy(request),
        "/view": Page,
    }
    app = web.Application()
    for path, handler in kinds.items():
        app.router.add_route("*", path, handler)
    app.router.add_get("/head", busy, allow_head=True)
    app.router.add_static("/static", tmp_path)
    setup(app, shared[1])
    assert not any(served(app))
    async with serving(app) as client:
        assert all(served(app))
        assert len(app.middlewares) == 0
        for path in (*kinds, "/head"):
            answer = await client.get(path)
            assert (answer.status, answer.headers.get("Retry-After")) == (503, "1"), path
        assert (await client.head("/head")).status == 503
        assert await (await client.get("/static/file.txt")).text() == "static"
        assert await (await client.put("/view")).text() == f"{shared[0].name} True"
        assert (await client.get("/nothing")).status == 404


async def test_decorated_handlers_of_all_kinds(shared: Shared) -> None:
    """Functions, methods, partials and Views that are transactions: committed, rolled back, and each with its request."""
    arena, for_app = shared

    class Own:
        prefix = "own"

        @recoverable
        async def method(self, request: web.Request) -> web.Response:
            arena.root[request.path] = self.prefix
            if "fail" in request.query:
                raise ArenaBusyError("held by another")
            return await which(request)

    class View(web.View):
        @recoverable
        async def get(self) -> web.Response:
            return await own.method(self.request)

    @recoverable
    async def function(request: web.Request) -> web.Response:
        return await own.method(request)

    own = Own()
    kinds = {
        "/function": function,
        "/method": own.method,
        "/partial": functools.partial(Own.method, own),
        "/view": View,
    }
    async with serving(application(for_app, kinds)) as client:
        for path in kinds:
            assert (await client.get(f"{path}?fail")).status == 503, path
            assert arena.root.get(path) is None
            assert await (await client.get(path)).text() == f"{arena.name} True", path
            assert arena.root[path] == "own"


async def test_applications_in_applications(shared: Shared, new_name: Callable[[], str]) -> None:
    """Sub-applications, nested, by prefix and by domain, added before and after: each on the arena of the nearest that has one."""
    app, before, after, deeper, domain, own = (web.Application() for _ in range(6))
    for each in (app, before, after, deeper, domain, own):
        each.router.add_get("/which", which)
        each.router.add_get("/busy", busy)
    with Arena.temporary("4 MiB", name=new_name()) as other:
        after.add_subapp("/deeper", deeper)
        app.add_subapp("/before", before)
        setup(app, shared[1])
        setup(own, Arena.open(other.name))
        app.add_subapp("/after", after)
        app.add_subapp("/own", own)
        app.add_domain("inner.example", domain)
        async with serving(app) as client:
            for prefix in ("", "/before", "/after", "/after/deeper", "/own"):
                name = other.name if prefix == "/own" else shared[0].name
                assert await (await client.get(f"{prefix}/which")).text() == f"{name} True"
                assert (await client.get(f"{prefix}/busy")).status == 503
            headers = {"Host": "inner.example"}
            assert await (await client.get("/which", headers=headers)).text() == f"{shared[0].name} True"


async def test_routes_that_starting_up_adds(shared: Shared) -> None:
    """What a start-up function adds, whenever that was registered, is served as well."""
    app = web.Application()
    setup(app, shared[1])

    async def add(app: web.Application) -> None:
        app.router.add_get("/late", busy)

    app.on_startup.append(add)
    async with serving(app) as client:
        assert (await client.get("/late")).status == 503


async def test_an_application_that_starts_twice(arena: Arena, new_name: Callable[[], str]) -> None:
    """A second runner of one application finds its handlers served, once."""
    app = web.Application()
    app.router.add_get("/", which)
    app.router.add_get("/view", Page)
    setup(app, arena)
    for _ in range(2):
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{runner.addresses[0][0]}:{runner.addresses[0][1]}/") as answer,
        ):
            assert await answer.text() == f"{arena.name} True"
        await site.stop()
    handlers = [route.handler for route in app.router.routes()]
    assert all(not isinstance(handler.__wrapped__, Served) for handler in handlers)
    assert handlers[-1].__wrapped__ is Page
    await runner.cleanup()


async def test_one_handler_on_several_routes_stays_one(shared: Shared) -> None:
    """Routes that share a handler share what stands for it."""
    app = application(shared[1], {"/a": which, "/b": which, "/v": Page, "/w": Page})
    async with serving(app):
        a, b, v, w = (route.handler for route in app.router.routes())
        assert a is b
        assert v is w


async def test_a_route_whose_handler_cannot_be_had(shared: Shared) -> None:
    """A route class that gives its handler otherwise is named at the start, with the way out."""

    class Stubborn(web.PlainResource):
        def __iter__(self) -> Any:
            return iter([Fixed("GET", busy, resource=self)])

    class Fixed(web.AbstractRoute):
        handler = property(lambda self: busy)
        name = property(lambda self: None)

        def get_info(self) -> Any:
            return {}

        def url_for(self, *args: str, **kwargs: str) -> Any:
            raise NotImplementedError

    app = web.Application()
    app.router.register_resource(Stubborn("/"))
    setup(app, shared[1])
    runner = web.AppRunner(app)
    with pytest.raises(ArenaOptionError, match="middleware"):
        await runner.setup()
    await runner.cleanup()
    shared[1].close()  # nothing has started, and nothing is cleaned up


async def test_where_handlers_cannot_be_had_it_is_a_middleware(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an aiohttp that keeps its handlers elsewhere, `setup()` adds the middleware, and failures become the same responses."""
    monkeypatch.setattr("recoverable.aiohttp.ROUTES_CAN_BE_SERVED", False)
    app = application(shared[1], {"/which": which, "/busy": busy})
    assert len(app.middlewares) == 1
    async with serving(app) as client:
        assert not any(served(app))
        assert (await client.get("/busy")).status == 503
        assert await (await client.get("/which")).text() == f"{shared[0].name} True"


def test_handlers_can_be_had() -> None:
    """With the aiohttp that is installed, no middleware is needed."""
    assert routes_module.ROUTES_CAN_BE_SERVED


# -- what they look like ----------------------------------------------------------------------------------------------


async def test_middlewares_find_the_handler_as_it_was(shared: Shared) -> None:
    """Name, documentation, attributes, class, code, equality and calls are the handler's; new attributes are kept there."""

    def marked(handler: Any) -> Any:
        handler.marker = "here"
        return handler

    class Own(Page):
        """A view."""

        marker = "view"

    @marked
    async def page(request: web.Request, more: int = 0) -> web.Response:
        """Answer."""
        return ok(more)

    seen: list[Any] = []

    @web.middleware
    async def looks(request: web.Request, handler: Any) -> Any:
        for found in (handler, request.match_info.handler, request.match_info.route.handler):
            seen.append((found.marker, found.__name__, found.__qualname__, found.__doc__, found.__module__))
        found = request.match_info.handler
        if request.path == "/":
            assert found == page
            assert found in {page}
            assert {found: 1}[page] == 1
            assert found != busy
            assert inspect.iscoroutinefunction(found)
            assert inspect.isfunction(found)
            assert inspect.signature(found) == inspect.signature(page)
            assert inspect.unwrap(found) is page
            assert found.__wrapped__ is page
            assert found.__code__ is page.__code__
            found.cache = "kept"
            assert page.cache == "kept"  # type: ignore[attr-defined]
            del found.cache
            assert not hasattr(page, "cache")
            assert "page" in repr(found)
            return await found(request, more=7)
        assert issubclass(found, Own)
        assert found.__wrapped__ is Own
        return await handler(request)

    async with serving(application(shared[1], {"/": page, "/view": Own}, (looks,))) as client:
        assert await (await client.get("/")).text() == "7"
        assert (await client.put("/view")).status == 200
    assert set(seen[:3]) == {("here", "page", page.__qualname__, "Answer.", __name__)}
    assert set(seen[3:]) == {("view", "Own", Own.__qualname__, "A view.", __name__)}


async def test_a_view_with_hooks_for_its_subclasses(shared: Shared) -> None:
    """What a program does with its own View classes, in `__init_subclass__` or a metaclass, is done with those alone."""
    made: list[str] = []

    class Registry(type(web.View)):  # type: ignore[misc]
        def __new__(cls, name: str, *args: Any, **kwargs: Any) -> Any:
            made.append(name)
            return super().__new__(cls, name, *args, **kwargs)

        def __init__(cls, name: str, *args: Any, **kwargs: Any) -> None:
            super().__init__(name, *args)

    class Base(web.View, metaclass=Registry):
        def __init_subclass__(cls, *, path: str) -> None:
            made.append(path)

    class Here(Base, path="/here"):
        async def get(self) -> web.Response:
            return await which(self.request)

    async with serving(application(shared[1], {"/": Here})) as client:
        assert await (await client.get("/")).text() == f"{shared[0].name} True"
    assert made == ["Base", "Here", "/here"]


# -- the coroutine ----------------------------------------------------------------------------------------------------


def test_it_is_awaited_as_a_coroutine(arena: Arena) -> None:
    """`send`, `throw` and `close` do what a coroutine's do: before it has begun, in between, and after its end."""
    contextvars.copy_context().run(drive, arena)


def drive(arena: Arena) -> None:
    """Drive what a served handler gives by hand."""
    steps: list[Any] = []

    class Ask:
        def __await__(self) -> Any:
            steps.append((yield "asked"))
            try:
                yield "again"
            except KeyError as error:
                steps.append(error)
            yield "last"

    async def handler(request: Any) -> Any:
        try:
            await Ask()
        finally:
            steps.append(running_request.get().request)  # type: ignore[union-attr]
        return ("a", "tuple")

    stands = Served(handler, arena, adapter_module.adapter.requests)
    request: Any = make_mocked_request("GET", "/")

    run = stands(request)
    assert inspect.isawaitable(run)
    assert asyncio.iscoroutine(run)
    assert run.__name__ == "handler"  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="just-started"):
        run.send(1)
    assert run.send(None) == "asked"
    assert run.send("answer") == "again"
    error = KeyError()
    assert run.throw(error) == "last"
    with pytest.raises(StopIteration) as stopped:
        run.send(None)
    assert stopped.value.value == ("a", "tuple")
    assert steps == ["answer", error, request]
    with pytest.raises(RuntimeError, match="already awaited"):
        run.send(None)
    run.close()

    steps.clear()
    run = stands(request)
    run.send(None)
    run.close()
    assert steps == [request]

    run = stands(request)
    with pytest.raises(LookupError):
        run.throw(LookupError)
    with pytest.raises(RuntimeError, match="already awaited"):
        run.send(None)
    stands(request).close()
    assert running_request.get() is None or running_request.get().request is None  # type: ignore[union-attr]

    async def values() -> list[Any]:
        async def gives(request: Any) -> Any:
            await asyncio.sleep(0)
            return request

        each = Served(gives, arena, adapter_module.adapter.requests)
        awaited = [await each(value) for value in (None, (1, 2), KeyError("x"), 3)]
        tasks = [await asyncio.create_task(each(value)) for value in (None, (1, 2), 3)]
        return [*awaited, *tasks, await asyncio.wait_for(each(4), 5)]

    got = asyncio.run(values())
    assert got[:2] == [None, (1, 2)]
    assert isinstance(got[2], KeyError)
    assert got[3:] == [3, None, (1, 2), 3, 4]


async def test_a_task_that_outlives_its_request_is_without_it(shared: Shared) -> None:
    """When the handler has ended, tasks that it left behind have its arena and no request; the next request has its own."""
    states: list[Any] = []
    go = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def late() -> None:
        await go.wait()
        here = running_request.get()
        states.append((here.request, here.arena.name))  # type: ignore[union-attr]

    async def handler(request: web.Request) -> web.Response:
        tasks.append(asyncio.create_task(late()))
        return await which(request)

    async with serving(application(shared[1], {"/": handler})) as client:
        for _ in range(2):
            assert await (await client.get("/")).text() == f"{shared[0].name} True"
        go.set()
        await asyncio.gather(*tasks)
    assert states == [(None, shared[0].name)] * 2
