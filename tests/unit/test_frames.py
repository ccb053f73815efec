"""Frames of other threads are told as they are, whatever a garbage collection does meanwhile."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING

import pytest

from recoverable._native import frames

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

DEPTH = 30


def descend(depth: int, here: threading.Event, go: threading.Event) -> None:
    """Wait deep down in calls."""
    if depth:
        descend(depth - 1, here, go)
    else:
        here.set()
        go.wait(30)


def overwrite(depth: int) -> int:
    """Use the memory in which the calls before lay."""
    numbers = tuple(range(depth))
    return len(numbers) + (overwrite(depth - 1) if depth else 0)


@pytest.mark.parametrize("ask", [frames.of_thread, lambda ident: frames.of_threads()[ident]])
def test_a_collection_does_not_end_the_calls_that_are_told_of(ask: Callable[[int], list[FrameType]]) -> None:
    """A finaliser that gives up the GIL lets the thread return from them; in Python 3.11 any allocation may have it run."""
    here, go, gone = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        descend(DEPTH, here, go)
        for _ in range(10):
            overwrite(DEPTH)
        gone.set()

    class Pool:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            go.set()
            gone.wait(30)

    thread = threading.Thread(target=work)
    thread.start()
    here.wait(30)
    assert thread.ident is not None
    gc.collect()
    before = gc.get_threshold()
    gc.disable()
    Pool()
    gc.set_threshold(1)
    try:
        gc.enable()
        found = ask(thread.ident)
        names = [(frame.f_code.co_name, frame.f_locals.get("depth")) for frame in found]
    finally:
        gc.set_threshold(*before)
        gc.enable()
        go.set()
        thread.join(30)
    first = names.index(("descend", 0))
    assert names[first : first + DEPTH + 1] == [("descend", depth) for depth in range(DEPTH + 1)]
    assert names[first + DEPTH + 1][0] == "work"


def test_a_thread_that_is_not_there_has_none() -> None:
    """Its identifier may have been another's."""
    assert frames.of_thread(0) == []
    assert frames.of_thread(2**40 + 1) == []
    assert set(frames.of_threads()) >= {threading.get_ident()}
