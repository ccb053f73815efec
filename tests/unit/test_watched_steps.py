"""Which steps the watchdog watches, and what they end by: those that hold the arena, from where they have taken it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, Array, StepTooLongError, TransactionError, recoverable, watchdog
from recoverable._native import frames
from recoverable._native import watchdog as native
from recoverable.errors import _TooLong
from support.watched import LIMIT, compute, watched_arena

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
]  # stopped in between


@pytest.fixture
def arena(name: str) -> Iterator[Arena]:
    """Give an arena whose steps are watched."""
    with watched_arena(name) as opened:
        yield opened


@pytest.mark.parametrize("how", ["block", "handler"])
def test_after_an_independent_transaction_it_is_watched_from_where_it_touches_the_arena_again(
    arena: Arena, log: list[dict[str, Any]], how: str
) -> None:
    """The inner one has given the arena back: others commit meanwhile, however long the outer step does not touch it."""
    waited: list[float] = []

    def other() -> None:
        began = time.monotonic()
        with arena.transaction():
            arena.root["other"] = True
        waited.append(time.monotonic() - began)

    @recoverable(arena=arena, nested="independent")
    async def audit() -> None:
        arena.root["audited"] = True

    @recoverable(arena=arena)
    async def outer() -> None:
        arena.root["n"] += 1
        if how == "block":
            with arena.transaction(independent=True):
                arena.root["audited"] = True
        else:
            await audit()
        thread = threading.Thread(target=other)
        thread.start()
        compute(2.2 * LIMIT)  # its process would have ended
        thread.join(10)
        assert not [event for event in log if event["event"].startswith("step.")]
        arena.root["n"] += 1
        compute(10)

    with pytest.raises(StepTooLongError) as error:
        asyncio.run(outer())
    assert waited[0] < LIMIT
    assert LIMIT <= error.value.seconds < 2 * LIMIT
    assert dict(arena.root) == {"n": 0, "other": True, "audited": True}


def in_a_copy(work: Callable[[], None]) -> None:
    """Do it in a copy of the context, as a framework's callbacks are."""
    contextvars.copy_context().run(work)


def in_a_copy_of_a_copy(work: Callable[[], None]) -> None:
    """Do it two contexts further in."""
    contextvars.copy_context().run(in_a_copy, work)


def in_a_loop(work: Callable[[], None]) -> None:
    """Do it in a task of a loop that runs inside of the block."""

    async def main() -> None:
        work()

    asyncio.run(main())


@pytest.mark.parametrize("there", [in_a_copy, in_a_copy_of_a_copy, in_a_loop])
def test_what_a_block_runs_in_another_context_is_stopped(
    arena: Arena, there: Callable[[Callable[[], None]], None]
) -> None:
    """It is the block's own code all the same."""
    with pytest.raises(StepTooLongError) as error, arena.transaction():
        arena.root["n"] = 1
        there(lambda: compute(10))
    assert LIMIT <= error.value.seconds < 2 * LIMIT
    assert arena.root["n"] == 0


def test_what_a_block_of_a_task_runs_in_another_context_is_stopped(arena: Arena) -> None:
    """Also where the block has a context that its loop leaves and enters."""

    async def main() -> None:
        await asyncio.sleep(0)
        with pytest.raises(StepTooLongError), arena.transaction():
            arena.root["n"] = 1
            in_a_copy(lambda: compute(10))
        await asyncio.sleep(0)

    asyncio.run(main())
    assert arena.root["n"] == 0


def test_a_block_that_awaits_right_after_its_limit_is_rolled_back_and_the_loop_goes_on(arena: Arena) -> None:
    """Between the call that took too long and the `await` nothing looks for exceptions; the arena is free all the same."""
    lock, found = threading.Lock(), []

    async def block(future: asyncio.Future[None]) -> None:
        with arena.transaction():
            arena.root["n"] = 1
            with lock:  # waits without the GIL
                await future

    async def main() -> str:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: found.append(context["exception"]))
        lock.acquire()
        timer = threading.Timer(1.3 * LIMIT, lock.release)
        timer.start()
        future = loop.create_future()
        task = asyncio.ensure_future(block(future))
        await asyncio.sleep(0.01)
        with arena.transaction():
            arena.root["m"] = 1
        future.set_result(None)
        with pytest.raises(TransactionError, match="await inside"):
            await task
        return "well"

    assert asyncio.run(main()) == "well"
    assert {type(error).__name__ for error in found} <= {"_TooLong"}
    assert dict(arena.root) == {"n": 0, "m": 1}


@pytest.fixture
def spared(arena: Arena) -> Arena:
    """Give one whose steps are stopped soon, and never end the process."""
    native.set_limit(arena.native, LIMIT / 4, ends=False)
    return arena


@pytest.mark.parametrize("independent", [False, True])
def test_whatever_a_blocks_code_makes_of_being_stopped_it_ends_by_that(spared: Arena, independent: bool) -> None:
    """Another exception that its code raises in place of what has stopped it is the cause of the error, which says where."""

    def use() -> None:
        with spared.transaction(independent=independent):
            spared.root["n"] = 1
            try:
                compute(10)
            except BaseException:
                raise LookupError from None

    async def request() -> None:
        use()

    with pytest.raises(StepTooLongError, match=r"a step of .*use held .* in compute: ") as found:
        asyncio.run(spared.run(request)) if independent else use()
    assert isinstance(found.value.__cause__, LookupError)
    assert spared.root["n"] == 0


def test_raw_writes_go_on_after_an_independent_block_that_was_stopped(arena: Arena) -> None:
    """A view of the handler's, which catches that, is its own again."""
    with arena.transaction():
        arena.root["a"] = Array(8, "i8")
    assert arena.root["a"].view[0] == 0  # numpy is imported: that takes its time

    async def handler() -> None:
        view = arena.root["a"].view
        view[1] = 1
        native.set_limit(arena.native, LIMIT / 4, ends=False)
        with pytest.raises(StepTooLongError), arena.transaction(independent=True):
            arena.root["n"] = 1
            compute(10)
        view[3] = 3

    asyncio.run(arena.run(handler))
    assert arena.root["a"][:4].tolist() == [0, 1, 0, 3]
    assert arena.root["n"] == 0
    assert arena.stats().strays == 0


def test_a_block_in_a_generator_has_whoever_runs_meanwhile_stopped(spared: Arena) -> None:
    """Its step goes on while the generator is suspended; what stops it there says what it is, and the block ends by the error."""

    def rows() -> Iterator[int]:
        with spared.transaction():
            spared.root["n"] = 1
            yield 1

    generator = rows()
    for _ in generator:
        with pytest.raises(_TooLong, match="step_limit"):
            compute(10)
        with pytest.raises(StepTooLongError):
            next(generator)
    assert spared.root["n"] == 0


def test_deep_inside_a_library_the_line_is_the_programs_own() -> None:
    """It is of whom the library was called by, however many calls ago; the stack has the innermost ones."""
    names: dict[str, Any] = {"__name__": "library"}
    path = f"{watchdog._LIBRARY[0]}/library.py"
    exec(compile("def call(n, back):\n    return call(n - 1, back) if n else back()", path, "exec"), names)
    at = names["call"](60, lambda: watchdog._at(frames.of_thread(threading.get_ident())[1:]))
    assert " in test_deep_inside_a_library_the_line_is_the_programs_own: " in at.where
    assert set(at.stack.splitlines()) == {f'  File "{path}", line 2 in call'}
