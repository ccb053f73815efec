"""Where faults get in: the one object that watches this process's points, and the hooks that tell it of them.

What we want: a program that injects nothing runs the code that it would run without this module. So nothing here is
called until something is armed. Then

- a handler's coroutine is driven through `Driven`, which sees each of its steps and suspensions;
- lines are traced inside those steps only: by sys.monitoring, or before Python 3.12 by a trace function in C;
- containers call before they write (`NativeArena.watch_writes`);
- the core counts allocations and phases, and strikes there by itself (`fault.c`).

One watch at a time: an exploration's run, or chaos.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from recoverable import between, middleware
from recoverable._native import _faults
from recoverable._native.linetrace import LineTracer
from recoverable._native.runtime import Container, NativeArena, Transaction, current_transaction
from recoverable.callbacks import name_of
from recoverable.errors import ArenaFullError, TransactionError
from recoverable.faults._points import Delay, Fault, Raise
from recoverable.transaction import running_loop

if TYPE_CHECKING:
    from types import CodeType, FrameType

__all__ = [
    "Driven",
    "Watch",
    "arm",
    "armed",
    "disarm",
    "driven",
    "extend",
    "lines_not_traced",
    "lines_traced",
    "place_of",
    "strike",
]

_PACKAGE: Final = str(Path(__file__).parents[1]) + os.sep
_IDLE_TURNS: Final = 3  # of the event loop, in a Delay of no time


class Watch(Protocol):
    """What decides about faults."""

    #: The files whose lines are traced: those of the handlers that run, and others that were asked for.
    files: set[str]

    @property
    def lines(self) -> bool:
        """Whether lines are to be traced."""

    def reach(self, place: str, where: str, handler: str, *, connected: bool = True) -> Fault | None:
        """Hear of a point; return what is to go wrong there, or None; without a client no Disconnect."""

    def follow(self, code: CodeType) -> None:
        """Hear of a handler that runs."""

    def wants(self, handler: str) -> frozenset[str]:
        """Return the places at which something may happen to a handler."""

    def begin(self, handler: str) -> None:
        """Hear that a step of a handler begins."""

    def end(self, handler: str) -> None:
        """Hear that it has ended."""


_watch: Watch | None = None
_arenas: list[NativeArena] = []


def armed() -> Watch | None:
    """Return what watches this process now."""
    return _watch


def arm(watch: Watch, arenas: list[NativeArena], *, writes: bool = True) -> None:
    """Begin to watch.

    Args:
        watch: Who hears of each point.
        arenas: Whose writes are points.
        writes: Whether they are.

    Raises:
        TransactionError: There is another watch.
    """
    global _watch, _tracer
    if _watch is not None:
        raise TransactionError(
            f"faults are armed already, by {type(_watch).__name__}. Nothing was changed. Disarm those first: one "
            "exploration, or chaos, at a time."
        )
    _watch = watch
    between.put_faults(_run, _write, _leave)
    middleware.watch(_handle)
    if watch.lines:
        _tracer = _Tracer(watch.files)
    if writes:
        _arenas[:] = arenas
        for native in arenas:
            native.watch_writes(True)


def extend(arenas: list[NativeArena]) -> None:
    """Let the one who watches have more to watch: writes of these arenas, and lines if it wants them now."""
    global _tracer
    if _watch is not None and _watch.lines and _tracer is None:
        _tracer = _Tracer(_watch.files)
    for native in arenas:
        if native not in _arenas:
            _arenas.append(native)
            native.watch_writes(True)


def disarm() -> None:
    """Watch no more. A no-op where nothing does."""
    global _watch, _tracer
    _watch = None
    between.put_faults(None, None)
    middleware.watch(None)
    if _tracer is not None:
        _tracer.close()
        _tracer = None
    for native in _arenas:
        native.watch_writes(False)
    _arenas.clear()
    _faults.fault_stop()


# -- lines --------------------------------------------------------------------------------------------------------


def _line(file: str, number: int) -> None:
    if _watch is not None:
        where = f"{file}:{number}"
        fault = _watch.reach("line", where, _handler)
        if fault is not None:
            strike(fault, where)


class _TraceLines:
    """Lines by a trace function: Python 3.11."""

    def __init__(self, files: set[str]) -> None:
        self._tracer = LineTracer(files, _line)
        self._depth = 0
        self._before: Any = None

    def start(self) -> None:
        """Trace this thread from here on; calls nest."""
        self._depth += 1
        if self._depth == 1:
            self._before = sys.gettrace()
            self._tracer.start()

    def stop(self) -> None:
        """End what the matching start() began."""
        self._depth -= 1
        if self._depth == 0:
            self._tracer.stop()
            if self._before is not None:  # a debugger, coverage
                sys.settrace(self._before)
                self._before = None

    def close(self) -> None:
        """Trace no more, whatever is open."""
        if self._depth > 0:
            self._depth = 1
            self.stop()


class _MonitorLines:
    """Lines by sys.monitoring: Python 3.12 and later. A line that is not watched is asked about once."""

    def __init__(self, files: set[str]) -> None:
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
        self._monitoring = monitoring
        self._files = files
        self._known = len(files)
        self._depth = 0
        self._tool = next(tool for tool in (4, 3, 5, 0, 1, 2) if monitoring.get_tool(tool) is None)
        monitoring.use_tool_id(self._tool, "recoverable.faults")
        monitoring.register_callback(self._tool, monitoring.events.LINE, self._on_line)
        monitoring.set_events(self._tool, monitoring.events.LINE)
        monitoring.restart_events()

    def _on_line(self, code: CodeType, number: int) -> Any:
        if code.co_filename not in self._files:
            return self._monitoring.DISABLE
        if self._depth:
            _line(code.co_filename, number)
        return None

    def start(self) -> None:
        """Hear of lines from here on; calls nest."""
        self._depth += 1
        if len(self._files) != self._known:
            self._known = len(self._files)
            self._monitoring.restart_events()

    def stop(self) -> None:
        """End what the matching start() began."""
        self._depth -= 1

    def close(self) -> None:
        """Give the tool's number back."""
        monitoring = self._monitoring
        monitoring.set_events(self._tool, 0)
        monitoring.register_callback(self._tool, monitoring.events.LINE, None)
        monitoring.free_tool_id(self._tool)


