"""Messages name what the reader can do about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from recoverable import Arena, ArenaFullError, Counter, Dict, NoTransactionError, recoverable


def test_a_timeout_after_lost_conflicts_says_where(arena: Arena) -> None:
    """The TimeoutError of a call whose runs lost conflicts names its last run, the place, and the winner."""
    with arena.transaction():
        arena.root["n"] = 0

    @recoverable(arena=arena)
    async def winner() -> None:
        arena.root["n"] += 1

    @recoverable(arena=arena, timeout=0.15)
    async def slow() -> None:
        n = arena.root["n"]
        if slow.runs == 0:  # type: ignore[attr-defined]
            await asyncio.create_task(winner())
        slow.runs += 1  # type: ignore[attr-defined]
        await asyncio.sleep(0 if slow.runs == 1 else 9)  # type: ignore[attr-defined]
        arena.root["n"] = n + 1

    slow.runs = 0  # type: ignore[attr-defined]
    with pytest.raises(
        TimeoutError,
        match=r"timeout of 0\.15 s in its run 2, after a conflict at root, 'n', which .*winner changed first\. It has been "
        r"rolled back, and nothing of it was committed\. Raise timeout, or make it faster or conflict less\.",
    ):
        asyncio.run(slow())
    assert arena.root["n"] == 1


def test_a_timeout_without_conflicts_says_nothing_of_them(arena: Arena) -> None:
    """The TimeoutError of a call that only took long speaks of no run."""

    @recoverable(arena=arena, timeout=0.05)
    async def slow() -> None:
        arena.root["n"] = 1
        await asyncio.sleep(9)

    with pytest.raises(TimeoutError, match=r"timeout of 0\.05 s\. It has .*Raise timeout, or make it faster\.$"):
        asyncio.run(slow())


@pytest.mark.parametrize("make", [list, dict, set, Counter, Dict])
def test_a_tuple_with_a_container(arena: Arena, make: Callable[[], Any]) -> None:
    """A tuple that holds a container is refused, with what to use instead."""
    with arena.transaction():
        arena.root["d"] = {}
        for value in (1, make()), (1, (make(), 2)), (arena.root["d"],):
            with pytest.raises(
                TypeError, match=r"^a tuple with a '\w+' in it can't be stored in an arena: .* use a list"
            ):
                arena.root["t"] = value
        assert "t" not in arena.root


def test_a_full_arena_says_that_it_keeps_its_size() -> None:
    """The message of a full arena names what can be done to one that exists."""
    how = "delete something, or move the state to a new arena that is larger"
    with Arena.temporary("1 MiB") as arena, arena.transaction(), pytest.raises(ArenaFullError, match=how):
        arena.root["x"] = b"x" * (2 << 20)


def test_a_write_outside_names_the_websocket(arena: Arena) -> None:
    """The message of a write outside a transaction is whole, to its last word."""
    with pytest.raises(NoTransactionError, match=r"a WebSocket's handler after prepare\(\)$"):
        arena.root["x"] = 1


def test_what_is_not_a_function_that_can_be_run() -> None:
    """A generator is refused in plain words."""

    def generator() -> Iterator[None]:
        yield

    with pytest.raises(TypeError, match=r"needs a function, and .* is not one that it can run: a generator has no end"):
        recoverable(generator)
