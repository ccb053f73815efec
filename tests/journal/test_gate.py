"""What an answer under durable="disk" waits for, and what becomes of it where the disk fails."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from recoverable import Arena, Array, after_commit, recoverable
from recoverable._native import _switches
from recoverable._native import feed as native_feed
from recoverable._native import journal as native_journal
from recoverable.errors import ArenaOptionError, InDoubtError, JournalError, TransactionError
from support.children import child
from support.forks import in_child
from support.web import application, ok, serving

WRITE, SYNC = _switches.FAIL_WRITE, _switches.FAIL_SYNC

in_test_builds = pytest.mark.skipif(not _switches.test_build(), reason="needs a build with -Dcrashpoints=true")


@pytest.fixture
def arena(name: str, folder: str) -> Iterator[Arena]:
    """Give an arena whose answers wait for the disk; for half a second at most."""
    with Arena.temporary("16 MiB", name=name, journal=folder, durable="disk", busy_timeout=0.5) as made:
        yield made


def is_durable(arena: Arena) -> bool:
    """Return whether all that is committed is on the disk."""
    state = native_feed.state(arena.native)
    assert state is not None
    return native_journal.durable(arena.native) >= state[4]


async def test_an_answer_waits_for_the_disk(arena: Arena) -> None:
    """Whatever way a request is asked for: when it is answered, what it did is durable."""

    @recoverable(arena=arena)
    async def put(value: int) -> int:
        arena.root["n"] = value
        return value

    async def plain() -> None:
        arena.root["n"] += 1

    for i in range(20):
        assert await put(i) == i
        assert is_durable(arena)
        await arena.run(plain)
        assert is_durable(arena)
    assert await asyncio.gather(*(put(i) for i in range(20))) == list(range(20))
    assert is_durable(arena)


async def test_who_does_not_ask_does_not_wait(arena: Arena) -> None:
    """A handler that says "journal" or "memory" is answered at once, and is durable soon after."""

    @recoverable(arena=arena, durable="memory")
    async def put(value: int) -> None:
        arena.root["n"] = value

    waited = 0
    for i in range(200):
        await put(i)
        waited += is_durable(arena)
    assert waited < 150
    await arena.durable()
    assert is_durable(arena)


@in_test_builds
async def test_who_has_only_read_waits_for_what_was_read(arena: Arena) -> None:
    """What a request read must be durable before its answer: another's commit may not be yet."""

    @recoverable(arena=arena)
    async def get() -> Any:
        return arena.root.get("n")

    assert await get() is None
    _switches.fail_at(WRITE, 1)
    with arena.transaction():
        arena.root["n"] = 1
    assert not is_durable(arena)
    assert await get() == 1
    assert is_durable(arena)


async def test_levels_that_can_not_be(arena: Arena, new_name: Any) -> None:
    """A level that does not exist, and one that needs a journal where there is none, are refused by name."""
    with pytest.raises(ArenaOptionError, match="must be 'memory', 'journal' or 'disk'"):
        recoverable(durable="replicated")(lambda: None)  # type: ignore[type-var]
    with Arena.temporary("16 MiB", name=new_name()) as other:
        assert other.durability == "memory"
        with pytest.raises(JournalError, match="opened without a journal"):
            other.durability = "disk"
        with pytest.raises(JournalError, match="opened without a journal"):
            await other.durable()
    assert arena.durability == "disk"
    arena.durability = "journal"
    assert arena.durability == "journal"


# -- where the disk fails ------------------------------------------------------------------------------------------------


@in_test_builds
async def test_a_failed_flush_ends_it_and_who_waits_is_told(
    arena: Arena, folder: str, log: list[dict[str, Any]]
) -> None:
    """EIO is never tried again: answers are in doubt, callbacks are told as failed, and what is in memory goes on."""
    called = []

    @recoverable(arena=arena)
    async def put(value: int) -> None:
        arena.root["n"] = value
        after_commit(called.append, value)

    await put(1)
    _switches.fail_at(SYNC, 1)
    for value in 2, 3:
        with pytest.raises(InDoubtError, match="in memory, and not known to be on the disk"):
            await put(value)
    await asyncio.sleep(0)
    assert arena.root["n"] == 3
    assert called == [1]
    state = native_journal.state(arena.native)
    assert state is not None
    assert state.stopped == errno.EIO
    assert {event["event"] for event in log} >= {"after_commit.failed"}
    (told,) = (event for event in log if event["event"] == "journal.stopped")
    assert folder in told["detail"]


