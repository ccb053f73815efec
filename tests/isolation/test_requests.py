"""`arena.requests()`: what is in flight, where it is, and what it waits for; of this process, and of others that are asked."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

import recoverable
from recoverable import Arena, Array, Request, TransactionError, attempt, inflight
from recoverable._native import _notes
from recoverable._native.runtime import own_thread
from recoverable.inflight import _read, _written, answer_of
from support.children import child
from support.hanging import helper, line_of, running, serving
from support.segments import path_of


async def test_one_that_awaits(arena: Arena) -> None:
    """It has handler, process, age, run and step, and the line of the program's own code that it awaits at."""

    @recoverable.recoverable(arena=arena)
    async def handler() -> None:
        arena.root["a"] = 1
        await asyncio.sleep(0)
        arena.root["b"] = 1
        await helper()

    @recoverable.recoverable(arena=arena)
    async def touches_nothing() -> None:
        await helper()

    async with running(handler(), touches_nothing()):
        first, second = arena.requests()
    assert (first.handler, first.process, first.run, first.step) == (handler.__qualname__, os.getpid(), 1, 3)
    assert (second.handler, second.step) == (touches_nothing.__qualname__, 1)
    assert all(0 <= each.age < 5 for each in (first, second))
    for request in (first, second):
        assert request.line == line_of(helper, "# here")
        assert (request.running, request.waits_for, request.waited, request.holder) == (False, None, 0.0, None)
    assert arena.requests() == []


