"""A Call that is used again brings its Transaction along: only where nobody else has it, and as good as a new one."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, ConflictError, TransactionError, after_commit, recoverable
from recoverable._native.runtime import Transaction, current_transaction
from support.workers import finish, pause

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a test looks for: a transaction may be used again with any of these still set.
ASKED = (
    "arena", "handler", "one_step", "hooks", "attempt", "rerun", "limit", "open_blocks", "conflicted", "privileged", "closed",
    "parent", "around", "left", "settled", "request", "state", "touched", "wrote",
)  # fmt: skip


def here() -> Transaction:
    """The transaction that runs."""
    t = current_transaction()
    assert t is not None
    return t


def seen(t: Transaction) -> dict[str, Any]:
    """What a transaction says of itself."""
    return {name: getattr(t, name) for name in ASKED} | {"report": t.report()}


@pytest.fixture
def second(name: str) -> Iterator[Arena]:
    """Another arena."""
    with Arena.open(f"{name}-2", "4 MiB") as opened:
        yield opened
    Arena.unlink(f"{name}-2")


def test_the_next_one_is_the_same_object(arena: Arena) -> None:
    """A request makes no Transaction where the one before has left its own."""

    @recoverable(arena=arena)
    async def handler() -> int:
        return id(here())

    finish(handler())
    assert len({finish(handler()) for _ in range(50)}) == 1


def test_what_somebody_holds_is_never_used_again(arena: Arena) -> None:
    """A reference to an ended transaction goes on saying what that one was; a weak one says that it is gone."""
    held: list[Any] = []
    weak: list[Any] = []
    gone: list[Any] = []

    @recoverable(arena=arena)
    async def first(n: int) -> None:
        arena.root[f"n{n}"] = "x" * 100
        held.append(here())

    @recoverable(arena=arena)
    async def watched() -> None:
        weak.append(weakref.ref(here(), gone.append))

    @recoverable(arena=arena)
    async def second() -> bool:
        return any(here() is t for t in held) or any(here() is ref() for ref in weak)

    for n in range(20):
        finish(first(n))
        before = seen(held[-1])
        assert (before["handler"], before["state"], before["wrote"]) == (first.__qualname__, "committed", True)
        finish(watched())
        assert weak[-1]() is None
        assert len(gone) == n + 1
        assert not finish(second())
        assert seen(held[-1]) == before


def test_nothing_is_left_of_the_one_before(arena: Arena, second: Arena) -> None:
    """However the run before has ended, the next one with its Transaction looks like the first ever."""
    ids: set[int] = set()

    def noted() -> Transaction:
        ids.add(id(here()))
        return here()

    @recoverable(arena=arena)
    async def plain() -> dict[str, Any]:
        return {**seen(noted()), "handler": None}

    @recoverable(arena=arena)
    async def writes() -> None:
        noted()
        arena.root["a"] = [1, 2, 3]
        after_commit(lambda: None)
        await pause()

    @recoverable(arena=arena)
    async def raises() -> None:
        noted()
        arena.root["a"] = "lost"
        await pause()
        raise KeyError

    @recoverable(arena=arena, max_conflicts=0)
    async def loses() -> None:
        noted()
        assert arena.root["c"] >= 0
        with arena.transaction(independent=True):
            pass
        await pause()
        arena.root["c"] += 1

    @recoverable(arena=second)
    async def around() -> None:
        await plain()

    @recoverable(arena=arena, timeout=30)
    async def limited() -> None:
        noted()
        await asyncio.sleep(0)

    with arena.transaction():
        arena.root["c"] = 0
    first = finish(plain())
    for _ in range(3):
        finish(writes())
        assert finish(plain()) == first
        with pytest.raises(KeyError):
            finish(raises())
        assert finish(plain()) == first
        call = loses()
        call.send(None)
        with arena.transaction():
            arena.root["c"] += 1
        with pytest.raises(ConflictError):
            finish(call)
        del call
        assert finish(plain()) == first
        half = writes()
        half.send(None)
        half.close()
        del half
        assert finish(plain()) == first
        finish(around())
        assert finish(plain()) == first
        asyncio.run(limited())
        assert finish(plain()) == first
    gc.collect()


def test_its_arena_is_not_held(name: str) -> None:
    """A closed arena is gone although the transactions on it wait to be used again; those are used on another one."""
    with Arena.open(name, "4 MiB") as opened:

        @recoverable
        async def handler() -> bool:
            return here().arena is native

        native = opened.native
        assert finish(handler())
        half: Any = handler()  # and one that never begins
        half.close()
    gone = weakref.ref(opened)
    del opened, native, half
    try:
        gc.collect()
        assert gone() is None
        with Arena.open(name, "4 MiB") as opened:
            native = opened.native
            assert finish(handler())
    finally:
        Arena.unlink(name)


def test_one_that_its_arena_was_closed_under(name: str) -> None:
    """A request that finds its arena closed leaves a Transaction that is as good as any."""
    with Arena.open(name, "4 MiB") as opened:

        @recoverable(arena=opened)
        async def handler() -> None:
            opened.root["n"] = 1
            await pause()

        call: Any = handler()
        call.send(None)
    try:
        with pytest.raises(TransactionError):
            finish(call)
        del call
        with Arena.open(name, "4 MiB") as again:

            @recoverable(arena=again)
            async def other() -> str:
                again.root["n"] = 2
                return here().state

            assert finish(other()) == "active"
            assert again.root["n"] == 2
    finally:
        Arena.unlink(name)


def test_one_that_is_got_at_while_it_waits(arena: Arena) -> None:
    """Who digs a Transaction out of the collector's lists has it for himself, even if he begins it again."""

    @recoverable(arena=arena)
    async def handler() -> bool:
        return any(here() is t for t in found)

    found: list[Any] = []
    calls = [handler() for _ in range(10)]
    for call in calls:
        finish(call)
    del calls, call
    found = [o for o in gc.get_objects() if type(o) is Transaction and o.arena is None]
    assert found
    for t in found[::2]:
        t.__init__(arena.native, "dug out", True)  # type: ignore[misc]
    assert not any(finish(handler()) for _ in range(200))
    assert {t.handler for t in found} <= {"dug out", None}
    for t in found:
        t.rollback()


