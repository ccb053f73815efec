"""Working sets by route and method: one function that serves two routes writes other pages for each."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from recoverable import Array, recoverable
from recoverable.aiohttp import arena_key, setup

from ..support.forks import in_child
from ..support.segments import calibrated

pytest.importorskip("numpy")

PAGES = {"GET /first/{page}": [3, 4, 5], "POST /first/{page}": [20, 21], "POST /second": [40, 41, 42, 43]}


@recoverable
async def write(request: web.Request) -> web.Response:
    """Write the pages of the request's route."""
    resource = request.match_info.route.resource
    assert resource is not None
    request.app[arena_key].root["a"].view[PAGES[f"{request.method} {resource.canonical}"], 5] += 1
    return web.Response()


def test_routes_and_methods_that_share_a_function_have_a_set_each() -> None:
    """Each is learned from its own requests, although they take turns, and captures its own pages."""
    ending = in_child(lambda: asyncio.run(take_turns()))  # beside threads that other tests have left, more is captured
    assert ending.returned, str(ending)


async def take_turns() -> None:
    """Serve requests of three routes in turn."""
    with calibrated("16 MiB", policy="incremental", policy_options={"profiles": True}) as arena:
        with arena.transaction():
            arena.root["a"] = Array((64, 512), "i8")
        app = web.Application()
        app.router.add_get("/first/{page}", write)
        app.router.add_post("/first/{page}", write)
        app.router.add_post("/second", write)
        setup(app, arena)
        async with TestClient(TestServer(app)) as client:
            for _ in range(6):
                for call in (client.get("/first/3"), client.post("/first/4"), client.post("/second")):
                    assert (await call).status == 200
            sets = {each.route: each for each in arena.working_sets() if each.step == 0}
            stats = arena.stats()
        assert {each.handler for each in sets.values()} == {"write"}
        assert {route: each.predicted for route, each in sets.items() if route} == {
            route: len(pages) for route, pages in PAGES.items()
        }
        assert sets[""].known <= 3, "that of the first request of all"
        assert stats.captured_in_vain == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_long_route_keeps_its_method_and_its_end(method: str) -> None:
    """A working set has room for 39 characters."""
    path = "/a-very-long-path/that/goes/on/and/on/to/{its}/end"
    with calibrated("16 MiB", policy="incremental", policy_options={"profiles": True}) as arena:
        with arena.transaction():
            arena.root["a"] = Array((64, 512), "i8")

        @recoverable
        async def touch(request: web.Request) -> web.Response:
            arena.root["a"].view[3, 5] += 1
            return web.Response()

        app = web.Application()
        app.router.add_route(method, path, touch)
        setup(app, arena)
        async with TestClient(TestServer(app)) as client:
            for _ in range(3):
                assert (await client.request(method, path.replace("{its}", "x"))).status == 200
            routes = {each.route for each in arena.working_sets()} - {""}
        (route,) = routes
        assert route.startswith(f"{method} ..")
        assert route.endswith("/on/to/{its}/end")
        assert len(route) == 39
