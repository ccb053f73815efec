"""Where the page tracker meets the kernel's limits, other handlers of SIGSEGV, fork and threads.

What would end or bend the process runs in a forked child.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recoverable import Arena, Array, TransactionClosedError
from recoverable._native import _core
from support.forks import in_child

DUMP = os.open(os.devnull, os.O_WRONLY)
PAGE = os.sysconf("SC_PAGE_SIZE")
MAPS = int(Path("/proc/sys/vm/max_map_count").read_text())


def maps() -> int:
    """Count this process's map entries."""
    with Path("/proc/self/maps").open() as lines:
        return sum(1 for _ in lines)


@pytest.mark.slow
@pytest.mark.skipif(MAPS > 300_000, reason=f"vm.max_map_count is {MAPS}: this would take too much memory")
@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_more_scattered_pages_than_the_kernel_has_map_entries_for(how: str, name: str) -> None:
    """Every other page of a big Array is written raw: pages are unprotected in blocks, and all is found and undone."""
    pages = 2 * MAPS + 2000

    def run() -> dict[str, int]:
        with Arena.temporary(pages * PAGE + (64 << 20), name=name, undo_size="1 GiB") as arena:
            with arena.transaction():
                arena.root["a"] = Array((pages, PAGE), "u1")
            a = arena.root["a"]
            with contextlib.suppress(ZeroDivisionError), arena.transaction():
                view = a.view
                for page in range(0, pages, 2):
                    view[page, page % PAGE] = 1
                del view
                if how == "rollback":
                    raise ZeroDivisionError
            expected = 1 if how == "commit" else 0
            for page in range(0, pages, 4999 * 2):
                assert a[page, page % PAGE] == expected
            with arena.transaction():
                view = a.view
                assert int(view[::2].sum(dtype="u8")) == expected * len(range(0, pages, 2))
                del view
            assert maps() < 2000
            with arena.transaction():  # the tracker still finds single pages
                view = a.view
                view[5, 5] = 7
                del view
            assert a[5, 5] == 7
            assert arena.verify().leaked_blocks == 0
            return {"fallbacks": arena.stats().map_fallbacks, "traps": arena.stats().traps}

    ending = in_child(run, 60)
    assert ending.returned, ending
    print(ending.value)
    assert ending.value["fallbacks"] > 0


