"""What the watchdog has seen and what it does about it may be apart: a step may end, and another one begin, in between."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from recoverable import Arena, StepTooLongError, recoverable, watchdog
from recoverable._native import watchdog as native
from support.forks import in_child
from support.watched import compute, seen, told

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),  # stopped in between
]

LIMIT = 0.2  # seconds. No process is ended, but a step that goes on for 15/8 of it has the event that it will be


@pytest.fixture
def arena(name: str) -> Iterator[Arena]:
    """Give an arena whose steps are watched."""
    with Arena.temporary("4 MiB", name=name, step_limit=LIMIT) as opened:
        native.set_limit(opened.native, LIMIT, ends=False)
        with opened.transaction():
            opened.root["n"] = 0
        yield opened


@pytest.fixture
def looked_at_by_hand(arena: Arena) -> Iterator[None]:
    """Have nobody do anything about what is seen, but the test."""
    native.begin(lambda: None)
    yield
    watchdog.settle()


def raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Set an exception in a thread, as a program may."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error) if error else None)


@pytest.mark.usefixtures("looked_at_by_hand")
def test_what_was_seen_of_one_step_is_not_done_to_the_next(arena: Arena) -> None:
    """It is neither stopped nor spoken of, and what is done is not counted as done for it."""
    with arena.transaction():
        arena.root["n"] = 1
        late = seen(arena, native.STOP)
    with arena.transaction():
        arena.root["n"] = 2
        assert not late.stop()
        late.say("of the first one")
        slow = native.slow_step(arena.native)
        assert slow is None or "of the first one" not in slow.text
        late.done(native.ENDING)
        assert seen(arena, native.SLOW).told < native.SLOW
    assert arena.root["n"] == 2
    assert not late.stop()


@pytest.mark.usefixtures("looked_at_by_hand")
def test_of_a_step_that_is_over_nothing_is_due(arena: Arena) -> None:
    """Once the watchdog has seen that, whatever the step had come to; the next one begins at nothing."""
    with arena.transaction():
        arena.root["n"] = 1
        seen(arena, native.STOP)
    time.sleep(LIMIT)
    assert native.due(arena.native) is None
    begun = time.monotonic()
    with arena.transaction():
        arena.root["n"] = 2
        assert native.due(arena.native) is None
        assert seen(arena, native.SLOW).seconds <= time.monotonic() - begun


@pytest.mark.usefixtures("looked_at_by_hand")
def test_what_is_done_is_not_asked_for_again(arena: Arena) -> None:
    """Up to the next stage."""
    with arena.transaction():
        found = seen(arena, native.SLOW) if arena.root["n"] == 0 else None
        assert found is not None
        found.done(native.STOP)
        again = seen(arena, native.SLOW)
        assert again.stage > native.STOP
        assert again.told == native.STOP


@pytest.mark.usefixtures("looked_at_by_hand")
def test_an_exception_that_the_program_has_set_is_left_alone(arena: Arena) -> None:
    """It is not replaced by ours."""

    class Theirs(BaseException):
        pass

    lock, found = threading.Lock(), []

    def work() -> None:
        try:
            with arena.transaction():
                arena.root["n"] = 1
                with lock:  # waits without the GIL
                    pass
        except BaseException as error:
            found.append(type(error))

    lock.acquire()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    overdue = seen(arena, native.STOP)
    assert thread.ident is not None
    raise_in(thread.ident, Theirs)
    assert not overdue.stop()
    lock.release()
    thread.join(10)
    assert found == [Theirs]
    assert arena.root["n"] == 0


@pytest.mark.usefixtures("looked_at_by_hand")
def test_a_block_is_stopped_only_while_its_own_code_runs(arena: Arena) -> None:
    """The loop has gone on, and something else of it would meet what is to stop the block."""
    stops: list[bool] = []

    async def block() -> None:
        asyncio.get_running_loop().call_soon(lambda: stops.append(overdue[0].stop()))
        overdue: list[native.Overdue] = []
        with arena.transaction():
            arena.root["n"] = 1
            overdue.append(seen(arena, native.STOP))
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.ensure_future(block())

    with pytest.raises(Exception, match="await inside"):
        asyncio.run(main())
    assert stops == [False]


@pytest.mark.usefixtures("looked_at_by_hand")
def test_a_step_whose_thread_has_ended_is_not_watched(arena: Arena) -> None:
    """Nobody runs it, so nobody is late; whoever wants the arena next takes it."""
    kept: list[Any] = []

    def work() -> None:
        block = arena.transaction()
        block.__enter__()
        arena.root["n"] = 1
        kept.append(block)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    until = time.monotonic() + 2 * LIMIT
    while time.monotonic() < until:
        assert native.due(arena.native) is None
        time.sleep(0.005)
    with arena.transaction():
        assert arena.root["n"] == 0


@pytest.mark.usefixtures("looked_at_by_hand")
def test_a_stack_is_not_asked_for_while_others_may_merely_wait_for_the_gil(arena: Arena) -> None:
    """Python code may be at a place where its own frames are half-made; only a thread that keeps the GIL for long is asked."""
    native.set_limit(arena.native, 0.01, ends=False)
    with arena.transaction():
        arena.root["n"] = 1
        found = seen(arena, native.ENDING)
        assert found.text == "" or found.seconds > 0.25


def test_what_keeps_it_once_does_not_keep_it(arena: Arena, log: list[dict[str, Any]]) -> None:
    """A finaliser, say, has dropped the exception: it is raised a second time, half a limit later, and told once."""

    @recoverable(arena=arena)
    async def handler() -> None:
        arena.root["n"] = 1
        try:
            compute(10)
        except BaseException:
            compute(10)

    began = time.monotonic()
    with pytest.raises(StepTooLongError):
        asyncio.run(handler())
    assert time.monotonic() - began < 5
    assert [e["event"] for e in told(log, 2)] == ["step.slow", "step.stopped"]


def test_a_step_that_could_not_be_stopped_at_once_is_stopped_later(arena: Arena, log: list[dict[str, Any]]) -> None:
    """The program has set an exception of its own, and catches it: then comes ours, which is told as always."""

    class Theirs(BaseException):
        pass

    lock, waits, found = threading.Lock(), threading.Event(), []

    def work() -> None:
        try:
            with arena.transaction():
                arena.root["n"] = 1
                try:
                    waits.set()
                    with lock:  # waits without the GIL
                        compute(0)
                except Theirs:
                    compute(10)
        except StepTooLongError as error:
            found.append(error.seconds)

    lock.acquire()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    waits.wait(10)
    time.sleep(LIMIT / 8)
    assert thread.ident is not None
    raise_in(thread.ident, Theirs)
    time.sleep(1.1 * LIMIT)
    lock.release()
    thread.join(20)
    assert len(found) == 1
    assert found[0] >= LIMIT
    assert [e["event"] for e in told(log, 2)] == ["step.slow", "step.stopped"]


def test_where_it_was_is_known_as_soon_as_it_is_stopped(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread may run before whoever has stopped it does anything else."""

    class Gone:
        """A step whose thread runs to the end of it at once."""

        def __init__(self, found: native.Overdue) -> None:
            self._found = found

        def __getattr__(self, name: str) -> Any:
            return getattr(self._found, name)

        def stop(self) -> bool:
            stopped = self._found.stop()
            if stopped:
                ended.wait(10)
            return stopped

    due, ended = native.due, threading.Event()

    def find(segment: Any) -> Gone | None:
        found = due(segment)
        return None if found is None else Gone(found)

    monkeypatch.setattr(native, "due", find)
    with pytest.raises(StepTooLongError, match=r"more than its step_limit .* in compute: ") as error:
        try:
            with arena.transaction():
                arena.root["n"] = 1
                compute(10)
        finally:
            ended.set()
    assert error.value.seconds >= LIMIT


