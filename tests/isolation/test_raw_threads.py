"""Threads that store through raw views: whose a store is, is certain."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from recoverable import Arena, Array, RecoverableError, StrayWriteError, register_codec
from support.workers import Request, pause

np = pytest.importorskip("numpy")

PAGE = 4096
PAGES = 16
memset = ctypes.CDLL(None).memset
memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]


@pytest.fixture(params=["incremental", "adaptive", "full", "trap"])
def arena(request: pytest.FixtureRequest, name: str) -> Iterator[Arena]:
    """Give an arena with an Array of 16 pages, that are hot where the policy has hot pages; in trap mode, too."""
    trap = request.param == "trap"
    policy = "adaptive" if trap else request.param
    with Arena.temporary("16 MiB", name=name, policy=policy, tracking="trap" if trap else "hybrid") as arena:
        with arena.transaction():
            arena.root["a"] = Array(PAGE * PAGES, "u1")
            arena.root["n"] = 0
        for i in range(1, 4):
            fill(arena, i)
        yield arena


class Stored:
    """A value whose codec has a thread store something."""


def fill(arena: Arena, value: int) -> None:
    """Write each page, in a transaction whose view ends before it does."""
    with arena.transaction():
        arena.root["a"].view[::PAGE] = value


def in_thread(fn: Any, *args: Any) -> None:
    """Call it in a thread of its own and wait for it."""
    thread = threading.Thread(target=fn, args=args)
    thread.start()
    thread.join()


def strays(log: list[Any]) -> int:
    """Count the stray writes that the log tells of."""
    return sum(event["writes"] for event in log if event["event"] == "write.stray")


@pytest.mark.parametrize("fails", [False, True], ids=["commit", "rollback"])
def test_workers_of_a_running_step_are_the_steps(arena: Arena, fails: bool, log: list[Any]) -> None:
    """What threads store while the handler waits for them without an await is committed with it, or undone with it."""

    async def fan_out() -> None:
        view = arena.root["a"].view
        arena.root["n"] += 1
        with ThreadPoolExecutor(4) as pool:
            for page in range(PAGES):
                pool.submit(memset, view.ctypes.data + page * PAGE, page + 10, PAGE)
            for i in range(50):
                arena.root[i] = i  # logged beside what the threads log
        if fails:
            raise ValueError

    before = arena.root["a"][:]
    if fails:
        with pytest.raises(ValueError):
            Request(arena, fan_out).step()
        assert (arena.root["a"][:] == before).all()
        assert (arena.root["n"], len(arena.root)) == (0, 2)
    else:
        Request(arena, fan_out).step()
        assert (arena.root["a"][:] == np.repeat(np.arange(PAGES) + 10, PAGE)).all()
        assert (arena.root["n"], len(arena.root)) == (1, 52)
    assert strays(log) == 0
    log.clear()  # an exception in it would keep the view alive
    arena.verify()


def test_blas_threads_write_a_whole_product(name: str) -> None:
    """np.matmul(out=view) with as many threads as the library likes is committed item by item."""
    with Arena.temporary("16 MiB", name=name) as arena:
        a = np.arange(300 * 300, dtype="f8").reshape(300, 300) % 7
        with arena.transaction():
            arena.root["m"] = Array((300, 300), "f8")

        async def product() -> None:
            np.matmul(a, a, out=arena.root["m"].view)

        for _ in range(3):
            with arena.transaction():
                arena.root["m"][:] = 0
            Request(arena, product).step()
            assert (arena.root["m"][:] == a @ a).all()


def test_a_worker_that_is_awaited_is_refused(arena: Arena, log: list[Any]) -> None:
    """asyncio.to_thread() into a view: nothing is committed, the error says what works, and write.stray tells."""
    waits = threading.Event()  # what is stored before the request waits is its own

    def add(view: Any) -> None:
        waits.wait()
        np.add(view, 1, out=view)

    async def awaits() -> None:
        arena.root["n"] += 1
        view = arena.root["a"].view
        asyncio.get_running_loop().call_soon(waits.set)
        await asyncio.to_thread(add, view)

    before = arena.root["a"][:]
    with pytest.raises(StrayWriteError, match="without an await") as caught:
        asyncio.run(arena.run(awaits))
    assert isinstance(caught.value, RecoverableError)
    assert (arena.root["a"][:] == before).all()
    assert arena.root["n"] == 0
    assert strays(log) > 0
    log.clear()
    fill(arena, 9)  # and the arena goes on
    assert (arena.root["a"][::PAGE] == 9).all()


@pytest.mark.parametrize("later", ["returns", "fails", "swallows"])
def test_whatever_the_handler_does_then(arena: Arena, later: str) -> None:
    """A request whose worker has stored while it waited can't commit, even if it never touches the arena again."""

    async def waits() -> None:
        view = arena.root["a"].view
        if later == "returns":
            addresses.append((view.ctypes.data, view))
            del view
        else:
            addresses.append((view.ctypes.data, None))
        try:
            await pause()
        except StrayWriteError:
            if later != "swallows":
                raise
        if later == "fails":
            raise ValueError

    addresses: list[Any] = []
    request = Request(arena, waits)
    request.step()
    in_thread(memset, addresses[0][0], 7, PAGE)
    with pytest.raises((StrayWriteError, ValueError)):
        request.step()
    assert arena.root["a"][1] == 0
    addresses.clear()


