"""The pytest plugin, as users have it: a test file of theirs, run by a pytest of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.crash]

FILE = """
import asyncio

import pytest
from aiohttp import web

from recoverable import Arena, recoverable
from recoverable.aiohttp import setup

K = web.AppKey("arena", Arena)


@pytest.fixture
def arena():
    with Arena.temporary("4 MiB") as arena:
        with arena.transaction():
            arena.root["a"], arena.root["b"] = 100, 0
        yield arena


@recoverable
async def pay(request):
    root = request.app[K].root
    root["a"] -= 10
    await asyncio.sleep(0)
    root["b"] += 10
    return web.Response(text="ok")


async def forgets(request):
    arena = request.app[K]
    with arena.transaction():
        arena.root["a"] -= 10
    await asyncio.sleep(0)
    with arena.transaction():
        arena.root["b"] += 10
    return web.Response(text="ok")


@pytest.fixture
async def client(arena, aiohttp_client):
    app = web.Application()
    app[K] = arena
    app.add_routes([web.post("/pay", pay), web.post("/forgets", forgets)])
    setup(app, Arena.open(arena.name))
    return await aiohttp_client(app)


"""
SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings =
    error
    ignore:Module already imported so cannot be rewritten
    ignore:This process .* is multi-threaded, use of fork:DeprecationWarning
"""

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a test file that begins with FILE; give what pytest printed."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")

    def run(tests: str, *options: str, **environment: str) -> str:
        (tmp_path / "pytest.ini").write_text(SETTINGS)
        (tmp_path / "test_it.py").write_text(FILE + tests)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "test_it.py"],
            cwd=tmp_path,
            # Without this, each of them would rewrite the asserts of all plugins anew.
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=100,
            check=False,
        )
        return done.stdout

    return run


def test_a_sound_handler_passes_as_one_test(run: Run) -> None:
    """Each point of all kinds is run, with fresh fixtures, kills included; it counts as one test that passed."""
    out = run(
        """
seen = []

@pytest.fixture
def fresh():
    seen.append("set up")
    yield
    seen.append("torn down")

@pytest.fixture(scope="module")
def shared():
    seen.append("module")

async def test_pay(faults, client, fresh, shared):
    if faults.plan.deadly:
        before = len(seen)
    async with faults:
        await client.post("/pay")
    if faults.plan.deadly:
        assert faults.killed
        assert faults.struck
        assert len(seen) == before
    assert faults.arena.root["a"] + faults.arena.root["b"] == 100

def test_after():
    assert seen.count("set up") == seen.count("torn down") > 40
    assert seen.count("module") == 1
""",
        "-v",
    )
    assert re.search(r"2 passed in", out), out
    assert "test_pay PASSED" in out
    assert re.search(
        r"points \(tried of reached\): line 5 of 5, await 1 of 1, resume 1 of 1, write 2 of 2, alloc 3 of 3, commit 1 of 1, "
        r"phase 12 of 12\n *outcomes: rolled back \d+, committed \d+",
        out,
    ), out


def test_a_bug_is_one_failure_with_the_command_that_repeats_it(run: Run) -> None:
    """The smallest case is what fails; its command runs that case alone and fails the same way."""
    tests = """
@pytest.mark.faults(points=["line", "await", "kill"])
async def test_forgets(faults, client):
    async with faults:
        await client.post("/forgets")

@pytest.mark.faults(points="await", atomic=False)
async def test_own_assertion(faults, client):
    async with faults:
        await client.post("/forgets")
    assert faults.arena.root["a"] + faults.arena.root["b"] == 100
"""
    out = run(tests)
    assert "2 failed in" in out, out
    assert "the state is neither that before nor that after" in out
    assert "cancel at await:1 (test_it.py:" in out
    assert "assert (90 + 0) == 100" in out
    command = re.search(r"again: python -m pytest test_it.py::test_forgets (--faults-replay=phase:4=kill)", out)
    assert command or "and " in out, out
    again = run(tests, "-k", "test_forgets", "--faults-replay=phase:4=kill")
    assert "kill at phase:4 (" not in again.split("FAILURES")[0]
    assert "1 failed, 1 deselected" in again, again
    assert "explored test_it.py::test_forgets: 3 runs" in again
    by_variable = run(tests, "-k", "test_forgets", RECOVERABLE_FAULTS_REPLAY="phase:1=kill")
    assert "1 passed, 1 deselected" in by_variable, by_variable


def test_what_strikes_in_the_block_stays_there(run: Run) -> None:
    """What the fault raises is kept and goes no further; what the test itself raises without a fault does."""
    out = run("""
from recoverable.faults import Disconnect, InjectedFault, Raise

@recoverable
async def work(arena):
    arena.root["a"] -= 1
    await asyncio.sleep(0)
    arena.root["b"] += 1

errors = set()

@pytest.mark.faults(points=["line", "await", "conflict"])
async def test_directly(faults, arena):
    async with faults:
        await work(arena)
    errors.add(type(faults.error).__name__)
    assert arena.root["a"] + arena.root["b"] == 100
    assert faults.struck == bool(faults.plan.steps)

def test_errors():
    assert errors == {"NoneType", "InjectedFault", "CancelledError", "TimeoutError"}

@pytest.mark.faults(points="await", faults={"await": [Disconnect()]})
async def test_nobody_to_hang_up_on(faults, arena):
    async with faults:
        await work(arena)
    assert not faults.struck

@pytest.mark.faults(points="write", faults={"write": [Raise(KeyError)]})
def test_plain(faults, arena):
    with faults:
        with arena.transaction():
            arena.root["a"] = 1
    assert isinstance(faults.error, KeyError) == bool(faults.plan.steps)

async def test_own_error(faults, arena):
    async with faults:
        raise LookupError("the test's own")

async def test_never_entered(faults):
    pass

async def test_entered_twice(faults, arena):
    async with faults:
        pass
    async with faults:
        pass

@pytest.mark.skip(reason="not today")
async def test_skipped(faults):
    pass

@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.faults(points="write")
def test_parameters(faults, arena, n):
    with faults:
        with arena.transaction():
            arena.root["a"] = n
""")
    assert "3 failed, 6 passed, 1 skipped in" in out, out
    assert out.count("not covered") == 1
    assert "the fault did not strike (a disconnect needs a request): disconnect at await:1" in out
    assert "LookupError: the test's own" in out
    assert "the test never entered `with faults:`" in out
    assert "a test enters `faults` once" in out


