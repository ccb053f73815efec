"""A framework's application, served by a process over a socket, and its arena, which the test has open as well."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from recoverable import Arena

BOUND = 60.0  # seconds within which anything that has to happen must have happened
TESTS = Path(__file__).parents[2]

_numbers = itertools.count()


class Served:
    """One framework in one mode, under a server: one process after another, on the same arena."""

    def __init__(self, framework: str, protect: str, server: str = "uvicorn") -> None:
        self.framework, self.protect, self.by = framework, protect, server
        self.name = f"test-{os.getpid()}-served-{next(_numbers)}"
        self.folder = Path(tempfile.mkdtemp())
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None
        with Arena.open(self.name, "16 MiB") as arena, arena.transaction():
            arena.root["accounts"] = [100] * 16
            arena.root["audit"] = {}

    def of(self, expected: Any) -> Any:
        """Return what is expected of this one, where a dict says it by framework, server or mode, or by two of them."""
        if not isinstance(expected, dict):
            return expected
        names = [self.framework, self.by, self.protect]
        names = [f"{self.framework} {self.protect}", f"{self.by} {self.protect}", *names, ""]
        return next(expected[name] for name in names if name in expected)

    def start(self) -> None:
        """Start it, if it doesn't run; it may be asked at once."""
        if self._process is not None and self._process.poll() is None:
            return
        with socket.create_server(("127.0.0.1", 0)) as listening, (self.folder / "log").open("ab") as log:
            self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            what = [self.framework, self.protect, self.by, self.name, str(self.folder), str(listening.fileno())]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.frameworks.child", *what],
                pass_fds=[listening.fileno()],
                env=os.environ | {"PYTHONPATH": str(TESTS), "PYTHONSAFEPATH": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is not for it
            )

    def client(self) -> httpx.AsyncClient:
        """Return a client of it that has one connection at a time."""
        limits = httpx.Limits(max_connections=1)
        return httpx.AsyncClient(base_url=self.url, timeout=BOUND, limits=limits, verify=False)

    def signal(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end of its process."""
        assert self._process is not None
        return self._process.wait(BOUND)

    def log(self) -> str:
        """Return what it has written."""
        return (self.folder / "log").read_text(errors="replace")

    def close(self) -> None:
        """End it, and leave nothing of it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder)
        Arena.unlink(self.name)

    # -- where its requests are --------------------------------------------------------------------------------------

    async def _file(self, name: str) -> Path:
        file = self.folder / name
        assert self._process is not None
        async with asyncio.timeout(BOUND):
            while not file.exists():
                assert self._process.poll() is None, self.log()
                await asyncio.sleep(0.005)
        return file

    async def there(self, key: str, number: int = 1) -> None:
        """Wait until a request is at its gate for the first time, or for another."""
        await self._file(f"there-{key}-{number}")

    def go(self, key: str, number: int = 1) -> None:
        """Let it through."""
        (self.folder / f"go-{key}-{number}").touch()

    async def ended(self, key: str) -> str:
        """Wait until a request has ended; return "returned", or what it has raised to the server."""
        return (await self._file(f"ended-{key}")).read_text()

    def runs(self, key: str) -> list[str]:
        """Return the body that each of its runs was given."""
        file = self.folder / f"runs-{key}"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    async def after(self, key: str) -> None:
        """Wait until its background task has ended."""
        await self._file(f"after-{key}")
