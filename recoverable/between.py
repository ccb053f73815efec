"""Who stands between a driver and the coroutine of its handler: faults, and what notes the steps of a run.

The core has one place for it, which costs nothing as long as nobody stands there. Who notes stands outermost: what a fault
raises is what the run has raised. A replay stands around the drivers of parts as well, outside of their steps, around calls that
begin a transaction, and hears of writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from recoverable._native.runtime import set_around_calls, set_fault_hooks

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from recoverable._native.runtime import Container, Handler, Transaction

__all__ = [
    "around_part",
    "before_leaving",
    "faults_stand",
    "put_around_calls",
    "put_around_parts",
    "put_faults",
    "put_notes",
    "put_writes",
]

#: Gives what is driven in the place of a coroutine, for a transaction.
Stand: TypeAlias = "Callable[[Any, Transaction], Any]"

_faults: Stand | None = None
_write: Callable[[Container], None] | None = None
_leave: Callable[[Transaction], None] | None = None
_hears: Callable[[Container], None] | None = None
_notes: Stand | None = None
_around: Stand | None = None


def put_faults(
    run: Stand | None,
    write: Callable[[Container], None] | None,
    leave: Callable[[Transaction], None] | None = None,
) -> None:
    """Have faults stand there, hear of writes, and of transactions that end before their coroutine; None: no more."""
    global _faults, _write, _leave
    _faults, _write, _leave = run, write, leave
    _put()


def before_leaving(transaction: Transaction) -> None:
    """Tell faults that a transaction is about to be committed, and its coroutine to go on outside."""
    if _leave is not None:
        _leave(transaction)


def put_notes(run: Stand | None) -> None:
    """Have somebody who notes steps stand there; None: no more."""
    global _notes
    _notes = run
    _put()


def put_writes(write: Callable[[Container], None] | None) -> None:
    """Have somebody hear of writes to the arenas that `watch_writes` was called of, before faults do; None: no more."""
    global _hears
    _hears = write
    _put()


def put_around_calls(
    around: Callable[[Handler[Any], tuple[Any, ...], dict[str, Any]], Awaitable[Any] | None] | None,
) -> None:
    """Have somebody give what is awaited in the place of calls that begin a transaction, or None: the call; None: no more."""
    set_around_calls(around)


def put_around_parts(run: Stand | None) -> None:
    """Have somebody stand around the drivers of parts that are begun from now on; None: no more."""
    global _around
    _around = run


def around_part(driver: Awaitable[Any], transaction: Transaction) -> Awaitable[Any]:
    """Return what is to be awaited in the place of the driver of a part of a transaction."""
    return driver if _around is None else _around(driver, transaction)


def faults_stand() -> bool:
    """Return whether faults may strike in this process."""
    return _faults is not None


def _put() -> None:
    run = _both if _faults is not None and _notes is not None else _faults or _notes
    set_fault_hooks(run, _both_hear if _hears is not None and _write is not None else _hears or _write)


def _both(coroutine: Any, transaction: Transaction) -> Any:
    assert _faults is not None
    assert _notes is not None
    return _notes(_faults(coroutine, transaction), transaction)


def _both_hear(container: Container) -> None:
    assert _hears is not None
    assert _write is not None
    _hears(container)
    _write(container)
