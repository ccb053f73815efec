"""The run loop: one request, as many runs of its handler as it takes.

A run is a new coroutine under a native `StepDriver`, which mounts the transaction around each step and commits or rolls
back in the very call that ends the coroutine. `transactional` makes the native function that whatever asks for a request
calls: the decorator, `arena.run`, a middleware. That drives the first run by itself (`_native/call.pxi`), and where there is
nothing to do after it, none of this here is run. Everything about failures is in `_again`: it finds out what is known of a
run, `outcome.next_action` decides, it acts.

The time limit spans all runs, because it is the caller who waits. It ends before the callbacks of `after_commit`: a
timeout that fell into them would report a committed request as failed.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import types
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from recoverable import (
    _registry,
    ambient,
    between,
    completion,
    event_log,
    feedwait,
    lockwait,
    outcome,
    privilege,
    tasks,
    waits,
    web,
)
from recoverable._native.runtime import Handler as NativeHandler
from recoverable._native.runtime import (
    NativeArena,
    StepDriver,
    TimeLimit,
    Transaction,
    set_upcalls,
    transactions_here,
)
from recoverable.callbacks import begin_hooks, name_of, run_hooks_now
from recoverable.contention import FirstRun, Habit, Place, leave_early, lost_first, note_commit, spot_of
from recoverable.errors import ArenaFullError, RecoverableError, TransactionError
from recoverable.transaction import (
    Lost,
    conflict_error,
    end_block,
    report_arena_failure,
    running_loop,
    watch_block,
    where_lost,
)
from recoverable.watchdog import too_long

if TYPE_CHECKING:
    from recoverable._native.runtime import Before
    from recoverable.contention import Spot

__all__ = [
    "Call",
    "Course",
    "commit_early",
    "coroutine",
    "facts_of",
    "is_coroutine_function",
    "leave",
    "stopped_by",
    "tell",
    "transactional",
    "what_follows",
]

T = TypeVar("T")
Handler = Callable[..., Coroutine[Any, Any, T]]


# -- what is run --------------------------------------------------------------------------------------------------


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
    plain = type(fn) is types.FunctionType and fn.__code__.co_flags & inspect.CO_COROUTINE
    if plain or is_coroutine_function(fn):
        return fn, args  # type: ignore[return-value]
    return _call, (fn, *args)


async def _call(fn: Callable[..., Any], *args: Any) -> Any:
    result = fn(*args)
    if not inspect.isawaitable(result):
        name = name_of(fn)
        raise TypeError(
            f"arena.run() needs a function that returns something to await, and {name} returned {result!r:.60}. It was rolled "
            f"back. Write {name} with `async def`; or have a plain function be a transaction by @recoverable, or by "
            "`with arena.transaction():`, and call it without arena.run()."
        )
    return await result


class Call(NamedTuple, Generic[T]):
    """What is to be run again, if need be.

    Attributes:
        handler: The handler's name in messages and events.
        fn: A coroutine function, or a plain one.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        options: Checked options.
    """

    handler: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: outcome.Options


@dataclass(slots=True)
class Course:
    """How far a call has come: its last run, where it last lost a conflict, and where it stands because of that."""

    runs: int = 1
    lost: Lost | None = None
    place: Place | None = None
    habit: Habit | None = None
    cancelled: bool = False  # its last run, before it could lose or commit
    earlier: list[dict[str, Any]] = field(default_factory=list)  # runs, for a capsule

    async def stand(self, transaction: Transaction, lost: Spot | None) -> None:
        """Wait for the turn to run where its handler always loses, or else where it has lost itself."""
        if self.place is None:
            self.place = Place(transaction.arena, transaction)
        if self.habit is not None and self.habit.queues and lost is not None and self.habit.covers(lost):
            await self.place.stand(self.habit.spot)
        else:
            await self.place.stand_again(lost)

    def leave(self) -> None:
        """The last run has ended."""
        if self.place is not None:
            self.place.leave(cancelled=self.cancelled)


# -- what asks for a request --------------------------------------------------------------------------------------


def transactional(
    fn: Handler[T],
    handler: str,
    options: outcome.Options,
    native: NativeArena | None = None,
    *,
    joins: bool = True,
    parent: Transaction | None = None,
) -> NativeHandler[T]:
    """Make a coroutine function run as a transaction of its own, again where its options say so.

    Args:
        fn: A coroutine function.
        handler: Its name in messages and events.
        options: Checked options.
        native: The arena. None: that of the request's application, or the only one that is open.
        joins: Whether a call inside a transaction of the same arena has to do with that one: is a part of it, or independent.
        parent: The transaction around each call, of which it is independent.

    Returns:
        The coroutine function: it returns what the last run returned, or the fallback's value.
    """
    function = fn if isinstance(fn, types.FunctionType) and type(fn) is types.FunctionType else _like_any
    return NativeHandler(fn, handler, options, function, native, joins=joins, parent=parent)


async def _like_any(*args: Any, **kwargs: Any) -> Any:
    """Be what tools see of a handler that is no function itself: a partial, an object that is called."""


def _resolve(args: tuple[Any, ...], kwargs: dict[str, Any], handler: str) -> NativeArena:
    return _registry.resolve(web.arena_of(args, kwargs), handler)


def _inside(outer: Transaction, handler: NativeHandler[T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _run_inside(outer, Call(handler.name, handler.fn, args, kwargs, handler.options))


async def _run_inside(outer: Transaction, call: Call[T]) -> T:
    """Run it as a transaction of its own inside another, which goes on afterwards."""
    if outer.open_blocks:
        raise TransactionError(
            f"{call.handler} is an independent transaction, and was called inside a savepoint, an edit or a transaction "
            "block, which are part of one step. Nothing was run. Call it before or after the block."
        )
    own = transactional(call.fn, call.handler, call.options, outer.arena, joins=False, parent=outer)
    token = ambient.nobody()  # what it starts is not in the one around it
    try:
        result: T = await own(*call.args, **call.kwargs)
    except BaseException as error:
        outer.remount(error)
        raise
    finally:
        ambient.back(token)
    outer.remount()
    return result


# -- after a run that raised ------------------------------------------------------------------------------------------


def _again(
    transaction: Transaction,
    handler: NativeHandler[T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    failure: BaseException,
) -> Coroutine[Any, Any, T]:
    if transaction.conflicted:
        lost_first(transaction, handler)
    return _go_on_after(Call(handler.name, handler.fn, args, kwargs, handler.options), transaction, failure)


def _in_line(
    transaction: Transaction,
    handler: NativeHandler[T],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    coroutine: Coroutine[Any, Any, T],
) -> Coroutine[Any, Any, T]:
    call = Call(handler.name, handler.fn, args, kwargs, handler.options)
    return _go_on_after(call, transaction, None, FirstRun(transaction, handler, coroutine))


async def _go_on_after(
    call: Call[T], transaction: Transaction, failure: BaseException | None, first: FirstRun | None = None
) -> T:
    """Go on after a first run that raised, or with one that has not begun, until a run returns or the runs are used up."""
    limit: TimeLimit | None = transaction.limit
    options = call.options
    course = Course()
    try:
        try:
            return await _go_on(call, options.within or options, transaction, failure, course, first)
        except BaseException as error:
            if limit is None or limit.ended:  # ended: what it was for has been committed
                raise
            failure = error
        if limit.end() and isinstance(failure, asyncio.CancelledError):
            failure = _late(call, course, failure)
        if options.fallback is not None and isinstance(failure, Exception) and not web.is_answer(failure):
            return await _fall_back(call, options, transaction, transaction.request, failure)  # type: ignore[no-any-return]
        if course.lost is not None and isinstance(failure, TimeoutError):
            await completion.told(transaction, options)  # it says to whom it has lost
        raise failure
    finally:
        del failure  # it refers to this frame


def _late(call: Call[Any], course: Course, cancelled: asyncio.CancelledError) -> TimeoutError:
    lost = course.lost
    runs = "" if lost is None else f" in its run {course.runs}, after a conflict{lost}"
    error = TimeoutError(
        f"{call.handler} took longer than its timeout of {call.options.timeout:g} s{runs}. It has been rolled back, and "
        f"nothing of it was committed. Raise timeout, or make it faster{'' if lost is None else ' or conflict less'}."
    )
    error.__cause__ = cancelled
    return error


async def _go_on(
    call: Call[T],
    options: outcome.Options,
    transaction: Transaction,
    failure: BaseException | None,
    course: Course,
    first: FirstRun | None,
) -> T:
    before = transaction.request
    conflicts = crashes = 0
    request_id: str | None = None
    try:
        while True:
            if failure is not None:
                conflicts += transaction.conflicted
                crashes += not (transaction.conflicted or transaction.locked_out)
                facts = facts_of(transaction, failure, options, conflicts, crashes, cancelled=_cancelled())
                then, why = what_follows(facts, options, call, before)
                if then == "end":
                    course.leave()
                    if transaction.touched or transaction.hooks is not None:
                        await completion.settle(transaction, options, None, failure, request_id)
                    raise failure
                if facts.stopped:
                    failure = await _end_of(failure)
                failure, request_id = tell(call, transaction, course, facts, then, why, failure, request_id)
                goes_on = facts.locked_out and then == "rerun"

                if then == "raise":
                    await completion.seen(transaction, options, failure)
                    raise failure
                if then == "fallback":
                    course.leave()
                    return await _fall_back(call, options, transaction, before, failure)  # type: ignore[no-any-return]

                if facts.conflicted:
                    await course.stand(transaction, spot_of(transaction.report()))
                transaction = transaction.another("rerun" if facts.conflicted else "held" if goes_on else "retry")
                if course.place is not None:
                    course.place.request = transaction
                if 0 < conflicts == options.max_conflicts:
                    await privilege.take(transaction)
            elif first is not None:
                course.habit, course.place = first.habit, Place(transaction.arena, transaction)
                try:
                    await first.stand(course.place)
                except BaseException:
                    first.coroutine.close()  # it has not begun
                    transaction.rollback()
                    raise
            try:
                if transaction.rerun == "held":
                    await lockwait.at_entry(transaction)
                began = time.monotonic()
                run = call.fn(*call.args, **call.kwargs) if first is None else first.coroutine
                result: T = await StepDriver(run, transaction, options.decide)
                if first is not None and course.place is not None:
                    first.ended(transaction, course.place, None)
                    first = None
                if transaction.wrote and not transaction.left:  # else it was noted then
                    note_commit(transaction, time.monotonic() - began)
                course.leave()
                await completion.settle(transaction, options, result, None, request_id)
                return result
            except BaseException as error:
                failure = error
                course.cancelled = (
                    isinstance(error, (asyncio.CancelledError, GeneratorExit)) and not transaction.conflicted
                )
                if first is not None and course.place is not None:
                    first.ended(transaction, course.place, failure)
                first = None
    finally:
        course.leave()
        del failure  # it refers to this frame


def what_follows(
    facts: outcome.Facts, options: outcome.Options, call: Call[Any], before: Before | None
) -> tuple[outcome.Action, str | None]:
    """Return what follows a run that raised, and why its request can't be run again: None, and it has been made as it was."""
    then = outcome.next_action(facts, options)
    if then == "end" or not (then in ("rerun", "retry") or facts.beaten):
        return then, None
    # Also where it was beaten too often: whoever catches that finds the request as it was.
    why = web.why_no_rerun(before, call.args, call.kwargs)
    return outcome.next_action(facts._replace(spoilt=why is not None), options), why


