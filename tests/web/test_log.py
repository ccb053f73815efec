"""What a crashed request leaves in the log of a real server: its traceback once, wherever the program sends its logs."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from recoverable import Arena, recoverable
from recoverable.aiohttp import setup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

Client = TestClient[Any, Any]


@pytest.fixture
def told() -> Iterator[io.StringIO]:
    """Configure structlog to JSON; give what it writes."""
    written = io.StringIO()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(written),
    )
    yield written
    structlog.reset_defaults()


@pytest.fixture
async def client(name: str) -> AsyncIterator[Client]:
    """Serve one handler that crashes in a transaction and one that does outside."""
    with Arena.temporary("16 MiB", name=name) as arena:
        app = web.Application()

        @recoverable
        async def crash(request: web.Request) -> web.Response:
            arena.root["stock"] = 1
            await asyncio.sleep(0)
            raise RuntimeError("a bug")

        async def plain(request: web.Request) -> web.Response:
            raise RuntimeError("another bug")

        app.add_routes([web.get("/crash", crash), web.get("/plain", plain)])
        setup(app, Arena.open(name))
        async with TestClient(TestServer(app)) as opened:
            yield opened


async def test_a_configured_program_sees_the_traceback_in_the_event_only(
    client: Client, told: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    """The event has traceback, request id, attempt and what was undone; aiohttp's record is one line that points to it."""
    response = await client.get("/crash", headers={"X-Request-ID": "abc-7"})
    assert response.status == 500
    (event,) = map(json.loads, told.getvalue().splitlines())
    assert event["event"] == "request.rolled_back"
    assert (event["level"], event["request_id"], event["attempt"]) == ("warning", "abc-7", 1)
    assert event["bytes"] > 0
    assert event["pages"] == 0  # nothing raw was written
    assert event["exception"].count("Traceback") == 1
    assert event["exception"].endswith("RuntimeError: a bug")
    (record,) = [record for record in caplog.records if record.name == "aiohttp.server"]
    assert record.levelno == logging.ERROR
    assert record.exc_info is None
    assert record.getMessage() == (
        "Error handling request from 127.0.0.1: RuntimeError; see request.rolled_back, request_id=abc-7"
    )


async def test_an_unconfigured_program_sees_the_traceback_in_aiohttps_record_only(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a structlog ours is a record of one line, and the traceback stays in aiohttp's, an error."""
    assert (await client.get("/crash", headers={"X-Request-ID": "abc-7"})).status == 500
    ours, theirs = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (ours.name, ours.levelno, ours.exc_info) == ("recoverable.request", logging.WARNING, None)
    assert "exception_type=RuntimeError" in ours.getMessage()
    assert ours.__dict__["request_id"] == "abc-7"
    assert (theirs.name, theirs.levelno) == ("aiohttp.server", logging.ERROR)
    assert theirs.exc_info is not None
    assert str(theirs.exc_info[1]) == "a bug"


@pytest.mark.parametrize("protect", ["decorated", "all"])
async def test_aiohttps_traceback_has_no_frames_of_ours(
    arena: Arena, caplog: pytest.LogCaptureFixture, protect: Literal["decorated", "all"]
) -> None:
    """Nothing of the library stands between aiohttp's frames and the handler's."""

    @recoverable(timeout=60)
    async def crash(request: web.Request) -> web.Response:
        arena.root["stock"] = 1
        await asyncio.sleep(0)
        raise RuntimeError("a bug")

    app = web.Application()
    app.add_routes([web.get("/", crash)])
    setup(app, Arena.open(arena.name), protect=protect)
    async with TestClient(TestServer(app)) as opened:
        assert (await opened.get("/")).status == 500
    (record,) = [record for record in caplog.records if record.name == "aiohttp.server"]
    assert record.exc_info
    files = [frame.filename for frame in traceback.extract_tb(record.exc_info[2])]
    assert files[-1] == __file__
    assert not [
        file for file in files if "recoverable/" in file.rpartition("tests/")[2] and "site-packages" not in file
    ]
    assert all("/aiohttp/" in file for file in files[:-1])


# -- what is no crash -------------------------------------------------------------------------------------------------


@pytest.fixture
async def busy(arena: Arena) -> AsyncIterator[Client]:
    """Serve one handler that always loses its conflict, and one that finds no room."""

    async def other(value: int) -> None:
        arena.root["n"] = value

    @recoverable(max_conflicts=1)
    async def lose(request: web.Request) -> web.Response:
        value = arena.root.get("n", 0)
        await asyncio.create_task(arena.run(other, value + 1))
        arena.root["n"] = value
        return web.Response()

    @recoverable
    async def fill(request: web.Request) -> web.Response:
        arena.root["a"] = 1
        arena.root["b"] = b"x" * 20_000_000
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/lose", lose), web.get("/fill", fill)])
    setup(app, Arena.open(arena.name))
    async with TestClient(TestServer(app)) as opened:
        yield opened


@pytest.mark.parametrize("configured", [False, True])
async def test_a_conflicts_503_is_no_error(
    busy: Client, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest, configured: bool
) -> None:
    """Neither ours nor aiohttp's: the last run's event is a warning without an exception, those before are info."""
    told = request.getfixturevalue("told") if configured else None
    caplog.set_level(logging.INFO)
    response = await busy.get("/lose")
    assert response.status == 503
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR or r.exc_info] == []
    if told is None:
        levels = [r.levelname.lower() for r in caplog.records if r.__dict__.get("event") == "request.conflict"]
    else:
        events = [e for e in map(json.loads, told.getvalue().splitlines()) if e["event"] == "request.conflict"]
        levels = [e["level"] for e in events]
        assert not any("exception" in e for e in events)
    assert levels == ["info", "warning"]


