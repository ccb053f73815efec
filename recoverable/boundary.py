"""The run loop: one request, as many runs of its handler as it takes.

A run is a new coroutine under a native `StepDriver`, which mounts the transaction around each step and commits or rolls
back in the very call that ends the coroutine. This loop only looks at how a run ended. `run` is the path of a healthy
request: one transaction object, one driver, nothing else. Everything about failures is in `again`.

The time limit spans all runs, because it is the caller who waits. It ends before the callbacks of `after_commit`: a
timeout that fell into them would report a committed request as failed.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, NamedTuple, TypeVar

from recoverable import events, policy
from recoverable._native.runtime import (
    NativeArena,
    RequestBefore,
    StepDriver,
    Transaction,
    request_before,
    set_driver_helpers,
    transactions_here,
)
from recoverable._timelimit import TimeLimit
from recoverable.callbacks import run_hooks
from recoverable.errors import RecoverableError, TransactionError, _Doomed
from recoverable.transaction import conflict_error, report_arena_failure, running_loop

__all__ = [
    "Call",
    "again",
    "commit_early",
    "coroutine",
    "is_coroutine_function",
    "returned",
    "run",
    "run_inside",
]

T = TypeVar("T")
Handler = Callable[..., Coroutine[Any, Any, T]]


class Call(NamedTuple, Generic[T]):
    """What is to be run, again if need be.

    Attributes:
        native: The arena.
        handler: The handler's name in messages and events.
        fn: A coroutine function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        options: Checked options.
    """

    native: NativeArena
    handler: str
    fn: Handler[T]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: policy.Options


async def run(call: Call[T], parent: Transaction | None = None) -> T:
    """Run it as one transaction of its arena, again where its options say so.

    Args:
        call: What to run.
        parent: The transaction around it, of which it is independent.

    Returns:
        What the last run returned, or the fallback's value.
    """
    native, handler, fn, args, kwargs, options = call
    transaction = _begin(native, handler, request_before(args, kwargs), parent)
    if options.timeout is not None:
        transaction.limit = TimeLimit(options.timeout)
    try:
        result = await StepDriver(fn(*args, **kwargs), transaction, options.decide)
        if transaction.touched or transaction.hooks is not None:
            await returned(transaction, options, result, None)
        elif transaction.limit is not None:
            transaction.limit.end()
        return result
    except BaseException as error:  # of the run, or of a signal's handler after its end
        failure = error
    try:
        return await again(call, transaction, failure)
    finally:
        del failure  # its traceback refers to this frame


async def run_inside(outer: Transaction, call: Call[T]) -> T:
    """Run it as a transaction of its own inside another, which goes on afterwards."""
    if outer.open_blocks:
        raise TransactionError(
            f"{call.handler} is an independent transaction, and was called inside a savepoint, an edit or a transaction "
            "block, which are part of one step. Nothing was run. Call it before or after the block."
        )
    try:
        return await run(call, outer)
    finally:
        outer.remount()


def _begin(
    native: NativeArena, handler: str, request: RequestBefore | None, parent: Transaction | None, attempt: int = 1
) -> Transaction:
    transaction = Transaction(native, handler, False)
    transaction.request = request
    if native.asks_route and (route := policy.route_of(request)) is not None:
        transaction.set_route(route)
    if parent is not None:
        transaction.set_parent(parent)
    transaction.attempt = attempt
    return transaction


def is_coroutine_function(fn: object) -> bool:
    """Return whether calling it gives a coroutine: a function, a partial of one, or an object that is called."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if isinstance(fn, type):
        return False  # what it makes may be called, not it
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
        inspect.getattr_static(type(fn), "__call__", None)
    )


