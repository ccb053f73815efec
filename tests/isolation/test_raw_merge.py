"""Raw writes of requests in flight: merged item by item with what others have committed."""

from __future__ import annotations

from typing import Any

import pytest

from recoverable import Arena, Array, ConflictError
from support.workers import Request, pause

np = pytest.importorskip("numpy")


@pytest.fixture
def arena(arena: Arena) -> Arena:
    """Give an arena with an Array of three pages of integers, and one whose items lie across pages."""
    with arena.transaction():
        arena.root["a"] = Array(1200, "i8")
        arena.root["wide"] = Array(8, np.dtype([("x", "u1", 3000)]))
        arena.root["odd"] = Array(3000, np.dtype([("a", "i4"), ("b", "u1")]))
    return arena


def race(arena: Arena, write: Any, *each: Any) -> list[Request]:
    """Start one request for each argument tuple and run it to its first pause."""
    requests = [Request(arena, write, *args) for args in each]
    for request in requests:
        request.step()
    return requests


async def put(arena: Arena, i: int, raw: bool, value: int = 0) -> None:
    """Write item i, through the view or by item, and wait."""
    if raw:
        arena.root["a"].view[i] = value or i
    else:
        arena.root["a"][i] = value or i
    await pause()


def test_different_items_of_one_page_never_conflict(arena: Arena) -> None:
    """Raw beside raw, raw beside announced, in either order of commit: both writes are kept."""
    for first, second in ((True, True), (True, False), (False, True)):
        one, two = race(arena, put, (arena, 3, first, 30), (arena, 4, second, 40))
        two.step()
        one.step()
        assert arena.root["a"][3:5].tolist() == [30, 40]
        with arena.transaction():
            arena.root["a"][:] = 0
    assert arena.stats().conflicts == 0


@pytest.mark.parametrize("value", [7, 8], ids=["another value", "the same value"])
def test_an_item_that_two_have_changed_is_a_conflict(arena: Arena, value: int) -> None:
    """The first to commit wins, whatever was written; the error names the item and the winner."""
    one, two = race(arena, put, (arena, 3, True, 7), (arena, 3, True, value))
    one.step()
    with pytest.raises(ConflictError) as caught:
        two.step()
    assert caught.value.path == "root['a']"
    assert caught.value.key == "item 3"
    assert caught.value.winner == "put"
    assert arena.root["a"][3] == 7
    assert [(spot.path, spot.key, spot.conflicts) for spot in arena.stats().hot_spots] == [("root['a']", "item 3", 1)]


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "by item"])
def test_a_raw_store_of_what_is_committed_there_counts_as_none(arena: Arena, raw: bool) -> None:
    """It can't be seen: what another commits there meanwhile stays. A write by item is one, whatever the value."""
    with arena.transaction():
        arena.root["a"][3] = 7
    (one,) = race(arena, put, (arena, 3, raw, 7))
    with arena.transaction():
        arena.root["a"][3] += 1
    one.step()
    assert arena.root["a"][3] == (8 if raw else 7)
    assert arena.stats().conflicts == 0


def test_an_item_is_never_mixed_of_two_writes(arena: Arena) -> None:
    """Two requests change different bytes of one item: a conflict, not half of each."""

    async def write(field: str) -> None:
        arena.root["odd"].view[field][819] = 1  # bytes 4095 to 4099: across the edge of a page
        await pause()

    one, two = race(arena, write, ("a",), ("b",))
    one.step()
    with pytest.raises(ConflictError):
        two.step()
    assert arena.root["odd"][819].tolist() == (1, 0)


def test_an_item_across_pages_is_one(arena: Arena) -> None:
    """The two ends of an item of 3000 bytes lie in different pages: writing both ends in two requests is a conflict."""

    async def write(item: int, byte: int) -> None:
        arena.root["wide"].view["x"][item, byte] = 1
        await pause()

    one, two = race(arena, write, (1, 0), (1, 2999))  # bytes 3000 and 5999
    one.step()
    with pytest.raises(ConflictError):
        two.step()
    one, two, three = race(arena, write, (2, 0), (3, 0), (4, 2999))
    one.step()
    three.step()
    two.step()
    assert [arena.root["wide"][i]["x"].sum() for i in range(8)] == [0, 1, 1, 1, 1, 0, 0, 0]


def test_what_was_merged_is_merged_again(arena: Arena) -> None:
    """Each await is a chance for others: every resume takes up what they have committed since the last one."""

    async def several() -> list[int]:
        view = arena.root["a"].view
        seen = []
        for i in range(3):
            view[i] = 1
            await pause()
            seen.append(int(view[100 + i]))
        return seen

    request = Request(arena, several)
    for i in range(3):
        request.step()
        with arena.transaction():
            arena.root["a"].view[100 + i] = i + 5
    request.step()
    assert request.result == [5, 6, 7]
    assert arena.root["a"][:3].tolist() == [1, 1, 1]
    assert arena.root["a"][100:103].tolist() == [5, 6, 7]


