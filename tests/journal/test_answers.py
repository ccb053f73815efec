"""What an answer under durable="disk" needs, and what becomes of those that can't be sure: refused, gated, in doubt, counted."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from aiohttp import web

from recoverable import Arena, InDoubtError, JournalError, after_commit, recoverable
from recoverable._native import _switches
from recoverable._native import feed as native_feed
from recoverable._native import journal as native_journal
from recoverable.aiohttp import setup
from support.children import child
from support.web import application, ok, serving

WRITE, SYNC = _switches.FAIL_WRITE, _switches.FAIL_SYNC

in_test_builds = pytest.mark.skipif(not _switches.test_build(), reason="needs a build with -Dcrashpoints=true")


@pytest.fixture
def arena(name: str, folder: str) -> Iterator[Arena]:
    """Give an arena whose answers wait for the disk, with a committed n."""
    with Arena.temporary("16 MiB", name=name, journal=folder, durable="disk", busy_timeout=5.0) as made:
        with made.transaction():
            made.root["n"] = 0
        asyncio.run(made.durable())
        yield made


def is_durable(arena: Arena) -> bool:
    """Return whether all that is committed is on the disk."""
    state = native_feed.state(arena.native)
    assert state is not None
    return native_journal.durable(arena.native) >= state[4]


def commit_undurably(arena: Arena, value: int = 1) -> None:
    """Commit what is not on the disk before 100 ms have passed."""
    _switches.fail_at(WRITE, 1)
    with arena.transaction():
        arena.root["n"] = value
    assert not is_durable(arena)


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Have each write to a journal fail, as on a full disk, for as long as the block runs."""
    ends = threading.Event()
    _switches.fail_at(WRITE, 1)

    def run() -> None:
        while not ends.wait(0.01):
            _switches.fail_at(WRITE, 1)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()
        _switches.fail_at(WRITE, 0)


# -- without a journal -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["disk", "journal"])
@pytest.mark.parametrize("how", ["decorated", "resolved", "run", "joined", "independent"])
async def test_without_a_journal_it_is_refused_before_anything_runs(
    new_name: Callable[[], str], level: Literal["disk", "journal"], how: str
) -> None:
    """A handler that is to be more durable than its arena can be changes nothing, and says what to do."""
    ran = []
    with Arena.temporary("16 MiB", name=new_name()) as arena:

        async def put() -> None:
            ran.append(1)
            arena.root["n"] = 1

        async def outer() -> None:
            nested: Literal["join", "independent"] = "independent" if how == "independent" else "join"
            await recoverable(durable=level, nested=nested)(put)()

        with pytest.raises(JournalError, match=r"Nothing was run\. Open the arena with journal="):
            if how == "decorated":
                await recoverable(arena=arena, durable=level)(put)()
            elif how == "resolved":
                await recoverable(durable=level, fallback=lambda error: ran.append(2))(put)()
            elif how == "run":
                await arena.run(put, durable=level)
            else:
                await arena.run(outer)
        assert ran == []
        assert "n" not in arena.root
        await recoverable(durable="memory")(put)()
        assert arena.root["n"] == 1


async def test_an_application_without_a_journal_is_refused_at_its_setup(new_name: Callable[[], str]) -> None:
    """setup(durable=) says so before a request comes; a handler's own level, before it runs."""
    arena = Arena.open(new_name(), "16 MiB")
    with pytest.raises(JournalError, match="Nothing was changed"):
        setup(web.Application(), arena, durable="disk", step_limit=7.0)
    assert arena.step_limit is None

    @recoverable(durable="disk")
    async def put(request: web.Request) -> web.Response:
        arena.root["n"] = 1
        return ok()

    async with serving(application(arena, {"/": put})) as client:
        assert (await client.post("/")).status == 500
        assert "n" not in arena.root
    Arena.unlink(arena.name)


# -- durable(seq) ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seq", [-1, -(2**70), 2**62, 2**70])
async def test_a_number_that_no_commit_has_is_a_value_error(arena: Arena, seq: int) -> None:
    """Nothing is waited for, and the message has the last one's number."""
    with pytest.raises(ValueError, match="no commit that there was: the last one is"):
        await arena.durable(seq=seq)


@pytest.mark.parametrize("seq", ["1", 1.0, True, b""])
async def test_what_is_no_number_is_a_type_error(arena: Arena, seq: Any) -> None:
    """A float is none either, though it compares."""
    with pytest.raises(TypeError, match="give an int"):
        await arena.durable(seq=seq)


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "5", True])
async def test_what_is_no_time_is_a_value_error(arena: Arena, timeout: Any) -> None:
    """Also where there is nothing to wait for."""
    with pytest.raises(ValueError, match=r"timeout=.* is not a time.* Nothing was waited for"):
        await arena.durable(timeout=timeout)


