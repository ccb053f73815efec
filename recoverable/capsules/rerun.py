"""The run of a request that is replayed, and the tasks beside it.

The handler is driven from outside of its transaction. Before each of its steps the private arena is brought to the commit that this
step stood on; steps that do not use the arena don't count, since how often a handler waits for other things differs.

Tasks of the application's own go on meanwhile. What they had committed while the request ran is in the journal, and comes from
there. What they would commit now would come twice, or the run would lose a conflict by it, even if it were taken back. So one that
writes is cancelled, as all are at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from recoverable._native.runtime import current_transaction
from recoverable.errors import RecoverableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator

    from recoverable._native.runtime import Container, Handler, Transaction
    from recoverable.arena import Arena
    from recoverable.capsules import steps
    from recoverable.capsules.capsule import Capsule
    from recoverable.capsules.forward import Forward
    from recoverable.transaction import Lost

__all__ = ["Enough", "Run", "forget_run", "own_tasks"]


class Enough(BaseException):
    """Ends a replay after its first run."""


#: The run that this code is of, also in tasks that it has started; None: that of somebody else, a task of the start-up, say.
_here: ContextVar[Run | None] = ContextVar("recoverable-replay", default=None)
#: The tasks that were started by the replay that this code is of, its application's start-up among it.
_inside: ContextVar[weakref.WeakSet[Any] | None] = ContextVar("recoverable-replay-tasks", default=None)
#: Whether this code handles the request itself, or has been started by what does.
_asked: ContextVar[bool] = ContextVar("recoverable-replay-asked", default=False)


class Run:
    """The run that is replayed: its steps, which the private arena is brought forward for, and its end.

    It stands for the `Capsules` of the private arena, which hear of runs that end.
    """

    def __init__(
        self, capsule: Capsule, forward: Forward, arena: Arena, debug: Callable[[BaseException], None] | None
    ) -> None:
        self.steps: steps.Steps | None = None
        self.trouble: RecoverableError | None = None
        self.failure: BaseException | None = None
        self.lost: Lost | None = None
        self.begun = False
        self.over = False
        self.put_back = False
        self.cancelled = False  # others that would have committed meanwhile
        self._wrote: weakref.WeakSet[Transaction] = weakref.WeakSet()  # of others, before
        self._awaited: asyncio.Future[Callable[[], Any]] | None = None
        self._handler = None if capsule.whole_request else capsule.handler
        self._targets = [seq for seq, _ in capsule.steps]
        self._end = capsule.end
        self._forward, self._arena, self._debug = forward, arena, debug

    @property
    def stood(self) -> tuple[int, ...]:
        """The commits that its steps were brought to; the private arena has numbers of its own."""
        return () if self.steps is None else tuple(self._targets[: len(self.steps.stood)])

    # -- its steps ---------------------------------------------------------------------------------------------------------

    async def stepped(self, awaitable: Awaitable[Any]) -> Any:
        """Await the handler, and bring the arena to what each step saw."""
        try:
            return await _Stepped(awaitable, self._before_step)
        finally:
            self.over = True

    def expect(self) -> asyncio.Future[Callable[[], Any]]:
        """Have the handler's call brought forward that is made next where the request is handled, which begins in this context.

        Returns:
            What comes to be a function that returns what this call has returned, or raises what it has raised.
        """
        _asked.set(True)
        self._awaited = asyncio.get_running_loop().create_future()
        return self._awaited

    def around_call(
        self, handler: Handler[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Awaitable[Any] | None:
        """Return what is awaited in the place of the call that is meant, None for others; for `between.put_around_calls`."""
        awaited = self._awaited
        if awaited is None or not _asked.get() or self._handler not in (None, handler.name):
            return None
        self._awaited = None
        return self._brought(handler(*args, **kwargs), awaited)

    async def _brought(self, call: Awaitable[Any], awaited: asyncio.Future[Callable[[], Any]]) -> Any:
        def ended() -> Any:
            if error is not None:
                raise error
            return result

        result: Any = None
        error: BaseException | None = None
        try:
            result = await self.stepped(call)
        except BaseException as failure:
            error = failure
            raise
        finally:
            if not awaited.done():
                awaited.set_result(ended)
        return result

    def around_part(self, driver: Awaitable[Any], transaction: Transaction) -> Awaitable[Any]:
        """Do the same for a part, which has steps of its own."""
        if _here.get() is not self or transaction.arena is not self._arena.native:
            return driver
        return _Stepped(driver, self._before_step)

    def _before_step(self) -> None:
        _here.set(self)
        if self._debug is not None:  # who is in a debugger takes his time
            self._arena.step_limit = None
        if not self.begun:
            self.begun = True
            self.put_back = self._forward.put_back()
        done = 0 if self.steps is None else len(self.steps.stood)
        target = self._targets[done] if done < len(self._targets) else self._end
        if target is None:
            return
        try:
            self._forward.to(target)
        except RecoverableError as error:
            self.trouble = error
            raise

    def on_run(self, transaction: Transaction, noted: steps.Steps) -> None:
        """Note the run's steps; for `steps.follow`."""
        if self._is_others():
            noted.around = functools.partial(self._beside, transaction)
        if _here.get() is self and transaction.parent is None and (self.steps is None or not self.steps.stood):
            self.steps = noted
            noted.on_error = self._debug

    # -- others meanwhile --------------------------------------------------------------------------------------------------

    def _is_others(self) -> bool:
        """Return whether this code is of a task that the application has started by itself."""
        return _here.get() is not self and _inside.get() is not None

    def on_write(self, container: Container) -> None:
        """Cancel who writes without being of the run, while that goes on; for `between.put_writes`."""
        if container._arena is not self._arena.native or not self._is_others():
            return
        transaction = current_transaction(self._arena.native)
        if transaction is not None:
            self._wrote.add(transaction)
        self._cancel()

    async def _beside(self, transaction: Transaction, coroutine: Awaitable[Any]) -> Any:
        """Run what is not of the run, and cancel it before its commit if that has begun since it has written."""
        result = await coroutine
        if transaction in self._wrote:
            self._cancel()
        return result

    def _cancel(self) -> None:
        if self.begun and not self.over:
            self.cancelled = True
            raise asyncio.CancelledError(
                "a request is replayed: what tasks of the application write comes from the journal"
            )

    # -- its end -----------------------------------------------------------------------------------------------------------

    def earlier(self, runs: list[Any], transaction: Transaction, failure: BaseException, lost: Lost | None) -> None:
        """It would be run again."""
        if _here.get() is self:
            self.failure, self.lost = failure, lost
            raise Enough

    def crashed(
        self,
        transaction: Transaction,
        call: Any,
        failure: BaseException,
        request_id: str | None,
        runs: Any,
        lost: Lost | None,
        *,
        late: bool,
    ) -> None:
        """It has crashed."""
        if _here.get() is self and self.failure is None and transaction.parent is None:
            self.lost = lost
            self.failure = TimeoutError() if late else failure
            self.failure.__traceback__ = failure.__traceback__


