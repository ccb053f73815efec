"""One fault at a chosen point of a program."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from aiohttp import web

from recoverable import (
    Arena,
    ArenaFullError,
    ArenaOptionError,
    recoverable,
)
from recoverable.aiohttp import setup
from recoverable.faults import (
    Cancel,
    Conflict,
    Disconnect,
    Full,
    InjectedFault,
    Raise,
    Segfault,
    Timeout,
    _watch,
    armed,
    inject,
)
from support.injected import injected


@pytest.fixture
def work(arena: Arena) -> Any:
    """Give a handler with two awaits and three writes."""
    with arena.transaction():
        arena.root["n"] = 0

    @recoverable
    async def work() -> str:
        arena.root["n"] += 1
        await asyncio.sleep(0)
        arena.root["n"] += 1
        await asyncio.sleep(0)
        arena.root["n"] += 1
        return "done"

    return work


@pytest.mark.parametrize(
    ("fault", "at", "nth", "error"),
    [
        (Raise(ValueError), "await", 2, ValueError),
        (Raise(ValueError), "line", 4, ValueError),
        (Raise(OSError(5, "disk")), "write", 3, OSError),
        (Timeout(), "await", 1, TimeoutError),
        (Cancel(), "await", 1, asyncio.CancelledError),
        (Full(), "write", 1, ArenaFullError),
        (Full(), "alloc", 1, ArenaFullError),
    ],
)
async def test_a_fault_strikes_once_at_the_nth_point(
    arena: Arena, work: Any, fault: Any, at: str, nth: int, error: type[BaseException], log: list[dict[str, Any]]
) -> None:
    """`inject` lets one fault strike, in the first run that gets that far, as an event; later runs are untouched."""
    with inject("work", fault, at=at, nth=nth) as injection:
        if nth > 1:
            assert not injection.struck
        with pytest.raises(error):
            await work()
        assert injection.struck
        assert arena.root["n"] == 0
        assert await work() == "done"
        assert arena.root["n"] == 3
    assert [(event["fault"], event["at"]) for event in injected(log)] == [(str(fault), at)]


async def test_points_are_counted_across_runs(arena: Arena, work: Any) -> None:
    """The fourth await is the second of the second run; the seventh write is the first of the third run."""
    with inject("*", Raise(), at="await", nth=4), inject("work", Raise(KeyError), at="write", nth=7):
        assert await work() == "done"
        with pytest.raises(InjectedFault):
            await work()
        # three writes of the first, two of the second: the seventh is the second of the third run
        with pytest.raises(KeyError):
            await work()
        assert await work() == "done"


async def test_an_allocation_is_counted_across_steps_and_runs(arena: Arena) -> None:
    """The nth allocation of a run is the one that a plan's fault strikes; one behind the last is in the next run."""
    done: list[int] = []

    @recoverable
    async def grow() -> None:
        done.clear()
        for i in range(6):
            arena.root[i] = {"text": b"x" * 300}
            done.append(i)
            if i in {1, 3}:
                await asyncio.sleep(0)
        raise LookupError  # rolled back: each run is like the first

    async def writes_of(runs: int) -> int:
        """Run it so often; return how many writes the last one had done when it ran out of room."""
        for _ in range(runs - 1):
            with pytest.raises(LookupError):
                await grow()
        with pytest.raises(ArenaFullError):
            await grow()
        return len(done)

    with contextlib.suppress(LookupError):
        await grow()
    expected: list[int] = []
    while len(done) < 6 or not expected:
        with armed(f"alloc:{len(expected) + 1}=full", arena), contextlib.suppress(ArenaFullError, LookupError):
            await grow()
        expected.append(len(done))
    expected.pop()
    assert set(expected) == set(range(6)), "each write is to allocate"
    total = len(expected)
    for nth in (1, 2, 3, total // 2, total - 1, total, total + 1, total + 2, 2 * total, 2 * total + 3):
        with inject("grow", Full(), at="alloc", nth=nth) as injection:
            assert await writes_of(1 + (nth - 1) // total) == expected[(nth - 1) % total]
            assert injection.struck
            with pytest.raises(LookupError):
                await grow()
    with inject("grow", Full(), at="alloc", nth=total + 3) as injection:
        with pytest.raises(LookupError):
            await grow()
        assert (injection.struck, injection.left) == (False, 3)


async def test_allocations_of_others_are_not_counted(arena: Arena) -> None:
    """Only those of the handlers that the name means count, also where one runs inside the other."""
    done: list[str] = []

    @recoverable
    async def outer() -> None:
        done.clear()
        arena.root["before"] = b"x" * 300
        await arena.run(inner, nested="independent")
        arena.root["after"] = b"x" * 300

    async def inner() -> None:
        arena.root["inner"] = b"x" * 300
        done.append("inner")

    with inject("*inner", Full(), at="alloc") as injection:
        with pytest.raises(ArenaFullError):
            await outer()
        assert injection.struck
        assert "before" not in arena.root
    counted = {}
    await outer()  # the keys are there from now on: each run is like the next
    for name in ("*outer", "*inner", "*"):
        with inject(name, Full(), at="alloc", nth=10_000) as injection:
            await outer()
        counted[name] = 10_000 - injection.left
    assert counted["*"] == counted["*outer"] + counted["*inner"] > counted["*inner"] > 0 < counted["*outer"]
    with inject("*outer", Full(), at="alloc", nth=counted["*outer"]), pytest.raises(ArenaFullError):
        await outer()
    assert done == ["inner"], "the last allocation of the outer one is behind the inner one"


async def test_a_forced_conflict_runs_the_handler_again(arena: Arena, work: Any, log: list[dict[str, Any]]) -> None:
    """A conflict at a resume or at the commit is solved by a re-run, and counted as any other."""
    before = arena.stats()
    for at in ("resume", "commit"):
        with inject("work", Conflict(), at=at) as injection:
            assert await work() == "done"
            assert injection.struck
    assert arena.root["n"] == 6
    after = arena.stats()
    assert (after.conflicts - before.conflicts, after.rollbacks - before.rollbacks) == (2, 2)
    assert [event["then"] for event in log if event["event"] == "request.conflict"] == ["rerun", "rerun"]


async def test_an_injection_that_is_removed_does_not_strike(arena: Arena, work: Any) -> None:
    """remove() takes it back; the last one disarms everything."""
    injection = inject("work", Raise(), at="line")
    other = inject("work", Raise(), at="write", arena=arena)
    injection.remove()
    with pytest.raises(InjectedFault):
        await work()
    assert (injection.struck, other.struck) == (False, True)
    other.remove()
    other.remove()
    assert _watch.armed() is None


async def test_a_disconnect_without_a_client_is_told_and_not_counted(
    arena: Arena, log: list[dict[str, Any]], work: Any
) -> None:
    """Where no request is served, nothing strikes, which an event says once; an injection has not struck."""
    before = arena.stats().faults
    setup(app := web.Application(), arena, faults="work=disconnect@await", allow_faults=True)
    with inject("work", Disconnect(), at="await") as injection:
        assert [await work(), await work()] == ["done", "done"]
        assert (injection.struck, injection.left) == (False, 1)
    told = [event for event in log if event["event"] == "fault.not_injected"]
    assert [(event["rule"], event["handler"].rpartition(".")[2]) for event in told] == [
        ("work=disconnect@await", "work")
    ]
    assert "no client" in told[0]["why"]
    assert not injected(log)
    assert arena.stats().faults == before
    app.freeze()
    await app.cleanup()


def test_wrong_injections_are_refused(arena: Arena) -> None:
    """Places, faults and numbers that can't be are errors, and nothing is armed."""
    for wrong, message in (
        ({"fault": Raise(), "at": "commit"}, "raise can't strike at commit"),
        ({"fault": Raise(), "at": "line", "nth": 0}, "nth=0 must be a whole number, 1 or more"),
        ({"fault": Segfault(), "at": "recover"}, "there is no place 'recover'"),
    ):
        with pytest.raises(ArenaOptionError, match=message):
            inject("work", **wrong)  # type: ignore[arg-type]
    assert _watch.armed() is None
