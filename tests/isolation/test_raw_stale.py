"""A view kept after its Array was deleted or rolled back, whatever lies in that memory now."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from recoverable import Arena, Array, StaleReferenceError
from support.forks import in_child
from support.workers import Request, pause

np = pytest.importorskip("numpy")

PAGE = 4096
memset = ctypes.CDLL(None).memset
memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]


@pytest.fixture(params=["incremental", "full", "trap"])
def arena(request: pytest.FixtureRequest, name: str) -> Iterator[Arena]:
    """Give an arena with two Arrays beside each other, "a" that will be deleted and "c" that stays; in trap mode, too."""
    trap = request.param == "trap"
    policy = "full" if trap else request.param
    with Arena.temporary("16 MiB", name=name, policy=policy, tracking="trap" if trap else "hybrid") as arena:
        with arena.transaction():
            arena.root["a"], arena.root["c"] = Array(PAGE * 4, "u1"), Array(PAGE * 8, "u1")
        yield arena


class Kept:
    """Views of both Arrays, made by one transaction that has ended; "a" is deleted since, and its memory free."""

    def __init__(self, arena: Arena) -> None:
        with arena.transaction():
            self.a, self.c = arena.root["a"].view, arena.root["c"].view
        with arena.transaction():
            del arena.root["a"]
        for i in range(3):  # its memory is freed at the end of a later step
            with arena.transaction():
                arena.root["n"] = i


def put_another(arena: Arena, kept: Kept, how: str) -> None:
    """Make the Array "b" in that memory."""
    pages = 3 if how == "in its middle" else 4
    with arena.transaction():
        if pages == 3:
            arena.root["b0"] = Array(PAGE, "u1")
        arena.root["b"] = Array(PAGE * pages, "u1")
    if how == "hot":
        for value in (1, 2, 3, 0):
            with arena.transaction():
                arena.root["b"].view[::PAGE] = value
    if how != "never viewed":
        with arena.transaction():
            arena.root["b"].view[0] = 0
    assert_same_memory(arena, kept, 4 - pages)


def assert_same_memory(arena: Arena, kept: Kept, page: int) -> None:
    """Check that "b" begins at that page of the kept view: else nothing is tested."""
    for value in (9, 0):
        with arena.transaction():
            arena.root["b"][1] = value
        assert kept.a[page * PAGE + 1] == value


def in_thread(fn: Any, *args: Any) -> None:
    """Call it in a thread of its own and wait for it."""
    thread = threading.Thread(target=fn, args=args)
    thread.start()
    thread.join()


def assert_whole(arena: Arena) -> None:
    """Check that nothing of the refused transaction is there, and that the arena goes on."""
    assert not arena.root["b"][:].any()
    assert "kept" not in arena.root
    with arena.transaction():
        arena.root["b"].view[:] = 5
    assert (arena.root["b"][:] == 5).all()
    arena.verify()


@pytest.mark.parametrize("how", ["at its place", "in its middle", "never viewed", "hot"])
@pytest.mark.parametrize("where", ["step", "savepoint", "thread"])
def test_it_does_not_write_into_the_next_array(arena: Arena, how: str, where: str) -> None:
    """What the step stores through it is refused with the whole transaction, also where the new Array was viewed or is hot."""
    kept = Kept(arena)
    put_another(arena, kept, how)
    with pytest.raises(StaleReferenceError, match="deleted"), arena.transaction():
        arena.root["kept"] = 1
        if where == "savepoint":
            with suppress(KeyError), arena.savepoint():
                kept.a[PAGE:] = 7
                raise KeyError
        elif where == "thread":  # a worker of this step, which stores through the same buffers
            kept.c[0] = 1
            in_thread(memset, kept.a.ctypes.data + PAGE, 7, 3 * PAGE)
        else:
            kept.a[PAGE:] = 7
    assert not arena.root["c"][:].any()
    assert_whole(arena)


def test_nor_into_one_of_the_same_step(arena: Arena) -> None:
    """An Array that the step itself has made in that memory, and views."""
    kept = Kept(arena)
    with pytest.raises(StaleReferenceError, match="deleted"), arena.transaction():
        arena.root["b"] = Array(PAGE * 4, "u1")
        arena.root["b"].view[1] = 2
        assert kept.a[1] == 2, "the memory was not used again"
        kept.a[PAGE:] = 7
    assert "b" not in arena.root
    with arena.transaction():
        arena.root["b"] = Array(PAGE * 4, "u1")
    assert_whole(arena)


def test_nor_into_free_memory(arena: Arena) -> None:
    """Where nothing lies the store is lost, so the transaction is told."""
    kept = Kept(arena)
    with pytest.raises(StaleReferenceError, match="deleted"), arena.transaction():
        arena.root["kept"] = 1
        kept.a[0] = 7
    with arena.transaction():
        arena.root["b"] = Array(PAGE * 4, "u1")
    assert_whole(arena)


@pytest.mark.crash
def test_nor_into_one_that_another_process_has_made(arena: Arena) -> None:
    """It was never viewed in this process, which can't know it."""
    kept = Kept(arena)

    def make() -> None:
        with arena.transaction():
            arena.root["b0"], arena.root["b"] = Array(PAGE, "u1"), Array(PAGE * 3, "u1")
            arena.root["b"].view[0] = 0

    assert in_child(make).returned
    assert_same_memory(arena, kept, 1)
    with pytest.raises(StaleReferenceError, match="deleted"), arena.transaction():
        arena.root["kept"] = 1
        kept.a[PAGE:] = 7
    assert_whole(arena)


