"""`/metrics` of a real server: what came of the requests that were sent to it, and nothing that they said."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

import recoverable.aiohttp
from recoverable import Arena
from recoverable import recoverable as transactional
from recoverable._native.runtime import meter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from recoverable import metrics

Client = TestClient[Any, Any]


@pytest.fixture
async def client(name: str) -> AsyncIterator[Client]:
    """Serve a bank account with `/metrics`."""
    with Arena.temporary("16 MiB", name=name) as arena:
        app = web.Application()
        recoverable.aiohttp.setup(app, Arena.open(name))
        metrics.setup(app, registry=CollectorRegistry())

        @transactional
        async def deposit(request: web.Request) -> web.Response:
            arena.root["balance"] = arena.root.get("balance", 0) + int(request.match_info["amount"])
            await asyncio.sleep(0)
            if "crash" in request.query:
                raise RuntimeError(request.query["crash"])
            if "refuse" in request.query:
                raise web.HTTPForbidden
            return web.Response(status=int(request.query.get("status", 200)))

        class Balance(web.View):
            @transactional
            async def get(self) -> web.Response:
                return web.json_response(arena.root.get("balance", 0))

        app.router.add_post("/deposit/{amount}", deposit)
        app.router.add_view("/balance", Balance)
        async with TestClient(TestServer(app)) as opened:
            yield opened
        meter(False)


async def scrape(client: Client) -> dict[tuple[str, str, str], float]:
    """Return what `/metrics` says: values by metric, the end of the handler's name, and cause."""
    response = await client.get("/metrics")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    return {
        (
            sample.name.removeprefix("recoverable_"),
            labels.get("handler", "").rpartition("<locals>.")[2],
            labels.get("cause", ""),
        ): sample.value
        for family in text_string_to_metric_families(await response.text())
        for sample in family.samples
        for labels in [sample.labels]
        if "le" not in labels
    }


async def test_requests_are_counted_by_what_came_of_them(client: Client) -> None:
    """Commits, crashes, refusals and bad responses of one handler each have their count; another handler has its own."""
    for _ in range(5):
        assert (await client.post("/deposit/10")).status == 200
    assert (await client.post("/deposit/10?crash=now")).status == 500
    for _ in range(2):
        assert (await client.post("/deposit/10?refuse=1")).status == 403
    assert (await client.post("/deposit/10?status=503")).status == 503
    assert await (await client.get("/balance")).json() == 50
    found = await scrape(client)
    assert found["commits_total", "deposit", ""] == 5
    assert found["commits_total", "Balance.get", ""] == 1
    causes = {
        cause: n
        for (name, handler, cause), n in found.items()
        if (name, handler) == ("rollbacks_total", "deposit") and n
    }
    assert causes == {"error": 1, "answer": 2, "response": 1}
    assert found["undone_bytes_total", "deposit", ""] > 0
    assert found["checkpoint_seconds_count", "deposit", ""] == 9
    assert found["arena_used_bytes", "", ""] > 0


async def test_conflicts_of_requests_in_flight_are_counted(client: Client) -> None:
    """Requests that meet at one key are run again until each has committed; the counts add up."""
    answers = await asyncio.gather(*(client.post("/deposit/1") for _ in range(8)))
    assert [answer.status for answer in answers] == [200] * 8
    assert await (await client.get("/balance")).json() == 8
    found = await scrape(client)
    assert found["commits_total", "deposit", ""] == 8
    assert found["conflicts_total", "deposit", ""] == found["reruns_total", "deposit", "conflict"] > 0


async def test_requests_add_no_labels(client: Client) -> None:
    """However many paths, queries and errors clients make up, the number of series stays the same."""
    await client.post("/deposit/1?crash=first")
    before = await scrape(client)
    for i in range(50):
        await client.post(f"/deposit/{i}?crash=words-{i}", headers={"X-Request-ID": f"id-{i}"})
        await client.get(f"/nothing/{i}")
    after = await scrape(client)
    assert after.keys() == before.keys()


async def test_a_scraper_that_asks_for_openmetrics_gets_it(client: Client) -> None:
    """The page is in the format that the client accepts."""
    response = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert (await response.text()).endswith("# EOF\n")