def tell(
    call: Call[Any],
    transaction: Transaction,
    course: Course,
    facts: outcome.Facts,
    then: outcome.Action,
    why: str | None,
    failure: BaseException,
    request_id: str | None,
) -> tuple[BaseException, str | None]:
    """Write the events of a run that raised, and did not end so by its own choice; keep it if it crashed.

    Returns:
        The failure, as its caller is to see it, and the id of its request if that had to be known.
    """
    report = transaction.report()
    lost = where_lost(transaction, report) if transaction.conflicted else None
    course.runs, course.lost = transaction.attempt, lost or course.lost
    if lost is not None:
        waits.note_spot(transaction.arena, spot_of(report), lost.path, lost.key)
    if facts.locked_out and then == "rerun":
        return failure, request_id
    undone = transaction.touched or then != "raise"
    if lost is None:
        if not (undone and isinstance(failure, ArenaFullError)):  # else that is one event with what follows
            report_arena_failure(transaction, failure)
    elif facts.beaten and then != "rerun":
        why = why if facts.conflicts <= call.options.max_conflicts else None
        failure = conflict_error(call.handler, lost, transaction.attempt, why)
    capsule = None
    if transaction.arena.capsules is not None and not transaction.plain:  # a plain function can't be replayed
        request_id = request_id or waits.request_id(transaction)
        capsule = _kept(transaction, call, failure, request_id, course, then, lost)
    if undone:
        request_id = request_id or waits.request_id(transaction)
        completion.rolled_back(transaction, failure, request_id, then, report, lost, capsule)
    return failure, request_id