_Tracer: Final[type[_TraceLines] | type[_MonitorLines]] = _MonitorLines if sys.version_info >= (3, 12) else _TraceLines
_tracer: _TraceLines | _MonitorLines | None = None
_handler = ""  # whose step runs now
_thread = 0  # and where
_request: Any = None  # and which web request it answers


# -- steps ----------------------------------------------------------------------------------------------------------


class Driven:
    """A coroutine whose steps are watched: what stands in a handler's place while something is armed.

    Args:
        coroutine: The handler's.
        handler: Its name.
        transaction: What it runs in, or None.
        request: The web request that it answers, or None.
    """

    __slots__ = ("_coroutine", "_error", "_handler", "_held", "_request", "_resumed", "_transaction", "_turns")

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], handler: str, transaction: Transaction | None, request: Any = None
    ) -> None:
        self._coroutine = coroutine
        self._handler = handler
        self._transaction = transaction
        self._request = request
        self._resumed = False
        self._error: BaseException | None = None  # to be thrown at the next step
        self._held: Delay | None = None  # to be waited for before the next step
        self._turns = 0

    def __await__(self) -> Driven:
        return self

    def __iter__(self) -> Driven:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        """Run to the next suspension."""
        return self._step(value, None)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """Run to the next suspension, from an exception."""
        error = kind if value is None else value
        if isinstance(error, type):
            error = error()
        return self._step(None, error.with_traceback(traceback) if traceback is not None else error)

    def close(self) -> None:
        """Finalise the coroutine."""
        self._coroutine.close()

    def __del__(self) -> None:
        self._coroutine.close()

    def _step(self, value: Any, error: BaseException | None) -> Any:
        """Run to the next suspension, unless a fault has put that off."""
        if error is None:
            if (waiting := self._waiting()) is not self:
                return waiting
            error, self._error = self._error, None
        watch = _watch
        if watch is None:
            return self._resume(value, error)
        if self._resumed:
            self._decide(watch, "resume")
        yielded, request = self._watched(watch, value, error)
        self._resumed = True
        if _watch is not watch or _reported:  # a driven coroutine inside has reported this suspension
            return yielded
        return self._suspend(watch, yielded, None if request is None else request.transport)

    def _resume(self, value: Any, error: BaseException | None) -> Any:
        return self._coroutine.send(value) if error is None else self._coroutine.throw(error)

    def _waiting(self) -> Any:
        """Return what the event loop is to wait for first, in the middle of a delay; else itself."""
        global _reported
        if self._turns > 0:
            self._turns -= 1
            _reported = True
            return None
        if self._held is not None:
            seconds, self._held = self._held.seconds, None
            _reported = True
            return _sleep(seconds)
        return self

    def _watched(self, watch: Watch, value: Any, error: BaseException | None) -> tuple[Any, Any]:
        """Run to the next suspension, where lines, writes and the end are points; return what is yielded, and the request."""
        global _handler, _request, _reported, _thread
        before, _handler, _thread = _handler, self._handler, threading.get_ident()
        outer, _request = _request, self._request if self._request is not None else _request
        request = _request
        tracer = _tracer if "line" in watch.wants(self._handler) else None
        watch.begin(self._handler)
        _reported = ended = False
        if tracer is not None:
            tracer.start()
        try:
            return self._resume(value, error), request
        except StopIteration:
            ended = True
            raise
        finally:
            if tracer is not None:
                tracer.stop()
            _handler, _request = before, outer
            watch.end(self._handler)
            if ended and _watch is watch:
                self._decide(watch, "commit")

    def _decide(self, watch: Watch, place: str) -> None:
        """Reach a point that only transactions have."""
        transaction = self._transaction
        if transaction is not None and transaction.touched and transaction.state == "active":
            where = place_of(self._coroutine) if place == "resume" else self._handler
            _decide(watch, transaction, place, where, self._handler)

    def _suspend(self, watch: Watch, yielded: Any, transport: Any) -> Any:
        """Reach an await; return what the event loop is to wait for."""
        global _reported
        _reported = True
        where = place_of(self._coroutine)
        fault = watch.reach("await", where, self._handler, connected=transport is not None)
        if fault is None:
            return yielded
        match fault.name:
            case "cancel":
                task = None if running_loop() is None else asyncio.current_task()
                if task is None:
                    return self._step(None, asyncio.CancelledError())
                task.cancel()
                return yielded
            case "timeout":
                self._error = TimeoutError(f"injected at {where}")
            case "raise":
                assert isinstance(fault, Raise)
                self._error = fault.make(where)
            case "delay":
                assert isinstance(fault, Delay)
                if running_loop() is None:
                    return yielded
                if fault.seconds > 0:
                    self._held = fault
                else:
                    self._turns = _IDLE_TURNS
                return yielded
            case "disconnect":
                transport.abort()
                return yielded
            case _:
                strike(fault, where)
        # What was awaited is let go; the coroutine goes on with the exception when others have run.
        if running_loop() is None:
            error, self._error = self._error, None
            return self._step(None, error)
        if getattr(yielded, "_asyncio_future_blocking", None):
            yielded._asyncio_future_blocking = False
        return None


