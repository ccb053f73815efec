"""Where does the time of a recoverable request go? The bank's transfer, with parts of recovery left out.

The application of `examples/bank` handles requests in a process of its own, 64 at a time on uvloop, without sockets: they go to
`Application._handle`, as aiohttp's own tests have it. Parts are left out one at a time, a process for each way, in turn:

    no recovery                        the same handlers on plain Python objects (benchmarks/plain.py)
    an empty middleware                the same, behind a middleware that does nothing
    transactions that touch nothing    setup(), @recoverable and its time limit; balances and audit are plain objects
    balances in the arena              … and the audit a plain dict
    all in the arena                   the example as it is

What garbage collection costs depends on what else lives in the process: it is switched off.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from benchmarks import served
from benchmarks.harness import Report, Settings, Spread, progress

PLAIN, EMPTY = "no recovery", "an empty middleware"
UNTOUCHED, BALANCES, ALL = "transactions that touch nothing", "balances in the arena", "all in the arena"
WAYS = (PLAIN, EMPTY, UNTOUCHED, BALANCES, ALL)
AT_ONCE = 64


class Body:
    """A request's body that has come already."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def set_read_chunk_size(self, n: int) -> None: ...

    async def readany(self) -> bytes:
        data, self.data = self.data, b""
        return data


def requests() -> Iterator[Any]:
    """Make transfers between random accounts, without end."""
    from aiohttp import web
    from aiohttp.test_utils import make_mocked_request

    writer: Any = SimpleNamespace(output_size=0)
    model = make_mocked_request("POST", "/transfer", writer=writer)
    rng, number = random.Random(os.getpid()), 0
    while True:
        number += 1
        accounts = {"from": rng.randrange(served.ACCOUNTS), "to": rng.randrange(served.ACCOUNTS)}
        body: Any = Body(json.dumps({"id": f"parts-{number}", **accounts, "amount": rng.randint(1, 50)}).encode())
        loop = asyncio.get_running_loop()
        yield web.Request(model._message, body, model._protocol, writer, model._task, loop, client_max_size=1 << 20)


def application(way: str) -> Any:
    """Make the bank, with what the way leaves out replaced."""
    from aiohttp import web

    if way in (PLAIN, EMPTY):
        from benchmarks import plain

        plain.install()
        arena: Any = plain.Arena()
    else:
        from recoverable import Arena

        arena = Arena.open(f"bench-parts-{os.getpid()}", size="64 MiB")
        atexit.register(Arena.unlink, arena.name)
    app = served.application("bank", arena)
    from examples.bank import server

    balances: Any = [server.OPENING] * served.ACCOUNTS
    audit: Any = {}
    if way == UNTOUCHED:
        app[server.ACCOUNTS] = balances
    if way in (UNTOUCHED, BALANCES):
        app[server.AUDIT] = audit

    @web.middleware
    async def empty(request: web.Request, handler: Any) -> web.StreamResponse:
        return await handler(request)

    if way == EMPTY:
        app.middlewares.append(empty)
    return app


async def handle(way: str) -> None:
    """For each number on standard input, handle so many requests; print nanoseconds of CPU time a request."""
    from aiohttp import web

    runner = web.AppRunner(application(way), access_log=None)
    await runner.setup()
    source = requests()
    gc.disable()
    print("ready", flush=True)
    for line in sys.stdin:
        n = int(line)
        left = iter([next(source) for _ in range(n)])

        async def client(left: Iterator[Any]) -> None:
            for request in left:
                response = await runner.app._handle(request)
                assert response.status == 200, response

        begun = time.process_time_ns()
        await asyncio.gather(*(client(left) for _ in range(AT_ONCE)))
        print((time.process_time_ns() - begun) / n, flush=True)
        gc.collect()
    await runner.cleanup()


def run(settings: Settings) -> Report:
    report = Report("parts", "Where does the time of a recoverable request go?")
    children: dict[str, subprocess.Popen[str]] = {}
    samples: dict[str, list[float]] = {way: [] for way in WAYS}
    rounds, n = settings.pick(15, 3), settings.pick(2000, 500)

    def answer(way: str) -> str:
        out = children[way].stdout
        assert out is not None
        return out.readline()

    try:
        for way in WAYS:
            progress(f"parts: {way}")
            command = [sys.executable, "-m", "benchmarks.parts", way]
            children[way] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=served.ROOT
            )
            assert answer(way) == "ready\n"
        for i in range(rounds + 1):
            progress(f"parts: round {i} of {rounds}")
            for way in WAYS[i % len(WAYS) :] + WAYS[: i % len(WAYS)]:
                given = children[way].stdin
                assert given is not None
                print(n, file=given, flush=True)
                took = float(answer(way)) / 1e3
                if i > 0:
                    samples[way].append(took)
    finally:
        progress("")
        for child in children.values():
            child.communicate(timeout=30)
    rows = []
    for way, values in samples.items():
        report.figure(way, Spread.of(values))
        above = Spread.of(a - b for a, b in zip(values, samples[PLAIN], strict=True))
        rows.append([way, str(Spread.of(values)), "" if way == PLAIN else str(above)])
    report.table("µs of CPU time a request", ["", "median (quartiles)", "more than no recovery"], rows)
    return report


if __name__ == "__main__":
    import uvloop

    sys.path.append(str(served.ROOT))
    uvloop.run(handle(sys.argv[1]))
