"""A step whose code uses another arena: what stops it finds it there, passes, and is not taken for that one's."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, StepTooLongError
from recoverable.errors import _TooLong
from support.watched import LIMIT, compute

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import FrameType

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
]  # stopped in between


def test_a_block_that_waits_for_another_arena_beyond_its_limit_ends_by_that(
    spared: Arena, new_name: Callable[[], str]
) -> None:
    """What stops it finds it in a wait that ends in an ArenaBusyError, and is not lost in what follows."""
    holds, done = threading.Event(), threading.Event()
    with Arena.temporary("4 MiB", name=new_name(), busy_timeout=0.75 * LIMIT) as other:

        def hold() -> None:
            with other.transaction():
                other.root["k"] = 1
                holds.set()
                done.wait(10)

        def use() -> None:
            with spared.transaction():
                spared.root["n"] = 1
                other.root["k"]

        thread = threading.Thread(target=hold)
        thread.start()
        holds.wait(10)
        try:
            with pytest.raises(StepTooLongError, match=r'in use: other.root\["k"\]'):
                use()
        finally:
            done.set()
            thread.join()
    assert spared.root["n"] == 0


def test_what_is_stopped_in_a_wait_for_another_arena_does_not_keep_that_ones_lock(
    spared: Arena, new_name: Callable[[], str]
) -> None:
    """It is raised when the wait is over and has been worth it; the lock is for others then."""
    holds = threading.Event()
    with Arena.temporary("4 MiB", name=new_name(), busy_timeout=2) as other, ThreadPoolExecutor(1) as another:

        def hold() -> None:
            with other.transaction():
                other.root["k"] = 1
                holds.set()
                time.sleep(LIMIT)

        held = another.submit(hold)
        holds.wait(10)
        with pytest.raises(StepTooLongError), spared.transaction():
            spared.root["n"] = 1
            other.verify()
        held.result()
        assert another.submit(lambda: other.root["k"]).result() == 1
    assert spared.root["n"] == 0


def test_of_two_arenas_blocks_the_one_that_was_stopped_says_where(spared: Arena, other: Arena) -> None:
    """The inner block, which meets what stops the outer one, knows nothing of it."""

    def use() -> None:
        with spared.transaction():
            spared.root["n"] = 1
            with other.transaction():
                other.root["k"] = 1
                compute(10)

    with pytest.raises(StepTooLongError, match=r"a step of .*use held .* in compute: "):
        use()
    assert (spared.root["n"], len(other.root)) == (0, 0)


async def in_a_block(other: Arena) -> None:
    """Spin in a block of that arena."""
    with other.transaction():
        other.root["k"] = 1
        compute(10)


async def in_a_request(other: Arena) -> None:
    """Spin in a request on it."""

    async def spins() -> None:
        other.root["k"] = 1
        compute(10)

    await other.run(spins)


async def in_one_that_begins_again(other: Arena) -> None:
    """Spin in one whose run has been ended, as others hold that arena for long."""
    holds, done = threading.Event(), threading.Event()

    def hold() -> None:
        with other.transaction():
            other.root["m"] = 1
            holds.set()
            done.wait(10)

    async def spins() -> None:
        try:
            other.root["k"] = 1
        except BaseException:
            compute(10)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(hold)
        holds.wait(10)
        try:
            await other.run(spins)
        finally:
            done.set()


@pytest.mark.parametrize("inner", [in_a_block, in_a_request, in_one_that_begins_again])
def test_what_stops_a_step_is_no_error_of_what_it_runs_on_another_arena(
    spared: Arena, other: Arena, inner: Callable[[Arena], Awaitable[None]]
) -> None:
    """`except Exception` around that does not keep it, and the handler goes no further."""
    went_on = []

    async def handler() -> None:
        spared.root["n"] = 1
        try:
            await inner(other)
        except Exception as error:
            went_on.append(error)
        went_on.append(None)

    with pytest.raises(StepTooLongError, match=r"a step of .*handler held .* in compute: "):
        asyncio.run(spared.run(handler))
    assert went_on == []
    assert spared.root["n"] == 0
    assert "k" not in other.root


def test_what_was_kept_and_is_raised_on_another_arena_is_an_error_there(spared: Arena, other: Arena) -> None:
    """No step around it is to be stopped by that: the run is rolled back, and says so by an ordinary exception."""
    kept: list[BaseException] = []
    with pytest.raises(StepTooLongError), spared.transaction():
        spared.root["n"] = 1
        try:
            compute(10)
        except BaseException as stopped:
            kept.append(stopped)
            raise

    async def raises() -> None:
        other.root["k"] = 1
        raise kept[0]

    with pytest.raises(StepTooLongError):
        asyncio.run(other.run(raises))
    with pytest.raises(StepTooLongError), other.transaction():
        other.root["k"] = 1
        raise kept[0]
    assert len(other.root) == 0


class Stopper:
    """Raises what the watchdog does, before the nth bytecode that ends a block in Python."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Trace calls."""
        if frame.f_code.co_name not in ("end_block", "_report_found"):
            return None
        frame.f_trace_opcodes = True
        sys.settrace(self)  # Python 3.12 takes the line above to heart only with the next settrace()
        return self._opcode

    def _opcode(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise _TooLong
        return self._opcode


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="opcodes of a frame that has begun are not traced there")
def test_what_has_been_committed_is_not_said_to_be_undone(other: Arena) -> None:
    """What is to stop a step of another arena may come between the commit of an inner block and its end."""

    def block() -> None:
        with other.transaction(independent=True):
            other.root["k"] = nth

    async def handler() -> None:
        nonlocal after
        before = other.root.get("k")
        try:
            sys.settrace(stopper)
            block()
        except StepTooLongError:
            said_wrongly.extend([nth] * (other.root.get("k") != before))
        except _TooLong:
            after += other.root.get("k") == nth
        finally:
            sys.settrace(None)

    nth, after, said_wrongly = 0, 0, []
    while True:
        nth += 1
        stopper = Stopper(nth)
        asyncio.run(other.run(handler))
        if stopper.left > 0:
            break
    assert nth > 20
    assert after > 0
    assert said_wrongly == []