@in_test_builds
def test_a_journal_that_has_stopped_goes_on_with_the_next_start(name: str, folder: str) -> None:
    """What was committed after a failed flush is written when the arena is opened again."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        with arena.transaction():
            arena.root["n"] = 1
        asyncio.run(arena.durable())
        _switches.fail_at(SYNC, 1)
        with arena.transaction():
            arena.root["n"] = 2
        with pytest.raises(InDoubtError):
            asyncio.run(arena.durable(timeout=0.5))
        with arena.transaction():
            arena.root["n"] = 3
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        asyncio.run(arena.durable())
        assert len(list(Path(folder).glob("journal-*"))) == 2
    Arena.unlink(name)
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        assert arena.root["n"] == 3
    Arena.unlink(name)


@in_test_builds
async def test_a_full_disk_is_tried_again(arena: Arena) -> None:
    """Where there is no room for a while, answers wait, and come when there is."""

    async def put() -> None:
        arena.root["n"] = arena.root.get("n", 0) + 1

    await arena.run(put)
    _switches.fail_at(WRITE, 1)
    await arena.run(put)
    assert is_durable(arena)
    state = native_journal.state(arena.native)
    assert state is not None
    assert state.delayed == state.stopped == 0


@in_test_builds
async def test_callbacks_run_when_it_is_durable_after_all(arena: Arena) -> None:
    """A request that is cancelled while it waits stays committed; its callbacks run once it is durable, and not before."""
    called: list[bool] = []

    async def put() -> None:
        arena.root["n"] = 1
        after_commit(lambda: called.append(is_durable(arena)))

    _switches.fail_at(WRITE, 1)
    task = asyncio.create_task(arena.run(put))
    while "n" not in arena.root:  # noqa: ASYNC110 -- nothing tells of it before it is durable
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert called == []
    await arena.durable()
    for _ in range(1000):
        if called:
            break
        await asyncio.sleep(0.001)
    assert called == [True]


# -- several processes ------------------------------------------------------------------------------------------------------


def use(name: str, folder: str) -> int:
    """Commit once, durably, in an arena that is opened for it."""
    with Arena.open(name, journal=folder, durable="disk") as arena:

        async def put() -> int:
            arena.root["n"] = arena.root.get("n", 0) + 1
            return arena.root["n"]

        return asyncio.run(arena.run(put))


@pytest.mark.crash
def test_another_goes_on_when_the_one_that_writes_is_killed(name: str, folder: str) -> None:
    """Answers of a process come although the one that wrote for it was killed, and what that one had not written is not lost."""
    ready, is_ready = os.pipe()

    def serve() -> None:
        with Arena.open(name, "16 MiB", journal=folder, durable="disk"):
            os.write(is_ready, b".")
            signal.pause()

    with child(serve) as pid:
        os.read(ready, 1)
        with Arena.open(name, journal=folder, durable="disk") as arena:

            async def put() -> int:
                arena.root["n"] = arena.root.get("n", 0) + 1
                return arena.root["n"]

            async def main() -> None:
                for i in range(20):
                    assert await arena.run(put) == i + 1
                os.kill(pid, signal.SIGKILL)
                for i in range(20, 40):
                    assert await arena.run(put) == i + 1
                    assert is_durable(arena)

            asyncio.run(main())
    for fd in ready, is_ready:
        os.close(fd)
    Arena.unlink(name)
    assert in_child(lambda: use(name, folder)).value == 41
    Arena.unlink(name)


def test_a_forked_child_waits_for_the_disk_itself(arena: Arena) -> None:
    """A process that was forked with the arena open has its answers wait, too, also when its parent is not there any more."""

    async def put() -> int:
        arena.root["n"] = arena.root.get("n", 0) + 1
        return arena.root["n"]

    async def main() -> list[int]:
        return [await arena.run(put) for _ in range(10)]

    asyncio.run(arena.run(put))
    ending = in_child(lambda: (asyncio.run(main()), is_durable(arena)))
    assert ending.value == (list(range(2, 12)), True), str(ending)
    assert asyncio.run(main()) == list(range(12, 22))


@pytest.mark.crash
def test_a_forked_child_whose_parent_ends_writes_by_itself(name: str, folder: str) -> None:
    """As of a program that becomes a daemon: what it commits in blocks is on the disk although nobody asks for that."""
    reader, writer = os.pipe()

    def serve() -> None:
        arena = Arena.open(name, "16 MiB", journal=folder)
        if os.fork():
            os._exit(0)
        with arena.transaction():
            arena.root["n"] = 1
        for _ in range(500):
            if is_durable(arena):
                break
            time.sleep(0.01)
        os.write(writer, b"y" if is_durable(arena) else b"n")
        os._exit(0)

    in_child(serve)
    os.close(writer)
    assert os.read(reader, 1) == b"y"
    os.close(reader)
    Arena.unlink(name)


def test_loops_in_several_threads_wait(arena: Arena) -> None:
    """Each event loop's requests are woken in their own loop."""

    async def put() -> None:
        arena.root["n"] = arena.root.get("n", 0) + 1

    async def main() -> None:
        for _ in range(20):
            await arena.run(put)

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert arena.root["n"] == 80
    assert is_durable(arena)


