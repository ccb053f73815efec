"""What an application that serves requests on an arena does at its start and at its end, whichever framework it is made with.

`setup` of each framework (`recoverable.aiohttp`, `recoverable.asgi`) has these done in the places that the framework has for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
from typing import TYPE_CHECKING, Any

from recoverable import _registry, events
from recoverable.errors import ArenaBusyError, ArenaOptionError, TransactionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from recoverable.arena import Arena
    from recoverable.capsules import Capsules
    from recoverable.faults import Rule
    from recoverable.outcome import Durability

__all__ = ["arm", "check_capsules", "close", "configure", "keep_no_more", "listen", "try_it"]


def configure(arena: Arena, step_limit: float | None, durable: Durability | None) -> None:
    """Set of an arena what `setup` was given.

    Raises:
        JournalError: `durable` is "journal" or "disk", and the arena was opened without a journal.
        ArenaOptionError: `step_limit` is no limit, or there is no such `durable`.
    """
    if durable is not None:
        arena.durability = durable
    if step_limit is not None:
        arena.step_limit = step_limit


def check_capsules(arena: Arena, capsules: Any) -> None:
    """See whether requests that crash can be kept there.

    Raises:
        ArenaOptionError: It is no Capsules, or others keep them.
    """
    if capsules is None:
        return
    if not hasattr(capsules, "crashed"):
        raise ArenaOptionError(
            f"capsules={capsules!r} must be recoverable.capsules.Capsules(folder). Nothing was changed."
        )
    capsules.check(arena.native)


async def keep_no_more(arena: Arena, capsules: Capsules) -> None:
    """End keeping requests that crash, and wait for those that are being written."""
    try:
        await asyncio.to_thread(capsules.flush)
    finally:
        capsules.end(arena.native)


def arm(arena: Arena, faults: str | Iterable[Rule] | None, allowed: bool, seed: int | None) -> Callable[[], Any] | None:
    """Have things go wrong at random, if that is asked for here or in the environment; return what ends it, or None.

    Raises:
        FaultsNotAllowedError: Faults were asked for, and are not allowed.
        FaultSyntaxError: Their text is wrong.
    """
    variable = faults is None
    if variable:
        faults = os.environ.get("RECOVERABLE_FAULTS")
    if not faults or _registry.stand_in is not None:  # a replay injects none
        return None
    chaos = importlib.import_module("recoverable.faults.chaos")
    seed = os.environ.get("RECOVERABLE_FAULTS_SEED") if seed is None else seed  # type: ignore[assignment]  # it takes text
    return chaos.arm(faults, arena, allowed=allowed, seed=seed, variable=variable)  # type: ignore[no-any-return]


def try_it(arena: Arena) -> None:
    """Read in the arena: a worker that was forked, and may not use it, is not to start, only to answer 500 for ever."""
    with contextlib.suppress(ArenaBusyError):
        len(arena.root)


def listen(arena: Arena) -> None:
    """Tell of its requests, if there may be one more thread: who is out of them is to serve all the same."""
    with contextlib.suppress(RuntimeError):
        arena.listen()


def close(arena: Arena) -> None:
    """Close an arena at the end of the application's shut-down; what keeps it open is told, and keeps nothing else from ending."""
    try:
        arena.close()
    except TransactionError as error:  # views are alive: raising would keep other clean-up from running
        events.arena_not_closed(arena.name, str(error))
