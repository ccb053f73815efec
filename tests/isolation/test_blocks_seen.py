"""Who stands for the lock without a request around: blocks, and accesses outside of any transaction. Listed, and told of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
import uvloop
from structlog.testing import capture_logs

from recoverable import Arena, ArenaBusyError, Request
from recoverable._native import _notes
from recoverable.inflight import here
from support.children import child
from support.hanging import line_of

pytestmark = pytest.mark.crash

HELD = 0.15  # seconds, which is told
LOOPS: dict[str, Callable[[], Any]] = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def arena(arena: Arena) -> Arena:
    """Give an arena with two numbers."""
    with arena.transaction():
        arena.root.update(stock=1, other=0)
    return arena


def changes(arena: Arena) -> None:
    """Be a block."""
    with arena.transaction():
        arena.root["stock"] = 2  # here


def reads(arena: Arena) -> None:
    """Read outside of any transaction."""
    assert arena.root["stock"] > 0  # here


def counts(arena: Arena) -> None:
    """Look at all of the arena."""
    assert arena.verify().containers > 0  # here


class Finalised:
    """Reads when it goes."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena

    def __del__(self) -> None:
        assert self.arena.root["stock"] > 0  # here


def finalises(arena: Arena) -> None:
    """Have a finaliser read."""
    Finalised(arena)


KINDS: dict[Callable[[Arena], None], tuple[str, str, Callable[..., Any]]] = {
    changes: ("block", "changes", changes),
    reads: ("access", "reads", reads),
    counts: ("access", "counts", counts),
    finalises: ("access", "Finalised.__del__", Finalised.__del__),
}
kinds = pytest.mark.parametrize("stands", KINDS)


def in_loop(arena: Arena, function: Callable[[Arena], None], new_loop: Callable[[], Any]) -> None:
    """Call it inside an event loop, outside of any request."""

    async def call() -> None:
        function(arena)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(call())


PLACES: dict[str, Callable[[Arena, Callable[[Arena], None]], None]] = {
    "thread": lambda arena, function: function(arena),
    **{
        name: lambda arena, function, new=new: in_loop(arena, function, new)  # type: ignore[misc]
        for name, new in LOOPS.items()
    },
}
places = pytest.mark.parametrize("place", PLACES)


@contextlib.contextmanager
def held_elsewhere(arena: Arena) -> Iterator[tuple[int, Callable[[], None]]]:
    """Have another process hold the lock; gives its id, and what lets go of it."""
    (held, writer), (reader, let_go) = os.pipe(), os.pipe()

    def holds() -> None:
        os.close(let_go)
        with arena.transaction():
            arena.root["other"] = 1
            os.write(writer, b".")
            os.read(reader, 1)

    with child(holds) as pid:
        os.read(held, 1)
        try:
            yield pid, lambda: os.close(let_go)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        finally:
            for end in (held, writer, reader):
                os.close(end)


def one(look: Callable[[], list[Request]], wanted: Callable[[Request], bool]) -> Request:
    """Wait until there is exactly one such request."""
    end = time.monotonic() + 20
    while len(found := [each for each in look() if wanted(each)]) != 1:
        assert time.monotonic() < end, found
        time.sleep(0.002)
    return found[0]


def waits(request: Request) -> bool:
    """Return whether it waits."""
    return request.waits_for is not None


@kinds
@places
def test_who_stands_is_listed_and_told_of(arena: Arena, stands: Callable[[Arena], None], place: str) -> None:
    """Its own process lists it while it stands, as what it is, with its line; an event says so in the end, once."""
    kind, name, where = KINDS[stands]
    with capture_logs() as log, held_elsewhere(arena) as (pid, let_go):
        thread = threading.Thread(target=lambda: PLACES[place](arena, stands))
        thread.start()
        found = one(arena.requests, waits)
        time.sleep(HELD)
        longer = one(arena.requests, waits)
        let_go()
        thread.join()
        assert not [each for each in here(arena.native) if waits(each)]
    assert (found.what, found.handler, found.line) == (kind, name, line_of(where, "# here"))
    assert (found.process, found.running, found.request_id) == (os.getpid(), True, None)
    assert (found.waits_for, found.holder, found.holder_process) == ("lock", "held_elsewhere.<locals>.holds", pid)
    assert HELD < longer.waited < 10
    (event,) = [event for event in log if event["event"] == "request.held_up"]
    assert (event["handler"], event["waits_for"], event["pid"]) == (name, "lock", pid)
    assert event["milliseconds"] >= HELD * 1000


