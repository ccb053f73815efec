"""A step that holds the lock for long: `stats().lock` and `top` tell of it while it does, and count it however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from recoverable import Arena, StepTooLongError
from recoverable.cli import _outside, _top
from recoverable.lock_times import BOUNDS, LockTimes
from support.children import child
from support.commands import command_json

pytestmark = [
    pytest.mark.crash,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]

LONG = 0.05  # seconds


def hold(arena: Arena, seconds: float = 0.0) -> None:
    """Hold the lock once, for so long."""
    with arena.transaction():
        arena.root["n"] = 1
        time.sleep(seconds)


def run_in(arena: Arena) -> None:
    """Hold it so often that only a sample of what follows is timed."""
    for _ in range(1000):
        hold(arena)


def longer(times: LockTimes, seconds: float) -> int:
    """Return how many holds were counted in the classes above so long."""
    return sum(n for n, least in zip(times.held.classes[1:], BOUNDS, strict=True) if least >= seconds)


@contextlib.contextmanager
def holder(arena: Arena, seconds: float = 10.0) -> Iterator[int]:
    """Have a child hold the lock meanwhile, for so long at most; gives its id."""
    reader, writer = os.pipe()

    def keep() -> None:
        with arena.transaction():
            arena.root["n"] = 2
            os.write(writer, b".")
            time.sleep(seconds)

    try:
        with child(keep) as pid:
            os.read(reader, 1)
            yield pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    finally:
        os.close(reader)
        os.close(writer)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_each_long_hold_is_counted_with_its_own_time(arena: Arena) -> None:
    """Among many short ones, in whatever place of the sample."""
    run_in(arena)
    before = arena.stats().lock
    for _ in range(20):
        hold(arena, 0.012)
        hold(arena)
        hold(arena)
    since = arena.stats().lock - before
    assert 20 <= longer(since, 0.008) <= 22  # a short one may have lost its processor for as long
    assert 0.24 <= since.held.seconds < 2 * since.over  # the short ones are an estimate
    assert since.held.count == pytest.approx(60, abs=32)
    assert since.taken == pytest.approx(since.held.seconds)


def test_long_ones_take_no_weight_from_the_short(arena: Arena) -> None:
    """Those that a timed one was to stand for are counted with the next, and with its time."""
    run_in(arena)
    before = arena.stats().lock
    for _ in range(40):
        hold(arena, 0.011)
    for _ in range(400):
        hold(arena)
    since = arena.stats().lock - before
    assert 40 <= longer(since, 0.008) <= 44  # a short one may have lost its processor for as long
    assert since.held.count == pytest.approx(440, abs=32)


def test_the_first_holds_of_a_process_are_all_counted(arena: Arena) -> None:
    """Four blocks are four holds; also those of a forked child, whatever its parent's sample was at."""
    before = arena.stats().lock
    for n in range(4):
        hold(arena)
        assert (arena.stats().lock - before).held.count == n + 1
    run_in(arena)
    before = arena.stats().lock
    with child(lambda: [hold(arena) for _ in range(3)]):
        pass
    assert (arena.stats().lock - before).held.count == 3


def test_a_hold_that_goes_on_is_told_of(arena: Arena) -> None:
    """From its own thread, from another process and from outside, for as long as it does; then it is over, and counted once."""
    run_in(arena)
    before, begun = arena.stats().lock, time.monotonic()
    with arena.transaction():
        arena.root["n"] = 0
        time.sleep(LONG)
        looked = time.monotonic()
        here, outside = arena.stats().lock, _outside.peek(arena.name).lock
        assert LONG <= here.running <= outside.running <= time.monotonic() - begun
        since = here - before
        assert LONG <= since.taken <= since.over
        assert since.busy > 0.5
        assert longer(since, LONG / 2) == 0
    after = arena.stats().lock
    assert after.running == 0.0
    assert longer(after - before, LONG / 2) == 1
    assert (after - before).held.seconds >= LONG
    assert (after - here).taken < time.monotonic() - looked + 0.001
    with holder(arena):
        until(lambda: arena.stats().lock.running > LONG)


def test_a_short_hold_is_none_that_goes_on(arena: Arena) -> None:
    """Nor is a lock that is free, after however long a hold."""

    def running() -> float:
        with arena.transaction():
            arena.root["n"] = 0
            return arena.stats().lock.running

    assert 0.0 in (running() for _ in range(10))  # it may lose its processor in one of them
    hold(arena, LONG)
    assert arena.stats().lock.running == 0.0


def test_top_tells_of_it_at_the_first_look(arena: Arena) -> None:
    """The command, its screen and its line: busy, and for how long by now; and then no more of what was before."""
    with holder(arena):
        until(lambda: arena.stats().lock.running > LONG)
        (look,) = _top.samples(arena.name, 1, 1)
        assert look.lock.busy == 1.0
        assert "100 % busy, held for " in _top._lock(look.lock)
        assert "lock 100 % busy, held for " in _top.line(look)
        told = command_json("top", arena.name, "--once", "--interval", "0.1")["lock"]
        assert told["busy"] > 0.9
        assert told["running_us"] > LONG * 1e6
    hold(arena)
    looks = _top.samples(arena.name, LONG, 2)
    next(looks)
    assert next(looks).lock.busy < 0.1


