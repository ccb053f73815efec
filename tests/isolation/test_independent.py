"""Transactions inside others that commit on their own: `independent=True`, `nested="independent"`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import recoverable
from recoverable import Arena, Array, ConflictError, Counter, List, StaleReferenceError, TransactionError
from recoverable._native.runtime import current_transaction, part
from support.workers import Request, pause


class Undone(Exception):
    """Rolls a request back."""


@pytest.fixture
def arena(arena: Arena) -> Arena:
    """Give an arena with a number, a Counter, a nested Dict, a List and an Array."""
    with arena.transaction():
        arena.root.update({"n": 0, "hits": Counter(), "d": {"a": 1}, "l": [1, 2], "a": Array(1000, "i8"), "log": {}})
    return arena


def note(arena: Arena, text: str) -> None:
    """Add a line to the audit trail, whatever becomes of the caller's transaction."""
    with arena.transaction(independent=True):
        arena.root["log"][len(arena.root["log"])] = text


def test_it_outlives_the_rollback_around_it(arena: Arena) -> None:
    """What the block wrote stays; what the handler wrote before and after it is gone."""

    async def handler() -> None:
        arena.root["n"] = 1
        note(arena, "tried")
        arena.root["d"]["b"] = 2
        raise Undone

    with pytest.raises(Undone):
        Request(arena, handler).finish()
    assert arena.root["log"].to_python() == {0: "tried"}
    assert arena.root["n"] == 0
    assert arena.root["d"].to_python() == {"a": 1}


def test_it_sees_committed_state_and_is_seen_at_once(arena: Arena) -> None:
    """Not the handler's own writes; the handler finds its own again afterwards, and the block's commit with them."""
    seen: list[Any] = []

    async def handler() -> None:
        arena.root["n"] = 1
        arena.root["new"] = {"x": 1}
        with arena.transaction(independent=True):
            seen.append((arena.root["n"], "new" in arena.root))
            arena.root["d"]["a"] = 5
        seen.append((arena.root["n"], arena.root["new"]["x"], arena.root["d"]["a"]))
        await pause()
        seen.append(arena.root["d"]["a"])

    request = Request(arena, handler)
    request.step()
    assert (arena.root["n"], arena.root["d"]["a"]) == (0, 5)
    request.finish()
    assert seen == [(0, False), (1, 1, 5), 5]
    assert (arena.root["n"], arena.root["d"]["a"]) == (1, 5)


def test_a_handler_does_not_conflict_with_itself(arena: Arena) -> None:
    """It reads a counter, a key, a length and an item, raises them independently, and goes on."""

    async def handler() -> tuple[Any, ...]:
        before = (arena.root["hits"].value, arena.root["d"]["a"], len(arena.root["log"]), arena.root["a"][3])
        with arena.transaction(independent=True):
            arena.root["hits"].add(1)
            arena.root["d"]["a"] += 1
            arena.root["log"]["x"] = 1
            arena.root["a"][3] = 4
            arena.root["a"].view[500] = 1
        after = (arena.root["hits"].value, arena.root["d"]["a"], len(arena.root["log"]), arena.root["a"][3])
        await pause()
        arena.root["n"] = 1
        return before, after

    request = Request(arena, handler)
    request.step()
    with arena.transaction():
        arena.root["elsewhere"] = 1
    assert request.finish() == ((0, 1, 0, 0), (1, 2, 1, 4))
    assert arena.stats().conflicts == 0


def test_others_commits_still_conflict(arena: Arena) -> None:
    """Only its own block's changes are handed to the handler: another's commit of a key it has read dooms it."""

    async def handler() -> None:
        assert arena.root["d"]["a"] >= 0
        await pause()
        note(arena, "on")
        arena.root["n"] = 1

    request = Request(arena, handler)
    request.step()
    with arena.transaction():
        arena.root["d"]["a"] = 9
    with pytest.raises(ConflictError):
        request.step()
    assert arena.root["log"].to_python() == {}  # a doomed handler acts on nothing more
    assert arena.root["n"] == 0


