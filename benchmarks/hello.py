"""How much of a server's throughput does `@recoverable` cost, on a handler that does next to nothing?

Servers, aiohttp on uvloop, one plain, the others with the decorator, with `recoverable.aiohttp.setup` too, or with a
middleware that does nothing (which tells what aiohttp takes for having one), answer the same JSON hello. `wrk` loads
them in turn over loopback, A B C A B C …. Requests a second depend on who else has
the cores, and so, by the caches, does CPU time; so the servers are also compared in short bursts, hundreds of times in
turn, by the CPU time that the server itself used.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness import Report, Settings, Spread, digits, progress
from benchmarks.serving import cpu_ns, listening, terminated

PLAIN, DECORATED = "plain", "@recoverable"
EMPTY, SETUP = "a middleware that does nothing", "setup() and @recoverable"
COUNTS = "setup() and @recoverable, counting requests"
KINDS = (PLAIN, DECORATED, EMPTY, SETUP, COUNTS)
HEADS = ("CPU µs in bursts", "CPU µs under wrk", "requests/s under wrk")


def serve(kind: str) -> None:
    """Run one server until SIGTERM; prints its port."""
    from aiohttp import web

    import recoverable
    import recoverable.aiohttp
    from recoverable import Arena

    app = web.Application()

    async def hello(request: web.Request) -> web.Response:
        return web.json_response({"message": "hello"})

    async def counts(request: web.Request) -> web.Response:
        root["hits"] += 1
        return web.json_response({"message": "hello"})

    @web.middleware
    async def empty(request: web.Request, handler: Any) -> web.StreamResponse:
        return await handler(request)

    if kind in (PLAIN, EMPTY):
        if kind == EMPTY:
            app.middlewares.append(empty)
        app.router.add_get("/", hello)
    else:
        arena = Arena.open(f"bench-hello-{os.getpid()}", size="16 MiB")
        atexit.register(Arena.unlink, arena.name)
        root = arena.root
        with arena.transaction():
            root["hits"] = 0
        if kind != DECORATED:
            recoverable.aiohttp.setup(app, arena)
        app.router.add_get("/", recoverable.recoverable(arena=arena)(counts if kind == COUNTS else hello))

    listen(app)


def listen(app: Any) -> None:
    """Serve an application on uvloop until SIGTERM; prints its port."""
    import uvloop

    async def main() -> None:
        async with listening(app) as port:
            print(port, flush=True)
            await terminated()

    uvloop.run(main())


class Server:
    """One of them; `module`: of another benchmark, whose servers print their port and answer as these."""

    def __init__(self, kind: str, module: str = "benchmarks.hello") -> None:
        self.process = subprocess.Popen([sys.executable, "-m", module, kind], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/"
        self.sockets: list[socket.socket] = []

    def load(self, seconds: int) -> tuple[float, float]:
        """Load it; return (requests a second, µs of server CPU a request)."""
        before = cpu_ns(self.process.pid)
        text = subprocess.run(
            ["wrk", "-t1", "-c16", f"-d{seconds}s", self.url], capture_output=True, text=True, check=True
        ).stdout
        requests = int(re.search(r"(\d+) requests in", text)[1])
        if errors := re.search(r"Non-2xx.*|Socket errors.*", text):
            raise RuntimeError(f"wrk: {errors[0]}")
        rate = float(re.search(r"Requests/sec:\s*([\d.]+)", text)[1])
        return rate, (cpu_ns(self.process.pid) - before) / requests / 1e3

    def burst(self, times: int) -> float:
        """Send a request on each of 16 connections, so many times; return µs of server CPU a request."""
        if not self.sockets:
            self.sockets = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(16)]
        begun = cpu_ns(self.process.pid)
        for _ in range(times):
            for connection in self.sockets:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
            for connection in self.sockets:
                answer = b""
                while not answer.endswith(b'"hello"}'):
                    answer += connection.recv(4096)
        return (cpu_ns(self.process.pid) - begun) / times / 16e3

    def stop(self) -> None:
        for connection in self.sockets:
            connection.close()
        self.process.terminate()
        self.process.wait(timeout=20)


@dataclass
class Loads:
    """What a server was measured at, round by round."""

    short: list[float] = field(default_factory=list)  # CPU µs a request in bursts
    cpu: list[float] = field(default_factory=list)  # the same under wrk
    rates: list[float] = field(default_factory=list)  # requests a second under wrk

    def spreads(self) -> dict[str, Spread]:
        """Return them by name, in the order of `HEADS`."""
        return {
            "CPU µs in bursts": Spread.of(self.short),
            "CPU µs under wrk": Spread.of(self.cpu),
            "requests/s": Spread.of(self.rates),
        }

    def lost_in_bursts(self, to: Loads) -> Spread:
        """Return the percent of the other's throughput that is lost, by CPU time, pair by pair."""
        return Spread.of((1 - other / own) * 100 for own, other in zip(self.short, to.short, strict=True))

    def lost_rate(self, to: Loads) -> Spread:
        """Return the same by requests a second."""
        return Spread.of((1 - own / other) * 100 for own, other in zip(self.rates, to.rates, strict=True))


