"""What follows the end of a run: its events, and the callbacks of `after_commit`, after the time limit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from recoverable import event_log, events, waits, web
from recoverable._native.runtime import outside
from recoverable.callbacks import run_hooks, run_hooks_now
from recoverable.errors import ArenaFullError, _Doomed
from recoverable.journal import answers

if TYPE_CHECKING:
    from recoverable import outcome
    from recoverable._native.runtime import Report, Transaction
    from recoverable.transaction import Lost

__all__ = [
    "ended",
    "is_late",
    "left",
    "rolled_back",
    "seen",
    "seen_here",
    "settle",
    "settle_here",
    "told",
    "told_here",
]


async def settle(
    transaction: Transaction,
    options: outcome.Options,
    result: Any,
    answer: BaseException | None = None,
    request_id: str | None = None,
) -> None:
    """Do what follows a run that ended by its own choice: callbacks and events, after the time limit."""
    if transaction.left or transaction.settled:  # that was done when it was committed
        if transaction.hooks is not None:
            await run_hooks(transaction)
        return
    committed = _has_committed(transaction, options, result, answer)
    if transaction.position and answers.is_before(transaction, options):  # also of one that says what it saw, as a 409
        await answers.passed(transaction)
    await ended(transaction, committed, request_id)


def settle_here(
    transaction: Transaction,
    options: outcome.Options,
    result: Any,
    answer: BaseException | None = None,
    request_id: str | None = None,
) -> None:
    """Do so in a thread that stands still where there is something to wait for."""
    if transaction.settled:
        if transaction.hooks is not None:  # of those a signal's handler has interrupted
            outside(run_hooks_now, transaction)
        return
    committed = _has_committed(transaction, options, result, answer)
    if transaction.position and answers.is_before(transaction, options):
        answers.passed_here(transaction)
    try:
        _tell_end(transaction, committed, request_id)
    finally:
        if committed and transaction.hooks is not None:
            outside(run_hooks_now, transaction)


def _has_committed(
    transaction: Transaction, options: outcome.Options, result: Any, answer: BaseException | None
) -> bool:
    if transaction.limit is not None:
        transaction.limit.end()
    if transaction.touched:
        committed = transaction.state == "committed"
    else:
        committed = transaction.hooks is not None and bool(options.decide(result, answer))
    if not committed:
        transaction.hooks = None
        if transaction.touched:
            web.lose_tasks(result)
    transaction.settled = True
    return committed


async def left(transaction: Transaction, options: outcome.Options) -> None:
    """Do what follows a commit in the middle of a run, before what it has come to is answered."""
    if transaction.position and answers.is_before(transaction, options):
        await answers.passed(transaction)
    try:
        _tell_end(transaction, True, None)
    finally:
        if transaction.hooks is not None:
            await run_hooks(transaction)


async def seen(transaction: Transaction, options: outcome.Options, failure: BaseException) -> None:
    """Wait until what a run has seen that ends by an error is as durable as its caller is to know: a 409 tells of it.

    One that has met a conflict tells of the commit that it has lost to, which is behind all that it saw.
    """
    position = _seen(transaction, options, failure)
    if position:
        await answers.passed(transaction, position)


def seen_here(transaction: Transaction, options: outcome.Options, failure: BaseException) -> None:
    """Do so in a thread that stands still."""
    position = _seen(transaction, options, failure)
    if position:
        answers.passed_here(transaction, position)


def _seen(transaction: Transaction, options: outcome.Options, failure: BaseException) -> int:
    """Return where in the feed that is; 0: there is nothing to wait for."""
    if isinstance(failure, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt | _Doomed):
        return 0  # it tells of nothing
    if transaction.conflicted:
        return _told(transaction, options)
    if transaction.position and answers.is_before(transaction, options):
        transaction.hooks = None
        return transaction.position
    return 0


async def told(transaction: Transaction, options: outcome.Options) -> None:
    """Wait until what a fallback may tell of is durable: what the runs have seen, all of them, and what it has read itself."""
    position = _told(transaction, options)
    if position:
        await answers.passed(transaction, position)


def told_here(transaction: Transaction, options: outcome.Options) -> None:
    """Do so in a thread that stands still."""
    position = _told(transaction, options)
    if position:
        answers.passed_here(transaction, position)


def _told(transaction: Transaction, options: outcome.Options) -> int:
    if not answers.is_before(transaction, options):
        return 0
    native = transaction.arena
    transaction.hooks = None
    return transaction.position if native.closed else native.journal.position(native, None)


async def ended(transaction: Transaction, committed: bool, request_id: str | None = None) -> None:
    """Write the events of a run that ended by its own choice, then run its callbacks."""
    try:
        _tell_end(transaction, committed, request_id)
    finally:  # the program's log pipeline may raise
        if committed and transaction.hooks is not None:
            await run_hooks(transaction)


def _tell_end(transaction: Transaction, committed: bool, request_id: str | None) -> None:
    native = transaction.arena
    if native.pending():
        native.owner._report_found()
    if not committed:
        if transaction.touched:
            request_id = request_id or waits.request_id(transaction)
            rolled_back(transaction, None, request_id, "return", transaction.report())
    elif transaction.wrote and event_log.committed_wanted():
        events.request_committed(
            native.owner.name,
            transaction.handler,
            transaction.report(),
            transaction.attempt,
            request_id or waits.request_id(transaction),
        )


def is_late(transaction: Transaction, failure: BaseException) -> bool:
    """Return whether a run was ended by its time limit."""
    return transaction.limit is not None and transaction.limit.expired and isinstance(failure, asyncio.CancelledError)


def rolled_back(
    transaction: Transaction,
    failure: BaseException | None,
    request_id: str,
    then: str,
    report: Report,
    lost: Lost | None = None,
    capsule: str | None = None,
) -> None:
    """Write the event of a run that was rolled back; `lost`: where, if it was a conflict; `capsule`: the file that keeps it."""
    native, attempt = transaction.arena, transaction.attempt
    name, handler = native.owner.name, transaction.handler
    if native.pending():
        native.owner._report_found()
    if lost is not None:
        events.request_conflict(name, handler, report, lost, attempt, request_id, then=then, capsule=capsule)
        return
    full = isinstance(failure, ArenaFullError)
    if isinstance(failure, ArenaFullError) and not events.full_told(failure):
        answered = waits.whole(transaction).request is not None
        facts = (report, attempt, request_id)
        events.request_full(
            name, handler, str(failure), *facts, error=failure, answered=answered, then=then, capsule=capsule
        )
        return
    if failure is None:
        kind = None
    elif is_late(transaction, failure):
        kind = "TimeoutError"
    elif isinstance(failure, _Doomed):
        kind = "ConflictError"  # of the transaction around it
    else:
        kind = type(failure).__qualname__
    expected = (
        failure is None
        or isinstance(failure, (asyncio.CancelledError, GeneratorExit, _Doomed))  # or finalised while suspended
        or web.is_answer(failure)
    )
    # Who cancels or answers knows why. What leaves an independent part is in the event of the whole, or caught on its way.
    untold = full or (expected and kind != "TimeoutError") or (transaction.parent is not None and then == "raise")
    error = None if untold else failure
    events.request_rolled_back(
        name,
        handler,
        kind,
        report,
        attempt,
        request_id,
        error=error,
        expected=expected,
        then=then,
        capsule=capsule,
    )
