"""The place of a request in a queue, and what is learned of a handler: each rule by itself, where no load would need it."""

from __future__ import annotations

import asyncio
import contextvars
from types import SimpleNamespace
from typing import Any

import pytest

from recoverable import Arena, ConflictError, attempt, contention, turns
from recoverable._native.runtime import Turn, unit_of, whole_of
from recoverable.contention import Habit, Place
from recoverable.runner import commit_early

ONE, TWO, ELSEWHERE = (7, 1, 1), (7, 1, 2), (8, 1, 2)  # spots: two of one container


async def test_two_losses_in_one_container_stand_for_all_of_it(arena: Arena) -> None:
    """Its next run may lose at a third place of that; a loss in another container says nothing of this one."""
    place = Place(arena.native)
    for spot, unit in ((ONE, ONE), (TWO, whole_of(TWO)), (ELSEWHERE, ELSEWHERE), (ELSEWHERE, ELSEWHERE)):
        await place.stand_again(spot)
        assert place._turn is not None
        assert place._turn.unit == unit_of(unit)
    place.leave()
    assert arena.native.queues() == (0, 0)


async def test_what_is_inside_one_that_has_a_place_takes_none(arena: Arena) -> None:
    """Two who have a place each, and wait for each other's, would never end; without one around it, it takes one."""
    outer, inner = Place(arena.native), Place(arena.native)
    await outer.stand(ONE)
    other = Turn(arena.native, TWO)
    await asyncio.wait_for(asyncio.create_task(inner.stand(TWO)), 0.5)
    assert not inner.is_in_queue()
    outer.leave()
    other.drop()
    await inner.stand(TWO)
    assert inner.is_in_queue()
    inner.leave()


def test_by_hand_nobody_waits(arena: Arena) -> None:
    """Who drives a coroutine without an event loop waits for no turn: nobody would drive those before it."""
    first, place = Turn(arena.native, ONE), Place(arena.native)
    with pytest.raises(StopIteration):
        place.stand(ONE).send(None)
    assert not place.waited
    first.drop()


async def watched(arena: Arena, between: int = 0) -> None:
    """Have a handler lose until it is watched, with so many commits of others before each loss."""

    async def sell() -> None:
        left = arena.root["stock"]
        await asyncio.sleep(0.001)
        arena.root["stock"] = left - 1

    sell.__qualname__ = "sell"
    for _ in range(8):
        for n in range(between):
            with arena.transaction():
                arena.root["other"] = n
        await asyncio.gather(arena.run(sell), arena.run(sell))


@pytest.fixture
def shop(arena: Arena) -> Arena:
    """Give an arena with a number."""
    with arena.transaction():
        arena.root["stock"] = 1000
    return arena


async def test_a_handler_that_loses_now_and_then_is_not_watched(shop: Arena) -> None:
    """Six losses, but with many commits between them, are no hot spot; six soon after each other are one."""
    await watched(shop, between=40)
    assert shop.native.watched == set()
    await watched(shop)
    assert shop.native.watched == {"sell"}


async def test_a_run_that_was_cancelled_is_no_evidence(shop: Arena) -> None:
    """That a first run was cancelled before it could lose does not say that it would not have lost."""

    async def sell() -> None:
        shop.root["stock"] -= 1
        await asyncio.sleep(10)

    sell.__qualname__ = "sell"
    await watched(shop)
    (habit,), (watch,) = shop.native.habits.values(), shop.native.watches.values()
    before = habit._n, habit._bits, watch.quiet
    for _ in range(20):
        task = asyncio.ensure_future(shop.run(sell))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (habit._n, habit._bits, watch.quiet) == before


def disturb(arena: Arena) -> None:
    """Have somebody else commit a write there."""

    def block() -> None:
        with arena.transaction():
            arena.root["stock"] += 1

    contextvars.Context().run(block)


async def test_who_only_reads_and_loses_in_its_turn_again_and_again_holds_nobody_up(shop: Arena) -> None:
    """Its requests have their turns for two runs in all, not for five each; until one of that handler commits a write."""
    held: list[bool] = []
    loses = writes = True

    async def get() -> int:
        place = contention._inside.get()
        held.append(place is not None and place.is_in_queue())
        left: int = shop.root["stock"]
        if loses or attempt() == 1:
            disturb(shop)
        await asyncio.sleep(0)
        if writes and not loses:
            shop.root["stock"] = left
        return int(shop.root["stock"])

    get.__qualname__ = "get"
    for _ in range(3):
        with pytest.raises(ConflictError):
            await shop.run(get)
    assert held == [False, True, True] + [False] * 15
    held.clear()
    loses = writes = False
    await shop.run(get)
    writes = True
    await shop.run(get)
    await shop.run(get)
    assert held == [False, False] * 2 + [False, True]
    assert shop.native.queues() == (0, 0)


