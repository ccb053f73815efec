"""A step that runs tasks together, on another arena: what stops the step passes them, whatever a group makes of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import Arena, StepTooLongError, TaskGroup, gather
from recoverable.errors import _TooLong, without_doomed
from support.watched import compute

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
]  # stopped in between


async def by_gather(spins: Awaitable[None]) -> None:
    """Await it with another one."""
    await gather(asyncio.sleep(0), spins)


async def by_gather_that_returns_exceptions(spins: Awaitable[None]) -> None:
    """Await it, and look at nothing."""
    await gather(spins, return_exceptions=True)


async def by_group(spins: Any) -> None:
    """Await it in a group, as a part."""
    async with TaskGroup() as group:
        group.create_task(spins)


async def by_gather_of_asyncio(spins: Any) -> None:
    """Await it as a request of its own."""
    await asyncio.gather(asyncio.sleep(0), spins)


async def by_group_of_asyncio(spins: Any) -> None:
    """Await it in a group, as a request of its own."""
    async with asyncio.TaskGroup() as group:
        group.create_task(spins)


PARTS: list[Callable[..., Awaitable[None]]] = [by_gather, by_gather_that_returns_exceptions, by_group]
OTHERS: list[Callable[..., Awaitable[None]]] = [by_gather_of_asyncio, by_group_of_asyncio]


@pytest.mark.parametrize("outer", ["block", "handler"])
@pytest.mark.parametrize(
    ("by", "inside"),
    [(by, "request") for by in PARTS] + [(by, each) for by in OTHERS for each in ("loop", "request", "block")],
)
def test_what_stops_a_step_is_no_error_of_tasks_that_it_runs_on_another_arena(
    spared: Arena, other: Arena, by: Callable[..., Awaitable[None]], inside: str, outer: str
) -> None:
    """They run in a loop inside of it, which may be of a request or a block there: `except Exception` does not keep it."""
    went_on: list[BaseException | None] = []

    async def spins() -> None:
        other.root["k"] = 1
        compute(10)

    async def main() -> None:
        await by(spins() if by in PARTS else other.run(spins))

    def run() -> None:
        if inside == "block":
            with other.transaction():
                asyncio.run(main())
        else:
            asyncio.run(other.run(main) if inside == "request" else main())

    def step() -> None:
        spared.root["n"] = 1
        try:
            run()
        except Exception as error:
            went_on.append(error)
        went_on.append(None)

    async def handler() -> None:
        step()

    def block() -> None:
        with spared.transaction():
            step()

    with pytest.raises(StepTooLongError, match=r"a step of .*(handler|block) held .* in compute: "):
        block() if outer == "block" else spared.run(handler).send(None)
    assert went_on == []
    assert spared.root["n"] == 0
    assert "k" not in other.root


@pytest.mark.parametrize("more", [[], [LookupError("of another task")], [asyncio.CancelledError()]])
def test_a_block_that_is_left_by_a_group_ends_by_being_too_long(spared: Arena, more: list[BaseException]) -> None:
    """What else is in the group is the cause."""
    with pytest.raises(StepTooLongError, match="in compute: ") as found, spared.transaction():
        spared.root["n"] = 1
        try:
            compute(10)
        except BaseException as stopped:
            raise BaseExceptionGroup("tasks", [stopped, *more]) from None
    cause = found.value.__cause__
    assert (list(cause.exceptions) if isinstance(cause, BaseExceptionGroup) else []) == more
    assert spared.root["n"] == 0


def test_a_group_that_was_kept_is_an_ordinary_error_elsewhere() -> None:
    """As the exception alone is."""
    assert type(without_doomed(BaseExceptionGroup("kept", [_TooLong()]))) is StepTooLongError
    rest = without_doomed(BaseExceptionGroup("kept", [_TooLong(), LookupError()]))
    assert type(rest) is ExceptionGroup
    assert [type(each) for each in rest.exceptions] == [LookupError]
