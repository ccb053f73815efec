"""Opening and closing a segment, and what is found in one that is open: recovery, damage, stray writes."""

from __future__ import annotations

import ctypes
from array import array
from typing import TYPE_CHECKING, Any

from recoverable._native._binding import NAME, arena_function, c_int, check, core_function, locked, u32, u64, void_p
from recoverable._native._policies import PolicyOption, Stream, numbers, stream
from recoverable.errors import ArenaOptionError, TransactionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from recoverable._native.runtime import NativeArena

_PHASES = ("idle", "step", "publish")


class _Options(ctypes.Structure):
    _fields_ = (
        ("size", u64),
        ("undo_size", u64),
        ("feed_size", u64),
        ("create", c_int),
        ("trap_mode", c_int),
        ("policy", ctypes.c_char_p),
        ("busy_timeout", ctypes.c_double),
        ("name", ctypes.c_char_p),
        ("policy_options", ctypes.POINTER(PolicyOption)),
        ("recording", ctypes.POINTER(Stream)),
        ("n_policy_options", u32),
    )


class _Recovery(ctypes.Structure):
    _fields_ = (
        ("happened", u32),
        ("phase", u32),
        ("records", u64),
        ("bytes", u64),
        ("pages", u64),
        ("chunks", u64),
        ("micros", u64),
        ("handler", ctypes.c_char * NAME),
        ("pid", u64),
    )


VERIFY = ("containers", "entries", "blocks", "bytes", "leaked_blocks", "leaked_bytes", "hot_pages")


class _Verify(ctypes.Structure):
    _fields_ = tuple((name, u64) for name in VERIFY)


class _Stray(ctypes.Structure):
    _fields_ = (("page", u64), ("address", u64), ("kind", ctypes.c_int32))


_open = core_function("rcv_open", c_int, c_int, ctypes.POINTER(_Options), ctypes.POINTER(void_p))
_close = core_function("rcv_close", c_int, void_p)
_recovered = arena_function("rcv_get_recovered", None, ctypes.POINTER(_Recovery))
_repair_take = arena_function("rcv_repair_take", c_int)
_created = arena_function("rcv_created", c_int)
_processes = arena_function("rcv_processes", c_int, ctypes.POINTER(u64), c_int)
_verify = arena_function("rcv_verify", c_int, ctypes.POINTER(_Verify))
_orphaned = arena_function("rcv_orphaned", c_int)
_orphan_take = arena_function("rcv_orphan_take", c_int)
_take_strays = arena_function("rcv_take_strays", c_int, ctypes.POINTER(_Stray), c_int)
_strays_pending = arena_function("rcv_strays_pending", c_int)
_handler_mend = core_function("rcv_handler_mend", c_int)
_handler_installed = core_function("rcv_handler_installed", c_int)


def open_segment(
    fd: int,
    *,
    name: str,
    size: int,
    undo_size: int,
    feed_size: int,
    create: bool,
    trap_mode: bool,
    policy: str,
    policy_options: Mapping[str, float],
    recording: tuple[array[int], array[int]] | None,
    busy_timeout: float,
) -> int:
    """Make or attach the segment behind `fd`, on which the caller holds an flock; return the arena's address."""
    options = _Options(
        size=size,
        undo_size=undo_size,
        feed_size=feed_size,
        create=create,
        trap_mode=trap_mode,
        policy=policy.encode(),
        busy_timeout=busy_timeout,
        name=name.encode(),
        policy_options=numbers(policy_options),
        recording=ctypes.pointer(stream(*recording)) if recording is not None else None,
        n_policy_options=len(policy_options),
    )
    out = void_p()
    try:
        check(_open(fd, ctypes.byref(options), ctypes.byref(out)))
    except TransactionError as error:  # misuse: of an option, where nothing is open yet
        raise ArenaOptionError(str(error)) from None
    assert out.value is not None
    return out.value


def close_segment(address: int) -> None:
    """Give back the process's slot and unmap what nothing has been made of yet."""
    check(_close(address))


def created(arena: NativeArena | int) -> bool:
    """Return whether this process's open made the segment."""
    return bool(_created(arena))


def phase_name(phase: int) -> str:
    """Return the name of a phase of the segment, or the number itself if there is no such phase."""
    return _PHASES[phase] if phase < len(_PHASES) else str(phase)


def recovered(arena: NativeArena) -> dict[str, Any] | None:
    """Return what recovery undid, as the fields of `Recovery`, or None where there was nothing to undo."""
    found = _Recovery()
    _recovered(arena, ctypes.byref(found))
    if not found.happened:
        return None
    names = ("records", "bytes", "pages", "chunks", "pid")
    return {
        **{name: getattr(found, name) for name in names},
        "phase": phase_name(found.phase),
        "microseconds": found.micros,
        "handler": found.handler.decode("utf-8", "replace"),
    }


def processes(arena: NativeArena) -> list[int]:
    """Return the ids of the processes that are attached, as far as their table holds them."""
    room = 256
    pids = (u64 * room)()
    alive = locked(arena, lambda: int(_processes(arena, pids, room)))
    return list(pids[: min(alive, room)])


def verify(arena: NativeArena) -> dict[str, int]:
    """Walk everything in the segment; raises `ArenaCorruptError` with the path of the first damage."""
    out = _Verify()
    locked(arena, lambda: int(_verify(arena, ctypes.byref(out))))
    return {name: getattr(out, name) for name in VERIFY}


def take_repair(arena: NativeArena) -> bool:
    """Return whether this process has repaired what a dead one left since the last call; `recovered` has the report."""
    return bool(_repair_take(arena))


def orphaned(arena: NativeArena) -> bool:
    """Look whether the segment's name has ceased to lead to it."""
    return bool(_orphaned(arena))


def take_orphan(arena: NativeArena) -> bool:
    """Return whether this process has found that out since the last call."""
    return bool(_orphan_take(arena))


def take_strays(arena: NativeArena, room: int = 64) -> list[tuple[int, int]]:
    """Return the stray writes noticed since the last call, as (offset of the page, kind)."""
    strays = (_Stray * room)()
    count = check(_take_strays(arena, strays, room))
    return [(stray.page, stray.kind) for stray in strays[:count]]


def strays_pending(arena: NativeArena) -> int:
    """Count the stray writes that `take_strays` would return."""
    return int(_strays_pending(arena))


def handler_mend() -> bool:
    """Put our SIGSEGV handler back if another has displaced it; True if it had to."""
    return check(_handler_mend()) > 0


def handler_installed() -> bool:
    """Return whether the SIGSEGV handler is ours."""
    return bool(_handler_installed())
