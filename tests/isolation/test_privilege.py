"""The last run that `max_conflicts` allows is privileged: who would make it lose once more waits until it has ended."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

import recoverable
from recoverable import Arena, Array, ConflictError, Counter
from support.workers import Request, pause

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def arena(arena: Arena) -> Arena:
    """Give an arena with two numbers, a Counter and an Array."""
    with arena.transaction():
        arena.root.update({"n": 0, "m": 0, "hits": Counter(), "a": Array(1000, "i8")})
    return arena


async def add(arena: Arena, key: str = "n", pauses: int = 1) -> None:
    """Read, wait, write."""
    value = arena.root[key]
    for _ in range(pauses):
        await pause()
    arena.root[key] = value + 1


def privileged(arena: Arena, key: str = "n", pauses: int = 1) -> Request:
    """Give a request that has lost once, in the middle of its second and last run."""
    request = Request(arena, add, arena, key, pauses, max_conflicts=1)
    request.step()
    with arena.transaction():
        arena.root[key] += 10
    request.step()  # loses, and is run again up to its first pause
    return request


def test_who_would_hurt_it_waits(arena: Arena) -> None:
    """A request that ends with writes of what the privileged one has read commits after it, and so loses to it."""
    last = privileged(arena)
    assert recoverable_holds(arena)
    other = Request(arena, add, arena)
    other.step()
    for _ in range(5):
        other.step()
        assert not other.done
        assert arena.root["n"] == 10
    last.step()
    assert last.done
    assert arena.root["n"] == 11
    with pytest.raises(ConflictError):
        other.step()
    assert not recoverable_holds(arena)


def recoverable_holds(arena: Arena) -> bool:
    """Tell whether there is a privileged run."""
    return bool(arena.native.privileged_here())


@pytest.mark.parametrize(
    "write",
    [
        lambda root: root.__setitem__("m", 5),
        lambda root: root["hits"].add(1),
        lambda root: root["a"].__setitem__(3, 1),
        lambda root: root["a"].view.__setitem__(4, 1),
        lambda root: root["n"],
    ],
    ids=["another key", "a counter", "an item", "raw", "only reads"],
)
def test_everybody_else_goes_on(arena: Arena, write: Callable[[Any], Any]) -> None:
    """Whose commit does it no harm does not wait."""
    pytest.importorskip("numpy")
    last = privileged(arena)

    async def other() -> None:
        await pause()
        write(arena.root)

    request = Request(arena, other)
    request.step()
    request.step()
    assert request.done
    last.step()
    assert last.done


@pytest.mark.parametrize("raw", [False, True])
def test_items_that_it_has_read_are_kept_for_it(arena: Arena, raw: bool) -> None:
    """Array items count, too, whether they are written by item or raw."""
    pytest.importorskip("numpy")

    async def by_item() -> None:
        value = arena.root["a"][7]
        await pause()
        arena.root["a"][7] = value + 1

    async def other() -> None:
        await pause()
        if raw:
            arena.root["a"].view[7] = 100
        else:
            arena.root["a"][7] = 100

    last = Request(arena, by_item, max_conflicts=1)
    last.step()
    with arena.transaction():
        arena.root["a"][7] = 10
    last.step()
    request = Request(arena, other)
    request.step()
    request.step()
    assert not request.done
    last.step()
    assert (last.done, arena.root["a"][7]) == (True, 11)
    if raw:
        with pytest.raises(ConflictError):  # it had changed the same item
            request.step()
    else:
        request.step()  # blind: it comes after
        assert arena.root["a"][7] == 100


def test_it_gives_the_privilege_back_however_it_ends(arena: Arena) -> None:
    """Commit, crash, cancellation, being thrown away: the next one can have it."""

    def crash(request: Request) -> None:
        with pytest.raises(ValueError):
            request.throw(ValueError())

    def cancel(request: Request) -> None:
        with pytest.raises(asyncio.CancelledError):
            request.throw(asyncio.CancelledError())

    for end in (Request.step, crash, cancel, Request.close):
        request = privileged(arena)
        assert recoverable_holds(arena)
        end(request)
        assert not recoverable_holds(arena)


def test_who_waits_can_be_cancelled(arena: Arena) -> None:
    """A request that waits at its end is rolled back like any other."""
    last = privileged(arena)
    other = Request(arena, add, arena)
    other.step()
    other.step()
    with pytest.raises(asyncio.CancelledError):
        other.throw(asyncio.CancelledError())
    again = Request(arena, add, arena)
    again.step()
    again.step()
    again.close()
    last.step()
    assert arena.root["n"] == 11
    assert arena.stats().in_flight == 0


def test_a_block_does_not_wait(arena: Arena) -> None:
    """It is one step and can't; the privileged run then loses, and that is its last word."""
    last = privileged(arena)
    with arena.transaction():
        arena.root["n"] = 50
    with pytest.raises(ConflictError, match="run 2 times"):
        last.step()


