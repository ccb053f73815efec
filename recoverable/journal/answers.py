"""What a request does at the gate: its answer waits there, and its callbacks with it, or longer."""

from __future__ import annotations

import asyncio
import contextlib
import os
from asyncio import _get_running_loop as running_loop  # returns None outside a loop; documented for this use
from typing import TYPE_CHECKING

from recoverable import callbacks, events
from recoverable.errors import InDoubtError
from recoverable.waits import waiting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from recoverable import outcome
    from recoverable._native.runtime import NativeArena, Transaction
    from recoverable.journal.gate import Gate

__all__ = ["is_before", "passed", "passed_here"]


def is_before(transaction: Transaction, options: outcome.Options) -> bool:
    """Return whether a request's answer waits for the disk; then its arena has a journal, or it would not have begun."""
    return bool(transaction.arena.gated) if options.durable is None else options.durable == "disk"


async def passed(transaction: Transaction, position: int | None = None) -> None:
    """Wait until what a request has committed, and what it has seen, is durable. Its callbacks wait with it, or longer.

    Args:
        transaction: Its last run's, which has ended.
        position: Of the feed, up to where it has seen it. Default: what that run has.

    Raises:
        InDoubtError: It is not, after `busy_timeout`.
    """
    native = transaction.arena
    journal: Gate = native.journal
    position = transaction.position if position is None else position
    if not journal.is_durable(position):
        with _in_doubt(transaction, position):
            await journal.wait(position, native.busy_timeout)


def passed_here(transaction: Transaction, position: int | None = None) -> None:
    """Do so in a thread that stands still, and its event loop with it, if it has one.

    Raises:
        InDoubtError: It is not, after `busy_timeout`.
    """
    native = transaction.arena
    journal: Gate = native.journal
    position = transaction.position if position is None else position
    if not journal.is_durable(position):
        with _in_doubt(transaction, position):
            journal.wait_here(position, native.busy_timeout)


@contextlib.contextmanager
def _in_doubt(transaction: Transaction, position: int) -> Iterator[None]:
    """Count those who wait in vain; their callbacks go on waiting."""
    native = transaction.arena
    try:
        with waiting(transaction, "disk"):
            yield
    except BaseException as error:
        native.journal.doubts += isinstance(error, InDoubtError)
        hooks, transaction.hooks = transaction.hooks, None
        if hooks is not None:
            _later(native, position, transaction, hooks, error)
        raise


_running: set[asyncio.Task[None]] = set()


def _later(native: NativeArena, position: int, transaction: Transaction, hooks: Any, error: BaseException) -> None:
    """Have callbacks run when the position is durable after all; if it never is, each is told as failed."""
    journal: Gate = native.journal

    async def run() -> None:
        try:
            while True:
                try:
                    await journal.wait(position, 60.0)
                    break
                except InDoubtError:
                    if journal.stopped:
                        raise
        except BaseException as failure:
            _failed(native, transaction, hooks, failure)
            raise
        transaction.hooks = hooks
        await callbacks.run_hooks(transaction)

    if running_loop() is None:
        _failed(native, transaction, hooks, error)
        return
    task = asyncio.get_running_loop().create_task(run(), name=f"after_commit of {transaction.handler}")
    _running.add(task)
    task.add_done_callback(_over)


def _over(task: asyncio.Task[None]) -> None:
    _running.discard(task)
    if not task.cancelled():
        task.exception()  # it was told


def _failed(native: NativeArena, transaction: Transaction, hooks: Any, error: BaseException) -> None:
    if not isinstance(error, InDoubtError):  # cancelled: the program ends, say
        error = native.journal.in_doubt("when it was not waited for any longer")
    for hook in hooks:
        events.hook_failed(native.owner.name, transaction.handler, callbacks.name_of(hook.func), error)


os.register_at_fork(after_in_child=_running.clear)  # they are the parent's
