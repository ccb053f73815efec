"""Requests that share nothing do not end each other, whatever the size of the arena, and whatever is being freed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, Array, ConflictError
from support.workers import Request, pause

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS, SESSIONS, REQUESTS = 3000, 8, 320


def needless(arena: Arena, requests: int) -> None:
    """Check that hardly any run was lost: below 1 %."""
    assert arena.stats().conflicts < requests / 100


@pytest.mark.slow
@pytest.mark.parametrize("size", ["8 MiB", "256 MiB"])
async def test_sessions_that_replace_their_own_carts(new_name: Callable[[], str], size: str) -> None:
    """Eight sessions, each with a nested cart of its own that it replaces and works on again and again: no conflict."""
    with Arena.temporary(size, name=new_name()) as arena:
        carts = arena.root.setdefault
        with arena.transaction():
            carts("carts", {})

        async def shop(session: int, turn: int) -> None:
            arena.root["carts"][session] = [{"sku": i, "n": turn} for i in range(60)]
            await asyncio.sleep(0)
            for line in arena.root["carts"][session]:
                line["n"] += 1
            await asyncio.sleep(0)
            assert sum(line["n"] for line in arena.root["carts"][session]) == 60 * (turn + 1)

        async def session(number: int) -> None:
            for turn in range(REQUESTS // SESSIONS):
                await arena.run(shop, number, turn)

        await asyncio.gather(*map(session, range(SESSIONS)))
        needless(arena, REQUESTS)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "at_once"), [("16 MiB", 40), ("256 MiB", 1500), ("2 GiB", 1500)])
async def test_a_reader_of_its_own_keys_beside_a_writer_of_others(
    new_name: Callable[[], str], size: str, at_once: int
) -> None:
    """A long request over 3,000 keys, between whose steps another changes many keys of its own: no conflict."""
    with Arena.temporary(size, name=new_name()) as arena:
        with arena.transaction():
            arena.root["mine"] = {i: i for i in range(KEYS)}
            arena.root["theirs"] = {i: i for i in range(at_once)}

        async def read() -> int:
            mine, total = arena.root["mine"], 0
            for i in range(KEYS):
                total += mine[i]
                if i % 300 == 299:
                    await asyncio.sleep(0)
            mine[0] = 0
            return total

        async def write() -> None:
            for i in range(at_once):
                arena.root["theirs"][i] += 1

        writer = asyncio.create_task(_until_cancelled(arena, write))
        for _ in range(8):
            assert await arena.run(read) == KEYS * (KEYS - 1) // 2
        writer.cancel()
        assert arena.root["theirs"][0] > 40
        needless(arena, 8)


async def _until_cancelled(arena: Arena, write: Callable[[], Any]) -> None:
    while True:
        await arena.run(write)
        await asyncio.sleep(0)


@pytest.mark.slow
async def test_what_others_delete_is_freed_without_hindering_a_reader(new_name: Callable[[], str]) -> None:
    """A long reader beside blocks that replace nested values, whose memory is freed a slice at each boundary: no conflict."""
    with Arena.temporary("16 MiB", name=new_name()) as arena:
        with arena.transaction():
            arena.root["mine"], arena.root["junk"] = {i: i for i in range(KEYS)}, {}

        async def read() -> None:
            mine = arena.root["mine"]
            for i in range(KEYS):
                assert mine[i] == i
                if i % 300 == 0:
                    await pause()
            mine[0] = 0

        for turn in range(10):
            request = Request(arena, read)
            while not request.done:
                with arena.transaction():
                    arena.root["junk"][turn % 7] = [{"a": [j]} for j in range(60)]
                request.step()
        needless(arena, 10)


def test_freeing_is_no_commit(arena: Arena) -> None:
    """A request whose reads are too many to be kept is valid only while nobody commits; freeing a tree goes on beside it."""
    with arena.transaction():
        arena.root["tree"] = {i: {} for i in range(3000)}
        arena.root["a"] = Array(70_000, "u1")
    with arena.transaction():
        del arena.root["tree"]
    waiting = arena.stats().used

    async def read_all() -> None:
        items = arena.root["a"]
        for i in range(66_000):  # more than are kept
            items[i]
        await pause()
        items[0] = 1

    request = Request(arena, read_all)
    request.step()
    for _ in range(20):
        Request(arena, look, arena).finish()
    assert arena.stats().used < waiting  # it was freed, in part
    request.step()
    assert request.done


async def look(arena: Arena) -> None:
    """Read something: a boundary."""
    assert arena.root["a"][1] == 0


@pytest.mark.parametrize("nested", [False, True], ids=["the Array", "what holds it"])
def test_a_view_of_what_is_deleted_and_used_again(arena: Arena, nested: bool) -> None:
    """Who waits with raw writes in a deleted Array loses; the memory is another's by now, and keeps what that one wrote."""
    np = pytest.importorskip("numpy")
    with arena.transaction():
        arena.root["outer"] = {"inner": {"a": Array(4096, "u1")}}

    async def write() -> None:
        view = arena.root["outer"]["inner"]["a"].view
        await pause()
        view[7:9] = 1  # in a step that uses no handle
        await pause()
        view[8] = 2

    request = Request(arena, write)
    request.step()
    request.step()
    with arena.transaction():
        if nested:
            del arena.root["outer"]
        else:
            del arena.root["outer"]["inner"]["a"]
    for i in range(20):  # boundaries, at which it is freed; and then its memory is taken again
        with arena.transaction():
            arena.root[f"new{i}"] = Array(4096, "u1")
            arena.root[f"new{i}"][:] = np.full(4096, 50 + i, "u1")
    with pytest.raises(ConflictError) as caught:
        request.step()
    assert caught.value.winner is not None
    assert all((arena.root[f"new{i}"].view == 50 + i).all() for i in range(20))
    assert arena.verify().leaked_blocks == 0


