"""How requests come by a place in the queue of a spot: in order, however many, and for a bounded time in all."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from typing import Any

import pytest

from recoverable import Arena, attempt, contention, lines, turns
from recoverable._native.runtime import Transaction, Turn
from recoverable.contention import Place
from support.children import child

SPOT, OTHER = (7, 1, 1), (8, 1, 1)


def full_but(n: int, arena: Arena) -> list[Turn]:
    """Take all places of the table but so many, somewhere else."""
    return [Turn(arena.native, (1, 1, i)) for i in range(512 - n)]


async def settled() -> None:
    """Have the others go on until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


async def through(arena: Arena, requests: int) -> tuple[list[int], int, int]:
    """Have so many stand at one spot, and each leave when it has its turn: in which order, how many at once, places at most."""
    order: list[int] = []
    at_once = most = places = 0

    async def stand(i: int) -> None:
        nonlocal at_once, most, places
        place = Place(arena.native)
        await place.stand(SPOT)
        order.append(i)
        at_once += 1
        most, places = max(most, at_once), max(places, arena.native.queues()[1])
        await settled()
        at_once -= 1
        place.leave()

    await asyncio.gather(*map(stand, range(requests)))
    return order, most, places


@pytest.mark.parametrize("left", [512, 2, 1, 0])
async def test_those_of_a_process_go_in_order(arena: Arena, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    """So many have a place in the segment, or as many as are left there; all others stand in front. None left: they go singly."""
    monkeypatch.setattr(turns, "_PLACES", 3)
    others = full_but(left, arena)
    order, at_once, places = await through(arena, 12)
    assert order == list(range(12))
    assert at_once == 1
    assert places == (min(left, 3) or 1)
    assert (arena.native.fronts, arena.native.lines) == ({}, {})
    del others
    assert arena.native.queues() == (0, 0)


@pytest.mark.parametrize("left", [512, 0])
@pytest.mark.parametrize("woken", [False, True])
async def test_cancelled_in_front(arena: Arena, monkeypatch: pytest.MonkeyPatch, left: int, woken: bool) -> None:
    """Whether it still waits, or was let in a moment ago: it leaves nothing behind, and the next one goes on."""
    monkeypatch.setattr(turns, "_PLACES", 1)
    others = full_but(left, arena)
    first, *rest = places = [Place(arena.native) for _ in range(3)]
    await first.stand(SPOT)
    second, third = [asyncio.create_task(place.stand(SPOT), context=contextvars.Context()) for place in rest]
    await settled()
    if woken:
        first.leave()
    second.cancel()
    if not woken:
        await settled()
        first.leave()
    await third
    with pytest.raises(asyncio.CancelledError):
        await second
    assert [place.is_in_queue() for place in places] == [False, False, True]
    rest[1].leave()
    assert (arena.native.fronts, arena.native.lines) == ({}, {})
    del others


async def test_nobody_goes_ahead_of_those_in_front(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place has become free, and nobody was told of it, since others have taken its number away: the first in front has it."""
    monkeypatch.setattr(turns, "_PLACES", 1)
    order: list[int] = []

    async def stand(i: int) -> None:
        place = Place(arena.native)
        await place.stand(SPOT)
        order.append(i)
        place.leave()

    slow = Place(arena.native)
    await slow.stand(SPOT)
    second = asyncio.create_task(stand(2), context=contextvars.Context())
    await settled()
    quick = Turn(arena.native, SPOT, None, 1e-9)
    while not quick.has_come():
        pass
    quick.drop()
    third = asyncio.create_task(stand(3), context=contextvars.Context())
    await asyncio.wait_for(asyncio.gather(second, third), 20)
    assert order == [2, 3]
    slow.leave()
    assert arena.native.fronts == {}


async def test_one_without_a_place_is_waited_for_as_long_as_one_with(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on as if it had its turn, and hangs: the next one does so, too, when its time is over."""
    now = 0.0
    monkeypatch.setattr(turns, "monotonic", lambda: now)
    others = full_but(0, arena)
    hangs, place = Place(arena.native), Place(arena.native)
    await hangs.stand(SPOT)
    task = asyncio.create_task(place.stand(SPOT), context=contextvars.Context())
    for late in (0.0, 0.9):
        now = late
        await asyncio.sleep(0.05)
        assert not task.done()
    now = 1.1
    await asyncio.wait_for(task, 20)
    place.leave()
    hangs.leave()
    assert arena.native.fronts == {}
    del others


def test_a_forked_child_knows_of_none_of_its_parents(arena: Arena) -> None:
    """Those who stand here are the parent's: in the child they are in nobody's way, in front or elsewhere."""
    entry = turns.Entry(arena.native, SPOT, None, 0.0)
    entry.enter()
    assert entry.turn is not None

    def inside() -> None:
        assert arena.native.fronts == {}

    with child(inside):
        pass
    assert list(arena.native.fronts[entry.unit]) == [entry.turn]
    entry.leave()


def all_lose_their_numbers(arena: Arena) -> Turn:
    """Have somebody come who waits for a moment only: return its turn."""
    quick = Turn(arena.native, SPOT, None, 1e-9)
    while not quick.has_come():
        pass
    return quick


async def test_a_loop_that_hangs_keeps_no_other_one_in_front(arena: Arena) -> None:
    """All places that a loop may have are taken, and one more stands in front, and nobody drives it: another loop's come in."""
    hangs = asyncio.new_event_loop()
    theirs: list[turns.Entry] = []
    waiting: list[asyncio.Task[None]] = []

    async def come() -> None:
        for _ in range(65):
            theirs.append(turns.Entry(arena.native, SPOT, None, 0.0))
            theirs[-1].enter()
        waiting.append(asyncio.create_task(theirs[-1].stand_in_front(60)))
        await settled()

    async def go() -> None:
        waiting[0].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for entry in theirs:
            entry.leave()

    await asyncio.to_thread(hangs.run_until_complete, come())
    assert [entry.turn is not None for entry in theirs] == [True] * 64 + [False]
    entry = turns.Entry(arena.native, SPOT, None, 1e-9)
    entry.enter()
    assert entry.turn is not None
    while not entry.turn.has_come():
        pass
    assert entry.turn.held
    assert not any(each.turn.held for each in theirs if each.turn is not None)
    entry.leave()
    await asyncio.to_thread(hangs.run_until_complete, go())
    hangs.close()
    assert (arena.native.fronts, arena.native.lines) == ({}, {})


async def test_those_who_have_lost_their_numbers_do_not_fill_the_table(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that go on for long after others have waited for too long: only so many of them keep a place."""
    monkeypatch.setattr(turns, "_PLACES", 3)
    slow = [Place(arena.native) for _ in range(12)]
    for place in slow:
        await asyncio.create_task(place.stand(SPOT), context=contextvars.Context())
        all_lose_their_numbers(arena).drop()
    others = full_but(0, arena)
    assert sum(turn.drawn for turn in others) == 512 - 3
    assert not any(place.is_in_queue() for place in slow)
    del others
    last = all_lose_their_numbers(arena)
    again = asyncio.create_task(slow[0].stand_again(SPOT), context=contextvars.Context())
    await settled()
    assert not again.done()
    last.drop()
    await again
    assert not slow[0].is_in_queue()  # it has been waited for once
    for place in slow:
        place.leave()
    assert (arena.native.fronts, arena.native.lines) == ({}, {})


async def test_all_who_lose_their_numbers_while_they_wait_stand_there_again(arena: Arena) -> None:
    """After a moment in which their loop stood still all run at once; whoever loses then runs in its turn, as it would have."""
    head, lost, order = Turn(arena.native, SPOT), asyncio.Event(), []
    places = [Place(arena.native) for _ in range(3)]
    at_once = most = 0

    async def request(i: int) -> None:
        nonlocal at_once, most
        await places[i].stand(SPOT)
        await lost.wait()
        await places[i].stand_again(SPOT)
        order.append(i)
        at_once += 1
        most = max(most, at_once)
        await settled()
        at_once -= 1
        places[i].leave()

    tasks = [asyncio.create_task(request(i), context=contextvars.Context()) for i in range(3)]
    await settled()
    new_head = all_lose_their_numbers(arena)
    head.drop()
    while not all(place._turn for place in places):  # noqa: ASYNC110 -- they look every few milliseconds
        await asyncio.sleep(0.001)
    assert not any(place.is_in_queue() for place in places)
    lost.set()
    await settled()
    assert order == []
    new_head.drop()
    await asyncio.wait_for(asyncio.gather(*tasks), 20)
    assert (order, most) == ([0, 1, 2], 1)
    assert arena.native.fronts == {}


@pytest.mark.slow
async def test_more_requests_at_a_hot_key_than_there_are_places() -> None:
    """Each loses once, if at all, and runs again in its turn; there are 512 places, and seven hundred requests at once."""
    runs = 0
    with Arena.temporary(size="16 MiB", busy_timeout=60) as arena:
        with arena.transaction():
            arena.root["n"] = 0

        async def add() -> None:
            nonlocal runs
            runs += 1
            n = arena.root["n"]
            await asyncio.sleep(0)
            arena.root["n"] = n + 1

        await asyncio.gather(*(arena.run(add) for _ in range(700)))
        assert arena.root["n"] == 700
    assert runs <= 3 * 700


async def test_a_request_waits_for_busy_timeout_in_all(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it loses, and wherever: what it has waited at one spot it does not wait at the next."""
    now, waited = 0.0, []

    async def wait(native: Any, what: Any, is_over: Any, seconds: float, *rest: Any, **options: Any) -> bool:
        nonlocal now
        waited.append(seconds)
        now += 2
        return False

    monkeypatch.setattr(contention, "monotonic", lambda: now)
    monkeypatch.setattr(lines, "wait", wait)
    assert arena.native.busy_timeout == 5
    before = [Turn(arena.native, (i, 1, 1)) for i in range(1, 6)]
    place = Place(arena.native)
    for i in range(1, 6):
        await place.stand_again((i, 1, 1))
    assert waited == [5, 3, 1]
    place.leave()
    del before


async def test_a_chain_of_tasks_keeps_the_last_of_them(arena: Arena) -> None:
    """A job that starts its successor in a run that stands in the queue, and so on: what is over is forgotten."""
    with arena.transaction():
        arena.root.update({f"k{number}": 0 for number in range(31)})
    last, tasks, counts = 30, [], []
    inside = [asyncio.Event() for _ in range(last + 1)]  # its predecessor still stands in the queue
    stands = []

    def disturb(key: str) -> None:
        with arena.transaction():
            arena.root[key] += 1

    async def job(number: int) -> None:
        n = arena.root[f"k{number}"]
        if attempt() == 2:
            inside[number].set()
            await asyncio.gather(*tasks[number - 1 : number])
        if attempt() <= 2:
            contextvars.Context().run(disturb, f"k{number}")
        arena.root[f"k{number}"] = n + 1
        place = contention._inside.get()
        stands.append(place is not None and place.is_in_queue())
        gc.collect()
        alive = gc.get_objects()
        counts.append((sum(type(o) is Place for o in alive), sum(type(o) is Transaction for o in alive)))
        if number < last:
            tasks.append(asyncio.create_task(arena.run(job, number + 1)))
            await inside[number + 1].wait()

    tasks.append(asyncio.create_task(arena.run(job, 0)))
    for number in range(last + 1):
        await asyncio.wait_for(tasks[number], 20)
    assert stands == [True] * (last + 1)
    (places, transactions), (late_places, late_transactions) = counts[4], counts[-1]
    assert late_places <= places + 1
    assert late_transactions <= transactions + 1
