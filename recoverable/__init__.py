"""State that survives crashed requests and killed workers: transactions on shared memory for asyncio servers.

`recoverable.aiohttp` is loaded when it is first asked for: importing this package imports no web framework and no
numpy.
"""

import importlib
from types import ModuleType

from recoverable.arena import Arena
from recoverable.containers import Array, Dict
from recoverable.decorator import recoverable
from recoverable.errors import (
    ArenaBusyError,
    ArenaCorruptError,
    ArenaFullError,
    ArenaNotFoundError,
    ArenaOptionError,
    ArenaPermissionError,
    ArenaSystemError,
    ArenaVersionError,
    ConflictError,
    InternalError,
    NoTransactionError,
    RecoverableError,
    StaleReferenceError,
    TransactionClosedError,
    TransactionError,
)
from recoverable.reports import Recovery, Stats, VerifyReport
from recoverable.transaction import after_commit, attempt

__all__ = [
    "Arena",
    "ArenaBusyError",
    "ArenaCorruptError",
    "ArenaFullError",
    "ArenaNotFoundError",
    "ArenaOptionError",
    "ArenaPermissionError",
    "ArenaSystemError",
    "ArenaVersionError",
    "Array",
    "ConflictError",
    "Dict",
    "InternalError",
    "NoTransactionError",
    "RecoverableError",
    "Recovery",
    "StaleReferenceError",
    "Stats",
    "TransactionClosedError",
    "TransactionError",
    "VerifyReport",
    "after_commit",
    "attempt",
    "recoverable",
]


def __getattr__(name: str) -> ModuleType:
    if name == "aiohttp":
        return importlib.import_module("recoverable.aiohttp")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