# -- where it ends -------------------------------------------------------------------------------------------------------------


@in_test_builds
async def test_closing_ends_every_wait(name: str, folder: str) -> None:
    """Closing writes what is committed, and whoever still waits for it is answered."""
    with Arena.temporary("16 MiB", name=name, journal=folder, durable="disk", busy_timeout=20.0) as arena:

        async def put() -> int:
            arena.root["n"] = 1
            return 1

        _switches.fail_at(WRITE, 1)  # it is tried again 100 ms later
        task = asyncio.create_task(arena.run(put))
        while "n" not in arena.root:  # noqa: ASYNC110 -- nothing tells of it before it is durable
            await asyncio.sleep(0.001)
        arena.close()
        assert await task == 1


async def test_an_arena_that_can_not_be_closed_goes_on(arena: Arena) -> None:
    """Where closing is refused, answers wait for the disk as before."""

    async def put() -> None:
        arena.root["n"] = arena.root.get("n", 0) + 1

    with arena.transaction():
        arena.root["a"] = Array(10, "i8")
    with arena.transaction():
        view = arena.root["a"].view
        with pytest.raises(TransactionError, match="can't be closed"):
            arena.close()
        del view
    await arena.run(put)
    assert is_durable(arena)


# -- over HTTP ------------------------------------------------------------------------------------------------------------------


@in_test_builds
@pytest.mark.parametrize("protect", ["decorated", "all"])
async def test_a_response_waits_for_the_disk(name: str, folder: str, protect: str) -> None:
    """A response comes when it is durable; where the disk has failed it is 503, and does not ask to be sent again."""
    arena = Arena.open(name, "16 MiB", journal=folder)

    @recoverable
    async def put(request: web.Request) -> web.Response:
        arena.root["n"] = arena.root.get("n", 0) + 1
        return ok()

    async with serving(application(arena, {"/": put}, protect=protect, durable="disk")) as client:
        for _ in range(5):
            assert (await client.post("/")).status == 200
            assert is_durable(arena)
        _switches.fail_at(SYNC, 1)
        for _ in range(2):
            response = await client.post("/")
            assert response.status == 503
            assert "Retry-After" not in response.headers
            assert "done, but not known to be on the disk" in await response.text()
        assert arena.root["n"] == 7
    Arena.unlink(name)