@pytest.mark.parametrize(
    "write",
    [
        lambda root: root.__setitem__("n", 2),
        lambda root: root.__delitem__("n"),
        lambda root: root["d"].__setitem__("new", 2),
        lambda root: root["l"].append(3),
        lambda root: root["l"].pop(),
    ],
    ids=["key", "deletion", "insertion", "append", "pop"],
)
def test_what_the_handler_has_written_is_refused(arena: Arena, write: Any) -> None:
    """A block may not change what the transaction around it has changed: named at the store, and nothing is lost."""

    async def handler() -> None:
        arena.root["n"] = 1
        arena.root["d"]["new"] = 1
        arena.root["l"].append(9)
        with pytest.raises(TransactionError, match="around it has written"), arena.transaction(independent=True):
            arena.root["log"]["x"] = 1
            write(arena.root)

    Request(arena, handler).finish()
    assert arena.root.to_python()["l"] == [1, 2, 9]
    assert (arena.root["n"], arena.root["d"].to_python(), arena.root["log"].to_python()) == (1, {"a": 1, "new": 1}, {})
    arena.verify()


def test_what_both_may_change_is_not_refused(arena: Arena) -> None:
    """Different keys of one Dict, and Counters, are for both."""

    async def handler() -> None:
        arena.root["hits"].add(1)
        arena.root["d"]["x"] = 1
        with arena.transaction(independent=True):
            arena.root["hits"].add(10)
            arena.root["d"]["y"] = 2
        await pause()

    Request(arena, handler).finish()
    assert arena.root["hits"].value == 11
    assert arena.root["d"].to_python() == {"a": 1, "y": 2, "x": 1}


def test_deleting_what_the_handler_works_in_is_refused(arena: Arena) -> None:
    """Its writes would land in freed memory."""

    async def handler() -> None:
        arena.root["d"]["x"] = 1
        with pytest.raises(TransactionError, match="works in"), arena.transaction(independent=True):
            del arena.root["d"]

    Request(arena, handler).finish()
    assert arena.root["d"].to_python() == {"a": 1, "x": 1}


def test_a_handle_of_what_it_deleted_is_stale(arena: Arena) -> None:
    """A handler that has only read may delete independently; its handle knows."""

    async def handler() -> None:
        handle = arena.root["l"]
        assert len(handle) == 2
        with arena.transaction(independent=True):
            del arena.root["l"]
        with pytest.raises(StaleReferenceError):
            len(handle)

    Request(arena, handler).finish()
    assert "l" not in arena.root


def test_a_container_of_the_handler_is_not_there_for_it(arena: Arena) -> None:
    """Nothing can be hung into what is not committed."""

    async def handler() -> None:
        arena.root["mine"] = {}
        handle = arena.root["mine"]
        with pytest.raises(StaleReferenceError), arena.transaction(independent=True):
            handle["x"] = 1
        handle["y"] = 1

    Request(arena, handler).finish()
    assert arena.root["mine"].to_python() == {"y": 1}


def test_blocks_are_one_step(arena: Arena) -> None:
    """None inside a savepoint, an edit or a nested block; an await in one is refused; outside any it is a plain one."""

    async def handler() -> None:
        for block in (arena.savepoint(), arena.transaction(), arena.root["a"].edit(slice(0, 3))):
            with block, pytest.raises(TransactionError, match="part of one step"), arena.transaction(independent=True):
                pass
        with pytest.raises(TransactionError, match="await inside"), arena.transaction(independent=True):
            arena.root["n"] = 7
            await pause()
        arena.root["d"]["ok"] = 1

    Request(arena, handler).finish()
    with arena.transaction(independent=True):
        arena.root["n"] += 1
    assert (arena.root["n"], arena.root["d"]["ok"]) == (1, 1)


