"""The last run that `max_conflicts` allows is privileged: who would make it lose once more waits until it has ended.

Not for long, though, where it has written nothing, is lost, or hangs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

import recoverable
from recoverable import Arena, Array, ConflictError, Counter
from support.workers import Request, pause

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def arena(arena: Arena) -> Arena:
    """Give an arena with two numbers, a Counter and an Array."""
    with arena.transaction():
        arena.root.update({"n": 0, "m": 0, "hits": Counter(), "a": Array(1000, "i8")})
    return arena


async def add(arena: Arena, key: str = "n", pauses: int = 1) -> None:
    """Read, wait, write."""
    value = arena.root[key]
    for _ in range(pauses):
        await pause()
    arena.root[key] = value + 1


def privileged(arena: Arena, key: str = "n", pauses: int = 1) -> Request:
    """Give a request that has lost once, in the middle of its second and last run."""
    request = Request(arena, add, arena, key, pauses, max_conflicts=1)
    request.step()
    with arena.transaction():
        arena.root[key] += 10
    request.step()  # loses, and is run again up to its first pause
    return request


def test_who_would_hurt_it_waits(arena: Arena) -> None:
    """A request that ends with writes of what the privileged one has read commits after it, and so loses to it."""
    last = privileged(arena)
    assert recoverable_holds(arena)
    other = Request(arena, add, arena)
    other.step()
    for _ in range(5):
        other.step()
        assert not other.done
        assert arena.root["n"] == 10
    last.step()
    assert last.done
    assert arena.root["n"] == 11
    with pytest.raises(ConflictError):
        other.step()
    assert not recoverable_holds(arena)


def recoverable_holds(arena: Arena) -> bool:
    """Tell whether there is a privileged run."""
    return bool(arena.native.privileged_here())


@pytest.mark.parametrize(
    "write",
    [
        lambda root: root.__setitem__("m", 5),
        lambda root: root["hits"].add(1),
        lambda root: root["a"].__setitem__(3, 1),
        lambda root: root["a"].view.__setitem__(4, 1),
        lambda root: root["n"],
    ],
    ids=["another key", "a counter", "an item", "raw", "only reads"],
)
def test_everybody_else_goes_on(arena: Arena, write: Callable[[Any], Any]) -> None:
    """Whose commit does it no harm does not wait."""
    pytest.importorskip("numpy")
    last = privileged(arena)

    async def other() -> None:
        await pause()
        write(arena.root)

    request = Request(arena, other)
    request.step()
    request.step()
    assert request.done
    last.step()
    assert last.done


@pytest.mark.parametrize("raw", [False, True])
def test_items_that_it_has_read_are_kept_for_it(arena: Arena, raw: bool) -> None:
    """Array items count, too, whether they are written by item or raw."""
    pytest.importorskip("numpy")

    async def by_item() -> None:
        value = arena.root["a"][7]
        await pause()
        arena.root["a"][7] = value + 1

    async def other() -> None:
        await pause()
        if raw:
            arena.root["a"].view[7] = 100
        else:
            arena.root["a"][7] = 100

    last = Request(arena, by_item, max_conflicts=1)
    last.step()
    with arena.transaction():
        arena.root["a"][7] = 10
    last.step()
    request = Request(arena, other)
    request.step()
    request.step()
    assert not request.done
    last.step()
    assert (last.done, arena.root["a"][7]) == (True, 11)
    if raw:
        with pytest.raises(ConflictError):  # it had changed the same item
            request.step()
    else:
        request.step()  # blind: it comes after
        assert arena.root["a"][7] == 100


def test_it_gives_the_privilege_back_however_it_ends(arena: Arena) -> None:
    """Commit, crash, cancellation, being thrown away: the next one can have it."""

    def crash(request: Request) -> None:
        with pytest.raises(ValueError):
            request.throw(ValueError())

    def cancel(request: Request) -> None:
        with pytest.raises(asyncio.CancelledError):
            request.throw(asyncio.CancelledError())

    for end in (Request.step, crash, cancel, Request.close):
        request = privileged(arena)
        assert recoverable_holds(arena)
        end(request)
        assert not recoverable_holds(arena)


def test_who_waits_can_be_cancelled(arena: Arena) -> None:
    """A request that waits at its end is rolled back like any other."""
    last = privileged(arena)
    other = Request(arena, add, arena)
    other.step()
    other.step()
    with pytest.raises(asyncio.CancelledError):
        other.throw(asyncio.CancelledError())
    again = Request(arena, add, arena)
    again.step()
    again.step()
    again.close()
    last.step()
    assert arena.root["n"] == 11
    assert arena.stats().in_flight == 0


def test_a_block_does_not_wait(arena: Arena) -> None:
    """It is one step and can't; the privileged run then loses, and that is its last word."""
    last = privileged(arena)
    with arena.transaction():
        arena.root["n"] = 50
    with pytest.raises(ConflictError, match="run 2 times"):
        last.step()


