"""An iterator that several callers use: threads that wait for the lock with it, and finalisers that run between two items."""

from __future__ import annotations

import contextlib
import gc
import threading
from typing import Any

import pytest

from recoverable import Arena, List, Set, TransactionError
from support.forks import in_child


@pytest.mark.crash
@pytest.mark.parametrize("kind", ["dict", "set", "list"])
def test_threads_at_the_end_of_one_iterator(arena: Arena, kind: str) -> None:
    """Two threads wait for the lock with one iterator; the first finds its end, and the second one too."""
    with arena.transaction():
        arena.root["it"] = {"dict": {"a": 1}, "set": Set("a"), "list": List("a")}[kind]
    stored = arena.root["it"]

    def child() -> list[Any]:
        iterator, ends, held, go = iter(stored), [], threading.Event(), threading.Event()
        assert len([next(iterator)]) == 1

        def hold() -> None:
            with arena.transaction():
                arena.root["other"] = 1
                held.set()
                go.wait(10)

        def take() -> None:
            ends.append(next(iterator, "end"))

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(10)
        takers = [threading.Thread(target=take) for _ in range(4)]
        for taker in takers:
            taker.start()
        threading.Event().wait(0.1)  # until all of them wait
        go.set()
        for thread in (holder, *takers):
            thread.join(10)
        return ends

    ending = in_child(child)
    assert ending.returned, ending
    assert ending.value == ["end"] * 4


class Finaliser:
    """Opens a transaction of its own when the collector finds it; in the middle of an operation that is refused."""

    def __init__(self, arena: Arena) -> None:
        self.arena, self.me = arena, self

    def __del__(self) -> None:
        with contextlib.suppress(TransactionError), self.arena.transaction(independent=True):
            self.arena.root["found"] = self.arena.root.get("found", 0) + 1


@pytest.mark.parametrize("whole", [True, False], ids=["to_python", "items"])
def test_a_finaliser_between_long_integer_keys(arena: Arena, whole: bool) -> None:
    """To make a key beyond 64 bits the collector may run, and a finaliser of the program: what is read stays right."""
    expected = {(1 << 80) + i: i for i in range(40)}
    with arena.transaction():
        arena.root["big"] = expected
    big = arena.root["big"]
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        with arena.transaction():
            for _ in range(20):
                Finaliser(arena)
                assert (big.to_python() if whole else dict(big.items())) == expected
    finally:
        gc.set_threshold(*before)
        gc.collect()
    assert arena.verify()
