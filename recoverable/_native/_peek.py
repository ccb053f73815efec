"""What a segment tells without being attached: its header, and an image of what is in it."""

from __future__ import annotations

import ctypes
from typing import Any

from recoverable._native._binding import NAME, PEERS, c_int, check, core_function, u64, void_p
from recoverable._native._core import phase_name
from recoverable._native._counts import LockTimes, lock_times_of

PEEK = (
    *("size", "claimed", "used", "reserved", "overhead"),
    *("commit_seq", "recoveries", "recovered_at"),
    *("hot_pages", "uid", "phase", "cuts"),
)


class _Peer(ctypes.Structure):
    _fields_ = (("pid", u64), ("attached_at", u64), ("alive", u64), ("foreign", u64))


class _Peek(ctypes.Structure):
    _fields_ = (
        *((name, u64) for name in PEEK),
        ("backed", u64 * 2 * 4),
        ("holder", u64),
        ("peers", u64),
        ("peer", _Peer * PEERS),
        ("handler", ctypes.c_char * NAME),
        ("lock", LockTimes),
    )


_peek = core_function("rcv_peek", c_int, c_int, ctypes.c_char_p, ctypes.POINTER(_Peek))
_image_open = core_function("rcv_image_open", c_int, c_int, ctypes.c_char_p, ctypes.POINTER(void_p))
_image_take = core_function("rcv_image_take", c_int, void_p, u64)
_image_grew = core_function("rcv_image_grew", u64, void_p)
_image_full = core_function("rcv_image_full", c_int, void_p)
#: image_forget(address): forget which pages were met. image_close(address): give its memory back.
image_forget = core_function("rcv_image_forget", None, void_p)
image_close = core_function("rcv_image_close", None, void_p)


def peek(fd: int, name: str) -> dict[str, Any]:
    """Read what can be told of the segment behind `fd` without attaching to it.

    Returns:
        The fields of `struct rcv_peek` by name; `peers` is a list of (pid, attached at, alive, of another PID namespace),
        `backed` one of (offset, length).
    """
    out = _Peek()
    check(_peek(fd, name.encode(), ctypes.byref(out)))
    report: dict[str, Any] = {name: getattr(out, name) for name in PEEK}
    report["holder"] = out.holder
    report["phase"] = phase_name(out.phase)
    report["backed"] = [tuple(part) for part in out.backed]
    report["handler"] = out.handler.decode("utf-8", "replace")
    report["lock"] = lock_times_of(out.lock)
    report["peers"] = [
        (peer.pid, peer.attached_at, bool(peer.alive), bool(peer.foreign)) for peer in out.peer[: out.peers]
    ]
    return report


def image_open(fd: int, name: str) -> int:
    """Make an image of the segment behind `fd`, which stays open as long; return its address, for reading alone."""
    out = void_p()
    check(_image_open(fd, name.encode(), ctypes.byref(out)))
    assert out.value is not None
    return out.value


def image_take(address: int, seconds: float) -> None:
    """Fetch all pages that were read, as they were at one moment; raises `ArenaBusyError` if it finds no such moment in time."""
    check(_image_take(address, int(seconds * 1e9)))


def image_grew(address: int) -> bool:
    """Return whether pages were met since the take, so that what was read may be of two moments."""
    return bool(_image_grew(address))


def image_full(address: int) -> bool:
    """Return whether there were more pages than an image holds."""
    return bool(_image_full(address))
