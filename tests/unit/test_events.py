"""The structlog events: which, when, at what level, with what in them, and that nothing is built for nobody."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import io
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from recoverable import (
    Arena,
    ArenaBusyError,
    ArenaCorruptError,
    ArenaFullError,
    Array,
    ConflictError,
    attempt,
    event_log,
    events,
    recoverable,
    transaction,
)
from recoverable.reports import Recovery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class AppError(Exception):
    """Stands for any error of an application."""


def named(log: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    """Return the events of that name."""
    return [entry for entry in log if entry["event"] == event]


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """Leave structlog as it was."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def lines(unconfigured: None) -> Callable[[], list[str]]:
    """Give what is written, a line each, where events are rendered as JSON."""
    written = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(written),
    )
    return lambda: written.getvalue().splitlines()


# -- arenas ---------------------------------------------------------------------------------------------------------


def test_creating_and_attaching_are_told(name: str, log: list[dict[str, Any]]) -> None:
    """The first open is `arena.created`, the next `arena.attached`."""
    for _ in range(2):
        Arena.open(name, "4 MiB").close()
    assert [(e["event"], e["arena"], e["size"], e["log_level"]) for e in log] == [
        ("arena.created", name, 4 * 1024**2, "info"),
        ("arena.attached", name, 4 * 1024**2, "info"),
    ]
    assert log[1]["processes"] == 1


@pytest.mark.parametrize(("records", "pages", "level"), [(0, 0, "info"), (1, 0, "warning"), (0, 1, "warning")])
def test_a_recovery_that_undid_nothing_is_no_alarm(
    log: list[dict[str, Any]], records: int, pages: int, level: str
) -> None:
    """Who died between steps, or after its commit, has left nothing half-done: that is for the record."""
    report = Recovery("idle", records=records, bytes=0, pages=pages, chunks=1, microseconds=1, handler="", pid=0)
    events.arena_recovered("a", report, found="attaching")
    assert [e["log_level"] for e in log] == [level]


def test_recovery_is_told(name: str, log: list[dict[str, Any]]) -> None:
    """What a killed process left is a warning with its numbers."""
    program = f"""
import os, signal, recoverable
arena = recoverable.Arena.open({name!r}, "4 MiB")
with arena.transaction():
    arena.root["secret"] = "value"
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False, env=dict(os.environ))
    Arena.open(name).close()
    (event,) = named(log, "arena.recovered")
    assert event["log_level"] == "warning"
    assert (event["phase"], event["found"]) == ("step", "attaching")
    assert event["records"] > 0
    assert event.keys() >= {"bytes", "pages", "chunks", "microseconds", "handler", "pid"}


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("first", ["commit", "roll back", "block", "stats"])
def test_a_repair_is_told_by_the_survivor_that_made_it_once(name: str, log: list[dict[str, Any]], first: str) -> None:
    """A worker is killed in a step of an arena that others have open: whoever takes the lock over tells, nobody else."""
    victim = f"""
import os, signal, recoverable
arena = recoverable.Arena.open({name!r})
def spend():
    with arena.transaction():
        arena.root["stock"] = 0
        os.kill(os.getpid(), signal.SIGKILL)
spend()
"""
    other = f"""
import recoverable, structlog
arena = recoverable.Arena.open({name!r})
with structlog.testing.capture_logs() as log:
    print("ready", flush=True)
    input()
    with arena.transaction():
        arena.root["other"] = 1
    arena.close()
