"""Closing an arena while other threads use it: each of them gets an answer or a named error, and close() never hangs."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, ArenaBusyError, TransactionClosedError, TransactionError, recoverable
from recoverable.errors import RecoverableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USES: dict[str, Callable[[Arena], object]] = {
    "stats": lambda arena: arena.stats(),
    "verify": lambda arena: arena.verify(),
    "processes": lambda arena: arena.processes(),
    "working_sets": lambda arena: arena.working_sets(),
    "profiles": lambda arena: setattr(arena, "profiles", arena.profiles),
    "recovered": lambda arena: arena.recovered,
    "record": lambda arena: _record(arena),
    "root": lambda arena: arena.root["x"],
    "items": lambda arena: list(arena.root["d"].items()),
    "len": lambda arena: len(arena.root["d"]),
    "write": lambda arena: _write(arena),
    "run": lambda arena: _run(arena),
    "native": lambda arena: (
        arena.native.busy_timeout,
        arena.native.pending(),
        arena.native.privileged_here(),
        arena.native.read_tallies(),
        arena.native.raw_count(),
    ),
    "repr": lambda arena: (repr(arena), repr(arena.root), arena.name, arena.size, arena.closed),
}


def _write(arena: Arena) -> None:
    with arena.transaction():
        arena.root["x"] += 1
        with arena.savepoint():
            arena.root["x"] += 1


def _run(arena: Arena) -> None:
    @recoverable(arena=arena)
    async def handler() -> None:
        arena.root["x"] += 1

    coroutine: Any = handler()
    try:
        coroutine.send(None)
    except StopIteration:
        pass
    finally:
        coroutine.close()


def _record(arena: Arena) -> None:
    with arena.record(announced=True) as recorder:
        _write(arena)
        len(recorder.recording)


@pytest.fixture
def impatient() -> Iterator[None]:
    """Switch threads as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_every_method_against_close(name: str, impatient: None, use: str) -> None:
    """Two threads use an arena that is opened and closed again and again: no crash, and only errors with a name."""
    now: list[Arena | None] = [None]
    stop = threading.Event()
    strange: list[BaseException] = []
    counts = [0, 0]

    def uses() -> None:
        while not stop.is_set():
            arena = now[0]
            try:
                if arena is not None:
                    USES[use](arena)
                    counts[0] += 1
            except RecoverableError:
                counts[1] += 1
            except BaseException as error:
                strange.append(error)
                return

    with Arena.open(name, "4 MiB") as first, first.transaction():
        first.root.update(x=1, d={n: [n] for n in range(50)})
    threads = [threading.Thread(target=uses) for _ in range(2)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 0.3
    opened = []
    while time.monotonic() < end:
        arena = Arena.open(name)
        opened.append(arena)
        now[0] = arena
        time.sleep(0.0005)
        try:
            arena.close()
        except TransactionError:
            assert not arena.closed
    stop.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    for arena in opened:
        arena.close()
    assert strange == []
    assert counts[0]
    with Arena.open(name) as last:
        last.verify()


def test_a_thread_that_waits_for_the_lock_keeps_it_open(name: str) -> None:
    """close() is refused at once while another thread waits, and works when that has its answer."""
    arena = Arena.open(name, "4 MiB", busy_timeout=0.3)
    inside, go_on, waiting = threading.Event(), threading.Event(), threading.Event()
    got: list[object] = []

    def holds() -> None:
        with arena.transaction():
            arena.root["x"] = 1
            inside.set()
            go_on.wait(10)

    def waits() -> None:
        waiting.set()
        try:
            got.append(arena.verify())
        except ArenaBusyError as error:
            got.append(error)

    threads = [threading.Thread(target=holds), threading.Thread(target=waits)]
    threads[0].start()
    inside.wait(10)
    threads[1].start()
    waiting.wait(10)
    time.sleep(0.05)
    begun = time.monotonic()
    with pytest.raises(TransactionError, match="another thread is using it"):
        arena.close()
    assert time.monotonic() - begun < 2
    go_on.set()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    arena.close()


def test_handles_of_a_closed_arena(name: str) -> None:
    """Whatever is left of it says that it is closed: transactions, blocks, iterators, handles, tools."""
    arena = Arena.open(name, "4 MiB")
    with arena.transaction():
        arena.root["d"] = {"a": 1}
    root, inner, iterator = arena.root, arena.root["d"], iter(arena.root["d"])
    fresh = arena.transaction()
    native = arena.native
    arena.close()
    for use in (
        lambda: root["d"],
        lambda: inner["a"],
        lambda: next(iterator),
        fresh.__enter__,
        arena.stats,
        arena.verify,
        arena.processes,
        arena.working_sets,
        arena.transaction,
        arena.savepoint,
        lambda: arena.recovered,
        lambda: native.wait_for_lock(),
        lambda: native.recorded(),
    ):
        with pytest.raises(TransactionClosedError):
            use()


def test_a_transaction_whose_arena_another_thread_has_closed(name: str, new_name: Callable[[], str]) -> None:
    """It is rolled back; its block says so, and the thread can use other arenas inside it."""
    with Arena.temporary("4 MiB", name=new_name()) as other:
        arena = Arena.open(name, "4 MiB")
        with pytest.raises(TransactionClosedError), arena.transaction():
            thread = threading.Thread(target=arena.close)
            thread.start()
            thread.join()
            assert arena.closed
            with other.transaction():
                other.root["x"] = 1
            assert other.root["x"] == 1
            arena.root["x"] = 1
