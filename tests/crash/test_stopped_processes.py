"""A process that is stopped (SIGSTOP, a paused container, a debugger) and goes on later: whatever it has or waits for just then."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from recoverable import Arena
from recoverable._native.runtime import Turn
from support.children import child

pytestmark = [
    pytest.mark.crash,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]

SPOT, OTHER = (1, 1, 7), (1, 1, 8)
PATIENCE = 0.2  # seconds: busy_timeout, and so for how long a turn is waited for


@pytest.fixture
def arena(name: str) -> Iterator[Arena]:
    """Give an arena that nobody waits for for long."""
    with Arena.temporary("4 MiB", name=name, busy_timeout=PATIENCE) as opened:
        with opened.transaction():
            opened.root["n"] = 0
        yield opened


@contextlib.contextmanager
def stopped(arena: Arena, before: Callable[[], object], after: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Have a child do something, and stop it there; gives what has it go on with `after`, and end."""
    reader, writer = os.pipe()

    def both() -> None:
        kept = before()
        os.write(writer, b".")
        time.sleep(0.02)  # in which it is stopped
        after()
        del kept

    with child(both) as pid:
        os.read(reader, 1)
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        try:
            yield lambda: os.kill(pid, signal.SIGCONT)
        finally:
            os.kill(pid, signal.SIGCONT)
            os.close(reader)
            os.close(writer)


def nothing() -> None:
    """Do nothing."""


def test_all_its_places_in_a_queue_hold_others_up_for_two_turns_at_most(arena: Arena) -> None:
    """Who stands behind eight of a stopped process does not wait for each of them, and they are told when they go on."""
    turns: list[Turn] = []

    def stand() -> None:
        with arena.transaction():
            arena.root["n"] += 1
        turns.extend(Turn(arena.native, SPOT, "stopped") for _ in range(8))

    def lost() -> None:
        assert not any(turn.held for turn in turns)
        assert Turn(arena.native, SPOT).held

    with stopped(arena, stand, lost) as go_on:
        mine = Turn(arena.native, SPOT)
        begun = time.monotonic()
        while not mine.has_come():
            assert time.monotonic() - begun < 5 * PATIENCE
            time.sleep(0.002)
        assert time.monotonic() - begun > PATIENCE
        assert mine.held
        go_on()


def test_two_whose_places_alternate_are_in_the_way_for_no_longer_than_one(arena: Arena) -> None:
    """Two stopped processes, each with every other one of sixteen places: not each change begins again."""
    asked, told = [os.pipe(), os.pipe()], os.pipe()

    def stand(reader: int) -> None:
        kept = []
        with arena.transaction():  # a process of its own from here on
            arena.root["n"] += 1
        while os.read(reader, 1):
            kept.append(Turn(arena.native, SPOT, "stopped"))
            os.write(told[1], b".")

    with child(lambda: stand(asked[0][0])) as first, child(lambda: stand(asked[1][0])) as second:
        for n in range(16):
            os.write(asked[n % 2][1], b".")
            os.read(told[0], 1)
        for pid in (first, second):
            os.kill(pid, signal.SIGSTOP)
            os.waitid(os.P_PID, pid, os.WSTOPPED)
        mine = Turn(arena.native, SPOT)
        begun = time.monotonic()
        while not mine.has_come() and time.monotonic() - begun < 20 * PATIENCE:
            time.sleep(0.002)
        took = time.monotonic() - begun
        for pid in (first, second):
            os.kill(pid, signal.SIGKILL)
    assert PATIENCE < took < 5 * PATIENCE
    assert mine.held
    for end in (*asked[0], *asked[1], *told):
        os.close(end)


def test_others_that_stand_between_its_places_wait_for_it_once(arena: Arena) -> None:
    """A stopped process has every other one of sixteen places: who has a place between them does not begin anew with each."""
    asked, told = os.pipe(), os.pipe()

    def stand() -> None:
        kept = []
        with arena.transaction():  # a process of its own from here on
            arena.root["n"] += 1
        while os.read(asked[0], 1):
            kept.append(Turn(arena.native, SPOT, "stopped"))
            os.write(told[1], b".")

    with child(stand) as pid:
        mine = []
        for _ in range(8):
            os.write(asked[1], b".")
            os.read(told[0], 1)
            mine.append(Turn(arena.native, SPOT))
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        begun = time.monotonic()
        for (
            turn
        ) in mine:  # each runs when its turn has come, and then the next one of this process is first in its line
            while not turn.has_come() and time.monotonic() - begun < 20 * PATIENCE:
                time.sleep(0.002)
            assert turn.held
            turn.drop()
        took = time.monotonic() - begun
        late = Turn(arena.native, SPOT)
        front = Turn(arena.native, OTHER)
        behind = Turn(arena.native, OTHER)
        assert late.has_come()
        time.sleep(PATIENCE / 4)
        assert not behind.has_come()  # what hangs elsewhere takes nothing from who stands here
        os.kill(pid, signal.SIGKILL)
    assert PATIENCE < took < 4 * PATIENCE
    assert front.held
    for end in (*asked, *told):
        os.close(end)


def test_a_lock_that_it_has_is_waited_for_outside_the_loop(arena: Arena) -> None:
    """Requests wait until it goes on, and its step commits: it was not late, it did not run."""
    arena.step_limit = PATIENCE
    kept = contextlib.ExitStack()

    def step() -> None:
        kept.enter_context(arena.transaction())
        arena.root["n"] += 1

    async def add() -> None:
        arena.root["n"] += 1

    async def main(go_on: Callable[[], None]) -> None:
        tasks = [asyncio.ensure_future(arena.run(add)) for _ in range(3)]
        done, _ = await asyncio.wait(tasks, timeout=0.7 * PATIENCE)
        assert not done
        go_on()
        await asyncio.gather(*tasks)

    with stopped(arena, step, kept.close) as go_on:
        time.sleep(2.5 * PATIENCE)  # beyond the limit that ends a process
        asyncio.run(main(go_on))
    assert arena.root["n"] == 4


def test_what_it_waits_for_is_there_when_it_goes_on(arena: Arena) -> None:
    """Stopped while it waits for the lock, for longer than busy_timeout, it finds it free, and does not say that it was held."""
    reader, writer = os.pipe()

    async def add() -> None:
        os.write(writer, b".")
        arena.root["n"] += 1

    with contextlib.ExitStack() as step:
        step.enter_context(arena.transaction())
        arena.root["n"] += 1
        with child(lambda: asyncio.run(arena.run(add))) as pid:
            os.read(reader, 1)
            time.sleep(PATIENCE / 4)  # it waits
            os.kill(pid, signal.SIGSTOP)
            os.waitid(os.P_PID, pid, os.WSTOPPED)
            step.close()
            time.sleep(1.2 * PATIENCE)
            os.kill(pid, signal.SIGCONT)
    os.close(reader)
    os.close(writer)
    assert arena.root["n"] == 2
