"""Faults on demand, for `recoverable.faults`."""

from __future__ import annotations

import ctypes

from recoverable._native._binding import c_int, check, core_function, u64

FAULT_PHASE, FAULT_ROOM, FAULT_STORE = 1, 2, 3
FAULT_KILL, FAULT_SEGV, FAULT_FULL = 1, 2, 3
_fault_at = core_function("rcv_fault_at", c_int, c_int, u64, c_int)
_fault_in_commit = core_function("rcv_fault_in_commit", c_int, u64, c_int)
_fault_name = core_function("rcv_fault_name", ctypes.c_char_p, c_int, u64)
_fault_passed = core_function("rcv_fault_passed", u64, c_int)
_fault_struck = core_function("rcv_fault_struck", u64)
#: fault_stop(): nothing is armed or watched any more; the counts stay. fault_clear(): they go, too. fault_watch(kind): count
#: its points from now.
fault_stop = core_function("rcv_fault_stop", None)
fault_clear = core_function("rcv_fault_clear", None)
fault_watch = core_function("rcv_fault_watch", None, c_int)
fault_count = core_function("rcv_fault_count", None)
fault_die = core_function("rcv_fault_die", None, c_int)


def fault_at(kind: int, nth: int, action: int) -> None:
    """Let something happen at the nth point of that kind, counted since it is watched."""
    check(_fault_at(kind, nth, action))


def fault_in_commit(nth: int, action: int) -> None:
    """Have the process die at the nth phase that is passed from now on, or where a transaction ends before."""
    check(_fault_in_commit(nth, action))


def fault_names(kind: int) -> list[str]:
    """Return the names of the points of that kind that were passed; "" where it was not kept."""
    return [(_fault_name(kind, nth) or b"").decode() for nth in range(1, _fault_passed(kind) + 1)]


def fault_passed(kind: int) -> int:
    """Return how many points of a kind were passed since it was watched."""
    return int(_fault_passed(kind))


def fault_struck() -> int:
    """Count the faults that have been injected into this process."""
    return int(_fault_struck())
