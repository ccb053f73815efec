"""Where a program has not configured structlog, events are records of the standard library's logging."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from recoverable import Arena, StaleReferenceError, event_log, events, recoverable

if TYPE_CHECKING:
    from collections.abc import Iterator


class AppError(Exception):
    """Stands for any error of an application."""


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """Have nothing configured, and leave it so."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[list[logging.LogRecord]]:
    """Collect what the library logs, from info up."""
    found: list[logging.LogRecord] = []

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record)

    logger, handler = logging.getLogger("recoverable"), Keeps()
    logger.addHandler(handler)
    caplog.set_level(logging.INFO, "recoverable")
    yield found
    logger.removeHandler(handler)


def run_in_vain(arena: Arena, **options: Any) -> None:
    """Run a handler that writes and crashes, and that has a fallback."""

    async def handler() -> None:
        arena.root["a"] = secret = "".join(("stored ", "words"))
        raise AppError(len(secret))

    asyncio.run(arena.run(handler, fallback=lambda error: None, **options))


def frames(record: logging.LogRecord) -> list[str]:
    """Return the functions in a record's traceback."""
    assert record.exc_info
    return [frame.name for frame in traceback.extract_tb(record.exc_info[2])]


# -- what a record is -------------------------------------------------------------------------------------------------


def test_an_event_is_a_record_with_its_fields(arena: Arena, records: list[logging.LogRecord]) -> None:
    """The logger's name is that of the event's kind, below "recoverable"; fields are attributes, and words of the message."""
    records.clear()
    run_in_vain(arena)
    (record,) = records
    assert (record.name, record.levelno) == ("recoverable.request", logging.WARNING)
    fields = record.__dict__
    assert (fields["event"], fields["arena"], fields["attempt"]) == ("request.rolled_back", arena.name, 1)
    assert (fields["exception_type"], fields["then"], fields["pages"]) == ("AppError", "fallback", 0)
    message = record.getMessage()
    assert message.startswith(f"request.rolled_back arena={arena.name} handler=run_in_vain.<locals>.handler ")
    assert f" attempt=1 request_id={fields['request_id']} then=fallback" in message
    assert "pages" not in message
    assert "\n" not in message


def test_the_message_of_a_form_is_one_template(records: list[logging.LogRecord]) -> None:
    """Tools that group records by their templates put the same events together, whatever is in them."""
    for name in ("a", "b"):
        events.arena_busy(name, "handler", f"the lock of {name} is held")
    assert len({record.msg for record in records}) == 1
    assert [record.getMessage() for record in records] == [
        "arena.busy: the lock of a is held [arena=a handler=handler]",
        "arena.busy: the lock of b is held [arena=b handler=handler]",
    ]


def test_a_reader_sees_where_a_value_ends(records: list[logging.LogRecord]) -> None:
    """What has spaces, or signs that are no text, stands in quotes: nobody forges a line."""
    events.fault_not_injected("raise at await", "x\nERROR nothing", "")
    assert records[0].getMessage() == r"fault.not_injected rule='raise at await' handler='x\nERROR nothing' why=''"


def test_a_stack_is_below_its_line(records: list[logging.LogRecord]) -> None:
    """The frames of a step that takes too long are lines of their own."""
    events.step_slow("shop", "buy", None, 500, "shop.py:1", "frame\nframe")
    assert records[0].getMessage() == "step.slow arena=shop handler=buy milliseconds=500 where=shop.py:1\nframe\nframe"
    assert records[0].__dict__["stack"] == "frame\nframe"


