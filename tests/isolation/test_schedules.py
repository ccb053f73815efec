"""Random schedules of requests for a few hot keys in an event loop, with all that makes requests wait: each of them ends."""

from __future__ import annotations

import asyncio
import functools
import os
import pickle
import random
import signal
import time
import traceback
from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog

import recoverable
from recoverable import Arena, ConflictError
from recoverable._native.runtime import Turn

SCHEDULES = int(os.environ.get("RECOVERABLE_SCHEDULES", "250"))
KEYS, MOST = 3, 12
pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + SCHEDULES)]


class Crash(Exception):
    """What a handler of these raises."""


@dataclass
class Schedule:
    """One schedule: requests that add to keys, and what of that is to be there afterwards.

    Args:
        arena: The arena.
        rng: What decides.
    """

    arena: Arena
    rng: random.Random
    expected: Tally[str] = field(default_factory=Tally)
    ends: Tally[str] = field(default_factory=Tally)
    commits: int = 0
    runs: int = 0
    overtaken: int = 0  # the most commits of others between a request's beginning and its own

    async def pause(self) -> None:
        """Await something that others need a turn or a few of the loop for."""
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)

    async def add(self, done: Tally[str], key: str) -> None:
        """Read, pause, write: what conflicts with everybody else who does so."""
        value = self.arena.root[key]
        if self.rng.random() < 0.5:
            await self.pause()
        self.arena.root[key] = value + 1
        done[key] += 1
        if self.rng.random() < 0.7:
            await self.pause()

    async def inner(self) -> None:
        """An independent transaction: what it adds stays, whatever becomes of the one around."""
        done: Tally[str] = Tally()

        @recoverable.recoverable(arena=self.arena, nested="independent", max_conflicts=self.rng.choice((1, 5)))
        async def independent() -> None:
            done.clear()
            await self.add(done, f"i{self.rng.randrange(KEYS)}")

        try:
            await independent()
        except ConflictError:
            return
        self.expected.update(done)
        self.commits += 1

    async def request(self) -> None:
        """Run one request of a random kind, and note what of it is to be there."""
        rng, done = self.rng, Tally[str]()
        kind = rng.choice(
            ("plain", "plain", "plain", "parts", "independent", "crash", "limited", "cancelled", "answers no")
        )

        @recoverable.recoverable(
            arena=self.arena,
            max_conflicts=rng.choice((0, 1, 5, 5)),
            timeout=0.002 if kind == "limited" else None,
            retries=rng.choice((0, 2)),
            retry_on=Crash,
            commit_if=lambda result: result != "no",
        )
        async def handler() -> str:
            self.runs += 1
            done.clear()
            await self.add(done, f"k{rng.randrange(KEYS)}")
            if kind == "parts":
                await recoverable.gather(*(self.add(done, f"p{i}") for i in range(2)))
            if kind == "independent":
                await self.inner()
            if kind == "limited" and rng.random() < 0.5:
                await asyncio.sleep(0.005)
            if kind == "crash" and rng.random() < 0.7:
                raise Crash
            return "no" if kind == "answers no" else "yes"

        begun, task = self.commits, asyncio.ensure_future(handler())
        if kind == "cancelled":
            for _ in range(rng.randrange(8)):
                await asyncio.sleep(0)
            task.cancel()
        try:
            answer = await task
        except (ConflictError, Crash, TimeoutError, asyncio.CancelledError) as error:
            self.ends[type(error).__name__] += 1
            return
        self.ends[answer] += 1
        if answer == "yes":
            self.overtaken = max(self.overtaken, self.commits - begun)
            self.commits += 1
            self.expected.update(done)

    async def run(self) -> None:
        """Have some requests at once, begun at different times, and all of them end."""

        async def later() -> None:
            await asyncio.sleep(self.rng.randrange(3) / 1000)
            await self.request()

        await asyncio.wait_for(asyncio.gather(*(later() for _ in range(self.rng.randrange(2, MOST)))), 20)


