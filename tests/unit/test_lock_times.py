"""For how long the lock is held and waited for: `arena.stats().lock`, and its metrics."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from recoverable import Arena, ArenaBusyError
from recoverable.lock_times import BOUNDS, CLASSES, Counted, LockTimes, Times
from support.forks import in_child

if TYPE_CHECKING:
    from collections.abc import Iterator


def hold(arena: Arena, times: int, seconds: float = 0.0) -> None:
    """Hold the lock that often, for so long."""
    for n in range(times):
        with arena.transaction():
            arena.root["n"] = n
            if seconds:
                time.sleep(seconds)


def test_every_time_that_it_is_held_counts(arena: Arena) -> None:
    """The count is that of all holds, give or take those that the next sample will stand for."""
    before = arena.stats().lock
    hold(arena, 1000)
    since = arena.stats().lock - before
    assert since.held.count == pytest.approx(1000, abs=64)
    assert sum(since.held.classes) == since.held.count
    assert since.waited == Times()


def test_how_full_it_is_does_not_depend_on_a_rhythm(arena: Arena) -> None:
    """Long holds in turn with short ones: the sample sees both, so that the sum is about what it was."""
    before = arena.stats().lock
    for _ in range(250):
        hold(arena, 1, 0.0005)
        hold(arena, 1)
    since = arena.stats().lock - before
    assert since.held.count == pytest.approx(500, abs=32)
    assert 0.3 < since.busy <= 1.0
    assert (
        0.3 < sum(since.held.classes[11:]) / since.held.count < 0.7
    )  # 0.5 ms and above: half of them, of a sample of 20


@contextlib.contextmanager
def held_by_another(arena: Arena, seconds: float) -> Iterator[None]:
    """Run the block while another thread holds the lock, for so long at most, and end that with it."""
    inside, enough = threading.Event(), threading.Event()

    def keep() -> None:
        with arena.transaction():
            arena.root["other"] = 1
            inside.set()
            enough.wait(seconds)

    other = threading.Thread(target=keep)
    other.start()
    inside.wait()
    try:
        yield
    finally:
        enough.set()
        other.join()


def test_waiting_is_counted_by_those_who_had_to(arena: Arena) -> None:
    """Whoever finds the lock taken counts how long it waited."""
    before = arena.stats().lock
    with held_by_another(arena, 0.03):
        hold(arena, 1)
    waited = (arena.stats().lock - before).waited
    assert waited.count == 1
    assert 0.01 < waited.seconds < 5
    assert waited.quantile(0.99) == pytest.approx(waited.seconds, rel=1.0)


def test_waiting_in_vain_is_counted_too(name: str) -> None:
    """A thread that gives up after `busy_timeout` has waited for so long."""
    with Arena.temporary("4 MiB", name=name, busy_timeout=0.05) as arena:
        before = arena.stats().lock
        with held_by_another(arena, 10), pytest.raises(ArenaBusyError):
            hold(arena, 1)
        waited = (arena.stats().lock - before).waited
    assert waited.count == 1
    assert waited.seconds >= 0.05


def test_it_is_that_of_all_processes(arena: Arena) -> None:
    """What a forked child does is counted with its parent's, and stays when it has ended."""
    hold(arena, 100)
    before = arena.stats().lock
    assert not in_child(lambda: hold(arena, 500)).signal
    assert (arena.stats().lock - before).held.count == pytest.approx(500, abs=64)


def test_a_step_that_ends_with_its_thread_is_no_endless_hold(arena: Arena) -> None:
    """What is timed begins again where the step of a thread that has ended is taken over."""
    block = None

    def leave() -> None:
        nonlocal block
        block = arena.transaction()
        block.__enter__()
        arena.root["n"] = 1

    before = arena.stats().lock
    for _ in range(40):  # one of them is timed
        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
        time.sleep(0.002)
        hold(arena, 1)
    assert (arena.stats().lock - before).held.seconds < 0.04


def test_quantiles_lie_in_the_class_that_they_are_in() -> None:
    """Between the bounds of a class it is interpolated, and nothing has none."""
    classes = [0] * (len(BOUNDS) + 1)
    classes[3], classes[5] = 90, 10
    times = Times(100, 1e-4, tuple(classes))
    assert BOUNDS[2] < times.quantile(0.5) < BOUNDS[3]
    assert times.quantile(0.9) == BOUNDS[3]
    assert BOUNDS[4] < times.quantile(0.99) < BOUNDS[5]
    assert times.mean == pytest.approx(1e-6)
    assert (Times().quantile(0.5), Times().mean) == (0.0, 0.0)
    assert LockTimes(times, Times(), 0.0).busy == 0.0


