"""Who stands between a driver and the coroutine of its handler: faults, and what notes the steps of a run.

The core has one place for it, which costs nothing as long as nobody stands there. Who notes stands outermost: what a fault
raises is what the run has raised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from recoverable._native.runtime import set_fault_hooks

if TYPE_CHECKING:
    from recoverable._native.runtime import Container, Transaction

__all__ = ["faults_stand", "put_faults", "put_notes"]

#: Gives what is driven in the place of a coroutine, for a transaction.
Stand: TypeAlias = "Callable[[Any, Transaction], Any]"

_faults: Stand | None = None
_write: Callable[[Container], None] | None = None
_notes: Stand | None = None


def put_faults(run: Stand | None, write: Callable[[Container], None] | None) -> None:
    """Have faults stand there, and hear of writes; None, None: no more."""
    global _faults, _write
    _faults, _write = run, write
    _put()


def put_notes(run: Stand | None) -> None:
    """Have somebody who notes steps stand there; None: no more."""
    global _notes
    _notes = run
    _put()


def faults_stand() -> bool:
    """Return whether faults may strike in this process."""
    return _faults is not None


def _put() -> None:
    set_fault_hooks(_both if _faults is not None and _notes is not None else _faults or _notes, _write)


def _both(coroutine: Any, transaction: Transaction) -> Any:
    assert _faults is not None
    assert _notes is not None
    return _notes(_faults(coroutine, transaction), transaction)
