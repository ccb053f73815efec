"""A step that can't be stopped ends its process, and nobody else's; whatever the process has done to threads, files and signals."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, StepTooLongError, watchdog
from recoverable._native import watchdog as native
from support.forks import in_child
from support.watched import watched_arena

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.crash,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]

LIMIT = 0.2  # seconds


@pytest.fixture
def arena(name: str) -> Iterator[Arena]:
    """Give an arena whose steps are watched."""
    with watched_arena(name, LIMIT) as opened:
        yield opened


def keep_the_gil() -> None:
    """Match for years, without letting any other thread run."""
    re.match(r"(a+)+b", "a" * 60)


def wait_outside() -> None:
    """Wait where no exception can get to."""
    time.sleep(60)


def catch_everything() -> None:
    """Go on whatever is raised."""
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(0.01)


def stuck(arena: Arena, work: Callable[[], object]) -> None:
    """Hold the arena, for ever, in a process whose events are on standard error."""
    logging.basicConfig(stream=sys.stderr, force=True)
    with arena.transaction():
        arena.root["n"] = 1
        work()


@pytest.mark.parametrize("work", [keep_the_gil, wait_outside, catch_everything])
def test_what_can_not_be_stopped_ends_its_process(
    arena: Arena, work: Callable[[], object], capfd: pytest.CaptureFixture[str]
) -> None:
    """It dies of SIGABRT, says why and where on standard error, and the next one finds what was committed."""
    began = time.monotonic()
    ending = in_child(lambda: stuck(arena, work))
    assert ending.signal == signal.SIGABRT, ending
    assert time.monotonic() - began < 20 * LIMIT
    said = capfd.readouterr().err
    assert f'arena "{arena.name}": a step of stuck has held it for' in said
    assert work.__name__ in said
    assert ("step.stopped" in said) is (work is not keep_the_gil)
    with arena.transaction():
        assert arena.root["n"] == 0
        arena.root["n"] = 2
    assert arena.recovered is not None
    assert arena.recovered.handler == "stuck"


def test_others_read_the_stack_of_one_that_keeps_the_gil(arena: Arena) -> None:
    """Its own watchdog has found that out without the GIL, and put it into the segment."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            stuck(arena, keep_the_gil)
        os._exit(0)
    slow = None
    until = time.monotonic() + 10
    while slow is None and time.monotonic() < until:
        slow = native.slow_step(arena.native)
        time.sleep(LIMIT / 20)
    os.waitpid(pid, 0)
    assert slow is not None
    assert slow.pid == pid
    assert slow.handler == "stuck"
    where, _, stack = slow.text.partition("\n")
    assert where.startswith('File "')
    assert where.endswith("in keep_the_gil")
    assert "re" in stack.splitlines()[0]
    assert "in stuck" in stack


def test_a_process_that_does_not_run_is_not_late(arena: Arena) -> None:
    """SIGSTOP in the middle of a step, for several limits: the step goes on afterwards and commits."""
    reader, writer = os.pipe()

    def step() -> bool:
        with arena.transaction():
            arena.root["n"] = 1
            os.write(writer, b"x")
            for _ in range(20):  # it goes on for a while when it runs again
                time.sleep(LIMIT / 20)
        return True

    arena.step_limit = 2 * LIMIT
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if step() else 1)
        finally:
            os._exit(2)
    os.read(reader, 1)
    time.sleep(LIMIT / 2)  # it has been seen: twice as long as between two looks
    os.kill(pid, signal.SIGSTOP)
    time.sleep(LIMIT * 5)
    os.kill(pid, signal.SIGCONT)
    assert os.waitpid(pid, 0)[1] == 0
    assert arena.root["n"] == 1
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(("seconds", "times"), [(0.3, 9), (0.06, 45)], ids=["longer than a pause", "shorter"])
def test_nor_is_one_that_runs_for_moments_only(arena: Arena, seconds: float, times: int) -> None:
    """It is stopped again and again, for nearly three times its limit in all, and has computed for a few milliseconds."""
    reader, writer = os.pipe()
    arena.step_limit = 5 * LIMIT
    pid = os.fork()
    if pid == 0:
        try:
            with arena.transaction():
                arena.root["n"] = 1
                for _ in range(times):
                    os.read(reader, 1)
            os._exit(0)
        finally:
            os._exit(2)
    for _ in range(times):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)
        os.write(writer, b"x")
        time.sleep(0.01)
    assert os.waitpid(pid, 0)[1] == 0
    assert arena.root["n"] == 1
    os.close(reader)
    os.close(writer)


def test_a_child_that_is_forked_in_a_step_is_not_in_it(arena: Arena) -> None:
    """It may take its time while the parent's step is stopped, and meets nothing of that; its own steps are watched."""

    def parent() -> str:
        pid = 0
        try:
            with arena.transaction():
                arena.root["n"] = 1
                pid = os.fork()
                if pid == 0:
                    until = time.monotonic() + LIMIT * 3
                    while time.monotonic() < until:
                        pass
                    os._exit(7)
                while True:
                    pass
        except StepTooLongError:
            pass
        return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    ending = in_child(parent)
    assert ending.value == "7", ending
    ending = in_child(lambda: in_child(lambda: stuck(arena, wait_outside)))
    assert ending.value.signal == signal.SIGABRT, ending


def test_descriptors_that_the_program_closed_are_not_written_to(arena: Arena, tmp_path: Path) -> None:
    """A daemon closes all, and gets the number of our file for one of its own: it ends all the same, and its file is untouched."""
    files = [tmp_path / f"data{n}" for n in range(40)]

    def daemon() -> None:
        os.closerange(3, 256)
        for file in files:
            os.write(os.open(file, os.O_RDWR | os.O_CREAT), b"precious")
        stuck(arena, keep_the_gil)

    ending = in_child(daemon)
    assert ending.signal == signal.SIGABRT, ending
    assert {file.read_bytes() for file in files} == {b"precious"}


@pytest.mark.parametrize("how", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_signal_that_the_program_takes_for_itself_is_not_sent(
    arena: Arena, how: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nobody dies of it: the stack of code that keeps the GIL is missing then, and nothing else."""

    def program() -> None:
        assert watchdog._dumps.signal is not None
        signal.signal(watchdog._dumps.signal, how)
        stuck(arena, keep_the_gil)

    ending = in_child(program)
    assert ending.signal == signal.SIGABRT, ending
    said = capfd.readouterr().err
    assert "a step of stuck has held it for" in said
    assert "keep_the_gil" not in said


def test_an_interpreter_that_ends_while_it_is_watched_ends(name: str) -> None:
    """With the arena open, a thread inside a step, and a limit that is nearly over."""
    import subprocess

    code = f"""
import threading, time
from recoverable import Arena
arena = Arena.open({name!r}, "4 MiB", step_limit=0.05)
def step():
    with arena.transaction():
        arena.root["n"] = 1
        while True:
            pass
for n in range(3):
    threading.Thread(target=step, daemon=True).start()
time.sleep(0.06)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode in (0, -signal.SIGABRT), done.stderr
    assert "Fatal Python error" not in done.stderr
