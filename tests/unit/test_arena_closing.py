"""Closing an arena: what it ends, and what it does not while the arena is in use."""
# what raises is a `with` block: its body is the point

from __future__ import annotations

import gc
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import (
    Arena,
    Array,
    TransactionClosedError,
    TransactionError,
    recoverable,
)

if TYPE_CHECKING:
    pass


def test_closing_twice_is_fine(arena: Arena) -> None:
    """The second `close` does nothing."""
    arena.close()
    arena.close()
    assert arena.closed
    assert "closed" in repr(arena)


def test_open_arenas_are_closed_at_exit(name: str) -> None:
    """A program that ends without closing its arenas ends quietly, live views included."""
    program = f"""
import recoverable
arena = recoverable.Arena.open({name!r}, "4 MiB")
with arena.transaction():
    arena.root["m"] = recoverable.Array((4,), "f8")
view = arena.root["m"].view
"""
    child = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, env=dict(os.environ))
    assert (child.returncode, child.stdout, child.stderr) == (0, b"", b"")


def test_use_after_close_is_an_error(arena: Arena) -> None:
    """Everything of a closed arena says that it is closed, old handles included."""
    with arena.transaction():
        arena.root["d"] = {}
    root, nested = arena.root, arena.root["d"]
    arena.close()

    async def handler() -> None:
        """Do nothing."""

    for use in (
        lambda: arena.root,
        arena.transaction,
        arena.savepoint,
        arena.stats,
        arena.verify,
        arena.processes,
        arena.__enter__,
        lambda: arena.recovered,
        lambda: arena.run(handler).send(None),
        lambda: recoverable(arena=arena)(handler)().send(None),
        lambda: root["a"],
        lambda: len(nested),
        lambda: list(nested),
    ):
        with pytest.raises(TransactionClosedError, match="closed"):
            use()


def test_closing_with_live_views_is_refused_and_says_how_many(arena: Arena) -> None:
    """Views keep their arena open; when they are gone it closes."""
    pytest.importorskip("numpy")
    with arena.transaction():
        arena.root["m"] = Array((4,), "f8")
    first, second = arena.root["m"].view, arena.root["m"].view
    with pytest.raises(TransactionError, match="2 raw buffer"):
        arena.close()
    assert first.sum() == second.sum() == 0
    with arena.transaction():
        arena.root["still"] = "works"
    del first, second
    arena.close()


def test_views_in_reference_cycles_do_not_keep_an_arena_open(arena: Arena) -> None:
    """Closing collects garbage before it counts views."""
    pytest.importorskip("numpy")
    with arena.transaction():
        arena.root["m"] = Array((4,), "f8")
    gc.disable()
    try:
        cycle: list[Any] = [arena.root["m"].view]
        cycle.append(cycle)
        del cycle
        arena.close()
    finally:
        gc.enable()


def test_closing_inside_a_transaction_is_refused(arena: Arena) -> None:
    """A transaction can't close its own arena; it goes on."""
    with arena.transaction():
        arena.root["a"] = 1
        with pytest.raises(TransactionError, match="inside one of its own transactions"):
            arena.close()
        arena.root["b"] = 2
    assert len(arena.root) == 2


def test_closing_rolls_back_what_is_in_flight(name: str) -> None:
    """A request that is suspended when its arena is closed is rolled back and finds the arena closed."""
    arena = Arena.open(name, "4 MiB")
    with arena.transaction():
        arena.root["a"] = 1
    root = arena.root

    class Pause:
        def __await__(self) -> Any:
            yield

    async def handler() -> None:
        root["a"] = 2
        await Pause()
        root["a"] = 3

    request = arena.run(handler)
    request.send(None)
    arena.close()
    with pytest.raises(TransactionClosedError):
        request.send(None)
    with Arena.open(name, create=False) as arena:
        assert arena.root["a"] == 1


def test_a_forked_child_does_not_take_the_arena_away(name: str) -> None:
    """A child that leaves the parent's `with` block closes its own side only."""
    with Arena.temporary("4 MiB", name=name) as arena:
        with arena.transaction():
            arena.root["a"] = 1
        child = os.fork()
        if child == 0:
            code = 1
            try:
                arena.close()
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert status == 0
        with arena.transaction():
            arena.root["a"] = 2
        assert arena.root["a"] == 2