def test_a_rollback_takes_back_only_its_own_items(arena: Arena) -> None:
    """A request that crashes after others have committed in its pages leaves theirs."""

    async def crash() -> None:
        arena.root["a"].view[5] = 9
        await pause()
        arena.root["a"].view[6] = 9
        raise ValueError

    request = Request(arena, crash)
    request.step()
    with arena.transaction():
        arena.root["a"].view[7] = 1
        arena.root["a"][8] = 2
    with pytest.raises(ValueError):
        request.step()
    assert arena.root["a"][5:9].tolist() == [0, 0, 1, 2]


def test_a_request_may_read_by_item_what_it_has_written_raw(arena: Arena) -> None:
    """Its own raw write is no conflict with itself, when somebody else has committed meanwhile."""

    async def both() -> int:
        arena.root["a"].view[3] = 5
        own = arena.root["a"][3]
        await pause()
        arena.root["a"][3] += own
        await pause()
        return int(arena.root["a"].view[3])

    for _ in range(4):  # the page becomes hot meanwhile
        request = Request(arena, both)
        while not request.done:
            request.step()
            with arena.transaction():
                arena.root["a"][900] += 1
        assert request.result == 10
    assert arena.stats().conflicts == 0


def test_readers_by_item_and_by_slice_see_raw_commits(arena: Arena) -> None:
    """Who has read an item, or a long slice, that a raw write has changed meanwhile is re-run; its neighbours are not."""

    async def read(where: Any) -> Any:
        value = arena.root["a"][where]
        await pause()
        arena.root["seen"] = 1
        return value

    item, neighbour, long = race(arena, read, (3,), (4,), (slice(0, 400),))
    with arena.transaction():
        arena.root["a"].view[3] = 1
    neighbour.step()
    for loser in (item, long):
        with pytest.raises(ConflictError):
            loser.step()


def test_an_array_deleted_meanwhile_is_not_written_into(arena: Arena) -> None:
    """Its memory may be another's by then: the raw writer is told of a conflict."""

    async def write() -> None:
        arena.root["a"].view[3] = 7
        await pause()

    request = Request(arena, write)
    request.step()
    with arena.transaction():
        del arena.root["a"]
    with arena.transaction():
        arena.root["b"] = Array(1200, "i8")
    with pytest.raises(ConflictError):
        request.step()
    assert arena.root["b"].to_python() == [0] * 1200


def test_many_viewed_arrays_are_told_apart(arena: Arena) -> None:
    """Each of two hundred small Arrays has items of its own size; those deleted since are forgotten."""

    async def write(value: int) -> None:
        for i in range(200):
            if i in arena.root:
                arena.root[i].view[value] = value
        await pause()

    with arena.transaction():
        for i in range(200):
            arena.root[i] = Array(10 + i, "i8" if i % 2 else "u1")
    one, two = race(arena, write, (3,), (4,))
    one.step()
    two.step()
    with arena.transaction():
        for i in range(100):
            del arena.root[i]
    one, two = race(arena, write, (5,), (6,))
    one.step()
    two.step()
    assert all(arena.root[i][3:7].tolist() == [3, 4, 5, 6] for i in range(100, 200))
    assert arena.stats().conflicts == 0


def test_one_request_may_write_an_item_across_pages(arena: Arena) -> None:
    """Both pages are its own, and the item is one of one run: no conflict with itself."""

    async def write() -> None:
        arena.root["wide"].view["x"][1] = 7  # bytes 3000 to 5999
        await pause()
        arena.root["wide"].view["x"][2] = 8
        await pause()

    request = Request(arena, write)
    while not request.done:
        request.step()
        with arena.transaction():
            arena.root["wide"].view["x"][0, 0] += 1
    assert [arena.root["wide"][i]["x"].sum() for i in range(4)] == [3, 21000, 24000, 0]


def test_a_view_kept_from_before_guards_its_array(arena: Arena) -> None:
    """Without touching the handle in this request: the memory may be another's, so the write is a conflict."""
    with arena.transaction():
        kept = arena.root["a"].view

    async def write(view: Any) -> None:
        view[3] = 7
        await pause()
        view[4] = 8

    request = Request(arena, write, kept)
    request.step()
    with arena.transaction():
        del arena.root["a"]
    with arena.transaction():
        arena.root["b"] = Array(1200, "i8")
    with pytest.raises(ConflictError):
        request.step()
    assert arena.root["b"].to_python() == [0] * 1200
