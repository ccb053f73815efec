"""`recoverable top`: what it tells of an arena that others work on, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from recoverable import Arena
from recoverable.cli import _top
from support.commands import command
from support.segments import path_of


def commit(arena: Arena, times: int) -> None:
    """Commit that often."""
    for n in range(times):
        with arena.transaction():
            arena.root["n"] = n


def test_rates_are_of_what_happened_between_two_looks(arena: Arena) -> None:
    """Commits between two samples, over the time between them; the first sample has no rate."""
    looks = _top.samples(arena.name, 0.05, 2)
    first = next(looks)
    commit(arena, 20)
    second = next(looks)
    assert first.commits_per_second == 0
    assert second.peek.commits - first.peek.commits == 20
    assert second.commits_per_second == pytest.approx(20 / (second.at - first.at))
    assert next(looks, None) is None


def test_each_attached_process_is_shown(arena: Arena) -> None:
    """A sample has this process, with its memory and command, and the screen shows it."""
    (sample,) = _top.samples(arena.name, 1, 1)
    (worker,) = sample.workers
    assert (worker.pid, worker.memory > 1 << 20) == (os.getpid(), True)
    assert "pytest" in worker.command
    shown = Console(width=120)
    with shown.capture() as text:
        shown.print(_top.screen(sample))
    assert str(os.getpid()) in text.get()
    assert "16 MiB" in text.get()


@pytest.mark.slow
def test_looking_changes_nothing(name: str) -> None:
    """A closed arena is byte for byte what it was; in a pipe there is a line a look, without colour."""
    with Arena.open(name, "4 MiB") as arena:
        commit(arena, 3)
    before = path_of(name).read_bytes()
    done = command("top", name, "--count", "2", "--interval", "0.05", env={**os.environ, "FORCE_COLOR": "1"})
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert "processes none" in done.stdout
    assert "\x1b" not in done.stdout
    assert path_of(name).read_bytes() == before


@pytest.mark.slow
def test_json_is_an_object_a_line(arena: Arena) -> None:
    """Programs get each look as one line."""
    done = command("top", arena.name, "--count", "2", "--interval", "0.05", "--json")
    looks = [json.loads(text) for text in done.stdout.splitlines()]
    assert [look["name"] for look in looks] == [arena.name] * 2
    assert looks[1]["processes"][0]["pid"] == os.getpid()


@pytest.mark.slow
def test_ctrl_c_ends_it_well(arena: Arena) -> None:
    """SIGINT is 0 and silent."""
    with subprocess.Popen(
        [sys.executable, "-m", "recoverable.cli", "top", arena.name, "--interval", "30"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            assert process.communicate(timeout=30) == ("", "")
        finally:
            process.kill()  # or leaving the block would wait for it
    assert process.returncode == 0


@pytest.mark.slow
def test_a_terminal_gets_its_screen_back(arena: Arena) -> None:
    """On a terminal it fills the alternate screen and leaves it, cursor shown, when it is ended."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "recoverable.cli", "top", arena.name, "--interval", "30"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        seen = b""
        while b"COMMAND" not in seen:
            seen += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        try:
            while data := os.read(ours, 65536):
                seen += data
        except OSError:  # the other end is closed
            pass
        try:
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
    os.close(ours)
    assert seen.count(b"\x1b[?1049h") == seen.count(b"\x1b[?1049l") == 1
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")


@pytest.mark.slow
def test_an_arena_that_is_not_there() -> None:
    """3, as for every command."""
    assert command("top", "no-such-arena").returncode == 3
