"""The README's example, as pasted: start the server, crash a request, kill it, start it again."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from recoverable import Arena, ArenaNotFoundError

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(language: str) -> str:
    """Return the README's first code block in that language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert found is not None, f"the README has no {language} block"
    return found[1]


def commands() -> list[tuple[str, str]]:
    """Return the console block as (command, its output)."""
    parts = re.split(r"^\$ (.*)\n", block("console"), flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def curl(command: str, port: int) -> str:
    """Do what a `curl [-X METHOD] URL` does, without needing curl."""
    program, *words = shlex.split(command)
    assert program == "curl"
    method = "GET"
    if words[0] == "-X":
        method, words = words[1], words[2:]
    url = "http://" + words[0].replace(":8080", f":{port}")
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=30) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.read().decode()


@contextlib.contextmanager
def serving(program: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server until the end of the block, and wait until it listens."""
    with subprocess.Popen([sys.executable, program], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        try:
            while True:
                assert server.poll() is None, server.stderr and server.stderr.read().decode()
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 30):
                    break
                time.sleep(0.02)  # nothing tells when a port begins to listen
            yield server
        finally:
            server.kill()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """Paste the example into a file; only the port and the arena's name are this test's own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    name = f"test-readme-{os.getpid()}"
    text = block("python")
    assert "port=8080" in text
    assert '"readme-shop"' in text
    path = tmp_path / "shop.py"
    path.write_text(text.replace("port=8080", f"port={port}").replace('"readme-shop"', repr(name)))
    yield path, port
    with contextlib.suppress(ArenaNotFoundError):
        Arena.unlink(name)


@pytest.mark.slow
@pytest.mark.crash
def test_the_example_does_what_the_readme_says(program: tuple[Path, int]) -> None:
    """Each command answers as printed there, and a server that is killed and started again answers the same."""
    path, port = program
    with serving(path, port) as server:
        for command, output in commands():
            assert curl(command, port).strip() == output.strip(), command
        server.send_signal(signal.SIGKILL)
        server.wait()
    last, output = commands()[-1]
    with serving(path, port):
        assert curl(last, port).strip() == output.strip()


def test_links_lead_somewhere() -> None:
    """Each file that the README links to exists, and has the heading."""
    root = Path(__file__).parents[2]
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        path, _, heading = target.partition("#")
        text = (root / path).read_text()
        headings = [
            re.sub(r"[^\w -]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
            for line in text.splitlines()
            if line.startswith("#")
        ]
        assert not heading or heading in headings, target
