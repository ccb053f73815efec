"""The example bank under a real gunicorn, on an arena of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, Any

import aiohttp

from examples.bank.load import Customers, Ledger
from recoverable import Arena, ArenaNotFoundError

ROOT = Path(__file__).parents[2]
CLIENTS = 8
BOUND = 20.0  # seconds within which whatever was started, stopped or broken must be well again

#: What runs gunicorn: a file, since a binary upgrade executes the same command again.
COMMAND = """\
import sys

sys.path.append({root!r})  # behind everything: the unbuilt package lies there, too
from gunicorn.app.wsgiapp import run

run()
"""

#: The bank as an application that is made when its module is imported: in the master with `--preload`, else by each worker.
BANK = """\
import asyncio, os, time

from aiohttp import web

from examples.bank.server import ACCOUNTS, AUDIT, make_app
from recoverable import Arena, recoverable


@recoverable
async def stuck(request):
    request.app[ACCOUNTS][0] -= 1  # which is in the arena, where the lock is held
    time.sleep(60)


@recoverable
async def slow(request):
    request.app[AUDIT]["slow"] = "begun"
    print("slow begins", flush=True)
    await asyncio.sleep(float(request.query["seconds"]))
    request.app[AUDIT]["slow"] = request.query["seconds"]
    return web.Response()


app = make_app(Arena.open(os.environ["BANK"], size="8 MiB", busy_timeout=1.0), accounts=20)
app.add_routes([web.post("/stuck", stuck), web.post("/slow", slow)])
"""


class Gunicorn:
    """A gunicorn with two workers; what its clients ask of a server, `examples.bank.load` knows."""

    def __init__(self, folder: Path, name: str, *settings: str) -> None:
        """Write down what it runs; `start` starts it.

        Args:
            folder: Where that lies.
            name: Of the arena.
            settings: gunicorn's; with "--config" of an example, that is what runs.
        """
        self.name = name
        self.accounts = 200 if "--config" in settings else 20
        self._folder = folder
        (folder / "under_gunicorn.py").write_text(COMMAND.format(root=str(ROOT)))
        (folder / "bank_of_workers.py").write_text(BANK)
        self._command = [sys.executable, "under_gunicorn.py", "--bind", "127.0.0.1:0", "--workers", "2"]
        self._command += ["--control-socket", "control", "--graceful-timeout", "5", *settings]
        self._command += [] if "--config" in settings else ["bank_of_workers:app"]
        self._environment = os.environ | {"PYTHONSAFEPATH": "1", "BANK": name}
        self._log: IO[bytes] = (folder / "log").open("w+b")
        self._master: subprocess.Popen[bytes] | None = None

    # -- what examples.bank.load asks ----------------------------------------------------------------------------------

    async def url(self) -> str:
        """Return its address."""
        return "http://" + self._said(r"Listening at: http://(\S+)")[-1]

    def log(self) -> str:
        """Return what it has written."""
        return (self._folder / "log").read_text(errors="replace")

    # -- its processes -------------------------------------------------------------------------------------------------

    def _said(self, pattern: str) -> list[str]:
        return re.findall(pattern, self.log())

    def masters(self) -> list[int]:
        """Return the ids of its masters that live, oldest first."""
        return list(filter(_lives, map(int, self._said(r"Listening at: \S+ \((\d+)\)"))))

    def workers(self, master: int | None = None) -> list[int]:
        """Return the ids of its workers that live, oldest first; those of one master."""
        booted = filter(_lives, map(int, self._said(r"Booting worker with pid: (\d+)")))
        return [pid for pid in booted if master in (None, _parent(pid))]

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Send one of its processes a signal."""
        assert pid in self.masters() + self.workers()
        os.kill(pid, number)

    async def start(self) -> None:
        """Start it; returns when both workers answer."""
        self._master = subprocess.Popen(
            self._command,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C in the terminal is not for it
        )
        await self.until(lambda: len(self.masters()) == 1)
        await self.answers(2)

    async def answers(self, workers: int, among: Callable[[], list[int]] | None = None) -> None:
        """Wait until so many workers have answered, and nobody who has died or is not among these does."""
        seen: set[int] = set()
        async with asyncio.timeout(BOUND):
            while len(seen & set((among or self.workers)())) < workers:
                assert self._master is None or self._master.poll() is None or len(self.masters()), self.log()
                with contextlib.suppress(aiohttp.ClientError):
                    seen.add((await self.ask("/health"))["pid"])
                await asyncio.sleep(0.01)

    async def ask(self, path: str) -> Any:
        """Ask over a connection of its own, so that any worker may answer."""
        timeout = aiohttp.ClientTimeout(BOUND)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(await self.url() + path) as response:
            assert response.status == 200, (path, response.status, await response.text())
            return await response.json()

    async def post(self, path: str, seconds: float = BOUND) -> int:
        """Send a request; return the status, or 0 if no answer comes within so many seconds."""
        timeout = aiohttp.ClientTimeout(seconds)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(await self.url() + path) as response,
            ):
                return response.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait for something that has to be so soon."""
        end = time.monotonic() + BOUND
        while not holds():
            assert time.monotonic() < end, self.log()
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """End it as systemd does; it must leave no process behind."""
        for master in self.masters():
            self.signal(master, signal.SIGTERM)
        await self.until(lambda: not self.masters() and not self.workers())
        if self._master is not None:
            assert self._master.wait(BOUND) == 0, self.log()

    def end(self) -> None:
        """End what is left of it, after a failure."""
        for pid in self.masters() + self.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._master is not None:
            self._master.wait(BOUND)
        self._log.close()
        with contextlib.suppress(ArenaNotFoundError):
            Arena.unlink(self.name)


class Load:
    """Clients of a bank, and what they were told."""

    def __init__(self, gunicorn: Gunicorn, seed: int) -> None:
        self._gunicorn = gunicorn
        self._ledger = Ledger()
        self._customers = Customers(gunicorn, self._ledger, gunicorn.accounts, seed, crash_rate=0.1)  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Have them work meanwhile."""
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
            for number in range(CLIENTS):
                tasks.create_task(self._customers.work(session, number))
            try:
                yield self
            finally:
                self._customers.stop.set()

    @property
    def told(self) -> int:
        """How many transfers were acknowledged so far."""
        return self._ledger.answers[200]

    async def goes_on(self) -> None:
        """Wait until some more have been."""
        enough = self.told + 30
        await self._gunicorn.until(lambda: self.told >= enough)

    def check(self) -> None:
        """Compare the books of a bank that is closed with what its clients were told."""
        with Arena.open(self._gunicorn.name, create=False) as arena:
            assert arena.processes() == [os.getpid()]
            arena.verify()
            root = arena.root.to_python()
        books = {"opening": 100_00, "balances": list(root["accounts"]), "audit": root["audit"]}
        assert self._ledger.problems(books, self._gunicorn.accounts) == []


@contextlib.asynccontextmanager
async def serving(folder: Path, name: str, *settings: str) -> AsyncIterator[Gunicorn]:
    """Run a bank under gunicorn, and leave nothing of it."""
    gunicorn = Gunicorn(folder, name, *settings)
    try:
        await gunicorn.start()
        yield gunicorn
    finally:
        gunicorn.end()


def _stat(pid: int) -> list[str]:
    """Return its state, its parent's id and so on; of one that is gone, nothing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _lives(pid: int) -> bool:
    return _stat(pid)[:1] not in ([], ["Z"], ["X"])


def _parent(pid: int) -> int:
    return int([*_stat(pid), "0", "0"][1])
