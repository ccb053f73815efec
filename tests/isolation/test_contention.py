"""Hot keys: requests that lose at one place run again one after another, and who hangs or dies there is not waited for."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import recoverable
from recoverable import Arena, Array, ConflictError, Counter, Deque, attempt, contention
from recoverable._native.runtime import Turn
from recoverable.contention import Habit, Place, _inside
from recoverable.runner import commit_early
from support.children import child

REQUESTS, AT_ONCE = 200, 20
Body = Callable[[Any, int], Awaitable[None]]


async def wait() -> None:
    """Wait as a handler does that asks somebody."""
    await asyncio.sleep(0.001)


async def stock(root: Any, i: int) -> None:
    left = root["stock"]
    root["stock"] = left - 1
    await wait()


async def checked_counter(root: Any, i: int) -> None:
    if root["counter"].value > 0:
        root["counter"].add(-1)
    await wait()


async def serial_number(root: Any, i: int) -> None:
    root["counter"].add(1)
    root["made"][root["counter"].value] = i
    await wait()


async def insert_and_len(root: Any, i: int) -> None:
    root["made"][f"x{i}"] = 1
    len(root["made"])
    await wait()


async def lru_miss(root: Any, i: int) -> None:
    root["lru"][f"n{i}"] = i
    while len(root["lru"]) > 100:
        del root["lru"][next(iter(root["lru"]))]
    await wait()


async def consumer(root: Any, i: int) -> None:
    if root["queue"]:
        root["queue"].popleft()
    await wait()


async def insert(root: Any, i: int) -> None:
    root["made"][f"y{i}"] = 1
    await wait()


async def blind(root: Any, i: int) -> None:
    root["counter"].add(-1)
    await wait()


async def late(root: Any, i: int) -> None:
    await wait()
    root["stock"] -= 1


@pytest.fixture
def shop(arena: Arena) -> Arena:
    """Give an arena with everything that the bodies above use."""
    with arena.transaction():
        arena.root.update(
            stock=10**6,
            counter=Counter(10**6),
            made={},
            lru={f"k{i}": i for i in range(100)},
            queue=Deque(range(REQUESTS)),
        )
    return arena


async def load(body: Body, arena: Arena, requests: int = REQUESTS, *, by_run: bool = False) -> int:
    """Send so many requests, some at once; return how many runs they took."""
    runs = 0
    enough = asyncio.Semaphore(AT_ONCE)

    async def undecorated(i: int) -> None:
        nonlocal runs
        runs += 1
        await body(arena.root, i)

    decorated = recoverable.recoverable(arena=arena)(undecorated)

    async def one(i: int) -> None:
        async with enough:
            await (arena.run(undecorated, i) if by_run else decorated(i))

    await asyncio.gather(*map(one, range(requests)))
    return runs


@pytest.mark.parametrize("by_run", [False, True], ids=["decorated", "run"])
@pytest.mark.parametrize("body", [stock, checked_counter, serial_number, insert_and_len, lru_miss, consumer])
async def test_a_hot_place_takes_few_runs(shop: Arena, body: Body, by_run: bool) -> None:
    """The first twenty all lose but one; from then on they stand in a queue."""
    assert await load(body, shop, by_run=by_run) <= 1.3 * REQUESTS
    if body is stock:
        assert shop.root["stock"] == 10**6 - REQUESTS
    if body is consumer:
        assert len(shop.root["queue"]) == 0
    assert queues(shop) == {}


@pytest.mark.parametrize("body", [insert, blind, late])
async def test_without_a_conflict_there_is_no_queue(shop: Arena, body: Body) -> None:
    """Each runs once, and nobody is watched."""
    assert await load(body, shop) == REQUESTS
    assert (shop.native.habits, shop.native.watches) == ({}, {})


def queues(arena: Arena) -> dict[Any, Any]:
    """Who waits in this process."""
    return arena.native.lines


async def test_what_is_hot_no_more_is_no_more_queued_for(shop: Arena) -> None:
    """A handler that does not lose any more is found out, and watched no more."""
    hot = True
    runs = 0

    @recoverable.recoverable(arena=shop)
    async def handler(i: int) -> None:
        nonlocal runs
        runs += 1
        if hot:
            await stock(shop.root, i)
        else:
            await insert(shop.root, i)

    for _ in range(2):
        await asyncio.gather(*map(handler, range(40)))
    (habit,) = shop.native.habits.values()
    assert habit.queues
    hot, runs = False, 0
    for i in range(200):
        await handler(i)
    assert runs == 200
    assert not habit.queues
    (watch,) = shop.native.watches.values()
    assert watch.lost == 0
    assert shop.native.habits == {}  # when it loses again, it may be for another reason


async def test_one_of_ten_does_not_hold_up_the_others(shop: Arena) -> None:
    """One handler, one key in ten is hot: those that use another one never wait, and run once."""
    runs: dict[int, int] = {}
    with shop.transaction():
        shop.root["keys"] = dict.fromkeys(map(str, range(REQUESTS)), 0)

    @recoverable.recoverable(arena=shop)
    async def handler(i: int) -> None:
        runs[i] = runs.get(i, 0) + 1
        key = "0" if i % 10 == 0 else str(i)
        value = shop.root["keys"][key]
        await wait()
        shop.root["keys"][key] = value + 1

    await asyncio.gather(*map(handler, range(REQUESTS)))
    assert shop.root["keys"]["0"] == REQUESTS // 10
    assert {runs[i] for i in range(REQUESTS) if i % 10} == {1}


async def test_a_queue_ends_where_nobody_would_lose(shop: Arena) -> None:
    """What was hot is only read any more, by many at once: that they wait for each other is no reason to go on with it."""
    at_once = most = 0

    @recoverable.recoverable(arena=shop)
    async def handler(i: int) -> None:
        nonlocal at_once, most
        left = shop.root["stock"]
        if left > 10**6 - 60:
            shop.root["stock"] = left - 1
        at_once += 1
        most = max(most, at_once)
        await wait()
        at_once -= 1

    for _ in range(2):
        await asyncio.gather(*map(handler, range(40)))
    (habit,) = shop.native.habits.values()
    for _ in range(6):
        await asyncio.gather(*map(handler, range(40)))
    assert not habit.queues
    most = 0
    await asyncio.gather(*map(handler, range(40)))
    assert most == 40


def test_a_habit_of_losing_where_several_commit_abreast() -> None:
    """First runs that all lose wait where one after another is all that can be had, and not where several commit meanwhile."""
    habit, spot = Habit(), (7, 2, 1)
    for abreast, queues in ((1, True), (6, False), (1, True)):
        for _ in range(32):
            habit.lost(spot)
            habit.note(True, abreast)
        assert habit.queues is queues


def test_a_habit_moves_with_its_place() -> None:
    """Where another place is hot now, that is found out as soon as it was the first time."""
    habit = Habit()
    for spot in ((7, 2, 1), (8, 2, 1), (9, 2, 1)):
        runs = 0
        while not (habit.queues and habit.covers(spot)):
            habit.lost(spot)
            habit.note(habit.covers(spot), 1)
            runs += 1
        for _ in range(40):
            habit.lost(spot)
            habit.note(True, 1)
        assert runs <= 10


async def test_a_storm_over_several_keys_is_not_put_in_one_queue(shop: Arena) -> None:
    """Transfers among ten accounts lose nearly all their first runs, but not one after another: these go on running at once."""
    with shop.transaction():
        shop.root["ten"] = dict.fromkeys(range(10), 0)
    first_waits = 0

    async def transfer(i: int) -> None:
        nonlocal first_waits
        place = _inside.get()
        first_waits += attempt() == 1 and place is not None and place.waited
        shop.root["ten"][i * 7 % 10] -= 1
        await wait()
        shop.root["ten"][i * 3 % 10] += 1

    handler = recoverable.recoverable(arena=shop)(transfer)

    async def client(number: int) -> None:
        for turn in range(4):
            await handler(number + 13 * turn)

    await asyncio.gather(*map(client, range(100)))
    assert sum(shop.root["ten"].values()) == 0
    assert first_waits < 40


async def test_what_commits_early_leaves_its_place(shop: Arena) -> None:
    """A handler that has had its turn, commits and goes on for long (a WebSocket's) is in nobody's way."""
    hang = asyncio.Event()
    places: list[Any] = []

    async def body(i: int) -> None:
        left = shop.root["stock"]
        shop.root["stock"] = left - 1
        await wait()
        await commit_early()
        places.append(_inside.get())
        await hang.wait()

    tasks = [asyncio.ensure_future(shop.run(body, i)) for i in range(10)]
    begun = time.monotonic()
    while len(places) < 10:  # noqa: ASYNC110 -- ten of them, each waiting for the others
        await asyncio.sleep(0.005)
    assert time.monotonic() - begun < 3  # not a second each
    assert places == [None] * 10
    assert shop.root["stock"] == 10**6 - 10
    hang.set()
    await asyncio.gather(*tasks)


# -- who is in the way ---------------------------------------------------------------------------------------------------


SPOT = (1, 1, 7)


def test_first_come_first_served(arena: Arena) -> None:
    """Turns come in the order in which the places were taken, each when all before it are gone."""
    turns = [Turn(arena.native, SPOT) for _ in range(5)]
    other = Turn(arena.native, (1, 1, 8))
    assert other.has_come()
    for i, turn in enumerate(turns):
        assert [each.has_come() for each in turns[i:]] == [True] + [False] * (4 - i)
        turn.drop()
        turn.drop()
    assert not turns[0].held


def test_one_that_is_forgotten_is_left(arena: Arena) -> None:
    """A Turn that nobody has any more holds nobody up."""
    first, second = Turn(arena.native, SPOT), Turn(arena.native, SPOT)
    assert not second.has_come()
    del first
    assert second.has_come()


def test_one_that_the_collector_takes_apart(arena: Arena) -> None:
    """It is found in a ring that nobody has any more: it leaves its place, and touches nothing that is gone."""
    ring: list[Any] = [Turn(arena.native, SPOT)]
    ring.append(ring)
    second = Turn(arena.native, SPOT)
    assert not second.has_come()
    del ring
    gc.collect()
    assert second.has_come()


def test_one_whose_number_was_taken_away_knows(arena: Arena) -> None:
    """Others have waited for it for a second: it has no place any more, and its next run draws another."""
    first, second = Turn(arena.native, SPOT), Turn(arena.native, SPOT)
    assert not second.has_come()
    wait_for(second.has_come)
    assert not first.held
    assert second.held
    first.drop()
    assert second.held


def test_when_all_places_are_taken_nobody_waits(arena: Arena) -> None:
    """There are 512; who finds none goes on as if there were no queue."""
    turns = [Turn(arena.native, SPOT) for _ in range(512)]
    assert all(turn.held for turn in turns)
    last = Turn(arena.native, SPOT)
    assert not last.held
    assert last.has_come()
    del turns
    assert Turn(arena.native, SPOT).held


def test_a_child_leaves_what_is_its_parents(arena: Arena) -> None:
    """A forked child that drops what it has inherited, or ends, leaves the parent's place alone; and has places of its own."""
    first, second = Turn(arena.native, SPOT), Turn(arena.native, SPOT)

    def inside() -> None:
        first.drop()
        with arena.transaction():  # which makes it a process of its own
            arena.root["child"] = 1
        second.drop()
        own = Turn(arena.native, SPOT)
        assert own.held
        assert not own.has_come()

    with child(inside):
        pass
    assert not second.has_come()
    first.drop()
    assert second.has_come()


def test_the_dead_are_not_waited_for(arena: Arena) -> None:
    """A process that is killed with its turn, and with another place behind it, is found dead at the next look."""
    with child(lambda: stands(arena)) as pid:
        wait_for(lambda: arena.root.get("stands") == 1)
        mine = Turn(arena.native, SPOT)
        assert not mine.has_come()
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        wait_for(mine.has_come)
        assert time.monotonic() - killed < 0.9  # those who live and hang are waited for a second
    assert Turn(arena.native, SPOT).held


def stands(arena: Arena) -> None:
    """Take two places and stay."""
    with arena.transaction():
        arena.root["before"] = 1
    turns = [Turn(arena.native, SPOT), Turn(arena.native, SPOT)]
    with arena.transaction():
        arena.root["stands"] = len(turns) - 1
    time.sleep(60)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


async def test_one_that_hangs_holds_the_others_up_for_a_second(shop: Arena) -> None:
    """A run that has its turn and never ends: the next goes on without it, and the places are left in the end."""
    hang, hangs = asyncio.Event(), asyncio.Event()
    runs: list[int] = []

    async def body(i: int) -> None:
        runs.append(i)
        left = shop.root["stock"]
        shop.root["stock"] = left - 1
        await wait()
        if i == 1 and runs.count(1) == 2:
            hangs.set()
            await hang.wait()

    hanging = asyncio.gather(*(shop.run(body, i) for i in range(2)))  # 1 loses to 0, and has its turn
    await hangs.wait()
    begun = time.monotonic()
    await asyncio.gather(*(shop.run(body, i) for i in range(2, 6)))
    assert time.monotonic() - begun < 4
    assert shop.root["stock"] == 10**6 - 5
    hang.set()
    await hanging
    assert shop.root["stock"] == 10**6 - 6
    assert queues(shop) == {}


async def test_cancelled_while_it_waits_it_leaves_its_place(shop: Arena) -> None:
    """Nobody waits for a request that was cancelled in the queue, or whose time was over there."""
    first = Turn(shop.native, SPOT)
    place = Place(shop.native)
    task = asyncio.ensure_future(place.stand(SPOT))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert queues(shop) == {}
    last = Turn(shop.native, SPOT)
    first.drop()
    assert last.has_come()


async def test_the_time_limit_counts_the_waiting(shop: Arena) -> None:
    """A request that waits for its turn beyond its timeout= gets its TimeoutError, and nothing of it is committed."""
    hang, hangs = asyncio.Event(), asyncio.Event()
    runs: dict[int, int] = {}

    async def body(i: int) -> None:
        runs[i] = runs.get(i, 0) + 1
        left = shop.root["stock"]
        shop.root["stock"] = left - 1
        await wait()
        if i == 1 and runs[1] == 2:
            hangs.set()
            await hang.wait()

    first = asyncio.gather(*(shop.run(body, i) for i in range(2)))
    await hangs.wait()
    results = await asyncio.gather(*(shop.run(body, i, timeout=0.3) for i in range(2, 5)), return_exceptions=True)
    assert [type(result) for result in results].count(TimeoutError) >= 1
    hang.set()
    await first
    done = results.count(None)
    assert shop.root["stock"] == 10**6 - 2 - done
    assert queues(shop) == {}


async def test_max_conflicts_0_does_not_wait(shop: Arena) -> None:
    """A request that is not to run again raises at once: it waits for no turn."""
    results = await asyncio.gather(
        *(shop.run(stock, shop.root, i, max_conflicts=0) for i in range(10)), return_exceptions=True
    )
    assert results.count(None) == 1
    assert sum(isinstance(result, ConflictError) for result in results) == 9
    assert queues(shop) == {}


async def test_what_runs_inside_a_request_that_has_its_turn_takes_no_place(shop: Arena) -> None:
    """An independent transaction, and parts: two requests that want each other's places never wait for each other."""
    order: list[str] = []

    async def inner(key: str) -> None:
        left = shop.root[key]
        shop.root[key] = left - 1
        await wait()

    async def outer(i: int) -> None:
        first, second = ("stock", "other") if i % 2 else ("other", "stock")
        left = shop.root[first]
        await shop.run(inner, second, nested="independent", max_conflicts=20)
        await wait()
        shop.root[first + "-seen"] = left
        order.append(first)

    with shop.transaction():
        shop.root["other"] = 10**6
    await asyncio.wait_for(asyncio.gather(*(shop.run(outer, i, max_conflicts=30) for i in range(6))), 30)
    assert len(order) >= 6
    assert queues(shop) == {}


def test_two_processes_stand_in_one_queue(shop: Arena) -> None:
    """Each loads the same number; nothing is lost, and there is no storm, in which each would run five times and more."""

    def inside() -> None:
        runs = asyncio.run(load(stock, shop, 100))
        with shop.transaction():
            shop.root["runs"] = runs

    with child(inside):
        runs = asyncio.run(load(stock, shop, 100))
    assert shop.root["stock"] == 10**6 - 200
    assert runs + shop.root["runs"] <= 3 * 200


async def test_items_of_an_array(shop: Arena) -> None:
    """Where each run loses at another item of one Array, they stand for all of it."""
    with shop.transaction():
        shop.root["tree"] = Array((1025,), "i8")

    async def fenwick(root: Any, i: int) -> None:
        at = i + 1
        while at <= 1024:
            root["tree"][at] += 1
            at += at & -at
        await wait()

    assert await load(fenwick, shop) <= 2 * REQUESTS
    assert shop.root["tree"][1024] == REQUESTS


async def test_an_independent_one_inside_a_privileged_run_waits_for_no_turn(
    shop: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those ahead of it may be waiting for the privileged run, which waits for it: it runs again at once."""
    drawn: list[Any] = []

    def draw(native: Any, spot: Any, *rest: Any) -> Turn:
        drawn.append(spot)
        return Turn(native, spot, *rest)

    monkeypatch.setattr("recoverable.turns.Turn", draw)

    def disturb(key: str) -> None:
        with shop.transaction():
            shop.root[key] += 1

    @recoverable.recoverable(arena=shop, nested="independent")
    async def inner(runs: list[int]) -> None:
        runs.append(1)
        n = shop.root["stock"]
        if len(runs) == 1:
            await asyncio.to_thread(disturb, "stock")
        shop.root["stock"] = n - 1

    await inner([])
    (spot,) = drawn
    outer_runs: list[int] = []
    inner_runs: list[int] = []

    @recoverable.recoverable(arena=shop, max_conflicts=1)
    async def outer() -> None:
        outer_runs.append(1)
        n = shop.root["other"]
        if len(outer_runs) == 1:
            await asyncio.to_thread(disturb, "other")
        else:
            place = _inside.get()
            assert place is not None
            place.leave()  # as where others have waited for it for a second
            hanging.append(Turn(shop.native, spot))
            await inner(inner_runs)
        shop.root["other"] = n + 1

    with shop.transaction():
        shop.root["other"] = 0
    hanging: list[Turn] = []
    begun = time.monotonic()
    await outer()
    assert time.monotonic() - begun < 0.9  # it is a second that one who hangs is waited for
    assert (len(outer_runs), len(inner_runs)) == (2, 2)


async def test_waves_of_requests_keep_their_queue(shop: Arena) -> None:
    """Who finds the queue empty, as the first of each wave does, is no evidence against it: no later wave loses its first runs."""
    runs = 0

    @recoverable.recoverable(arena=shop)
    async def sell() -> None:
        nonlocal runs
        runs += 1
        await stock(shop.root, 0)

    await asyncio.gather(*(sell() for _ in range(15)))
    runs = 0
    for _ in range(12):
        await asyncio.gather(*(sell() for _ in range(15)))
    assert runs <= 180 * 1.15


async def test_of_many_handlers_those_that_lost_last_are_watched(shop: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, a bounded number is known by name; the oldest are forgotten."""
    monkeypatch.setattr(contention, "_HABITS", 3)
    for n in range(5):

        async def handler() -> None:
            await stock(shop.root, 0)

        handler.__qualname__ = f"handler {n}"
        await asyncio.gather(*(shop.run(handler) for _ in range(12)))
    assert set(shop.native.watches) == {"handler 2", "handler 3", "handler 4"}
    assert shop.native.watched == set(shop.native.watches)
