"""Conflicts say where they were lost, and are counted there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, Array, ConflictError, Counter, Deque, Record
from support.workers import Request, pause

if TYPE_CHECKING:
    from collections.abc import Callable


class Account(Record):
    """Has a field to fight for."""

    owner: str = ""
    balance: int = 0
    tags: dict[str, int] = {}  # noqa: RUF012 -- a default of a field, copied


@pytest.fixture
def arena(arena: Arena) -> Arena:
    """Give an arena with one container of each kind."""
    with arena.transaction():
        arena.root.update({"d": {"k": 1}, "l": [0] * 100, "q": Deque([1, 2]), "c": Counter(), "a": Array(10, "i8")})
        arena.root["r"] = Account(owner="ann")
    return arena


CASES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], str, str]] = {
    "dict key": (lambda r: r["d"]["k"], lambda r: r["d"].update(k=2), "root['d']", "'k'"),
    "dict length": (lambda r: len(r["d"]), lambda r: r["d"].update(new=2), "root['d']", "its keys"),
    "dict values": (lambda r: list(r["d"].values()), lambda r: r["d"].update(k=2), "root['d']", "its values"),
    "list chunk": (lambda r: r["l"][40], lambda r: r["l"].__setitem__(41, 1), "root['l']", "items 32 to 63"),
    "list length": (lambda r: len(r["l"]), lambda r: r["l"].append(1), "root['l']", "its length"),
    "deque left": (lambda r: r["q"].popleft(), lambda r: r["q"].popleft(), "root['q']", "the left end"),
    "deque right": (lambda r: r["q"].append(1), lambda r: r["q"].append(1), "root['q']", "the right end"),
    "counter": (lambda r: r["c"].value, lambda r: r["c"].add(1), "root['c']", "its value"),
    "array item": (lambda r: r["a"][7], lambda r: r["a"].__setitem__(7, 1), "root['a']", "item 7"),
    "field": (lambda r: r["r"].balance, lambda r: setattr(r["r"], "balance", 2), "root['r']", "balance"),
    "inside a field": (lambda r: r["r"].tags.get("x"), lambda r: r["r"].tags.update(x=1), "root['r'].tags", "'x'"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_error_and_the_statistics_name_the_place(arena: Arena, case: str) -> None:
    """The path of the container, the part of it, and the handler that won."""
    use, change, path, key = CASES[case]

    async def loser() -> None:
        use(arena.root)
        await pause()
        arena.root["done"] = 1

    async def winner() -> None:
        change(arena.root)

    request = Request(arena, loser)
    request.step()
    Request(arena, winner).finish()
    with pytest.raises(ConflictError) as caught:
        request.step()
    assert (caught.value.path, caught.value.key) == (path, key)
    assert caught.value.winner is not None
    assert caught.value.winner.endswith("winner")
    assert [(spot.path, spot.key, spot.conflicts) for spot in arena.stats().hot_spots] == [(path, key, 1)]


def test_the_frequent_ones_are_kept(arena: Arena) -> None:
    """Hundreds of places with a conflict each do not push out the two that have many."""

    async def touch(key: Any) -> None:
        arena.root["d"].get(key)
        await pause()
        arena.root["d"][key] = 2

    def lose(key: Any) -> None:
        request = Request(arena, touch, key)
        request.step()
        with arena.transaction():
            arena.root["d"][key] = 1
        with pytest.raises(ConflictError):
            request.step()

    for i in range(300):
        lose(i)
        lose("hot")
        if i % 2:
            lose("warm")
    spots = arena.stats().hot_spots
    assert len(spots) <= 64
    assert [spot.key for spot in spots[:2]] == ["'hot'", "'warm'"]
    assert spots[0].conflicts == 300
    assert sum(spot.conflicts for spot in spots) == arena.stats().conflicts == 750