def test_a_waiting_requests_worker_writes_into_nobodys_step(arena: Arena) -> None:
    """While others write the same pages in their steps, hot or not: none of its stores is committed, all of theirs are."""
    stop, rounds = threading.Event(), [0]

    def work(address: int) -> None:
        while not stop.is_set():
            for page in range(PAGES):
                memset(address + page * PAGE + 2048, 7, 64)
            rounds[0] += 1

    async def waits() -> None:
        view = arena.root["a"].view
        thread = threading.Thread(target=work, args=(view.ctypes.data,))
        thread.start()
        try:
            await pause()
        finally:
            stop.set()
            thread.join()

    async def writes(value: int) -> None:
        view = arena.root["a"].view
        view[::PAGE] = value
        end = time.perf_counter() + 0.002
        while time.perf_counter() < end:
            view[1] = value

    for _ in range(2):
        request = Request(arena, waits)
        request.step()
        for value in range(20):
            Request(arena, writes, value + 100).step()
            assert (arena.root["a"][::PAGE] == value + 100).all()
        enough = rounds[0] + 2  # of which one whole one lies in the pause
        while rounds[0] < enough:
            time.sleep(0.001)
        with pytest.raises(StrayWriteError):
            request.step()
        for page in range(PAGES):
            assert not arena.root["a"][page * PAGE + 2048 : page * PAGE + 2112].any()
        stop.clear()
    arena.verify()


@pytest.mark.parametrize("end", ["commit", "rollback", "suspend", "savepoint"])
def test_a_worker_that_stores_over_the_end_of_a_step(arena: Arena, end: str) -> None:
    """What it stores after the end never reaches committed state, before it, it is the step's: no page is half of each."""
    stop = threading.Event()
    at: list[int] = []

    def work() -> None:
        value = 0
        while not stop.is_set():
            if at:
                value = value % 250 + 1
                memset(at[0], value, PAGE * PAGES)

    async def handler() -> None:
        view = arena.root["a"].view
        view[::PAGE] = 1
        at[:] = [view.ctypes.data]
        time.sleep(0.002)
        if end == "savepoint":
            for _ in range(3):
                with pytest.raises(KeyError), arena.savepoint():
                    time.sleep(0.0005)
                    raise KeyError
        if end in ("rollback", "savepoint"):
            raise ValueError
        if end == "suspend":
            await pause()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(15):
            before = arena.root["a"][:]
            request = Request(arena, handler)
            committed = False
            try:
                while not request.done:
                    request.step()
                committed = True
            except (ValueError, StrayWriteError):
                pass
            after = arena.root["a"][:]
            assert committed if end == "commit" else end == "suspend" or not committed
            assert committed or (after == before).all()
            for _ in range(20):
                time.sleep(0.0001)
                assert (arena.root["a"][:] == after).all()
            at.clear()
            del request
    finally:
        stop.set()
        thread.join()
    arena.verify()