def test_kills_on_uvloop(run: Run) -> None:
    """A child that is forked within a running uvloop dies in the block; the test's own connection is good behind it."""
    out = run(
        """
import uvloop

@pytest.fixture(scope="session")
def event_loop_policy():
    return uvloop.EventLoopPolicy()

killed = []

@pytest.mark.faults(points="kill")
async def test_pay(faults, client):
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    async with client.post("/pay") as response:
        assert response.status == 200
    async with faults:
        async with client.post("/pay") as response:
            await response.read()
    assert faults.arena.root["a"] + faults.arena.root["b"] == 100
    killed.append(faults.killed)
    async with client.post("/pay") as response:
        assert response.status == 200

def test_after():
    assert killed.count(False) == 2 and killed.count(True) > 20
""",
        "-W",
        "ignore:Overriding the:pytest.PytestDeprecationWarning",
    )
    assert "2 passed in" in out, out


def test_a_second_fault_and_limits(run: Run) -> None:
    """depth=2 finds the bug in what mends a failure; max_points takes a sample and says so."""
    out = run(
        """
def mend(arena):
    try:
        with arena.transaction():
            arena.root["a"] -= 10
            arena.root["b"] += 10
    except BaseException:
        with arena.transaction():
            arena.root["a"] -= 1
        with arena.transaction():
            arena.root["a"] += 1

@pytest.mark.faults(points="write")
def test_one(faults, arena):
    with faults:
        mend(arena)

@pytest.mark.faults(points="write", depth=2)
def test_two(faults, arena):
    with faults:
        mend(arena)

@pytest.mark.faults(points=["kill"], depth=2, max_points=30)
def test_recovery(faults, arena):
    with faults:
        with arena.transaction():
            arena.root["a"] -= 10
            arena.root["b"] += 10
"""
    )
    assert "1 failed, 2 passed in" in out, out
    assert re.search(r"--faults-replay=write:\d=raise\+write:\d=raise", out), out
    assert re.search(r"test_recovery: 32 runs.*\n  left out by max_points: \d+ runs", out), out


def test_misuse_is_named(run: Run) -> None:
    """A wrong marker, no arena, a body on the same line: each is that test's own error and says what to do."""
    out = run("""
@pytest.mark.faults(points=["wrong"])
def test_points(faults, arena):
    pass

@pytest.mark.faults(point="line")
def test_option(faults, arena):
    pass

def test_arena(faults):
    with faults:
        pass

def change(arena):
    with arena.transaction():
        arena.root["a"] = 1

@pytest.mark.faults(points="kill")
def test_line(faults, arena):
    with faults: change(arena)

def test_good():
    pass
""")
    assert "there are no points 'wrong'" in out
    assert "the marker `faults` takes atomic, depth" in out
    assert "which arena is it" in out
    assert "must begin on a line of its own" in out
    assert "2 failed, 1 passed, 2 errors in" in out, out
    assert "there is no place 'row'" in run("def test_x(faults): pass", "--faults-replay=row:1=raise")


ASGI = """
import asyncio

import httpx
import pytest
from fastapi import FastAPI
from recoverable import Arena, recoverable
from recoverable.fastapi import setup
from recoverable.faults.asgi import serving


@pytest.fixture
def arena():
    with Arena.temporary("4 MiB") as arena:
        with arena.transaction():
            arena.root["a"], arena.root["b"] = 100, 0
        yield arena


def make_app(arena):
    app = FastAPI()

    @app.post("/pay")
    @recoverable
    async def pay():
        arena.root["a"] -= 10
        await asyncio.sleep(0)
        arena.root["b"] += 10

    @app.post("/plain")
    @recoverable
    def plain():
        arena.root["a"] -= 10
        arena.root["b"] += 10

    @app.post("/forgets")
    async def forgets():
        with arena.transaction():
            arena.root["a"] -= 10
        await asyncio.sleep(0)
        with arena.transaction():
            arena.root["b"] += 10

    setup(app, Arena.open(arena.name))
    return app


@pytest.fixture
async def client(arena):
    async with serving(make_app(arena)) as client:
        yield client


@pytest.mark.parametrize("path", ["/pay", "/plain"])
async def test_sound(faults, client, path):
    await client.post("/warm-up")
    async with faults:
        await client.post(path)
    assert faults.arena.root["a"] + faults.arena.root["b"] == 100


async def test_a_client_of_its_own(faults, arena):
    app = make_app(arena)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        async with faults:
            await client.post("/pay")
    assert arena.root["a"] + arena.root["b"] == 100


async def test_plain_twice(faults, client):
    await client.post("/plain")                          # its thread is not there in a child
    async with faults:
        await client.post("/plain")


async def test_forgets(faults, client):
    async with faults:
        await client.post("/forgets")
"""


def test_asgi_applications(run: Run) -> None:
    """What `serving` gives is a client as any other's, and so is one of the test's own; a mistake is found there too."""
    out = run(ASGI, "-v")
    assert "1 failed, 4 passed" in out, out
    assert "--faults-replay=await:1=cancel" in out
