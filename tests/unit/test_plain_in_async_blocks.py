"""`@recoverable` on plain functions inside `async with arena.transaction():`, in its task and in its threads."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import after_commit, attempt, recoverable

if TYPE_CHECKING:
    from recoverable import Arena


class AppError(Exception):
    """Stands for any error of an application."""


def content(arena: Arena) -> dict[Any, Any]:
    """Return the root's items, read outside any transaction."""
    return dict(arena.root.items())


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("threaded", [False, True])
async def test_it_is_a_part_of_the_block(arena: Arena, threaded: bool, fails: bool) -> None:
    """Whatever thread it runs in, where the context came along: it commits and rolls back with the block."""
    called: list[str] = []

    @recoverable(retries=3)
    def put(key: str) -> int:
        arena.root[key] = True
        after_commit(called.append, key)
        return attempt()

    async def call(key: str) -> int:
        return await asyncio.to_thread(put, key) if threaded else put(key)

    try:
        async with arena.transaction():
            assert await call("a") == 1
            await asyncio.sleep(0)
            assert await call("b") == 1
            if fails:
                raise AppError
    except AppError:
        pass
    assert content(arena) == ({} if fails else {"a": True, "b": True})
    assert called == ([] if fails else ["a", "b"])


@pytest.mark.parametrize("threaded", [False, True])
async def test_an_independent_one_commits_by_itself(arena: Arena, threaded: bool) -> None:
    """Whatever becomes of the block, which goes on afterwards."""

    @recoverable(nested="independent", retries=1)
    def audit() -> int:
        arena.root["audit"] = arena.root.get("audit", 0) + 1
        if attempt() == 1:
            raise AppError
        return attempt()

    with pytest.raises(AppError):
        async with arena.transaction():
            arena.root["n"] = 1
            assert (await asyncio.to_thread(audit) if threaded else audit()) == 2
            arena.root["n"] += 1
            raise AppError
    assert content(arena) == {"audit": 1}


async def test_a_loop_that_is_faster_than_its_thread_ends_no_step_too_early(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may come to end a thread's step before the thread has begun it: then it is asked again, and nothing stays mounted."""
    loop = asyncio.get_running_loop()
    asks = loop.call_soon_threadsafe

    def ask_and_wait(*args: Any, **options: Any) -> asyncio.Handle:
        handle = asks(*args, **options)
        if len(waited) < 3:
            waited.append(time.sleep(0.02))
        return handle

    waited: list[None] = []
    monkeypatch.setattr(loop, "call_soon_threadsafe", ask_and_wait)
    async with arena.transaction():
        await asyncio.to_thread(arena.root.update, {"n": 1})
        await asyncio.sleep(0.1)
        assert arena.native.lock_is_free()
    assert content(arena) == {"n": 1}