def test_views_of_many_waiting_requests(name: str) -> None:
    """Three hundred requests with a live view each write one Array: those beyond the limit are refused, none is mixed up."""
    with Arena.temporary("16 MiB", name=name) as arena:
        with arena.transaction():
            arena.root["a"] = Array(4096, "i8")

        async def write(i: int) -> None:
            view = arena.root["a"].view
            view[i] = i + 1
            await pause()
            view[1000 + i] = i + 1

        requests = []
        for i in range(256):
            requests.append(Request(arena, write, i))
            requests[-1].step()
        with pytest.raises(RecoverableError, match="live views"):
            Request(arena, write, 300).step()
        for request in requests:
            request.step()
        assert arena.root["a"][:256].tolist() == arena.root["a"][1000:1256].tolist() == list(range(1, 257))
        assert (arena.stats().conflicts, arena.stats().raw_buffers, arena.stats().raw_views) == (0, 0, 256)


def test_views_that_outlive_their_requests(name: str) -> None:
    """Buffers that a list of exceptions keeps alive hinder nobody, however many they are."""
    with Arena.temporary("16 MiB", name=name) as arena:
        with arena.transaction():
            arena.root["a"] = Array(10, "i8")

        async def fails() -> None:
            view = arena.root["a"].view
            view[0] += 1
            raise ValueError

        kept = []
        for _ in range(300):
            try:
                Request(arena, fails).step()
            except ValueError as error:
                kept.append(error)
        fill_one = Request(arena, lambda: _add(arena))
        fill_one.step()
        assert arena.root["a"][0] == 1
        del kept, fill_one


async def _add(arena: Arena) -> None:
    arena.root["a"].view[0] += 1


def test_one_view_that_all_requests_share(arena: Arena) -> None:
    """A view made once and kept: what a request's own thread stores through it is that request's, waiting ones included."""
    with arena.transaction():
        kept = arena.root["a"].view

    async def write(kept: Any, i: int, fails: bool) -> None:
        kept[i] = 50 + i
        await pause()
        kept[PAGE + i] = 60 + i
        if fails:
            raise ValueError

    requests = [Request(arena, write, kept, i, i == 1) for i in range(1, 4)]
    for request in requests:
        request.step()
    for i, request in enumerate(requests, 1):
        if i == 1:
            with pytest.raises(ValueError):
                request.step()
        else:
            request.step()
    assert arena.root["a"][1:4].tolist() == [0, 52, 53]
    assert arena.root["a"][PAGE + 1 : PAGE + 4].tolist() == [0, 62, 63]
    del kept


def test_parts_of_one_request_share_its_view(arena: Arena) -> None:
    """Tasks of recoverable.gather() store through the view of the request that started them."""
    from recoverable import gather

    async def part(view: Any, i: int) -> None:
        view[i] = i
        await asyncio.sleep(0)
        view[i + 100] = i

    async def whole() -> None:
        view = arena.root["a"].view
        await gather(*(part(view, i) for i in range(1, 5)))

    asyncio.run(arena.run(whole))
    assert arena.root["a"][1:5].tolist() == arena.root["a"][101:105].tolist() == [1, 2, 3, 4]


def _stores_when_encoded(at: list[int]) -> None:
    def encode(_: Stored) -> bytes:
        in_thread(memset, at[0] + 3 * PAGE + 5, 44, 10)
        return b""

    register_codec(Stored, encode, lambda _: Stored(), "test-raw-threads-stored")


def test_an_operation_that_fails_beside_threads(arena: Arena) -> None:
    """It takes back its own writes alone; what threads have stored meanwhile stays the step's."""
    at: list[int] = []
    _stores_when_encoded(at)

    async def handler(fails: bool) -> None:
        arena.root["d"] = {1: 0}
        view = arena.root["a"].view
        at[:] = [view.ctypes.data]
        for _ in range(2):
            with pytest.raises(TypeError):
                arena.root["d"].update({1: 1, 2: Stored(), 3: object()})
        assert dict(arena.root["d"]) == {1: 0}
        assert view[3 * PAGE + 5] == 44
        in_thread(memset, at[0] + 3 * PAGE + 20, 45, 1)
        if fails:
            raise ValueError

    with pytest.raises(ValueError):
        Request(arena, handler, True).step()
    assert "d" not in arena.root
    assert not arena.root["a"][3 * PAGE + 5 : 3 * PAGE + 21].any()
    Request(arena, handler, False).step()
    assert dict(arena.root["d"]) == {1: 0}
    assert arena.root["a"][3 * PAGE + 4 : 3 * PAGE + 21].tolist() == [0, *[44] * 10, *[0] * 5, 45]
    arena.verify()