print([event["event"] for event in log])
"""

    async def write(crash: bool) -> None:
        arena.root["mine"] = 1
        if crash:
            raise AppError

    with Arena.temporary("16 MiB", name=name) as arena:
        with arena.transaction():
            arena.root["stock"] = 5
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([sys.executable, "-c", other], env=dict(os.environ), text=True, **pipes) as bystander:
            assert bystander.stdout is not None
            assert bystander.stdout.readline() == "ready\n"
            dead = subprocess.Popen([sys.executable, "-c", victim], env=dict(os.environ))
            assert dead.wait(60) == -signal.SIGKILL
            log.clear()
            assert arena.root["stock"] == 5  # this takes the lock over
            assert log == []  # a read tells nothing: that is for a boundary
            match first:
                case "block":
                    with arena.transaction():
                        arena.root["mine"] = 1
                case "stats":
                    arena.stats()
                case _:
                    with contextlib.suppress(AppError):
                        asyncio.run(arena.run(write, first == "roll back"))
            (event,) = named(log, "arena.recovered")
            assert (event["found"], event["phase"], event["pid"]) == ("running", "step", dead.pid)
            assert event["handler"].endswith("spend")
            assert event["records"] > 0
            assert event["log_level"] == "warning"
            log.clear()
            with arena.transaction():
                arena.root["mine"] = 2
            arena.stats()
            assert log == []
            assert bystander.communicate("go\n", 60)[0] == "[]\n"


def test_a_full_arena_is_told(arena: Arena, log: list[dict[str, Any]]) -> None:
    """A block and a handler that find no room are each one event, `arena.full`, that names them."""

    async def fill() -> None:
        for number in range(1000):
            arena.root[number] = b"x" * 100_000

    with pytest.raises(ArenaFullError):
        asyncio.run(arena.run(fill))
    with pytest.raises(ArenaFullError), arena.transaction():
        arena.root["a"] = b"x" * 20_000_000
    told = [(e["event"], e["handler"].rpartition(".")[2], e["log_level"]) for e in log]
    assert told == [("arena.full", "fill", "error"), ("arena.full", "test_a_full_arena_is_told", "error")]


async def test_a_requests_full_arena_has_all_the_facts(arena: Arena, log: list[dict[str, Any]]) -> None:
    """One event a run: which request, which run, what was undone, what was wanted, where, and what came next."""

    @recoverable(retries=1, fallback=lambda error: "full")
    async def fill() -> None:
        arena.root["a"] = 1
        arena.root["b"] = b"x" * 20_000_000

    assert await fill() == "full"
    assert [(e["event"], e["log_level"], e["attempt"], e["then"]) for e in log] == [
        ("arena.full", "error", 1, "retry"),
        ("arena.full", "error", 2, "fallback"),
    ]
    assert len({e["request_id"] for e in log}) == 1
    for event in log:
        assert event["bytes"] > 0
        assert "20000000 bytes" in event["detail"]
        kind, error, trace = event["exc_info"]
        assert kind is ArenaFullError
        assert [frame.name for frame in traceback.extract_tb(trace)] == ["fill"]
        assert str(error) == event["detail"]


@pytest.mark.parametrize("inside", ["part", "block"])
async def test_a_full_arena_is_told_where_it_was_found(
    name: str, arena: Arena, log: list[dict[str, Any]], inside: str
) -> None:
    """What it undoes further out, in this arena or in another one, is a `request.rolled_back`: no second error or traceback."""
    with Arena.temporary("4 MiB", name=f"{name}-small") as small:

        async def part() -> None:
            arena.root["b"] = b"x" * 20_000_000

        async def whole() -> None:
            arena.root["a"] = 1
            if inside == "part":
                await arena.run(part, nested="independent")
            with small.transaction():
                small.root["b"] = b"x" * 20_000_000

        log.clear()
        with pytest.raises(ArenaFullError):
            await arena.run(whole)
    full, rolled_back = log
    assert (full["event"], full["log_level"]) == ("arena.full", "error")
    assert full["arena"] == (arena.name if inside == "part" else small.name)
    assert (rolled_back["event"], rolled_back["log_level"]) == ("request.rolled_back", "warning")
    assert (rolled_back["arena"], rolled_back["exception_type"]) == (arena.name, "ArenaFullError")
    assert "exc_info" not in rolled_back


def test_a_lock_that_is_not_to_be_had_is_told(name: str, log: list[dict[str, Any]]) -> None:
    """A request and a block that wait in vain are each an `arena.busy` that says whose lock it is; nothing else tells of it."""
    taken, done = threading.Event(), threading.Event()

    def blocks() -> None:
        with arena.transaction():
            arena.root["a"] = 1
            taken.set()
            done.wait(60)

    async def waits() -> None:
        arena.root["a"] = 2

    with Arena.temporary("4 MiB", name=name, busy_timeout=0.01) as arena:
        thread = threading.Thread(target=blocks)
        thread.start()
        try:
            assert taken.wait(60)
            with pytest.raises(ArenaBusyError):
                asyncio.run(arena.run(waits))
            with pytest.raises(ArenaBusyError), arena.transaction():
                arena.root["a"] = 3
        finally:
            done.set()
            thread.join()
    told = [e for e in log if not e["event"].startswith(("arena.created", "request.committed"))]
    assert [(e["event"], e["log_level"]) for e in told] == [("arena.busy", "warning")] * 2
    assert [e["handler"].rpartition(".")[2] for e in told] == ["waits", "test_a_lock_that_is_not_to_be_had_is_told"]
    assert all(str(os.getpid()) in e["detail"] and "blocks" in e["detail"] for e in told)


def test_damage_is_told(arena: Arena, log: list[dict[str, Any]]) -> None:
    """A request and a block that meet a damaged segment are each an `arena.corrupt`."""

    async def meets() -> None:
        raise ArenaCorruptError("the damage")

    with pytest.raises(ArenaCorruptError):
        asyncio.run(arena.run(meets))
    with pytest.raises(ArenaCorruptError), arena.transaction():
        raise ArenaCorruptError("the damage")
    told = [(e["handler"].rpartition(".")[2], e["detail"], e["log_level"]) for e in named(log, "arena.corrupt")]
    assert told == [("meets", "the damage", "error"), ("test_damage_is_told", "the damage", "error")]


def test_a_stray_write_is_told(arena: Arena, log: list[dict[str, Any]]) -> None:
    """A raw write outside any transaction is taken back and reported at the next boundary."""
    numpy = pytest.importorskip("numpy")
    with arena.transaction():
        arena.root["m"] = Array((1024,), "f8")
    with arena.transaction():
        view = arena.root["m"].view
        kept = view[:]
    address = kept.__array_interface__["data"][0]
    ctypes.c_double.from_address(address).value = 7.0
    with arena.transaction():
        arena.root["a"] = 1
    assert numpy.all(arena.root["m"].view == 0)
    del view, kept
    (event,) = named(log, "write.stray")
    assert event["log_level"] == "warning"
    assert event["writes"] == len(event["offsets"]) == 1
    assert event["arena"] == arena.name


# -- requests ---------------------------------------------------------------------------------------------------------


async def test_a_commit_is_told_at_debug(arena: Arena, log: list[dict[str, Any]]) -> None:
    """A request that wrote is `request.committed`; one that only read, or touched nothing, is no event."""

    @recoverable
    async def write() -> None:
        arena.root["a"] = 1

    @recoverable
    async def read() -> Any:
        return arena.root.get("a")

    @recoverable
    async def nothing() -> None: ...

    await write()
    await read()
    await nothing()
    assert [(e["event"], e["log_level"]) for e in log] == [("request.committed", "debug")]
    assert log[0].keys() >= {"handler", "pages", "bytes", "microseconds", "attempt", "request_id", "arena"}


async def test_rollbacks_are_told_with_attempt_and_one_request_id(arena: Arena, log: list[dict[str, Any]]) -> None:
    """Every event of a request has its id and the number of the run; what was undone is in numbers."""

    @recoverable(retries=2)
    async def handler() -> None:
        await asyncio.sleep(0)
        arena.root["secret"] = "value" * attempt()
        if attempt() < 3:
            raise AppError("private words")

    await handler()
    assert [(e["event"], e["attempt"]) for e in log] == [
        ("request.rolled_back", 1),
        ("request.rolled_back", 2),
        ("request.committed", 3),
    ]
    assert len({e["request_id"] for e in log}) == 1
    first = log[0]
    assert first["exception_type"] == "AppError"
    assert first["handler"].endswith("handler")
    assert first["then"] == "retry"
    assert first["log_level"] == "warning"
    assert first["bytes"] > 0
    assert first.keys() >= {"pages", "microseconds"}


async def test_events_have_no_stored_values(arena: Arena, lines: Callable[[], list[str]]) -> None:
    """What is stored, and under which keys, is in no rendered event, traceback included; an exception's own words are."""
    words, key = "".join(("stored ", "words")), "".join(("the ", "key"))  # a traceback quotes lines of code

    @recoverable(retries=1)
    async def handler() -> None:
        arena.root[key] = words
        await asyncio.sleep(0)
        raise AppError("the author's words")

    with pytest.raises(AppError):
        await handler()
    assert len(lines()) == 2
    assert all("the author's words" in line and "in handler" in line for line in lines())
    assert not any("runner.py" in line for line in lines())  # it begins at the handler
    assert not re.search(f"{words}|{key}", "".join(lines()))


