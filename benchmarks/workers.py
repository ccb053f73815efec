"""How much of a bank's throughput over HTTP is left with `@recoverable`, with one worker process and with two on one arena?

Transfers over 100,000 accounts that wait 5 ms between their two writes; aiohttp on uvloop, 200 connections of `wrk` over
loopback. The plain servers do the same on a Python list of their own, each worker on its own, without any protection. Workers
share their port (SO_REUSEPORT). On two cores `wrk` takes what two workers would want, so the CPU time of the servers is told
as well.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.harness import Report, Settings, Spread, progress
from benchmarks.serving import cpu_ns, listening, terminated

ACCOUNTS, WAIT, CONNECTIONS = 100_000, 0.005, 200
CASES = {  # workers, protected
    "plain, one worker": (1, False),
    "@recoverable, one worker": (1, True),
    "plain, two workers": (2, False),
    "@recoverable, two workers on one arena": (2, True),
}
SCRIPT = f"""
math.randomseed(os.time())
request = function()
  return wrk.format("POST", "/transfer?a=" .. math.random(0, {ACCOUNTS - 1}) .. "&b=" .. math.random(0, {ACCOUNTS - 1}))
end
"""


def serve(port: int, name: str) -> None:
    """Run one worker until SIGTERM; `name`: of the arena, or "-" for a plain list."""
    import uvloop
    from aiohttp import web

    import recoverable.aiohttp
    from recoverable import Arena
    from recoverable import recoverable as protect

    app = web.Application()
    if name == "-":
        accounts: Any = [0] * ACCOUNTS
    else:
        arena = Arena.open(name, create=False)
        accounts = arena.root["accounts"]
        recoverable.aiohttp.setup(app, arena)

    async def transfer(request: web.Request) -> web.Response:
        a, b = int(request.query["a"]), int(request.query["b"])
        accounts[a] -= 1
        await asyncio.sleep(WAIT)
        accounts[b] += 1
        return web.json_response({"ok": True})

    app.router.add_post("/transfer", transfer if name == "-" else protect(transfer))

    async def main() -> None:
        async with listening(app, port, shared=True):
            print("ready", flush=True)
            await terminated()

    uvloop.run(main())


class Servers:
    """The workers of one case."""

    def __init__(self, workers: int, arena: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.workers", str(self.port), arena]
        self.processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
        for process in self.processes:
            assert process.stdout is not None
            process.stdout.readline()

    def cpu(self) -> int:
        """Nanoseconds of CPU time of all workers."""
        return sum(cpu_ns(process.pid) for process in self.processes)

    def load(self, seconds: int, script: str) -> tuple[float, float]:
        """Load them; return (requests a second, µs of server CPU a request)."""
        before = self.cpu()
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script, f"http://127.0.0.1:{self.port}"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if errors := re.search(r"Non-2xx.*", text):
            raise RuntimeError(f"wrk: {errors[0]}")
        found = re.search(r"(\d+) requests in", text)
        rate = re.search(r"Requests/sec:\s*([\d.]+)", text)
        assert found is not None
        assert rate is not None
        return float(rate[1]), (self.cpu() - before) / int(found[1]) / 1e3

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(timeout=20)


def run(settings: Settings) -> Report:
    from recoverable import Arena, Array

    report = Report(
        "workers", "How much of a bank's throughput over HTTP is left, with one worker and with two on one arena?"
    )
    if shutil.which("wrk") is None:
        report.note("Not run: `wrk` is not installed (Debian: apt install wrk).")
        return report
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    with (
        Arena.temporary("64 MiB", name=f"bench-workers-{os.getpid()}") as arena,
        tempfile.NamedTemporaryFile("w", suffix=".lua") as script,
    ):
        script.write(SCRIPT)
        script.flush()
        with arena.transaction():
            arena.root["accounts"] = Array(ACCOUNTS, "i8")
        many = settings.pick(7, 2)
        for i in range(many):
            for name, (workers, protected) in list(CASES.items())[:: 1 if i % 2 else -1]:
                progress(f"workers: round {i + 1} of {many}, {name}")
                servers = Servers(workers, arena.name if protected else "-")
                try:
                    servers.load(1, script.name)
                    found[name].append(servers.load(settings.pick(3, 1), script.name))
                finally:
                    servers.stop()
        progress("")
        total = sum(arena.root["accounts"][:])
        report.note(f"All balances together afterwards: {total}. `arena.verify()`: {arena.verify()}.")
    for workers, what in ((1, "one worker"), (2, "two workers")):
        plain, own = (found[name] for name, (n, _) in CASES.items() if n == workers)
        pairs = list(zip(plain, own, strict=True))
        report.aim(
            f"requests a second without @recoverable over with it, {what}",
            1 / 0.85,
            Spread.of(a[0] / b[0] for a, b in pairs),
            "x",
        )
        report.figure(f"{what}: CPU time with over without", Spread.of(b[1] / a[1] for a, b in pairs))
    rows = []
    for name, values in found.items():
        rate, cpu = Spread.of(v[0] for v in values), Spread.of(v[1] for v in values)
        report.figure(name, rate)
        rows.append([name, str(rate), str(cpu)])
    report.table("POST /transfer, 200 connections", ["servers", "requests/s", "CPU µs of the servers a request"], rows)
    return report


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
