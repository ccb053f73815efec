"""A limit may change while a step goes on: what was seen of it counts no more, and it has the whole of the new one."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, StepTooLongError, watchdog
from recoverable._native import watchdog as native
from support.watched import compute, seen, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
]  # stopped in between

LIMIT = 0.2  # seconds. No process is ended, but that of a program of its own


@pytest.fixture
def arena(name: str) -> Iterator[Arena]:
    """Give an arena whose steps are watched."""
    with Arena.temporary("4 MiB", name=name, step_limit=LIMIT) as opened:
        native.set_limit(opened.native, LIMIT, ends=False)
        yield opened


@pytest.fixture
def looked_at_by_hand(arena: Arena) -> Iterator[None]:
    """Have nobody do anything about what is seen, but the test."""
    native.begin(lambda: None)
    yield
    watchdog.settle()


def change(arena: Arena, limit: float) -> None:
    """Change it, and have the watchdog look at once."""
    native.set_limit(arena.native, limit, ends=False)
    native.begin(lambda: None)


PROGRAM = """
import sys, threading, time
from recoverable import Arena, StepTooLongError

began = time.monotonic()
with Arena.temporary("4 MiB", name=sys.argv[1], step_limit=10) as arena:
    threading.Timer(1.2, setattr, (arena, "step_limit", 0.4)).start()
    try:
        with arena.transaction():
            arena.root["n"] = 1
            while time.monotonic() < began + 5:
                pass
    except StepTooLongError:
        print("stopped")
"""


def test_a_limit_that_is_lowered_does_not_end_the_process(name: str) -> None:
    """The step has taken twice the new one already: it is told and stopped like any other one."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["stopped"]), done.stderr
    assert [word for word in done.stderr.split() if word.startswith("step.")] == ["step.slow", "step.stopped"]


TOLD_LATE = """
import sys, time
import structlog
from recoverable import Arena, StepTooLongError

def slow(logger, method, event):
    time.sleep(0.1)
    print(event["event"], flush=True)
    raise structlog.DropEvent

structlog.configure(processors=[slow])
began = time.monotonic()
with Arena.temporary("4 MiB", name=sys.argv[1], step_limit=0.4) as arena:
    try:
        with arena.transaction():
            arena.root["n"] = 1
            while time.monotonic() < began + 20:
                pass
    except StepTooLongError:
        pass
"""


def test_what_is_told_as_the_program_ends_is_waited_for(name: str) -> None:
    """Also where its arenas are closed already: who writes has a stream's lock, and Python aborts where it waits for that."""
    done = subprocess.run(
        [sys.executable, "-c", TOLD_LATE, name], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["step.stopped"]), done.stderr


@pytest.mark.usefixtures("looked_at_by_hand")
@pytest.mark.parametrize("before", [0.0, 60.0])
def test_a_step_has_the_whole_of_a_new_limit(arena: Arena, new_name: Callable[[], str], before: float) -> None:
    """However long it has gone on, watched or not, and however rarely the watchdog has looked until then."""
    with Arena.temporary("4 MiB", name=new_name()) as other, arena.transaction():
        arena.root["n"] = 1
        change(arena, before)
        change(other, 60)  # is looked at each quarter of a second
        time.sleep(0.24 if before == 0 else 0.74)
        changed = time.monotonic()
        change(arena, LIMIT)
        found = seen(arena, native.SLOW)
        assert LIMIT / 2 <= found.seconds <= time.monotonic() - changed
        assert found.stage < native.AGAIN


@pytest.mark.usefixtures("looked_at_by_hand")
@pytest.mark.parametrize("limit", [0.0, 60.0, LIMIT / 2])
def test_what_was_seen_under_another_limit_is_not_done(arena: Arena, limit: float) -> None:
    """Whoever looks where a late step is may be slow; the step goes on under the limit that it has now."""
    with arena.transaction():
        arena.root["n"] = 1
        late = seen(arena, native.STOP)
        change(arena, limit)
        assert not late.stop()
        while native.slow_step(arena.native) is not None:
            time.sleep(0.001)
        late.say("of then")
        assert native.slow_step(arena.native) is None
        late.done(native.ENDING)
        if limit == LIMIT / 2:
            again = seen(arena, native.SLOW)
            assert again.told < native.SLOW
            assert again.seconds >= limit / 2
    assert arena.root["n"] == 1


@pytest.mark.usefixtures("looked_at_by_hand")
def test_the_same_limit_again_is_none_that_is_new(arena: Arena) -> None:
    """A program that sets it often keeps no step from being stopped."""
    with pytest.raises(StepTooLongError), arena.transaction():
        arena.root["n"] = 1
        while True:
            change(arena, LIMIT)
            found = native.due(arena.native)
            assert found is None or found.stage < native.STOP or found.stop()


def test_a_limit_that_is_taken_away_meanwhile_stops_nothing(
    arena: Arena, new_name: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source of the step is read from a slow disk, to say where it is: nobody is stopped over a limit of 0 s."""

    def read(*where: Any) -> str:
        if arena.step_limit is not None and native.due(arena.native).stage >= native.STOP:  # type: ignore[union-attr]
            arena.step_limit = None
        return ""

    monkeypatch.setattr("linecache.getline", read)
    with Arena.temporary("4 MiB", name=new_name(), step_limit=60), arena.transaction():  # the watchdog goes on
        arena.root["n"] = 1
        compute(3 * LIMIT)
    assert arena.step_limit is None
    assert arena.root["n"] == 1


def test_a_step_is_told_again_under_a_new_limit(
    arena: Arena, new_name: Callable[[], str], log: list[dict[str, Any]]
) -> None:
    """There may be none in between."""
    with Arena.temporary("4 MiB", name=new_name(), step_limit=60):  # the watchdog goes on
        with pytest.raises(StepTooLongError), arena.transaction():
            arena.root["n"] = 1
            while not [e for e in log if e["event"] == "step.slow"]:
                compute(0.001)
            arena.step_limit = None
            compute(LIMIT / 2)
            arena.step_limit = LIMIT
            native.set_limit(arena.native, LIMIT, ends=False)
            while native.slow_step(arena.native) is None:
                compute(0.001)
            compute(5)
        assert [e["event"] for e in told(log, 3)] == ["step.slow", "step.slow", "step.stopped"]
