"""Closing an arena while other processes commit: it ends, and one of the others writes on."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recoverable import Arena
from recoverable._native import _switches
from support.children import child

pytestmark = pytest.mark.skipif(not _switches.test_build(), reason="needs -Dcrashpoints=true")
_STATIONS = "journal.written", "flusher.durable"  # of a batch: before the flush, and before it is told


@pytest.fixture
def stations() -> Iterator[None]:
    """Hold nothing up when the test is over."""
    yield
    _switches.crash_hold(None)


@pytest.mark.usefixtures("stations")
def test_who_closes_does_not_write_for_others_for_ever(name: str, tmp_path: Path) -> None:
    """What was committed before is on the disk; of what others commit with each batch, they write the rest."""
    folder = tmp_path / "journal"
    begin, begins = os.pipe()
    ready, is_ready = os.pipe()
    end, ends = os.pipe()
    os.set_blocking(end, False)

    def ended() -> bool:
        try:
            return os.read(end, 1) != b""
        except BlockingIOError:
            return False

    def work() -> None:
        os.read(begin, 1)
        with Arena.open(name, journal=folder, busy_timeout=60) as arena:
            n = 0
            while not ended():
                with arena.transaction():
                    arena.root["theirs"] = n
                if n == 0:
                    os.write(is_ready, b"1")
                n += 1
                time.sleep(0.0005)
            with arena.transaction():
                arena.root["last"] = n
            asyncio.run(arena.durable(timeout=60))  # it writes by now

    with child(work):
        arena = Arena.open(name, "4 MiB", journal=folder, busy_timeout=60)
        closing = threading.Thread(target=arena.close)
        try:
            os.write(begins, b"1")
            os.read(ready, 1)
            with arena.transaction():
                arena.root["ours"] = 1
            _switches.crash_hold(_STATIONS[0])
            arrived(_STATIONS[0], closing)
            closing.start()
            while not arena.native.journal._flusher.ended:
                time.sleep(0.001)
            for _ in range(5):  # batches
                for station in _STATIONS[1], _STATIONS[0]:
                    before = 0 if arena.closed else arena.native.commits
                    while closing.is_alive() and not arena.closed and arena.native.commits <= before:
                        time.sleep(0.001)
                    _switches.crash_hold(station)
                    arrived(station, closing)
            was_closed = not closing.is_alive()
        finally:
            _switches.crash_hold(None)
            os.write(ends, b"1")
            closing.join()
    assert was_closed
    for fd in (begin, begins, ready, is_ready, end, ends):
        os.close(fd)
    Arena.unlink(name)
    with Arena.open(name, journal=folder) as arena:
        assert arena.root["ours"] == 1
        assert arena.root["last"] > arena.root["theirs"] > 0
    Arena.unlink(name)


def arrived(station: str, closing: threading.Thread) -> None:
    """Wait until the thread that writes is held up there, or the arena is closed."""
    until = time.monotonic() + 20
    while _switches.crash_last() != station and time.monotonic() < until:
        if closing.ident is not None and not closing.is_alive():
            return
        time.sleep(0.001)