def test_a_field_that_a_record_has_already_is_beside_it(arena: Arena, records: list[logging.LogRecord]) -> None:
    """A record factory of the program's that sets `request_id`, say, keeps it; ours has the library's name in front."""
    make = logging.getLogRecordFactory()

    def with_more(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.request_id = "theirs"
        return record

    logging.setLogRecordFactory(with_more)
    try:
        run_in_vain(arena)
        event_log.log().warning("x.y", msg="ours", name="ours", args=(), message="ours")
    finally:
        logging.setLogRecordFactory(make)
    fields = records[0].__dict__
    assert fields["request_id"] == "theirs"
    assert len(fields["recoverable_request_id"]) == 32
    assert (records[1].name, records[1].__dict__["recoverable_name"]) == ("recoverable.x", "ours")
    assert records[1].getMessage().startswith("x.y msg=ours name=ours")


def test_a_formatter_of_json_sees_everything(arena: Arena) -> None:
    """A formatter that writes all attributes which a plain record has not writes the whole event."""

    class Json(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            plain = {
                *logging.makeLogRecord({}).__dict__,
                "message",
                "taskName",
            }  # message: what another handler has made of it
            return json.dumps({name: value for name, value in record.__dict__.items() if name not in plain})

    written: list[str] = []

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(self.format(record))

    handler = Keeps()
    handler.setFormatter(Json())
    logger = logging.getLogger("recoverable")
    logger.addHandler(handler)
    try:
        run_in_vain(arena)
    finally:
        logger.removeHandler(handler)
    (line,) = map(json.loads, written)
    assert line.keys() == {
        *("event", "arena", "handler", "exception_type", "pages", "bytes", "microseconds", "attempt", "request_id"),
        "then",
    }


# -- which of the two -------------------------------------------------------------------------------------------------


def test_it_is_decided_at_each_event(arena: Arena, records: list[logging.LogRecord]) -> None:
    """Who configures structlog after the import has the next event there, and who takes that back has it in logging again."""
    told: list[str] = []

    def keep(logger: Any, method: str, event: dict[str, Any]) -> Any:
        told.append(event["event"])
        raise structlog.DropEvent

    run_in_vain(arena)
    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    run_in_vain(arena)
    structlog.reset_defaults()
    run_in_vain(arena)
    assert told == ["request.rolled_back"]
    assert [record.name for record in records] == ["recoverable.request"] * 2


def test_levels_are_those_of_logging(caplog: pytest.LogCaptureFixture) -> None:
    """As of every library: of its logger, of one below, or of the root."""
    for level, logger, count in (
        (logging.WARNING, "recoverable", 0),
        (logging.INFO, "recoverable", 1),
        (logging.INFO, "recoverable.arena", 1),
        (logging.INFO, None, 1),
    ):
        with caplog.at_level(level, logger):
            caplog.clear()
            events.arena_created("a", 1)
            assert len(caplog.records) == count


async def test_a_commit_is_told_as_soon_as_logging_listens(arena: Arena, caplog: pytest.LogCaptureFixture) -> None:
    """What native code has found of logging's levels holds while they do."""

    @recoverable
    async def handler() -> None:
        arena.root["n"] = 1

    for logger in ("recoverable", "recoverable.request", None):
        for _ in range(2):
            await handler()
        assert caplog.records == []
        with caplog.at_level(logging.DEBUG, logger):
            for _ in range(2):
                await handler()
            told = [record.__dict__.get("event") for record in caplog.records if record.name != "asyncio"]
            assert told == ["request.committed"] * 2
            logging.disable(logging.DEBUG)
            try:
                caplog.clear()
                await handler()
                assert caplog.records == []
            finally:
                logging.disable(logging.NOTSET)
            await handler()
            assert len(caplog.records) == 1
        caplog.clear()
    logging.getLogger("recoverable.request").disabled = True
    try:
        with caplog.at_level(logging.DEBUG, "recoverable"):
            await handler()
    finally:
        logging.getLogger("recoverable.request").disabled = False
    assert caplog.records == []


# -- exceptions -------------------------------------------------------------------------------------------------------


def test_what_nobody_else_tells_has_its_traceback(arena: Arena, records: list[logging.LogRecord]) -> None:
    """A fallback's exception is in the record, from the handler on; one that goes on to a caller is left to it."""
    records.clear()
    run_in_vain(arena)
    (record,) = records
    assert record.exc_info
    assert record.exc_info[0] is AppError
    assert frames(record) == ["handler"]
    records.clear()

    async def crashes() -> None:
        arena.root["a"] = 1
        raise AppError

    with pytest.raises(AppError) as raised:
        asyncio.run(arena.run(crashes))
    (record,) = records
    assert record.exc_info is None
    assert events.traceback_reported(raised.value) is None


@pytest.mark.parametrize("configured", [False, True])
def test_a_traceback_has_the_programs_frames_only(
    arena: Arena, records: list[logging.LogRecord], configured: bool
) -> None:
    """Nor those of ours that stand between two of the program's, by either way; the exception itself keeps them."""
    told: list[Any] = []

    def keep(logger: Any, method: str, event: dict[str, Any]) -> Any:
        told.append(event["exc_info"])
        raise structlog.DropEvent

    if configured:
        structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))

    async def inner() -> None:
        raise AppError

    async def handler() -> None:
        arena.root["a"] = 1
        await arena.run(inner, nested="independent")

    seen: list[BaseException] = []
    asyncio.run(arena.run(handler, fallback=seen.append))
    kind, error, trace = told[-1] if configured else records[-1].exc_info or (None, None, None)
    assert kind is AppError
    assert error is seen[0]
    assert [frame.name for frame in traceback.extract_tb(trace)] == ["handler", "inner"]
    assert len(traceback.extract_tb(seen[0].__traceback__)) > 2


