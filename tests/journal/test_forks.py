"""What a forked child inherits of an arena with a journal: counts and locks of threads that it has not got."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recoverable import Arena
from support.forks import in_child


@pytest.fixture
def arena(name: str, tmp_path: Path) -> Iterator[Arena]:
    """Give an arena whose answers wait for the disk."""
    with Arena.temporary("16 MiB", name=name, journal=tmp_path / "journal", durable="disk") as opened:
        yield opened


async def put(arena: Arena, value: int) -> None:
    """Commit, and wait for the disk."""

    async def handler() -> None:
        arena.root["n"] = value

    await arena.run(handler)


def test_a_thread_that_stands_is_not_the_child_s(arena: Arena) -> None:
    """A child closes its arena although a thread of its parent waited for the disk when it was forked."""
    asyncio.run(put(arena, 1))
    gate = arena.native.journal
    far = gate.position(arena.native, None) + 4096
    standing = threading.Thread(target=gate._stand, args=(far, time.monotonic() + 3.0))
    standing.start()
    time.sleep(0.1)

    def closes() -> str:
        asyncio.run(put(arena, 2))
        arena.close()
        return "closed"

    ending = in_child(closes, timeout=10)
    standing.join()
    assert ending.value == "closed", str(ending)


def test_no_lock_stays_held(arena: Arena) -> None:
    """A child waits for the disk, and looks after its journal, whatever a thread of its parent was about to do."""
    gate = arena.native.journal

    def answers() -> str:
        asyncio.run(put(arena, 1))
        gate._health.look()
        return "answered"

    with gate._lock, gate._health._lock:
        ending = in_child(answers, timeout=10)
    assert ending.value == "answered", str(ending)
