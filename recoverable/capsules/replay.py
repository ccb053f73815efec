"""Replaying a capsule: the same handler, with the same request, on the states that its steps saw.

The handler is driven from outside of its transaction. Before each of its steps the private arena is brought to the commit that this
step stood on; steps that do not use the arena don't count, since how often a handler waits for other things differs. Its first run
is all that is run: what it raises is what the capsule's last run has raised, or is not.

Tasks of the application's own go on meanwhile. What they had committed while the request ran is in the journal, and comes from
there. What they would commit now would come twice, or the run would lose a conflict by it, even if it were taken back. So one that
writes is cancelled, as all are at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib
import inspect
import linecache
import re
import traceback
import weakref
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from recoverable import _registry, between, event_log
from recoverable._native.runtime import Handler, current_transaction
from recoverable.capsules import steps
from recoverable.capsules.contents import COMPARED, frame_of, message_of, where
from recoverable.capsules.forward import Forward
from recoverable.capsules.hiding import UNSEARCHED
from recoverable.capsules.private import Past, private, standing_in
from recoverable.errors import CapsuleError, ConflictError, RecoverableError, StepTooLongError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator

    from recoverable._native.runtime import Container, Transaction
    from recoverable.arena import Arena
    from recoverable.capsules.capsule import Capsule
    from recoverable.transaction import Lost

__all__ = ["NOT_REPLAYED", "Replay", "replayed"]

NOT_REPLAYED: Final = (
    "the time, random numbers, what it reads from or writes to the outside (networks, files, databases, memory of the "
    "program), and when its own tasks ran"
)
_CANCELLED: Final = "tasks of the application that would have committed meanwhile were cancelled"
_ADDRESS: Final = re.compile(r"0x[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of a replay.

    Attributes:
        same: Whether it failed in the same way: the same exception, with the same message, at the same line of the program.
        error: What it has raised now; None: nothing.
        result: What it has returned, if it has.
        steps: The commits that its steps were brought to, as far as it came.
        text: All of it in words, with what is not replayed.
    """

    same: bool
    error: BaseException | None
    result: Any
    steps: tuple[int, ...]
    text: str

    def __str__(self) -> str:
        return self.text


class _Enough(BaseException):
    """Ends a replay after its first run."""


#: The run that this code is of, also in tasks that it has started; None: that of somebody else, a task of the start-up, say.
_here: ContextVar[_Run | None] = ContextVar("recoverable-replay", default=None)
#: The tasks that were started by the replay that this code is of, its application's start-up among it.
_inside: ContextVar[weakref.WeakSet[Any] | None] = ContextVar("recoverable-replay-tasks", default=None)


class _Run:
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
            raise _Enough

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


