"""Threads beside requests: they read committed state, write in transactions of their own, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from recoverable import Arena, List, NoTransactionError, TransactionError, register_codec


@pytest.fixture
def arena(name: str) -> Iterator[Arena]:
    """Give an arena, with room for a million keys, and with two numbers that are always equal when committed."""
    with Arena.temporary("256 MiB", name=name) as opened:
        with opened.transaction():
            opened.root.update({"a": 0, "b": 0, "log": []})
        yield opened


async def test_a_thread_of_a_handler_reads_committed_state(arena: Arena) -> None:
    """What the handler has written is not there for asyncio.to_thread, before and after its await."""
    seen = []

    async def handler() -> None:
        arena.root["a"] = 1
        seen.append(await asyncio.to_thread(lambda: arena.root["a"]))
        arena.root["b"] = 1

    await arena.run(handler)
    assert seen == [0]
    assert await asyncio.to_thread(lambda: arena.root["a"]) == 1


async def test_a_thread_writes_in_its_own_transaction_only(arena: Arena) -> None:
    """Without one: NoTransactionError; with one, it commits while the handler waits for it, which then is run again."""
    runs = 0

    def without() -> None:
        arena.root["a"] = 5

    def within() -> None:
        with arena.transaction():
            arena.root["a"] += 10
            arena.root["b"] += 10

    async def handler() -> None:
        nonlocal runs
        runs += 1
        value = arena.root["a"]
        with pytest.raises(NoTransactionError):
            await asyncio.to_thread(without)
        if runs == 1:
            await asyncio.to_thread(within)
        arena.root["a"] = arena.root["b"] = value + 1

    await arena.run(handler)
    assert runs == 2
    assert (arena.root["a"], arena.root["b"]) == (11, 11)


@pytest.mark.slow
async def test_nothing_deadlocks_with_the_loops_thread(arena: Arena) -> None:
    """Threads that read and write as fast as they can beside a hundred handlers: all end, and no reader sees a half."""
    stop = threading.Event()
    failures: list[Any] = []

    def reader() -> None:
        while not stop.is_set():
            with arena.transaction():
                pair = arena.root["a"], arena.root["b"]
            if pair[0] != pair[1]:
                failures.append(pair)
            len(arena.root["log"])

    def writer() -> None:
        for _ in range(200):
            with arena.transaction():
                arena.root["a"] += 1
                arena.root["b"] += 1

    async def handler(n: int) -> None:
        arena.root["a"] += 1
        await asyncio.sleep(0)
        arena.root["b"] += 1
        if n % 10 == 0:
            arena.root["log"].append(n)

    readers = [asyncio.to_thread(reader) for _ in range(2)]
    both = asyncio.gather(*readers)
    async with asyncio.timeout(60):
        await asyncio.gather(
            *(arena.run(handler, n, max_conflicts=20) for n in range(100)),
            *(asyncio.to_thread(writer) for _ in range(2)),
        )
        stop.set()
        await both
    assert not failures
    assert (arena.root["a"], arena.root["b"]) == (500, 500)
    assert arena.stats().in_flight == 0


@pytest.mark.slow
async def test_a_million_keys_can_be_read(arena: Arena) -> None:
    """The read set is bounded: beyond its bound the transaction is valid while nobody commits, or as the last run."""
    many = 1_000_000
    for first in range(0, many, 50_000):
        with arena.transaction():
            arena.root.setdefault("many", {})
            arena.root["many"].update((n, n) for n in range(first, first + 50_000))

    runs = 0

    async def read_all() -> int:
        nonlocal runs
        runs += 1
        half = many // 2
        total = sum(arena.root["many"][n] for n in range(half))
        for _ in range(3):
            await asyncio.sleep(0)
        total += sum(arena.root["many"][n] for n in range(half, many))
        arena.root["total"] = total
        return int(total)

    async def gentle() -> None:
        for _ in range(6):
            await asyncio.sleep(0)
            await arena.run(raise_b)

    async def raise_b() -> None:
        arena.root["b"] += 1

    assert await arena.run(read_all) == many * (many - 1) // 2
    total, *_ = await asyncio.gather(arena.run(read_all, max_conflicts=1), gentle())
    assert total == arena.root["total"] == many * (many - 1) // 2
    assert runs == 3  # alone; disturbed; privileged
    assert arena.root["b"] == 6


class Failing:
    """A value whose codec runs `meanwhile` and fails."""

    meanwhile: Callable[[], None]


def _fail(value: Failing) -> bytes:
    value.meanwhile()
    raise ValueError("no bytes")


register_codec(Failing, _fail, lambda raw: Failing(), "test-threads-failing")


@pytest.mark.parametrize("use", [len, lambda stored: stored.append(1)], ids=["read", "write"])
def test_a_thread_waits_for_a_container_whose_store_fails(arena: Arena, use: Callable[[List[Any]], object]) -> None:
    """A container that another thread is just storing has no place in the arena once that has failed: its user is told."""
    value, answers = Failing(), []
    unstored: List[Any] = List([value])

    def run() -> None:
        with pytest.raises(TransactionError, match="was not stored after all") as raised, arena.transaction():
            use(unstored)
        answers.append(raised.value)

    user = threading.Thread(target=run)

    def meanwhile() -> None:
        user.start()
        user.join(0.1)  # it waits for the lock, and is to find the store failed
        assert user.is_alive()

    value.meanwhile = meanwhile
    with pytest.raises(ValueError, match="no bytes"), arena.transaction():
        arena.root["new"] = unstored
    user.join(10)
    assert len(answers) == 1
    assert "new" not in arena.root
    assert arena.verify()
