"""The place of a request in a queue, and what is learned of a handler: each rule by itself, where no load would need it."""

from __future__ import annotations

import asyncio

import pytest

from recoverable import Arena
from recoverable._native.runtime import Turn, unit_of, whole_of
from recoverable.contention import Place

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
