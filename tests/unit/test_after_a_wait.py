"""What may happen between a wait for the lock and what goes on after it: the collector runs, others close the arena."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from recoverable import Arena, TransactionClosedError, TransactionError, web
from recoverable._native import journal as native_journal
from recoverable._native.runtime import late
from support.children import child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def arena(name: str) -> Iterator[Arena]:
    """Give one that the test may close."""
    opened = Arena.open(name, "4 MiB", feed="256 KiB")
    with opened.transaction():
        opened.root["n"] = 1
    try:
        yield opened
    finally:
        opened.close()
        Arena.unlink(name)


@contextlib.contextmanager
def held(arena: Arena, then: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Have a thread hold the lock until another has stood for it for so long that this is told; then call `then`."""
    holds = threading.Event()

    def stands() -> bool:
        return any(transaction.blocked for transaction in arena.native.transactions())

    def hold() -> None:
        with arena.transaction():
            arena.root["n"] = 2
            holds.set()
            while not arena.native.standing and not stands():
                time.sleep(0.002)
            time.sleep(late + 0.02)
            then()

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(10)
    try:
        yield
    finally:
        thread.join()


@contextlib.contextmanager
def collecting(does: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Call something whenever the collector runs in this thread, from the first call of what this gives on."""
    own, before, on = threading.get_ident(), gc.get_threshold(), False

    def begin() -> None:
        nonlocal on
        on = True
        gc.set_threshold(1)

    def collects(phase: str, _: object) -> None:
        nonlocal on
        if on and phase == "start" and threading.get_ident() == own:
            on = False
            with contextlib.suppress(TransactionError):
                does()
            on = True

    gc.callbacks.append(collects)
    try:
        yield begin
    finally:
        on = False
        gc.callbacks.remove(collects)
        gc.set_threshold(*before)


def deep(function: Callable[[], Any], n: int = 20) -> Any:
    """Call it below some functions, which are made objects of where it has to be said who waited."""
    return function() if n == 0 else deep(function, n - 1)


def hoard() -> list[Any]:
    """Use up what the interpreter keeps for new lists and tuples: it then asks the collector."""
    return [
        [[] for _ in range(200)],
        [(n,) for n in range(3000)],
        [(n, n) for n in range(3000)],
        [(n, n, n) for n in range(3000)],
    ]


@pytest.mark.parametrize("use", [lambda arena: arena.root["n"], lambda arena: arena.verify()], ids=["read", "verify"])
def test_the_collector_closes_it(arena: Arena, use: Callable[[Arena], object]) -> None:
    """What the collector calls finds the arena in use; or closed, which whoever has waited is told of."""
    with collecting(arena.close) as begin, held(arena, begin):
        kept = hoard()
        with contextlib.suppress(TransactionClosedError):
            deep(lambda: use(arena))
        del kept


@pytest.mark.parametrize("write", [False, True], ids=["read", "block"])
def test_the_collector_may_read(arena: Arena, write: bool) -> None:
    """It may end a read that tells of the waits so far: the one that is being noted comes after that."""

    def writes() -> None:
        with arena.transaction():
            arena.root["n"] = 3

    with capture_logs() as log:
        with collecting(lambda: arena.root["n"]) as begin, held(arena, begin):
            kept = hoard()
            deep(writes if write else lambda: arena.root["n"])
            del kept
        arena.root["n"]
    assert [event["event"] for event in log] == ["request.held_up"]


@pytest.mark.parametrize("may", [False, True])
async def test_another_thread_closes_it_while_a_request_asks(
    arena: Arena, monkeypatch: pytest.MonkeyPatch, may: bool
) -> None:
    """A request finds the lock taken, and Python code finds out whether it may begin again."""

    def may_rerun(request: object) -> bool:
        thread = threading.Thread(target=arena.close)
        thread.start()
        thread.join()
        return may

    monkeypatch.setattr(web, "may_rerun", may_rerun)
    with holding_elsewhere(arena):
        with pytest.raises(TransactionClosedError):
            await arena.run(reads, arena)
        assert arena.closed


async def reads(arena: Arena) -> None:
    """Be a handler that reads."""
    arena.root["n"]


@contextlib.contextmanager
def holding_elsewhere(arena: Arena) -> Iterator[None]:
    """Have another process hold the lock meanwhile."""
    (held, holds), (end, ends) = os.pipe(), os.pipe()

    def hold() -> None:
        os.close(ends)
        with arena.transaction():
            arena.root["n"] = 2
            os.write(holds, b".")
            os.read(end, 1)

    with child(hold):
        assert os.read(held, 1)
        try:
            yield
        finally:
            os.close(ends)
    for each in (held, holds, end):
        os.close(each)


def test_whoever_is_told_of_it_closes_it(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's log pipeline may: what was read before is of one moment."""
    monkeypatch.setattr("recoverable.events.request_held_up", lambda *_: arena.close())
    with held(arena):
        assert native_journal.snapshot_begin(arena.native)[1] > 0
    assert arena.closed


def test_it_is_closed_before_a_question_is_awaited(arena: Arena) -> None:
    """What is asked whether to go on closes it."""

    def goes_on() -> bool:
        arena.close()
        return True

    assert arena.native.await_question(goes_on) is False