def test_our_own_frames_at_the_end_stay_where_they_are_wanted(arena: Arena, records: list[logging.LogRecord]) -> None:
    """An error that we raise on purpose ends where the program called; another one may be our bug, and shows where."""

    async def stale() -> None:
        arena.root["a"] = [1]
        gone = arena.root["a"]
        del arena.root["a"]
        gone.append(2)

    async def wrong() -> None:
        arena.root["a"] = 1
        arena.root.update(1)  # type: ignore[call-overload]

    for handler, kind in ((stale, StaleReferenceError), (wrong, TypeError)):
        records.clear()
        asyncio.run(arena.run(handler, fallback=lambda error: None))
        (record,) = records
        assert record.exc_info
        assert record.exc_info[0] is kind
        assert frames(record)[0] == handler.__name__
        assert (frames(record)[1:] == []) is (kind is StaleReferenceError)


# -- a program of its own ---------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, logging, logging.config, sys
from recoverable import Arena
{configure}
arena = Arena.open({name!r}, size="4 MiB")

async def handler(crash):
    arena.root["a"] = 1
    if crash:
        raise ValueError("a bug")

asyncio.run(arena.run(handler, False))
try:
    asyncio.run(arena.run(handler, True))
except ValueError:
    pass
assert "structlog" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("configure", "written"),
    [
        pytest.param("", ["request.rolled_back arena="], id="nothing"),
        pytest.param(
            "logging.basicConfig(level=logging.INFO, format='%(levelname)s %(name)s: %(message)s')",
            ["INFO recoverable.arena: arena.created arena=", "WARNING recoverable.request: request.rolled_back arena="],
            id="basicConfig",
        ),
        pytest.param(
            "logging.config.dictConfig({'version': 1, 'handlers': {'h': {'class': 'logging.StreamHandler'}}, "
            "'root': {'handlers': ['h'], 'level': 'DEBUG'}})",
            ["arena.created arena=", "request.committed arena=", "request.rolled_back arena="],
            id="dictConfig",
        ),
    ],
)
def test_a_program_sees_its_events_in_its_own_format(name: str, configure: str, written: list[str]) -> None:
    """One that configures nothing sees warnings on standard error; one that configures logging, after the import, what it wants."""
    program = PROGRAM.format(configure=configure, name=name)
    ran = subprocess.run([sys.executable, "-c", program], env=dict(os.environ), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""
    lines = [line for line in ran.stderr.splitlines() if "selector" not in line]  # asyncio's own, at debug
    assert len(lines) == len(written)
    for line, start in zip(lines, written, strict=True):
        assert line.startswith(start)