def test_what_its_end_runs_may_call_handlers(arena: Arena) -> None:
    """A finaliser of what a transaction held finds everything as it should be, and makes calls of its own."""
    made: list[str] = []

    @recoverable(arena=arena)
    async def handler(n: int) -> str:
        arena.root["n"] = n
        return here().handler

    class Calling:
        def __del__(self) -> None:
            made.append(finish(handler(1)))

        def __call__(self) -> None: ...

    @recoverable(arena=arena)
    async def outer() -> None:
        here().limit = Calling()

    for n in range(20):
        finish(outer())
        assert len(made) == n + 1
    assert set(made) == {handler.__qualname__}


def test_threads_share_them(arena: Arena) -> None:
    """A Transaction of a thread that has ended is used by another one."""
    failed: list[BaseException] = []

    @recoverable(arena=arena, max_conflicts=1000)
    async def handler() -> None:
        arena.root["n"] = arena.root.get("n", 0) + 1

    def run() -> None:
        try:
            for _ in range(50):
                finish(handler())
        except BaseException as error:
            failed.append(error)

    for _ in range(3):
        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed
    assert arena.root["n"] == 450


@pytest.mark.crash
def test_a_forked_child_uses_them(arena: Arena) -> None:
    """What waits in the parent is the child's own; one that the fork came in the middle of is not used again there."""

    @recoverable(arena=arena)
    async def handler(key: str) -> str:
        arena.root[key] = 1
        await pause()
        return here().state

    finish(handler("before"))
    half: Any = handler("half")
    half.send(None)
    child = os.fork()
    if child == 0:
        good = False
        try:
            good = finish(handler("child")) == "active"
            half.close()
            good = good and all(finish(handler(f"child{n}")) == "active" for n in range(5))
        finally:
            os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert finish(half) == "active"
    assert sorted(arena.root) == ["before", "child", *(f"child{n}" for n in range(5)), "half"]
