"""Interleavings written down by hand: what requests in flight see of each other, and what becomes of them."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from typing import Any

import pytest

from recoverable import Arena, Array, ConflictError, NoTransactionError, TransactionClosedError, TransactionError
from support.workers import Request, pause


class Undone(Exception):
    """Rolls a request back."""


def fill(arena: Arena) -> None:
    """Store two numbers, a nested Dict and an Array of three pages."""
    with arena.transaction():
        arena.root.update({"x": 0, "y": 0, "n": {"a": 1, "b": 2}, "a": Array(1200, "i8")})


@pytest.fixture
def arena(arena: Arena) -> Arena:
    """Give an arena with two numbers, a nested Dict and an Array of three pages."""
    fill(arena)
    return arena


def test_nobody_reads_what_is_not_committed(arena: Arena) -> None:
    """No dirty read: other requests, other blocks and plain reads see committed state only."""

    async def write(end: Exception | None) -> None:
        arena.root["x"] = 1
        arena.root["n"]["a"] = 9
        arena.root["new"] = {"deep": 1}
        arena.root["a"][0] = 5
        arena.root["a"].view[600] = 6
        await pause()
        if end:
            raise end

    def seen() -> Any:
        return (
            arena.root["x"], arena.root["n"]["a"], "new" in arena.root, len(arena.root), arena.root["a"][0],
            arena.root["a"][600],
        )  # fmt: skip

    async def read() -> Any:
        return seen()

    for end in (Undone(), None):
        request = Request(arena, write, end)
        request.step()
        for _ in range(2):
            assert seen() == (0, 1, False, 4, 0, 0)
            with arena.transaction():
                assert seen() == (0, 1, False, 4, 0, 0)
            assert Request(arena, read).finish() == (0, 1, False, 4, 0, 0)
        if end:
            with pytest.raises(Undone):
                request.step()
        else:
            request.step()
    assert seen() == (1, 9, True, 5, 5, 6)


def test_an_update_is_not_lost(arena: Arena) -> None:
    """Read, await, write: the second to commit is told of a conflict and, run again, adds to the first's."""

    async def add() -> None:
        n = arena.root["x"]
        await pause()
        arena.root["x"] = n + 1

    one, two = Request(arena, add), Request(arena, add)
    one.step()
    two.step()
    one.step()
    with pytest.raises(ConflictError) as lost:
        two.step()
    assert lost.value.key == "'x'"
    assert "add" in (lost.value.winner or "")
    again = Request(arena, add, max_conflicts=3)
    again.step()
    Request(arena, add).finish()
    again.finish()
    assert arena.root["x"] == 3


def test_write_skew_is_refused(arena: Arena) -> None:
    """Two requests that read both keys and write one each cannot both commit."""

    async def withdraw(key: str) -> None:
        if arena.root["x"] + arena.root["y"] == 0:
            await pause()
            arena.root[key] -= 1

    one, two = Request(arena, withdraw, "x"), Request(arena, withdraw, "y")
    one.step()
    two.step()
    one.step()
    with pytest.raises(ConflictError):
        two.step()
    assert arena.root["x"] + arena.root["y"] == -1


@pytest.mark.parametrize("look", ["len", "keys", "values", "items", "in", "get", "popitem"])
def test_no_phantoms(arena: Arena, look: str) -> None:
    """A request that has looked at all keys, or for one, conflicts with one that inserts or deletes it."""

    async def count(then: str) -> None:
        d = arena.root["n"]
        if look == "len":
            seen: Any = len(d)
        elif look == "in":
            seen = "c" in d
        elif look == "get":
            seen = d.get("c")
        elif look == "popitem":
            seen = d.popitem()
        else:
            seen = list(getattr(d, look)())
        await pause()
        arena.root[then] = repr(seen)

    first = Request(arena, count, "first")
    first.step()
    with arena.transaction():
        arena.root["n"]["c"] = 3
    with pytest.raises(ConflictError):
        first.step()
    if look in ("in", "get"):
        return
    second = Request(arena, count, "second")
    second.step()
    with arena.transaction():
        del arena.root["n"]["a"]
    with pytest.raises(ConflictError):
        second.step()