@pytest.mark.parametrize("watched", [True, False], ids=["another_is_watched", "nothing_is"])
def test_a_limit_that_is_taken_away_takes_with_it_what_was_told(arena: Arena, new_name: Any, watched: bool) -> None:
    """Of the step that was late then, and of those that come after it."""
    with Arena.temporary("4 MiB", name=new_name(), step_limit=60 if watched else None):
        with arena.transaction():
            arena.root["n"] = 1
            until = time.monotonic() + 10
            while native.slow_step(arena.native) is None and time.monotonic() < until:
                time.sleep(0.002)
            arena.step_limit = None
            time.sleep(LIMIT)
            assert native.slow_step(arena.native) is None
        with arena.transaction():
            arena.root["n"] = 2
            assert native.slow_step(arena.native) is None


def test_a_thread_is_stopped_however_many_have_ended_since_it_began(arena: Arena) -> None:
    """A pool's thread lives for days, and others come and go."""
    begun, go_on, found = threading.Event(), threading.Event(), []

    def add() -> None:
        with arena.transaction():
            arena.root["m"] = 1

    def work() -> None:
        add()
        begun.set()
        go_on.wait(60)
        try:
            with arena.transaction():
                arena.root["n"] = 1
                compute(10)
        except StepTooLongError as error:
            found.append(error.where)

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(10)
    for _ in range(5000):
        each = threading.Thread(target=add)
        each.start()
        each.join()
    go_on.set()
    thread.join(60)
    assert len(found) == 1
    assert "in compute" in found[0]


def test_each_of_two_arenas_of_one_loop_is_watched(arena: Arena, new_name: Any) -> None:
    """A step that takes long in the second one is stopped as well, whichever was opened first."""
    with Arena.temporary("4 MiB", name=new_name(), step_limit=LIMIT) as other:
        native.set_limit(other.native, LIMIT, ends=False)
        for each in (arena, other):
            with pytest.raises(StepTooLongError), each.transaction():
                each.root["n"] = 1
                compute(5)


def test_a_child_that_is_forked_while_one_is_told_of_tells_of_all_its_own(arena: Arena) -> None:
    """The thread that tells is not there in the child; and stacks go to a file of its own."""
    telling, go_on = threading.Event(), threading.Event()

    def wait(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
        if event["event"] == "step.slow":
            telling.set()
            go_on.wait(10)
        raise structlog.DropEvent

    def late() -> tuple[list[str], int]:
        told: list[str] = []

        def note(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
            told.append(event["event"])
            raise structlog.DropEvent

        structlog.configure(processors=[note])
        native.set_limit(arena.native, LIMIT, ends=False)
        for _ in range(5):  # one for each stage that could be taken for told
            with pytest.raises(StepTooLongError), arena.transaction():
                arena.root["n"] = 1
                compute(5)
            time.sleep(LIMIT / 2)
        return [each for each in told if each.startswith("step.")], os.fstat(watchdog._dumps.fd).st_ino

    def step() -> None:
        with arena.transaction():
            arena.root["n"] = 1
            telling.wait(10)

    structlog.configure(processors=[wait])
    try:
        thread = threading.Thread(target=step)
        thread.start()
        telling.wait(10)
        ending = in_child(late)
    finally:
        go_on.set()
        structlog.reset_defaults()
        thread.join(10)
    assert ending.value[0] == ["step.slow", "step.stopped"] * 5, ending
    assert ending.value[1] != os.fstat(watchdog._dumps.fd).st_ino
