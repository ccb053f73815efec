"""What a crashed request leaves in the log of a real server: its traceback once, wherever the program sends its logs."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

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
    client: Client, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Without a configuration ours is one line on standard error, and the traceback stays where logging sends aiohttp's."""
    assert (await client.get("/crash")).status == 500
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert "[warning  ] request.rolled_back" in line
    assert "exception_type=RuntimeError" in line
    (record,) = [record for record in caplog.records if record.name == "aiohttp.server"]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "a bug"


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