def test_strays_are_told_at_the_end_of_the_step_that_met_them(arena: Arena, log: list[Any]) -> None:
    """By an await, by a commit, by a block: not when somebody asks for statistics."""
    with arena.transaction():
        kept = arena.root["a"].view

    async def waits() -> None:
        arena.root["n"] += 1
        await pause()
        arena.root["n"] += 1

    in_thread(memset, kept.ctypes.data, 7, 1)
    request = Request(arena, waits)
    request.step()
    assert strays(log) == 1
    in_thread(memset, kept.ctypes.data, 7, 1)
    request.step()
    assert strays(log) == 2
    in_thread(memset, kept.ctypes.data + PAGE, 7, 1)
    with arena.transaction():
        arena.root["n"] += 1
    assert strays(log) == 3
    del kept


# -- pages that trap beside each other ---------------------------------------------------------------------------------


@pytest.fixture
def wide(name: str) -> Iterator[Arena]:
    """Give an arena with an Array of 512 pages, none of which becomes hot, that a second thread has just stored into."""
    with Arena.temporary("64 MiB", name=name, policy="incremental") as arena:
        with arena.transaction():
            arena.root["a"] = Array(PAGE * 512, "u1")
        with arena.transaction():
            in_thread(memset, arena.root["a"].view.ctypes.data, 1, 1)
        yield arena


@pytest.mark.parametrize("end", ["commit", "rollback", "suspend"])
def test_pages_that_trap_beside_each_other_are_opened_together(wide: Arena, end: str) -> None:
    """Several threads that fill an Array trap for a few pages of each block; all of them are the step's, and undone with it."""

    async def handler() -> None:
        view = wide.root["a"].view
        threads = [
            threading.Thread(target=memset, args=(view.ctypes.data + i * 128 * PAGE, i + 2, 128 * PAGE))
            for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        del threads, view
        if end == "suspend":
            await pause()
        if end == "rollback":
            raise ValueError

    before, traps = wide.root["a"][:], wide.stats().traps
    request = Request(wide, handler)
    if end == "rollback":
        with pytest.raises(ValueError):
            request.step()
        assert (wide.root["a"][:] == before).all()
    else:
        if end == "suspend":
            request.step()
            assert (wide.root["a"][:] == before).all()
        request.step()
        assert request.done
        assert (wide.root["a"][:] == np.repeat(np.arange(4, dtype="u1") + 2, 128 * PAGE)).all()
    assert wide.stats().traps - traps < 512 / 4
    wide.verify()


def test_what_was_opened_and_not_written_is_nobodys(wide: Arena) -> None:
    """A neighbour that was opened and not written conflicts with nothing, and what is stored into it later is a stray."""

    async def handler(kept: list[Any]) -> None:
        view = wide.root["a"].view
        kept.append(view)
        in_thread(memset, view.ctypes.data, 5, 5 * PAGE)  # the third of them takes the rest of its block along
        await pause()

    kept: list[Any] = []
    captured = wide.stats().pages_captured
    request = Request(wide, handler, kept)
    request.step()
    assert wide.stats().pages_captured > captured
    with wide.transaction():
        wide.root["a"][10 * PAGE] = 77
        wide.root["a"].view[11 * PAGE] = 78
    request.step()
    assert request.done
    assert wide.root["a"][4 * PAGE : 12 * PAGE : PAGE].tolist() == [5, 0, 0, 0, 0, 0, 77, 78]
    in_thread(memset, kept[0].ctypes.data + 9 * PAGE, 9, PAGE)
    with wide.transaction():
        wide.root["n"] = 1
    assert wide.root["a"][9 * PAGE] == 0
    assert wide.stats().strays == 1
    kept.clear()
    wide.verify()


@pytest.mark.slow
def test_announced_writes_beside_threads_that_trap(wide: Arena) -> None:
    """The undo log holds what both have logged, whole: each step that is rolled back leaves what there was."""

    async def handler() -> None:
        view = wide.root["a"].view
        thread = threading.Thread(target=memset, args=(view.ctypes.data, 9, 512 * PAGE))
        thread.start()
        i = 0
        while thread.is_alive():
            i = i % 1000 + 1
            wide.root["a"][PAGE * 512 - i] = i % 256
            wide.root[i % 50] = i
        thread.join()
        raise ValueError

    before = wide.root["a"][:]
    for _ in range(25):
        with pytest.raises(ValueError):
            Request(wide, handler).step()
        assert (wide.root["a"][:] == before).all()
        assert len(wide.root) == 1
    wide.verify()
