"""The errors that this library raises.

Each is a `RecoverableError`; where the standard library has a kind for it too (`ValueError`,
`MemoryError`, `PermissionError`, `OSError`), it is that as well. A message says what happened, what state that leaves,
and what to do about it.

The C core reports failures as one table of negative codes (`enum rcv_error`); `error_from` is where a code becomes an
exception. Nothing else in the project maps codes.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

__all__ = [
    "ArenaBusyError",
    "ArenaCorruptError",
    "ArenaFullError",
    "ArenaNotFoundError",
    "ArenaOptionError",
    "ArenaPermissionError",
    "ArenaSystemError",
    "ArenaVersionError",
    "CapsuleError",
    "CodecError",
    "ConflictError",
    "FaultSyntaxError",
    "FaultsNotAllowedError",
    "FeedFullError",
    "FeedMissingError",
    "FeedOverrunError",
    "HistoryError",
    "InDoubtError",
    "InternalError",
    "JournalError",
    "NoTransactionError",
    "PastError",
    "RecoverableError",
    "SchemaError",
    "StaleReferenceError",
    "StepTooLongError",
    "StrayWriteError",
    "TransactionClosedError",
    "TransactionError",
]


class RecoverableError(Exception):
    """Is the base of every error that this library raises."""


class ArenaOptionError(RecoverableError, ValueError):
    """Reports a name, size or option that can't be used. Nothing was opened or changed."""


class ArenaNotFoundError(RecoverableError):
    """Reports that no arena of that name exists."""


class ArenaFullError(RecoverableError, MemoryError):
    """Reports that the arena, or the shared memory behind it, has no room. What was begun has been undone."""


class ArenaCorruptError(RecoverableError):
    """Reports a segment whose content does not add up."""


class ArenaVersionError(RecoverableError):
    """Reports a segment that another format version, machine or C library has made."""


class ArenaPermissionError(RecoverableError, PermissionError):
    """Reports a segment that belongs to another user, or that the system does not let this one open."""


class ArenaBusyError(RecoverableError):
    """Reports that the arena's lock could not be acquired within `busy_timeout`."""


class FeedMissingError(RecoverableError):
    """Reports an arena that was made without a commit feed."""


class FeedFullError(RecoverableError):
    """Reports that a commit would overwrite what a sink of the feed, which may not miss anything, has not taken yet.

    What was begun has been undone. Whoever keeps the sink is too slow, or does not run.
    """


class FeedOverrunError(RecoverableError):
    """Reports that the feed has overwritten what was asked for. The arena is as it was.

    Attributes:
        oldest: The number of the oldest commit that the feed still has, or None.
    """

    def __init__(self, message: str, *, oldest: int | None = None) -> None:
        super().__init__(message)
        self.oldest = oldest


class JournalError(RecoverableError):
    """Reports a journal, or its folder, that can't be used. What is in memory is as it was."""


class InDoubtError(RecoverableError):
    """Reports that a request was committed, and is not known to be on the disk: `durable="disk"` was asked for.

    It is not undone. As long as the machine goes on, it is there; after a power loss it may be or not. Callbacks of `after_commit`
    run once it is durable, if it becomes so.
    """


class ArenaSystemError(RecoverableError, OSError):
    """Reports a system call that failed; `errno` tells why."""


class InternalError(RecoverableError):
    """Reports a broken invariant of this library. Please report it."""


class TransactionError(RecoverableError):
    """Reports a call that does not fit the state of the transaction or the arena."""


class NoTransactionError(TransactionError):
    """Reports a write, or a call that needs a transaction, outside of one."""


class StaleReferenceError(TransactionError):
    """Reports a handle whose container has been deleted, or was never committed."""


class StrayWriteError(TransactionError, RuntimeError):
    """Raised where a thread stored through a raw view of a request while the request waited. Nothing of it was committed.

    Whether the thread is done when the request goes on, nobody can know, and other requests had their turn in between. Call it
    without the `await`, or let it compute into a plain array and assign that: `root["m"][:] = result`.
    """


