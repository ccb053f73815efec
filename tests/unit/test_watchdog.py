"""The watchdog: a step that holds its arena for too long is told, is stopped, and nobody else ever meets what stopped it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from recoverable import (
    Arena,
    ArenaBusyError,
    ArenaOptionError,
    StepTooLongError,
    TaskGroup,
    gather,
    recoverable,
    watchdog,
)
from recoverable._native import frames
from recoverable._native import watchdog as native
from recoverable.aiohttp import setup
from support.watched import LIMIT, told, watched_arena

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
]  # stopped in between

STRESS = int(os.environ.get("RECOVERABLE_RACES", "5"))


@pytest.fixture
def arena(name: str) -> Iterator[Arena]:
    """Give an arena whose steps are watched."""
    with watched_arena(name) as opened:
        yield opened


def spin() -> None:
    """Never come back."""
    while True:
        pass


def stopped(arena: Arena, work: Callable[[], object], **options: Any) -> StepTooLongError:
    """Run a handler that writes and then works; return the error that it ends by."""

    @recoverable(arena=arena, **options)
    async def handler() -> None:
        arena.root["n"] += 1
        work()

    async def main() -> None:
        await handler()

    with pytest.raises(StepTooLongError) as error:
        asyncio.run(main())
    return error.value


@contextlib.contextmanager
def configured(processor: Any) -> Iterator[None]:
    """Have events go to this processor alone."""
    structlog.configure(processors=[processor])
    try:
        yield
    finally:
        structlog.reset_defaults()


def threads_of_process() -> int:
    """Return how many threads this process has, Python's or not."""
    return len(list(Path("/proc/self/task").iterdir()))


def comes_to(threads: int) -> bool:
    """Tell whether it has so many: one that was joined may be listed for a moment longer."""
    end = time.monotonic() + 2
    while threads_of_process() != threads and time.monotonic() < end:
        time.sleep(0.001)
    return threads_of_process() == threads


# -- what becomes of the step -------------------------------------------------------------------------------------------


def test_a_handler_that_spins_is_told_stopped_and_rolled_back(arena: Arena, log: list[dict[str, Any]]) -> None:
    """Two events name handler, line and stack; the error does too; nothing of the run is committed, and the arena is free."""
    native.set_limit(arena.native, LIMIT, ends=False)
    error = stopped(arena, spin)
    assert error.seconds >= LIMIT
    assert error.where.endswith((" in spin: pass", " in spin: while True:"))
    assert __file__ in error.where
    assert "test_watchdog.py" in error.stack
    assert "in handler" in error.stack
    assert "step_limit of 0.4 s" in str(error)
    assert "rolled back" in str(error)
    names, until = ("step.slow", "step.stopped", "request.rolled_back"), time.monotonic() + 10
    while "step.stopped" not in {event["event"] for event in log} and time.monotonic() < until:
        time.sleep(0.002)  # who tells of it may come to that after the step has ended
    told = [event for event in log if event["event"] in names and event["handler"].endswith(".handler")]
    events = sorted(told, key=lambda event: names.index(event["event"]))
    assert [event["event"] for event in events] == list(names)
    assert len({event["request_id"] for event in events}) == 1
    slow, stop, undone = events
    assert slow["handler"].endswith("handler")
    assert "in spin" in slow["where"]
    assert "in handler" in slow["stack"]
    assert LIMIT * 500 <= slow["milliseconds"] <= stop["milliseconds"]
    assert undone["exception_type"] == "StepTooLongError"
    assert arena.root["n"] == 0
    with arena.transaction():
        arena.root["n"] += 1
    assert arena.root["n"] == 1


def test_a_block_that_spins_is_stopped(arena: Arena) -> None:
    """A `with` block in any thread ends by the error, too."""
    found: list[BaseException] = []

    def work() -> None:
        try:
            with arena.transaction():
                arena.root["n"] = 1
                spin()
        except StepTooLongError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert len(found) == 1
    assert arena.root["n"] == 0