def test_values_are_read_by_those_who_walk_them(arena: Arena) -> None:
    """Walking values conflicts with a changed value; walking keys does not."""

    async def walk(what: str) -> None:
        list(getattr(arena.root["n"], what)())
        await pause()
        arena.root[what] = True

    for what in ("keys", "values", "items"):
        request = Request(arena, walk, what)
        request.step()
        with arena.transaction():
            arena.root["n"]["a"] += 1
        if what == "keys":
            request.step()
        else:
            with pytest.raises(ConflictError):
                request.step()


def test_different_keys_of_one_dict_never_conflict(arena: Arena) -> None:
    """Requests that each insert, change and delete keys of their own in one Dict all commit; its order is theirs."""
    amount = 20

    async def work(i: int, name: str) -> None:
        n = arena.root[name]
        n[f"new{i}"] = i
        await pause()
        n[f"new{i}"] += 1
        n[f"gone{i}"] = {"x": i}
        await pause()
        assert n.get(f"new{i}") == i + 1
        del n[f"gone{i}"]

    name = "d"
    with arena.transaction():
        arena.root[name] = {"a": 1, "b": 2}
    requests = [Request(arena, work, i, name) for i in range(amount)]
    for _ in range(2):
        for request in requests:
            request.step()
    assert len(arena.root[name]) == 2
    for request in reversed(requests):
        request.step()
    assert list(arena.root[name]) == ["a", "b", *(f"new{i}" for i in reversed(range(amount)))]
    assert all(arena.root[name][f"new{i}"] == i + 1 for i in range(amount))
    assert arena.verify().leaked_blocks == 0


def test_neighbours_in_an_array_never_conflict(arena: Arena) -> None:
    """Requests that read and write items side by side all commit, by single items and by small unaligned slices."""

    async def work(i: int) -> None:
        a = arena.root["a"]
        a[i] += 1
        await pause()
        a[i] += 1
        part = a[200 + 3 * i : 203 + 3 * i]
        a[200 + 3 * i : 203 + 3 * i] = part + i
        await pause()

    requests = [Request(arena, work, i) for i in range(64)]
    for _ in range(2):
        for request in requests:
            request.step()
    assert arena.root["a"].to_python() == [0] * 1200
    for request in reversed(requests):
        request.step()
    assert arena.root["a"].to_python()[:64] == [2] * 64
    assert arena.root["a"].to_python()[200:392] == [i for i in range(64) for _ in range(3)]
    with arena.transaction():
        arena.root["bytes"] = Array(64, "u1")

    async def single(i: int) -> None:
        arena.root["bytes"][i] = i
        await pause()

    requests = [Request(arena, single, i) for i in range(64)]
    for _ in range(2):
        for request in requests:
            request.step()
    assert arena.root["bytes"].to_python() == list(range(64))
    assert arena.stats().conflicts == 0


def test_a_doomed_request_cannot_go_on(arena: Arena) -> None:
    """Whatever a handler catches, every further access stops it, and it ends in the conflict."""
    seen: list[str] = []

    async def stubborn() -> str:
        x = arena.root["x"]
        await pause()
        for _ in range(3):
            try:
                seen.append(f"read {arena.root['y']} beside {x}")
            except BaseException as error:
                seen.append(type(error).__name__)
            try:
                arena.root["y"] = 1
                seen.append("wrote")
            except BaseException as error:
                seen.append(type(error).__name__)
        await pause()
        return "well"

    request = Request(arena, stubborn)
    request.step()
    with arena.transaction():
        arena.root["x"] = arena.root["y"] = 5
    request.step()
    assert seen == ["_Doomed"] * 6
    with pytest.raises(ConflictError):
        request.step()
    assert (arena.root["x"], arena.root["y"]) == (5, 5)


def test_old_and_new_never_meet(arena: Arena) -> None:
    """A request that has read one side of an invariant does not see the other side of a later commit."""

    async def check() -> None:
        x = arena.root["x"]
        await pause()
        assert arena.root["y"] == x, "a mix of old and new state"

    request = Request(arena, check)
    request.step()
    with arena.transaction():
        arena.root["x"] = arena.root["y"] = 1
    with pytest.raises(ConflictError):
        request.step()


