"""A request over two arenas: each commits by itself, and two that hold each other up are told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from recoverable import Arena, ArenaBusyError


@pytest.fixture
def second(new_name: Callable[[], str]) -> Iterator[Arena]:
    """Give another arena, whose lock is waited for a tenth of a second."""
    with Arena.temporary("8 MiB", name=new_name(), busy_timeout=0.1) as other:
        yield other


async def test_the_inner_one_stands_when_the_outer_one_rolls_back(arena: Arena, second: Arena) -> None:
    """What was committed in one arena is not undone with the other's transaction, and is there before that has ended."""

    async def outer() -> None:
        arena.root["outer"] = 1
        with second.transaction():
            second.root["inner"] = 1
        assert second.root["inner"] == 1
        raise LookupError

    with pytest.raises(LookupError):
        await arena.run(outer)
    assert "outer" not in arena.root
    assert second.root["inner"] == 1


def test_two_that_hold_each_other_up_do_not_hang(arena: Arena, second: Arena) -> None:
    """Taken in opposite order in the middle of a step, one of the two is refused after its busy_timeout, and the other goes on."""
    both, ended = threading.Barrier(2), []

    def take(first: Arena, then: Arena) -> None:
        try:
            with first.transaction():
                first.root["n"] = 1
                both.wait()
                with then.transaction():
                    then.root["m"] = 1
            ended.append("done")
        except ArenaBusyError:
            ended.append("refused")

    threads = [threading.Thread(target=take, args=order) for order in ((arena, second), (second, arena))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(ended) == ["done", "refused"]
    assert arena.verify()
    assert second.verify()
