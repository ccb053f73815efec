"""`request.held_up`: who waits for long is told of, with whom it waits for, once a request, while it still waits."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from recoverable import Arena, attempt
from recoverable._native.runtime import Transaction, Turn, current_transaction, unit_of
from recoverable.contention import Place
from recoverable.waits import waiting
from support.children import child
from support.workers import Request, pause


@pytest.fixture
def arena(arena: Arena) -> Arena:
    """Give an arena with a number."""
    with arena.transaction():
        arena.root.update(stock=10**6, other=0)
    return arena


@contextlib.contextmanager
def told() -> Iterator[Callable[[], list[Any]]]:
    """Give what returns the events of requests that are held up."""
    with capture_logs() as log:
        yield lambda: [event for event in log if event["event"] == "request.held_up"]


async def take(arena: Arena) -> None:
    """Read, wait and write."""
    left = arena.root["stock"]
    await asyncio.sleep(0.001)
    arena.root["stock"] = left - 1


class Hanging:
    """A request that has lost, has its turn at the stock, and hangs."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.runs = 0
        self.hangs, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> None:
        """Lose once, then hang."""
        self.runs += 1
        left = self.arena.root["stock"]
        if self.runs == 1:
            await asyncio.get_running_loop().run_in_executor(None, self.change)
        else:
            self.hangs.set()
            await self.go_on.wait()
        self.arena.root["stock"] = left - 1

    def change(self) -> None:
        """Make it lose."""
        with self.arena.transaction():
            self.arena.root["stock"] += 100


async def test_behind_one_that_hangs_with_its_turn(arena: Arena) -> None:
    """Who waits for its turn beyond 100 ms is told of, with the handler and process in front of it, and the spot; once."""
    first = Hanging(arena)

    async def second() -> None:
        left = arena.root["stock"]
        if attempt() == 1:
            await asyncio.get_running_loop().run_in_executor(None, first.change)
        arena.root["stock"] = left - 1

    with told() as events:
        hanging = asyncio.ensure_future(arena.run(first))
        await first.hangs.wait()
        waits = asyncio.ensure_future(arena.run(second))
        await asyncio.sleep(0.3)
        assert not waits.done()
        (event,) = events()
        first.go_on.set()
        await asyncio.gather(hanging, waits)
    assert events() == [event]
    assert (event["handler"].rpartition(".")[2], event["waits_for"], event["attempt"]) == ("second", "turn", 1)
    assert "Hanging" in event["holder"]
    assert (event["pid"], event["path"], event["key"]) == (os.getpid(), "root", "'stock'")
    assert 100 <= event["milliseconds"] < 250
    assert not any(arena.native.waits.values())


async def test_behind_a_privileged_run(arena: Arena) -> None:
    """Who gives way to it beyond 100 ms is told of, while it waits."""
    go_on, second_run = asyncio.Event(), asyncio.Event()
    runs = []

    async def long() -> None:
        left = arena.root["stock"]
        arena.root["other"] = len(runs)
        runs.append(1)
        if len(runs) == 1:
            await asyncio.get_running_loop().run_in_executor(None, Hanging(arena).change)
        else:
            second_run.set()
            await go_on.wait()
        arena.root["stock"] = left - 1

    async def hurts() -> None:
        arena.root["stock"] = 5

    with told() as events:
        last = asyncio.ensure_future(arena.run(long, max_conflicts=1))
        await second_run.wait()
        waits = asyncio.ensure_future(arena.run(hurts))
        await asyncio.sleep(0.2)
        assert len(events()) == 1
        go_on.set()
        await asyncio.gather(last, waits)
    (event,) = events()
    assert (event["handler"].rpartition(".")[2], event["waits_for"]) == ("hurts", "privilege")
    assert (event["holder"].rpartition(".")[2], event["pid"]) == ("long", os.getpid())


def hold_the_lock(arena: Arena, seconds: float, holds: Callable[[], object]) -> None:
    """Stand in a step that long."""
    with arena.transaction():
        arena.root["other"] = 1
        holds()
        time.sleep(seconds)