def run(settings: Settings) -> Report:
    report = Report("hello", "How much of a server's throughput does @recoverable cost?")
    if shutil.which("wrk") is None:
        report.note("Not run: `wrk` is not installed (Debian: apt install wrk).")
        return report
    loads = measure(settings)
    plain = loads[PLAIN]
    for kind, limit in ((SETUP, 3.0), (COUNTS, 5.0)):
        in_bursts, rate = loads[kind].lost_in_bursts(plain), loads[kind].lost_rate(plain)
        report.aim(
            f"throughput that {kind} costs, by server CPU time, in bursts of 320 requests", limit, in_bursts, "%"
        )
        report.aim(f"throughput that {kind} costs, by wrk's requests a second", limit, rate, "%")
    rows: list[list[str]] = []
    for kind, load in loads.items():
        spreads = load.spreads()
        for what, spread in spreads.items():
            report.figure(f"{kind}: {what}", spread)
        lost = [load.lost_in_bursts(plain), load.lost_rate(plain)]
        rows.append(
            [kind, *map(str, spreads.values()), *("" if kind == PLAIN else f"{digits(x.median)} %" for x in lost)]
        )
    report.table("a JSON hello, 16 connections", ["server", *HEADS, "lost, in bursts", "lost, requests/s"], rows)

    def draw(axes: Any) -> None:
        axes.boxplot(
            [load.short for load in loads.values()],
            tick_labels=[textwrap.fill(kind, 18) for kind in loads],
        )
        axes.set(ylabel="server CPU µs a request", title="JSON hello, aiohttp on uvloop")
        axes.grid(axis="y", alpha=0.3)

    report.plot(settings, "hello.svg", "CPU time of a request with and without @recoverable", draw)
    return report


def measure(settings: Settings) -> dict[str, Loads]:
    """Load all servers in turn, in bursts and by wrk."""
    loads = {kind: Loads() for kind in KINDS}
    servers: dict[str, Server] = {}
    try:
        for kind in KINDS:
            servers[kind] = Server(kind)
        for server in servers.values():
            server.load(1)
        bursts = settings.pick(400, 20)
        for i in range(bursts):
            progress(f"hello: burst {i + 1} of {bursts}")
            for kind in KINDS[i % len(KINDS) :] + KINDS[: i % len(KINDS)]:
                loads[kind].short.append(servers[kind].burst(20))
        rounds = settings.pick(10, 2)
        for i in range(rounds):
            progress(f"hello: round {i + 1} of {rounds}")
            for kind in KINDS if i % 2 == 0 else KINDS[::-1]:
                rate, spent = servers[kind].load(settings.pick(2, 1))
                loads[kind].rates.append(rate)
                loads[kind].cpu.append(spent)
    finally:
        progress("")
        for server in servers.values():
            server.stop()
    return loads


if __name__ == "__main__":
    serve(sys.argv[1])
