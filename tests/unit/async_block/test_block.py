"""`async with arena.transaction():`, alone and inside others: what commits, what rolls back, what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
from typing import Any

import pytest

from recoverable import (
    Arena,
    Array,
    ConflictError,
    TransactionError,
    after_commit,
    attempt,
    recoverable,
)
from support.async_blocks import AppError, commit, outside


def test_a_clean_end_commits_all_of_its_steps(arena: Arena, run: Any) -> None:
    """What was written before and after an await is committed at the end, and nobody sees it before."""
    root = arena.root

    async def main() -> None:
        async with arena.transaction():
            root["a"] = 1
            await asyncio.sleep(0)
            root["b"] = root["a"] + 1
            assert await outside(lambda: dict(root)) == {}
            assert dict(root) == {"a": 1, "b": 2}
        assert await outside(lambda: dict(root)) == {"a": 1, "b": 2}
        assert arena.stats().in_flight == 0

    run(main())


@pytest.mark.parametrize("error", [AppError, SystemExit, asyncio.CancelledError])
def test_any_exception_rolls_back(arena: Arena, run: Any, error: type[BaseException]) -> None:
    """Whatever leaves the block undoes it and goes on, and so does a cancellation."""
    root = arena.root

    async def main() -> None:
        with pytest.raises(error):
            async with arena.transaction():
                root["a"] = 1
                await asyncio.sleep(0)
                raise error
        task = asyncio.create_task(sleeper())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert dict(root) == {}
        assert arena.stats().in_flight == 0

    async def sleeper() -> None:
        async with arena.transaction():
            root["a"] = 1
            await asyncio.sleep(10)

    run(main())


def test_a_conflict_is_raised_at_its_exit(arena: Arena, run: Any) -> None:
    """Of blocks that read the same and write it, one commits; the others tell where, and by whom."""
    root = arena.root

    async def bump() -> None:
        async with arena.transaction():
            n = root.get("n", 0)
            await asyncio.sleep(0.01)
            root["n"] = n + 1

    async def main() -> None:
        ends = await asyncio.gather(*(bump() for _ in range(4)), return_exceptions=True)
        lost = [end for end in ends if end is not None]
        assert [type(end) for end in lost] == [ConflictError] * 3
        assert lost[0].path == "root"  # type: ignore[union-attr]
        assert lost[0].key == "'n'"  # type: ignore[union-attr]
        assert "bump" in str(lost[0].winner)  # type: ignore[union-attr]
        assert lost[0].runs == 1  # type: ignore[union-attr]
        assert root["n"] == 1

    run(main())


def test_what_its_code_makes_of_a_conflict_does_not_matter(arena: Arena, run: Any) -> None:
    """A block that keeps what stops it has lost all the same."""
    root = arena.root
    with arena.transaction():
        root["n"] = 0

    async def main() -> None:
        with pytest.raises(ConflictError):
            async with arena.transaction():
                assert root["n"] == 0
                await outside(functools.partial(commit, arena, "n", 5))
                with contextlib.suppress(BaseException):
                    root["n"] = 1
        assert root["n"] == 5

    run(main())


def test_callbacks_may_be_coroutine_functions(arena: Arena, run: Any) -> None:
    """They are awaited after the commit; never after a rollback."""
    called: list[Any] = []

    async def note(value: Any) -> None:
        await asyncio.sleep(0)
        called.append((value, dict(arena.root)))

    async def main() -> None:
        async with arena.transaction():
            arena.root["a"] = attempt()
            after_commit(note, "once")
            after_commit(called.append, "plain")
        assert called == [("once", {"a": 1}), "plain"]
        with pytest.raises(AppError):
            async with arena.transaction():
                arena.root["a"] = 2
                after_commit(note, "never")
                raise AppError
        assert len(called) == 2

    run(main())


def test_a_block_is_for_one_use(arena: Arena, run: Any) -> None:
    """Once more, or left without being entered, it says so; so does one without an event loop."""

    async def main() -> None:
        block = arena.transaction()
        async with block:
            arena.root["a"] = 1
        with pytest.raises(TransactionError, match="one use"):
            async with block:
                raise AssertionError
        with pytest.raises(TransactionError, match="not been entered"):
            await arena.transaction().__aexit__(None, None, None)

    run(main())
    with pytest.raises(TransactionError, match="asyncio event loop"):
        arena.transaction().__aenter__().send(None)  # type: ignore[attr-defined]
    assert dict(arena.root) == {"a": 1}


def test_one_that_is_never_left_is_rolled_back(arena: Arena, run: Any) -> None:
    """Its generator is closed, or collected, or its loop ends: nothing of it stays, and the arena is free."""
    root = arena.root

    async def values() -> Any:
        async with arena.transaction():
            root["a"] = 1
            yield root["a"]

    async def main() -> None:
        async for value in values():
            assert value == 1
            break
        kept = values()
        await anext(kept)
        del kept
        block = arena.transaction()
        await block.__aenter__()
        root["b"] = 1

    run(main())
    gc.collect()
    with arena.transaction():
        root["c"] = 1
    assert dict(root) == {"c": 1}
    assert arena.stats().in_flight == 0


# -- inside another -----------------------------------------------------------------------------------------------------


def test_in_a_transaction_it_is_a_part_of_that(arena: Arena, run: Any) -> None:
    """In a handler, in arena.run() and in another such block: what it wrote goes with them."""
    root = arena.root

    async def part() -> None:
        async with arena.transaction():
            root["n"] = root.get("n", 0) + 1
            await asyncio.sleep(0)

    async def whole() -> None:
        await part()
        raise AppError

    async def main() -> None:
        for fn in (whole, recoverable(whole)):
            with pytest.raises(AppError):
                await arena.run(fn)
        with pytest.raises(AppError):
            async with arena.transaction():
                await whole()
        assert dict(root) == {}
        await arena.run(part)
        async with arena.transaction():
            await part()
            await recoverable(part)()
            with arena.transaction():
                root["n"] += 1
        assert root["n"] == 4

    run(main())


def test_what_is_one_step_has_none_inside(arena: Arena, run: Any) -> None:
    """In a block or a savepoint, and as an independent one inside a transaction, it is refused."""

    async def enter(**options: Any) -> None:
        async with arena.transaction(**options):
            raise AssertionError

    async def main() -> None:
        with arena.transaction(), pytest.raises(TransactionError, match="part of one step"):
            await enter()
        async with arena.transaction():
            with arena.savepoint(), pytest.raises(TransactionError, match="part of one step"):
                await enter()
            with pytest.raises(TransactionError, match="independent"):
                await enter(independent=True)

    run(main())


def test_an_await_in_a_savepoint_inside_dooms_it(arena: Arena, run: Any) -> None:
    """The way back to a savepoint ends with its step."""

    async def main() -> None:
        with pytest.raises(TransactionError):
            async with arena.transaction():
                arena.root["a"] = 1
                with arena.savepoint():
                    arena.root["b"] = 1
                    await asyncio.sleep(0.01)
                    arena.root["c"] = 1
        assert dict(arena.root) == {}
        assert arena.stats().in_flight == 0

    run(main())


def test_raw_views_are_refused(arena: Arena, run: Any) -> None:
    """Nothing could say when a step ends that stores through them; items and slices are fine, and a handler's own views."""
    pytest.importorskip("numpy")
    with arena.transaction():
        arena.root["m"] = Array((4,), "f8")

    async def main() -> None:
        async with arena.transaction():
            arena.root["m"][0] = 1.0
            with pytest.raises(TransactionError, match="raw view"):
                _ = arena.root["m"].view
        assert list(arena.root["m"]) == [1.0, 0.0, 0.0, 0.0]

    run(main())
