"""A process forked inside a step: the transaction goes on in the parent, and the child can use the arena for itself."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import pickle
import select
import signal
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import (
    Arena,
    NoTransactionError,
    TransactionClosedError,
    TransactionError,
    after_commit,
    recoverable,
    register_codec,
)
from support.forks import in_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.crash, pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")]


class Forker:
    """A value whose codec forks."""

    hook: Callable[[], object] | None = None


def _encode(_: Forker) -> bytes:
    hook, Forker.hook = Forker.hook, None
    if hook is not None:
        hook()
    return b""


def _decode(_: bytes) -> Forker:
    _encode(Forker())
    return Forker()


register_codec(Forker, _encode, _decode, "test-fork-in-step")

here: Arena  # what the functions below work on, in the parent and in its children


@pytest.fixture
def arena(arena: Arena) -> Iterator[Arena]:
    """Give an arena with two counts, which the functions of workers find."""
    global here
    with arena.transaction():
        arena.root.update(n=0, jobs=0, mine=0)
    here = arena
    yield arena
    del here


def work(n: int) -> int:
    """What a worker does: write in transactions of its own, one way and the other, and read."""
    before = here.root["jobs"]
    with here.transaction():
        here.root["jobs"] += n
        after_commit(int)

    async def again() -> None:
        here.root["jobs"] += n
        await asyncio.sleep(0)
        here.root["jobs"] += n

    asyncio.run(here.run(again))
    return int(here.root["jobs"]) - int(before)


def as_the_frame() -> dict[str, str]:
    """What the forked frame itself gets when it goes on in the child as if nothing had happened."""
    got = {}
    for name, access in {
        "write": lambda: here.root.update(n=-1),
        "delete": lambda: here.root.pop("n"),
        "after_commit": lambda: after_commit(print),
        "savepoint": lambda: here.savepoint().__enter__(),
    }.items():
        try:
            access()
            got[name] = "worked"
        except (TransactionClosedError, NoTransactionError) as error:
            got[name] = type(error).__name__
    return got


REFUSED = {
    "write": "TransactionClosedError",
    "delete": "TransactionClosedError",
    "after_commit": "NoTransactionError",
    "savepoint": "NoTransactionError",
}


class Child:
    """A child forked here and now, which runs a function and is waited for later."""

    def __init__(self, function: Callable[[], Any]) -> None:
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(reader)
                try:
                    got = ("value", function())
                except BaseException as error:  # told in the parent
                    got = ("error", f"{type(error).__name__}: {error}")
                os.write(writer, pickle.dumps(got))
            finally:
                os._exit(0)
        os.close(writer)
        self.reader = reader

    def result(self, timeout: float = 20.0) -> Any:
        """Return what its function returned."""
        try:
            ready, _, _ = select.select([self.reader], [], [], timeout)
            data = os.read(self.reader, 65536) if ready else b""
        finally:
            os.close(self.reader)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        assert data, "the child hung or died"
        how, what = pickle.loads(data)
        assert how == "value", what
        return what


@pytest.mark.parametrize("touched", [True, False])
async def test_fork_in_a_handler(arena: Arena, touched: bool) -> None:
    """The child's own transactions and reads work; the handler's is refused by name, and goes on in the parent."""

    @recoverable(arena=arena)
    async def handler() -> tuple[Any, Any]:
        if touched:
            arena.root["n"] += 1
        child = Child(lambda: (as_the_frame(), here.root["n"], work(1), here.root["n"]))
        arena.root["mine"] += 1
        first = await asyncio.to_thread(child.result)
        child = Child(lambda: work(2))
        return first, await asyncio.to_thread(child.result)

    first, second = await handler()
    assert first == (REFUSED, 0, 3, 0)
    assert second == 6
    assert (arena.root["n"], arena.root["mine"], arena.root["jobs"]) == (int(touched), 1, 9)
    arena.verify()


@pytest.mark.parametrize("commits", [True, False])
def test_the_forked_frame_goes_on_to_its_end(arena: Arena, commits: bool) -> None:
    """A handler that returns in the child as well is told there that its transaction is the parent's: it commits once."""

    def program() -> str:
        @recoverable(arena=arena)
        async def handler() -> None:
            arena.root["n"] += 1
            here_too = Child(lambda: "")  # a plain child that does nothing
            os.close(here_too.reader)
            os.waitpid(here_too.pid, 0)
            pid = os.fork()
            if pid:
                os.waitpid(pid, 0)
                if not commits:
                    raise KeyError

        before = os.getpid()
        try:
            asyncio.run(handler())
        except TransactionClosedError as error:
            assert os.getpid() != before
            os._exit(0 if "forked" in str(error) else 1)
        except KeyError:
            return "rolled back"
        return "committed"

    ending = in_child(program)
    assert ending.returned, ending
    assert ending.value == ("committed" if commits else "rolled back")
    assert arena.root["n"] == int(commits)
    arena.verify()