async def test_every_request_ends(arena: Arena, seed: int, log: list[Any]) -> None:
    """Whatever happens to them: each ends, what is there is what was told, nobody stands in a queue any more, nobody starves."""
    ends: Tally[str] = Tally()
    runs = commits = overtaken = 0
    with arena.transaction():
        arena.root.update({f"{kind}{i}": 0 for kind in "kpi" for i in range(KEYS)})
    for number in range(SCHEDULES):
        before = dict(arena.root)
        schedule = Schedule(arena, random.Random(seed + number))
        again = f"again with: --seed={seed + number} RECOVERABLE_SCHEDULES=1"
        try:
            await schedule.run()
        except TimeoutError:
            pytest.fail(f"a request does not end; {again}")
        changed = {key: arena.root[key] - before[key] for key in arena.root if arena.root[key] != before[key]}
        assert changed == dict(schedule.expected), again
        assert not arena.native.lines, again
        ends.update(schedule.ends)
        runs, commits, overtaken = runs + schedule.runs, commits + schedule.commits, max(overtaken, schedule.overtaken)
        log.clear()
    turns = [Turn(arena.native, (1, 1, i)) for i in range(512)]
    assert all(turn.held for turn in turns)  # all places are free again
    print(dict(ends), f"{runs} runs, {commits} commits; overtaken by {overtaken} at most")
    assert arena.stats().conflicts > SCHEDULES // 4  # they do meet: how often depends on the machine
    assert set(ends) >= {"yes", "no", "ConflictError", "Crash", "TimeoutError", "CancelledError"} or SCHEDULES < 100
    assert overtaken <= 3 * MOST  # each of those in flight commits once, and once more what is independent inside


def work(arena: Arena, seed: int, schedules: int, out: int) -> None:
    """In a child: run some schedules; tell what they have added, and how often the worst was overtaken here."""
    expected: Tally[str] = Tally()
    overtaken = 0
    with structlog.testing.capture_logs():
        for number in range(schedules):
            schedule = Schedule(arena, random.Random(seed + number))
            asyncio.run(schedule.run())
            expected.update(schedule.expected)
            overtaken = max(overtaken, schedule.overtaken)
    os.write(out, pickle.dumps((dict(expected), overtaken)))


def start(function: Callable[[], None]) -> int:
    """Run a function in a forked child; return its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return pid


@pytest.mark.crash
def test_every_request_ends_beside_other_processes(arena: Arena, seed: int) -> None:
    """Two processes at once, beside others that are killed with their turns, privileges and locks: the same holds in both."""
    schedules = max(1, SCHEDULES // 5)
    with arena.transaction():
        arena.root.update({f"{kind}{i}": 0 for kind in "kpi" for i in range(KEYS)})
    pipes = [os.pipe(), os.pipe()]
    rng = random.Random(seed)
    workers = [start(functools.partial(work, arena, seed + 10**6 * i, schedules, pipes[i][1])) for i in range(2)]
    victims = 0
    try:
        while any(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None for pid in workers):
            victim = start(functools.partial(work, arena, seed - 1000 * victims, 1000, pipes[0][1]))
            time.sleep(rng.uniform(0.05, 0.2))
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            victims += 1
    finally:
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers]
    assert codes == [0, 0]
    told: Tally[str] = Tally()
    for reader, writer in pipes:
        os.close(writer)
        expected, overtaken = pickle.loads(os.read(reader, 1 << 16))
        os.close(reader)
        told.update(expected)
        assert overtaken <= 3 * MOST
    added = sum(arena.root.values())
    print(f"{victims} killed; {sum(told.values())} of {added} additions by those who lived")
    assert all(arena.root[key] >= count for key, count in told.items())
    arena.verify()
    turns = [Turn(arena.native, (1, 1, i)) for i in range(512)]
    assert all(turn.held for turn in turns)