def test_its_own_independent_block_does_not_wait_for_it(arena: Arena) -> None:
    """Or it would wait for itself."""

    async def both() -> None:
        value = arena.root["n"]
        await pause()
        with arena.transaction(independent=True):
            arena.root["hits"].add(1)
        await arena.run(inner, nested="independent")
        arena.root["m"] = value

    async def inner() -> None:
        arena.root["n"] += 1

    last = Request(arena, both, max_conflicts=1)
    last.step()
    with arena.transaction():
        arena.root["n"] += 10
    last.step()
    assert recoverable_holds(arena)
    last.step()
    assert last.done
    assert (arena.root["n"], arena.root["m"], arena.root["hits"].value) == (11, 10, 1)


def test_two_cannot_have_it(arena: Arena) -> None:
    """The second waits before its last run begins."""
    last = privileged(arena)
    second = Request(arena, add, arena, "m", max_conflicts=1)
    second.step()
    with arena.transaction():
        arena.root["m"] += 10
    for _ in range(3):
        second.step()
        assert not second.done
    last.step()
    second.step()
    second.step()
    assert second.done
    assert arena.root["m"] == 11


@pytest.mark.parametrize("written", [False, True])
async def test_the_wait_has_an_end(new_name: Callable[[], str], written: bool) -> None:
    """A privileged run that waits for what another request holds: that one goes ahead, after busy_timeout at the latest."""
    with Arena.temporary("16 MiB", name=new_name(), busy_timeout=0.2) as arena:
        with arena.transaction():
            arena.root["n"] = 0
        lock, runs = asyncio.Lock(), 0
        with_lock, again = asyncio.Event(), asyncio.Event()

        async def first() -> None:
            nonlocal runs
            runs += 1
            value = arena.root["n"]
            if runs == 1:
                with_lock.set()
                await asyncio.create_task(disturb())
            else:
                if written:
                    arena.root["m"] = 1
                again.set()
                async with lock:  # held by the other, which gives way to us
                    pass
            arena.root["n"] = value + 1

        async def disturb() -> None:
            with arena.transaction():
                arena.root["n"] += 10

        async def second() -> None:
            await with_lock.wait()
            async with lock:
                await arena.run(write)

        async def write() -> None:
            await again.wait()
            arena.root["n"] += 100

        begun = time.monotonic()
        results = await asyncio.gather(arena.run(first, max_conflicts=1), second(), return_exceptions=True)
        assert isinstance(results[0], ConflictError)
        assert results[1] is None
        assert (0.15 if written else 0.04) < time.monotonic() - begun < 3
        assert arena.root["n"] == 110


@pytest.mark.parametrize("max_conflicts", [1, 3])
async def test_in_a_storm_everybody_ends(arena: Arena, max_conflicts: int) -> None:
    """Sixty requests over one number, all at once: each is done in at most max_conflicts + 1 runs."""
    runs: list[int] = []

    async def storm() -> None:
        value = arena.root["n"]
        await asyncio.sleep(0.001)
        arena.root["n"] = value + 1
        recoverable.after_commit(runs.append, recoverable.attempt())

    await asyncio.gather(*(arena.run(storm, max_conflicts=max_conflicts) for _ in range(60)))
    assert arena.root["n"] == 60
    assert len(runs) == 60
    assert max(runs) <= max_conflicts + 1
    assert arena.stats().in_flight == 0
    assert not arena.native.give_way


def test_who_is_lost_makes_nobody_wait(arena: Arena) -> None:
    """A block has gone ahead and changed what the privileged run had read: from then on others go ahead as well."""
    last = privileged(arena)
    with arena.transaction():
        arena.root["n"] = 50
    other = Request(arena, add, arena)
    other.step()
    other.step()
    assert other.done
    assert not recoverable_holds(arena)
    with pytest.raises(ConflictError, match="run 2 times"):
        last.step()


def test_who_is_doomed_makes_nobody_wait(arena: Arena) -> None:
    """A privileged run that goes on after it has lost has no privilege any more."""

    async def stubborn() -> None:
        value = arena.root["n"]
        await pause()
        try:
            arena.root["n"] = value + 1
        except BaseException:
            if recoverable.attempt() == 2:
                await pause()
            raise

    last = Request(arena, stubborn, max_conflicts=1)
    last.step()
    for held in (True, False):
        with arena.transaction():
            arena.root["n"] += 10
        last.step()
        assert recoverable_holds(arena) == held
    assert not last.done
    second = privileged(arena, "m")
    assert recoverable_holds(arena)
    second.step()
    with pytest.raises(ConflictError):
        last.step()