# -- the exception ----------------------------------------------------------------------------------------------------


async def test_each_runs_exception_is_told_with_its_run(arena: Arena, log: list[dict[str, Any]]) -> None:
    """Every run that crashed has its own exception in its own event, the one that a fallback replaces as well."""

    @recoverable(retries=1, fallback=lambda error: "instead")
    async def handler() -> None:
        arena.root["a"] = 1
        raise AppError(attempt())

    assert await handler() == "instead"
    assert [(e["then"], e["exc_info"][1].args) for e in log] == [("retry", (1,)), ("fallback", (2,))]


async def test_what_leaves_an_independent_part_is_told_once(arena: Arena, log: list[dict[str, Any]]) -> None:
    """The event of the whole request has the exception, that of the part only its type."""

    async def part() -> None:
        arena.root["a"] = 1
        raise AppError

    @recoverable
    async def whole() -> None:
        arena.root["b"] = 1
        await arena.run(part, nested="independent")

    with pytest.raises(AppError):
        await whole()
    assert [(e["handler"].rpartition(".")[2], "exc_info" in e) for e in log] == [("part", False), ("whole", True)]
    assert [e["exception_type"] for e in log] == ["AppError"] * 2


async def test_only_crashes_and_time_limits_have_a_traceback(arena: Arena, log: list[dict[str, Any]]) -> None:
    """Who cancels a request, or returns an unwanted result, knows why; where a time limit struck is worth to know."""

    @recoverable(timeout=0.01)
    async def late() -> None:
        arena.root["a"] = 1
        await asyncio.sleep(60)

    @recoverable
    async def cancelled() -> None:
        arena.root["a"] = 1
        raise asyncio.CancelledError

    @recoverable(commit_if=bool)
    async def unwanted() -> None:
        arena.root["a"] = 1

    for handler, ends in ((late, TimeoutError), (cancelled, asyncio.CancelledError)):
        with pytest.raises(ends):
            await handler()
    await unwanted()
    told = {e["handler"].rpartition(".")[2]: "exc_info" in e for e in log}
    assert told == {"late": True, "cancelled": False, "unwanted": False}


