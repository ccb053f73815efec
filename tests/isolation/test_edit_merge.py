"""Array.edit() of requests in flight: merged item by item, like every raw write."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest

from recoverable import Arena, Array, ConflictError
from support.workers import Request, pause


@pytest.fixture(params=["hybrid", "trap"])
def arena(request: pytest.FixtureRequest, name: str) -> Iterator[Arena]:
    """Give an arena with an Array of items."""
    with Arena.temporary("16 MiB", name=name, tracking=request.param) as arena:
        with arena.transaction():
            arena.root["m"] = Array(1200, "i8")
        yield arena


def test_every_interleaving_keeps_what_both_have_changed(arena: Arena) -> None:
    """An edit before, between and after awaits, beside commits of other items and of its own: no change is lost."""
    at = [0, 5, 600]  # of one page, and of the next

    async def edits(item: int) -> None:
        with arena.root["m"].edit() as part:
            part[item] += 1
        await pause()
        with arena.root["m"].edit(slice(item, item + 1)) as part:
            part[0] += 1
        await pause()

    async def adds(item: int, raw: bool) -> None:
        if raw:
            arena.root["m"].view[item] += 1
        else:
            arena.root["m"][item] = int(arena.root["m"][item]) + 1
        await pause()

    for mine, theirs, raw in itertools.product(at, at, (False, True)):
        for order in sorted(set(itertools.permutations("eeeaa"))):
            with arena.transaction():
                arena.root["m"][:] = [0] * 1200
            requests = {"e": Request(arena, edits, mine), "a": Request(arena, adds, theirs, raw)}
            lost = set()
            for who in order:
                if who in lost:
                    continue
                try:
                    requests[who].step()
                except ConflictError:
                    lost.add(who)
            want = [0] * 1200
            want[mine] += 0 if "e" in lost else 2
            want[theirs] += 0 if "a" in lost else 1
            assert arena.root["m"].to_python() == want, (mine, theirs, raw, order, lost)
            assert not lost or mine == theirs
    assert arena.stats().conflicts > 0


def test_an_edit_takes_system_calls_and_goes_back(arena: Arena) -> None:
    """readinto() fills the range without a trap; a savepoint and a rollback take it back."""
    ends = os.pipe()

    def read(start: int, value: int) -> None:
        os.write(ends[1], value.to_bytes(8, "little") * 300)
        with arena.root["m"].edit(slice(start, start + 300)) as part, open(ends[0], "rb", 0, closefd=False) as file:
            assert file.readinto(part) == 2400

    try:
        with arena.transaction():
            read(100, 1)
            with pytest.raises(KeyError), arena.savepoint():
                read(250, 2)
                raise KeyError
            assert arena.root["m"].to_python()[:400] == [0] * 100 + [1] * 300
            read(300, 3)
        want = [0] * 100 + [1] * 200 + [3] * 300 + [0] * 600
        assert arena.root["m"].to_python() == want
        with pytest.raises(ValueError), arena.transaction():
            read(0, 9)
            raise ValueError
        assert arena.root["m"].to_python() == want
    finally:
        os.close(ends[0])
        os.close(ends[1])


def test_an_edit_of_an_array_made_in_the_same_request(arena: Arena) -> None:
    """It is kept over an await, and goes with the request."""

    async def makes(fails: bool) -> Any:
        arena.root["new"] = Array(600, "i8")
        with arena.root["new"].edit(slice(500, 520)) as part:
            part[3] = 7
        await pause()
        with arena.root["new"].edit() as part:
            part[4] = part[503]
        await pause()
        if fails:
            raise ValueError
        return arena.root["new"][503]

    for fails in (True, False):
        request = Request(arena, makes, fails)
        request.step()
        request.step()
        if fails:
            with pytest.raises(ValueError):
                request.step()
            assert "new" not in arena.root
        else:
            request.step()
    assert [i for i, value in enumerate(arena.root["new"].to_python()) if value] == [4, 503]
