"""Who else meets the gate and the thread that writes: threads with loops, forked children, programs that close all descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import selectors
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from recoverable import Arena, InDoubtError, JournalError, recoverable
from recoverable._native import _switches
from recoverable._native import journal as native_journal
from recoverable.aiohttp import setup
from recoverable.journal import attach
from recoverable.journal.gate import Gate
from support.children import child
from support.forks import in_child

in_test_builds = pytest.mark.skipif(not _switches.test_build(), reason="needs -Dcrashpoints=true")


@pytest.fixture
def arena(name: str, folder: str) -> Iterator[Arena]:
    """Give an arena whose answers wait for the disk."""
    with Arena.temporary("16 MiB", name=name, journal=folder, durable="disk") as opened:
        yield opened


async def put(arena: Arena, key: str, value: Any) -> None:
    """Commit, and wait for the disk."""

    async def handler() -> None:
        arena.root[key] = value

    await arena.run(handler)


def open_descriptors() -> int:
    """Return how many this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_loop_a_call_in_many_threads(arena: Arena) -> None:
    """Threads that each run asyncio.run() again and again leave closed loops to be cleared away by one another."""
    failures: list[BaseException] = []
    before = open_descriptors()

    def calls(number: int) -> None:
        try:
            for i in range(60):
                asyncio.run(put(arena, f"t{number}", i))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=calls, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures, failures[:3]
    assert all(arena.root[f"t{n}"] == 59 for n in range(6))
    assert open_descriptors() < before + 30  # of 360 loops, each with a pipe


def test_more_loops_than_there_is_room_for(arena: Arena) -> None:
    """Each waits all the same."""
    gate = arena.native.journal
    asyncio.run(arena.durable())
    position = gate.position(arena.native, None) + 1  # that of the next commit
    asking: list[int] = []
    done: list[int] = []

    async def waits(number: int) -> None:
        asking.append(number)
        await gate.wait(position, 30)
        done.append(number)

    threads = [threading.Thread(target=asyncio.run, args=(waits(n),)) for n in range(70)]
    for thread in threads:
        thread.start()
    while len(asking) < 70:
        time.sleep(0.01)
    time.sleep(0.1)
    assert not done
    with arena.transaction():
        arena.root["n"] = 1
    for thread in threads:
        thread.join(60)
    assert sorted(done) == list(range(70))


@pytest.mark.parametrize("selector", [selectors.EpollSelector, selectors.PollSelector])
def test_a_program_that_closes_all_descriptors(name: str, folder: str, selector: type[selectors.BaseSelector]) -> None:
    """Answers wait as before, and what has got the numbers meanwhile is left alone, by a loop that selects by number, too."""

    def program() -> str:
        with Arena.open(name, "16 MiB", journal=folder, durable="disk") as arena:
            found = ""

            async def main() -> None:
                nonlocal found
                loop = asyncio.get_running_loop()
                await put(arena, "n", 1)
                gate = arena.native.journal
                waiters = gate._loops[loop]
                mine = waiters._read, waiters._write
                for end, number in zip(os.pipe(), mine, strict=True):
                    os.dup2(end, number)
                    os.close(end)
                await put(arena, "n", 2)
                await put(arena, "n", 3)
                os.write(mine[1], b"mine")
                await asyncio.sleep(0.01)
                found = os.read(mine[0], 10).decode()
                gate.close()
                gate.begin_again()
                os.write(mine[1], b"!")

            with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector())) as runner:
                runner.run(main())
            return found

    assert in_child(program).value == "mine"
    Arena.unlink(name)


def test_a_forked_child_closes_its_arena(arena: Arena) -> None:
    """Its thread is counted as one that uses the arena, once."""

    def closes() -> str:
        asyncio.run(put(arena, "child", 1))
        arena.close()
        return "closed"

    assert in_child(closes).value == "closed"


