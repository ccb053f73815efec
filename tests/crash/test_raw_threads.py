"""Killed while several threads store through a raw view: the step is undone exactly."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time

import pytest

from recoverable import Arena, Array
from support.forks import in_child

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.crash

PAGE, PAGES = 4096, 128


def test_killed_in_a_step_of_several_threads(name: str) -> None:
    """After each kill the arena holds the last commit, of raw, announced and failed writes alike."""

    def step(delay: float) -> None:
        with Arena.open(name, create=False) as arena, arena.transaction():
            view = arena.root["a"].view

            def work(first: int) -> None:
                for value in range(1, 250):
                    for page in range(first, PAGES, 4):
                        view[page * PAGE : page * PAGE + 64] = value

            for first in range(4):
                threading.Thread(target=work, args=(first,), daemon=True).start()
            end = time.perf_counter() + delay
            while time.perf_counter() < end:
                arena.root["n"] += 1
                arena.root["a"][100] = 9  # beside what the threads log
                with pytest.raises(TypeError):
                    arena.root["l"].extend([1, object()])
            os.kill(os.getpid(), signal.SIGKILL)

    with Arena.open(name, size="16 MiB") as arena, arena.transaction():
        arena.root["a"] = Array(PAGE * PAGES, "u1")
        arena.root["n"], arena.root["l"] = 0, [0]
    try:
        for i in range(8):
            assert in_child(functools.partial(step, 0.0005 * i)).signal == signal.SIGKILL
            with Arena.open(name, create=False) as arena:
                assert not arena.root["a"][:].any()
                assert (arena.root["n"], list(arena.root["l"])) == (0, [0])
                arena.verify()
    finally:
        Arena.unlink(name)
