"""Transactions that are found by context: `async with arena.transaction():`, and what a request starts in tasks and threads.

What makes one current, for which step, and how that ends is native: `_native/ambient.pxi`. Here is how one begins and ends.

A block can't be run again, since Python gives nobody its code: where it has lost a conflict it raises `ConflictError`. So it
has no privilege either, which is what the last of several runs has.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from asyncio import _get_running_loop as running_loop
from typing import TYPE_CHECKING

from recoverable import completion, event_log, lockwait, outcome
from recoverable._native.runtime import Ambient, Transaction, ambient, begin_for_request, current_transaction
from recoverable.errors import TransactionError
from recoverable.transaction import end_block

if TYPE_CHECKING:
    from recoverable._native.runtime import NativeArena

__all__ = ["Block", "back", "nobody"]

_LOOK = 0.001  # seconds between two looks whether a thread has come to rest


def nobody() -> contextvars.Token[Ambient | None]:
    """Have what runs here, and what it starts, be in none until `back`."""
    return ambient.set(None)


def back(token: contextvars.Token[Ambient | None], mine: Ambient | None = None) -> None:
    """Have it be in the one before again, if this is still the context; in another one, in none if `mine` is there."""
    try:
        ambient.reset(token)
    except ValueError:
        if mine is not None and ambient.get() is mine:
            ambient.set(None)


class Block:
    """What `async with arena.transaction():` does, once.

    Attributes:
        transaction: The block's own, once it has begun, or the one that it is a part of.
        abandoned: Never: an `await` in it is fine.
    """

    abandoned = False

    def __init__(self, native: NativeArena, handler: str, independent: bool) -> None:
        """Begin nothing yet."""
        self._native, self._handler, self._independent = native, handler, independent
        self._token: contextvars.Token[Ambient | None] | None = None
        self._mine: Ambient | None = None
        self._outer = False
        self.transaction: Transaction | None = None

    async def enter(self) -> None:
        """Begin one, or be a part of the one around."""
        loop = running_loop()
        if loop is None:
            raise TransactionError(
                "async with arena.transaction() outside of an asyncio event loop, which is to end its steps. Nothing was "
                "begun. Use `with arena.transaction():`."
            )
        outer = current_transaction(self._native)
        if outer is not None:
            if self._independent or outer.one_step or outer.open_blocks:
                what = (
                    "an independent `async with` block inside a transaction: await arena.run(...), or use `with`"
                    if self._independent
                    else "async with arena.transaction() inside a block or a savepoint, which is part of one step"
                )
                raise TransactionError(f"{what}. Nothing was begun.")
            self.transaction, self._outer = outer, True
            return
        self.transaction = begin_for_request(self._native, self._handler)
        self._mine = Ambient(self.transaction, loop)
        self._token = ambient.set(self._mine)

    async def leave(self, error: BaseException | None) -> None:
        """Commit what the block has done, or roll it back because of an error.

        Raises:
            ConflictError: It has read what another has changed since. It was rolled back.
        """
        transaction = self.transaction
        if transaction is None:
            raise TransactionError("an `async with` block was left that has not been entered; nothing was changed")
        if self._outer:
            return
        failed: BaseException | None = None
        try:
            if error is None and transaction.state == "active":
                failed = await _commit(transaction)
        except BaseException as stopped:
            error = stopped
            raise
        finally:
            if self._token is not None:
                back(self._token, self._mine)
            if transaction.state != "committed":
                end_block(self, error, failed)  # type: ignore[arg-type]  # as a TransactionBlock's
        if (
            transaction.hooks is not None
            or transaction.arena.gated
            or transaction.arena.pending()
            or (transaction.wrote and event_log.committed_wanted())
        ):
            await completion.settle(transaction, outcome.DEFAULT, None)


async def _commit(transaction: Transaction) -> BaseException | None:
    """Commit, after whatever that has to wait for; return what it fails with."""
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
