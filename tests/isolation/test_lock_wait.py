"""Who holds the arena's lock for long stops no event loop: what needs the arena waits, the rest is served."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

import recoverable
from recoverable import Arena, ArenaBusyError, Counter
from support.children import child

HELD, GAP = 0.5, 0.4  # seconds: for how long the lock is held; more, and the loop has stood still for it

Holder = Callable[[], Any]


class Thread:
    """Holds the lock of an arena, in a thread of this process, as a plain block does that takes long."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.begin, self.held, self.end = threading.Event(), threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.begin.wait(10)
        with self.arena.transaction():
            self.arena.root["held"] = 1
            self.held.set()
            self.end.wait(10)

    def take(self) -> None:
        """Have the lock held from now on."""
        self.begin.set()
        assert self.held.wait(10)

    def drop(self) -> None:
        """Have it free again."""
        self.begin.set()
        self.end.set()
        self.thread.join()


class Child:
    """The same in another process."""

    def __init__(self, arena: Arena) -> None:
        (begin, self.begin), (self.held, held), (end, self.end) = os.pipe(), os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self.begin)
                os.close(self.end)
                os.read(begin, 1)
                with arena.transaction():
                    arena.root["held"] = 1
                    os.write(held, b".")
                    os.read(end, 1)
            except BaseException:
                traceback.print_exc()
            os._exit(0)
        for theirs in (begin, held, end):
            os.close(theirs)

    def take(self) -> None:
        os.write(self.begin, b".")
        assert os.read(self.held, 1)

    def kill(self) -> None:
        """It dies with the lock."""
        os.kill(self.pid, signal.SIGKILL)

    def drop(self) -> None:
        os.close(self.end)
        os.close(self.begin)
        os.close(self.held)
        os.waitpid(self.pid, 0)