def test_they_nest(arena: Arena) -> None:
    """Three deep, each commits by itself, and each goes on after the one inside it."""
    with pytest.raises(Undone), arena.transaction():
        arena.root["n"] = 1
        with arena.transaction(independent=True):
            arena.root["d"]["a"] = 2
            with arena.transaction(independent=True):
                arena.root["hits"].add(1)
            assert arena.root["d"]["a"] == 2
            arena.root["d"]["b"] = 3
        assert arena.root["n"] == 1
        raise Undone
    assert (arena.root["n"], arena.root["d"].to_python(), arena.root["hits"].value) == (0, {"a": 2, "b": 3}, 1)


def test_raw_writes_go_on_around_it(arena: Arena) -> None:
    """A view of the handler's is its own again when the block has ended."""

    async def handler() -> None:
        view = arena.root["a"].view
        view[1] = 1
        with arena.transaction(independent=True):
            arena.root["a"].view[2] = 2
        view[3] = 3
        assert view[:4].tolist() == [0, 1, 2, 3]
        raise Undone

    with pytest.raises(Undone):
        Request(arena, handler).finish()
    assert arena.root["a"][:4].tolist() == [0, 0, 2, 0]
    assert arena.stats().strays == 0


async def test_one_that_others_close_leaves_the_handler_where_it_is(arena: Arena) -> None:
    """Begun by hand, it is closed while the handler, which has a view, waits: nobody is in a step then, and the lock is free."""
    begun: list[Any] = []

    async def inner() -> None:
        arena.root["n"] = 1
        await asyncio.sleep(0)

    async def handler() -> None:
        view = arena.root["a"].view
        view[1] = 1
        call = arena.run(inner, nested="independent")
        call.send(None)
        begun.append(call)
        await asyncio.sleep(0)
        view[2] = 2

    request = Request(arena, handler)
    request.step()
    begun.pop().close()
    assert arena.native.lock_holder() is None
    request.finish()
    assert arena.root["a"][:4].tolist() == [0, 1, 2, 0]
    assert (arena.root["n"], arena.stats().strays) == (0, 0)


def test_raw_writes_go_on_around_one_left_out_of_order(arena: Arena, new_name: Callable[[], str]) -> None:
    """It is undone, and what has begun inside it goes on: the transaction around it, too."""
    with Arena.temporary("4 MiB", name=new_name()) as other:
        with arena.transaction():
            view = arena.root["a"].view
            view[1] = 1
            independent, inside = arena.transaction(independent=True), other.transaction()
            independent.__enter__()
            arena.root["n"] = 1
            inside.__enter__()
            other.root["x"] = 1
            with pytest.raises(TransactionError, match="before a transaction or a step that began inside it"):
                independent.__exit__(None, None, None)
            inside.__exit__(None, None, None)
            view[2] = 2
        assert other.root["x"] == 1
    assert arena.root["a"][:4].tolist() == [0, 1, 2, 0]
    assert (arena.root["n"], arena.stats().strays) == (0, 0)


def test_its_callbacks_run_at_once_and_outside(arena: Arena) -> None:
    """After its own commit, in no transaction; the handler's wait for the handler's."""
    order: list[Any] = []

    async def handler() -> None:
        recoverable.after_commit(order.append, "handler")
        with arena.transaction(independent=True):
            arena.root["n"] = 1
            recoverable.after_commit(order.append, "block")
            recoverable.after_commit(lambda: order.append(arena.root["n"]))
        order.append("goes on")

    Request(arena, handler).finish()
    assert order == ["block", 1, "goes on", "handler"]


