"""The run loop: one request, as many runs of its handler as it takes.

A run is a new coroutine under a native `StepDriver`, which mounts the transaction around each step and commits or rolls
back in the very call that ends the coroutine. This loop only looks at how a run ended. `run` is the path of a healthy
request: one transaction object, one driver, nothing else. Everything about failures is in `again`.

The time limit spans all runs, because it is the caller who waits. Callbacks of `after_commit` run after it, outside: a
timeout that fell into them would report a committed request as failed.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from recoverable import events, policy
from recoverable._native.runtime import NativeArena, StepDriver, Transaction
from recoverable.errors import ArenaFullError, RecoverableError
from recoverable.transaction import conflict_error, run_hooks, running_loop

__all__ = ["again", "coroutine", "returned", "run"]

T = TypeVar("T")
Handler = Callable[..., Coroutine[Any, Any, T]]


async def run(
    native: NativeArena,
    handler: str,
    fn: Handler[T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: policy.Options,
    scope: _Scope | None = None,
) -> T:
    """Run `fn(*args, **kwargs)` as one transaction of the arena, again where `options` say so.

    Args:
        native: The arena.
        handler: The handler's name in messages and events.
        fn: A coroutine function.
        args: Its positional arguments; a web request is looked for among them.
        kwargs: Its keyword arguments.
        options: Checked options.
        scope: The time limit around this call, if there is one.

    Returns:
        What the last run returned, or the fallback's value.
    """
    if options.timeout is not None:
        return await _timed(native, handler, fn, args, kwargs, options, options.timeout)
    transaction = Transaction(native, handler, False)
    try:
        result = await StepDriver(fn(*args, **kwargs), transaction, options.decide)
    except BaseException as error:
        failure = error
    else:
        if transaction.touched or transaction.hooks is not None:
            await returned(transaction, args, options, scope, result, None)
        return result
    try:
        return await again(native, handler, fn, args, kwargs, options, scope, transaction, failure)
    finally:
        del failure  # its traceback refers to this frame


def coroutine(fn: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> tuple[Handler[T], tuple[Any, ...]]:
    """Return a coroutine function, and its arguments, for a callable that returns any kind of awaitable."""
    if inspect.iscoroutinefunction(fn):
        return fn, args
    return _call, (fn, *args)


async def _call(fn: Callable[..., Awaitable[T]], *args: Any) -> T:
    return await fn(*args)


async def again(
    native: NativeArena,
    handler: str,
    fn: Handler[T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: policy.Options,
    scope: _Scope | None,
    transaction: Transaction,
    failure: BaseException,
) -> T:
    """Go on after a first run that raised: what `policy` says, until a run returns or the runs are used up."""
    conflicts = crashes = 0
    request_id: str | None = None
    try:
        while True:
            if transaction.state == "committed" or (not transaction.touched and policy.is_answer(failure)):
                if transaction.touched or transaction.hooks is not None:
                    await returned(transaction, args, options, scope, None, failure, request_id)
                raise failure

            cause = failure.__cause__
            if isinstance(failure, RecoverableError) and cause is not None and not isinstance(cause, Exception):
                failure, then = cause, "raise"  # doomed while it was being cancelled or closed: that must not be lost
            elif transaction.conflicted and _cancelled():
                failure, then = asyncio.CancelledError(), "raise"  # its `finally` met the conflict
            elif transaction.conflicted:
                conflicts += 1
                why = None if conflicts > options.max_conflicts else policy.why_no_rerun(args)
                if conflicts <= options.max_conflicts and why is None:
                    then = "rerun"
                else:
                    then = "raise" if options.fallback is None else "fallback"
                    failure = conflict_error(transaction, transaction.attempt, why)
            else:
                crashes += 1
                then = policy.after_crash(failure, options, crashes)
                if then == "retry" and _cancelled():
                    then = "raise"  # the crash came of the cancellation; another run would lose it
                elif then == "retry" and policy.why_no_rerun(args) is not None:
                    then = "raise" if options.fallback is None else "fallback"

            if transaction.touched or then != "raise":
                request_id = request_id or policy.request_id(args)
                _report(transaction, failure, request_id, then, scope)

            if then == "raise":
                raise failure
            if then == "fallback":
                return await _fall_back(options, failure, args, kwargs)  # type: ignore[no-any-return]

            attempt = transaction.attempt + 1
            transaction = Transaction(native, handler, False)
            transaction.attempt = attempt
            try:
                result = await StepDriver(fn(*args, **kwargs), transaction, options.decide)
            except BaseException as error:
                failure = error
                continue
            await returned(transaction, args, options, scope, result, None, request_id)
            return result
    finally:
        del failure  # it refers to this frame


def _cancelled() -> bool:
    """Tell whether somebody has asked the running task to end."""
    task = None if running_loop() is None else asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def returned(
    transaction: Transaction,
    args: tuple[Any, ...],
    options: policy.Options,
    scope: _Scope | None,
    result: Any,
    answer: BaseException | None,
    request_id: str | None = None,
) -> None:
    """Do what follows a run that ended by its own choice: callbacks and events."""
    native = transaction.arena
    if transaction.touched:
        committed = transaction.state == "committed"
    else:
        committed = bool(options.decide(result, answer))
    if native.raw_count():
        native.public._report_strays()
    if not committed:
        if transaction.touched:
            _report(transaction, None, request_id or policy.request_id(args), "return", scope)
    elif transaction.wrote and events.committed_wanted():
        events.request_committed(
            native.public.name,
            transaction.handler,
            transaction.report(),
            transaction.attempt,
            request_id or policy.request_id(args),
        )
    if committed and transaction.hooks is not None:
        if scope is None:
            await run_hooks(transaction)
        else:
            scope.committed = transaction


def _report(
    transaction: Transaction, failure: BaseException | None, request_id: str, then: str, scope: _Scope | None
) -> None:
    """Write the event of a run that was rolled back."""
    native, report, attempt = transaction.arena, transaction.report(), transaction.attempt
    name, handler = native.public.name, transaction.handler
    if native.raw_count():
        native.public._report_strays()
    if transaction.conflicted:
        events.request_conflict(name, handler, report, attempt, request_id, then=then)
        return
    if isinstance(failure, ArenaFullError):
        events.arena_full(name, handler, str(failure))
    if failure is None:
        kind = None
    elif scope is not None and scope.limit.expired() and isinstance(failure, asyncio.CancelledError):
        kind = "TimeoutError"
    else:
        kind = type(failure).__qualname__
    expected = (
        failure is None
        or isinstance(failure, (asyncio.CancelledError, GeneratorExit))  # or finalised while suspended
        or policy.is_answer(failure)
    )
    events.request_rolled_back(name, handler, kind, report, attempt, request_id, expected=expected, then=then)


async def _fall_back(
    options: policy.Options, failure: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    assert options.fallback is not None
    value = options.fallback(failure, *args, **kwargs)
    return await value if inspect.isawaitable(value) else value


# -- with a time limit ------------------------------------------------------------------------------------------


class _Scope:
    """A time limit, and the committed transaction whose callbacks wait for its end."""

    __slots__ = ("committed", "limit")

    def __init__(self, limit: asyncio.Timeout) -> None:
        self.limit = limit
        self.committed: Transaction | None = None


async def _timed(
    native: NativeArena,
    handler: str,
    fn: Handler[T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: policy.Options,
    seconds: float,
) -> T:
    scope = _Scope(asyncio.timeout(seconds))
    assert options.within is not None
    try:
        async with scope.limit:
            result = await run(native, handler, fn, args, kwargs, options.within, scope)
    except BaseException as error:
        if scope.committed is not None:  # a redirect, say
            await run_hooks(scope.committed)
            raise
        failure = error
    else:
        if scope.committed is not None:
            await run_hooks(scope.committed)
        return result
    try:
        if isinstance(failure, TimeoutError) and scope.limit.expired():
            failure = TimeoutError(
                f"{handler} took longer than its timeout of {seconds:g} s. It has been rolled back, and nothing of it "
                "was committed. Raise timeout, or make it faster."
            )
        if options.fallback is not None and isinstance(failure, Exception) and not policy.is_answer(failure):
            return await _fall_back(options, failure, args, kwargs)  # type: ignore[no-any-return]
        raise failure
    finally:
        del failure
