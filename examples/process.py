"""One of the examples as a process: started, killed and started again on the same arena.

The next server's interpreter and imports can be made ready while its predecessor is still alive; it opens the arena only
when told to, by a line on its stdin. A restart then takes a few milliseconds, and the clients notice little of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import aiohttp

from recoverable import Arena, ArenaNotFoundError

ROOT = str(Path(__file__).parents[1])
START_DEADLINE = 30.0  # seconds until a started server must have announced itself
ANSWER_DEADLINE = 20.0  # seconds until a living server must have answered

# The tree behind everything else: `examples` comes from it, `recoverable` from where it is installed.
STANDBY = (
    "import importlib, sys; sys.path.append(sys.argv.pop(1)); main = importlib.import_module(sys.argv.pop(1)).main; "
    "sys.stdin.readline() and main()"
)


class ServerError(RuntimeError):
    """The server did something that no client's behaviour excuses."""


class Server:
    """One server process after another on the same arena."""

    def __init__(self, module: str, name: str, *options: str) -> None:
        """Describe the server; `start` starts it.

        Args:
            module: What has its `main`: "examples.shop.server".
            name: Of its arena.
            options: More of its options.
        """
        self.name = name
        self.recovered: list[dict[str, Any]] = []  # what each start found half-done and undid
        self.restored: list[dict[str, Any] | None] = []  # what each start found in a journal
        # -P: the interpreter must not take the package from the current directory instead of the installed one.
        self._command = [sys.executable, "-P", "-c", STANDBY, ROOT, module, "--name", name, *options]
        self._process: asyncio.subprocess.Process | None = None
        self._standby: asyncio.subprocess.Process | None = None
        self._open = asyncio.Event()
        self._url = ""
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it

    @property
    def pid(self) -> int:
        """Return the process id of the running server."""
        return self._running().pid

    async def prepare(self) -> None:
        """Start the next server as far as it gets without the arena."""
        if self._standby is None:
            # A session of its own: Ctrl-C in the terminal is ours to handle, and we end it by its id.
            self._standby = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=self._log,
                start_new_session=True,
            )

    async def start(self) -> str:
        """Start the server and return its address once it has announced itself."""
        await self.prepare()
        self._process, self._standby = self._standby, None
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"go\n")
        try:
            async with asyncio.timeout(START_DEADLINE):
                line = await process.stdout.readline()
            announced = json.loads(line)
        except (TimeoutError, ValueError) as error:
            raise ServerError(f"the server did not start\n{self.log()}") from error
        self._url = announced["ready"]
        self.recovered.append(announced["recovered"] or {"records": 0, "bytes": 0, "phase": "idle"})
        self.restored.append(announced.get("restored"))
        return self._url

    def open_doors(self) -> None:
        """Let the clients in."""
        self._open.set()

    async def url(self) -> str:
        """Wait until the server takes customers, and return its address."""
        await self._open.wait()
        return self._url

    async def get(self, session: aiohttp.ClientSession, path: str) -> Any:
        """Ask the server, which must answer 200."""
        try:
            async with session.get(self._url + path, timeout=aiohttp.ClientTimeout(ANSWER_DEADLINE)) as response:
                if response.status != 200:
                    raise ServerError(f"GET {path} answered {response.status} {await response.text()}\n{self.log()}")
                return await response.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ServerError(f"GET {path} was not answered: {error!r}\n{self.log()}") from error

    async def kill(self) -> None:
        """End the server as the OOM killer does."""
        with contextlib.suppress(ProcessLookupError):  # it was told to die, and has
            self._running().send_signal(signal.SIGKILL)
        await self.killed()

    async def killed(self) -> None:
        """Wait until the server, which has been killed, is gone."""
        self._open.clear()
        async with asyncio.timeout(ANSWER_DEADLINE):
            status = await self.ended()
        self._process = None
        if status != -signal.SIGKILL:
            raise ServerError(f"the server ended by itself with status {status}\n{self.log()}")

    async def ended(self) -> int:
        """Wait until the server ends, for whatever reason, and return its exit status."""
        return await self._running().wait()

    async def stop(self) -> None:
        """End whatever is running: politely, then not."""
        for process in (self._standby, self._process):
            if process is not None and process.returncode is None:
                process.terminate()
                try:
                    async with asyncio.timeout(5):
                        await process.wait()
                except TimeoutError:
                    process.kill()
                    await process.wait()
        self._standby = self._process = None

    def unlink(self) -> None:
        """Remove the arena, if it was ever made."""
        with contextlib.suppress(ArenaNotFoundError):
            Arena.unlink(self.name)

    def undone(self) -> list[int]:
        """Return, for each start so far, how many writes of its predecessor it found half-done and undid."""
        return [report["records"] for report in self.recovered]

    def close(self) -> None:
        """Forget what the servers wrote."""
        self._log.close()

    def log(self, lines: int = 30) -> str:
        """Return the end of what the servers wrote to stderr."""
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-lines:])

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise ServerError("the server is not running")
        return self._process
