"""Random histories of requests in an event loop, where those who lose queue: serialisable and opaque all the same.

The other histories are driven by hand, where nobody waits for a turn. Here requests do. In which order they committed the arena
itself tells: each inserts its name into one Dict, which no two do in conflict, and a Dict keeps the order of the commits.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from typing import Any

import pytest

import recoverable
from recoverable import Arena, ConflictError, contention
from support.operations import Dice, Operation, copy, fill, look, model, run

HISTORIES = int(os.environ.get("RECOVERABLE_HISTORIES", "40"))
REQUESTS, AT_ONCE = 40, 20
JOURNAL = "journal"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + HISTORIES)]

Log = list[tuple[Operation, Any]]


class Crash(Exception):
    """What a handler of these raises."""


async def history(arena: Arena, rng: random.Random) -> tuple[dict[str, Log], Counter[str]]:
    """Have some requests at once until all have ended; return what each run has run, and how requests ended."""
    dice = Dice(rng)
    runs: dict[str, Log] = {}
    ends: Counter[str] = Counter()
    enough = asyncio.Semaphore(AT_ONCE)

    @recoverable.recoverable(arena=arena, max_conflicts=3)
    async def handler() -> None:
        name = str(len(runs))
        log = runs[name] = []
        for _ in range(rng.randrange(1, 4)):
            for operation in dice.operations(2):
                log.append((operation, run(operation, arena.root, arena)))
            if rng.random() < 0.7:
                await asyncio.sleep(0)
        if rng.random() < 0.05:
            raise Crash
        arena.root[JOURNAL][name] = True

    async def request() -> None:
        async with enough:
            task = asyncio.ensure_future(handler())
            if rng.random() < 0.05:
                await asyncio.sleep(0)
                task.cancel()
            try:
                await task
                ends["committed"] += 1
            except (ConflictError, Crash, asyncio.CancelledError) as error:
                ends[type(error).__name__] += 1

    await asyncio.wait_for(asyncio.gather(*(request() for _ in range(REQUESTS))), 30)
    return runs, ends


def explain(order: list[str], runs: dict[str, Log], content: Any) -> None:
    """Replay the committed runs in the order of the journal; each of the others has seen one of the states between them."""
    state = model()
    states = [copy(state)]
    for name in order:
        for operation, answer in runs[name]:
            expected = run(operation, state)
            assert expected == answer, f"{name}: {operation} gave {answer!r}, not {expected!r}"
        states.append(copy(state))
    assert look(state) == content
    for name in runs.keys() - set(order):
        assert any(saw(runs[name], before) for before in states), f"{name} saw what never was: {runs[name]}"


def saw(log: Log, state: Any) -> bool:
    """Tell whether a run's answers are those of this state."""
    state = copy(state)
    return all(run(operation, state) == answer for operation, answer in log)


async def test_histories_with_queues(arena: Arena, seed: int, log: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a turn before its run, or before its next one: the order of commits explains all that each run saw."""
    turns: Counter[bool] = Counter()
    stand = contention.Place.stand

    async def counted(self: contention.Place, *args: Any) -> None:
        await stand(self, *args)
        turns[self.waited] += 1

    monkeypatch.setattr(contention.Place, "stand", counted)
    counts: Counter[str] = Counter()
    for number in range(HISTORIES):
        fill(arena)
        with arena.transaction():
            arena.root[JOURNAL] = {}
        runs, ends = await history(arena, random.Random(seed + number))
        order, content = list(arena.root[JOURNAL]), look(arena.root)
        try:
            explain(order, runs, content)
        except AssertionError as error:
            raise AssertionError(f"{error}\nagain with: --seed={seed + number} RECOVERABLE_HISTORIES=1") from error
        assert len(order) == ends["committed"]
        if number == 0:
            falsified(order, runs, content)
        counts.update(ends)
        counts["runs"] += len(runs)
        log.clear()
    print(dict(counts), f"stood for a turn: {turns.total()}, waited: {turns[True]}")
    assert turns[True] > HISTORIES / 2


def falsified(order: list[str], runs: dict[str, Log], content: Any) -> None:
    """An answer that is another one is noticed, of a run that committed and of one that did not."""
    for name in (
        next(name for name in order if runs[name]),
        next(name for name in runs if name not in order and runs[name]),
    ):
        operation, answer = runs[name][0]
        runs[name][0] = operation, "something else"
        with pytest.raises(AssertionError):
            explain(order, runs, content)
        runs[name][0] = operation, answer
