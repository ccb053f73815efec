"""Transactions as `with` blocks, savepoints, and what runs after a commit.

`arena.transaction()` is one step: the arena's lock is held from its first touch to its end, so nothing may be awaited
inside. A `with` block can't see an `await`; what can be seen is that the event loop runs something else while the block
is open. So the first block that is opened in an iteration of a running loop leaves one callback behind, the *sentinel*,
which the loop runs before it can resume a coroutine that has been suspended since. Whatever block is still open then
has an `await` in it: it is rolled back on the spot, and says so when it ends. One callback serves all blocks of an
iteration; a block that ends in time costs nothing more.

An `await` that does not suspend (a finished future) is not seen, and does no harm.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
from asyncio import AbstractEventLoop
from asyncio import _get_running_loop as running_loop  # returns None outside a loop; documented for this use
from typing import TYPE_CHECKING, Any, NamedTuple

from recoverable import events
from recoverable._native import watchdog
from recoverable._native.paths import describe_conflict
from recoverable._native.runtime import (
    SavepointBlock,
    Transaction,
    TransactionBlock,
    current_transaction,
    stops_around,
)
from recoverable.callbacks import name_of, run_hooks_now
from recoverable.errors import (
    ArenaBusyError,
    ArenaCorruptError,
    ArenaFullError,
    ConflictError,
    NoTransactionError,
    StepTooLongError,
    TransactionError,
    _Doomed,
    _TooLong,
    as_raised,
    outside_by_wait_for,
    without_doomed,
)
from recoverable.watchdog import too_long

if TYPE_CHECKING:
    from collections.abc import Callable

    from recoverable._native.runtime import Report

__all__ = [
    "Lost",
    "SavepointBlock",
    "TransactionBlock",
    "after_commit",
    "attempt",
    "conflict_error",
    "end_block",
    "report_arena_failure",
    "running_loop",
    "watch_block",
    "where_lost",
]


class _Open(threading.local):
    """The one-step transactions that are open in this thread while an event loop runs."""

    def __init__(self) -> None:
        self.blocks: list[TransactionBlock] = []
        self.loop: AbstractEventLoop | None = None  # where a sentinel is waiting

    def sentinel(self) -> None:
        """Roll back every block that an `await` has left open."""
        self.loop = None
        while self.blocks:
            self.blocks.pop().abandon()


_open = _Open()


def _forked() -> None:
    """The blocks that are open are the parent's, and so is the loop."""
    _open.blocks, _open.loop = [], None


os.register_at_fork(after_in_child=_forked)


def watch_block(block: TransactionBlock, loop: AbstractEventLoop) -> list[TransactionBlock]:
    """Have the block looked at by this iteration's sentinel; it leaves the list that is returned when it ends."""
    if _open.loop is not loop:
        _open.loop = loop
        loop.call_soon(_open.sentinel)
    _open.blocks.append(block)
    return _open.blocks


def end_block(block: TransactionBlock, error: BaseException | None, failed: BaseException | None) -> None:
    """End a block in any way but by a commit that succeeds.

    Args:
        block: The block.
        error: What left the block.
        failed: What its commit raised; it has been rolled back.
    """
    transaction = block.transaction
    if block.abandoned:
        if error is None or isinstance(error, Exception):
            raise TransactionError(
                "await inside arena.transaction(): the block is one step, and the event loop ran something else "
                f"while it was open (in {transaction.handler}). It has been rolled back, and nothing of it was "
                "committed. Await before or after the block, or use `await arena.run(...)` or "
                "@recoverable, which allow it."
            ) from error
        return
    native = transaction.arena
    kept, rest = error.split(_Doomed) if isinstance(error, BaseExceptionGroup) else (None, None)  # by a group of tasks
    cause = error if kept is None else rest
    stopped = isinstance(error, _Doomed) or kept is not None
    late = transaction.late and (isinstance(error, Exception) or kept is not None)  # whatever its code has made of that
    around = stops_around(error, transaction)
    ours = stopped and transaction.state == "doomed" and (transaction.late or not around)
    try:
        if failed is not None:
            raise failed
        if error is None:
            transaction.commit()
        else:
            transaction.rollback(error)
    except (ArenaFullError, ArenaBusyError, ArenaCorruptError) as trouble:
        report_arena_failure(transaction, trouble)
        raise
    except _Doomed as doomed:
        if transaction.state == "committed" or stops_around(doomed, transaction):  # another's, which came in between
            raise
        raise _lost_block(transaction, doomed) from None
    finally:
        transaction.leave()
        if native.pending():
            native.owner._report_found()
    if error is None:
        if transaction.one_step:  # else they can be awaited
            run_hooks_now(transaction)
    elif late:
        raise too_long(transaction, error) from (None if isinstance(error, StepTooLongError) else cause)
    elif ours:
        raise _lost_block(transaction, error) from rest
    elif stopped and not around:
        raise without_doomed(error) from None
    else:
        report_arena_failure(transaction, error)


