"""Corners of Dict and Array that tests have found broken once, or that nothing else reaches."""

from __future__ import annotations

import pytest

from recoverable import Arena, ArenaFullError, Array, Dict, StaleReferenceError, TransactionError
from support.workers import Request, pause


class Undone(Exception):
    pass


def test_memory_of_an_undone_dict_is_free_for_anything(arena: Arena) -> None:
    """A Dict that a savepoint took back is not counted at the commit, when its memory is another's."""
    with arena.transaction():
        try:
            with arena.savepoint():
                for i in range(20):
                    arena.root[f"d{i}"] = {"a": 1}
                raise Undone
        except Undone:
            pass
        for size in range(16, 400, 8):
            arena.root[f"blob{size}"] = b"\xff" * size
    assert len(arena.root) == 48
    assert all(arena.root[f"blob{size}"] == b"\xff" * size for size in range(16, 400, 8))
    assert arena.verify().leaked_blocks == 0


def test_iteration_over_own_insertions_survives_suspensions(arena: Arena) -> None:
    """A loop with an await in it meets each of the transaction's own new keys once, while the table grows."""
    with arena.transaction():
        arena.root.update({f"old{i}": i for i in range(10)})

    async def work(backwards: bool) -> tuple[list[str], list[str]]:
        arena.root.update({f"new{i}": i for i in range(100)})
        seen = []
        for key in reversed(arena.root) if backwards else iter(arena.root):
            seen.append(key)
            await pause()
        return seen, [*(f"old{i}" for i in range(10)), *(f"new{i}" for i in range(100))]

    for backwards in (False, True):
        request = Request(arena, work, backwards, commit_if=lambda _: False)
        seen, want = request.finish()
        assert seen == (want[::-1] if backwards else want)


def test_an_iterator_that_began_before_the_transaction_reads_in_it(arena: Arena) -> None:
    """Items that an older iterator gives inside a transaction count as read by it."""
    with arena.transaction():
        arena.root.update({"a": 1, "b": 2, "c": 3})
    from recoverable import ConflictError

    iterator = iter(arena.root)
    next(iterator)

    async def work() -> None:
        arena.root["rest"] = arena.root.get("rest", 0)
        seen = next(iterator)
        await pause()
        arena.root["rest"] = seen

    request = Request(arena, work)
    with pytest.raises(RuntimeError):  # its own insertion changed the keys
        request.step()

    iterator = iter(arena.root)
    next(iterator)
    with arena.transaction():
        arena.root["rest"] = 0
    iterator = iter(arena.root)
    next(iterator)
    request = Request(arena, work)
    request.step()
    with arena.transaction():
        arena.root["new"] = 1
    with pytest.raises(ConflictError):
        request.step()


def test_an_array_keeps_its_items_when_storing_it_fails() -> None:
    """What a failed store was given can be stored again, with all its items."""
    with Arena.temporary("2 MiB") as arena:
        big, small = Array([1.0] * 500_000), Array([1, 2, 3], "i8")
        with pytest.raises(ArenaFullError), arena.transaction():
            arena.root["a"] = {"small": small, "big": big}
        assert len(arena.root) == 0
        with arena.transaction():
            arena.root["a"] = {"small": small}
        assert arena.root["a"]["small"].to_python() == [1, 2, 3]
        assert arena.verify().leaked_blocks == 0


def test_an_array_begins_with_the_items_it_is_given(arena: Arena) -> None:
    """Lists, ranges and ndarrays are copied when the Array is made; an item that does not fit is an error there."""
    import numpy as np

    source = np.arange(6, dtype="i4").reshape(2, 3)
    stored = Array(source)
    source[:] = 0
    with arena.transaction():
        arena.root["nd"] = stored
        arena.root["range"] = Array(range(4), "u2")
        arena.root["complex"] = Array([1j, 2], "c16")
        arena.root["native"] = Array(np.arange(3))  # its dtype is equal to `int`, which has no name of that kind
        arena.root["empty"] = Array(0)
    assert arena.root["nd"].to_python() == [[0, 1, 2], [3, 4, 5]]
    assert arena.root["range"].to_python() == [0, 1, 2, 3]
    assert arena.root["complex"].to_python() == [1j, 2]
    assert arena.root["native"].to_python() == [0, 1, 2]
    assert arena.root["empty"].to_python() == []
    with pytest.raises(TypeError, match="nothing was made"):
        Array([1, 2.5], "i8")
    with pytest.raises(TypeError, match="nothing was made"):
        Array([256], "u1")


def test_a_deleted_container_cannot_be_stored_again(arena: Arena) -> None:
    """Moving by way of del is refused by name, in the same transaction and in a later one."""
    with arena.transaction():
        arena.root["b"] = {"x": 1}
    with pytest.raises(StaleReferenceError), arena.transaction():
        moved = arena.root["b"]
        del arena.root["b"]
        arena.root["a"] = moved
    with arena.transaction():
        gone = arena.root["b"]
        del arena.root["b"]
    for i in range(50):
        with arena.transaction():
            arena.root[f"new{i}"] = {}
    with pytest.raises(StaleReferenceError), arena.transaction():
        arena.root["a"] = gone
    arena.verify()


def test_a_container_has_one_parent(arena: Arena) -> None:
    """Storing one twice, in itself or below itself is refused, and nothing of the operation remains."""
    twice = Dict(x=1)
    with pytest.raises(TransactionError, match="one parent"), arena.transaction():
        arena.root["a"] = {"one": twice, "two": twice}
    itself = Dict()
    itself["self"] = itself
    with pytest.raises((TransactionError, RecursionError)), arena.transaction():
        arena.root["a"] = itself
    with arena.transaction():
        arena.root["a"] = {"b": {}}
        with pytest.raises(TransactionError, match="one parent"):
            arena.root["a"]["b"]["up"] = arena.root["a"]
        with pytest.raises(TransactionError, match="one parent"):
            arena.root["a"]["root"] = arena.root
        arena.root["a"] = arena.root["a"]
    assert arena.root == {"a": {"b": {}}}
    assert arena.verify().leaked_blocks == 0


def test_a_failed_operation_inside_a_transaction_leaves_the_rest(arena: Arena) -> None:
    """What a handler catches of one failed store is undone alone; the transaction goes on and commits."""
    with arena.transaction():
        arena.root["keep"] = {"n": 1}
        before = arena.root.to_python()
        for bad in (object(), {"deep": {"x": object()}}, {"a": 1, "b": [object()]}):
            with pytest.raises(TypeError):
                arena.root["keep"] = bad
            assert arena.root.to_python() == before
        with pytest.raises(TypeError):
            arena.root[{}] = 1
        with pytest.raises(TypeError):
            arena.root[[1]] = 1
        arena.root["keep"]["n"] += 1
    assert arena.root == {"keep": {"n": 2}}
    assert arena.verify().leaked_blocks == 0


def test_huge_indices_are_index_errors(arena: Arena) -> None:
    """An index that no machine word holds is out of bounds like any other."""
    with arena.transaction():
        arena.root["a"] = Array(3, "i8")
        for index in (3, -4, 2**62, 2**63, -(2**64), 10**30):
            with pytest.raises(IndexError):
                arena.root["a"][index]
            with pytest.raises(IndexError):
                arena.root["a"][index] = 1
