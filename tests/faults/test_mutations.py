"""Exploration finds our own defects: each mistake that the test build can make shows in one of a few scenarios.

The mistakes are switches in the C core (`MUTATED` there). Each is made in a forked child, since a core with a mistake in it
may do anything; and without one, the same scenarios find nothing. Most mistakes need a fault to show: the scenario without
one passes, and an ordinary test would. Those that show by themselves are named, and that is checked as well.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from recoverable import Arena, ArenaFullError, Array, Counter, recoverable
from recoverable._native import _switches
from recoverable.faults import InjectedFault, explore
from support.forks import in_child

pytestmark = [
    pytest.mark.slow,
    pytest.mark.crash,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not _switches.test_build(), reason="needs a build with -Dcrashpoints=true"),
]

arena: Arena


def fill(opened: Arena) -> None:
    """Two accounts, a counter, a book, an array whose pages are hot."""
    global arena
    arena = opened
    with arena.transaction():
        arena.root["ann"], arena.root["bob"] = 100, 0
        arena.root["hits"], arena.root["book"] = Counter(), {i: {"n": i} for i in range(3)}
        arena.root["a"], arena.root["line"] = Array(2000, "i8"), list(range(100))
    for turn in range(4):  # twice within a few steps makes a page hot
        with arena.transaction():
            view = arena.root["a"].view
            view[0] = view[600] = turn
            del view


def total() -> int:
    """Sum up the money."""
    return int(arena.root["ann"] + arena.root["bob"])


# -- what is done -----------------------------------------------------------------------------------------------------


@recoverable
async def transfer() -> str:
    """Move money across an await, and count it."""
    root = arena.root
    root["ann"] -= 10
    root["hits"].add(1)
    root["book"]["new"] = {"amount": 10, "why": "text that is longer than a cell"}
    await asyncio.sleep(0)
    del root["book"][1]
    root["bob"] += 10
    return "done"


def counted() -> bool:
    """The money is there, and each transfer is in the book and counted once."""
    done = "new" in arena.root["book"]
    return total() == 100 and arena.root["hits"].value == done and len(list(arena.root["book"])) == 3


done: list[str] = []


@recoverable
async def add() -> None:
    """Read, wait, write what was read and one more."""
    n = arena.root["ann"]
    await asyncio.sleep(0)
    arena.root["ann"] = n + 1


@recoverable
async def early() -> None:
    """Write, and go on for a while."""
    arena.root["bob"] = 1
    for _ in range(3):
        await asyncio.sleep(0)
    arena.root["hits"].add(1)


async def run(request: Callable[[], Any]) -> None:
    """Note a request that was answered."""
    await request()
    done.append(request.__name__)


async def several() -> None:
    """Two requests at once that have nothing to do with each other."""
    await asyncio.gather(run(add), run(early), return_exceptions=True)


async def turns() -> None:
    """Two requests for the same, one after the other unless the first is late."""

    async def second() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        await run(add)

    await asyncio.gather(run(add), second(), return_exceptions=True)


def each_counted() -> bool:
    """What was answered is there, what failed is not."""
    root = arena.root
    return root["ann"] == 100 + done.count("add") and root["bob"] == root["hits"].value == done.count("early")


def raw() -> None:
    """Write through a view, hot pages and cold ones."""
    with arena.transaction():
        view = arena.root["a"].view
        view[0] += 1
        view[1500] += 1
        del view
        arena.root["ann"] -= 1


def raw_units() -> Iterator[None]:
    """Commit raw writes, then roll others back."""
    for turn in range(2):
        with arena.transaction():
            view = arena.root["a"].view
            view[0] = view[600] = view[1500] = 10 + turn
            del view
        yield
        try:
            with arena.transaction():
                view = arena.root["a"].view
                view[1] = view[1501] = 99
                del view
                raise InjectedFault
        except InjectedFault:
            pass


def simple() -> None:
    """Move money in one block."""
    with arena.transaction():
        arena.root["ann"] -= 10
        arena.root["bob"] += 10


def parts() -> None:
    """Do a part in another way where it fails."""
    with arena.transaction():
        arena.root["ann"] -= 10
        try:
            with arena.savepoint():
                arena.root["bob"] += 4
                arena.root["bob"] += 6
        except InjectedFault:
            arena.root["bob"] += 10


@recoverable
async def mended() -> None:
    """Ask somebody else where a part fails: it is suspended only then."""
    arena.root["ann"] -= 10
    try:
        arena.root["bob"] += 10
    except InjectedFault:
        await asyncio.sleep(0)
        arena.root["bob"] += 10


def same_total() -> bool:
    """No money is made or lost."""
    return total() == 100


def goes_on() -> None:
    """Commit although an operation has failed."""
    with arena.transaction(), contextlib.suppress(ArenaFullError):
        arena.root["line"].insert(1, "new")


def whole_line() -> bool:
    """The operation was done, or it was not."""
    line = arena.root["line"].to_python()
    return line in ([*range(100)], [0, "new", *range(1, 100)])


Scenario = tuple[Callable[..., Any], dict[str, Any]]
ALL = ("line", "await", "write", "alloc", "conflict", "kill")
SCENARIOS: dict[str, Scenario] = {
    "transfer": (transfer, {"invariant": counted, "points": ALL}),
    "several": (
        several,
        {"invariant": each_counted, "points": ("await", "conflict"), "atomic": False, "before": done.clear},
    ),
    "turns": (turns, {"invariant": each_counted, "points": ("await",), "atomic": False, "before": done.clear}),
    "simple": (simple, {"points": ("line", "write", "kill")}),
    "raw_hot": (raw, {"points": ("line", "write", "kill")}),
    "raw_cold": (raw, {"points": ("line", "write", "kill")}),
    "raw_units": (raw_units, {"points": ("kill",)}),
    "parts": (parts, {"invariant": same_total, "points": ("line", "kill")}),
    "mended": (mended, {"invariant": same_total, "points": ("write",)}),
    "goes_on": (goes_on, {"invariant": whole_line, "points": ("alloc",), "atomic": False}),
}
FOUND_BY = {
    "undo.skip_record": "simple",
    "commit.publish_first": "transfer",
    "undo.skip_pages": "raw_cold",
    "commit.keep_tail": "transfer",
    "rollback.others": "several",
    "rollback.skip_pages": "raw_hot",
    "stamp.drop": "turns",
    "validate.skip": "turns",
    "stash.miss_range": "mended",
    "intent.twice": "transfer",
    "resume.no_relink": "transfer",
    "heap.leak": "transfer",
    "heap.no_mark": "transfer",
    "recover.half": "transfer",
    "savepoint.keep": "parts",
    "operation.keep_half": "goes_on",
    "shadow.forget": "raw_units",
}
SHOW_BY_THEMSELVES = {"intent.twice", "resume.no_relink", "heap.leak", "heap.no_mark"}


def explored(scenario: str, mutation: str | None, **more: Any) -> tuple[int, str]:
    """Explore a scenario with a mistake in the core: how many failures there are at least, and the text."""
    target, options = SCENARIOS[scenario]
    options = options | more

    def run() -> tuple[int, str]:
        policy = "incremental" if "cold" in scenario else "adaptive"
        with Arena.temporary("16 MiB", policy=policy) as opened:
            fill(opened)
            assert (opened.stats().hot_pages > 0) == (policy == "adaptive")
            _switches.mutate(mutation)
            try:
                report = explore(target, arena=opened, check=False, max_failures=1 if mutation else None, **options)
            finally:
                _switches.mutate(None)
            return len(report.failures), str(report)

    ending = in_child(run, timeout=120)
    if mutation and not ending.returned:  # it has brought the process down: found
        return 1, str(ending)
    assert ending.returned, ending
    return ending.value  # type: ignore[no-any-return]


def test_each_mistake_is_looked_for() -> None:
    """The list here names every mutation that the core knows, ten or more need a fault, and the core refuses others."""
    assert FOUND_BY.keys() == {
        name for name in _switches.mutations() if not name.startswith("feed.")
    }  # tests/property/test_replica.py
    assert len(FOUND_BY.keys() - SHOW_BY_THEMSELVES) >= 10
    with pytest.raises(ValueError, match=r"there is no mutation 'undo\.skip'"):
        _switches.mutate("undo.skip")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_sound_core_passes(scenario: str) -> None:
    """Without a mistake the scenarios find nothing."""
    failures, text = explored(scenario, None)
    assert failures == 0, text
    print(text)


@pytest.mark.parametrize("mutation", FOUND_BY)
def test_a_mistake_is_found(mutation: str) -> None:
    """A core with this mistake in it fails an exploration: by a fault, but for the few that show without any."""
    alone, text = explored(FOUND_BY[mutation], mutation, points=())
    assert bool(alone) == (mutation in SHOW_BY_THEMSELVES), text
    failures, text = explored(FOUND_BY[mutation], mutation)
    print(text)
    assert failures, f"nothing was found: {text}"