_reported = False  # this suspension was reported


def _decide(watch: Watch, transaction: Transaction, place: str, where: str, handler: str) -> None:
    fault = watch.reach(place, where, handler)
    if fault is None:
        return
    if fault.deadly:
        strike(fault, where)
    transaction.doom(conflict=True)


def _leave(transaction: Transaction) -> None:
    """Reach the end of a transaction that its handler outlives, which answers or streams."""
    if _watch is not None and transaction.touched:
        _decide(_watch, transaction, "commit", transaction.handler, transaction.handler)


def _sleep(seconds: float) -> Any:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_later(seconds, _wake, future)
    future._asyncio_future_blocking = True
    return future


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def place_of(coroutine: Any) -> str:
    """Return file and line where a suspended coroutine stands.

    In a file that is watched, where there is one among its frames; else in the outermost that is not this library's own.
    """
    files = set() if _watch is None else _watch.files
    found = ""
    while coroutine is not None:
        frame: FrameType | None = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        file = frame.f_code.co_filename
        if file in files or not found or found.startswith(_PACKAGE):
            found = f"{file}:{frame.f_lineno}"
        if file in files:
            break
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return found


def _run(coroutine: Any, transaction: Transaction) -> Any:
    """Stand between a StepDriver and its handler's coroutine.

    Also where nothing is to happen to it: else it would be taken for a part of the handler that runs it.
    """
    watch = _watch
    if watch is None:
        return coroutine
    code = getattr(coroutine, "cr_code", None)
    if watch.wants(transaction.handler) and code is not None and not code.co_filename.startswith(_PACKAGE):
        watch.follow(code)
    request = None if transaction.request is None else transaction.request.request
    return Driven(coroutine, transaction.handler, transaction, request)