async def test_nested_independent_runs(arena: Arena) -> None:
    """One transaction a message, across awaits, inside a handler that may fail as a whole."""

    async def message(n: int) -> int:
        arena.root["log"][n] = "got"
        await asyncio.sleep(0)
        recoverable.after_commit(sent.append, n)
        if n == 2:
            raise Undone
        return n

    @recoverable.recoverable(nested="independent")
    async def decorated() -> None:
        arena.root["log"]["d"] = 1

    sent: list[int] = []

    async def handler() -> None:
        arena.root["n"] = 1
        assert await arena.run(message, 1, nested="independent") == 1
        with pytest.raises(Undone):
            await arena.run(message, 2, nested="independent")
        await decorated()
        assert arena.root["n"] == 1
        raise Undone

    with pytest.raises(Undone):
        await arena.run(handler)
    assert arena.root["log"].to_python() == {1: "got", "d": 1}
    assert sent == [1]
    assert arena.root["n"] == 0


async def test_nested_independent_runs_again_by_itself(arena: Arena) -> None:
    """A conflict of the inner one re-runs the inner one only."""
    runs = {"outer": 0, "inner": 0}

    async def inner() -> None:
        runs["inner"] += 1
        value = arena.root["d"]["a"]
        if runs["inner"] == 1:
            await asyncio.create_task(other())
        arena.root["d"]["a"] = value + 1

    async def other() -> None:
        with arena.transaction():
            arena.root["d"]["a"] = 10

    async def outer() -> None:
        runs["outer"] += 1
        arena.root["n"] = 1
        await arena.run(inner, nested="independent")

    await arena.run(outer)
    assert runs == {"outer": 1, "inner": 2}
    assert arena.root["d"]["a"] == 11


def test_nested_independent_is_refused_in_a_block(arena: Arena) -> None:
    """A savepoint is one step."""

    async def handler() -> None:
        with arena.savepoint():
            await arena.run(pause, nested="independent")

    with pytest.raises(TransactionError, match="independent"):
        Request(arena, handler).finish()


def test_its_memory_and_the_handlers_are_given_back(arena: Arena) -> None:
    """Many of them leave no transaction and no block behind."""

    async def handler(i: int) -> None:
        arena.root["big"] = List(range(100))
        with arena.transaction(independent=True):
            arena.root["log"][i % 3] = [i] * 50
        await pause()
        raise Undone

    for i in range(60):
        with pytest.raises(Undone):
            Request(arena, handler, i).finish()
    stats = arena.stats()
    assert stats.in_flight == 0
    assert arena.verify().leaked_blocks == 0


def test_what_a_task_wrote_meanwhile_is_a_conflict(arena: Arena) -> None:
    """An independent run was allowed to write a key; before it commits, the handler's other part writes it too."""

    async def inner() -> None:
        arena.root["n"] = 5
        await pause()

    async def other() -> None:
        await pause()
        arena.root["n"] += 1

    async def handler() -> None:
        transaction = current_transaction(arena.native)
        assert transaction is not None
        sibling = part(other(), transaction)
        sibling.send(None)  # type: ignore[attr-defined]  # reaches its pause
        run = arena.run(inner, nested="independent")
        run.send(None)
        with pytest.raises(StopIteration):
            sibling.send(None)  # type: ignore[attr-defined]  # writes
        with pytest.raises(StopIteration):
            run.send(None)  # commits
        arena.root["log"]["x"] = 1

    with pytest.raises(ConflictError):
        Request(arena, handler).finish()
    assert (arena.root["n"], arena.root["log"].to_python()) == (5, {})


def test_lists_belong_to_one_of_the_two(arena: Arena) -> None:
    """A List that the handler has changed anywhere is refused, also where the handler is a plain block."""
    with arena.transaction():
        arena.root["long"] = list(range(100))
    for write in (lambda x: x.clear(), lambda x: x.insert(0, 1), lambda x: x.__setitem__(0, 1), lambda x: x.sort()):
        with arena.transaction():
            write(arena.root["long"])
            with pytest.raises(TransactionError, match="around it has written"), arena.transaction(independent=True):
                arena.root["long"].append(1)
        arena.verify()
    with arena.transaction():
        arena.root["d"]["x"] = 1
        with arena.transaction(independent=True):
            arena.root["d"]["y"] = 1
    assert arena.root["d"].to_python() == {"a": 1, "y": 1, "x": 1}
