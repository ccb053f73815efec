"""Requests in flight over real sockets: the anomalies once more, clients that hang up, servers that stop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from recoverable import Arena, attempt, recoverable
from recoverable.aiohttp import setup
from support.anomalies import ABORT, ANOMALIES, COMMIT
from support.operations import Undone, fill, look, run
from support.serial import Event, find_order, runs_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def shared(name: str) -> Iterator[tuple[Arena, Arena]]:
    """Give an arena that the application may close: it is opened twice."""
    with Arena.temporary("64 MiB", name=name) as arena:
        yield arena, Arena.open(name)


class Scripted:
    """An application whose handler runs the steps of one transaction, each when it is told to.

    Attributes:
        events: What happened, for the judges.
    """

    def __init__(self, arena: Arena, steps: Any) -> None:
        self.arena = arena
        self.events: list[Event] = []
        self.mine: dict[str, list[Any]] = {}
        self.ended: set[str] = set()
        for t, what in steps:
            self.mine.setdefault(t, []).append(what)
        self.told = {t: asyncio.Semaphore(0) for t in self.mine}
        self.reached = {t: asyncio.Semaphore(0) for t in self.mine}
        self.app = web.Application()
        self.app.router.add_post("/run/{t}", self.handle)
        setup(self.app, arena)

    async def handle(self, request: web.Request) -> web.Response:
        """Run a transaction; note what became of it."""
        t = request.match_info["t"]
        try:
            response: web.Response = await self.transaction(request, t)
        except BaseException:
            self.events.append(("aborted", t))
            raise
        else:
            self.events.append(("committed", t))
            return response
        finally:
            self.ended.add(t)
            self.reached[t].release()

    @recoverable
    async def transaction(self, request: web.Request, t: str) -> web.Response:
        """Run its steps; when it is run again, without waiting to be told."""
        first = attempt() == 1
        self.events.append(("begin", t))
        body = await request.json()
        for number, what in enumerate(self.mine[t]):
            if first:
                if number:
                    self.reached[t].release()
                await self.told[t].acquire()
            if what == ABORT:
                raise Undone
            if what != COMMIT:
                for operation in what:
                    self.events.append(("op", t, operation, run(operation, self.arena.root, self.arena)))
        return web.json_response({"runs": attempt(), "body": body})


@pytest.mark.parametrize("which", ANOMALIES)
async def test_anomalies_do_not_happen(shared: tuple[Arena, Arena], which: str) -> None:
    """The losers are run again with the body that they came with, and all that was answered is in some order."""
    arena, served = shared
    anomaly = ANOMALIES[which]
    fill(arena)
    scripted = Scripted(served, anomaly.steps)
    async with TestClient(TestServer(scripted.app)) as client:

        async def post(t: str) -> tuple[int, Any]:
            async with client.post(f"/run/{t}", json={"t": t}) as response:
                return response.status, await response.json() if response.status == 200 else None

        requests = {t: asyncio.create_task(post(t)) for t in scripted.mine}
        for t, _ in anomaly.steps:
            if t in scripted.ended:
                continue  # it has lost, and was run again, to its end
            scripted.told[t].release()
            async with asyncio.timeout(5):
                await scripted.reached[t].acquire()
        answers = {t: await request for t, request in requests.items()}
    aborted = {t for t, what in anomaly.steps if what == ABORT}
    assert {t for t, (status, _) in answers.items() if status == 500} == aborted
    for t, (status, answer) in answers.items():
        if t not in aborted:
            assert status == 200
            assert answer["body"] == {"t": t}
            assert answer["runs"] == 2 or (answer["runs"] == 1 and t not in anomaly.losers)
    find_order(runs_of(scripted.events), look(arena.root))
    assert arena.stats().in_flight == 0


@pytest.mark.parametrize("cancels", [True, False])
async def test_clients_that_hang_up(shared: tuple[Arena, Arena], cancels: bool) -> None:
    """With aiohttp's handler_cancellation the handler is cancelled and rolled back; without it, it goes on and commits."""
    arena, served = shared
    started, ended, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    with arena.transaction():
        arena.root.update({"n": 0, "l": []})

    @recoverable
    async def slow(request: web.Request) -> web.Response:
        arena.root["n"] += 1
        arena.root["l"].append({"new": [1, 2, 3]})
        started.set()
        await go_on.wait()
        arena.root["n"] += 1
        return web.Response()

    async def handler(request: web.Request) -> web.Response:
        try:
            return await slow(request)
        finally:
            ended.set()

    app = web.Application()
    app.router.add_get("/", handler)
    setup(app, served)
    runner = web.AppRunner(app, handler_cancellation=cancels)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    before = arena.stats()
    async with aiohttp.ClientSession() as session:
        request = asyncio.create_task(session.get(f"http://{host}:{port}/"))
        await started.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    if not cancels:
        go_on.set()
    async with asyncio.timeout(5):
        await ended.wait()
    await runner.cleanup()
    assert (arena.root["n"], len(arena.root["l"])) == ((0, 0) if cancels else (2, 1))
    assert arena.stats().in_flight == 0
    if cancels:
        assert arena.stats().used == before.used
    assert arena.verify().leaked_blocks == 0


async def test_a_server_that_stops_with_requests_in_flight(shared: tuple[Arena, Arena]) -> None:
    """Whatever they wait for, they are cancelled and rolled back, their memory is returned, and the arena is closed."""
    arena, served = shared
    with arena.transaction():
        arena.root.update({"n": 0, "rooms": {}})
    arena.stats()
    in_flight = asyncio.Semaphore(0)

    @recoverable
    async def wait(request: web.Request) -> web.Response:
        arena.root["rooms"][request.query["n"]] = {"members": list(range(50))}
        in_flight.release()
        await asyncio.Event().wait()
        return web.Response()

    app = web.Application()
    app.router.add_get("/", wait)
    setup(app, served)
    server = TestServer(app)
    await server.start_server(shutdown_timeout=0.01)
    used = arena.stats().used
    async with aiohttp.ClientSession() as session:
        requests = [asyncio.create_task(session.get(server.make_url(f"/?n={n}"))) for n in range(20)]
        for _ in requests:
            await in_flight.acquire()
        assert arena.stats().in_flight == 20
        await server.close()
        results = await asyncio.gather(*requests, return_exceptions=True)
    assert all(isinstance(result, aiohttp.ClientError) for result in results)
    assert served.closed
    assert arena.root.to_python() == {"n": 0, "rooms": {}}
    stats = arena.stats()
    assert (stats.in_flight, stats.used) == (0, used)