@pytest.mark.parametrize(("level", "shown"), [(logging.INFO, True), (logging.ERROR, False)])
async def test_a_traceback_that_nobody_saw_is_not_told(arena: Arena, level: int, shown: bool) -> None:
    """Where the configuration drops the event, whoever logs the exception next is not kept from its traceback."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(io.StringIO()),
    )

    async def handler() -> None:
        arena.root["a"] = 1
        raise AppError

    with pytest.raises(AppError) as crash:
        await arena.run(handler)
    assert (events.traceback_reported(crash.value) is not None) is shown
    assert events.traceback_reported(crash.value) is None  # told once


async def test_an_exception_that_refuses_attributes_does_no_harm(arena: Arena, log: list[dict[str, Any]]) -> None:
    """The event is written and the very exception goes on, whatever its class allows."""

    class Closed(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    async def handler() -> None:
        arena.root["a"] = 1
        raise Closed

    with pytest.raises(Closed):
        await arena.run(handler)
    assert "exc_info" in log[0]


@pytest.mark.parametrize(("most", "level", "then"), [(5, "info", "rerun"), (0, "warning", "raise")])
async def test_conflicts_are_told(arena: Arena, log: list[dict[str, Any]], most: int, level: str, then: str) -> None:
    """A conflict names path, key and winner: as info where a re-run solves it, as a warning where none follows."""

    @recoverable(max_conflicts=most)
    async def slow() -> None:
        value = arena.root.get("n", 0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        arena.root["n"] = value + 1

    @recoverable
    async def quick() -> None:
        arena.root["n"] = 5

    result, _ = await asyncio.gather(slow(), quick(), return_exceptions=True)
    assert isinstance(result, ConflictError) is (most == 0)
    (event,) = named(log, "request.conflict")
    assert event["log_level"] == level
    assert event["then"] == then
    assert event["attempt"] == 1
    assert event["key"] == "'n'"
    assert event["winner"].endswith("quick")


@pytest.mark.parametrize("most", [0, 1])
async def test_where_a_conflict_was_lost_is_looked_up_once(
    arena: Arena, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that loses one looks once, for its event and for the error that its caller gets."""
    look, looks = transaction.describe_conflict, []
    monkeypatch.setattr(transaction, "describe_conflict", lambda *args: looks.append(args) or look(*args))

    async def other(value: int) -> None:
        arena.root["n"] = value

    @recoverable(max_conflicts=most)
    async def handler() -> None:
        value = arena.root.get("n", 0)
        if attempt() == 1:
            await asyncio.create_task(arena.run(other, value + 1))
        arena.root["n"] = value

    if most == 0:
        with pytest.raises(ConflictError, match="'n'"):
            await handler()
    else:
        await handler()
    assert len(looks) == 1