@kinds
@places
def test_another_process_is_told_while_the_thread_stands(
    arena: Arena, stands: Callable[[Arena], None], place: str
) -> None:
    """Asked by others it answers, though its thread stands in the wait; who holds the lock is listed as well."""
    kind, name, where = KINDS[stands]

    def elsewhere() -> None:
        arena.listen()
        assert arena.root["stock"] == 1  # from here on it is in the table of processes
        while not _notes.notes(arena.native):
            time.sleep(0.001)
        os.write(ready, b".")
        os.read(begin, 1)
        PLACES[place](arena, stands)

    def holds() -> tuple[Request, Request]:
        with arena.transaction():
            arena.root["other"] = 1
            os.write(held, b".")
            return one(arena.requests, waits), one(lambda: here(arena.native), lambda _: True)

    (listens, ready), (begin, held) = os.pipe(), os.pipe()
    with child(elsewhere) as pid:
        os.read(listens, 1)
        stood, holding = holds()
    assert (stood.what, stood.handler, stood.process, stood.line) == (kind, name, pid, line_of(where, "# here"))
    assert (stood.waits_for, stood.holder_process) == ("lock", os.getpid())
    assert (holding.what, holding.handler.rpartition(".")[2], holding.waits_for) == ("block", "holds", None)
    for end in (listens, ready, begin, held):
        os.close(end)


@pytest.mark.parametrize("stands", [changes, reads, counts])
def test_one_that_waits_in_vain_is_told_of(new_name: Callable[[], str], stands: Callable[[Arena], None]) -> None:
    """After `busy_timeout` it is told of as well, and nothing is left on the list."""
    with Arena.temporary("8 MiB", name=new_name(), busy_timeout=HELD) as arena:
        with arena.transaction():
            arena.root.update(stock=1, other=0)
        with capture_logs() as log, held_elsewhere(arena) as (pid, let_go):
            with pytest.raises(ArenaBusyError, match=f"process {pid} holds it"):
                stands(arena)
            assert here(arena.native) == []
            let_go()
    (event,) = [event for event in log if event["event"] == "request.held_up"]
    assert (event["handler"], event["pid"]) == (KINDS[stands][1], pid)


def test_who_has_had_it_for_the_longest_is_told_of(arena: Arena) -> None:
    """A wait that begins behind a short hold and goes on behind a long one is for the long one."""

    def holds_next() -> None:
        os.read(begin, 1)
        with arena.transaction():
            arena.root["other"] = 2
            time.sleep(3 * HELD)

    begin, now = os.pipe()
    took = 0.0
    while took < 3 * HELD:  # else we were awake just then, and have had it first
        with child(holds_next) as pid, held_elsewhere(arena) as (_, let_go), capture_logs() as log:
            os.write(now, b".")
            while arena.stats().processes < 3:
                time.sleep(0.001)
            timer = threading.Timer(HELD / 2, let_go)
            timer.start()
            time.sleep(HELD / 5)  # in which the other one begins to stand
            at = time.monotonic()
            changes(arena)
            took = time.monotonic() - at
            timer.join()
    os.close(begin)
    os.close(now)
    (event,) = [event for event in log if event["event"] == "request.held_up"]
    assert (event["pid"], event["holder"].rpartition(".")[2]) == (pid, "holds_next")


def test_several_threads_in_one_function(arena: Arena) -> None:
    """Each is listed with the line that its own thread is at."""

    def step(waits: bool) -> None:
        with arena.transaction():
            if waits:
                arena.root["stock"] = 3  # waits
            arena.root["other"] = 1
            held.set()
            over.wait()  # holds

    held, over = threading.Event(), threading.Event()
    holder = threading.Thread(target=step, args=(False,))
    holder.start()
    held.wait()
    others = [threading.Thread(target=step, args=(True,)) for _ in range(2)]
    for thread in others:
        thread.start()
    end = time.monotonic() + 20
    while len(found := here(arena.native)) < 3 or sum(map(waits, found)) < 2:
        assert time.monotonic() < end
    over.set()
    for thread in (holder, *others):
        thread.join()
    assert {(each.waits_for, each.line) for each in found} == {
        (None, line_of(step, "# holds")),
        ("lock", line_of(step, "# waits")),
    }