def test_a_stopped_holder_holds(arena: Arena) -> None:
    """The time for which its process is stopped counts, while it is stopped and after it has gone on."""
    before = arena.stats().lock
    with holder(arena, 10 * LONG) as pid:
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        time.sleep(14 * LONG)
        assert arena.stats().lock.running >= 14 * LONG
        os.kill(pid, signal.SIGCONT)
        until(lambda: longer(arena.stats().lock - before, LONG) == 1)
    assert (arena.stats().lock - before).held.seconds >= 14 * LONG


def test_whoever_recovers_counts_what_a_killed_process_held(arena: Arena) -> None:
    """Once, until it was last seen alive, and about a second more where nobody has looked."""
    before = arena.stats().lock
    with holder(arena) as pid:
        time.sleep(LONG)
        os.kill(pid, signal.SIGKILL)
    assert arena.stats().lock.running >= LONG
    time.sleep(1.0 + LONG)
    assert arena.stats().lock.running == pytest.approx(1.0, abs=1e-3)
    hold(arena)
    since = arena.stats().lock - before
    assert longer(since, LONG) == 1
    assert since.held.seconds == pytest.approx(1.0, abs=LONG)
    assert arena.stats().lock.running == 0.0


@pytest.mark.parametrize("who", ["waits", "asks"])
def test_a_killed_process_held_for_as_long_as_it_was_seen(arena: Arena, who: str) -> None:
    """Those who wait for the lock see that its owner lives, and so does who asks for the figures."""
    before = arena.stats().lock
    with holder(arena) as pid:
        waiting = threading.Thread(target=hold, args=(arena,))
        if who == "waits":
            waiting.start()
        time.sleep(1.2)
        if who == "asks":
            assert arena.stats().lock.running >= 1.2
        os.kill(pid, signal.SIGKILL)
        if who == "waits":
            waiting.join()
    time.sleep(0.1)
    hold(arena)
    assert 1.15 < (arena.stats().lock - before).held.seconds < 1.8


def test_who_comes_alone_counts_it_too(name: str) -> None:
    """An arena that nobody is attached to any more, as its one process was killed inside a step."""

    def work() -> None:
        opened = Arena.open(name, size="4 MiB")
        with opened.transaction():
            opened.root["n"] = 1
            time.sleep(LONG)
            os.kill(os.getpid(), signal.SIGKILL)

    with child(work):
        pass
    with Arena.open(name) as arena:
        lock = arena.stats().lock
        assert longer(lock, LONG / 2) == 1
        assert LONG <= lock.held.seconds <= 1.01
    Arena.unlink(name)


def test_a_hold_that_ends_with_its_thread(arena: Arena) -> None:
    """It counts until then: how long nobody comes afterwards is no part of it."""
    run_in(arena)
    blocks = []

    def leave() -> None:
        blocks.append(arena.transaction())
        blocks[-1].__enter__()
        arena.root["n"] = 1
        time.sleep(LONG)

    before = arena.stats().lock
    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    until(lambda: arena.stats().lock.running == 0.0)  # Python's thread has ended a moment before the system's
    assert longer(arena.stats().lock - before, LONG / 2) == 1
    time.sleep(4 * LONG)
    hold(arena)
    since = arena.stats().lock - before
    assert longer(since, LONG / 2) == 1
    assert since.held.seconds < 3 * LONG


def test_a_step_that_the_watchdog_stops(name: str) -> None:
    """It counts as any other."""
    limit = 0.4  # seconds: the process ends at twice that, which a busy machine must not come to by itself
    with Arena.temporary("4 MiB", name=name, step_limit=limit) as arena:
        run_in(arena)
        before = arena.stats().lock
        with pytest.raises(StepTooLongError), arena.transaction():
            arena.root["n"] = 1
            end = time.monotonic() + 10
            while time.monotonic() < end:
                pass
        since = arena.stats().lock - before
    assert longer(since, LONG) == 1
    assert limit <= since.held.seconds <= since.over


def test_a_watchdog_sees_that_its_process_lives(name: str) -> None:
    """So what was killed in a long step is counted in full, where nobody else has looked."""
    with Arena.temporary("4 MiB", name=name) as arena:
        before = arena.stats().lock

        def work() -> None:
            arena.step_limit = 100.0
            hold(arena, 10.0)

        with child(work) as pid:
            until(lambda: _outside.peek(name).lock.running > 0)
            begun = time.monotonic()
            time.sleep(1.5)
            os.kill(pid, signal.SIGKILL)
            lived = time.monotonic() - begun
        time.sleep(1.2)
        hold(arena)
        assert 2.0 < (arena.stats().lock - before).held.seconds < lived + 1.1


def test_a_forked_child_holds_nothing_of_its_parents(arena: Arena) -> None:
    """Inside the parent's step it is the parent that holds; what the child holds later is its own."""
    with arena.transaction():
        arena.root["n"] = 1
        time.sleep(LONG)
        before = arena.stats().lock
        with child(lambda: None):
            pass
        assert arena.stats().lock.running >= before.running
    assert longer(arena.stats().lock, LONG / 2) == 1
    with child(lambda: hold(arena, LONG)):
        pass
    assert longer(arena.stats().lock, LONG / 2) == 2


def test_readers_without_the_lock_are_not_in_it(arena: Arena) -> None:
    """The lock of an image is its own: what a tool reads there holds nobody up, and is not counted."""
    with arena.transaction():
        arena.root["n"] = 7
    before = arena.stats().lock
    for _ in range(3):
        assert "7" in str(command_json("inspect", arena.name))
    assert (arena.stats().lock - before).held.count == 0
