"""A rival's server as a process, loaded by `wrk`: what comparisons of the banks share."""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import tree
from benchmarks.harness import Spread, progress
from benchmarks.rivals import ACCOUNTS, Rival
from benchmarks.serving import cpu_ns

CONNECTIONS = 64
SCRIPT = """
n, seed = 0, %(seed)d
math.randomseed(seed)
request = function()
  n = n + 1
  local a = math.random(0, %(accounts)d - 1)
  local b = (a + math.random(1, %(accounts)d - 1)) %% %(accounts)d
  local order = '{"id": "%%d-%%d", "from": %%d, "to": %%d, "amount": %%d}'
  return wrk.format("POST", "/transfer", nil, string.format(order, seed, n, a, b, math.random(1, 5)))
end
done = function(summary, latency, requests)
  local errors = summary.errors
  print(string.format("done %%d %%d %%d %%d", summary.requests, summary.duration, latency:percentile(99),
    errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
"""


@dataclass
class Burst:
    """What one second gave."""

    rate: float  # requests a second
    cpu: float  # µs a request
    p99: float  # ms


class Server:
    """A rival's server process, and what runs beside it."""

    def __init__(self, rival: Rival, folder: str, address: str, beside: int) -> None:
        self.command = tree.command("benchmarks.rivals.server", rival.name, folder, address)
        self.beside, self.seed = beside, 0
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        with self.process.stdout:  # it says no more than this
            said = self.process.stdout.readline()
        if not said:
            raise RuntimeError(f"{self.command} ended with {self.process.wait(timeout=20)}")
        self.url = f"http://127.0.0.1:{json.loads(said)['port']}"

    def processes(self) -> list[int]:
        return [self.process.pid, *(family(self.beside) if self.beside else ())]

    def cpu(self) -> int:
        """Return nanoseconds of CPU time of the server and the store's processes."""
        return sum(map(cpu_ns, self.processes()))

    def memory(self) -> int:
        """Return bytes; pages that processes share count once."""
        return sum(mapped(process, "Pss") for process in self.processes())

    def shared(self) -> int:
        """Return how many bytes more that would be if no other server had the same libraries mapped."""
        return mapped(self.process.pid, "Rss") - mapped(self.process.pid, "Pss")

    def ask(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + path, timeout=60) as response:
            return dict(json.load(response))

    def load(self, seconds: int) -> Burst:
        self.seed += 1
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
            script.write(SCRIPT % {"seed": self.seed, "accounts": ACCOUNTS})
            script.flush()
            command = [
                "wrk",
                "-t1",
                f"-c{CONNECTIONS}",
                f"-d{seconds}s",
                "--timeout",
                "10s",
                "-s",
                script.name,
                self.url,
            ]
            before = self.cpu()
            text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
            spent = self.cpu() - before
        found = re.search(r"^done (\d+) (\d+) (\d+) (\d+)$", text, re.MULTILINE)
        assert found is not None, text
        requests, took, p99, errors = map(int, found.groups())
        if errors > requests / 100:
            raise RuntimeError(f"{errors} of {requests} requests failed:\n{text}")
        return Burst(requests / took * 1e6, spent / requests / 1e3, p99 / 1e3)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=20)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()


def family(process: int) -> list[int]:
    """Return a process and its children, and theirs."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [process, *(found for child in children for found in family(int(child)))]


def mapped(process: int, what: str) -> int:
    """Return a process's set size, in bytes; `what`: resident, "Rss", or proportional, "Pss"."""
    found = re.search(rf"^{what}:\s*(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@contextlib.contextmanager
def running(rival: Rival, where: Path | None = None) -> Iterator[Server]:
    """Run a rival's server, and what runs beside it, in a folder of its own; `where`: that is made there."""
    bank = rival.bank()
    with (
        tempfile.TemporaryDirectory(prefix="rivals-", dir=where) as folder,
        rival.started(Path(folder)) as (address, beside),
    ):
        server = Server(rival, folder, address, beside)
        try:
            yield server
        finally:
            server.stop()
            bank.forget(folder)


def in_turn(servers: Mapping[str, Server], rounds: int, title: str) -> Iterator[tuple[str, Burst]]:
    """Load all of them, a second each, in a new random order each round; yield whose burst it was. A first one is not told."""
    for server in servers.values():
        server.load(1)
    rng = random.Random(1)
    for i in range(rounds):
        for name in rng.sample(list(servers), len(servers)):
            progress(f"{title}: round {i + 1} of {rounds}, {name}")
            yield name, servers[name].load(1)
    progress("")


def over(bursts: Sequence[Burst], others: Sequence[Burst], what: str) -> Spread:
    """Return a figure of one rival over another's, round by round."""
    return Spread.of(getattr(a, what) / getattr(b, what) for a, b in zip(bursts, others, strict=True))
