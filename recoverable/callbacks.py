"""What runs after a commit: every callback once, in order, whatever the others raise and whoever is cancelled.

What we want: the commit stands, so its callbacks belong to it. An exception in one of them, a cancellation of the request,
a signal or the end of the program may not drop the others, and what really can't run any more is told.

A signal that comes while the core commits has its handler run by the first Python function that is called next, which may
be one of these here; it may raise. So callbacks stay with their transaction, and how far they have come with them, until the
last has been called or a task has taken them; who calls us looks whether they are still there (recoverable.runner,
TransactionBlock), and goes on with them.

Plain functions are called on the spot. From the first that returns something to await, the rest runs in a task of its own,
and the request waits for that task. The request's own task can't do it: cancelling a task cancels the very future it
awaits, so the callback would be hit first; and an `asyncio.timeout()` inside a callback must have a task to cancel that
is not the request's. A request that is cancelled while it waits ends at once, cancelled, and the task goes on.

Whoever ends the program cancels all tasks and waits for them: `asyncio.run()`, `aiohttp.web.run_app()`. Such a
cancellation comes from outside; one from inside, such as a callback's own time limit, comes from the callback's context,
since timers and tasks inherit the context in which they were made. One from inside cancels as usual. One from outside only
starts the clock: after `GRACE` seconds the callback that is being awaited is cancelled.

What could not be awaited to its end, after that or because its event loop was closed, is told as `after_commit.failed`.
Plain functions are called even then. A task that swallows its cancellation keeps the loop from closing, as any task does.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import os
from asyncio import _get_running_loop as running_loop  # None if no loop runs; documented for this use
from operator import call, length_hint
from typing import TYPE_CHECKING, Any, Final

from recoverable import events
from recoverable._native.runtime import NativeArena, Transaction, current_transaction
from recoverable.errors import TransactionError, _Doomed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

__all__ = ["GRACE", "abandon", "begin_hooks", "finished", "name_of", "run_hooks", "run_hooks_now"]

#: Seconds that callbacks which are being awaited still have when the program ends.
GRACE: Final = 10.0


def name_of(fn: object) -> str:
    """Return what messages call a function, a partial of one, or an object that is called."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__


_CLOSED: Final = "what awaited it was closed, with its event loop perhaps"
#: Ends the callbacks of a commit: as long as it has not been called, what has ended the loop was not their end.
_LAST: Final = functools.partial(lambda: None)


class _Awaited:
    """Awaits what a callback returned, and knows whether it was closed meanwhile: a GeneratorExit may be the callback's own."""

    __slots__ = ("_inner", "closed", "send", "throw")

    def __init__(self, result: Awaitable[Any]) -> None:
        async def inner() -> None:
            await result

        self._inner = inner()
        self.send, self.throw = self._inner.send, self._inner.throw
        self.closed = False

    def __await__(self) -> _Awaited:
        return self

    __iter__ = __await__

    def __next__(self) -> Any:
        return self.send(None)

    def close(self) -> None:
        """Close the callback; whoever awaits us does so before anything else when it is closed."""
        self.closed = True
        self._inner.close()