def _kept(
    transaction: Transaction,
    call: Call[Any],
    failure: BaseException,
    request_id: str,
    course: Course,
    then: outcome.Action,
    lost: Lost | None,
) -> str | None:
    """Have a request that has crashed kept; return the name of the capsule's file, or None."""
    capsules = transaction.arena.capsules
    if then in ("rerun", "retry"):
        capsules.earlier(course.earlier, transaction, failure, lost)
        return None
    if web.is_answer(failure):
        return None
    late = completion.is_late(transaction, failure)
    run = (call.fn, call.args, call.kwargs)
    return capsules.crashed(transaction, run, failure, request_id, course.earlier, lost, late=late)  # type: ignore[no-any-return]


def facts_of(
    transaction: Transaction,
    failure: BaseException,
    options: outcome.Options,
    conflicts: int,
    crashes: int,
    *,
    cancelled: bool,
) -> outcome.Facts:
    """Find out what is known of a run that raised; `cancelled`: somebody has asked its task to end."""
    answer = web.is_answer(failure)
    return outcome.Facts(
        chosen=(
            transaction.left
            or transaction.settled
            or transaction.state == "committed"
            or (not transaction.touched and answer)
        ),
        closed=transaction.closed,
        stopped=stopped_by(failure) is not None or ((transaction.conflicted or transaction.locked_out) and cancelled),
        conflicted=transaction.conflicted,
        locked_out=transaction.locked_out,
        cancelled=cancelled,
        ordinary=isinstance(failure, Exception) and not answer,
        retriable=outcome.is_retriable(failure, options.retry_on),
        conflicts=conflicts,
        crashes=crashes,
    )


