"""The error tree, and how it is built from the core's codes."""

from __future__ import annotations

import errno
import inspect
import re
from pathlib import Path

import pytest

import recoverable
from recoverable import errors


def codes() -> dict[str, int]:
    """Return `enum rcv_error` as the header has it."""
    header = Path(__file__).parents[2] / "recoverable" / "_native" / "include" / "recoverable.h"
    if not header.exists():
        pytest.skip("needs the C header, which is in the source tree and the sdist, not in a wheel")
    return {name: int(number) for name, number in re.findall(r"(RCV_ERR_\w+) = (-\d+)", header.read_text())}


KINDS = {
    "RCV_ERR_NOTFOUND": errors.ArenaNotFoundError,
    "RCV_ERR_FULL": errors.ArenaFullError,
    "RCV_ERR_CORRUPT": errors.ArenaCorruptError,
    "RCV_ERR_VERSION": errors.ArenaVersionError,
    "RCV_ERR_PERMISSION": errors.ArenaPermissionError,
    "RCV_ERR_BUSY": errors.ArenaBusyError,
    "RCV_ERR_CONFLICT": errors._Doomed,
    "RCV_ERR_STALE": errors.StaleReferenceError,
    "RCV_ERR_CLOSED": errors.TransactionClosedError,
    "RCV_ERR_NOTXN": errors.NoTransactionError,
    "RCV_ERR_MISUSE": errors.TransactionError,
    "RCV_ERR_OS": errors.ArenaSystemError,
    "RCV_ERR_AGAIN": errors.InternalError,
    "RCV_ERR_ASK": errors.InternalError,
    "RCV_ERR_BUG": errors.InternalError,
    "RCV_ERR_STRAY": errors.StrayWriteError,
    "RCV_ERR_HELD": errors._Doomed,
    "RCV_ERR_TOO_LONG": errors._TooLong,
    "RCV_ERR_FEED": errors.FeedFullError,
    "RCV_ERR_PAST": errors.PastError,
}


def test_every_code_of_the_core_has_its_exception() -> None:
    """The header's table of codes and the exceptions built from it name the same failures."""
    assert codes().keys() == KINDS.keys()
    for name, code in codes().items():
        error = errors.error_from(code, "what happened", errno.ENOSPC)
        assert type(error) is KINDS[name], name
        assert "what happened" in str(error)


def test_an_unknown_code_asks_for_a_report() -> None:
    """A code that the table does not have is our bug, and the message says so."""
    error = errors.error_from(-99, "odd")
    assert isinstance(error, errors.InternalError)
    assert "report" in str(error)
    assert "-99" in str(error)


def test_a_failed_system_call_keeps_its_errno() -> None:
    """`ArenaSystemError` is an OSError with the system's reason in it."""
    error = errors.error_from(codes()["RCV_ERR_OS"], "mmap", errno.ENOMEM)
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOMEM


@pytest.mark.parametrize(
    ("kind", "also"),
    [
        (errors.ArenaOptionError, ValueError),
        (errors.ArenaFullError, MemoryError),
        (errors.ArenaPermissionError, PermissionError),
        (errors.ArenaSystemError, OSError),
        (errors.NoTransactionError, errors.TransactionError),
        (errors.ConflictError, errors.TransactionError),
        (errors.StaleReferenceError, errors.TransactionError),
        (errors.TransactionClosedError, errors.TransactionError),
    ],
)
def test_errors_are_also_what_python_calls_them(kind: type[Exception], also: type[Exception]) -> None:
    """Whoever catches the built-in kind, or the kind above, catches ours."""
    assert issubclass(kind, also)


def test_every_public_error_is_a_recoverable_error_and_is_exported() -> None:
    """One base catches all, and each name is in the package."""
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.RecoverableError)
        assert getattr(recoverable, name) is getattr(errors, name)
        assert inspect.getdoc(getattr(errors, name))


def test_the_doomed_signal_passes_except_exception() -> None:
    """What stops a doomed handler is no Exception, so that a handler's own `except Exception` does not swallow it."""
    assert not issubclass(errors._Doomed, Exception)


def test_a_conflict_error_says_where_and_who() -> None:
    """`ConflictError` carries path, key, winner and the number of runs."""
    error = errors.ConflictError("lost", path="root['a']", key="'k'", winner="pay", runs=3)
    assert (str(error), error.path, error.key, error.winner, error.runs) == ("lost", "root['a']", "'k'", "pay", 3)