def test_a_log_that_waits_for_the_arena_keeps_no_step_from_being_stopped(arena: Arena) -> None:
    """A program that writes its events into the arena has the slow one wait for the very step that it is about."""
    told: list[str] = []

    def audit(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
        if event["event"].startswith("step."):  # that the audit itself is held up may be told, too
            told.append(event["event"])
        if event["event"] == "step.slow":
            with arena.transaction():
                arena.root["audited"] = True
        raise structlog.DropEvent

    with configured(audit):
        stopped(arena, spin)
        deadline = time.monotonic() + 5
        while "audited" not in arena.root and time.monotonic() < deadline:
            time.sleep(0.01)
    assert told[:2] == ["step.slow", "step.stopped"]
    assert arena.root["audited"]
    assert arena.root["n"] == 0


def test_a_blocking_call_is_named(arena: Arena, log: list[dict[str, Any]]) -> None:
    """What waits outside of Python is stopped when it comes back; the event has the program's line, not the library's."""

    def answer(writing: socket.socket) -> None:
        until = time.monotonic() + 10
        while not any(event["event"] == "step.stopped" for event in log) and time.monotonic() < until:
            time.sleep(0.002)
        writing.sendall(b"x\n")

    native.set_limit(arena.native, LIMIT, ends=False)  # telling may take its time
    reading, writing = socket.socketpair()
    with reading, writing, reading.makefile("rb") as file:
        thread = threading.Thread(target=answer, args=[writing])
        thread.start()
        stopped(arena, lambda: file.readline())
        thread.join()
    slow = next(event for event in log if event["event"] == "step.slow")
    assert slow["where"].endswith("stopped(arena, lambda: file.readline())")
    assert "socket.py" in slow["stack"].splitlines()[0]


def test_the_line_is_the_programs_own(arena: Arena) -> None:
    """Code of this library, in which a loop over state spends most of its time, is not what a step is at."""

    def loop() -> None:
        while "n" in arena.root:
            for _ in range(100):
                arena.size  # noqa: B018 -- Python of ours

    error = stopped(arena, loop)
    assert " in loop: " in error.where


@pytest.mark.parametrize(
    ("module", "told"), [("pdb", "in call: breakpoint()"), ("recoverable.shop", " in test_whose_code_it_is: at")]
)
def test_whose_code_it_is(module: str, told: str) -> None:
    """A debugger's prompt is named as such, and of this library's own code, who has called it."""
    names: dict[str, Any] = {"__name__": module}
    exec("def call(back):\n    return back()", names)
    at = names["call"](lambda: watchdog._at(frames.of_thread(threading.get_ident())[1:]))
    assert told in at.where
    assert "in call" in at.stack.splitlines()[0]


def test_except_exception_does_not_keep_it(arena: Arena) -> None:
    """What stops a handler is no Exception; and what a handler makes of it, its transaction can't commit."""

    def obstinate() -> None:
        with contextlib.suppress(Exception):
            spin()
        raise AssertionError("not reached")

    stopped(arena, obstinate)

    @recoverable(arena=arena)
    async def swallows() -> str:
        arena.root["n"] = 5
        with contextlib.suppress(BaseException):
            spin()
        return "well"

    with pytest.raises(StepTooLongError):
        asyncio.run(swallows())
    assert arena.root["n"] == 0


@pytest.mark.parametrize("inside", ["part", "task of a group", "independent"])
def test_of_what_is_inside_a_request_the_one_that_spins_is_stopped(arena: Arena, log: list[Any], inside: str) -> None:
    """A part ends the whole that it is of, an independent one itself alone; others that take steps meanwhile commit."""

    async def careful() -> str:
        for _ in range(5):
            arena.root["n"] += 1
            await asyncio.sleep(0.005)
        return "well"

    async def careless() -> None:
        arena.root["m"] = 1
        await asyncio.sleep(0.01)
        arena.root["m"] = 2
        spin()

    @recoverable(arena=arena, nested="independent")
    async def audit() -> None:
        await careless()

    @recoverable(arena=arena)
    async def whole() -> str:
        arena.root["w"] = 1
        if inside == "part":
            await gather(careful(), careless())
        elif inside == "independent":
            with pytest.raises(StepTooLongError, match=r"a step of .*audit held"):
                await audit()
        else:
            async with TaskGroup() as group:
                group.create_task(careful())
                group.create_task(careless())
        return "well"

    async def main() -> list[Any]:
        return await asyncio.gather(whole(), arena.run(careful), return_exceptions=True)

    ends = asyncio.run(main())
    name = (audit if inside == "independent" else whole).__qualname__
    assert [event["handler"] for event in told(log, 2)] == [name] * 2
    assert ends[1] == "well"
    assert (ends[0] == "well") is (inside == "independent")
    assert inside == "independent" or isinstance(ends[0], StepTooLongError)
    assert dict(arena.root) == {"n": 5, **({"w": 1} if inside == "independent" else {})}


def test_it_is_not_run_again_unless_that_is_asked_for(arena: Arena) -> None:
    """`retries` alone would have nobody use the arena for as many limits; the fallback answers; naming the error retries."""
    runs = []

    def work() -> None:
        runs.append(1)
        spin()

    @recoverable(arena=arena, retries=2, fallback=lambda error: type(error).__name__)
    async def falls_back() -> str:
        arena.root["n"] += 1
        work()
        return "never"

    assert asyncio.run(falls_back()) == "StepTooLongError"
    assert len(runs) == 1
    stopped(arena, work, retries=1, retry_on=StepTooLongError)
    assert len(runs) == 3


def test_others_read_where_the_holder_is(arena: Arena, name: str) -> None:
    """Who waits in vain for the lock is told the line that the holder is at, in its error and its event."""
    found: list[str] = []

    def wait() -> None:
        other = Arena.open(name)
        for _ in range(100):
            if (slow := native.slow_step(other.native)) is not None:
                found.append(slow.text)
                break
            time.sleep(0.01)
        other.close()

    thread = threading.Thread(target=wait)
    thread.start()
    stopped(arena, spin)
    thread.join(10)
    assert "in spin" in found[0].splitlines()[0]
    assert "in handler" in found[0]
    time.sleep(LIMIT / 4)
    with arena.transaction():
        arena.root["n"] = 1
        assert native.slow_step(arena.native) is None  # it was of another step


# -- nobody else meets it -------------------------------------------------------------------------------------------------


def test_what_was_set_for_a_step_that_ended_meanwhile_reaches_nobody(arena: Arena, new_name: Callable[[], str]) -> None:
    """The exception is set while the step waits without the GIL, for another arena; the step ends without a bytecode in between."""
    holds, waits, ran = threading.Event(), threading.Event(), []
    native.set_limit(arena.native, 0.1, ends=False)
    watchdog.settle()
    with Arena.temporary("4 MiB", name=new_name()) as other:
        with other.transaction():
            other.root["k"] = 0

        def hold() -> None:
            with other.transaction():
                other.root["k"] = 1
                holds.set()
                waits.wait(10)
                time.sleep(0.08)  # not for so long that it is told, which would look for exceptions

        @recoverable(arena=arena)
        async def handler() -> None:
            arena.root["n"] = 1
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_result, None)
            root = other.root
            time.sleep(0.09)
            waits.set()
            root["k"]  # waits
            await future  # no call, no loop before that: nothing has looked for an exception
            arena.root["n"] = 2

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda loop, found: ran.append(str(found)))
            call = asyncio.ensure_future(handler())
            ran.append("before")
            with pytest.raises(StepTooLongError):
                await call
            for _ in range(100):
                await asyncio.sleep(0)
            ran.append("after")

        thread = threading.Thread(target=hold)
        thread.start()
        holds.wait(10)
        asyncio.run(main())
        thread.join(10)
    assert ran == ["before", "after"]
    assert arena.root["n"] == 0


