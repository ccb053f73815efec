"""Who tells of a late step may hang in the program's code, or raise: the next step is stopped, and told of, all the same."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from recoverable import Arena, StepTooLongError
from recoverable._native import watchdog as native
from support.watched import compute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
]  # stopped in between

LIMIT = 0.2  # seconds. No process is ended


@pytest.fixture
def arenas(new_name: Callable[[], str]) -> Iterator[list[Arena]]:
    """Give two whose steps are watched."""
    with Arena.temporary("4 MiB", name=new_name()) as one, Arena.temporary("4 MiB", name=new_name()) as two:
        for each in (one, two):
            each.step_limit = LIMIT
            native.set_limit(each.native, LIMIT, ends=False)
        yield [one, two]


class Log:
    """A log pipeline in which the first events of steps on some arenas hang until close(); others' come from an earlier test."""

    def __init__(self, arenas: list[Arena], hang: int) -> None:
        self.told: list[tuple[str, str]] = []
        self._names = [arena.name for arena in arenas]
        self._hang, self._go_on = hang, threading.Event()

    def __call__(self, logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
        """Process one."""
        if event["event"].startswith("step.") and event["arena"] in self._names:
            self.told.append((event["event"], event["arena"]))
            if len(self.told) <= self._hang:
                self._go_on.wait(60)
        raise structlog.DropEvent

    def __enter__(self) -> Log:
        structlog.configure(processors=[self])
        return self

    def close(self) -> None:
        """Have all go on."""
        self._go_on.set()

    def __exit__(self, *_: object) -> None:
        self.close()
        structlog.reset_defaults()


def be_stopped(arena: Arena) -> None:
    """Take too long in a step."""
    with pytest.raises(StepTooLongError), arena.transaction():
        arena.root["n"] = 1
        compute(20 * LIMIT)


def test_a_log_that_hangs_keeps_no_step_from_being_stopped(arenas: list[Arena]) -> None:
    """However many hang already, of this arena and of another."""
    with Log(arenas, hang=1000):
        for _ in range(4):
            for each in arenas:
                be_stopped(each)


def test_a_log_that_hangs_keeps_no_later_step_from_being_told(arenas: list[Arena]) -> None:
    """One event hangs, as one that waits for the network does; those of steps that come later are written as ever."""
    with Log(arenas, hang=1) as log:
        for _ in range(3):
            for each in arenas:
                be_stopped(each)
                time.sleep(LIMIT / 2)
        one, two = (each.name for each in arenas)
        until = time.monotonic() + 10
        for wanted in ("step.slow", one), ("step.slow", two), ("step.stopped", two):
            while log.told.count(wanted) < 3 and time.monotonic() < until:
                time.sleep(0.005)
        assert log.told[0] == ("step.slow", one)
        assert log.told[1:].count(("step.slow", one)) == 2
        assert log.told.count(("step.slow", two)) == 3
        assert log.told.count(("step.stopped", two)) == 3


def test_a_step_that_ends_while_a_log_hangs_is_over(arenas: list[Arena]) -> None:
    """One that was late, and has ended before that could be told, does not keep the next one from being watched."""
    with Log(arenas, hang=1000):
        for each in arenas:
            be_stopped(each)
        for _ in range(3):
            for each in arenas:
                with contextlib.suppress(StepTooLongError), each.transaction():
                    each.root["n"] = 1
                    compute(0.7 * LIMIT)
        for each in arenas:
            be_stopped(each)


def threads_of_process() -> int:
    """Return how many threads this process has, Python's or not."""
    return len(list(Path("/proc/self/task").iterdir()))


def test_a_log_that_hangs_costs_a_few_threads(arenas: list[Arena]) -> None:
    """However many steps are late meanwhile; what is untold is told when it goes on, and nobody waits for it."""
    before = threads_of_process()
    with Log(arenas, hang=1000) as log:
        for _ in range(5):
            for each in arenas:
                be_stopped(each)
        time.sleep(LIMIT / 2)
        assert threads_of_process() <= before + 4
        began = time.monotonic()
        for each in arenas:
            each.step_limit = None
        assert time.monotonic() - began < 0.5
        assert len(log.told) <= 4
        log.close()
        until = time.monotonic() + 10
        while len(log.told) < 20 and time.monotonic() < until:
            time.sleep(0.005)
        assert sorted(log.told) == sorted(
            [(what, each.name) for each in arenas for what in ("step.slow", "step.stopped")] * 5
        )


def be_late(arena: Arena) -> None:
    """Take long in a step, but not too long."""
    with arena.transaction():
        arena.root["n"] = 1
        compute(0.75 * LIMIT)


def stopped_soon(arena: Arena) -> None:
    """Be stopped by what looks after this step, not when what hangs goes on; a busy machine may take its time."""
    began = time.monotonic()
    be_stopped(arena)
    assert time.monotonic() - began < 5 * LIMIT


def test_who_hangs_before_he_has_looked_keeps_no_later_step_from_being_stopped(arenas: list[Arena]) -> None:
    """The collector runs a finaliser of the program's in the thread that looks, which waits; the step itself ends in time."""
    here, go_on, hung = threading.get_ident(), threading.Event(), threading.Event()

    class Pool:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            if threading.get_ident() != here and not hung.is_set():
                hung.set()
                go_on.wait(60)

    gc.collect()
    made, before = [Pool() for _ in range(3)], gc.get_threshold()
    gc.disable()
    gc.set_threshold(1)
    try:
        with arenas[0].transaction():
            arenas[0].root["n"] = 1
            made.clear()
            gc.enable()
            compute(0.75 * LIMIT)
            gc.disable()
        assert hung.is_set()
        for each in (*arenas, *arenas):
            stopped_soon(each)
    finally:
        go_on.set()
        gc.set_threshold(*before)
        gc.enable()


@pytest.mark.parametrize("late", [be_late, stopped_soon])
def test_a_source_that_cannot_be_read_keeps_no_step_from_being_stopped(
    arenas: list[Arena], tmp_path: Path, late: Callable[[Arena], None]
) -> None:
    """It lies on a disk that does not answer. The second one to ask where that step is does without, and stops it."""
    source = tmp_path / "shop.py"
    os.mkfifo(source)
    names: dict[str, Any] = {"__name__": "shop", "time": time, "LIMIT": LIMIT}
    code = "def compute(seconds):\n until = time.monotonic() + seconds\n while time.monotonic() < until:\n  pass\n"
    exec(compile(code, source, "exec"), names)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(globals(), "compute", names["compute"])
            late(arenas[0])
        for each in (*arenas, *arenas):
            stopped_soon(each)
    finally:
        os.close(os.open(source, os.O_WRONLY | os.O_NONBLOCK))


@pytest.mark.parametrize("error", [SystemExit, LookupError])
def test_a_log_that_raises_keeps_no_event_of_another_arena(
    arenas: list[Arena], error: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    """Two steps are late at once: each has its event, whatever becomes of the other's."""
    told: list[str] = []

    def log(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
        if event["event"] == "step.slow":
            told.append(event["arena"])
            raise error("log pipeline")
        raise structlog.DropEvent

    structlog.configure(processors=[log])
    try:
        with arenas[0].transaction():
            arenas[0].root["n"] = 1
            be_late(arenas[1])
        until = time.monotonic() + 10
        while len(told) < 2 and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(LIMIT / 4)  # what is raised is printed
    finally:
        structlog.reset_defaults()
    assert sorted(told) == sorted(each.name for each in arenas)
    assert capfd.readouterr().err.count("log pipeline") >= 2