class TransactionClosedError(TransactionError):
    """Reports the use of a transaction or an arena that has ended."""


class ConflictError(TransactionError):
    """Reports a transaction that read what others changed before it could commit; it has been rolled back.

    Attributes:
        path: Where the conflict was, from the arena's root, or None where it is not known.
        key: The key or slot there, or None.
        winner: The handler that committed first, or None.
        runs: How many times the handler was run.
        reason: Why it was not run again, if it is not that `max_conflicts` is used up; else None.
    """

    def __init__(
        self,
        message: str = "the transaction read what another has changed since; it has been rolled back",
        *,
        path: str | None = None,
        key: str | None = None,
        winner: str | None = None,
        runs: int = 1,
        reason: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.path = path
        self.key = key
        self.winner = winner
        self.runs = runs


class StepTooLongError(TransactionError):
    """Raised where a step held its arena for longer than `step_limit` and was stopped; its transaction has been rolled back.

    Attributes:
        handler: The handler's name.
        seconds: How long the step had taken.
        where: The line of code that it was at, as in `shop.py:41 in checkout: time.sleep(60)`; or "".
        stack: The frames around that, the innermost first, a line each.
    """

    def __init__(
        self,
        message: str = "a step of the transaction took longer than step_limit and was stopped; it has been rolled back",
        *,
        handler: str = "",
        seconds: float = 0.0,
        where: str = "",
        stack: str = "",
    ) -> None:
        super().__init__(message)
        self.handler = handler
        self.seconds = seconds
        self.where = where
        self.stack = stack


class FaultsNotAllowedError(RecoverableError):
    """Reports faults that were asked for in an application that has not said that it may have some. None was armed."""


class FaultSyntaxError(RecoverableError, ValueError):
    """Reports a text that names no faults. None was armed.

    Attributes:
        text: The whole text.
        position: Where in it the mistake is, from 0.
    """

    def __init__(self, text: str, position: int, why: str) -> None:
        super().__init__(f"{why}. Nothing was armed.\n  {text}\n  {' ' * position}^")
        self.text = text
        self.position = position


class SchemaError(RecoverableError, TypeError):
    """Reports a stored record that does not fit its class. Nothing was changed.

    Attributes:
        field: The field that does not fit, or None.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class PastError(TransactionError):
    """A write to a state of the past, which can only be read."""


class HistoryError(RecoverableError, LookupError):
    """A state or a commit was asked for that the history does not have, or no longer.

    Attributes:
        oldest: The number of the oldest commit whose state it has; None: it has none.
        newest: That of the newest.
    """

    def __init__(self, message: str, oldest: int | None = None, newest: int | None = None) -> None:
        super().__init__(message)
        self.oldest = oldest
        self.newest = newest


class CapsuleError(RecoverableError):
    """A capsule can't be read, or what is in it can't be replayed here. Nothing was run. The message says what is missing."""


class CodecError(RecoverableError, LookupError):
    """Reports a value whose codec is not registered in this process. Other values can be read."""


class _Doomed(BaseException):
    """Stops a handler whose transaction can only roll back.

    It is not an `Exception`, so that a handler's own `except Exception` does not swallow it; and if something does, the
    next access raises it again. The boundary turns it into a re-run or into a `ConflictError`, a task that is a part of the
    transaction too: nobody outside of the transaction ever sees it.
    """


class _TooLong(_Doomed):
    """Stops a handler whose step has taken too long: set by the watchdog, and raised by what uses the arena afterwards.

    Code that runs inside of a step and outside of its block may meet it: what a suspended generator, whose block is open,
    has given its value to.
    """

    def __str__(self) -> str:
        return super().__str__() or (
            "a step that holds the arena has taken longer than its step_limit, and is stopped here; it can only roll back. Let "
            "this pass: the block that the step is of ends by a StepTooLongError"
        )


def without_doomed(error: BaseException) -> BaseException:
    """Return what is raised in place of an exception that is, or has in it, a `_Doomed` of another run."""
    rest: BaseException | None = error
    if isinstance(error, _TooLong):
        return StepTooLongError()
    if isinstance(error, BaseExceptionGroup):
        rest = error.split(_Doomed)[1]
        if rest is None and error.subgroup(_TooLong) is not None:
            return StepTooLongError()
    elif isinstance(error, _Doomed):
        rest = None
    return rest or ConflictError(
        "what stops a run that has met a conflict was kept, by `except BaseException`, and raised again where no run had met "
        "one; this one has been rolled back. Let it pass, or raise it on at once"
    )


# `enum rcv_error` in recoverable.h, in its order.
_NOTFOUND, _FULL, _CORRUPT, _VERSION, _PERMISSION, _BUSY, _CONFLICT = -1, -2, -3, -4, -5, -6, -7
_STALE, _CLOSED, _NOTXN, _MISUSE, _OS, _AGAIN, _BUG, _STRAY, _HELD = -8, -9, -10, -11, -12, -13, -14, -15, -16
_TOO_LONG, _FEED, _PAST, _ASK = -17, -18, -19, -20

_KINDS: dict[int, type[BaseException]] = {
    _NOTFOUND: ArenaNotFoundError,
    _FULL: ArenaFullError,
    _CORRUPT: ArenaCorruptError,
    _VERSION: ArenaVersionError,
    _PERMISSION: ArenaPermissionError,
    _BUSY: ArenaBusyError,
    _CONFLICT: _Doomed,
    _STALE: StaleReferenceError,
    _CLOSED: TransactionClosedError,
    _NOTXN: NoTransactionError,
    _MISUSE: TransactionError,
    _STRAY: StrayWriteError,
    _HELD: _Doomed,
    _TOO_LONG: _TooLong,
    _FEED: FeedFullError,
    _PAST: PastError,
}


def outside_by_wait_for() -> str:
    """Return what a `NoTransactionError` adds in a task that `asyncio.wait_for` has made, as it does before Python 3.12."""
    if sys.version_info >= (3, 12) or asyncio._get_running_loop() is None or (task := asyncio.current_task()) is None:
        return ""
    # There is no public way to ask; what it waits with is a callback of the task.
    ends = [getattr(callback, "func", None) for callback, _ in getattr(task, "_callbacks", None) or ()]
    if getattr(asyncio.tasks, "_release_waiter", task) not in ends:
        return ""
    return (
        ". Here asyncio.wait_for() has made the task: before Python 3.12 it runs what it waits for in a task of its own, "
        "outside of the caller's transaction. Use recoverable.wait_for(), which does not"
    )


def as_raised(error: BaseException) -> BaseException:
    """Return what to raise for an error that becomes a response where it leaves a handler: itself, or what `answers` says."""
    return error if answers is None else answers(error)


#: What the web frameworks in use make of such an error, where their code runs: the program's middlewares. Set by recoverable.web.
answers: Callable[[BaseException], BaseException] | None = None


def error_from(code: int, text: str, errno: int = 0) -> BaseException:
    """Build the exception for a code of the C core.

    Args:
        code: A negative `enum rcv_error`.
        text: What `rcv_error_text()` says about it.
        errno: What `rcv_error_errno()` says: the system's reason, or 0.

    Returns:
        The exception, to be raised by the caller. `RCV_ERR_CONFLICT` gives the internal `_Doomed`.
    """
    if code == _OS:
        return ArenaSystemError(errno, text)
    kind = _KINDS.get(code)
    if kind is not None:
        error = kind(text + outside_by_wait_for() if code == _NOTXN else text)
        return as_raised(error) if code in (_FULL, _BUSY, _FEED) else error
    name = {_AGAIN: "RCV_ERR_AGAIN", _ASK: "RCV_ERR_ASK", _BUG: "RCV_ERR_BUG"}.get(code, f"code {code}")
    return InternalError(
        f"{text} ({name}). This is a bug in recoverable: the transaction has not been committed. "
        "Please report it with this message and the traceback."
    )