def _handle(request: Any, function: Any, handler: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    """Stand between a request and its handler, which may be none of `@recoverable`'s.

    Args:
        request: The request.
        function: The handler that the request was routed to.
        handler: What is to be awaited. It is driven also where nothing is to happen to it: what it runs may hang up.

    """
    watch = _watch
    if watch is None:
        return handler
    name = name_of(function)
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    code = getattr(function, "__code__", None)
    if watch.wants(name) and code is not None and not code.co_filename.startswith(_PACKAGE):
        watch.follow(code)

    async def driven(request: Any) -> Any:
        async def call() -> Any:
            return await handler(request)

        return await _awaited(Driven(call(), name, None, request))

    return driven


@types.coroutine
def _awaited(driven: Any) -> Generator[Any, Any, Any]:
    return (yield from driven)


# -- writes ---------------------------------------------------------------------------------------------------------


def _write(container: Container) -> None:
    """Reach a write."""
    if _watch is None:
        return
    where = f"{_caller()} {type(container).__name__}"
    handler = _handler
    if threading.get_ident() != _thread:  # plain code, in a thread perhaps
        transaction = current_transaction()
        handler = "" if transaction is None else transaction.handler
    fault = _watch.reach("write", where, handler)
    if fault is not None:
        strike(fault, where)


def _caller() -> str:
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def strike(fault: Fault, where: str) -> None:
    """Let it happen here and now."""
    if isinstance(fault, Raise):
        raise fault.make(where)
    if fault.name == "full":
        raise ArenaFullError(
            f"no room, by a fault injected at {where}. The operation was not begun, and the transaction can go on or be "
            "rolled back. Make room, or make the arena with a larger size."
        )
    if fault.deadly:
        _faults.fault_die(_faults.FAULT_SEGV if fault.name == "segv" else _faults.FAULT_KILL)
    raise AssertionError(f"{fault.name} can't strike at {where}")


@contextlib.contextmanager
def lines_traced() -> Iterator[None]:
    """Trace the lines of plain code in this block."""
    tracer = _tracer
    if tracer is None:
        yield
        return
    tracer.start()
    try:
        yield
    finally:
        tracer.stop()


@contextlib.contextmanager
def lines_not_traced() -> Iterator[None]:
    """Reach no point in this block, inside one of lines_traced()."""
    global _watch
    watch, _watch = _watch, None
    try:
        yield
    finally:
        _watch = watch


async def driven(coroutine: Coroutine[Any, Any, Any], name: str) -> Any:
    """Run a coroutine, watched."""
    return await _awaited(Driven(coroutine, name, None))