async def test_who_has_kept_others_waiting_for_too_long_does_not_do_so_again(shop: Arena) -> None:
    """Others wait for a turn as long as it is worth to them; who was slower has none any more, wherever it loses next."""
    place, behind = Place(shop.native), Turn(shop.native, TWO)
    await place.stand(ONE)
    quick = Turn(shop.native, ONE, None, 1e-9)
    while not quick.has_come():
        pass
    assert not place.is_in_queue()
    quick.drop()
    await place.stand_again(ONE)
    assert not place.is_in_queue()
    behind.drop()
    await place.stand_again(ELSEWHERE)
    assert not place.is_in_queue()
    place.leave()
    assert shop.native.queues() == (0, 0)


async def test_a_turn_is_waited_for_as_long_as_it_is_worth(shop: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty runs of one's own handler, 50 ms at least; of one that has not committed yet nothing is known."""
    drawn: list[float] = []

    def draw(native: Any, spot: Any, handler: str | None, patience: float) -> Turn:
        drawn.append(patience)
        return Turn(native, spot, handler, patience)

    monkeypatch.setattr(turns, "Turn", draw)
    await watched(shop)
    assert drawn[0] == 0
    watch = shop.native.watches["sell"]
    assert 0 < watch.took < 1
    for took, patience in ((0.001, 0.05), (0.004, 0.08), (0.1, 2)):
        watch.took = took
        place = Place(shop.native, SimpleNamespace(handler="sell", parent=None, around=None))  # type: ignore[arg-type]
        entry = place._entry(ONE)
        entry.enter()
        entry.leave()
        assert drawn[-1] == pytest.approx(patience)


@pytest.mark.parametrize("early", [False, True])
async def test_a_turn_whose_run_commits_a_write_was_not_in_vain(shop: Arena, early: bool) -> None:
    """Nor is how long a handler goes on after it has committed the time that its runs take."""

    async def sell() -> None:
        left = shop.root["stock"]
        if attempt() == 1:
            disturb(shop)
        else:
            seen.append(watch().vain)
        shop.root["stock"] = left - 1
        if early:
            await commit_early()
            seen.append(watch().vain)
            await asyncio.sleep(0)

    def watch() -> contention._Watch:
        found: contention._Watch = shop.native.watches["sell"]
        return found

    sell.__qualname__ = "sell"
    seen: list[int] = []
    for _ in range(4):
        await shop.run(sell)
        seen.append(watch().vain)
    assert set(seen) == {0}
    assert (watch().took == 0) is early
    assert watch().writes
    assert shop.native.queues() == (0, 0)


async def test_a_run_that_is_cancelled_was_not_in_vain(shop: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """It might have committed. But where others have waited for it for too long already, it counts."""
    inside, drawn = asyncio.Event(), []

    def draw(native: Any, spot: Any, *rest: Any) -> Turn:
        drawn.append((spot, Turn(native, spot, *rest)))
        return drawn[-1][1]

    async def sell() -> None:
        left = shop.root["stock"]
        if attempt() == 1:
            disturb(shop)
            shop.root["stock"] = left - 1
            return
        inside.set()
        await asyncio.sleep(60)

    sell.__qualname__ = "sell"
    monkeypatch.setattr(turns, "Turn", draw)
    for taken in (False, True):
        inside.clear()
        drawn.clear()
        task = asyncio.ensure_future(shop.run(sell))
        await asyncio.wait_for(inside.wait(), 20)
        ((spot, turn),) = drawn
        if taken:
            quick = Turn(shop.native, spot, None, 1e-9)
            while not quick.has_come():
                pass
            quick.drop()
        assert turn.held is not taken
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert shop.native.watches["sell"].vain == (4 if taken else 0)


async def test_who_commits_early_inside_of_another_leaves_its_own_place_only(shop: Arena) -> None:
    """A request that another one makes has its turn in that one's, which goes on."""

    async def early() -> None:
        shop.root["stock"] -= 1
        await commit_early()

    outer = Place(shop.native)
    await outer.stand(ONE)
    await shop.run(early)
    assert outer.is_in_queue()
    outer.leave()


async def test_whatever_is_raised_on_the_way_leaves_no_place_behind(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a signal's handler, say: after a place was taken and before it is waited for, or before it is left."""

    class Signal(BaseException):
        pass

    def interrupt(*_: Any, **__: Any) -> None:
        raise Signal

    first, place = Turn(arena.native, ONE), Place(arena.native)
    with monkeypatch.context() as patch:
        patch.setattr(Habit, "probes", interrupt)
        with pytest.raises(Signal):
            await place.stand(ONE, Habit())
    first.drop()
    assert (arena.native.queues(), arena.native.fronts) == ((0, 0), {})
    await place.stand(ONE)
    assert place.is_in_queue()
    with monkeypatch.context() as patch:
        patch.setattr(Place, "_in_vain", interrupt)
        with pytest.raises(Signal):
            place.leave()
    assert (arena.native.queues(), arena.native.fronts) == ((0, 0), {})
