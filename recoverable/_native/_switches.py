"""The switches of test builds (-Dcrashpoints=true): crash points, calls that fail, mistakes."""

from __future__ import annotations

import ctypes
from typing import Any

from recoverable._native._binding import c_int, core_function, library, u64, void_p

FAIL_MALLOC, FAIL_MPROTECT, FAIL_FALLOCATE, FAIL_MMAP, FAIL_HEAP, FAIL_WRITE, FAIL_SYNC = 1, 2, 3, 4, 5, 6, 7


def _switch(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function that only test builds have, or one that says so."""
    if hasattr(library, name):
        return core_function(name, result, *arguments)

    def absent(*_: Any) -> Any:
        raise RuntimeError(f"{name} is not in this build: install it with -Csetup-args=-Dcrashpoints=true")

    return absent


_crash_at = _switch("rcv_crash_at", None, u64)
_crash_count = _switch("rcv_crash_count", u64)
_crash_last = _switch("rcv_crash_last", ctypes.c_char_p)
_crash_only = _switch("rcv_crash_only", None, ctypes.c_char_p)
_crash_hold = _switch("rcv_crash_hold", None, ctypes.c_char_p)
_crash_note = _switch("rcv_crash_note", None, void_p, ctypes.c_size_t)
_fail_at = _switch("rcv_fail_at", None, c_int, u64)
_fail_count = _switch("rcv_fail_count", u64, c_int)
_mutate = _switch("rcv_mutate", c_int, ctypes.c_char_p)
_mutation = _switch("rcv_mutation", ctypes.c_char_p, ctypes.c_uint)


def mutations() -> list[str]:
    """Name the defects that mutate() can make."""
    names: list[str] = []
    while name := _mutation(len(names)):
        names.append(name.decode())
    return names


def mutate(name: str | None) -> None:
    """Have this process's core make that mistake from now on; None = no more."""
    if not _mutate(None if name is None else name.encode()):
        raise ValueError(f"there is no mutation {name!r} in this build; there are {', '.join(mutations()) or 'none'}")


def test_build() -> bool:
    """Return whether crash points and failure injection are compiled in."""
    return hasattr(library, "rcv_test_build") and bool(core_function("rcv_test_build", c_int)())


def crash_at(nth: int) -> None:
    """Kill this process at the nth crash point from now; 0 = never."""
    _crash_at(nth)


def crash_count() -> int:
    """Count the crash points passed since `crash_at`."""
    return int(_crash_count())


def crash_last() -> str:
    """Name the crash point passed last."""
    return (_crash_last() or b"").decode()


def crash_only(name: str | None) -> None:
    """Count only the crash points of that name; None = all."""
    _crash_only(name.encode() if name else None)


def crash_hold(name: str | None) -> None:
    """Have whoever comes to the crash point of that name wait there, as for a disk that hangs; None = go on."""
    _crash_hold(name.encode() if name else None)


def crash_note(address: int, size: int) -> None:
    """Say where the point that kills writes its name: memory that another process shares."""
    _crash_note(address, size)


def fail_at(kind: int, nth: int) -> None:
    """Let the nth call of that kind from now fail once; 0 = never."""
    _fail_at(kind, nth)


def fail_count(kind: int) -> int:
    """Count the calls of that kind since `fail_at`."""
    return int(_fail_count(kind))