@pytest.fixture(params=[Thread, Child], ids=["thread", "process"])
def holder(arena: Arena, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Give who holds the lock from take() to drop()."""
    with arena.transaction():
        arena.root["n"] = 0
    made = request.param(arena)
    dropped = False
    drop = made.drop

    def once() -> None:
        nonlocal dropped
        if not dropped:
            dropped = True
            drop()

    made.drop = once
    try:
        yield made
    finally:
        once()


@asynccontextmanager
async def ticking() -> AsyncIterator[list[float]]:
    """Give the pauses between turns of the loop, which has something to do every two milliseconds."""
    pauses: list[float] = []

    async def tick() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.002)
            pauses.append(time.monotonic() - before)

    task = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    try:
        yield pauses
    finally:
        await asyncio.sleep(0.01)
        task.cancel()


async def held_meanwhile(holder: Any, *requests: Any) -> list[Any]:
    """Await these while the lock is held, and for as long as they like after that; no loop may stand still."""
    async with ticking() as pauses:
        tasks = [asyncio.ensure_future(each) for each in requests]
        await asyncio.sleep(HELD)
        stood = max(pauses)
        holder.drop()
        ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert stood < GAP
    return ends


async def test_a_later_step_waits_outside_the_loop(arena: Arena, holder: Any, log: list[Any]) -> None:
    """A handler that has been in the arena before awaits the lock in front of its next step; it runs once."""
    runs = []

    @recoverable.recoverable(arena=arena)
    async def handler() -> int:
        runs.append(1)
        arena.root["n"] += 1
        await asyncio.sleep(0.02)
        return arena.root["n"]  # type: ignore[no-any-return]

    request = asyncio.ensure_future(handler())
    await asyncio.sleep(0.005)
    before = arena.stats().lock.waited
    holder.take()
    assert await held_meanwhile(holder, request) == [1]
    assert runs == [1]
    assert (arena.stats().lock.waited - before).seconds > GAP  # it is in the histogram, too
    assert [event["event"] for event in log if event["event"] != "request.committed"] == ["request.held_up"]


async def test_a_first_access_ends_its_run_which_begins_again(arena: Arena, holder: Any, log: list[Any]) -> None:
    """In the middle of synchronous code nobody can await: the run begins again once the lock is free, which is no conflict."""
    runs = []

    @recoverable.recoverable(arena=arena, max_conflicts=1)
    async def handler() -> int:
        runs.append(1)
        try:
            arena.root["n"] += 1
        except Exception:
            pytest.fail("a handler's own except clause is not to see it")
        return arena.root["n"]  # type: ignore[no-any-return]

    conflicts = arena.stats().conflicts
    holder.take()
    assert await held_meanwhile(holder, handler()) == [1]
    assert runs == [1, 1]
    assert arena.stats().conflicts == conflicts
    assert not [event for event in log if event["event"] not in ("request.committed", "request.held_up")]


async def test_a_commit_waits_outside_the_loop(arena: Arena, holder: Any) -> None:
    """A handler that returns after its last await has its commit wait for the lock, too."""
    runs = []

    @recoverable.recoverable(arena=arena)
    async def handler() -> str:
        runs.append(1)
        arena.root["n"] += 1
        await asyncio.sleep(0)
        holder.take()
        return "done"

    assert await held_meanwhile(holder, handler()) == ["done"]
    assert runs == [1]
    assert arena.root["n"] == 1


async def test_parts_of_a_request_wait_so_too(arena: Arena, holder: Any) -> None:
    """Parts that gather() runs wait outside the loop, or end the run of the whole."""

    async def part(i: int) -> None:
        arena.root[f"part {i}"] = 1
        await asyncio.sleep(0.02)
        arena.root[f"part {i}"] = 2

    @recoverable.recoverable(arena=arena)
    async def later() -> None:
        await recoverable.gather(*map(part, range(3)))

    @recoverable.recoverable(arena=arena)
    async def first() -> None:
        await recoverable.gather(*map(part, range(3, 6)))

    request = asyncio.ensure_future(later())
    await asyncio.sleep(0.005)
    holder.take()
    assert await held_meanwhile(holder, request, first()) == [None, None]
    assert [arena.root[f"part {i}"] for i in range(6)] == [2] * 6


async def test_an_independent_one_waits_so_too(arena: Arena, holder: Any) -> None:
    """What is independent inside a request begins again alone; the request around it does not."""
    runs: list[str] = []

    @recoverable.recoverable(arena=arena, nested="independent")
    async def inner() -> None:
        runs.append("inner")
        arena.root["inner"] = 1

    @recoverable.recoverable(arena=arena)
    async def outer() -> None:
        runs.append("outer")
        arena.root["n"] += 1
        await asyncio.sleep(0)
        holder.take()
        await inner()

    assert await held_meanwhile(holder, outer()) == [None]
    assert runs.count("outer") == 1
    assert runs.count("inner") == 2
    assert arena.root["n"] == arena.root["inner"] == 1


@pytest.mark.parametrize("where", ["entry", "step", "commit"])
@pytest.mark.parametrize("end", ["cancelled", "timeout", "closed"])
async def test_whoever_waits_can_be_stopped(arena: Arena, holder: Any, where: str, end: str) -> None:
    """A cancellation, a time limit and close() end a wait for the lock at once; nothing is committed, and others go on."""
    closing: list[BaseException] = []

    @recoverable.recoverable(arena=arena, timeout=0.1 if end == "timeout" else None)
    async def handler() -> None:
        if where == "entry":
            arena.root["n"] += 1
        else:
            arena.root["n"] += 1
            try:
                await asyncio.sleep(0)
                if not closing:
                    holder.take()
                await asyncio.sleep(0)
            except BaseException as error:
                closing.append(error)
                raise
            if where == "step":
                arena.root["n"] += 1

    if where == "entry":
        holder.take()
    begun = time.monotonic()
    call = handler()
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0.05)
    assert not task.done()
    if end == "timeout":
        with pytest.raises(TimeoutError):
            await task
    else:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert time.monotonic() - begun < HELD
    holder.drop()
    assert arena.root["n"] == 0

    @recoverable.recoverable(arena=arena)
    async def next_one() -> None:
        arena.root["n"] += 10

    await next_one()
    assert arena.root["n"] == 10


@pytest.mark.parametrize("cleans_up", [False, True], ids=["", "cleans up"])
@pytest.mark.parametrize("end", ["cancelled", "timeout"])
async def test_a_cancellation_does_not_wait_for_the_lock(arena: Arena, holder: Any, end: str, cleans_up: bool) -> None:
    """Whoever is stopped at an await while others hold the lock ends at once, and stops no loop by what it does then."""

    @recoverable.recoverable(arena=arena, timeout=0.1 if end == "timeout" else None)
    async def handler() -> None:
        arena.root["n"] += 1
        try:
            await asyncio.sleep(10)
        finally:
            if cleans_up:
                arena.root["n"] += 1

    task = asyncio.ensure_future(handler())
    await asyncio.sleep(0.01)
    holder.take()
    async with ticking() as pauses:
        begun = time.monotonic()
        if end == "cancelled":
            task.cancel()
        with pytest.raises(TimeoutError if end == "timeout" else asyncio.CancelledError):
            await asyncio.wait_for(task, 3)
        assert time.monotonic() - begun < HELD
    assert max(pauses) < GAP
    holder.drop()
    assert arena.root["n"] == 0


async def test_a_waiting_call_can_be_closed(arena: Arena, holder: Any) -> None:
    """close() of a call that waits for the lock closes the handler's coroutine, and what waits in its place."""
    closed = []

    @recoverable.recoverable(arena=arena)
    async def handler() -> None:
        arena.root["n"] += 1
        try:
            await asyncio.sleep(0)
        except GeneratorExit:
            closed.append(1)
            raise

    call = handler()
    call.send(None)
    holder.take()
    waits = call.send(None)
    assert waits is not None  # a future of the line of those who wait
    call.close()
    assert closed == [1]
    holder.drop()
    assert arena.root["n"] == 0


async def test_the_wait_is_bounded_by_busy_timeout(name: str, log: list[Any]) -> None:
    """Who has waited for busy_timeout in all gets an ArenaBusyError that names who holds the lock; one event says so."""
    with Arena.temporary("16 MiB", name=name, busy_timeout=0.3) as arena:
        runs = []

        @recoverable.recoverable(arena=arena)
        async def handler() -> None:
            runs.append(1)
            arena.root["n"] = 1

        for made in (Thread(arena), Child(arena)):
            runs.clear()
            made.take()
            try:
                begun = time.monotonic()
                async with ticking() as pauses:
                    with pytest.raises(ArenaBusyError, match="holds it"):
                        await handler()
                assert 0.2 < time.monotonic() - begun < 1.5
                assert max(pauses) < 0.25
            finally:
                made.drop()
        assert [event["event"] for event in log if event["event"] == "arena.busy"] == ["arena.busy"] * 2


async def test_parts_that_wait_at_once_have_waited_once(name: str) -> None:
    """Eight parts that have waited for a third of `busy_timeout` at the same time may wait for another third."""
    with Arena.temporary("4 MiB", name=name, busy_timeout=1.5) as arena:

        async def part(n: int) -> None:
            for key in range(2):
                await stands.wait()
                arena.root[n] = key
                await free.wait()

        async def handler() -> None:
            arena.root["n"] = 1
            await recoverable.gather(*map(part, range(8)))

        stands, free = asyncio.Event(), asyncio.Event()
        request = asyncio.ensure_future(arena.run(handler))
        await asyncio.sleep(0.005)
        for _ in range(2):
            made = Thread(arena)
            made.take()
            free.clear()
            stands.set()
            await asyncio.sleep(0.5)
            made.drop()
            stands.clear()
            await asyncio.sleep(0.1)
            free.set()
            await asyncio.sleep(0.02)
        await request
        assert {arena.root[n] for n in range(8)} == {1}


async def test_all_waits_of_a_request_are_bounded_together(name: str) -> None:
    """One that has waited for nearly so long before does not begin to count again."""
    with Arena.temporary("4 MiB", name=name, busy_timeout=1.0) as arena:
        made = Thread(arena)

        async def handler() -> None:
            arena.root["n"] = 1
            (transaction,) = arena.native.transactions()
            transaction.lock_time = 0.95
            await asyncio.sleep(0.02)
            arena.root["n"] = 2

        request = asyncio.ensure_future(arena.run(handler))
        await asyncio.sleep(0.005)
        made.take()
        try:
            begun = time.monotonic()
            with pytest.raises(ArenaBusyError):
                await request
            assert time.monotonic() - begun < 0.9
        finally:
            made.drop()


async def test_a_dead_holder_is_not_waited_for(arena: Arena) -> None:
    """The lock of a process that was killed is taken at the next look."""
    arena.root  # noqa: B018 - made before the fork
    child = Child(arena)
    try:
        child.take()

        @recoverable.recoverable(arena=arena)
        async def handler() -> None:
            arena.root["n"] = 1

        task = asyncio.ensure_future(handler())
        await asyncio.sleep(0.05)
        assert not task.done()
        child.kill()
        await asyncio.wait_for(task, 2)
        assert arena.root["n"] == 1
        assert "held" not in arena.root
    finally:
        child.drop()


async def test_hundreds_who_wait_stop_the_loop_once(arena: Arena, holder: Any) -> None:
    """A stuck lock costs the loop some milliseconds, however many requests want it."""

    @recoverable.recoverable(arena=arena)
    async def handler(i: int) -> None:
        arena.root[f"made {i}"] = 1

    holder.take()
    assert await held_meanwhile(holder, *map(handler, range(200))) == [None] * 200
    assert all(f"made {i}" in arena.root for i in range(200))


async def test_a_run_that_may_not_begin_again_waits_on_the_spot(arena: Arena, holder: Any) -> None:
    """With max_conflicts=0 a handler runs once, whatever that costs its loop; so does a block."""
    runs = []

    @recoverable.recoverable(arena=arena, max_conflicts=0)
    async def handler() -> None:
        runs.append(1)
        arena.root["n"] += 1

    holder.take()
    timer = threading.Timer(0.2, holder.drop)
    timer.start()
    await handler()
    with arena.transaction():
        arena.root["n"] += 1
    timer.join()
    assert runs == [1]
    assert arena.root["n"] == 2


def test_by_hand_it_waits_on_the_spot(arena: Arena, holder: Any) -> None:
    """Who drives a handler without a loop waits where the lock is needed."""
    runs = []

    @recoverable.recoverable(arena=arena)
    async def handler() -> None:
        runs.append(1)
        arena.root["n"] += 1

    holder.take()
    timer = threading.Timer(0.2, holder.drop)
    timer.start()
    with pytest.raises(StopIteration):
        handler().send(None)
    timer.join()
    assert runs == [1]
    assert arena.root["n"] == 1


@contextmanager
def busy(arena: Arena, threads: int) -> Iterator[None]:
    """Have some threads in the arena without a pause, each for two milliseconds."""
    stop = threading.Event()

    def work(i: int) -> None:
        counter = arena.root[f"c{i}"]
        while not stop.is_set():
            with arena.transaction():
                counter.add(1)
                time.sleep(0.002)

    with arena.transaction():
        arena.root.update({f"c{i}": Counter() for i in range(threads)})
    running = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in running:
            thread.join()


async def test_it_is_not_starved_by_those_who_stand_in_the_queue(arena: Arena) -> None:
    """Beside threads that want the lock all the time requests get it as well, before busy_timeout is over."""

    @recoverable.recoverable(arena=arena)
    async def handler(i: int) -> None:
        arena.root[f"made {i}"] = 1
        await asyncio.sleep(0)
        arena.root[f"made {i}"] = 2

    with busy(arena, 2):
        for i in range(10):
            await asyncio.wait_for(handler(i), 4)
    assert all(arena.root[f"made {i}"] == 2 for i in range(10))


@pytest.mark.slow
async def test_nor_by_a_process_whose_steps_are_long_one_after_the_other(name: str) -> None:
    """Who holds the lock for long, and has it again at once, keeps no request out; and a loop goes on meanwhile."""
    runs = []

    def work() -> None:
        while True:
            with arena.transaction():
                arena.root["n"] += 1
                time.sleep(0.03)

    with Arena.temporary("16 MiB", name=name, busy_timeout=2) as arena:
        with arena.transaction():
            arena.root["n"] = 0

        @recoverable.recoverable(arena=arena)
        async def handler(i: int) -> None:
            runs.append(i)
            arena.root[f"made {i}"] = 1
            await asyncio.sleep(0)
            arena.root[f"made {i}"] = 2

        with child(work) as pid:
            try:
                async with ticking() as pauses:
                    await asyncio.sleep(0.05)
                    for i in range(2):
                        await handler(i)
            finally:
                os.kill(pid, signal.SIGKILL)
        assert all(arena.root[f"made {i}"] == 2 for i in range(2))
    assert max(pauses) < GAP
    assert len(runs) < 2 * 6


async def test_a_request_does_not_begin_again_for_ever(arena: Arena) -> None:
    """One that has the lock held against itself, in each of its runs, waits on the spot in the end."""
    runs = []

    def audit() -> None:
        with arena.transaction():
            arena.root["audited"] = True
            time.sleep(0.03)

    @recoverable.recoverable(arena=arena)
    async def handler() -> None:
        runs.append(1)
        job = asyncio.get_running_loop().run_in_executor(None, audit)
        await asyncio.sleep(0.002)
        arena.root["n"] = 1
        await job

    await handler()
    assert arena.root["n"] == 1
    assert len(runs) <= 6


async def test_what_is_only_good_to_know_does_not_wait(arena: Arena, holder: Any) -> None:
    """stats() leaves out where hot spots are, in an event loop and in a thread, rather than stand still for a stuck lock."""

    @recoverable.recoverable(arena=arena)
    async def handler() -> None:
        n = arena.root["n"]
        await asyncio.sleep(0.001)
        arena.root["n"] = n + 1

    await asyncio.gather(*(handler() for _ in range(5)))
    assert [(spot.path, spot.key) for spot in arena.stats().hot_spots] == [("root", "'n'")]
    holder.take()
    begun = time.monotonic()
    assert [(spot.path, spot.key) for spot in arena.stats().hot_spots] == [(None, None)]
    assert time.monotonic() - begun < GAP
    stats = await asyncio.to_thread(arena.stats)
    assert [(spot.path, spot.key) for spot in stats.hot_spots] == [(None, None)]
    assert time.monotonic() - begun < arena.native.busy_timeout
    holder.drop()
    assert [(spot.path, spot.key) for spot in arena.stats().hot_spots] == [("root", "'n'")]


def test_who_waits_when_its_loop_ends_is_closed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that wait in a loop that is closed are closed by the collector, without an error, once others wait."""
    errors: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: errors.append(unraisable.exc_value))
    with Arena.temporary("16 MiB", name=name) as arena:
        with arena.transaction():
            arena.root["n"] = 0
        holder = Thread(arena)
        holder.take()

        @recoverable.recoverable(arena=arena)
        async def handler() -> None:
            arena.root["n"] += 1

        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed but it is pending!"
        tasks = [loop.create_task(handler()) for _ in range(3)]
        loop.run_until_complete(asyncio.sleep(0.15))  # long enough to be told of
        loop.close()
        del tasks, loop

        async def another() -> None:
            waits = asyncio.ensure_future(handler())
            await asyncio.sleep(0.02)
            gc.collect()
            holder.drop()
            await waits

        asyncio.run(another())
        assert errors == []
        assert (arena.root["n"], arena.native.lines, arena.native.transactions()) == (1, {}, [])
