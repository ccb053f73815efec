"""Other threads of the process go on while a state is made."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recoverable import Arena
from recoverable.history.line import Line
from recoverable.history.states import State
from recoverable.journal.folder import Folder

MUCH = 24 << 20  # bytes


@pytest.fixture
def no_switches() -> Iterator[None]:
    """Have no thread take the GIL from another that does not let go of it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(before)


@pytest.mark.slow
@pytest.mark.usefixtures("no_switches")
def test_a_long_batch_is_applied_without_the_gil(new_name: Callable[[], str], tmp_path: Path) -> None:
    """A thread gets on while another applies many commits at a time."""
    options = {"feed": "64 MiB", "journal": tmp_path / "journal", "compact": False}
    with Arena.temporary("128 MiB", name=new_name(), **options) as arena:
        with arena.transaction():
            arena.root["n"] = b"x" * MUCH
        asyncio.run(arena.durable())
        line = Line(Folder(tmp_path / "journal"))
        with line.folder.open_file(line.starts[-1].number) as file:
            _, data = file.next(data=True) or (None, b"")
        assert len(data) > MUCH
        turns, ended = 0, threading.Event()

        def turn() -> None:
            nonlocal turns
            while not ended.is_set():
                turns += 1
                time.sleep(0)

        thread = threading.Thread(target=turn)
        thread.start()
        try:
            seen = 0
            for _ in range(20):
                state = State(line, line.keyframe())
                before = turns
                state.apply(data)
                seen += turns - before
                if seen:
                    break
            assert seen
        finally:
            ended.set()
            thread.join()