def test_a_rollback_leaves_what_others_have_committed(arena: Arena) -> None:
    """Undoing one of two interleaved requests undoes its own writes only, neighbours in bytes and buckets included."""
    amount = 22

    async def work(place: str, name: str, end: Exception | None) -> None:
        n, a = arena.root[place]["n"], arena.root[place]["a"]
        for i in range(amount):
            n[f"{name}{i}"] = {"i": i}
            a[2 * i + (name == "two")] = i + 1
            if i % 7 == 0:
                await pause()
        arena.root[place][name] = b"b" * 200
        if end:
            raise end

    with arena.transaction():
        arena.root["p"] = {"n": {"a": 1, "b": 2}, "a": Array(100, "i8")}
    place = arena.root["p"]
    one, two = Request(arena, work, "p", "one", Undone()), Request(arena, work, "p", "two", None)
    for _ in range(4):
        one.step()
        two.step()
    two.step()
    with pytest.raises(Undone):
        one.step()
    assert list(place["n"]) == ["a", "b", *(f"two{i}" for i in range(amount))]
    assert place["a"].to_python()[: 2 * amount] == [n for i in range(amount) for n in (0, i + 1)]
    assert "one" not in place
    assert arena.verify().leaked_blocks == 0


def test_deleting_a_container_wins_over_writing_in_it_and_the_reverse(arena: Arena) -> None:
    """The first to commit wins, wherever below the deleted container the other has been."""
    with arena.transaction():
        arena.root["n"]["deep"] = {"er": {"z": 0}}

    async def delete() -> None:
        del arena.root["n"]
        await pause()

    async def write() -> None:
        arena.root["n"]["deep"]["er"]["z"] += 1
        await pause()

    one, two = Request(arena, write), Request(arena, delete)
    one.step()
    two.step()
    two.step()
    with pytest.raises(ConflictError):
        one.step()
    for i in range(10):  # its memory is another's by now
        with arena.transaction():
            arena.root[f"fill{i}"] = {"er": {"z": 0}}
    assert "n" not in arena.root
    assert arena.verify().leaked_blocks == 0


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_an_eager_task_is_outside_the_transaction_that_starts_it(arena: Arena) -> None:
    """Its first step runs inside its creator's, on the same stack, and still sees committed state only."""
    seen: list[Any] = []

    async def child() -> None:
        seen.append(arena.root["x"])
        try:
            arena.root["x"] = 2
        except NoTransactionError:
            seen.append("refused")
        await arena.run(own)

    async def own() -> None:
        arena.root["eager"] = arena.root["y"]

    async def work() -> None:
        arena.root["x"] = 1
        arena.root["n"]["a"] = 10
        task = asyncio.Task(child(), loop=asyncio.get_running_loop(), eager_start=True)
        assert arena.root["x"] == 1
        assert arena.root["n"]["a"] == 10
        await task
        arena.root["y"] = 3

    await arena.run(work)
    assert seen == [0, "refused"]
    assert arena.root == {**arena.root.to_python(), "x": 1, "y": 3, "eager": 0}


async def test_a_spawned_task_is_outside(arena: Arena) -> None:
    """A task that a handler creates sees committed state and may not write."""

    async def child() -> Any:
        with pytest.raises(NoTransactionError):
            arena.root["x"] = 9
        return arena.root["x"]

    async def work() -> Any:
        arena.root["x"] = 1
        return await asyncio.create_task(child())

    assert await arena.run(work) == 0
    assert arena.root["x"] == 1


def test_a_coroutine_finalised_while_suspended_is_rolled_back_first(arena: Arena) -> None:
    """Its finally block finds the arena closed to it, and nothing of it remains."""
    seen: list[Any] = []

    async def work() -> None:
        arena.root["x"] = 1
        try:
            await pause()
        finally:
            for attempt in (lambda: arena.root["x"], lambda: arena.root.__setitem__("x", 5)):
                try:
                    seen.append(attempt())
                except BaseException as error:
                    seen.append(type(error))

    request = Request(arena, work)
    request.step()
    request.close()
    assert seen == [TransactionClosedError] * 2
    assert arena.root["x"] == 0

    request = Request(arena, work)
    request.step()
    with arena.transaction():  # finalised inside another's step
        arena.root["y"] = 1
        del request
        gc.collect()
        arena.root["y"] += 1
    assert seen == [TransactionClosedError] * 4
    assert (arena.root["x"], arena.root["y"]) == (0, 2)
    assert arena.stats().in_flight == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, MemoryError, RecursionError])
