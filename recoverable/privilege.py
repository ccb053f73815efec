"""How runs wait for the privileged one: the last run of a request, which others give way to.

The core says who is to wait (`privilege.c`); here is how, without stopping the event loop.

No line (`lines.py`) serves for this: a line looks on behalf of its first alone, while each of these waits for something of its
own: one commit may go ahead where the one before it still has to wait. And the core says when the privileged run has ended.

Who is inside a privileged run waits for none here, unless that run is of an arena whose name comes first. So no two wait for each
other. Inside are its parts, what it runs independently, and the tasks that it starts, which it may wait for.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
import types
import weakref
from asyncio import _get_running_loop as running_loop  # returns None outside a loop; documented for this use
from typing import TYPE_CHECKING, Any

from recoverable._native.runtime import current_transaction
from recoverable.waits import waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from recoverable._native.runtime import Transaction

__all__ = ["around", "give_way", "take", "wake_all"]

#: The privileged runs that a task was started in, each with its own task. Weak: a task may live on.
_inside: contextvars.ContextVar[tuple[_Run, ...]] = contextvars.ContextVar("recoverable.privilege", default=())

_POLL = 0.005  # seconds between two looks: at another process, and at a run that may be lost without having ended


async def take(transaction: Transaction) -> None:
    """Make this run the one that others give way to; wait for another privileged one, at most `busy_timeout`."""
    try:
        await _wait(transaction, lambda: not transaction.take_privilege())
    except BaseException:
        transaction.rollback()
        raise
    task = _task()
    if task is not None:
        _inside.set((*(run for run in _inside.get() if run.waited_for()), _Run(task, transaction)))


async def give_way(transaction: Transaction) -> None:
    """Wait while the commit would make a privileged run invalid that others still wait for; then it goes ahead."""
    await _wait(transaction, transaction.must_wait)


def around(transaction: Transaction | None) -> Iterator[Transaction]:
    """Yield the privileged runs, of whatever arenas, that a transaction which is to wait here is inside of."""
    seen: set[Transaction | None] = {None, transaction}
    left = {current_transaction(), *_started_in()}
    if transaction is not None:
        left |= {transaction.parent, transaction.around}
    while left := left - seen:  # coroutines that drive each other by turns are around each other
        each = left.pop()
        assert each is not None
        seen.add(each)
        if _is_waited_for(each):
            yield each
        left |= {each.parent, each.around}


class _Run:
    __slots__ = ("_task", "_transaction")

    def __init__(self, task: asyncio.Task[Any], transaction: Transaction) -> None:
        self._task, self._transaction = weakref.ref(task), weakref.ref(transaction)

    def waited_for(self) -> Transaction | None:
        """Return its transaction, if others wait for it still."""
        transaction = self._transaction()
        return None if transaction is None or not _is_waited_for(transaction) else transaction

    def is_of(self, task: asyncio.Task[Any] | None) -> bool:
        """Return whether it runs in that task."""
        return self._task() is task


def _task() -> asyncio.Task[Any] | None:
    return None if running_loop() is None else asyncio.current_task()


def _started_in() -> Iterator[Transaction]:
    """Yield the privileged runs that this task was started in; what runs in the same task is around it, or beside it."""
    task = _task()
    for run in () if task is None else _inside.get():
        transaction = run.waited_for()
        if transaction is not None and not run.is_of(task):
            yield transaction


def _is_waited_for(transaction: Transaction) -> bool:
    """Return whether it is privileged; else others wait for it no more, however long its code goes on."""
    return transaction.privileged and transaction.state == "active"


def _may_wait(transaction: Transaction) -> bool:
    name = transaction.arena.owner.name
    return all(each.arena.owner.name < name for each in around(transaction))


async def _wait(transaction: Transaction, needed: Callable[[], bool]) -> None:
    """Wait while it is needed: for one privileged run as long as the core says, for several at most `busy_timeout`."""
    if needed() and _may_wait(transaction):
        with waiting(transaction, "privilege"):
            await _wait_while(transaction, needed)


async def _wait_while(transaction: Transaction, needed: Callable[[], bool]) -> None:
    native = transaction.arena
    end = time.monotonic() + native.busy_timeout
    while (left := end - time.monotonic()) > 0:
        loop = running_loop()
        if loop is None:  # driven by hand
            await _yield()
        else:
            ended = loop.create_future()
            native.give_way.append(ended)
            timer = loop.call_later(min(left, _POLL), _wake, ended)
            try:
                await ended
            finally:
                timer.cancel()
                if ended in native.give_way:
                    native.give_way.remove(ended)
        if not needed():
            return


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def wake_all(futures: list[asyncio.Future[None]]) -> None:
    """Wake those who wait: the privileged run has ended, maybe in another thread's loop."""
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
