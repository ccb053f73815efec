"""Killed between the mark and the memory: what a large undo log or a burst of hot pages has claimed is given back."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from recoverable import Arena, Array
from recoverable._native import _switches
from support.forks import in_child
from support.segments import path_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.crash,
    pytest.mark.skipif(not _switches.test_build(), reason="needs a build with -Dcrashpoints=true"),
]

PAGES, ITEMS = 640, 512


@pytest.mark.parametrize("point", ["undo.trim.before_release", "hot.trim.before_release"])
def test_killed_while_memory_is_given_back(point: str) -> None:
    """The state is that of the last commit, and the memory behind the mark is free again once somebody attaches."""
    name = f"test-given-back-{os.getpid()}"

    def child() -> None:
        with Arena.open(name, create=False) as arena:
            a = arena.root["a"]
            _switches.crash_only(point)
            _switches.crash_at(1)
            for step in range(6):
                with arena.transaction():
                    a.view[:, 0] = step
            for step in range(4000):
                with arena.transaction():
                    a.view[3, 1] = step + 1

    try:
        with Arena.open(name, size="64 MiB") as arena, arena.transaction():
            arena.root["a"] = Array((PAGES, ITEMS), "i8")
        assert in_child(child).signal == signal.SIGKILL
        with Arena.open(name, create=False) as arena:
            arena.verify()
            with arena.transaction():
                expected = np.full(PAGES, 5)
                assert (arena.root["a"].view[:, 0] == expected).all()
                assert arena.root["a"].view[3, 1] > 0
            stats = arena.stats()
            assert (stats.undo_claimed if point.startswith("undo") else stats.shadow_claimed) <= 64 * 4096
            assert path_of(name).stat().st_blocks * 512 <= stats.claimed + stats.overhead + 64 * 4096
    finally:
        Arena.unlink(name)
