"""Transactions that are found by context: `async with arena.transaction():`, and what a request starts in tasks and threads.

What makes one current, for which step, and how that ends is native: `_native/ambient.pxi`; so is what a block does
(`async_block.pxi`). Here is what has to be awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from typing import TYPE_CHECKING

from recoverable import completion, lockwait, outcome
from recoverable._native.runtime import Ambient, Transaction, ambient

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

__all__ = ["back", "commit_waiting", "nobody", "settle"]

_LOOK = 0.001  # seconds between two looks whether a thread has come to rest


def nobody() -> contextvars.Token[Ambient | None]:
    """Have what runs here, and what it starts, be in none until `back`."""
    return ambient.set(None)


def back(token: contextvars.Token[Ambient | None]) -> None:
    """Have it be in the one before again, if this is still the context."""
    with contextlib.suppress(ValueError):
        ambient.reset(token)


async def commit_waiting(transaction: Transaction) -> BaseException | None:
    """Commit the transaction of a block, after whatever that has to wait for; return what it fails with."""
    mine, until = transaction.ambient, time.monotonic() + transaction.arena.busy_timeout
    try:
        # While a thread of it is in an operation or a block, which nobody is told the end of.
        while mine is not None and mine.is_busy() and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)
        while not transaction.commit_at_once():
            await lockwait.before_commit(transaction)
    except asyncio.CancelledError:
        raise
    except BaseException as failed:
        return failed
    return None


def settle(transaction: Transaction) -> Coroutine[Any, Any, None]:
    """Do what follows the commit of a block."""
    return completion.settle(transaction, outcome.DEFAULT, None)
