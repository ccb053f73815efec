"""How long a request has waited, and whom it has waited for: counted once, whenever one looks; named, whenever it is told."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

import recoverable
from recoverable import Arena, Request, attempt
from recoverable._native import _counts
from recoverable._native.runtime import Transaction, Turn, current_transaction, late, whole_of
from recoverable.cli import _outside
from recoverable.contention import Place
from recoverable.inflight import here
from recoverable.waits import waiting
from support.hanging import running
from support.instructions import interrupted
from support.workers import Request as ByHand
from support.workers import pause

SPOT = (1, 1, 7)
WAITED = 0.003


def ended(arena: Arena) -> Transaction:
    """Give a transaction that has ended, as one that has lost has."""
    transaction = Transaction(arena.native, "waits", False)
    transaction.rollback()
    return transaction


def held_up(log: list[Any]) -> list[Any]:
    """Return the events of requests that are held up."""
    return [event for event in log if event["event"] == "request.held_up"]


# -- how long --------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_wait_that_ends_while_it_is_looked_at_counts_once(arena: Arena) -> None:
    """Whichever instruction of a look the wait ends at: it is not counted as past and as present."""
    seen: list[Request] = []
    interrupted(lambda: here(arena.native), -1, int)  # Python 3.13 traces instructions from the next call on
    for at in itertools.count():
        wait = waiting(ended(arena), "turn", lambda: None)
        begun = time.monotonic()
        wait.__enter__()
        time.sleep(WAITED)
        end: Callable[[], object] = lambda: wait.__exit__(None, None, None)  # noqa: B023, E731
        seen.clear()
        _, cut = interrupted(lambda: seen.extend(here(arena.native)), at, end)
        elapsed = time.monotonic() - begun
        for request in seen:
            assert WAITED <= request.waited <= elapsed
        if not cut:
            break
        assert at < 5000
    end()
    assert at > 10
    assert not any(arena.native.waits.values())


async def test_parts_that_wait_at_once_count_once(arena: Arena) -> None:
    """What parts of one request wait for at the same time is time that the request has waited once."""
    transactions: list[Transaction] = []
    took: list[float] = []

    async def part() -> None:
        transaction = current_transaction()
        transactions.append(transaction)
        with waiting(transaction, "turn", lambda: None):
            await asyncio.sleep(0.04)

    async def body() -> None:
        arena.root["a"] = 1
        begun = time.monotonic()
        await recoverable.gather(part(), part(), part())
        took.append(time.monotonic() - begun)
        (request,) = await asyncio.to_thread(arena.requests)
        assert 0.03 < request.waited <= took[0]

    with capture_logs() as log:
        await arena.run(body)
    assert len(set(map(id, transactions))) == 1
    assert held_up(log) == [] or took[0] >= 0.1


async def test_waits_before_each_run_add_up(arena: Arena) -> None:
    """One that stands before its second and its third run is listed with the run it was in last, and is told of once."""
    with arena.transaction():
        arena.root.update(stock=0, other=0)

    async def loses() -> None:
        left = arena.root["stock"] + arena.root["other"]
        if attempt() < 3:
            await asyncio.to_thread(change, ("stock", "other")[attempt() - 1], (spot, whole_of(spot))[attempt() - 1])
        else:
            with waiting(current_transaction(), "turn", lambda: None):
                await asyncio.sleep(0.12)
        arena.root["stock"] = left - 1

    def change(key: str, where: tuple[int, int, int]) -> None:
        with arena.transaction():
            arena.root[key] += 100
        fronts.append(Turn(arena.native, where, "seller"))

    spot = stock_of(arena)
    fronts: list[Turn] = []
    with capture_logs() as log:
        task = asyncio.ensure_future(arena.run(loses))
        for run in (1, 2):
            found: list[Request] = []
            while not found:
                await asyncio.sleep(0.001)
                found = [each for each in here(arena.native) if each.waited > run * 0.06]
            (request,) = found
            assert (request.run, request.waits_for, request.holder) == (run, "turn", "seller")
            fronts.pop().drop()
            await asyncio.sleep(0.02)
        await task
    (event,) = held_up(log)
    assert {each["request_id"] for each in log if "request_id" in each} == {event["request_id"]}


def stock_of(arena: Arena) -> tuple[int, int, int]:
    """Return the spot of the stock, as a conflict there has it."""

    async def loses() -> None:
        left = arena.root["stock"]
        await pause()
        arena.root["stock"] = left - 1

    request = ByHand(arena, loses)
    request.step()
    with arena.transaction():
        arena.root["stock"] += 1
    with pytest.raises(recoverable.ConflictError):
        request.step()
    with _outside.opened(arena.name) as fd:
        _, (spot,) = _counts.peek_board(fd, arena.name)
    return spot["id"], spot["kind"], spot["arg"]


# -- whom ------------------------------------------------------------------------------------------------------------------------


async def test_whom_it_has_waited_for_is_known_when_that_one_is_gone(arena: Arena) -> None:
    """Told only once the wait is over, since the loop stood still meanwhile, it names whom it has waited for."""
    front = Turn(arena.native, SPOT, "seller")
    place = Place(arena.native, ended(arena))
    with capture_logs() as log:
        async with running(place.stand(SPOT)) as (task,):
            time.sleep(0.15)
            front.drop()
            await task
            await asyncio.sleep(0.05)
    place.leave()
    (event,) = held_up(log)
    assert (event["holder"], event["pid"]) == ("seller", os.getpid())


@pytest.mark.parametrize("then", [None, (0, ""), (7, "")], ids=["gone", "unknown", "unnamed"])
def test_whom_it_has_waited_for_is_kept(arena: Arena, then: tuple[int, str] | None) -> None:
    """Driven by hand it is told when the wait is over, with the one that was known last."""
    known: list[tuple[int, str] | None] = [(7, "seller"), then]
    wait = waiting(ended(arena), "turn", lambda: known[0])
    with capture_logs() as log, wait:
        time.sleep(0.11)
        del known[0]
    (event,) = held_up(log)
    assert (event["holder"], event["pid"]) == ("seller", 7)


def test_one_whose_name_comes_later_is_told_with_it(arena: Arena) -> None:
    """Who stands there without a name yet is asked for again."""
    known: list[tuple[int, str] | None] = [(7, "")]
    wait = waiting(ended(arena), "turn", lambda: known[0])
    with capture_logs() as log, wait:
        time.sleep(0.11)
        known[0] = (7, "seller")
    (event,) = held_up(log)
    assert (event["holder"], event["pid"]) == ("seller", 7)


def test_another_one_that_stands_there_is_told_of(arena: Arena) -> None:
    """The next one ahead takes the place of the one before, also where its name is not known."""
    known: list[tuple[int, str] | None] = [(7, "seller")]
    wait = waiting(ended(arena), "turn", lambda: known[0])
    with capture_logs() as log, wait:
        time.sleep(0.11)
        known[0] = (8, "")
    (event,) = held_up(log)
    assert (event["holder"], event["pid"]) == (None, 8)


# -- when a signal's handler raises -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_interrupt_leaves_nobody_waiting(arena: Arena) -> None:
    """Whichever instruction of a wait's beginning or end it comes at: nobody is on the list, and no time goes on being counted."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    def waits() -> None:
        with waiting(transaction, "turn", lambda: None):
            pass

    transaction = ended(arena)
    interrupted(waits, -1, int)
    for at in itertools.count():
        transaction = ended(arena)
        try:
            _, cut = interrupted(waits, at, interrupt)
        except KeyboardInterrupt:
            cut = True
        assert not any(arena.native.waits.values())
        seconds = transaction.waited
        time.sleep(0.0001)
        assert transaction.waited == seconds
        if not cut:
            break
    assert at > 10


