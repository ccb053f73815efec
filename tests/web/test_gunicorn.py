"""Under gunicorn: whatever it does to its workers, the bank's books are those that its clients were told."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

pytest.importorskip("gunicorn")

from recoverable import Arena
from support.gunicorns import ROOT, Gunicorn, Load, serving

pytestmark = [pytest.mark.slow, pytest.mark.crash]


async def replaced(gunicorn: Gunicorn, number: signal.Signals) -> None:
    """End a worker; another takes its place."""
    before = gunicorn.workers()
    gunicorn.signal(before[0], number)
    await gunicorn.answers(1, among=lambda: [pid for pid in gunicorn.workers() if pid not in before])
    assert before[0] not in gunicorn.workers()


async def reloaded(gunicorn: Gunicorn, load: Load) -> None:
    """SIGHUP: new workers, and the old ones end when they have answered."""
    before = gunicorn.workers()
    gunicorn.signal(*gunicorn.masters(), signal.SIGHUP)
    await gunicorn.until(lambda: not set(before) & set(gunicorn.workers()))
    await gunicorn.answers(2)


async def upgraded(gunicorn: Gunicorn, load: Load) -> None:
    """SIGUSR2: a new master with its workers beside the old ones, on the same arena; then the old ones end."""
    (old,) = gunicorn.masters()
    gunicorn.signal(old, signal.SIGUSR2)
    await gunicorn.until(lambda: len(gunicorn.masters()) == 2)
    new = gunicorn.masters()[-1]
    await gunicorn.answers(2, among=lambda: gunicorn.workers(new))
    assert len(gunicorn.workers(old)) == 2
    await load.goes_on()
    gunicorn.signal(old, signal.SIGTERM)
    await gunicorn.until(lambda: gunicorn.masters() == [new])


LOOP, UVLOOP = "aiohttp.GunicornWebWorker", "aiohttp.GunicornUVLoopWebWorker"
#: Each worker class; the arena is opened by the master before it forks, by each worker's import, or in its event loop.
WAYS = [
    pytest.param(["--worker-class", LOOP, "--preload"], reloaded, id="loop-preload-reload"),
    pytest.param(["--worker-class", UVLOOP, "--preload"], upgraded, id="uvloop-preload-upgrade"),
    pytest.param(["--worker-class", LOOP], upgraded, id="loop-upgrade"),
    pytest.param(["--config", str(ROOT / "examples/bank/gunicorn.conf.py")], reloaded, id="example-reload"),
]


@pytest.mark.parametrize(("settings", "then"), WAYS)
async def test_workers_come_and_go(
    settings: list[str],
    then: Callable[[Gunicorn, Load], Awaitable[None]],
    tmp_path: Path,
    name: str,
    seed: int,
) -> None:
    """Workers are killed and replaced under load: no acknowledged transfer is lost, and all of them end when told to."""
    async with serving(tmp_path, name, *settings) as gunicorn:
        load = Load(gunicorn, seed)
        async with load.running():
            await load.goes_on()
            await replaced(gunicorn, signal.SIGKILL)
            await load.goes_on()
            await then(gunicorn, load)
            await load.goes_on()
        await gunicorn.stop()
        load.check()


async def test_workers_retire(tmp_path: Path, name: str, seed: int) -> None:
    """A worker that is aborted or has had `max_requests` is replaced; where the master is killed, all workers end."""
    settings = ["--worker-class", LOOP, "--preload", "--max-requests", "40", "--max-requests-jitter", "20"]
    async with serving(tmp_path, name, *settings) as gunicorn:
        before = gunicorn.workers()
        load = Load(gunicorn, seed)
        async with load.running():
            await replaced(gunicorn, signal.SIGABRT)
            await gunicorn.until(lambda: not set(before) & set(gunicorn.workers()))
            await load.goes_on()
        gunicorn.signal(*gunicorn.masters(), signal.SIGKILL)
        await gunicorn.until(lambda: not gunicorn.workers())
        load.check()


async def test_stop_lets_requests_end(tmp_path: Path, name: str) -> None:
    """SIGTERM waits for the requests in flight, which commit; one that takes longer than `graceful_timeout` is rolled back."""
    settings = ["--worker-class", UVLOOP, "--preload", "--graceful-timeout", "2"]
    async with serving(tmp_path, name, *settings) as gunicorn:
        quick = asyncio.create_task(gunicorn.post("/slow?seconds=1"))
        slow = asyncio.create_task(gunicorn.post("/slow?seconds=60"))
        await gunicorn.until(lambda: gunicorn.log().count("slow begins") == 2)
        await gunicorn.stop()
        assert (await quick, await slow) == (200, 0)
        with Arena.open(name, create=False) as arena:
            assert arena.root["audit"] == {"slow": "1"}


@pytest.mark.parametrize(("step_limit", "timeout"), [("off", "3"), ("1", "60")], ids=["by gunicorn", "by its watchdog"])
async def test_stuck_worker_is_ended_alone(
    step_limit: str, timeout: str, tmp_path: Path, name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is stuck while it has the arena's lock is ended, by the arbiter or before that, and no other one with it."""
    monkeypatch.setenv("RECOVERABLE_STEP_LIMIT", step_limit)
    settings = ["--worker-class", UVLOOP, "--preload", "--timeout", timeout]
    async with serving(tmp_path, name, *settings) as gunicorn:
        before = gunicorn.workers()
        load = Load(gunicorn, seed)
        async with load.running():
            await load.goes_on()
            await gunicorn.post("/stuck", 0.2)
            await gunicorn.until(lambda: set(before) - set(gunicorn.workers()))
            await load.goes_on()
            await gunicorn.answers(2)
            assert len(set(before) & set(gunicorn.workers())) == 1
        assert gunicorn.log().count("WORKER TIMEOUT") == (step_limit == "off")
        await gunicorn.stop()
        load.check()
