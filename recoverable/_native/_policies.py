"""Policies for hot pages: their options, what they learn of handlers, and how one would have decided on a recorded run."""

from __future__ import annotations

import ctypes
from array import array
from typing import TYPE_CHECKING, Any

from recoverable._native._binding import NAME, arena_function, c_int, check, core_function, u32, u64

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recoverable._native.runtime import NativeArena

_PROFILES = 128  # RCV_PROFILES


class PolicyOption(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_double))


class Stream(ctypes.Structure):
    _fields_ = (("n", u32), ("ends", ctypes.POINTER(u32)), ("pages", ctypes.POINTER(u32)))


class _Profile(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_char * NAME),
        ("route", ctypes.c_char * NAME),
        *((name, u64) for name in ("step", "steps", "known", "predicted", "captured", "vain")),
    )


class _ReplaySetup(ctypes.Structure):
    _fields_ = (
        ("policy", ctypes.c_char_p),
        ("options", ctypes.POINTER(PolicyOption)),
        ("stream", ctypes.POINTER(Stream)),
        ("costs", u64 * 4),
        ("n_options", u32),
        ("pages", u32),
        ("comparisons", u32),
        ("handlers", ctypes.POINTER(u32)),
    )


REPLAY = (
    *("traps", "protects", "compares", "copies", "vain", "promotions", "demotions", "most_hot"),
    *("ns", "policy_ns"),
    *("captures", "captures_vain"),
)


class _Replay(ctypes.Structure):
    _fields_ = tuple((name, u64) for name in REPLAY)


_policy_default = core_function(
    "rcv_policy_default", c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_double)
)
_profiles = arena_function("rcv_profiles", c_int, c_int)
_profiles_read = arena_function("rcv_profiles_read", c_int, ctypes.POINTER(_Profile), c_int)
_record = arena_function("rcv_recording_begin", c_int, c_int)
_replay = core_function(
    "rcv_replay", c_int, ctypes.POINTER(_ReplaySetup), ctypes.POINTER(_Replay), ctypes.POINTER(ctypes.c_uint64)
)
_optimum = core_function("rcv_optimum", c_int, ctypes.POINTER(_ReplaySetup), c_int, ctypes.POINTER(u64))


def numbers(options: Mapping[str, float]) -> ctypes.Array[PolicyOption]:
    return (PolicyOption * len(options))(*(PolicyOption(name.encode(), value) for name, value in options.items()))


def stream(ends: array[int], pages: array[int]) -> Stream:
    """Return the structure over two arrays of 32-bit numbers, which it keeps alive; the core only reads them."""
    assert ends.itemsize == pages.itemsize == 4, "array('I') is wider here than the core reads"
    kinds = [u32 * len(data) for data in (ends, pages)]
    return Stream(len(ends), kinds[0].from_buffer(ends), kinds[1].from_buffer(pages))


def policy_default(policy: str, option: str) -> float:
    """Return the default of a policy's option, as the core has it."""
    out = ctypes.c_double()
    check(_policy_default(policy.encode(), option.encode(), ctypes.byref(out)))
    return out.value


def profiles(arena: NativeArena, on: bool | None = None) -> bool:
    """Keep profiles of handlers or not, or only tell; return whether they are kept."""
    kept: int = _profiles(arena, -1 if on is None else int(on))
    if kept < 0:
        check(kept)
    return kept > 0


def read_profiles(arena: NativeArena) -> list[dict[str, Any]]:
    """Return what is known about each handler: the fields of `struct rcv_profile`."""
    room = (_Profile * _PROFILES)()
    found = []
    for each in room[: _profiles_read(arena, room, _PROFILES)]:
        profile = {field[0]: getattr(each, field[0]) for field in _Profile._fields_}
        for name in ("handler", "route"):
            profile[name] = profile[name].decode("utf-8", "replace")
        found.append(profile)
    return found


#: record_end(arena): throw the recording away.
record_end = arena_function("rcv_recording_end", None)


def record(arena: NativeArena, *, announced: bool) -> None:
    """Begin to record which pages each step writes: raw, or announced as well."""
    check(_record(arena, announced))


def recorded(arena: NativeArena) -> tuple[array[int], array[int], list[str], bool]:
    """Return a copy of the recording so far: ends, pages, the handler of each step, whether steps are missing."""
    found = arena.recorded()
    if found is None:
        return array("I"), array("I"), [], False
    ends, pages, handlers, names, truncated = found
    texts = [name.decode("utf-8", "replace") for name in names]
    return array("I", ends), array("I", pages), [texts[i] for i in array("I", handlers)], truncated


def _replay_setup(
    ends: array[int],
    pages: array[int],
    costs: Sequence[int],
    comparisons: int,
    policy: str,
    options: Mapping[str, float],
    handlers: array[int] | None = None,
) -> _ReplaySetup:
    return _ReplaySetup(
        policy=policy.encode(),
        options=numbers(options),
        stream=ctypes.pointer(stream(ends, pages)),
        costs=(u64 * 4)(*costs),
        n_options=len(options),
        pages=max(pages, default=0) + 1,
        comparisons=comparisons,
        handlers=(u32 * len(handlers)).from_buffer(handlers) if handlers else None,
    )


def replay(
    ends: array[int],
    pages: array[int],
    *,
    costs: Sequence[int],
    comparisons: int,
    policy: str,
    options: Mapping[str, float],
    handlers: array[int] | None,
) -> tuple[dict[str, int], array[int]]:
    """Let a policy decide on a recorded run; return the counters of `struct rcv_replay` and each step's nanoseconds.

    Where there are `handlers`, a number each step, profiles of them are kept as the policy and its options say.
    """
    assert not handlers or len(handlers) == len(ends), "a handler each step"
    out, by_step = _Replay(), array("Q", bytes(8 * len(ends)))
    room = (u64 * len(by_step)).from_buffer(by_step)
    setup = _replay_setup(ends, pages, costs, comparisons, policy, options, handlers)
    check(_replay(setup, ctypes.byref(out), room))
    return {name: getattr(out, name) for name in REPLAY}, by_step


def optimum(ends: array[int], pages: array[int], *, costs: Sequence[int], comparisons: int, on_demand: bool) -> int:
    """Return the nanoseconds that the run costs at best; `on_demand`: where pages become hot only after a write."""
    out = u64()
    check(_optimum(_replay_setup(ends, pages, costs, comparisons, "", {}), on_demand, ctypes.byref(out)))
    return out.value