class Helper:
    """A block that is entered and left by a helper's methods."""

    def __init__(self, arena: Arena) -> None:
        self.block = arena.transaction()

    def __enter__(self) -> None:
        self.block.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.block.__exit__(*error)


@contextlib.contextmanager
def helper(arena: Arena) -> Iterator[None]:
    """Be a block that a generator opens."""
    with arena.transaction():
        yield


@pytest.mark.parametrize("opens", [helper, Helper, lambda arena: entered(arena)], ids=["generator", "class", "stack"])
def test_a_block_that_a_helper_has_opened_is_where_its_thread_is(arena: Arena, opens: Callable[[Arena], Any]) -> None:
    """Its line is the one that runs in it, also where the function that has opened it runs no more."""

    def step() -> None:
        with opens(arena):
            arena.root["stock"] = 3
            held.set()
            over.wait()  # here

    held, over = threading.Event(), threading.Event()
    thread = threading.Thread(target=step)
    thread.start()
    held.wait()
    found = one(lambda: here(arena.native), lambda each: (each.line or "").endswith("step"))
    over.set()
    thread.join()
    assert (found.what, found.running, found.line) == ("block", True, line_of(step, "# here"))


def entered(arena: Arena) -> contextlib.ExitStack:
    """Return a stack that has a block open."""
    stack = contextlib.ExitStack()
    stack.enter_context(arena.transaction())
    return stack


def test_an_independent_block_in_a_request_is_the_request(arena: Arena) -> None:
    """What stands for the lock inside a request is not listed beside it."""

    async def handler() -> None:
        with arena.transaction(independent=True):
            arena.root["stock"] = 4

    with held_elsewhere(arena) as (pid, let_go):
        thread = threading.Thread(target=lambda: asyncio.run(arena.run(handler)))
        thread.start()
        found = one(lambda: here(arena.native), waits)
        assert len(here(arena.native)) == 1
        let_go()
        thread.join()
    assert (found.what, found.handler.rpartition(".")[2], found.waits_for) == ("request", "handler", "lock")
    assert found.holder_process == pid


def test_a_forked_child_does_not_stand(arena: Arena) -> None:
    """Who stands in the parent is not listed in a child that is forked off meanwhile."""
    with held_elsewhere(arena) as (_, let_go):
        thread = threading.Thread(target=reads, args=(arena,))
        thread.start()
        one(lambda: here(arena.native), waits)
        with child(lambda: None if here(arena.native) == [] else os._exit(1)):
            pass
        let_go()
        thread.join()


def test_a_closed_arena_has_nobody(new_name: Callable[[], str]) -> None:
    """Asked of one that is closed there is nobody, and its close is refused while somebody stands."""
    with Arena.temporary("8 MiB", name=new_name()) as arena:
        with arena.transaction():
            arena.root.update(stock=1, other=0)
        with held_elsewhere(arena) as (_, let_go):
            thread = threading.Thread(target=reads, args=(arena,))
            thread.start()
            one(lambda: here(arena.native), waits)
            let_go()
            thread.join()
        native = arena.native
    assert here(native) == []


def test_a_log_pipeline_that_fails_does_not_reach_the_read(arena: Arena, capsys: pytest.CaptureFixture[str]) -> None:
    """What has been read is returned; the exception is on standard error."""

    def fails(*_: Any) -> Any:
        raise ValueError("log")

    with held_elsewhere(arena) as (_, let_go):
        timer = threading.Timer(HELD, let_go)
        timer.start()
        structlog.configure(processors=[fails])
        try:
            assert arena.root["stock"] == 1
        finally:
            structlog.reset_defaults()
            timer.join()
    assert "ValueError: log" in capsys.readouterr().err


def test_a_process_that_was_forked_while_the_lock_was_held_is_seen(arena: Arena) -> None:
    """It has not had the lock so far, and tells all the same that it waits."""

    def elsewhere() -> None:
        let_go()  # its own copy of what the holder waits for
        arena.listen()
        reads(arena)

    with held_elsewhere(arena) as (holder, let_go), child(elsewhere) as pid:
        stood = one(arena.requests, lambda request: waits(request) and request.process == pid)
        let_go()
    assert (stood.what, stood.handler, stood.holder_process) == ("access", "reads", holder)
