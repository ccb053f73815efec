"""State that survives crashed requests and killed workers: transactions on shared memory for asyncio servers.

`recoverable.aiohttp` and `recoverable.faults` are loaded when they are first asked for: importing this package imports no
web framework and no numpy.

    from recoverable import Arena, metrics, recoverable
    from recoverable.aiohttp import setup

An import of a module by its dotted name would bind the name `recoverable`, as the decorator's import does: the later one wins.
"""

import importlib
from types import ModuleType

from recoverable import containers
from recoverable.arena import Arena
from recoverable.codecs import register_codec
from recoverable.containers import *  # noqa: F403  # each container has its one line there
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
    CapsuleError,
    CodecError,
    ConflictError,
    FaultsNotAllowedError,
    FaultSyntaxError,
    FeedFullError,
    FeedMissingError,
    FeedOverrunError,
    HistoryError,
    InDoubtError,
    InternalError,
    JournalError,
    NoTransactionError,
    PastError,
    RecoverableError,
    SchemaError,
    StaleReferenceError,
    StepTooLongError,
    StrayWriteError,
    TransactionClosedError,
    TransactionError,
)
from recoverable.feed import Commit
from recoverable.lock_times import LockTimes
from recoverable.reports import HotSpot, Recovery, Request, Restoration, Stats, VerifyReport, WorkingSet
from recoverable.tasks import TaskGroup, gather, wait_for
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
    "CapsuleError",
    "CodecError",
    "Commit",
    "ConflictError",
    "FaultSyntaxError",
    "FaultsNotAllowedError",
    "FeedFullError",
    "FeedMissingError",
    "FeedOverrunError",
    "HistoryError",
    "HotSpot",
    "InDoubtError",
    "InternalError",
    "JournalError",
    "LockTimes",
    "NoTransactionError",
    "PastError",
    "RecoverableError",
    "Recovery",
    "Request",
    "Restoration",
    "SchemaError",
    "StaleReferenceError",
    "Stats",
    "StepTooLongError",
    "StrayWriteError",
    "TaskGroup",
    "TransactionClosedError",
    "TransactionError",
    "VerifyReport",
    "WorkingSet",
    "after_commit",
    "attempt",
    "gather",
    "recoverable",
    "register_codec",
    "wait_for",
]
__all__ += containers.__all__


def __getattr__(name: str) -> ModuleType:
    if name in {"aiohttp", "asgi", "capsules", "fastapi", "faults", "history", "metrics"}:
        return importlib.import_module(f"recoverable.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