class Hanging:
    """A request that hangs in its privileged last run, which another has made it take."""

    def __init__(self, arena: Arena, writes: bool) -> None:
        self.arena, self.writes, self.let_go, self.held = arena, writes, asyncio.Event(), asyncio.Event()

    async def hang(self) -> None:
        """Read, write or not, and hang."""
        value = self.arena.root["n"]
        if recoverable.attempt() == 2:
            if self.writes:
                self.arena.root["m"] = -1
            self.held.set()
            await self.let_go.wait()
        else:
            await asyncio.create_task(change(self.arena))
        self.arena.root["n"] = value + 1


async def change(arena: Arena) -> None:
    """Write in a block, which never waits."""
    with arena.transaction():
        arena.root["n"] += 10


@pytest.mark.slow
@pytest.mark.parametrize("writes", [False, True])
async def test_who_hangs_is_waited_for_once(new_name: Callable[[], str], writes: bool) -> None:
    """The first writer waits 50 ms for a run that has written nothing, busy_timeout for one that has; the next ones do not."""
    with Arena.temporary("16 MiB", name=new_name(), busy_timeout=0.3) as arena:
        with arena.transaction():
            arena.root.update({"n": 0, "m": 0})
        hanging = Hanging(arena, writes)
        request = asyncio.create_task(arena.run(hanging.hang, max_conflicts=1))
        await hanging.held.wait()
        waited = [await timed(arena), await timed(arena), await timed(arena)]
        assert waited[0] >= (0.29 if writes else 0.045)
        assert waited[0] < (3 if writes else 0.25)
        assert max(waited[1:]) < 0.04
        hanging.let_go.set()
        with pytest.raises(ConflictError, match="run 2 times"):
            await request


async def timed(arena: Arena, key: str = "n") -> float:
    """Add one in a request; how long did it take?"""

    async def one() -> None:
        value = arena.root[key]
        await asyncio.sleep(0)
        arena.root[key] = value + 1

    begun = time.monotonic()
    await arena.run(one)
    return time.monotonic() - begun


def test_its_first_write_is_worth_waiting_for_anew(arena: Arena) -> None:
    """A run that others wait for already, and that then writes, has busy_timeout from there on, not what is left of 50 ms."""

    async def late() -> None:
        value = arena.root["n"]
        await pause()
        arena.root["n"] = value + 1
        await pause()

    last = Request(arena, late, max_conflicts=1)
    last.step()
    with arena.transaction():
        arena.root["n"] += 10
    last.step()
    other = Request(arena, add, arena)
    other.step()
    other.step()  # waits: the clock runs
    last.step()  # writes
    time.sleep(0.06)
    for _ in range(20):
        other.step()
        assert not other.done
    last.step()
    assert (last.done, arena.root["n"]) == (True, 11)
    other.close()


@pytest.mark.slow
async def test_what_it_has_written_is_worth_waiting_for(arena: Arena) -> None:
    """A last run that writes early and then waits for longer than 50 ms commits: the others give way to it."""
    begun = asyncio.Event()

    async def long() -> None:
        arena.root["n"] += 1
        if recoverable.attempt() == 2:
            begun.set()
            await asyncio.sleep(0.12)
        else:
            await asyncio.create_task(change(arena))

    request = asyncio.create_task(arena.run(long, max_conflicts=1))
    await begun.wait()
    assert await timed(arena) > 0.05
    await request
    assert arena.root["n"] == 12


def reader_loses(arena: Arena, look: Callable[[], Any]) -> bool:
    """Have a reader lose its first run; does it hold the privilege in its second and last one?"""
    request = Request(arena, look, max_conflicts=1)
    request.step()
    with arena.transaction():
        arena.root["n"] += 10
    request.step()
    holds = recoverable_holds(arena)
    with arena.transaction():
        arena.root["n"] += 10
    with pytest.raises(ConflictError, match="run 2 times"):
        request.step()
    return holds


def test_a_handler_that_only_reads_gets_no_privilege(arena: Arena) -> None:
    """Whose last 100 commits wrote nothing would hold others up for no good: it ends in ConflictError. Until it writes."""
    writes = False

    async def look() -> None:
        value = arena.root["n"]
        if writes:
            arena.root["m"] = value
        await pause()
        assert arena.root["n"] == value

    for _ in range(99):
        Request(arena, look).finish()
    assert reader_loses(arena, look)
    Request(arena, look).finish()
    assert not reader_loses(arena, look)
    writes = True
    Request(arena, look).finish()
    writes = False
    assert reader_loses(arena, look)