@pytest.mark.parametrize("configured", [False, True])
async def test_a_full_arenas_507_is_one_error(
    busy: Client, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest, configured: bool
) -> None:
    """It says which request, and has the traceback, which nobody else would show."""
    told = request.getfixturevalue("told") if configured else None
    assert (await busy.get("/fill", headers={"X-Request-ID": "abc-7"})).status == 507
    records = [r for r in caplog.records if r.levelno >= logging.WARNING]
    if told is None:
        (record,) = records
        assert (record.levelname, record.__dict__["event"]) == ("ERROR", "arena.full")
        assert record.__dict__["request_id"] == "abc-7"
        assert record.exc_info
        assert [frame.name for frame in traceback.extract_tb(record.exc_info[2])] == ["fill"]
    else:
        assert records == []
        (event,) = [e for e in map(json.loads, told.getvalue().splitlines()) if e["level"] in ("warning", "error")]
        assert (event["event"], event["level"], event["request_id"]) == ("arena.full", "error", "abc-7")
        assert event["exception"].count("Traceback") == 1


SENTRY = """
import asyncio
import sentry_sdk
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from recoverable import Arena, recoverable
from recoverable.aiohttp import setup
from sentry_sdk.integrations.aiohttp import AioHttpIntegration
from sentry_sdk.transport import Transport

issues = []

class Keeps(Transport):
    def capture_envelope(self, envelope):
        issues.extend(item.payload.json for item in envelope.items if item.headers.get("type") == "event")

init = sentry_sdk.init
sentry_sdk.init = lambda **options: init("http://a@127.0.0.1:9/1", transport=Keeps, **options)
{hook}
arena = Arena.open({name!r}, size="16 MiB")

async def other(value):
    arena.root["n"] = value

@recoverable(max_conflicts=1)
async def lose(request):
    value = arena.root.get("n", 0)
    await asyncio.create_task(arena.run(other, value + 1))
    arena.root["n"] = value

@recoverable
async def fill(request):
    arena.root["n"] = 1
    arena.root["b"] = b"x" * 20_000_000

@recoverable
async def crash(request):
    arena.root["n"] = 1
    raise RuntimeError("a bug")

app = web.Application()
app.add_routes([web.get("/" + handler.__name__, handler) for handler in (lose, fill, crash)])
setup(app, arena)

async def main():
    async with TestClient(TestServer(app)) as client:
        for path in ("/lose", "/fill", "/crash"):
            issues.clear()
            status = (await client.get(path)).status
            print(path, status, len(issues), [issue["exception"]["values"][-1]["type"] for issue in issues])

asyncio.run(main())
"""


@pytest.mark.slow
def test_sentry_has_an_issue_of_what_is_one(name: str) -> None:
    """As docs/events.md has it: one of a crash, one of a full arena, none of a conflict."""
    pytest.importorskip("sentry_sdk")
    page = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
    hook = next(
        block for block in re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) if "sentry" in block
    )
    program = SENTRY.format(name=name, hook=hook)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines() == [
        "/lose 503 0 []",
        "/fill 507 1 ['ArenaFullError']",
        "/crash 500 1 ['RuntimeError']",
    ], ran.stderr


# -- a crash that is no transaction's ---------------------------------------------------------------------------------


async def test_what_was_no_transaction_keeps_its_traceback(
    client: Client, told: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    """The record of a crash that no event tells of is left as it is."""
    assert (await client.get("/plain")).status == 500
    assert told.getvalue() == ""
    (record,) = [record for record in caplog.records if record.name == "aiohttp.server"]
    assert record.exc_info is not None
    assert record.getMessage() == "Error handling request from 127.0.0.1"


@pytest.mark.slow
@pytest.mark.parametrize("configure", ["", "import structlog; structlog.configure()"])
def test_a_terminal_shows_one_traceback(name: str, configure: str) -> None:
    """A program as a newcomer writes it, with and without a configured structlog, prints the crash once, and no more."""
    program = f"""
import asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from recoverable import Arena, recoverable
from recoverable.aiohttp import setup
{configure}
arena = Arena.open({name!r}, "16 MiB")

@recoverable
async def buy(request):
    arena.root["stock"] = 1
    raise RuntimeError("a bug")

app = web.Application()
app.router.add_get("/", buy)
setup(app, arena)

async def main():
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/")).status == 500

asyncio.run(main())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    printed = ran.stdout + ran.stderr
    assert printed.count("Traceback") == 1
    assert printed.count("RuntimeError: a bug") == 1
    assert printed.count("request.rolled_back ") == 1