def coroutine(fn: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> tuple[Handler[T], tuple[Any, ...]]:
    """Return a coroutine function, and its arguments, for a callable that returns any kind of awaitable."""
    if is_coroutine_function(fn):
        return fn, args  # type: ignore[return-value]
    return _call, (fn, *args)


async def _call(fn: Callable[..., Awaitable[T]], *args: Any) -> T:
    return await fn(*args)


async def again(call: Call[T], transaction: Transaction, failure: BaseException) -> T:
    """Go on after a first run that raised: what `policy` says, until a run returns or the runs are used up."""
    limit: TimeLimit | None = transaction.limit
    options = call.options
    try:
        try:
            return await _go_on(call, options.within or options, transaction, failure)
        except BaseException as error:
            if limit is None or limit.ended:  # ended: what it was for has been committed
                raise
            failure = error
        if limit.end() and isinstance(failure, asyncio.CancelledError):
            failure = _late(call, failure)
        if options.fallback is not None and isinstance(failure, Exception) and not policy.is_answer(failure):
            return await _fall_back(call, options, transaction.request, failure)  # type: ignore[no-any-return]
        raise failure
    finally:
        del failure  # it refers to this frame


def _late(call: Call[Any], cancelled: asyncio.CancelledError) -> TimeoutError:
    error = TimeoutError(
        f"{call.handler} took longer than its timeout of {call.options.timeout:g} s. It has been rolled back, and nothing of "
        "it was committed. Raise timeout, or make it faster."
    )
    error.__cause__ = cancelled
    return error


async def _go_on(call: Call[T], options: policy.Options, transaction: Transaction, failure: BaseException) -> T:
    native, handler, fn, args, kwargs, _ = call
    before = transaction.request
    conflicts = crashes = 0
    request_id: str | None = None
    try:
        while True:
            if transaction.left or transaction.settled:
                if transaction.hooks is not None:  # a signal's handler has raised before the first of them
                    await run_hooks(transaction)
                raise failure
            if transaction.state == "committed" or (not transaction.touched and policy.is_answer(failure)):
                if transaction.touched or transaction.hooks is not None:
                    await returned(transaction, options, None, failure, request_id)
                raise failure

            cause = failure.__cause__
            if isinstance(failure, RecoverableError) and cause is not None and not isinstance(cause, Exception):
                failure, then = cause, "raise"  # doomed while it was being cancelled or closed: that must not be lost
            elif transaction.conflicted and _cancelled():
                failure, then = await _cancellation(), "raise"  # its `finally` met the conflict
            elif transaction.conflicted:
                conflicts += 1
                why = policy.why_no_rerun(before, args, kwargs)
                if conflicts > options.max_conflicts:
                    why = None
                elif why is None:
                    then = "rerun"
                if conflicts > options.max_conflicts or why is not None:
                    then = "raise" if options.fallback is None else "fallback"
                    failure = conflict_error(transaction, transaction.attempt, why)
            else:
                crashes += 1
                then = policy.after_crash(failure, options, crashes)
                if then == "retry" and _cancelled():
                    then = "raise"  # the crash came of the cancellation; another run would lose it
                elif then == "retry" and policy.why_no_rerun(before, args, kwargs) is not None:
                    then = "raise" if options.fallback is None else "fallback"

            if not transaction.conflicted:
                report_arena_failure(transaction, failure)
            if transaction.touched or then != "raise":
                request_id = request_id or policy.request_id(transaction.request)
                _report(transaction, failure, request_id, then)

            if then == "raise":
                raise failure
            if then == "fallback":
                return await _fall_back(call, options, before, failure)  # type: ignore[no-any-return]

            limit = transaction.limit
            transaction = _begin(native, handler, before, transaction.parent, transaction.attempt + 1)
            transaction.rerun, transaction.limit = then, limit
            if 0 < conflicts == options.max_conflicts:
                await _take_privilege(transaction)
            try:
                result = await StepDriver(fn(*args, **kwargs), transaction, options.decide)
                await returned(transaction, options, result, None, request_id)
                return result
            except BaseException as error:
                failure = error
    finally:
        del failure  # it refers to this frame


def _cancelled() -> bool:
    """Tell whether somebody has asked the running task to end."""
    task = None if running_loop() is None else asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _cancellation() -> asyncio.CancelledError:
    """Return the cancellation of the running task: the one that has not been delivered yet, lest it come twice."""
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError as error:
        return error
    return asyncio.CancelledError()


async def returned(
    transaction: Transaction,
    options: policy.Options,
    result: Any,
    answer: BaseException | None,
    request_id: str | None = None,
) -> None:
    """Do what follows a run that ended by its own choice: callbacks and events, after the time limit."""
    if transaction.left:  # that was done when it was committed
        if transaction.hooks is not None:
            await run_hooks(transaction)
        return
    if transaction.limit is not None:
        transaction.limit.end()
    if transaction.touched:
        committed = transaction.state == "committed"
    else:
        committed = transaction.hooks is not None and bool(options.decide(result, answer))
    if not committed:
        transaction.hooks = None
    transaction.settled = True
    await _ended(transaction, committed, request_id)


async def _ended(transaction: Transaction, committed: bool, request_id: str | None = None) -> None:
    native = transaction.arena
    try:
        if native.pending():
            native.owner._report_found()
        if not committed:
            if transaction.touched:
                _report(transaction, None, request_id or policy.request_id(transaction.request), "return")
        elif transaction.wrote and events.committed_wanted():
            events.request_committed(
                native.owner.name,
                transaction.handler,
                transaction.report(),
                transaction.attempt,
                request_id or policy.request_id(transaction.request),
            )
    finally:  # the program's log pipeline may raise
        if committed and transaction.hooks is not None:
            await run_hooks(transaction)


def _report(transaction: Transaction, failure: BaseException | None, request_id: str, then: str) -> None:
    """Write the event of a run that was rolled back."""
    native, report, attempt = transaction.arena, transaction.report(), transaction.attempt
    name, handler = native.owner.name, transaction.handler
    if native.pending():
        native.owner._report_found()
    if transaction.conflicted:
        events.request_conflict(name, handler, report, attempt, request_id, then=then)
        return
    if failure is None:
        kind = None
    elif transaction.limit is not None and transaction.limit.expired and isinstance(failure, asyncio.CancelledError):
        kind = "TimeoutError"
    elif isinstance(failure, _Doomed):
        kind = "ConflictError"  # of the transaction around it
    else:
        kind = type(failure).__qualname__
    expected = (
        failure is None
        or isinstance(failure, (asyncio.CancelledError, GeneratorExit, _Doomed))  # or finalised while suspended
        or policy.is_answer(failure)
    )
    # Who cancels or answers knows why. What leaves an independent part is in the event of the whole, or caught on its way.
    untold = (expected and kind != "TimeoutError") or (transaction.parent is not None and then == "raise")
    error = None if untold else failure
    events.request_rolled_back(
        name, handler, kind, report, attempt, request_id, error=error, expected=expected, then=then
    )


async def _fall_back(
    call: Call[Any], options: policy.Options, before: RequestBefore | None, failure: BaseException
) -> Any:
    assert options.fallback is not None
    policy.why_no_rerun(before, call.args, call.kwargs)
    value = options.fallback(failure, *call.args, **call.kwargs)
    if inspect.isawaitable(value):
        value = await value
    if policy.comes_too_late(value, before):
        raise failure
    return value


# -- leaving in mid-coroutine -------------------------------------------------------------------------------------


async def commit_early() -> None:
    """Commit the transactions that the running coroutine is in, which goes on outside of them; run their callbacks.

    Raises:
        TransactionError: This is inside a block, a part or an independent transaction. Nothing was committed.
    """
    for transaction in transactions_here():
        if transaction.must_wait():
            await _give_way(transaction)
        transaction.commit_early()
        if transaction.limit is not None:
            transaction.limit.end()
        await _ended(transaction, True)


# -- the privileged last run --------------------------------------------------------------------------------------

_POLL = 0.005  # seconds between two looks: at another process, and at a run that may be lost without having ended


async def _take_privilege(transaction: Transaction) -> None:
    """Make this run the one that others give way to; wait for another privileged one, at most `busy_timeout`."""
    try:
        await _wait(transaction, lambda: not transaction.take_privilege())
    except BaseException:
        transaction.rollback()
        raise


async def _give_way(transaction: Transaction) -> None:
    """Wait while the commit would make a privileged run invalid that others still wait for; then it goes ahead."""
    await _wait(transaction, transaction.must_wait)


async def _wait(transaction: Transaction, needed: Callable[[], bool]) -> None:
    """Wait while it is needed: for one privileged run as long as the core says, for several at most `busy_timeout`."""
    native = transaction.arena
    end = time.monotonic() + native.busy_timeout
    while needed():
        left = end - time.monotonic()
        if left <= 0:
            return
        loop = running_loop()
        if loop is None:  # driven by hand
            await _yield()
            continue
        ended = loop.create_future()
        native.give_way.append(ended)
        timer = loop.call_later(min(left, _POLL), _wake, ended)
        try:
            await ended
        finally:
            timer.cancel()
            if ended in native.give_way:
                native.give_way.remove(ended)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _wake_all(futures: list[asyncio.Future[None]]) -> None:
    """The privileged run has ended, maybe in another thread's loop."""
    here = running_loop()
    for future in futures:
        loop = future.get_loop()
        if loop is here:
            _wake(future)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(_wake, future)


@types.coroutine
def _yield() -> Generator[None, None, None]:
    yield


set_driver_helpers(_give_way, _wake_all)
