"""Tasks that are parts of a transaction: `gather`, `wait_for` and `TaskGroup`.

A task that a handler spawns is outside of the handler's transaction: it may outlive it, and what it wrote could neither be
committed nor rolled back with it. What is started here is awaited before the handler goes on, so it can be a part: each
of its steps runs in the transaction, like the handler's own. Steps of parts alternate as tasks do; there is nothing
between them but one transaction's own writes.

Outside a transaction these three do what asyncio's do.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Awaitable, Collection, Coroutine, Generator
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakSet

from recoverable import between
from recoverable._native.runtime import Transaction, current_transaction, part, stops_around
from recoverable.errors import ConflictError, StepTooLongError, _Doomed, _TooLong

__all__ = ["TaskGroup", "gather", "wait_for"]

T = TypeVar("T")


async def gather(*aws: Awaitable[Any], return_exceptions: bool = False) -> list[Any]:
    """Await several awaitables at once, each as a part of the running transaction.

    As `asyncio.gather`, but a coroutine function; and when one of them fails, the others are cancelled and awaited before
    its exception is raised, for no part may go on when the handler does not know of it.

    Args:
        aws: Coroutines and other awaitables. A task or future that exists already stays outside of the transaction.
        return_exceptions: Give exceptions among the results instead of raising the first one.

    Returns:
        Their results, in the order of `aws`.
    """
    transaction = current_transaction()
    task = asyncio.current_task()
    cancels = 0 if task is None else task.cancelling()
    tasks: dict[int, asyncio.Future[Any]] = {}
    for aw in aws:
        if id(aw) not in tasks:
            tasks[id(aw)] = _start(aw, transaction)
    try:
        results = await asyncio.gather(*(tasks[id(aw)] for aw in aws), return_exceptions=return_exceptions)
    except GeneratorExit:  # nothing can be awaited any more
        for started in tasks.values():
            started.cancel()
        raise
    except BaseException as error:
        await _end(tasks.values())
        if transaction is None:
            raise
        if isinstance(error, Exception) and task is not None and task.cancelling() > cancels:
            raise asyncio.CancelledError from error  # it came together with the error, which asyncio.gather() prefers
        _stop(transaction, [error])
        raise
    if transaction is not None and return_exceptions:
        _stop(transaction, results)
    return results


def _stop(transaction: Transaction, ends: Collection[Any]) -> None:
    """Stop the handler, too, where a part has ended with what has doomed their transaction, or stops a step around all this."""
    for end in ends:
        if isinstance(end, BaseException) and stops_around(end, transaction):
            raise end
    if transaction.state == "doomed" and any(
        isinstance(end, (ConflictError, StepTooLongError, _Doomed)) for end in ends
    ):
        raise _Doomed("a part of this transaction has met a conflict; it can only roll back") from None


def _start(aw: Awaitable[Any], transaction: Transaction | None) -> asyncio.Future[Any]:
    if transaction is None or asyncio.isfuture(aw):
        return asyncio.ensure_future(aw)
    return _closed_at_its_end(asyncio.create_task(_run(aw, transaction)), aw)


def _closed_at_its_end(task: asyncio.Task[T], aw: object) -> asyncio.Task[T]:
    """Close what a task was to run when it has ended: cancelled before it began, it never got there."""
    if asyncio.iscoroutine(aw):
        task.add_done_callback(lambda _: aw.close())
    return task


async def _run(aw: Awaitable[T], transaction: Transaction) -> T:
    try:
        driver = part(aw if asyncio.iscoroutine(aw) else _await(aw), transaction)
        return await between.around_part(driver, transaction)  # type: ignore[no-any-return]
    except _TooLong as stopped:
        if not transaction.late and stops_around(stopped, transaction):
            raise
        raise StepTooLongError().with_traceback(stopped.__traceback__) from None
    except _Doomed:  # the task may be awaited by anybody
        raise ConflictError(
            "this task was a part of a transaction that has read what another has changed since; the transaction is rolled "
            "back, with what the task had written. Leave running it again to its handler"
        ) from None


async def _await(aw: Awaitable[T]) -> T:
    return await aw


async def _end(tasks: Any) -> None:
    """Cancel the tasks and wait until they have ended, however often we are cancelled meanwhile."""
    for task in tasks:
        task.cancel()
    cancelled: asyncio.CancelledError | None = None
    while left := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError as error:
            cancelled = error
            for task in left:
                task.cancel()
    for task in tasks:
        if not task.cancelled():
            task.exception()  # it has been looked at
    if cancelled is not None:
        raise cancelled


async def wait_for(aw: Awaitable[T], timeout: float | None) -> T:
    """Await `aw`, at most `timeout` seconds; as `asyncio.wait_for`, but always in the running task and its transaction.

    Args:
        aw: A coroutine or another awaitable; cancelled when the time is over.
        timeout: Seconds, or None for no limit.

    Raises:
        TimeoutError: The time is over. The transaction goes on, with what `aw` had written: undo it by letting this out.
    """
    async with asyncio.timeout(timeout):
        return await aw


class TaskGroup(asyncio.TaskGroup):
    """`asyncio.TaskGroup` whose tasks are parts of the transaction that the group is entered in."""

    _transaction: Transaction | None = None

    async def __aenter__(self) -> Self:
        self._transaction = current_transaction()
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Before Python 3.13 a task that fails while its group waits here cancels the group's own task, which the group
        # never takes back. That would look as if the request were being cancelled, and keep it from being run again.
        task = asyncio.current_task()
        assert task is not None
        requested, cancels = self._cancel_requested(), task.cancelling()
        try:
            await super().__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            if (
                sys.version_info < (3, 13)
                and not requested
                and self._cancel_requested()
                and task.cancelling() > cancels
                and self not in _taken_back
            ):
                task.uncancel()
            if self._transaction is not None:
                _stop(self._transaction, group.exceptions)
            raise

    def _cancel_requested(self) -> bool:
        return getattr(self, "_parent_cancel_requested", False)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **options: Any,
    ) -> asyncio.Task[T]:
        """Start a coroutine as a task of the group; arguments as for `asyncio.TaskGroup.create_task`."""
        if self._transaction is None:
            return super().create_task(coro, name=name, context=context, **options)
        whole: Coroutine[Any, Any, T] = _run(coro, self._transaction)  # type: ignore[arg-type]  # a generator-based one
        try:
            return _closed_at_its_end(super().create_task(whole, name=name, context=context, **options), coro)
        except BaseException:
            whole.close()
            coro.close()
            raise


def taken_back(coroutine: Any) -> bool:
    """Take back the cancellation by which an `asyncio.TaskGroup` wakes who waits for it, since a task of it has failed.

    Before Python 3.13 the group never does, which would look as if the request were being cancelled, and keep it from being run
    again. What is to be thrown in may come of others that cancel as well.

    Args:
        coroutine: What `CancelledError` is about to be thrown into.

    Returns:
        Whether it was that, and nobody else has cancelled the task.
    """
    if sys.version_info >= (3, 13):
        return False
    group: Any = _waited_for(coroutine)
    if group is None or group in _taken_back or not group._parent_cancel_requested:
        return False
    task = asyncio.current_task()
    if task is None or group._parent_task is not task:
        return False
    _taken_back.add(group)
    return bool(task.uncancel() == 0)


_taken_back: WeakSet[asyncio.TaskGroup] = WeakSet()


def _waited_for(coroutine: Any) -> asyncio.TaskGroup | None:
    """Return the group whose tasks' ends a suspended coroutine waits for, if it does."""
    while (inner := _awaited(coroutine)) is not None:
        coroutine = inner
    frame = getattr(coroutine, "cr_frame", None)
    # In later releases of 3.12 one calls the other, with the same names.
    waits = [getattr(asyncio.TaskGroup, name, None) for name in ("__aexit__", "_aexit")]
    if frame is None or not any(frame.f_code is getattr(each, "__code__", None) for each in waits):
        return None
    group = frame.f_locals.get("self")
    # Where its body was cancelled by it, or has failed, the group has taken that back, or has not cancelled anybody.
    return group if isinstance(group, asyncio.TaskGroup) and frame.f_locals.get("et") is None else None


def _awaited(coroutine: Any) -> Any:
    """Return the coroutine, or the like of it, that one waits for, or None."""
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        inner = getattr(coroutine, name, None)
        if inner is not None:
            return inner if any(hasattr(inner, each) for each in ("cr_await", "gi_yieldfrom", "ag_await")) else None
    return None
