"""A block's context: what runs in another one is outside of it, however long its own lives."""

from __future__ import annotations

import contextvars
import gc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from recoverable import Arena, NoTransactionError, after_commit

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture
def arena(arena: Arena) -> Arena:
    """Give an arena with a number."""
    with arena.transaction():
        arena.root["n"] = 0
    return arena


def block(arena: Arena, touches: bool = True) -> Generator[None]:
    """Hold a transaction block from the first next() to the second, as a dependency of a web framework does."""
    with arena.transaction():
        if touches:
            arena.root["n"] += 1
        yield


def elsewhere(arena: Arena) -> int:
    """Read the number in another thread."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(lambda: int(arena.root["n"])).result()


def test_a_block_left_in_another_context_of_its_thread(arena: Arena) -> None:
    """What is run in contexts of their own by one thread, in order, is as good as one context: it commits."""
    held = block(arena)
    contextvars.copy_context().run(next, held)
    assert arena.root["n"] == 0  # this context is outside
    contextvars.copy_context().run(next, held, None)
    assert elsewhere(arena) == arena.root["n"] == 1


def test_a_block_is_not_around_what_runs_in_a_context_that_is_made_when_its_own_is_gone(arena: Arena) -> None:
    """Though the memory of the one may be the other's: what is committed there is not undone with the block."""
    held = block(arena, touches=False)
    contextvars.copy_context().run(next, held)

    def stranger() -> None:
        with pytest.raises(NoTransactionError):
            after_commit(print)
        with arena.transaction():
            arena.root["theirs"] = True

    for _ in range(3):
        contextvars.copy_context().run(stranger)
    with pytest.raises(LookupError):
        held.throw(LookupError)
    assert dict(arena.root) == {"n": 0, "theirs": True}
    assert elsewhere(arena) == 0


def test_a_block_that_only_its_own_context_refers_to_is_collected(arena: Arena) -> None:
    """It is undone with that, and the arena is free: what knows the context does not keep it."""
    keeper: contextvars.ContextVar[object] = contextvars.ContextVar("keeper")

    def enter() -> None:
        held = block(arena)
        keeper.set(held)
        next(held)

    contextvars.copy_context().run(enter)
    gc.collect()
    assert elsewhere(arena) == 0
    with arena.transaction():
        arena.root["n"] = 5
    assert elsewhere(arena) == 5