@in_test_builds
def test_an_overwritten_commit_of_a_journal_that_has_stopped_is_in_doubt(name: str, folder: str) -> None:
    """Overwriting shows that it was on the disk only as long as somebody writes."""
    with Arena.temporary("16 MiB", name=name, journal=folder, feed="256 KiB") as arena:
        with arena.transaction():
            arena.root["n"] = 0
        asyncio.run(arena.durable())
        _switches.fail_at(_switches.FAIL_SYNC, 1)
        with arena.transaction():
            arena.root["n"] = 1
        seq = arena.stats().feed.seq
        with pytest.raises(InDoubtError):
            asyncio.run(arena.durable(seq, timeout=2))
        for i in range(200):
            with arena.transaction():
                arena.root["n"] = "x" * 4000 + str(i)
        with pytest.raises(InDoubtError):
            asyncio.run(arena.durable(seq, timeout=0.2))


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("how", ["killed", "closed"])
def test_one_worker_after_another(name: str, folder: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that wrote goes; its successor takes the folder while another one takes the sink: one of the two writes."""
    ready, close, end = os.pipe(), os.pipe(), os.pipe()

    def first() -> None:
        with Arena.open(name, "16 MiB", journal=folder) as arena:
            asyncio.run(put(arena, "n", 0))
            asyncio.run(arena.durable())
            os.write(ready[1], b".")
            os.read(close[0], 1)

    def follower() -> None:
        with Arena.open(name, journal=folder) as arena:
            os.write(ready[1], b".")
            os.read(end[0], 1)
            asyncio.run(put(arena, "follower", 1))
            asyncio.run(arena.durable(timeout=10))

    with contextlib.ExitStack() as stack:
        with child(first) as writing:
            os.read(ready[0], 1)
            following = stack.enter_context(child(follower))
            os.read(ready[0], 1)
            os.kill(following, signal.SIGSTOP)
            os.waitpid(following, os.WUNTRACED)
            if how == "killed":
                os.kill(writing, signal.SIGKILL)
            else:
                os.write(close[1], b".")

        def late(native: Any, name: str, path: str, lock: Any) -> Gate:
            assert lock is not None  # which is of the folder
            os.kill(following, signal.SIGCONT)
            while not attach._is_served(native):
                time.sleep(0.001)
            return Gate(native, name, path, lock)

        monkeypatch.setattr(attach, "Gate", late)
        with Arena.open(name, journal=folder) as arena:
            asyncio.run(put(arena, "successor", 1))
            asyncio.run(arena.durable(timeout=5))
            os.write(end[1], b".")
    for fd in *ready, *close, *end:
        os.close(fd)
    Arena.unlink(name)


def test_two_restores_of_one_copy_are_told_apart(name: str, folder: str) -> None:
    """A segment of one does not go on with the journal of the other."""
    with Arena.open(name, "16 MiB", journal=folder) as arena, arena.transaction():
        arena.root["x"] = 0
    Arena.unlink(name)
    shutil.copytree(folder, f"{folder}.copy")
    for path, value in (f"{folder}.copy", 10), (folder, 30):
        with Arena.open(name, journal=path) as arena:
            for i in range(value):
                with arena.transaction():
                    arena.root["x"] = i
        if path != folder:
            Arena.unlink(name)
    shutil.rmtree(folder)
    Path(f"{folder}.copy").rename(folder)
    with pytest.raises(JournalError, match="two restores of the same copy"):
        Arena.open(name, journal=folder)
    Arena.unlink(name)


@pytest.mark.parametrize(("how", "status"), [("raised", 409), ("returned", 503)])
async def test_an_error_that_says_what_it_saw_waits(name: str, folder: str, how: str, status: int) -> None:
    """What an error tells must not be taken back by a power loss."""
    arena = Arena.open(name, "16 MiB", journal=folder)
    durable: list[bool] = []
    position = 0

    @recoverable
    async def take(request: web.Request) -> web.Response:
        if "taken" in arena.root:
            if how == "returned":
                return web.Response(status=status)
            raise web.HTTPConflict(text="taken")
        arena.root["taken"] = True
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    setup(app, arena, durable="disk")
    gate = arena.native.journal
    waited: list[int] = []
    real, is_durable = gate.wait, gate.is_durable

    async def wait(position: int, timeout: float) -> None:
        await real(position, timeout)
        durable.append(is_durable(position))

    def asked(position: int) -> bool:
        waited.append(position)
        return is_durable(position)

    gate.wait, gate.is_durable = wait, asked
    async with TestClient(TestServer(app)) as client:
        assert (await client.post("/")).status == 200
        position = waited[-1]
        waited.clear()
        assert (await client.post("/")).status == status
    assert waited == [position]  # which is durable
    assert durable == [True]
    Arena.unlink(name)


def test_a_number_that_is_another_pipe_s_by_now(arena: Arena) -> None:
    """Who no longer waits by a pipe that was closed does not end the wait of who has got its number."""
    asyncio.run(put(arena, "n", 1))
    gate = arena.native.journal
    far = gate.position(arena.native, None) + 4096
    first, second = os.pipe2(os.O_NONBLOCK), os.pipe2(os.O_NONBLOCK)
    was = os.fstat(first[1])
    assert not gate._flusher.ask(far, first[1])
    os.dup2(second[1], first[1])
    assert not gate._flusher.ask(far, first[1])
    gate._flusher.enough(first[1], was.st_dev, was.st_ino)
    asyncio.run(put(arena, "n", 2))
    assert os.read(second[0], 100)
    now = os.fstat(first[1])
    gate._flusher.enough(first[1], now.st_dev, now.st_ino)
    with contextlib.suppress(BlockingIOError):
        os.read(second[0], 100)
    asyncio.run(put(arena, "n", 3))
    with pytest.raises(BlockingIOError):
        os.read(second[0], 100)
    for fd in *first, *second:
        os.close(fd)


def test_no_descriptor_is_free_for_a_while(name: str, folder: str) -> None:
    """A program has closed the journal's file, and it can't be opened again just then: that passes, and nothing was moved."""

    def program() -> tuple[int, int]:
        with Arena.open(name, "16 MiB", journal=folder) as arena:
            asyncio.run(put(arena, "n", 1))
            asyncio.run(arena.durable())
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            for number in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 -- numbers
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/self/fd/{number}").startswith(folder):  # noqa: PTH115
                        os.close(number)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            with arena.transaction():
                arena.root["n"] = 2
            time.sleep(0.3)
            state = native_journal.state(arena.native)
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            asyncio.run(arena.durable(timeout=5))
            return state.stopped, state.delayed

    ending = in_child(program)
    Arena.unlink(name)
    assert ending.value == (0, errno.EMFILE), str(ending)


async def test_no_descriptor_for_a_loop_s_pipe(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop without a pipe, and without a thread to be had, waits all the same, and for no longer than it was to."""

    def fails(*_: object) -> None:
        raise OSError(errno.EMFILE, "no descriptor is free")

    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(os, "pipe2", fails)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    await put(arena, "n", 1)
    far = arena.native.journal.position(arena.native, None) + 4096
    begun = time.monotonic()
    with pytest.raises(InDoubtError):
        await arena.native.journal.wait(far, 0.3)
    assert time.monotonic() - begun < 1.0


async def test_a_loop_whose_pipe_was_closed_gets_another(arena: Arena) -> None:
    """It waits without one once, and is rung for again from then on."""
    await put(arena, "n", 1)
    gate, loop = arena.native.journal, asyncio.get_running_loop()
    old = gate._loops[loop]
    os.close(old._write)
    await put(arena, "n", 2)
    await put(arena, "n", 3)
    assert gate._loops[loop] is not old


def test_a_close_that_hangs_does_not_make_waiting_endless(arena: Arena) -> None:
    """Who waits in a thread gives up in time, although the arena is neither open nor closed."""

    def waits() -> str:
        gate = arena.native.journal
        gate._flusher.end()
        far = gate.position(arena.native, None) + 4096
        with pytest.raises(InDoubtError):
            gate.wait(far, 0.2).send(None)
        return "given up"

    ending = in_child(waits, timeout=5)
    assert ending.value == "given up", str(ending)


def test_descriptors_are_closed_in_the_middle_of_writing(name: str, folder: str) -> None:
    """Between the look whose a number is and its use: nothing has been written then, and it is done again."""

    def works() -> str:
        with Arena.open(name, "4 MiB", journal=folder, durable="disk") as arena:
            asyncio.run(put(arena, "n", 0))
            mine = [
                int(fd.name)
                for fd in Path("/proc/self/fd").iterdir()
                if int(fd.name) >= 600 and str(fd.readlink()).startswith(folder)
            ]
            assert mine
            over = threading.Event()

            def close() -> None:
                while not over.is_set():
                    for fd in mine:
                        with contextlib.suppress(OSError):
                            os.close(fd)
                    time.sleep(0.0002)

            closing = threading.Thread(target=close)
            closing.start()
            try:

                async def main() -> None:
                    for i in range(300):
                        await put(arena, "n", i)

                asyncio.run(main())
            finally:
                over.set()
                closing.join()
        return "works"

    ending = in_child(works, timeout=60)
    assert ending.value == "works", str(ending)
    Arena.unlink(name)
    with Arena.open(name, journal=folder) as arena:
        assert arena.root["n"] == 299
    Arena.unlink(name)


def test_a_signal_handler_runs_while_a_thread_waits_for_the_disk(arena: Arena) -> None:
    """Ctrl-C ends a wait that is driven by hand, however long it was to be."""

    def waits() -> str:
        gate = arena.native.journal
        far = gate.position(arena.native, None) + 4096
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            gate.wait(far, 600.0).send(None)
        return "interrupted"

    ending = in_child(waits, timeout=10)
    assert ending.value == "interrupted", str(ending)


def test_a_signal_handler_closes_the_arena_while_a_thread_waits_for_the_disk(arena: Arena) -> None:
    """As a server does that is told to end: the wait is over, and says what it knows."""

    def waits() -> str:
        gate = arena.native.journal
        far = gate.position(arena.native, None) + 4096
        signal.signal(signal.SIGALRM, lambda *_: arena.close())
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(InDoubtError, match="was closed first"):
            gate.wait(far, 600.0).send(None)
        return "told"

    ending = in_child(waits, timeout=10)
    assert ending.value == "told", str(ending)


def test_a_close_that_is_interrupted_leaves_the_arena_open(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ctrl-C, say, after the thread that writes was ended: it goes on."""
    asyncio.run(put(arena, "n", 1))
    real = native_journal.durable

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(native_journal, "durable", interrupted)
    with pytest.raises(KeyboardInterrupt):
        arena.close()
    monkeypatch.setattr(native_journal, "durable", real)

    async def main() -> None:
        async with asyncio.timeout(5):
            await put(arena, "n", 2)

    asyncio.run(main())
