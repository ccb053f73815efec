"""The terminal of a reader who follows a page: start a server, curl it, kill it, ask the command, without a shell or curl."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType


class Terminal:
    """Understands the commands that our pages show. Port 8080 and arena names stand for a test's own.

    Args:
        folder: Where the programs of the page are, as `write` has put them there.
        arenas: The name of each arena on the page -> the name in this test.
    """

    def __init__(self, folder: Path, arenas: dict[str, str]) -> None:
        self.folder, self.arenas = folder, arenas
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def write(self, name: str, program: str) -> None:
        """Put a program of the page into a file, with the port and the arenas of this test."""
        program = program.replace("port=8080", f"port={self.port}")
        for old, new in self.arenas.items():
            program = program.replace(f'Arena.open("{old}"', f"Arena.open({new!r}")
        (self.folder / name).write_text(program)

    def type(self, command: str, lines: list[str] | None = None) -> str:
        """Do what the command says, and type those lines into it; return what it prints.

        Raises:
            AssertionError: It is not one of those that are understood, or fails where it should not.
        """
        command, _, target = command.partition(" > ")
        match shlex.split(command):
            case ["recoverable", *words]:
                return self.run([sys.executable, "-m", "recoverable.cli", *words], lines, target)
            case ["python", "-m", *words]:
                return self.run([sys.executable, "-m", *words], lines, target)
            case ["sed", "-i", change, name]:
                _, old, new, _ = change.split(change[1])
                text = (self.folder / name).read_text()
                assert old in text, f"{name} has no {old}"
                (self.folder / name).write_text(text.replace(old, new))
                return ""
            case ["python", name]:
                self.serve(name)
                return ""
            case ["curl", *words]:
                return self.curl(words)
            case ["kill", "-9", *_]:
                assert self.server is not None, "there is nothing to kill"
                self.kill()
                return ""
            case ["rm", "-r", folder]:
                shutil.rmtree(self.folder / folder)
                return ""
            case ["rm", *paths]:
                for before, _, name in (path.rpartition("recoverable.") for path in paths):
                    Path(before, f"recoverable.{self.arenas[name]}").unlink()
                return ""
        raise AssertionError(f"not understood: {command}")

    def run(self, words: list[str], lines: list[str] | None, target: str) -> str:
        """Run a program with those lines as its input; what it prints goes to a file of that name, or is returned."""
        found = [each for word in words for each in (sorted(self._matching(word)) if "*" in word else [word])]
        done = subprocess.run(
            found,
            cwd=self.folder,
            env=os.environ
            | {"PYTHONPATH": str(self.folder), "TZ": "UTC", "COLUMNS": "160", "PYTEST_ADDOPTS": "-W ignore"},
            input="\n".join(lines or []),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=120,
        )
        if target:
            (self.folder / target).write_text(done.stdout)
        return "" if target else done.stdout

    def _matching(self, pattern: str) -> list[str]:
        return [str(path.relative_to(self.folder)) for path in self.folder.glob(pattern)]

    def serve(self, name: str) -> None:
        """Start a server and wait until it listens."""
        assert self.server is None, "one server at a time"
        self.server = subprocess.Popen(
            [sys.executable, self.folder / name],
            cwd=self.folder,
            env=os.environ
            | {"PYTHONPATH": str(self.folder)},  # else the folder of a script counts only without PYTHONSAFEPATH
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.server.poll() is None, f"{name} has ended with {self.server.returncode}"
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port), 30):
                return
            time.sleep(0.02)  # nothing tells when a port begins to listen
        raise AssertionError(f"{name} does not listen")

    def curl(self, words: list[str]) -> str:
        """Do what `curl [-X METHOD] URL` does."""
        method = "GET"
        if words[0] == "-X":
            method, words = words[1], words[2:]
        url = "http://" + words[0].replace(":8080", f":{self.port}")
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.read().decode()
        except (ConnectionResetError, ConnectionAbortedError):  # http.client's RemoteDisconnected is one
            assert self.server is not None
            assert self.server.wait(30) == -signal.SIGKILL
            self.server = None
            return "curl: (52) Empty reply from server"

    def kill(self) -> None:
        """Kill the server by SIGKILL, if there is one."""
        if self.server is not None:
            self.server.kill()
            self.server.wait()
            self.server = None


def commands(console: str) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with what it prints."""
    parts = re.split(r"^\$ (.*)\n", console, flags=re.MULTILINE)[1:]
    return [(command, output.strip()) for command, output in zip(parts[::2], parts[1::2], strict=True)]