def stopped_by(failure: BaseException) -> BaseException | None:
    """Return the cancellation, or other end, in which a run was found doomed: that must not be lost."""
    cause = failure.__cause__
    return cause if isinstance(failure, RecoverableError) and not isinstance(cause, Exception) else None


def _cancelled() -> bool:
    """Return whether somebody has asked the running task to end."""
    task = None if running_loop() is None else asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _end_of(failure: BaseException) -> BaseException:
    """Return what a run was stopped by, or the task's cancellation that has not been delivered yet, lest it come twice."""
    cause = stopped_by(failure)
    if cause is not None:
        return cause
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError as error:
        return error
    return asyncio.CancelledError()


async def _fall_back(
    call: Call[Any], options: outcome.Options, transaction: Transaction, before: Before | None, failure: BaseException
) -> Any:
    assert options.fallback is not None
    web.why_no_rerun(before, call.args, call.kwargs)
    try:
        value = options.fallback(failure, *call.args, **call.kwargs)
        if inspect.isawaitable(value):
            value = await value
        if web.comes_too_late(value, before):
            raise failure
    except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
        raise
    except BaseException:
        await completion.told(transaction, options)
        raise
    await completion.told(transaction, options)
    return value


# -- leaving in mid-coroutine -------------------------------------------------------------------------------------


async def commit_early() -> None:
    """Commit the transactions that the running coroutine is in, which goes on outside of them; run their callbacks.

    Raises:
        TransactionError: This is inside a block, a part or an independent transaction. Nothing was committed.
    """
    for transaction in transactions_here():
        await _commit_early(transaction)
        await completion.ended(transaction, True)


async def leave(transaction: Transaction, options: outcome.Options) -> None:
    """Commit a transaction whose coroutine goes on outside of it, and waits; be it for us, who need not be in it.

    It has ended as `options` say when this returns: what it says is durable, its callbacks have run.

    Raises:
        TransactionError: It is inside a block. Nothing was committed.
    """
    if transaction.open_blocks:
        raise TransactionError(
            f"the transaction of {transaction.handler!r} can't be committed inside a savepoint, an edit or a transaction block; "
            "nothing was committed, and it goes on: answer after the block."
        )
    between.before_leaving(transaction)
    await _commit_early(transaction)
    await completion.left(transaction, options)


async def _commit_early(transaction: Transaction) -> None:
    if transaction.must_wait():
        await lockwait.before_commit(transaction)
    while not transaction.commit_early():
        await lockwait.before_commit(transaction)
    leave_early(transaction)
    if transaction.limit is not None:
        transaction.limit.end()


set_upcalls(
    watch_block=watch_block,
    end_block=end_block,
    run_hooks=run_hooks_now,
    give_way=lockwait.before_commit,
    await_lock=lockwait.stand,
    may_rerun=lockwait.may_rerun,
    wake=privilege.wake_all,
    is_answer=web.is_answer,
    commits=web.commits,
    resolve=_resolve,
    inside=_inside,
    settle=completion.settle,
    begin_hooks=begin_hooks,
    in_line=_in_line,
    again=_again,
    committed_wanted=event_log.committed_wanted,
    untold=event_log.untold,
    too_long=too_long,
    tell_late=waits.tell_late,
    room_here=feedwait.room_here,
    commit_waiting=ambient.commit_waiting,
    settle_block=ambient.settle,
    taken_back=tasks.taken_back,
)