async def test_expected_ends_are_info(arena: Arena, log: list[dict[str, Any]]) -> None:
    """A cancellation is no alarm; a time limit is named as what it is."""

    @recoverable(timeout=0.01)
    async def handler() -> None:
        arena.root["a"] = 1
        await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        await handler()
    (event,) = log
    assert (event["event"], event["exception_type"], event["log_level"]) == (
        "request.rolled_back",
        "TimeoutError",
        "info",
    )


async def test_a_crash_that_touched_nothing_is_no_event(arena: Arena, log: list[dict[str, Any]]) -> None:
    """Nothing was rolled back, and the exception goes to the caller: there is nothing to add."""

    @recoverable
    async def handler() -> None:
        raise AppError

    with pytest.raises(AppError):
        await handler()
    assert log == []


# -- who listens ------------------------------------------------------------------------------------------------------


def test_committed_is_only_wanted_where_it_would_be_written() -> None:
    """The cheap check follows structlog's configuration, each kind of logger in its way."""
    assert not event_log.committed_wanted()  # not configured
    for level, wanted in ((logging.DEBUG, True), (logging.INFO, False)):
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
        assert event_log.committed_wanted() is wanted
    structlog.configure(wrapper_class=structlog.stdlib.BoundLogger, logger_factory=structlog.stdlib.LoggerFactory())
    standard = logging.getLogger("recoverable")
    for level, wanted in ((logging.DEBUG, True), (logging.INFO, False)):
        standard.setLevel(level)
        assert event_log.committed_wanted() is wanted
    standard.setLevel(logging.NOTSET)


async def test_a_commit_is_told_as_soon_as_somebody_listens(arena: Arena) -> None:
    """What native code has found of structlog's configuration holds for one request: the next one asks again."""
    told: list[Any] = []

    @recoverable
    async def handler() -> None:
        arena.root["n"] = 1

    def keep(logger: Any, method: str, event: dict[str, Any]) -> Any:
        told.append(event["event"])
        raise structlog.DropEvent

    for _ in range(2):
        structlog.reset_defaults()
        for _ in range(2):
            await handler()
        assert told == []
        structlog.configure(processors=[keep])
        await handler()
        assert told == ["request.committed"]
        told.clear()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
        for _ in range(2):
            await handler()
        assert told == []
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
        await handler()
        assert told == ["request.committed"]
        told.clear()


async def test_a_logger_that_takes_any_name_for_an_events_is_not_asked(arena: Arena) -> None:
    """structlog.BoundLogger, which knows no levels: a commit is told, and nothing else is."""
    told: list[Any] = []

    def keep(_logger: Any, _method: str, event: Any) -> Any:
        told.append(event["event"])
        raise structlog.DropEvent

    structlog.configure(processors=[keep], wrapper_class=structlog.BoundLogger)

    async def write() -> None:
        arena.root["told"] = 1

    async def fail() -> None:
        arena.root["told"] = 2
        raise AppError

    await arena.run(write)
    with pytest.raises(AppError):
        await arena.run(fail)
    assert told == ["request.committed", "request.rolled_back"]


def test_native_code_is_told_when_nobody_listens() -> None:
    """What it looks at without a call is there for a logging, and a structlog, of a level; where a commit is told, it asks."""
    quiet = structlog.make_filtering_bound_logger(logging.INFO)
    for configure, natively in (
        (structlog.reset_defaults, True),
        (structlog.configure, False),
        (lambda: structlog.configure(wrapper_class=quiet), True),
    ):
        configure()
        assert event_log.committed_wanted() is not natively
        facts = event_log.untold
        assert bool(facts) is natively
        assert all(facts[i].get(facts[i + 1]) is facts[i + 2] for i in range(0, len(facts), 3))


async def test_nothing_is_built_for_a_healthy_request_that_nobody_listens_to(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a listener no event function is called, no report made and no id generated."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("built for nobody")

    for function in ("request_committed", "request_rolled_back", "request_conflict", "log"):
        monkeypatch.setattr(events, function, never)
    monkeypatch.setattr("recoverable.web.request_id", never)

    @recoverable
    async def handler() -> None:
        arena.root["a"] = 1
        await asyncio.sleep(0)

    await handler()