def _lost_block(transaction: Transaction, doomed: BaseException) -> BaseException:
    if isinstance(doomed, _TooLong):
        return too_long(transaction, doomed)
    return conflict_error(transaction.handler, where_lost(transaction, transaction.report()), 1)


def report_arena_failure(transaction: Transaction, error: BaseException) -> None:
    """Write the event of a failure that is the arena's and not the handler's, if it is one."""
    name, handler = transaction.arena.owner.name, transaction.handler
    if isinstance(error, ArenaFullError):
        if not events.full_told(error):
            events.arena_full(name, handler, str(error))
    elif isinstance(error, ArenaBusyError):
        holder = watchdog.slow_step(transaction.arena)
        events.arena_busy(name, handler, str(error), None if holder is None else holder.text.partition("\n")[2])
    elif isinstance(error, ArenaCorruptError):
        events.arena_corrupt(name, handler, str(error))


# -- what a handler can ask for -------------------------------------------------------------------------------


def _current(call: str) -> Transaction:
    transaction = current_transaction()
    if transaction is None:
        raise NoTransactionError(
            f"recoverable.{call} needs a running transaction, and there is none here. Nothing was done. Use it inside "
            f"a @recoverable handler, arena.run() or `with arena.transaction():`; a task spawned there is "
            f"outside{outside_by_wait_for()}."
        )
    return transaction


def after_commit(fn: Callable[..., Any], *args: Any) -> None:
    """Call `fn(*args)` once the running transaction has committed; never if it rolls back.

    Callbacks run in the order they were given, outside the transaction, before the response is sent. What one raises is
    logged as `after_commit.failed` and goes no further: the commit stands. Rolling back to a savepoint drops those that
    were given since. A coroutine function is awaited; in `with arena.transaction():`, which can't await, it is refused.
    A cancellation of the request does not reach them: it ends at once, and they go on in a task of their own.

    Args:
        fn: The callback.
        args: Its arguments.

    Raises:
        NoTransactionError: There is no running transaction.
        TransactionError: `fn` is a coroutine function and the transaction is a `with` block.
    """
    transaction = _current("after_commit()")
    if (transaction.one_step or transaction.plain) and inspect.iscoroutinefunction(fn):
        what = f"{transaction.handler}, a plain function," if transaction.plain else "`with arena.transaction():`"
        raise TransactionError(
            f"{name_of(fn)} is a coroutine function, which {what} can't await after its commit. It "
            "will not be called; the transaction goes on. Give a plain function, or use `await arena.run(...)`."
        )
    hook = functools.partial(fn, *args)
    if transaction.hooks is None:
        transaction.hooks = [hook]
    else:
        transaction.hooks.append(hook)


def attempt() -> int:
    """Tell which run of its handler the running transaction is: 1, or more after a conflict or a retry.

    Raises:
        NoTransactionError: There is no running transaction.
    """
    return _current("attempt()").attempt


# -- after the end ----------------------------------------------------------------------------------------------


class Lost(NamedTuple):
    """Where a conflict was lost, in words: each may be None.

    Attributes:
        path: The container's path from the root.
        key: The key, item or other part of it.
        winner: The handler that committed first.
    """

    path: str | None
    key: str | None
    winner: str | None

    def __str__(self) -> str:
        """Go on a sentence: " at root["a"], 'key', which another changed first"."""
        where = f" at {self.path}" if self.path else ""
        if self.key:
            where += f", {self.key}"
        return where + (f", which {self.winner} changed first" if self.winner else "")


def where_lost(transaction: Transaction, report: Report) -> Lost:
    """Look up where a transaction lost its conflict, if it did: reads the arena, so ask once."""
    path = key = None
    if report["conflict_kind"] and not transaction.arena.closed:
        path, key = describe_conflict(transaction.arena, report)
    return Lost(path, key, report["winner"])


def conflict_error(handler: str, lost: Lost, runs: int, why: str | None = None) -> BaseException:
    """Build the `ConflictError` that the caller of the last run sees.

    Args:
        handler: The handler's name.
        lost: Where.
        runs: How many there were.
        why: Why there is no further run, where it is not that `max_conflicts` is used up.
    """
    path, key, winner = lost
    times = "once" if runs == 1 else f"{runs} times"
    return as_raised(
        ConflictError(
            f"{handler} met a conflict{lost}; it was run {times} and rolled back each time, so nothing of "
            f"it was committed. {why or 'Send the request again, or raise max_conflicts.'}",
            path=path,
            key=key,
            winner=winner,
            runs=runs,
            reason=why,
        )
    )