# -- what a fallback tells ----------------------------------------------------------------------------------------------------


class TeapotError(Exception):
    """What these handlers fail by."""


@in_test_builds
@pytest.mark.parametrize("how", ["answers", "raises", "reads", "after a timeout"])
async def test_what_a_fallback_tells_is_durable(arena: Arena, how: str) -> None:
    """It has the run's exception, and reads itself: its answer waits for both, whether it returns or raises."""

    def fall_back(error: Exception) -> int:
        if how == "raises":
            raise web.HTTPConflict(text=str(error))
        if how == "answers":
            return int(str(error))
        return arena.root["n"]

    async def get() -> int:
        if how == "after a timeout":
            seen.append(arena.root["n"])
            await asyncio.sleep(30)
        if how != "reads":
            raise TeapotError(arena.root["n"])
        raise TeapotError

    seen: list[int] = []
    commit_undurably(arena)
    limit = {"timeout": 0.01} if how == "after a timeout" else {}
    call = recoverable(arena=arena, fallback=fall_back, **limit)(get)  # type: ignore[call-overload]
    if how == "raises":
        with pytest.raises(web.HTTPConflict):
            await call()
    else:
        assert await call() == 1
    assert is_durable(arena)


@in_test_builds
async def test_a_fallback_that_can_not_be_sure_is_in_doubt(arena: Arena) -> None:
    """Where the disk has failed its answer is an InDoubtError, as its handler's would be."""

    async def get() -> int:
        raise TeapotError

    _switches.fail_at(SYNC, 1)
    with arena.transaction():
        arena.root["n"] = 1
    with pytest.raises(InDoubtError):
        await recoverable(arena=arena, fallback=lambda error: arena.root["n"])(get)()
    assert arena.stats().in_doubt == 1
    assert await recoverable(arena=arena, durable="journal", fallback=lambda error: arena.root["n"])(get)() == 1


# -- at the end -----------------------------------------------------------------------------------------------------------------


@pytest.mark.crash
@pytest.mark.parametrize("who", ["request", "durable", "thread"])
def test_who_waits_when_the_arena_is_closed_is_in_doubt(
    name: str, folder: str, who: str, log: list[dict[str, Any]]
) -> None:
    """What is not written by then is in doubt: an InDoubtError, which says that it was closed; so are its callbacks."""
    ready, is_ready = os.pipe()
    called: list[int] = []

    def serve() -> None:
        with Arena.open(name, "16 MiB", journal=folder):
            os.write(is_ready, b".")
            signal.pause()

    async def put() -> None:
        arena.root["n"] = 1
        after_commit(called.append, 1)

    def driven_by_hand() -> None:
        with contextlib.suppress(StopIteration):
            arena.durable().send(None)

    async def main() -> None:
        task = asyncio.create_task(arena.run(put, durable="disk" if who == "request" else "journal"))
        await asyncio.sleep(0.02)
        if who == "request":
            waits: asyncio.Future[Any] = task
        elif who == "durable":
            waits = asyncio.ensure_future(arena.durable())
        else:
            waits = asyncio.get_running_loop().run_in_executor(None, driven_by_hand)
        await asyncio.sleep(0.05)
        arena.close()
        with pytest.raises(InDoubtError, match=r"closed first\. It is not undone"):
            await waits
        await asyncio.sleep(0.01)

    with child(serve) as pid:  # it writes, and stands still
        os.read(ready, 1)
        arena = Arena.open(name, journal=folder, busy_timeout=20.0)
        len(arena.root)
        os.kill(pid, signal.SIGSTOP)
        try:
            asyncio.run(main())
        finally:
            os.kill(pid, signal.SIGKILL)
    if who == "request":
        assert called == []
        (told,) = (event for event in log if event["event"] == "after_commit.failed")
        assert isinstance(told["exc_info"][1], InDoubtError)
    with Arena.open(name, journal=folder) as arena:  # as the message says
        asyncio.run(arena.durable())
        assert arena.root["n"] == 1
    Arena.unlink(name)
    for fd in ready, is_ready:
        os.close(fd)


@in_test_builds
def test_callbacks_that_nobody_waits_for_any_more_are_in_doubt(
    name: str, folder: str, log: list[dict[str, Any]]
) -> None:
    """A request that is cancelled at the gate, and whose loop ends before the disk goes on."""
    with Arena.temporary("16 MiB", name=name, journal=folder, durable="disk") as arena:

        async def put() -> None:
            arena.root["n"] = 1
            after_commit(print)

        async def main() -> None:
            task = asyncio.create_task(arena.run(put))
            while "n" not in arena.root:  # noqa: ASYNC110 -- nothing tells of it before it is durable
                await asyncio.sleep(0.001)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.01)

        with full_disk():
            asyncio.run(main())
    (told,) = (event for event in log if event["event"] == "after_commit.failed")
    assert isinstance(told["exc_info"][1], InDoubtError)


