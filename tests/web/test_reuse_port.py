"""Workers without a master: processes that listen on one port, `web.run_app(reuse_port=True)`, and have one arena."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys

import aiohttp
import pytest

from recoverable import Arena, Counter
from recoverable.cli import _outside

WORKER = """
import os, sys, time
from aiohttp import web
from recoverable import Arena, recoverable
from recoverable.aiohttp import setup

@recoverable
async def hit(request):
    request.app["arena"].root["hits"].add(1)
    return web.json_response(os.getpid())

@recoverable
async def spin(request):
    request.app["arena"].root["hits"].add(1)
    request.app["arena"].root["spun"] = True
    while True:
        pass

async def ping(request):
    return web.json_response(os.getpid())

app = web.Application()
app["arena"] = arena = Arena.open(sys.argv[1])
app.add_routes([web.post("/hit", hit), web.post("/spin", spin), web.get("/ping", ping)])
setup(app, arena)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), reuse_port=True, print=lambda text: print("up", flush=True))
"""


class Workers:
    """Two of them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.taken = socket.socket()  # keeps the port
        self.taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.taken.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.taken.getsockname()[1]}"
        self.processes: dict[int, subprocess.Popen[str]] = {}
        for _ in range(2):
            self.start()

    def start(self) -> None:
        """Start one and wait until it listens."""
        command = [sys.executable, "-W", "ignore", "-c", WORKER, self.name, self.url.rpartition(":")[2]]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        self.processes[process.pid] = process

    def kill(self, pid: int) -> None:
        """End one as the OOM killer does."""
        process = self.processes.pop(pid)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()

    def close(self) -> None:
        """End all."""
        for pid in list(self.processes):
            self.kill(pid)
        self.taken.close()


async def hit(url: str) -> int:
    """Send one request over a connection of its own; return the process that has answered."""
    async with aiohttp.ClientSession() as session, session.post(f"{url}/hit") as answer:
        assert answer.status == 200, await answer.text()
        return int(await answer.json())


async def spin(workers: Workers) -> None:
    """Have one hold the arena, and kill it then."""
    async with aiohttp.ClientSession() as session:
        spinning = asyncio.ensure_future(session.post(f"{workers.url}/spin"))
        workers.kill(await holder(workers.name))
        with pytest.raises(aiohttp.ClientError):
            await spinning


async def holder(name: str) -> int:
    """Return the process that has the arena's lock, as soon as one has it."""
    async with asyncio.timeout(10):
        while not (pid := _outside.peek(name).holder):  # noqa: ASYNC110 -- nothing tells when it takes the lock
            await asyncio.sleep(0.01)
    return pid


@pytest.mark.slow
@pytest.mark.crash
def test_they_share_port_and_state_and_a_killed_one_is_not_missed(name: str) -> None:
    """The kernel shares the connections out; all count on one arena, and so does who replaces one that died in a request."""
    with Arena.open(name, "4 MiB") as arena:
        with arena.transaction():
            arena.root["hits"] = Counter()
        workers = Workers(name)
        try:
            answered = {asyncio.run(hit(workers.url)) for _ in range(40)}
            assert answered == workers.processes.keys()
            asyncio.run(spin(workers))
            assert {asyncio.run(hit(workers.url)) for _ in range(10)} == workers.processes.keys()
            workers.start()
            assert len({asyncio.run(hit(workers.url)) for _ in range(40)}) == 2
            assert arena.root == {"hits": 90}
        finally:
            workers.close()


@pytest.mark.slow
@pytest.mark.crash
def test_one_that_hangs_in_a_step_leaves_the_others_loops_alone(name: str) -> None:
    """What does not touch the arena is answered by another worker as ever, while its requests wait for the arena."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            connected: dict[int, list[aiohttp.ClientSession]] = {pid: [] for pid in workers.processes}
            while min(len(sessions) for sessions in connected.values()) < 2:
                session = await stack.enter_async_context(aiohttp.ClientSession())  # which keeps its connection
                connected[await ping(session)].append(session)
            (stuck, (spins, *_)), (other, (waits, pings, *_)) = connected.items()
            spinning = asyncio.ensure_future(spins.post(f"{workers.url}/spin"))
            assert await holder(name) == stuck
            waiting = asyncio.ensure_future(waits.post(f"{workers.url}/hit"))
            for _ in range(20):
                assert await ping(pings) == other
                assert not waiting.done()
                await asyncio.sleep(0.01)
            workers.kill(stuck)
            async with await waiting as answer:
                assert answer.status == 200
            with pytest.raises(aiohttp.ClientError):
                await spinning

    async def ping(session: aiohttp.ClientSession) -> int:
        async with session.get(f"{workers.url}/ping") as answer:
            return int(await answer.json())

    with Arena.open(name, "4 MiB") as arena:
        with arena.transaction():
            arena.root["hits"] = Counter()
        workers = Workers(name)
        try:
            asyncio.run(main())
            assert arena.root == {"hits": 1}
        finally:
            workers.close()
