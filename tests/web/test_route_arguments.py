"""Middlewares of the program that call their handlers with something else than the request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from recoverable import Arena, ArenaBusyError, recoverable
from recoverable._native.runtime import running_request
from recoverable.aiohttp import setup
from support.web import ok, serving

if TYPE_CHECKING:
    from collections.abc import Callable

Shared = tuple[Arena, Arena]


class Context:
    """What a program makes of a request: it is none, and does not lead to one."""

    __slots__ = ("request",)

    def __init__(self, request: web.Request) -> None:
        self.request = request


class Proxy:
    """What is like a request, and is none."""

    def __init__(self, request: web.Request) -> None:
        self.request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self.request, name)


@pytest.mark.parametrize("given", [Context, Proxy, web.Request.clone, lambda request: None])
async def test_handlers_called_with_something_else(shared: Shared, given: Callable[[web.Request], Any]) -> None:
    """The request that runs is the connection's all the same: it commits, has its request, and its failure is a 503."""
    arena, own = shared

    @recoverable
    async def counts(_: Any) -> Any:
        own.root["n"] = own.root.get("n", 0) + 1
        here: Any = running_request.get()
        return ok(type(here.request).__name__)

    @recoverable
    async def fails(_: Any) -> web.Response:
        own.root["n"] = -1
        raise ArenaBusyError("held by another")

    async def plain(_: Any) -> web.Response:
        raise ArenaBusyError("held by another")

    @web.middleware
    async def other(request: web.Request, handler: Callable[[Any], Any]) -> web.StreamResponse:
        return await handler(given(request))  # type: ignore[no-any-return]

    app = web.Application(middlewares=[other])
    setup(app, own)
    for handler in (counts, fails, plain):
        app.router.add_get(f"/{handler.__name__}", handler)
    async with serving(app) as client:
        async with client.get("/counts") as response:
            assert (response.status, await response.text()) == (200, "Request")
        for path in ("/fails", "/plain"):
            async with client.get(path) as response:
                assert response.status == 503
        assert arena.root["n"] == 1