def test_quantiles_at_the_ends() -> None:
    """Of share 0 the lower bound of the first class in use, of share 1 the upper one of the last: above all, twice the last."""
    classes = [0] * (len(BOUNDS) + 1)
    classes[4] = 10
    assert Times(10, 1e-4, tuple(classes)).quantile(0.0) == BOUNDS[3]
    assert Times(10, 1e-4, tuple(classes)).quantile(1.0) == BOUNDS[4]
    classes[-1] = 10
    assert Times(20, 100.0, tuple(classes)).quantile(0.5) == BOUNDS[4]
    assert Times(20, 100.0, tuple(classes)).quantile(0.75) == pytest.approx(1.5 * BOUNDS[-1])
    assert Times(20, 100.0, tuple(classes)).quantile(1.0) == 2 * BOUNDS[-1]
    assert (BOUNDS[0], BOUNDS[1]) == (256e-9, 512e-9)


def counted(scale: int, running: int, *, seventh: int = 0) -> Counted:
    """Give what the core may have counted."""
    classes = [scale] * CLASSES
    classes[7] += seventh
    return Counted(
        (24 * scale + seventh, 5_000_000_000 * scale, tuple(classes)),
        (scale, 7_000_000 * scale, tuple(classes)),
        running,
    )


def test_what_the_core_counts_in_seconds() -> None:
    """Nanoseconds become seconds, and what is held now is part of what was taken, but not of the holds that ended."""
    before = time.monotonic()
    lock = LockTimes.of(counted(1, 250_000_000))
    assert before <= lock.over <= time.monotonic()
    assert (lock.held.count, lock.held.seconds, lock.held.classes) == (24, 5.0, (1,) * CLASSES)
    assert (lock.waited.count, lock.waited.seconds, lock.waited.classes) == (1, 0.007, (1,) * CLASSES)
    assert (lock.running, lock.taken) == (0.25, 5.25)


def test_what_was_between_two_looks() -> None:
    """All of it is a difference, but what goes on, which is that of the later look."""
    earlier, later = LockTimes.of(counted(1, 500_000_000)), LockTimes.of(counted(3, 0, seventh=4))
    between = replace(later, over=earlier.over + 40.0) - earlier
    assert between.held == Times(52, 10.0, (*(2,) * 7, 6, *(2,) * 16))
    assert between.waited == Times(2, pytest.approx(0.014), (*(2,) * 7, 6, *(2,) * 16))
    assert (between.over, between.running, between.taken) == (pytest.approx(40.0), 0.0, 9.5)
    assert between.busy == pytest.approx(9.5 / 40)
    assert between.held.mean == pytest.approx(10.0 / 52)
    assert (LockTimes.of(counted(3, 250_000_000)) - later).running == 0.25


def test_nothing_is_less_than_nothing() -> None:
    """Words that were read at different moments make no negative count, time or share, and none above 1."""
    earlier, later = LockTimes.of(counted(3, 0)), LockTimes.of(counted(1, 0))
    between = later - earlier
    assert between.held == between.waited == Times()
    assert (between.taken, between.busy) == (0.0, 0.0)
    assert replace(LockTimes.of(counted(1, 0)), over=1.0).busy == 1.0


def test_a_first_look_knows_of_the_hold_that_goes_on_alone() -> None:
    """It is busy since that began; where there is none, nothing is known."""
    first = LockTimes.of(counted(5, 3_000_000_000)).first()
    assert first == LockTimes(Times(), Times(), 3.0, 3.0, 3.0)
    assert first.busy == 1.0
    assert LockTimes.of(counted(5, 0)).first().busy == 0.0


def test_metrics_show_both_as_histograms(arena: Arena) -> None:
    """Their buckets add up, and their sums are those of `stats()`."""
    pytest.importorskip("prometheus_client")
    from recoverable import metrics

    hold(arena, 200)
    lock = arena.stats().lock
    found = {
        (sample.name, sample.labels.get("le")): sample.value
        for family in metrics._Collector().collect()
        for sample in family.samples
        if sample.name.startswith("recoverable_lock") and sample.labels["arena"] == arena.name
    }
    name = "recoverable_lock_hold_seconds"
    assert found[f"{name}_bucket", "+Inf"] == found[f"{name}_count", None] == lock.held.count
    assert found[f"{name}_sum", None] == pytest.approx(lock.held.seconds)
    assert found["recoverable_lock_wait_seconds_count", None] == 0
    assert found["recoverable_lock_running_hold_seconds", None] == 0.0
    with held_by_another(arena, 10):
        time.sleep(0.02)
        (now,) = (
            sample.value
            for family in metrics._Collector().collect()
            for sample in family.samples
            if sample.name == "recoverable_lock_running_hold_seconds" and sample.labels["arena"] == arena.name
        )
    assert 0.02 <= now < 5
