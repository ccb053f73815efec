"""Handlers that do not come back, behind real sockets: their request fails, their worker may end, the others go on."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from recoverable import Arena, recoverable
from support import watched
from support.web import application, ok, serving

pytestmark = [pytest.mark.slow, pytest.mark.crash]

LIMIT = 0.4

WORKER = """
import re, socket, sys
from aiohttp import web
from recoverable import Arena, recoverable
from recoverable.aiohttp import setup

arena = Arena.open(sys.argv[1], "4 MiB")
root = arena.root

@recoverable
async def add(request):
    root["n"] = root.get("n", 0) + 1
    return web.json_response(root["n"])

@recoverable
async def stuck(request):
    root["n"] = -1
    re.match(r"(a+)+b", "a" * 60)

async def ping(request):
    return web.Response(text="pong")

app = web.Application()
app.add_routes([web.get("/add", add), web.get("/stuck", stuck), web.get("/ping", ping)])
setup(app, arena, step_limit=float(sys.argv[2]))
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
web.run_app(app, sock=listening, print=None)
"""


async def test_a_handler_that_spins_answers_500_and_the_server_goes_on(arena: Arena, log: list[dict[str, Any]]) -> None:
    """The request's id is in all its events; requests that came meanwhile are answered; nothing of it is committed."""

    @recoverable
    async def spins(request: web.Request) -> web.Response:
        arena.root["n"] = 1
        while True:
            pass

    @recoverable
    async def counts(request: web.Request) -> web.Response:
        arena.root["n"] = arena.root.get("n", 0) + 1
        return ok(arena.root["n"])

    app = application(arena, {"/spins": spins, "/counts": counts}, step_limit=LIMIT)
    async with serving(app) as client:
        first = asyncio.create_task(client.get("/spins", headers={"X-Request-ID": "stuck-1"}))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(client.get("/counts")) for _ in range(5)]
        assert (await first).status == 500
        assert sorted([await (await other).text() for other in others]) == ["1", "2", "3", "4", "5"]
    watched.told(log, 2)
    told = {event["event"]: event["request_id"] for event in log if "request_id" in event}
    assert {name: told[name] for name in ("step.slow", "step.stopped", "request.rolled_back")} == dict.fromkeys(
        ("step.slow", "step.stopped", "request.rolled_back"), "stuck-1"
    )


async def test_a_worker_that_is_stuck_for_good_ends_and_another_one_goes_on(name: str) -> None:
    """Requests of the other worker wait no longer than twice the limit; the one that is started again finds what was committed."""
    workers: list[asyncio.subprocess.Process] = []

    async def start() -> str:
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WORKER, name, str(LIMIT)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        workers.append(worker)
        assert worker.stdout is not None
        return f"http://127.0.0.1:{int(await worker.stdout.readline())}"

    async def add(url: str) -> int:
        async with session.get(url + "/add") as response:
            assert response.status == 200
            return int(await response.text())

    async with aiohttp.ClientSession() as session:
        try:
            first, second = await start(), await start()
            assert await add(first) == 1
            stuck = asyncio.create_task(session.get(first + "/stuck"))
            await asyncio.sleep(0.1)
            assert await asyncio.wait_for(add(second), 5) == 2
            with pytest.raises(aiohttp.ClientConnectionError):
                await stuck
            assert await asyncio.wait_for(workers[0].wait(), 5) == -signal.SIGABRT
            assert workers[0].stderr is not None
            assert b"stuck has held it for" in await workers[0].stderr.read()
            assert await add(await start()) == 3  # as a supervisor does
        finally:
            for worker in workers:
                if worker.returncode is None:
                    worker.terminate()
                await worker.communicate()