@in_test_builds
def test_who_waits_in_a_thread_learns_what_closing_has_written(name: str, folder: str) -> None:
    """Closing waits for the threads that wait, and they for what it writes."""
    arena = Arena.open(name, "16 MiB", journal=folder, busy_timeout=20.0)
    _switches.fail_at(WRITE, 1)  # it is tried again 100 ms later
    with arena.transaction():
        arena.root["n"] = 1
    ended: list[Any] = []

    def wait() -> None:
        coroutine = arena.durable()
        try:
            coroutine.send(None)
        except BaseException as error:
            ended.append(error)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.03)
    arena.close()
    for thread in threads:
        thread.join()
    assert [type(error) for error in ended] == [StopIteration] * 4, ended
    Arena.unlink(name)


# -- what is seen of it ----------------------------------------------------------------------------------------------------------


@in_test_builds
async def test_who_stands_at_the_gate_is_listed(arena: Arena) -> None:
    """A request that waits for the disk is in flight, and says what it waits for."""

    async def get() -> Any:
        return arena.root["n"]

    commit_undurably(arena)
    task = asyncio.create_task(arena.run(get))
    await asyncio.sleep(0.02)
    (request,) = arena.requests()
    assert (request.waits_for, request.handler.rpartition(".")[2]) == ("disk", "get")
    assert request.waited > 0
    assert await task == 1
    assert arena.requests() == []
    assert arena.stats().in_doubt == 0


@in_test_builds
async def test_one_that_waits_for_long_is_held_up(arena: Arena, log: list[dict[str, Any]]) -> None:
    """It has its event, as whoever waits for others."""

    async def get() -> Any:
        return arena.root["n"]

    with full_disk():
        with arena.transaction():
            arena.root["n"] = 1
        task = asyncio.create_task(arena.run(get))
        await asyncio.sleep(0.2)
        assert not task.done()
    assert await task == 1
    (told,) = (event for event in log if event["event"] == "request.held_up")
    assert told["waits_for"] == "disk"


@in_test_builds
async def test_requests_in_doubt_are_counted(arena: Arena) -> None:
    """In stats and in metrics: one each, whether it has committed or only read."""
    prometheus = pytest.importorskip("prometheus_client")
    from recoverable import metrics

    registry = prometheus.CollectorRegistry()
    metrics.register(registry)

    async def put() -> None:
        arena.root["n"] = 1

    async def get() -> Any:
        return arena.root["n"]

    _switches.fail_at(SYNC, 1)
    for run in put, get, put:
        with pytest.raises(InDoubtError):
            await arena.run(run)
    await arena.run(get, durable="memory")
    assert arena.stats().in_doubt == 3
    assert registry.get_sample_value("recoverable_requests_in_doubt_total", {"arena": arena.name}) == 3


async def test_who_waits_for_room_is_listed(new_name: Callable[[], str]) -> None:
    """A request in its loop, and a block whose thread stands still."""
    with Arena.temporary("16 MiB", name=new_name(), feed="256 KiB", busy_timeout=0.5) as arena:
        with arena.transaction():
            arena.root["d"] = {}
        native_feed.open_sink(arena.native, "keeper", True)

        async def put() -> None:
            arena.root["d"]["a"] = bytes(range(256)) * 800

        def block() -> None:
            with arena.transaction(), contextlib.suppress(KeyError):
                arena.root["d"]["b"] = bytes(range(256)) * 800

        await arena.run(put)
        tasks = [asyncio.create_task(arena.run(put)), asyncio.create_task(asyncio.to_thread(block))]
        await asyncio.sleep(0.1)
        listed = {(each.what, each.waits_for) for each in arena.requests()}
        assert listed == {("request", "feed"), ("block", "feed")}
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.slow
async def test_large_writes_get_their_turn(name: str, folder: str) -> None:
    """Where the ring is always nearly full, whoever waits for room gets it before those who have just committed."""
    native_journal.file_size(8 * 1024**2)
    with Arena.temporary("16 MiB", name=name, feed="512 KiB", journal=folder, busy_timeout=1.0) as arena:
        ends = time.monotonic() + 3.0

        async def puts(key: str) -> None:
            async def put() -> None:
                arena.root[key] = os.urandom(200_000)

            while time.monotonic() < ends:
                await arena.run(put)

        await asyncio.gather(*(puts(f"k{i}") for i in range(8)))