@pytest.mark.slow
async def test_a_handler_that_has_held_others_up_in_vain_gets_no_more(arena: Arena) -> None:
    """A long poll that never ends, and so never commits: the first one costs others 50 ms, the next ones nothing."""
    held = 0

    async def poll() -> None:
        nonlocal held
        for _ in range(200):
            assert arena.root["n"] >= 0
            held += recoverable_holds(arena)
            await asyncio.sleep(0.001)

    polls = [asyncio.create_task(again(arena, poll)) for _ in range(3)]
    waited = 0.0
    for _ in range(100):
        waited += max(0.0, await timed(arena) - 0.03)
        await asyncio.sleep(0.001)
    for task in polls:
        task.cancel()
    await asyncio.gather(*polls, return_exceptions=True)
    assert held > 0
    assert waited < 0.5


async def again(arena: Arena, poll: Callable[[], Any]) -> None:
    """Ask again whenever it is lost, as browsers do."""
    while True:
        try:
            await arena.run(poll)
        except ConflictError:
            await asyncio.sleep(0)


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("writes", [False, True])
def test_a_run_of_another_process(new_name: Callable[[], str], writes: bool) -> None:
    """Nobody here knows what it has read: an unrelated writer waits for it, once, 50 ms or busy_timeout, and it knows."""
    name = new_name()
    with Arena.temporary("16 MiB", name=name, busy_timeout=0.3) as arena:
        with arena.transaction():
            arena.root.update({"n": 0, "m": 0})

        async def unrelated() -> list[float]:
            return [await timed(arena, "m") for _ in range(3)]

        with Elsewhere(name, writes) as other:
            assert other.holds()
            waited = asyncio.run(unrelated())
            assert not other.holds()
        assert waited[0] >= (0.29 if writes else 0.045)
        assert waited[0] < (3 if writes else 0.25)
        assert max(waited[1:]) < 0.04


@pytest.mark.crash
def test_who_dies_in_another_process_makes_nobody_wait(name: str) -> None:
    """Its word stays in the header, and counts for nothing."""
    with Arena.temporary("16 MiB", name=name) as arena:
        with arena.transaction():
            arena.root.update({"n": 0, "m": 0})
        with Elsewhere(name, writes=True) as child:
            assert child.holds()
            os.kill(child.pid, signal.SIGKILL)
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            writer = Request(arena, add, arena, "m", 0)
            writer.step()
            assert writer.done


async def test_tasks_of_its_own_do_not_wait_for_it(new_name: Callable[[], str]) -> None:
    """A handler may start requests as tasks, and wait for them. That they make it invalid is the program's fault; nobody hangs."""
    with Arena.temporary("4 MiB", name=new_name(), busy_timeout=20.0) as arena:
        with arena.transaction():
            arena.root.update(n=0, m=0)

        async def part() -> None:
            arena.root["n"] += 1
            await asyncio.sleep(0.001)

        async def whole() -> None:
            arena.root["n"] += 1
            await asyncio.gather(*(asyncio.create_task(arena.run(part)) for _ in range(2)))
            arena.root["m"] += 1

        begun = time.monotonic()
        results = await asyncio.gather(*(arena.run(whole) for _ in range(3)), return_exceptions=True)
        assert time.monotonic() - begun < 10
        assert {type(result) for result in results} == {ConflictError}
        assert arena.root["m"] == 0
        assert arena.native.queues() == (0, 0)


class Elsewhere:
    """A forked child with a privileged run that hangs, and says when asked whether it still has its privilege."""

    def __init__(self, name: str, writes: bool) -> None:
        self.questions, self.answers = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._serve(name, writes)
            finally:
                os._exit(0)

    def _serve(self, name: str, writes: bool) -> None:
        arena = Arena.open(name, create=False, busy_timeout=0.3)

        async def hang() -> None:
            value = arena.root["n"]
            if writes:
                arena.root["n"] = -1
            await pause()
            arena.root["n"] = value

        request = Request(arena, hang, max_conflicts=1)
        request.step()
        with arena.transaction():
            arena.root["n"] += 10
        request.step()
        while os.read(self.questions[0], 1) == b"?":
            os.write(self.answers[1], b"y" if recoverable_holds(arena) else b"n")

    def holds(self) -> bool:
        """Ask it."""
        os.write(self.questions[1], b"?")
        return os.read(self.answers[0], 1) == b"y"

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        for end in (*self.questions, *self.answers):
            os.close(end)