@pytest.mark.slow
def test_hot_pages_scattered_beyond_the_limit_stay_right(name: str) -> None:
    """Pages that become hot one by one take map entries too; writes to them commit and roll back all the same."""
    pages = 3000

    def run() -> int:
        with Arena.temporary("64 MiB", name=name) as arena:
            with arena.transaction():
                arena.root["a"] = Array((pages, PAGE // 8), "i8")
            a = arena.root["a"]
            for turn in range(1, 5):
                with arena.transaction():
                    view = a.view
                    view[::2, 0] = turn
                    del view
                with contextlib.suppress(ZeroDivisionError), arena.transaction():
                    view = a.view
                    view[::2, 0] = -1
                    view[1::2, 1] = -1
                    del view
                    raise ZeroDivisionError
                items = np.asarray(a)
                assert (items[::2, 0] == turn).all()
                assert not items[1::2].any()
            arena.verify()
            return arena.stats().hot_pages

    ending = in_child(run, 60)
    assert ending.returned, ending
    assert ending.value > 0


def dies_of(function: Any, number: int) -> None:
    """Check that the child is killed by that signal."""
    ending = in_child(function)
    assert ending.signal == number, ending


def quiet() -> None:
    """Let a dying child print nothing, and dump no core."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("dump", [False, True])
def test_a_foreign_segfault_still_kills(inside: bool, dump: bool, name: str) -> None:
    """A wild pointer is not ours: the process dies of it as it would have, with faulthandler or without."""

    def run() -> None:
        quiet()
        faulthandler.disable()
        arena = Arena.open(name, size="2 MiB")
        if dump:
            faulthandler.enable(DUMP)
        with contextlib.ExitStack() as stack:
            if inside:
                stack.enter_context(arena.transaction())
                arena.root["x"] = 1
            ctypes.memset(8, 1, 1)

    dies_of(run, signal.SIGSEGV)
    with Arena.open(name, create=False) as arena:
        assert arena.root == {}


@pytest.mark.parametrize("after", ["nothing", "a trap", "a trap in this step", "faulthandler"])
def test_kill_minus_segv_kills(after: str, name: str) -> None:
    """SIGSEGV sent by kill is somebody's wish, not a fault of ours."""

    def run() -> None:
        quiet()
        faulthandler.disable()
        with Arena.open(name, size="2 MiB") as arena:
            with arena.transaction():
                arena.root["a"] = Array(2000, "i8")
            if after == "a trap":
                with arena.transaction():
                    arena.root["a"].view[0] = 1
            if after == "faulthandler":
                faulthandler.enable(DUMP)
            with arena.transaction():
                if after == "a trap in this step":
                    arena.root["a"].view[1000] = 1
                os.kill(os.getpid(), signal.SIGSEGV)
            with arena.transaction():  # it must not get here
                arena.root["survived"] = True

    dies_of(run, signal.SIGSEGV)
    with Arena.open(name, create=False) as arena:
        assert "survived" not in arena.root


def test_a_later_faulthandler_is_chained_to_and_does_not_break_tracking(name: str) -> None:
    """After faulthandler.enable(DUMP) raw writes are still found, and the handler is ours again at the next step."""

    def run() -> None:
        quiet()
        faulthandler.disable()
        with Arena.open(name, size="2 MiB") as arena:
            with arena.transaction():
                arena.root["a"] = Array(5000, "i8")
            for turn in range(1, 4):
                faulthandler.enable(DUMP)
                with contextlib.suppress(ZeroDivisionError), arena.transaction():
                    arena.root["a"].view[[0, 700, 2000]] = -1
                    raise ZeroDivisionError
                with arena.transaction():
                    view = arena.root["a"].view
                    faulthandler.disable()
                    faulthandler.enable(DUMP)  # in the middle of a step
                    view[[1, 701, 4000]] = turn
                    del view
                items = arena.root["a"].to_python()
                assert [items[i] for i in (0, 700, 2000, 1, 701, 4000)] == [0, 0, 0, turn, turn, turn]
            _core.handler_mend()
            assert _core.handler_installed()

    ending = in_child(run)
    assert ending.returned, ending


def test_a_forked_child_and_its_parent_both_use_the_arena(name: str) -> None:
    """The child takes its own slot; what was in flight in the parent is closed to it and goes on in the parent."""
    from support.workers import Request, pause

    with Arena.temporary("4 MiB", name=name) as arena:
        with arena.transaction():
            arena.root["a"] = Array(2000, "i8")

        async def work() -> None:
            arena.root["parent"] = 1
            arena.root["a"].view[3] = 3
            await pause()
            arena.root["parent"] += 1

        request = Request(arena, work)
        request.step()
        held = arena.root["a"]

        def child() -> list[int]:
            with pytest.raises(TransactionClosedError):
                request.step()
            assert "parent" not in arena.root
            with arena.transaction():
                arena.root["child"] = os.getpid()
                held.view[1000] = 4
            assert held[3] == 0
            arena.verify()
            return arena.processes()

        ending = in_child(child)
        assert ending.returned, ending
        assert os.getpid() in ending.value
        assert len(ending.value) == 2
        assert held[1000] == 4
        request.step()
        assert (arena.root["parent"], held[3]) == (2, 3)
        assert arena.processes() == [os.getpid()]
        assert arena.verify().leaked_blocks == 0


def test_a_fork_in_the_middle_of_a_step_leaves_it_to_the_parent(name: str) -> None:
    """A child forked inside a step writes nothing of it, whatever it does, and cannot commit it."""
    with Arena.temporary("4 MiB", name=name) as arena:
        with arena.transaction():
            arena.root["a"] = Array(2000, "i8")
        with arena.transaction():
            arena.root["x"] = 1
            view = arena.root["a"].view
            view[0] = 1

            def child() -> None:
                with contextlib.suppress(Exception):
                    view[1] = 9
                with contextlib.suppress(Exception):
                    view[1500] = 9
                with pytest.raises(TransactionClosedError):
                    arena.root["x"] = 2

            ending = in_child(child)
            assert ending.returned, ending
            view[2] = 2
            view = None
        assert arena.root["x"] == 1
        assert [arena.root["a"][i] for i in (0, 1, 2, 1500)] == [1, 0, 2, 0]
        arena.verify()


def test_stray_writes_reach_nobody_and_are_reported(arena: Arena, log: list[dict[str, Any]]) -> None:
    """Raw stores outside a step land in a private copy, and write.stray says so at the end of the next one."""
    with arena.transaction():
        arena.root["a"] = Array(3000, "i8")
    with arena.transaction():
        view = arena.root["a"].view
    view[5] = 5  # outside any step
    assert arena.root["a"][5] == 0
    with arena.transaction():
        view[1000] = 1  # a view that has outlived its transaction is the running one's
        view[1001] = 2
    assert [event["writes"] for event in log if event["event"] == "write.stray"] == [1]
    assert [arena.root["a"][i] for i in (5, 1000, 1001)] == [0, 1, 2]
    assert view[5] == 0
    del view
    assert arena.stats().strays == 1
    arena.verify()


def test_threads_outside_a_transaction_read_committed_state(arena: Arena) -> None:
    """A thread that reads while a step runs waits for its end; one that writes without a transaction is refused."""
    from recoverable import NoTransactionError

    with arena.transaction():
        arena.root["x"] = 0
    seen: list[Any] = []
    begun = threading.Event()

    def read() -> None:
        begun.set()
        seen.append(arena.root["x"])
        try:
            arena.root["x"] = 9
        except NoTransactionError as error:
            seen.append(type(error))
        with arena.transaction():
            arena.root["x"] += 10

    thread = threading.Thread(target=read)
    with arena.transaction():
        arena.root["x"] = 1
        thread.start()
        begun.wait()
        sys.setswitchinterval(1e-5)
        for _ in range(2000):
            arena.root["x"] += 1
    sys.setswitchinterval(5e-3)
    thread.join()
    assert seen == [2001, NoTransactionError]
    assert arena.root["x"] == 2011