@pytest.mark.parametrize("end", ["returns", "waits", "swallows"])
def test_the_handler_is_told(arena: Arena, end: str) -> None:
    """Whatever it does after the store: it ends in the error that says what to do."""
    kept = Kept(arena)
    put_another(arena, kept, "at its place")

    async def handler() -> None:
        arena.root["kept"] = 1
        kept.a[0] = 7
        if end == "waits":
            await pause()
        if end == "swallows":
            with suppress(StaleReferenceError):
                arena.root["kept"] = 2

    with pytest.raises(StaleReferenceError, match="take the view again"):
        Request(arena, handler).finish()
    assert_whole(arena)


def test_threads_of_others_are_strays(arena: Arena, log: list[Any]) -> None:
    """A thread that stores through it while some step runs, or none, changes nothing, and is reported."""
    kept = Kept(arena)
    put_another(arena, kept, "hot")
    in_thread(memset, kept.a.ctypes.data, 7, PAGE)
    with arena.transaction():
        arena.root["b"].view[1] = 0
        in_thread(memset, kept.a.ctypes.data + PAGE, 7, 3 * PAGE)
    assert sum(event["writes"] for event in log if event["event"] == "write.stray") == 4
    assert_whole(arena)


def test_a_view_of_one_that_is_still_there_goes_on(arena: Arena) -> None:
    """Kept beside it, with younger Arrays around it: by the step's thread and its workers, page by page, commit after commit."""
    kept = Kept(arena)
    put_another(arena, kept, "hot")
    for value in (1, 2, 3):
        with arena.transaction():
            arena.root["b"].view[1] = value
            kept.c[0] = value
            in_thread(memset, kept.c.ctypes.data, value, 8 * PAGE)  # the third page takes its neighbours along
        assert (arena.root["c"][:] == value).all()
    assert arena.root["b"][:].tolist() == [0, 3, *[0] * (4 * PAGE - 2)]
    assert arena.stats().strays == arena.stats().dooms == 0
    arena.verify()


def test_neighbours_that_are_opened_are_none_of_a_younger_array(arena: Arena) -> None:
    """Pages that are made writable along with others traps still tell apart."""
    kept = Kept(arena)
    put_another(arena, kept, "at its place")
    with pytest.raises(StaleReferenceError, match="deleted"), arena.transaction():
        kept.c[0] = 1
        in_thread(memset, kept.c.ctypes.data, 1, 8 * PAGE)
        kept.a[:] = 7
    assert not arena.root["c"][:].any()
    assert_whole(arena)


@pytest.mark.parametrize("stores", [False, True], ids=["reads", "stores"])
def test_one_that_a_savepoint_took_back(arena: Arena, stores: bool) -> None:
    """Its memory is used again by nobody while the transaction goes on, and what is stored there is refused."""

    def handler() -> None:
        with suppress(KeyError), arena.savepoint():
            arena.root["x"] = Array(PAGE * 4, "u1")
            view = arena.root["x"].view
            view[:] = 3
            raise KeyError
        arena.root["b"] = Array(PAGE * 4, "u1")
        arena.root["b"].view[0] = 1
        if stores:
            arena.root["kept"] = 1
            view[:] = 7
        assert arena.root["b"][:].tolist() == [1, *[0] * (4 * PAGE - 1)]

    if stores:
        with pytest.raises(StaleReferenceError, match="rolled back"), arena.transaction():
            handler()
        with arena.transaction():
            arena.root["b"] = Array(PAGE * 4, "u1")
    else:
        with arena.transaction():
            handler()
        with arena.transaction():
            arena.root["b"][0] = 0
    assert_whole(arena)


def test_memory_of_what_a_savepoint_took_back_is_free_in_the_end(arena: Arena) -> None:
    """It is held for the rest of its transaction only, whether that commits or not."""
    for i in range(30):
        with suppress(KeyError), arena.transaction():
            arena.root["n"] = i
            with suppress(KeyError), arena.savepoint():
                arena.root["x"] = Array(1 << 20, "u1")
                arena.root["x"].view[0] = 3
                raise KeyError
            if i % 2:
                raise KeyError
    arena.verify()