def test_its_own_independent_block_does_not_wait_for_it(arena: Arena) -> None:
    """Or it would wait for itself."""

    async def both() -> None:
        value = arena.root["n"]
        await pause()
        with arena.transaction(independent=True):
            arena.root["hits"].add(1)
        await arena.run(inner, nested="independent")
        arena.root["m"] = value

    async def inner() -> None:
        arena.root["n"] += 1

    last = Request(arena, both, max_conflicts=1)
    last.step()
    with arena.transaction():
        arena.root["n"] += 10
    last.step()
    assert recoverable_holds(arena)
    last.step()
    assert last.done
    assert (arena.root["n"], arena.root["m"], arena.root["hits"].value) == (11, 10, 1)


def test_two_cannot_have_it(arena: Arena) -> None:
    """The second waits before its last run begins."""
    last = privileged(arena)
    second = Request(arena, add, arena, "m", max_conflicts=1)
    second.step()
    with arena.transaction():
        arena.root["m"] += 10
    for _ in range(3):
        second.step()
        assert not second.done
    last.step()
    second.step()
    second.step()
    assert second.done
    assert arena.root["m"] == 11


async def test_the_wait_has_an_end(new_name: Callable[[], str]) -> None:
    """A privileged run that waits for what another request holds: after busy_timeout that one goes ahead."""
    with Arena.temporary("16 MiB", name=new_name(), busy_timeout=0.2) as arena:
        with arena.transaction():
            arena.root["n"] = 0
        lock, runs = asyncio.Lock(), 0
        with_lock, again = asyncio.Event(), asyncio.Event()

        async def first() -> None:
            nonlocal runs
            runs += 1
            value = arena.root["n"]
            if runs == 1:
                with_lock.set()
                await asyncio.create_task(disturb())
            else:
                again.set()
                async with lock:  # held by the other, which gives way to us
                    pass
            arena.root["n"] = value + 1

        async def disturb() -> None:
            with arena.transaction():
                arena.root["n"] += 10

        async def second() -> None:
            await with_lock.wait()
            async with lock:
                await arena.run(write)

        async def write() -> None:
            await again.wait()
            arena.root["n"] += 100

        begun = time.monotonic()
        results = await asyncio.gather(arena.run(first, max_conflicts=1), second(), return_exceptions=True)
        assert isinstance(results[0], ConflictError)
        assert results[1] is None
        assert 0.15 < time.monotonic() - begun < 3
        assert arena.root["n"] == 110


@pytest.mark.parametrize("max_conflicts", [1, 3])
async def test_in_a_storm_everybody_ends(arena: Arena, max_conflicts: int) -> None:
    """Sixty requests over one number, all at once: each is done in at most max_conflicts + 1 runs."""
    runs: list[int] = []

    async def storm() -> None:
        value = arena.root["n"]
        await asyncio.sleep(0.001)
        arena.root["n"] = value + 1
        recoverable.after_commit(runs.append, recoverable.attempt())

    await asyncio.gather(*(arena.run(storm, max_conflicts=max_conflicts) for _ in range(60)))
    assert arena.root["n"] == 60
    assert len(runs) == 60
    assert max(runs) == max_conflicts + 1
    assert arena.stats().in_flight == 0
    assert not arena.native.give_way