class _Stepped:
    """Awaits something, and is told before each step."""

    def __init__(self, awaitable: Awaitable[Any], before: Callable[[], None]) -> None:
        self._inner: Any = awaitable.__await__()
        self._before = before

    def __await__(self) -> Generator[Any, Any, Any]:
        return self  # type: ignore[return-value]  # what awaits it asks no more of it than there is

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._before()
        return next(self._inner)

    def send(self, value: Any) -> Any:
        """Run to the next suspension."""
        if value is None:
            return next(self)
        self._before()
        return self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        """Run to the next suspension, from an exception."""
        self._before()
        return self._inner.throw(*error)

    def close(self) -> None:
        """Finalise it."""
        self._inner.close()


def forget_run() -> None:
    """What goes on here is not of a run any more."""
    _here.set(None)
    _asked.set(False)


@contextlib.asynccontextmanager
async def own_tasks() -> AsyncIterator[None]:
    """End the tasks that are started in the block: behind it, they would find the program's own arena."""
    loop = asyncio.get_running_loop()
    before, started = loop.get_task_factory(), weakref.WeakSet[Any]()
    inside = _inside.set(started)

    def make(loop: Any, coroutine: Any, **options: Any) -> Any:
        task = asyncio.Task(coroutine, loop=loop, **options) if before is None else before(loop, coroutine, **options)
        if _inside.get() is started:
            started.add(task)
        return task

    loop.set_task_factory(make)
    try:
        yield
    finally:
        loop.set_task_factory(before)
        _inside.reset(inside)
        left = [task for task in started if not task.done() and task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=5)