@pytest.mark.crash
@pytest.mark.parametrize("decorated", [False, True])
def test_a_thread_that_stood_still_for_the_lock(arena: Arena, decorated: bool) -> None:
    """A plain block, or a step of a handler driven by hand, that another process has kept from the lock is told of at its end."""
    reader, writer = os.pipe()

    async def handler() -> None:
        arena.root["stock"] = 1
        await pause()

    with told() as events, child(lambda: hold_the_lock(arena, 0.25, lambda: os.write(writer, b"."))) as pid:
        os.read(reader, 1)
        if decorated:
            Request(arena, handler).finish()
        else:
            with arena.transaction():
                arena.root["stock"] = 1
    (event,) = events()
    assert event["handler"].rpartition(".")[2] == (
        "handler" if decorated else "test_a_thread_that_stood_still_for_the_lock"
    )
    assert (event["waits_for"], event["holder"], event["pid"]) == ("lock", "hold_the_lock", pid)
    assert event["milliseconds"] >= 100
    os.close(reader)
    os.close(writer)


@pytest.mark.crash
def test_whose_turn_it_is_in_another_process(arena: Arena) -> None:
    """A place in a queue, and the privilege, name their handler to those in other processes."""
    reader, writer = os.pipe()

    def stands() -> None:
        with arena.transaction():  # which makes it a process of its own
            arena.root["other"] = 1
        turn = Turn(arena.native, (1, 1, 7), "seller")
        transaction = Transaction(arena.native, "reporter", False)
        assert transaction.take_privilege()
        os.write(writer, b".")
        time.sleep(60)
        turn.drop()

    with child(stands) as pid:
        os.read(reader, 1)
        mine = Turn(arena.native, (1, 1, 7))
        assert (mine.has_come(), mine.holder()) == (False, (pid, "seller"))
        assert arena.native.privilege_holder() == (pid, "reporter")
        os.kill(pid, signal.SIGKILL)
    assert mine.has_come()
    assert mine.holder() is None
    os.close(reader)
    os.close(writer)


async def test_short_waits_of_one_request_add_up(arena: Arena) -> None:
    """What counts is how long a request has waited in all of its runs; another one begins at 0."""
    seen: list[float] = []

    async def body() -> None:
        transaction = current_transaction()
        for _ in range(4):
            with waiting(transaction, "turn", lambda: None):
                await asyncio.sleep(0.04)
        seen.append(transaction.waited)

    with told() as events:
        await arena.run(body)
    assert seen[0] >= 0.16
    assert [event["waits_for"] for event in events()] == ["turn"]
    with told() as events:
        await asyncio.gather(*(arena.run(take, arena) for _ in range(5)))
    assert events() == []


async def test_a_log_pipeline_that_fails_does_not_reach_the_request(arena: Arena) -> None:
    """Its exception goes to the event loop's handler; the request goes on."""
    failed: list[Any] = []

    def fails(*_: Any) -> Any:
        raise ValueError("log")

    async def body() -> int:
        with waiting(current_transaction(), "turn", lambda: None):
            await asyncio.sleep(0.15)
        return 7

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failed.append(context["exception"]))
    structlog.configure(processors=[fails])
    try:
        assert await arena.run(body) == 7
    finally:
        structlog.reset_defaults()
    assert [str(error) for error in failed] == ["log"]


async def test_cancelled_while_it_waits(arena: Arena) -> None:
    """Nothing of it is left on the list, and it is not told of afterwards."""
    front = Turn(arena.native, (1, 1, 7))

    async def body() -> None:
        await Place(arena.native, transaction).stand((1, 1, 7))

    transaction = arena_transaction(arena)
    with told() as events:
        task = asyncio.ensure_future(body())
        await asyncio.sleep(0.05)
        assert [each.unit for each in arena.native.waits[asyncio.get_running_loop()]] == [unit_of((1, 1, 7))]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.1)
    assert events() == []
    assert not any(arena.native.waits.values())
    front.drop()


def arena_transaction(arena: Arena) -> Any:
    """Give a transaction that has ended, as one that has lost has."""
    transaction = Transaction(arena.native, "waits", False)
    transaction.rollback()
    return transaction