def test_a_look_that_is_interrupted_is_not_the_last(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the loop again has those told of that wait there."""
    looks: list[waiting] = []

    def look(wait: waiting) -> None:
        looks.append(wait)
        if len(looks) == 1:
            raise KeyboardInterrupt
        asyncio.get_running_loop().stop()

    async def waits() -> None:
        with waiting(ended(arena), "turn", lambda: None):
            await asyncio.sleep(30)

    monkeypatch.setattr(waiting, "look", look)
    loop = asyncio.new_event_loop()
    task = loop.create_task(waits())
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        loop.call_later(5, loop.stop)
        loop.run_forever()
        assert len(looks) == 2
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()


def test_one_who_waits_while_it_is_opened_is_told_then(arena: Arena, capfd: pytest.CaptureFixture[str]) -> None:
    """As one who opens it with a journal behind a long step: nobody knows its name yet."""
    holds = threading.Event()

    def hold() -> None:
        with arena.transaction():
            arena.root["stock"] = 1
            holds.set()
            while not arena.native.standing:
                time.sleep(0.002)
            time.sleep(late + 0.02)

    thread = threading.Thread(target=hold)
    root = arena.root
    with capture_logs() as log:
        thread.start()
        assert holds.wait(10)
        arena.native.owner = None
        len(root)
        arena.native.owner = arena
        thread.join()
        len(root)
    assert len(held_up(log)) == 1
    assert "Traceback" not in capfd.readouterr().err