async def replayed(
    capsule: Capsule,
    target: Any,
    *,
    journal: str | None,
    headers: dict[str, str],
    timeout: float | None,
    debug: Callable[[BaseException], None] | None,
) -> Replay:
    """Replay a capsule. See `Capsule.replay`."""
    past, seq = _past(capsule, journal)
    with contextlib.ExitStack() as stack:
        arena = stack.enter_context(private(past, seq, capsule.arena.get("step_limit")))
        stand_for = stack.enter_context(standing_in(arena))
        stack.enter_context(event_log.quietly())
        program = None
        if isinstance(target, str):
            program, target = target.partition(":")[0], found(target)
        run = _Run(capsule, Forward(arena, past.history, past.line, seq), arena, debug)
        arena.native.capsules = run
        steps.follow(arena.native, run.on_run)
        stack.callback(steps.unfollow, arena.native)
        between.put_around_parts(run.around_part)
        stack.callback(between.put_around_parts, None)
        arena.native.watch_writes(True)
        between.put_writes(run.on_write)
        stack.callback(between.put_writes, None)
        stack.callback(_here.set, None)
        stack.push(_clear)
        result: Any = None
        error: BaseException | None = None
        try:
            async with _own_tasks(), asyncio.timeout(timeout) as limit:
                result = await _called(capsule, target, arena, stand_for, run, headers, program)
        except _Enough:
            pass
        except RecoverableError as failure:
            if run.trouble is not None or isinstance(failure, CapsuleError):
                raise
            error = failure
        except KeyboardInterrupt:
            raise
        except BaseException as failure:
            task = asyncio.current_task()
            if isinstance(failure, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # by Ctrl-C, or by who waits for the replay
            error = failure
        if run.failure is not None:
            error = run.failure
        if error is not None and not run.begun:
            raise CapsuleError(f"the handler could not be called: {_named(error)}. Nothing was run.") from error
        if error is not None and arena.native.raw_count():
            _clear(type(error), error, error.__traceback__)
        if limit.expired():
            at = "" if error is None else where(frame_of(error.__traceback__))
            raise CapsuleError(
                f"{capsule.handler} was stopped after {timeout:g} seconds{at and f', at {at}'}: the replay's own limit, not the "
                "handler's. What it had written went with the private arena. Give a longer timeout=, or None."
                + (f" Does it wait for one of them: {_CANCELLED}?" if run.cancelled else "")
            )
        return _told(capsule, error, run, result)


def _clear(kind: Any, error: BaseException | None, trace: Any) -> None:
    """Drop what frames have that have ended: views in them would keep the arena open."""
    if error is not None:
        traceback.clear_frames(error.__traceback__)
        gc.collect()  # a debugger's


@contextlib.asynccontextmanager
async def _own_tasks() -> AsyncIterator[None]:
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


def _past(capsule: Capsule, journal: str | None) -> tuple[Past, int]:
    folder = journal or capsule.arena.get("journal")
    if capsule.exploration is not None and not capsule.steps:
        raise CapsuleError(
            f"{capsule.file} was left by an exploration of faults. Nothing was run. It runs that case again by itself: "
            f"{capsule.exploration['again']}"
        )
    if folder is None or capsule.arena.get("identity") is None:
        raise CapsuleError(
            f"{capsule.file} has no state to be replayed on: arena {capsule.arena['name']!r} had no journal. Nothing was run. "
            "Open arenas with journal= to have later capsules replayed."
        )
    numbers = [
        *capsule.steps,
        *([(capsule.end, capsule.steps[-1][1] if capsule.steps else 0)] if capsule.end is not None else []),
    ]
    if not numbers:
        raise CapsuleError(f"{capsule.file} does not say which state its request saw. Nothing was run.")
    last = capsule.steps[-1] if capsule.steps else numbers[-1]
    return Past(folder, capsule.arena, last), numbers[0][0]


def found(text: str) -> Any:
    """Return what MODULE:NAME stands for.

    Raises:
        CapsuleError: It can't be imported.
    """
    module, _, name = text.partition(":")
    try:
        return functools.reduce(getattr, (name or "app").split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise CapsuleError(
            f"{text!r} can't be imported: {error}. Nothing was run. Name an application, or a function that makes one, as "
            "MODULE:NAME."
        ) from error


def _function(capsule: Capsule, program: str | None = None) -> Any:
    """Import the function that a capsule is of; `program`: the module that was run as `__main__`."""
    call = capsule.call or capsule.handler_of_route
    if call is None or not call["module"] or "<locals>" in call["function"]:
        raise CapsuleError(
            f"{capsule.handler} can't be imported by its name. Nothing was run. Give the application that it belongs to, "
            "or the handler."
        )
    module = program if call["module"] == "__main__" and program is not None else call["module"]
    function = found(f"{module}:{call['function']}")
    if type(function) is not Handler and not inspect.iscoroutinefunction(function):  # a file may name anything
        raise CapsuleError(
            f"{module}:{call['function']} is no handler. Nothing was run. Run only capsules of your own programs."
        )
    return function


async def _called(
    capsule: Capsule,
    target: Any,
    arena: Arena,
    stand_for: Callable[[Arena], None],
    run: _Run,
    headers: dict[str, str],
    program: str | None,
) -> Any:
    """Run the handler once; return what it returns."""
    handler = target if type(target) is Handler else None
    if target is None:
        handler = _function(capsule)
    app = None
    if handler is None or capsule.request is not None:
        from recoverable.capsules import request as requests  # which needs aiohttp

        app = await requests.application(target, arena, stand_for, alone=handler is not None)
    _stand_for_others(handler, arena, stand_for)

    if capsule.call is None:
        assert app is not None
        return await requests.answer(
            capsule.request or {}, app, headers, run.stepped, handler, whole=capsule.whole_request
        )
    function = handler if handler is not None else _function(capsule, program)
    if capsule.call["missing"]:
        raise CapsuleError(
            f"{capsule.handler} was called with what a capsule can't keep: {', '.join(capsule.call['missing'])}. Nothing was run. "
            "Call it from a handler of a route, or with numbers, texts, lists and dicts."
        )

    def call(request: Any) -> Awaitable[Any]:
        def given(arg: dict[str, Any]) -> Any:
            return request if "request" in arg else arena if "arena" in arg else arg["value"]

        assert capsule.call is not None
        args = [given(arg) for arg in capsule.call["args"]]
        kwargs = {name: given(arg) for name, arg in capsule.call["kwargs"].items()}
        if type(function) is Handler:
            return function(*args, **kwargs)
        return arena.run(functools.partial(function, **kwargs), *args)

    if app is None or capsule.request is None:
        return await run.stepped(call(None))
    return await requests.answer(capsule.request, app, headers, run.stepped, call, whole=False)


def _stand_for_others(handler: Any, arena: Arena, stand_for: Callable[[Arena], None]) -> None:
    """Have the private arena stand for the one that a handler was decorated with, and for all that are open."""
    native = getattr(handler, "arena", None)
    if native is not None and native.owner is not None:
        stand_for(native.owner)
    for segment in _registry.all_open():
        if segment.native is not arena.native and segment.arenas:
            stand_for(segment.arenas[0])


# -- what came of it -----------------------------------------------------------------------------------------------------


def _told(capsule: Capsule, error: BaseException | None, run: _Run, result: Any) -> Replay:
    kept, stood = capsule.error, run.stood
    differs = _difference(capsule, error, run.lost)
    on = ", ".join(map(str, dict.fromkeys(stood)))
    lines = [
        f"replayed {capsule.handler} of {capsule.at:%Y-%m-%d %H:%M:%S} UTC, request {capsule.request_id or '-'}: "
        + (
            f"{len(stood)} step{'s' * (len(stood) != 1)}, on what was committed up to {on}"
            if stood
            else "it did not use its arena"
        )
    ]
    now = "it did not fail" if error is None else f"it raised {_named(error)}"
    at = "" if error is None else where(frame_of(error.__traceback__))
    if error is None and result is not None:
        now += f", and returned {result!r:.200}"
    if not differs:
        lines.append(f"it failed in the same way: {_named(error)}" + (f", at {at}" if at else ""))
    else:
        lines.append(now + (f", at {at}" if at else ""))
        if kept is not None:
            lines.append(
                f"it was {kept['type']}: {kept['message']}" + (f", at {_kept_at(kept)}" if kept["frame"] else "")
            )
        lines.append(f"not the same: {differs}")
    if run.put_back:
        lines.append("what the application had written to the arena as it started up was put back before the request")
    if run.cancelled:
        lines.append(_CANCELLED)
    lines.append(f"not replayed: {NOT_REPLAYED}")
    lines += [f"not replayed: {each}" for each in capsule.lacks]
    return Replay(not differs, error, result, stood, "\n".join(lines))


def _named(error: BaseException | None) -> str:
    return "nothing" if error is None else f"{type(error).__qualname__}: {message_of(error)}".removesuffix(": ")


def _kept_at(kept: dict[str, Any]) -> str:
    frame = kept["frame"]
    return where((frame["file"], frame["line"], frame["function"]))


def _difference(capsule: Capsule, error: BaseException | None, lost: Lost | None) -> str:
    """Say in what it has ended otherwise; "": in nothing."""
    kept = capsule.error
    if kept is None:
        return "the capsule has no exception"
    if error is None:
        return "it did not fail"
    kind = type(error)
    if (
        isinstance(error, ConflictError) and kept["type"] == "ConflictError"
    ):  # its message has who has won, and how often
        lost_at = kept.get("conflict")
        if (
            lost_at is None
            or lost is None
            or UNSEARCHED in lost_at.values()
            or (lost.path, lost.key) == (lost_at["path"], lost_at["key"])
        ):
            return ""
        return f"it was lost at {lost.path}, {lost.key}"
    if (kind.__module__, kind.__qualname__) != (kept["module"], kept["type"]):
        return "another exception"
    left_out = kept["message"] == UNSEARCHED
    if not left_out and not isinstance(error, (TimeoutError, StepTooLongError)):  # theirs has how long it took
        now, then = (_ADDRESS.sub("0x", text)[:COMPARED] for text in (message_of(error), kept["message"]))
        if now != then:
            return "another message"
    frame, was = frame_of(error.__traceback__), kept["frame"]
    if frame is not None and was is not None:
        code = linecache.getline(frame[0], frame[1]).strip()
        same_file = frame[0].rpartition("/")[2] == was["file"].rpartition("/")[2]
        if not same_file or frame[2] != was["function"] or (code and was["code"] and code != was["code"]):
            return "another place"
    return ""