def test_a_kept_view_of_what_is_deleted_and_used_again(arena: Arena) -> None:
    """The same for a request that has used no handle at all, but a view that was made before it: it takes part by its store."""
    pytest.importorskip("numpy")
    with arena.transaction():
        arena.root["outer"] = {"inner": {"a": Array(4096, "u1")}}
    with arena.transaction():
        kept = arena.root["outer"]["inner"]["a"].view

    async def write(kept: Any) -> None:
        kept[7] = 1
        await pause()

    request = Request(arena, write, kept)
    request.step()
    with arena.transaction():
        del arena.root["outer"]
    for i in range(20):
        with arena.transaction():
            arena.root[f"new{i}"] = Array(4096, "u1")  # nothing but zeros, as it was when the request began
    with pytest.raises(ConflictError):
        request.step()
    assert not any(arena.root[f"new{i}"][:].any() for i in range(20))
    del kept, request
    assert arena.verify().leaked_blocks == 0


def test_a_change_that_the_ring_has_forgotten_is_a_change(arena: Arena) -> None:
    """Whoever waits while more units are written than the ring holds still loses to the first of them."""
    with arena.transaction():
        arena.root["mine"], arena.root["theirs"] = 1, {}

    async def read() -> None:
        value = arena.root["mine"]
        await pause()
        arena.root["mine"] = value + 1

    request = Request(arena, read)
    request.step()
    with arena.transaction():
        arena.root["mine"] = 10
    for _ in range(3):
        with arena.transaction():
            arena.root["theirs"] = {i: i for i in range(10)}
            theirs = arena.root["theirs"]
        for _ in range(3):
            with arena.transaction():
                for i in range(10_000):
                    theirs[i] = i
    with pytest.raises(ConflictError):
        request.step()
    assert arena.root["mine"] == 10


def test_own_deleted_arrays_may_have_been_written_raw(arena: Arena) -> None:
    """A request that writes through a view and then deletes the Array, or what holds it, commits."""
    pytest.importorskip("numpy")
    with arena.transaction():
        arena.root["outer"] = {"inner": {"a": Array(4096, "u1")}}

    async def write(new: bool) -> None:
        if new:
            arena.root["outer"] = {"inner": {"a": Array(4096, "u1")}}
        arena.root["outer"]["inner"]["a"].view[7] = 1
        del arena.root["outer"]
        await pause()

    for new in (False, True):
        request = Request(arena, write, new)
        request.finish()
        assert "outer" not in arena.root
    assert arena.verify().leaked_blocks == 0
