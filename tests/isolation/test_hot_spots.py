"""Conflicts say where they were lost, and are counted there."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter as Counts
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, Array, ConflictError, Counter, Deque, Record
from support.workers import Request, pause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from recoverable import HotSpot
    from recoverable.cli._top import Spot

ENV = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}


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


def lose(arena: Arena, key: Any) -> None:
    """Let a request lose a conflict at a key of root["d"]."""

    async def touch() -> None:
        arena.root["d"].get(key)
        await pause()
        arena.root["d"][key] = 2

    request = Request(arena, touch)
    request.step()
    with arena.transaction():
        arena.root["d"][key] = 1
    with pytest.raises(ConflictError):
        request.step()


def test_the_frequent_ones_are_kept(arena: Arena) -> None:
    """Hundreds of places with a conflict each do not push out the two that have many, and are not shown themselves."""
    for i in range(300):
        lose(arena, i)
        lose(arena, "hot")
        if i % 2:
            lose(arena, "warm")
    spots = arena.stats().hot_spots
    assert [(spot.key, spot.conflicts, spot.error) for spot in spots] == [("'hot'", 300, 0), ("'warm'", 150, 0)]
    assert arena.stats().conflicts == 750


@pytest.mark.parametrize("places", [70, 200])
def test_conflicts_that_are_spread_evenly_have_no_hot_spot(arena: Arena, places: int) -> None:
    """A table of 64 that is full of places which took over each other's counts shows none of them."""
    rng = random.Random(places)
    for _ in range(1000):
        lose(arena, rng.randrange(places))
    assert arena.stats().conflicts == 1000
    assert arena.stats().hot_spots == ()


@pytest.mark.parametrize("places", [3, 40])
def test_few_places_are_counted_exactly(arena: Arena, places: int) -> None:
    """As long as the table has room, every place is shown with its count, and without an error."""
    rng = random.Random(places)
    true = Counts(rng.randrange(places) for _ in range(200))
    for key in true.elements():
        lose(arena, key)
    found = {spot.key: (spot.conflicts, spot.error) for spot in arena.stats().hot_spots}
    assert found == {str(key): (count, 0) for key, count in true.items()}


def zipf(rng: random.Random, places: int, n: int) -> list[int]:
    """Return n places, the k-th of them as often as 1/k says."""
    return rng.choices(range(places), [1 / (k + 1) for k in range(places)], k=n)


def check_bounds(spots: Iterable[HotSpot | Spot], true: Counts[int], top: int) -> None:
    """The most frequent places are there, the certainly most frequent first; nothing is that is not, and the bounds hold."""
    spots = list(spots)
    least = [spot.conflicts - spot.error for spot in spots]
    assert least == sorted(least, reverse=True)
    assert {str(key) for key, _ in true.most_common(top)} <= {spot.key for spot in spots}
    for spot in spots:
        assert spot.key is not None
        assert spot.conflicts - spot.error <= true[int(spot.key)] <= spot.conflicts
        assert true[int(spot.key)] * 64 > true.total(), "not a hot one"


def test_skewed_conflicts_show_the_hot_ones_with_their_bounds(arena: Arena) -> None:
    """Of 500 places, hit as Zipf says, the few that are hot are shown, and how often lies within the bounds."""
    keys = zipf(random.Random(3), 500, 1500)
    for key in keys:
        lose(arena, key)
    check_bounds(arena.stats().hot_spots, Counts(keys), 4)


WORKER = """
import random, sys
from recoverable import Arena, ConflictError, recoverable
from support.workers import Request, pause
from isolation.test_hot_spots import lose, zipf
name, seed = sys.argv[1], int(sys.argv[2])
with Arena.open(name, size="16 MiB") as arena:
    for key in zipf(random.Random(seed), 300, 500):
        lose(arena, key)
"""


@pytest.mark.crash
def test_what_several_processes_have_lost_is_counted_together(arena: Arena) -> None:
    """The board, which `recoverable top` shows, has the hot places of all workers, with bounds; uniform noise is not on it."""
    from recoverable.cli._top import samples

    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, arena.name, str(seed)], cwd=Path(__file__).parents[1], env=ENV)
        for seed in (1, 2)
    ]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    true = Counts(zipf(random.Random(1), 300, 500) + zipf(random.Random(2), 300, 500))
    (sample,) = samples(arena.name, 0, 1)
    check_bounds(sample.spots, true, 2)
    assert arena.stats().hot_spots == ()  # its own


@pytest.mark.parametrize("cut", [False, True])
def test_a_container_that_is_there_is_no_conflict_however_long_a_request_waits(arena: Arena, cut: bool) -> None:
    """Where the ring of recent changes ends, containers are looked at: one that was cut off is a conflict, others are none."""
    with arena.transaction():
        arena.root["many"] = {}
        arena.root["a"], arena.root["b"] = Array([1] * 10, "i8"), Array([1] * 10, "i8")
    a, b, many = arena.root["a"], arena.root["b"], arena.root["many"]

    async def slow() -> None:
        total = a[3] + b[3]
        await pause()
        a[4] = total

    request = Request(arena, slow)
    request.step()
    if cut:
        with arena.transaction():
            del arena.root["b"]
    for i in range(50):
        with arena.transaction():  # more units than the ring has, 16,384, and than there are stamps
            many.update(dict.fromkeys(range(1000 * i, 1000 * i + 1000), i))
    if cut:
        with pytest.raises(ConflictError):
            request.step()
    else:
        request.finish()
        assert a[4] == 2
        assert arena.stats().conflicts == 0