async def test_the_oldest_comes_first_however_long_asking_takes(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ages are of the moments when they were asked for."""

    @recoverable.recoverable(arena=arena)
    async def first() -> None:
        await helper()

    @recoverable.recoverable(arena=arena)
    async def second() -> None:
        await helper()

    def slowly(*args: Any) -> Any:
        found = asked(*args)
        time.sleep(0.02)
        return found

    asked = inflight._request
    monkeypatch.setattr(inflight, "_request", slowly)
    async with running(first(), second()):
        assert [each.handler.rpartition(".")[2] for each in arena.requests()] == ["first", "second"]


async def test_its_id_is_that_of_its_events(arena: Arena) -> None:
    """The id that it is listed with is the one that its events have, also after another run."""

    async def handler() -> None:
        arena.root["a"] = 1
        if attempt() == 1:
            ids.extend(request.request_id for request in arena.requests())
        raise ValueError

    ids: list[str | None] = []
    with capture_logs() as log, pytest.raises(ValueError):
        await arena.run(handler, retries=1)
    assert {event["request_id"] for event in log} == set(ids)
    assert len(ids) == 1


async def test_a_run_after_the_first_keeps_the_age(arena: Arena) -> None:
    """The age is the request's, not the run's."""

    async def handler() -> None:
        arena.root["a"] = 1
        if attempt() == 1:
            await asyncio.sleep(0.1)
            raise ValueError
        await helper()

    async with running(arena.run(handler, retries=1)):
        await asyncio.sleep(0.12)
        (request,) = arena.requests()
    assert (request.run, request.age > 0.1, request.line) == (2, True, line_of(helper, "# here"))


async def test_one_that_runs_while_its_loop_stands_still(arena: Arena) -> None:
    """Asked from another thread, one whose code blocks the event loop is listed with the line that it runs."""

    async def blocks() -> None:
        arena.root["a"] = 1
        seen.extend(await_thread(arena.requests))

    def await_thread(function: Callable[[], list[Request]]) -> list[Request]:
        found: list[Request] = []
        thread = threading.Thread(target=lambda: (time.sleep(0.01), found.extend(function())))
        thread.start()
        thread.join()  # blocked
        return found

    seen: list[Request] = []
    await arena.run(blocks)
    (request,) = seen
    assert request.running
    assert request.line == line_of(await_thread, "# blocked")


async def test_what_is_awaited_in_parts_and_inside(arena: Arena) -> None:
    """One that awaits its parts is one request; so is one that awaits an independent transaction, at the line of that."""

    async def part() -> None:
        await helper()

    async def parts() -> None:
        arena.root["a"] = 1
        await recoverable.gather(part(), part())  # parts

    async def outer() -> None:
        await arena.run(part, nested="independent")

    async with running(arena.run(parts)):
        (request,) = arena.requests()
    assert request.line == line_of(parts, "# parts")
    async with running(arena.run(outer)):
        (request,) = arena.requests()
    assert (request.handler.rpartition(".")[2], request.line) == ("outer", line_of(helper, "# here"))


async def change_in_thread(arena: Arena) -> None:
    """Change the stock outside of the request that runs."""

    def change() -> None:
        with arena.transaction():
            arena.root["stock"] += 100

    await asyncio.get_running_loop().run_in_executor(None, change)


async def loses_then_hangs(arena: Arena) -> None:
    """Lose once at the stock, and hang in the second run."""
    left = arena.root["stock"]
    arena.root["other"] = left
    if attempt() == 1:
        await change_in_thread(arena)
    else:
        await helper()
    arena.root["stock"] = left - 1


@pytest.fixture
def shop(arena: Arena) -> Arena:
    """Give an arena with a number."""
    with arena.transaction():
        arena.root.update(stock=10**6, other=0)
    return arena


async def test_behind_a_turn(shop: Arena) -> None:
    """One that has lost, and waits for its turn, is listed between its runs, with whom it waits for and where."""

    async def behind() -> None:
        left = shop.root["stock"]
        await change_in_thread(shop)
        shop.root["stock"] = left - 1

    async with running(shop.run(loses_then_hangs, shop)):
        await asyncio.sleep(0.05)
        async with running(shop.run(behind)):
            await asyncio.sleep(0.1)
            hangs, waits = shop.requests()
        assert [request.handler for request in shop.requests()] == ["loses_then_hangs"]
    assert (hangs.run, hangs.line) == (2, line_of(helper, "# here"))
    assert (waits.handler.rpartition(".")[2], waits.run, waits.step, waits.line) == ("behind", 1, 0, None)
    assert (waits.waits_for, waits.holder, waits.holder_process) == ("turn", "loses_then_hangs", os.getpid())
    assert (waits.path, waits.key) == ("root", "'stock'")
    assert 0.02 < waits.waited < 1


async def test_behind_a_privileged_run(shop: Arena) -> None:
    """One that gives way to it before it commits is listed with it."""

    async def hurts() -> None:
        shop.root["stock"] = 5

    async with running(shop.run(loses_then_hangs, shop, max_conflicts=1)):
        await asyncio.sleep(0.05)
        async with running(shop.run(hurts)):
            _, waits = shop.requests()
    assert (waits.waits_for, waits.holder, waits.holder_process) == ("privilege", "loses_then_hangs", os.getpid())


@pytest.mark.crash
def test_behind_the_lock(shop: Arena) -> None:
    """A thread that stands still for the lock of another process is listed with that one."""
    reader, writer = os.pipe()
    found: list[Request] = []

    def holds() -> None:
        with shop.transaction():
            shop.root["other"] = 1
            os.write(writer, b".")
            time.sleep(0.3)

    def blocked() -> None:
        with shop.transaction():
            shop.root["stock"] = 1

    with child(holds) as pid:
        os.read(reader, 1)
        thread = threading.Thread(target=blocked)
        thread.start()
        time.sleep(0.05)
        found += shop.requests()
        thread.join()
    (request,) = found
    assert (request.handler.rpartition(".")[2], request.waits_for, request.holder_process) == ("blocked", "lock", pid)
    assert (request.request_id, request.line) == (None, line_of(blocked, '["stock"]'))
    os.close(reader)
    os.close(writer)


async def test_two_loops_in_two_threads(shop: Arena) -> None:
    """Those of all event loops are listed, whoever asks."""
    ready, over = threading.Event(), threading.Event()

    async def elsewhere() -> None:
        async with running(shop.run(helper)):
            ready.set()
            await asyncio.get_running_loop().run_in_executor(None, over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    await asyncio.get_running_loop().run_in_executor(None, ready.wait)
    async with running(shop.run(helper)):
        assert [request.line for request in shop.requests()] == [line_of(helper, "# here")] * 2
    over.set()
    thread.join()


# -- other processes -------------------------------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.crash
async def test_of_another_process_until_it_is_killed(arena: Arena) -> None:
    """They are told at once, with their lines; a child that was forked off tells of its own alone; the dead are not shown."""
    arena.listen()  # which the child is not to inherit
    async with running(arena.run(helper)):
        with serving(arena) as pid:
            begun = time.monotonic()
            found = arena.requests()
            assert time.monotonic() - begun < 0.15
            assert {(request.process, request.line) for request in found} == {
                (os.getpid(), line_of(helper, "# here")),
                (pid, line_of(helper, "# here")),
            }
            os.kill(pid, signal.SIGKILL)
            await asyncio.get_running_loop().run_in_executor(
                None, wait_for, lambda: len(_notes.notes(arena.native)) == 1
            )
            assert [request.process for request in arena.requests()] == [os.getpid()]


@pytest.mark.crash
def test_more_than_there_is_room_for(arena: Arena) -> None:
    """The oldest are told of, and how many there are; two processes share the room, and what the dead had is taken again."""
    for _ in range(2):
        with serving(arena, 100) as first, serving(arena, 10) as second:
            arena.requests()  # now each knows of the other
            found = arena.requests()
            assert [request.process for request in found].count(first) == 32
            assert [request.process for request in found].count(second) == 10
            assert sorted(teller.in_flight for teller in _notes.notes(arena.native)) == [10, 100]


@pytest.mark.crash
def test_one_that_can_not_answer_is_silent(arena: Arena) -> None:
    """Code that holds the GIL keeps its process from answering: it is waited for 200 ms, and told apart."""
    reader, writer = os.pipe()

    def inside() -> None:
        arena.listen()
        wait_for(lambda: bool(_notes.notes(arena.native)))
        os.write(writer, b".")
        ctypes.PyDLL(None).usleep(900_000)

    with child(inside) as pid:
        os.read(reader, 1)
        time.sleep(0.1)  # it holds the GIL now
        begun = time.monotonic()
        answer = answer_of(lambda ask: (arena.native.ask() if ask else None, _notes.notes(arena.native))[1])
        assert time.monotonic() - begun < 0.5
        assert (answer.requests, answer.silent) == ([], [pid])
        assert arena.requests() == []
        os.kill(pid, signal.SIGKILL)
    os.close(reader)
    os.close(writer)


@pytest.mark.crash
def test_bytes_that_are_no_note_harm_nobody(name: str, seed: int) -> None:
    """Whatever lies in the table, who reads it gets requests, or none."""
    rng = random.Random(seed)
    with Arena.open(name, "8 MiB") as arena, serving(arena) as pid:
        assert [request.process for request in arena.requests()] == [pid]
        with path_of(name).open("r+b") as file:
            at = file.read(1 << 20).index(b'["helper",')
            for _ in range(50):
                file.seek(at - 8)
                file.write(rng.randbytes(rng.choice([4, 8, 40, 400])))
                file.flush()
                for teller in _notes.notes(arena.native):
                    assert all(
                        each is None or isinstance(each, Request) for each in (_read(n, 1) for n in teller.notes)
                    )
        assert [request.process for request in arena.requests()] == [pid]


def test_notes_are_read_as_they_were_written() -> None:
    """What fits comes back as it was; what is too long is cut, and nothing that is no note is one."""
    request = Request("h", 7, 1.5, "id", 2, 3, "a.py:1 in f", True, "turn", 0.25, "other", 9, "root", "'key'", "block")
    assert _read(_written(request), 7) == request
    long = Request("ħ" * 99, 7, 1.5, "i" * 128, 2, 3, "€" * 999, False, "turn", 0.25, "o" * 40, 9, "p" * 999, "𝄞" * 999)
    assert len(_written(long)) <= 488
    read = _read(_written(long), 7)
    assert read is not None
    assert (read.age, read.run, read.step, read.waits_for) == (1.5, 2, 3, "turn")
    for note in (b"", b"\xff", b"[]", b"{}", b"[" * 488, b"7", json.dumps(["x"] * 14).encode(), b"[1e999,-1,NaN]"):
        assert _read(note, 7) is None or isinstance(_read(note, 7), Request)


def test_processes_with_one_id_are_told_apart() -> None:
    """In containers each process may be number 1: one's answer is not taken for another's silence."""
    note = _written(Request("h", 1, 1.5, "id", 1, 1, None, False, None, 0.0, None, 0, None, None))

    def look(ask: bool) -> list[_notes.Teller]:
        asked.append(ask)
        new = len(asked) > 1
        return [
            _notes.Teller(1, 10, 3 + new, 1, True, False, [note]),
            _notes.Teller(1, 20, 90 + new, 1, True, False, [note]),
            _notes.Teller(1, 30, 7, 1, True, False, [note]),  # says nothing
        ]

    asked: list[bool] = []
    answer = answer_of(look)
    assert (len(answer.requests), answer.in_flight, answer.silent) == (2, 2, [1])


# -- the thread that tells -------------------------------------------------------------------------------------------------------


def listeners() -> int:
    """Count the threads that tell."""
    return sum(thread.name == "recoverable-requests" for thread in threading.enumerate())


def test_the_thread_ends_with_its_arena(new_name: Callable[[], str]) -> None:
    """One an arena, however often it is begun; closing ends it; each arena has its own."""
    with Arena.open(new_name(), "8 MiB") as one, Arena.open(new_name(), "8 MiB") as other:
        one.listen()
        one.listen()
        other.listen()
        assert (listeners(), own_thread(0)) == (2, 2)
        one.close()
        assert (listeners(), own_thread(0)) == (1, 1)
        assert other.requests() == []
    assert (listeners(), own_thread(0)) == (0, 0)


def test_a_thread_that_can_not_be_started_is_not_counted(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's own threads are not taken for the library's, which are known to store nothing through raw views."""

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(RuntimeError, match="new thread"):
        arena.listen()
    assert own_thread(0) == 0


@pytest.mark.crash
def test_a_forked_child_has_none_of_the_threads(arena: Arena) -> None:
    """It counts its own alone, and may have one."""
    arena.listen()

    def counts() -> None:
        assert own_thread(0) == 0
        arena.listen()
        assert own_thread(0) == 1

    with child(counts):
        pass


def test_an_arena_that_can_not_be_closed_goes_on_telling(arena: Arena) -> None:
    """A close that is refused leaves it as it was."""
    pytest.importorskip("numpy")
    with arena.transaction():
        arena.root["a"] = Array(10, "i8")
    arena.listen()
    view = arena.root["a"].view
    with pytest.raises(TransactionError, match="raw buffer"):
        arena.close()
    assert listeners() == 1
    del view


@pytest.mark.crash
def test_asked_while_arenas_are_opened_and_closed(new_name: Callable[[], str]) -> None:
    """Closing while others ask, again and again, neither hangs nor crashes."""
    name = new_name()
    with Arena.open(name, "8 MiB") as arena:
        reader, writer = os.pipe()

        def asks() -> None:
            os.write(writer, b".")
            for _ in range(40):
                arena.requests()

        with child(asks):
            os.read(reader, 1)
            for _ in range(40):
                with Arena.temporary("8 MiB") as other:
                    other.listen()
                arena.listen()
                arena.native.listener.end()
                arena.native.listener = None
        os.close(reader)
        os.close(writer)


def test_one_listens_however_many_begin_at_once(name: str) -> None:
    """First requests of several loops, each in a thread of its own: one thread tells, and the arena can be closed."""
    for _ in range(20):
        with Arena.temporary("4 MiB", name=name) as arena:
            ready = threading.Barrier(8)

            def begin(arena: Arena = arena, ready: threading.Barrier = ready) -> None:
                ready.wait()
                arena.listen()

            threads = [threading.Thread(target=begin) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert [each.name for each in threading.enumerate()].count("recoverable-requests") == 1