def test_fork_in_a_block(arena: Arena) -> None:
    """The child leaves the block by name, too, and works on; the parent commits once."""

    def in_the_child() -> None:
        with pytest.raises(TransactionClosedError, match="forked"):
            here.root["n"] = 7
        assert here.root["mine"] == 0

    with arena.transaction():
        arena.root["n"] += 1
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.read(reader, 1)  # the parent has left its step
            code = 1
            try:
                in_the_child()
                code = 0
            finally:
                os._exit(code)
    os.write(writer, b"x")
    _, status = os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    assert os.waitstatus_to_exitcode(status) == 0
    assert arena.root["n"] == 1


@pytest.mark.parametrize("kind", ["executor", "warmed-executor", "process", "pool"])
async def test_workers_started_in_a_handler(arena: Arena, kind: str) -> None:
    """Processes of multiprocessing that were forked inside a step work on the arena as any other process does."""
    context = multiprocessing.get_context("fork")
    loop = asyncio.get_running_loop()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        executor = concurrent.futures.ProcessPoolExecutor(2, mp_context=context)
        if kind == "warmed-executor":
            executor.submit(int).result()

        @recoverable(arena=arena)
        async def handler() -> Any:
            arena.root["n"] += 1
            if kind == "process":
                queue = context.SimpleQueue()
                process = context.Process(target=lambda: queue.put(work(1)))
                process.start()
                got = await asyncio.to_thread(queue.get)
                await asyncio.to_thread(process.join)
                return got
            if kind == "pool":
                pool = context.Pool(1)
                try:
                    return await asyncio.to_thread(pool.apply, work, (1,))
                finally:
                    await asyncio.to_thread(pool.terminate)
            return await loop.run_in_executor(executor, work, 1)

        try:
            assert await handler() == 3
            assert await handler() == 3
            if "executor" in kind:
                assert await loop.run_in_executor(executor, work, 1) == 3
        finally:
            executor.shutdown()
    assert arena.root["n"] == 2
    assert arena.root["jobs"] == (9 if "executor" in kind else 6)
    arena.verify()


@pytest.mark.parametrize("reading", [False, True])
async def test_fork_in_the_middle_of_an_operation(arena: Arena, reading: bool) -> None:
    """In the child the operation ends with a name; what it does next works. In the parent nothing has happened."""
    with arena.transaction():
        arena.root["value"] = Forker()
    children: list[int] = []
    reader, writer = os.pipe()

    def fork() -> None:
        children.append(os.fork())

    def operation() -> None:
        Forker.hook = fork
        if reading:
            arena.root["value"]
        else:
            arena.root["order"] = {"lines": [Forker()]}

    @recoverable(arena=arena)
    async def handler() -> None:
        arena.root["n"] += 1
        code = 1
        try:
            operation()
        except TransactionClosedError as error:
            if children[0] == 0:
                os.read(reader, 1)
                code = 0 if "forked" in str(error) and work(1) == 3 else 2
        finally:
            if children[0] == 0:
                os._exit(code)

    await handler()
    os.write(writer, b"x")
    _, status = os.waitpid(children[0], 0)
    os.close(reader)
    os.close(writer)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (arena.root["n"], arena.root["jobs"]) == (1, 3)
    arena.verify()


async def test_a_child_of_a_child(arena: Arena) -> None:
    """A process two forks away from the step knows, too, that the transaction is not its own, and works on the arena."""

    @recoverable(arena=arena)
    async def handler() -> Any:
        arena.root["n"] += 1
        child = Child(lambda: (work(1), Child(lambda: (as_the_frame(), work(2))).result()))
        return await asyncio.to_thread(child.result)

    assert await handler() == (3, (REFUSED, 6))
    assert (arena.root["n"], arena.root["jobs"]) == (1, 9)
    arena.verify()


def test_fork_while_other_threads_are_inside_and_waiting(arena: Arena) -> None:
    """A child has nothing of the threads that it does not have: it reads, writes, opens and closes."""
    inside, go_on = threading.Event(), threading.Event()

    def holder() -> None:
        with arena.transaction():
            arena.root["n"] += 1
            inside.set()
            go_on.wait(10)

    threads = [threading.Thread(target=holder), threading.Thread(target=lambda: work(1))]
    threads[0].start()
    inside.wait(10)
    threads[1].start()  # waits for the lock

    def child() -> tuple[int, int]:
        got = work(2)
        name = here.name
        here.close()
        with Arena.open(name, create=False) as again, again.transaction():
            again.root["mine"] += 1
        return got, 1

    forked = Child(child)
    go_on.set()
    for thread in threads:
        thread.join()
    got, _ = forked.result()
    assert got >= 6
    assert (arena.root["n"], arena.root["mine"], arena.root["jobs"]) == (1, 1, 9)
    arena.verify()


def test_a_savepoint_and_a_part_in_the_child(arena: Arena) -> None:
    """Blocks that the child inherits open end quietly or by name there, and nothing of them reaches the arena."""

    def child() -> str:
        try:
            held.__exit__(None, None, None)
        except TransactionError as error:
            return type(error).__name__
        return "quiet"

    with arena.transaction():
        arena.root["n"] += 1
        held = arena.savepoint()
        held.__enter__()
        arena.root["n"] += 1
        forked = Child(child)
        assert forked.result() in ("quiet", "TransactionClosedError")
        held.__exit__(None, None, None)
    assert arena.root["n"] == 2
    arena.verify()