class _Calls:
    """The callbacks of one commit, and how far they have come; `fatal` is what the caller must see after the last of them."""

    __slots__ = ("_calls", "_hooks", "_left", "_transaction", "arena", "fatal", "handler", "over", "tasks", "waiting")

    def __init__(self, transaction: Transaction) -> None:
        self._hooks: tuple[functools.partial[Any], ...] = (*(transaction.hooks or ()), _LAST)
        self._transaction = transaction
        self._left = iter(self._hooks)
        self._calls = map(call, self._left)  # takes the next and calls it, with no bytecode between
        self.arena = transaction.arena
        self.handler = transaction.handler
        self.fatal: BaseException | None = None
        self.over: str | None = None  # why nothing more is awaited
        self.tasks = 0  # that were begun for them: more than one where a signal's handler has raised meanwhile
        self.waiting: Awaitable[Any] | None = None  # what the last one returned, until it is awaited

    @staticmethod
    def of(transaction: Transaction) -> _Calls:
        """Begin them, or go on with those that a signal's handler has interrupted."""
        calls = transaction.hooks
        if not isinstance(calls, _Calls):
            calls = transaction.hooks = _Calls(transaction)
        return calls

    def take(self) -> None:
        """Take them from their transaction: somebody who finishes them has them."""
        self._transaction.hooks = None

    def next(self) -> Awaitable[Any] | None:
        """Call them until one returns something to await, unless one waits already: that, or None after the last."""
        if self.waiting is not None:
            return self.waiting
        while True:
            try:
                for self.waiting in self._calls:  # noqa: B020 -- stored at once, lest a signal's handler lose it
                    if self.waiting is not None:
                        if inspect.isawaitable(self.waiting):
                            return self.waiting
                        self.waiting = None
                if not length_hint(self._left):
                    return None
                self.failed(StopIteration())  # one of a callback's own ends the loop as well
            except BaseException as error:
                if inspect.isawaitable(self.waiting):  # of a signal's handler, while we looked at it
                    self.fatal = self.fatal or error
                    return self.waiting
                self.waiting = None
                self.failed(error)

    def failed(self, error: BaseException) -> None:
        """Tell that the callback that was called last has failed. What is no `Exception` goes on to the caller later."""
        fatal = None if isinstance(error, (Exception, asyncio.CancelledError, GeneratorExit)) else error
        if self._hooks and not isinstance(error, _Doomed):
            hook = self._hooks[len(self._hooks) - length_hint(self._left) - 1]
            try:
                events.hook_failed(self.arena.owner.name, self.handler, name_of(hook.func), error)
            except BaseException as broken:  # the program's log pipeline
                fatal = fatal or broken
        self.fatal = self.fatal or fatal

    async def rest(self) -> None:
        """Await what the last callback returned, and go on with the callbacks after it."""
        self.take()
        while (result := self.next()) is not None:
            awaited, self.waiting = _Awaited(result), None
            try:
                await awaited
            except BaseException as error:
                if awaited.closed:  # by hand or with a closed loop: nothing can be awaited any more
                    self.over = self.over or _CLOSED
                if awaited.closed and isinstance(error, GeneratorExit):
                    self.failed(
                        TransactionError(f"The callback was not run to its end: {self.over}. The commit stands.")
                    )
                else:
                    self.failed(error)
                if isinstance(error, asyncio.CancelledError) and running_loop() is None:
                    self.fatal = self.fatal or error  # by hand there is no task that would keep it
            if self.over is not None:
                self.leave(self.over)
                return

    def leave(self, over: str) -> None:
        """Call what is left, since nothing can be awaited any more."""
        self.drop(f"The callback could not be awaited: {over}. It was not run; the commit stands.")

    def drop(self, why: str) -> None:
        """Call what is left; where that gives something to await, tell why it was not. Tasks go on by themselves."""
        while (result := self.next()) is not None:
            self.waiting = None
            if inspect.iscoroutine(result):
                result.close()
            if not asyncio.isfuture(result):
                self.failed(TransactionError(why))

    def forget(self) -> None:
        """Leave them to the process that this one was forked from."""
        self._hooks = ()
        self._left = iter(self._hooks)
        self._calls = map(call, self._left)

    def end(self) -> None:
        """All have been called: raise what the caller must see."""
        self.take()
        if self.fatal is not None:
            try:
                raise self.fatal
            finally:
                self.fatal = None


# -- in a task --------------------------------------------------------------------------------------------------

_running: dict[asyncio.AbstractEventLoop, set[_Task]] = {}
_inside: contextvars.ContextVar[_Task | None] = contextvars.ContextVar("recoverable.callbacks", default=None)