@pytest.mark.parametrize("doomed", [False, True])
def test_what_ends_a_process_or_a_task_comes_out_as_it_is(
    arena: Arena, error: type[BaseException], doomed: bool
) -> None:
    """KeyboardInterrupt and its like roll back and leave, also out of a request that has lost a conflict meanwhile."""
    if doomed and issubclass(error, Exception):
        pytest.skip("an ordinary error of a request that has lost is a conflict")

    async def work() -> None:
        n = arena.root["x"]
        await pause()
        try:
            arena.root["y"] = n
        finally:
            raise error

    request = Request(arena, work, max_conflicts=5)
    request.step()
    if doomed:
        with arena.transaction():
            arena.root["x"] = 7
    with pytest.raises(error):
        request.step()
    assert arena.root["y"] == 0
    assert arena.stats().in_flight == 0


async def test_a_cancellation_is_not_lost_in_a_conflict(arena: Arena) -> None:
    """A cancelled request that turns out to have lost is cancelled, not run again."""
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        n = arena.root["x"]
        try:
            await asyncio.Event().wait()
        finally:
            arena.root["y"] = n

    task = asyncio.ensure_future(arena.run(work))
    await asyncio.sleep(0)
    with arena.transaction():
        arena.root["x"] = 7
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runs == 1
    assert arena.root["y"] == 0


async def test_a_timeout_inside_a_handler_does_not_hide_a_conflict(arena: Arena) -> None:
    """asyncio.timeout() takes its cancellation back: a request that loses after it is run again like any other."""
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        n = arena.root["x"]
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            pass
        if runs == 1:
            await asyncio.create_task(other())
        arena.root["y"] = n

    async def other() -> None:
        with arena.transaction():
            arena.root["x"] = 7

    await arena.run(work)
    assert runs == 2
    assert arena.root["y"] == 7


def test_an_await_inside_a_block_is_refused_and_its_writes_are_gone(arena: Arena) -> None:
    """A savepoint and an edit are parts of one step."""

    async def in_savepoint() -> None:
        arena.root["x"] = 1
        with arena.savepoint():
            arena.root["y"] = 1
            await pause()

    async def in_edit() -> None:
        arena.root["x"] = 1
        with arena.root["a"].edit(slice(0, 3)) as part:
            part[:] = 1
            await pause()

    for work in (in_savepoint, in_edit):
        with pytest.raises(TransactionError, match="await inside"):
            Request(arena, work).step()
    assert (arena.root["x"], arena.root["y"], arena.root["a"][0]) == (0, 0, 0)

    async def caught() -> None:
        arena.root["x"] = 1
        try:
            with arena.savepoint():
                arena.root["y"] = 1
                await pause()
        except TransactionError:
            pass
        await pause()

    Request(arena, caught).finish()
    assert (arena.root["x"], arena.root["y"]) == (1, 0)


def test_the_process_keeps_no_pages_of_a_finished_storm(arena: Arena) -> None:
    """After many interleaved requests with every kind of end nothing is in flight, leaked or left unprotected."""
    seed = int(os.environ.get("RECOVERABLE_SEED", "1"))
    print("seed", seed)
    import random

    rng = random.Random(seed)

    async def work(number: int) -> None:
        for _ in range(rng.randrange(4)):
            kind = rng.randrange(6)
            if kind == 0:
                arena.root["n"][rng.randrange(30)] = number
            elif kind == 1:
                arena.root["n"].pop(rng.randrange(30), None)
            elif kind == 2:
                arena.root["a"][rng.randrange(1200)] += 1
            elif kind == 3:
                arena.root["a"].view[rng.randrange(1200)] += 1
            elif kind == 4:
                arena.root["n"][rng.randrange(30)] = {"x": {"y": b"z" * rng.randrange(100)}}
            else:
                len(arena.root["n"])
            await pause()
        if rng.random() < 0.3:
            raise Undone

    flying: list[Request] = []
    for number in range(900):
        flying.append(Request(arena, work, number))
        for _ in range(2):
            if not flying:
                break
            request = rng.choice(flying)
            try:
                if rng.random() < 0.05:
                    request.close()
                else:
                    request.step()
            except (ConflictError, Undone):
                pass
            if request.done:
                flying.remove(request)
    for request in flying:
        request.close()
    flying.clear()
    assert arena.stats().in_flight == 0
    assert arena.stats().commits > 100
    assert arena.verify().leaked_blocks == 0
