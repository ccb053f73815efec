"""Each framework in both modes under uvicorn, and one under hypercorn: processes, that all files here share."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from recoverable import Arena
from support.frameworks.served import Served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import httpx

FRAMEWORKS = ["starlette", "fastapi", "litestar", "quart"]
SERVERS = [(framework, protect, "uvicorn") for framework in FRAMEWORKS for protect in ("decorated", "all")]
SERVERS += [("quart", protect, "hypercorn") for protect in ("decorated", "all")]


@pytest.fixture(scope="session", params=SERVERS, ids=" ".join)
def process(request: pytest.FixtureRequest) -> Iterator[Served]:
    """Give a server that may not run yet, or any more."""
    with contextlib.closing(Served(*request.param)) as served:
        yield served


@pytest.fixture
def server(process: Served, request: pytest.FixtureRequest) -> Iterator[Served]:
    """Give one that runs; a test that fails shows what it has written."""
    process.start()
    yield process
    print(process.log())


@pytest.fixture
def arena(server: Served) -> Iterator[Arena]:
    """Give the server's arena, as another process has it."""
    with Arena.open(server.name, create=False) as arena:
        yield arena


@pytest.fixture
async def client(server: Served) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client that has one connection at a time."""
    async with server.client() as client:
        yield client