class _Task(asyncio.Task[None]):
    """Callbacks that have to be awaited, and those after them."""

    def __init__(self, calls: _Calls, loop: asyncio.AbstractEventLoop) -> None:
        self.calls = calls
        self.ended = loop.create_future()  # what the request awaits; cancelled: it awaits no more
        self._clock: asyncio.TimerHandle | None = None
        self._nth = calls.tasks = calls.tasks + 1
        super().__init__(self._run(), loop=loop, name=f"after_commit of {calls.handler}")
        calls.take()
        _running.setdefault(loop, set()).add(self)
        self.add_done_callback(_Task._is_over)

    async def _run(self) -> None:
        if self._nth != self.calls.tasks:
            return
        _inside.set(self)
        try:
            await self.calls.rest()
        except BaseException as error:  # of a signal's handler, between two of them
            self.calls.fatal = self.calls.fatal or error
            await self.calls.rest()
        finally:
            is_awaited = not self.ended.done()
            self._let_go()
        if not is_awaited:
            self.calls.end()

    def _is_over(self) -> None:
        """It is done, perhaps since a signal's handler has raised before its first bytecode, or after its last."""
        if not self.ended.done() and not self.cancelled():
            self.calls.fatal = self.calls.fatal or self.exception()
        try:
            self.calls.leave("their task has been stopped")
        finally:
            self._let_go()

    def _let_go(self) -> None:
        """Have the request go on. A signal's handler may raise in here: it is called once more when the task is done."""
        if self._clock is not None:
            self._clock.cancel()
        loop = self.get_loop()
        if (tasks := _running.get(loop)) is not None:
            tasks.discard(self)
            if not tasks:
                _running.pop(loop, None)
        if not self.ended.done() and not loop.is_closed():
            self.ended.set_result(None)

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel it, if that is asked for from inside; else in `GRACE` seconds."""
        if _inside.get() is self:
            return super().cancel(msg)
        loop = self.get_loop()
        if self._clock is None and not self.done() and not loop.is_closed():
            self._clock = loop.call_later(GRACE, self._expire)
        return False

    def _expire(self) -> None:
        self.calls.over = f"the program was ending, and had waited {GRACE:g} s"
        super().cancel()


async def run_hooks(transaction: Transaction) -> None:
    """Call, and where they are coroutines await, the callbacks of a committed transaction; each failure is logged.

    Cancelled while callbacks are awaited, it ends at once, and they go on.
    """
    rest = begin_hooks(transaction)
    if rest is not None:
        await rest


def begin_hooks(transaction: Transaction) -> Coroutine[Any, Any, None] | None:
    """Do as `run_hooks()`, up to where there is something to await: the rest of it, or None where that was all."""
    calls = _Calls.of(transaction)
    loop = running_loop()
    own_task = loop is not None and current_transaction() is not None  # outside the one around it
    if own_task or calls.next() is not None:
        return _go_on(calls, loop)
    calls.end()
    return None


async def _go_on(calls: _Calls, loop: asyncio.AbstractEventLoop | None) -> None:
    if loop is None:
        await calls.rest()
    else:
        if len(_running) > (loop in _running):  # another loop's, in another thread perhaps
            abandon()
        ended = _Task(calls, loop).ended
        try:
            await ended
        except BaseException:
            if ended.done() and not ended.cancelled():
                calls.end()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                ended.cancel()
            raise
    calls.end()


def run_hooks_now(transaction: Transaction) -> None:
    """Call the callbacks of a committed `with` block or plain function, which can't await; each failure is logged."""
    calls = _Calls.of(transaction)
    try:
        if transaction.arena.pending():
            transaction.arena.owner._report_found()
    finally:
        calls.drop(
            "The callback returned something to await, which "
            f"{'a plain function' if transaction.plain else '`with arena.transaction():`'} can't await. It was not run; the commit "
            "stands. Start a task in a plain function, or use `await arena.run(...)`."
        )
        calls.end()


# -- at the end of the program ------------------------------------------------------------------------------------


async def finished(native: NativeArena) -> None:
    """Wait for callbacks of an arena's commits that go on although their requests were cancelled: little more than `GRACE`."""
    loop = asyncio.get_running_loop()
    until = loop.time() + 1.25 * GRACE  # one that swallows its cancellation is left to itself
    while tasks := [task for task in _running.get(loop, ()) if task.calls.arena is native]:
        for task in tasks:
            task.cancel()
        if (left := until - loop.time()) <= 0:
            return
        await asyncio.wait(tasks, timeout=left)


def abandon(*, at_exit: bool = False) -> None:
    """Finish callbacks whose event loop was closed under them: plain functions are called, the others are logged as failed.

    Args:
        at_exit: The program ends, and no loop will go on.
    """
    for loop in list(_running):
        if at_exit or loop.is_closed():
            for task in _running.pop(loop, ()):
                contextvars.Context().run(_close, task)  # outside of whatever transaction this is called in


def _close(task: _Task) -> None:
    coroutine: Any = task.get_coro()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    with contextlib.suppress(ValueError):  # it runs at this moment, in a thread that the program does not wait for
        coroutine.close()
        task.calls.leave(_CLOSED)  # all of them, where the loop was stopped before its first step


_of_parents: list[Any] = []  # never collected: that would close them


def _fork() -> None:
    """They are the parent's, which goes on with them."""
    for tasks in _running.values():
        _of_parents.append(tasks)
        for task in tasks:
            task.calls.forget()
    _running.clear()


os.register_at_fork(after_in_child=_fork)