def test_steps_that_end_at_the_limit_meet_it_in_themselves_or_not_at_all(arena: Arena) -> None:
    """Hundreds of steps about as long as a tiny limit: each commits or raises the error, and the loop never sees one."""
    ends = dict.fromkeys(("well", "stopped"), 0)
    choose = random.Random(7)

    @recoverable(arena=arena)
    async def handler(seconds: float) -> None:
        arena.root["n"] += 1
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass
        await asyncio.sleep(0)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, found: pytest.fail(str(found)))
        for _ in range(60 * STRESS):
            try:
                await handler(choose.uniform(0.002, 0.012))
                ends["well"] += 1
            except StepTooLongError:
                ends["stopped"] += 1
            for _ in range(50):
                pass

    arena.step_limit = None
    native.set_limit(arena.native, 0.004, ends=False)  # less than may be asked for
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    try:
        watchdog.settle()
        asyncio.run(main())
    finally:
        sys.setswitchinterval(interval)
        arena.step_limit = LIMIT
    assert arena.root["n"] == ends["well"]
    assert sum(ends.values()) == 60 * STRESS
    assert min(ends.values()) > 0


def test_each_of_two_loops_is_stopped_for_itself(arena: Arena, new_name: Callable[[], str]) -> None:
    """Two arenas, two event loops in two threads: both spin, both are stopped, each by its own limit."""
    with Arena.temporary("4 MiB", name=new_name(), step_limit=LIMIT * 1.5) as other:
        found: list[float] = []

        def run(which: Arena) -> None:
            found.append(stopped(which, spin).seconds)

        with other.transaction():
            other.root["n"] = 0
        threads = [threading.Thread(target=run, args=[each]) for each in (arena, other)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(found) == 2
        assert found[1] - found[0] > LIMIT / 4


# -- beginning and end ----------------------------------------------------------------------------------------------------


def test_nobody_watches_where_no_arena_has_a_limit(new_name: Callable[[], str]) -> None:
    """The thread is there from the first arena with a limit to the last one, and no longer."""
    gc.collect()
    time.sleep(0.05)  # those of earlier tests have gone
    before = threads_of_process()
    for _ in range(3):
        with (
            Arena.temporary("4 MiB", name=new_name()) as quiet,
            Arena.temporary("4 MiB", name=new_name(), step_limit=60) as one,
        ):
            assert comes_to(before + 1)
            quiet.step_limit = 5
            one.step_limit = None
            assert (quiet.step_limit, one.step_limit) == (5, None)
            assert comes_to(before + 1)
            quiet.step_limit = None
            assert comes_to(before)
            one.step_limit = 1
        assert comes_to(before)


def test_a_limit_that_is_none_is_refused(
    arena: Arena, new_name: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is opened or changed by one; the environment overrules the program, and can be wrong as well."""
    from aiohttp import web

    for wrong in (0, -1, float("nan"), 1e9, True, "2"):
        with pytest.raises(ArenaOptionError, match="step_limit"):
            arena.step_limit = wrong  # type: ignore[assignment]
        with pytest.raises(ArenaOptionError, match="step_limit"):
            Arena.open(new_name(), step_limit=wrong)  # type: ignore[arg-type]
        with pytest.raises(ArenaOptionError, match="step_limit"):
            setup(web.Application(), arena, step_limit=wrong)  # type: ignore[arg-type]
    assert arena.step_limit == LIMIT
    monkeypatch.setenv("RECOVERABLE_STEP_LIMIT", "off")
    setup(web.Application(), arena, step_limit=3)
    assert arena.step_limit is None
    monkeypatch.setenv("RECOVERABLE_STEP_LIMIT", "7.5")
    arena.step_limit = 3
    assert arena.step_limit == 7.5
    arena.step_limit = None
    assert arena.step_limit is None
    arena.step_limit = 3
    monkeypatch.setenv("RECOVERABLE_STEP_LIMIT", "soon")
    with pytest.raises(ArenaOptionError, match="RECOVERABLE_STEP_LIMIT"):
        arena.step_limit = 3
    unopened = new_name()
    with pytest.raises(ArenaOptionError, match="RECOVERABLE_STEP_LIMIT"):
        Arena.open(unopened, step_limit=3)
    assert not Path(f"/dev/shm/recoverable.{unopened}").exists()


def test_whoever_opens_an_arena_again_may_give_it_a_limit(arena: Arena) -> None:
    """Its steps are those of the one that is open; without a limit, that one's stays."""
    for asked, counts in ((None, LIMIT), (LIMIT * 2, LIMIT * 2), (None, LIMIT * 2)):
        again = Arena.open(arena.name, step_limit=asked)
        assert (again.step_limit, arena.step_limit) == (counts, counts)
        again.close()
        assert arena.step_limit == counts


def test_a_step_that_waits_at_an_await_is_not_watched(arena: Arena, log: list[dict[str, Any]]) -> None:
    """Requests may take as long as they like; only steps hold the arena."""

    @recoverable(arena=arena)
    async def waits() -> None:
        arena.root["n"] += 1
        for _ in range(3):
            await asyncio.sleep(LIMIT / 2)
            arena.root["n"] += 1

    asyncio.run(waits())
    assert arena.root["n"] == 4
    assert not [event for event in log if event["event"].startswith("step.")]


def test_busy_says_where_the_holder_is(name: str) -> None:
    """The message of ArenaBusyError has the handler, how long it has held the arena and its line."""
    with Arena.temporary("4 MiB", name=name, step_limit=LIMIT * 2, busy_timeout=LIMIT * 1.6) as arena:
        with arena.transaction():
            arena.root["n"] = 0
        holds = threading.Event()

        def hold() -> None:
            with arena.transaction():
                arena.root["n"] = 1
                holds.set()
                time.sleep(LIMIT * 1.9)

        thread = threading.Thread(target=hold)
        thread.start()
        holds.wait(10)
        with (
            pytest.raises(
                ArenaBusyError, match=r"hold, for [01]\.\d+ s now, at .*test_watchdog.py:\d+ in hold: time.sleep"
            ),
            arena.transaction(),
        ):
            arena.root["n"] = 2
        thread.join(10)
