"""The control plane over ctypes: opening, closing, statistics, verification, and the switches of test builds.

What runs in each request does not come by here: that is in the Cython modules.
An open arena is its `NativeArena` here, of which ctypes asks for the address in the very call: so none of these can reach an
arena that another thread has just closed. What is not attached, an image, is its address (`rcv_arena *` as an integer).
"""

from __future__ import annotations

import ctypes
import itertools
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

from recoverable._native import load
from recoverable.errors import ArenaOptionError, TransactionError, error_from
from recoverable.lock_times import CLASSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from recoverable._native.runtime import NativeArena

_AGAIN = -13  # RCV_ERR_AGAIN
_NAME = 40  # RCV_HANDLER_NAME
_STAT_TOTAL = 2  # RCV_STAT_TOTAL

_u32, _u64, _int, _pointer = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int, ctypes.c_void_p


class _PolicyOption(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_double))


class _Stream(ctypes.Structure):
    _fields_ = (("n", _u32), ("ends", ctypes.POINTER(_u32)), ("pages", ctypes.POINTER(_u32)))


class _Options(ctypes.Structure):
    _fields_ = (
        ("size", _u64),
        ("undo_size", _u64),
        ("create", _int),
        ("trap_mode", _int),
        ("policy", ctypes.c_char_p),
        ("busy_timeout", ctypes.c_double),
        ("name", ctypes.c_char_p),
        ("policy_options", ctypes.POINTER(_PolicyOption)),
        ("recording", ctypes.POINTER(_Stream)),
        ("n_policy_options", _u32),
    )


class _Recovery(ctypes.Structure):
    _fields_ = (
        ("happened", _u32),
        ("phase", _u32),
        ("records", _u64),
        ("bytes", _u64),
        ("pages", _u64),
        ("chunks", _u64),
        ("micros", _u64),
        ("handler", ctypes.c_char * _NAME),
        ("pid", _u64),
    )


VERIFY = ("containers", "entries", "blocks", "bytes", "leaked_blocks", "leaked_bytes", "hot_pages")


PEEK = (
    *("size", "claimed", "used", "reserved", "overhead"),
    *("commit_seq", "recoveries", "recovered_at"),
    *("hot_pages", "uid", "phase", "cuts"),
)
_PEERS = 128  # RCV_PEERS


class _Peer(ctypes.Structure):
    _fields_ = (("pid", _u64), ("attached_at", _u64), ("alive", _u64), ("foreign", _u64))


class _Times(ctypes.Structure):
    _fields_ = (("count", _u64), ("nanos", _u64), ("in_class", _u64 * CLASSES))


class _LockTimes(ctypes.Structure):
    _fields_ = (("held", _Times), ("waited", _Times))


class _Peek(ctypes.Structure):
    _fields_ = (
        *((name, _u64) for name in PEEK),
        ("backed", _u64 * 2 * 4),
        ("holder", _u64),
        ("peers", _u64),
        ("peer", _Peer * _PEERS),
        ("handler", ctypes.c_char * _NAME),
        ("lock", _LockTimes),
    )


class _HotSpot(ctypes.Structure):
    _fields_ = (("container", _u64), ("id", _u64), ("kind", _u64), ("arg", _u64), ("count", _u64), ("error", _u64))


class _Verify(ctypes.Structure):
    _fields_ = tuple((name, _u64) for name in VERIFY)


class _ReplaySetup(ctypes.Structure):
    _fields_ = (
        ("policy", ctypes.c_char_p),
        ("options", ctypes.POINTER(_PolicyOption)),
        ("stream", ctypes.POINTER(_Stream)),
        ("costs", _u64 * 4),
        ("n_options", _u32),
        ("pages", _u32),
        ("comparisons", _u32),
        ("handlers", ctypes.POINTER(_u32)),
    )


REPLAY = (
    *("traps", "protects", "compares", "copies", "vain", "promotions", "demotions", "most_hot"),
    *("ns", "policy_ns"),
    *("captures", "captures_vain"),
)


class _Profile(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_char * _NAME),
        ("route", ctypes.c_char * _NAME),
        *((name, _u64) for name in ("step", "steps", "known", "predicted", "captured", "vain")),
    )


_PROFILES = 128  # RCV_PROFILES


class _Replay(ctypes.Structure):
    _fields_ = tuple((name, _u64) for name in REPLAY)


class _Stray(ctypes.Structure):
    _fields_ = (("page", _u64), ("address", _u64), ("kind", ctypes.c_int32))


_library = load()


def _function(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_library, name)
    function.restype = result
    function.argtypes = arguments
    return function


def _of_arena(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function whose first argument is an arena: closed, it raises `TransactionClosedError`."""
    function = _function(name, result, _pointer, *arguments)

    def call(arena: NativeArena | int, *others: Any) -> Any:
        try:
            return function(arena, *others)
        except ctypes.ArgumentError:  # what ctypes makes of any exception of a conversion
            if not isinstance(arena, int):
                arena.check_open()
            raise

    return call


class _StatInfo(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("metric", ctypes.c_char_p), ("help", ctypes.c_char_p), ("type", _int))


class Stat(NamedTuple):
    """A member of `struct rcv_stats`: the metric it becomes ("" for none), the help text of that, and whether it only grows."""

    name: str
    metric: str
    help: str
    total: bool


def _listed(name: str, result: Any) -> Iterator[Any]:
    """Return what a function of the core gives for 0, 1, 2 and so on, until it gives NULL."""
    function = _function(name, result, ctypes.c_uint)
    return itertools.takewhile(bool, map(function, itertools.count()))


#: What the core counts, as counters.h lists it.
STATS = tuple(
    Stat(info.name.decode(), info.metric.decode(), info.help.decode(), info.type == _STAT_TOTAL)
    for info in (found.contents for found in _listed("rcv_stat_info", ctypes.POINTER(_StatInfo)))
)
#: What the board counts of each handler.
BOARD = tuple(name.decode() for name in _listed("rcv_board_name", ctypes.c_char_p))


class _Stats(ctypes.Structure):
    _fields_ = tuple((stat.name, _u64) for stat in STATS)


class _HandlerCounts(ctypes.Structure):
    _fields_ = (("count", _u64 * len(BOARD)), ("rest", _u64), ("handler", ctypes.c_char * _NAME))


class _NoteSeen(ctypes.Structure):
    _fields_ = (("teller", _u32), ("size", _u32), ("text", ctypes.c_char * 488))  # RCV_NOTE_TEXT


class _Teller(ctypes.Structure):
    _fields_ = tuple((name, _u64) for name in ("pid", "token", "answers", "in_flight", "foreign", "own"))


class _NotesSeen(ctypes.Structure):
    _fields_ = (("tellers", _u64), ("notes", _u64), ("teller", _Teller * _PEERS), ("note", _NoteSeen * 64))


class _BoardSeen(ctypes.Structure):
    _fields_ = (
        ("rows", _u64),
        ("spots", _u64),
        ("row", _HandlerCounts * 64),
        ("spot", _HotSpot * 32),
        ("queue", _u64 * 32),
    )


_error_text = _function("rcv_error_text", ctypes.c_char_p)
_error_errno = _function("rcv_error_errno", _int)
_open = _function("rcv_open", _int, _int, ctypes.POINTER(_Options), ctypes.POINTER(_pointer))
_close = _function("rcv_close", _int, _pointer)
_recovered = _of_arena("rcv_get_recovered", None, ctypes.POINTER(_Recovery))
_repair_take = _of_arena("rcv_repair_take", _int)
_created = _of_arena("rcv_created", _int)
_processes = _of_arena("rcv_processes", _int, ctypes.POINTER(_u64), _int)
_peek = _function("rcv_peek", _int, _int, ctypes.c_char_p, ctypes.POINTER(_Peek))
_peek_board = _function("rcv_peek_board", _int, _int, ctypes.c_char_p, ctypes.POINTER(_BoardSeen))
_peek_notes = _function("rcv_peek_notes", _int, _int, ctypes.c_char_p, _int, ctypes.POINTER(_NotesSeen))
_notes_see = _of_arena("rcv_notes_see", None, ctypes.POINTER(_NotesSeen))
_image_open = _function("rcv_image_open", _int, _int, ctypes.c_char_p, ctypes.POINTER(_pointer))
_image_take = _function("rcv_image_take", _int, _pointer, _u64)
_image_grew = _function("rcv_image_grew", _u64, _pointer)
_image_full = _function("rcv_image_full", _int, _pointer)
_get_stats = _of_arena("rcv_get_stats", _int, ctypes.POINTER(_Stats))
_get_lock_times = _of_arena("rcv_get_lock_times", None, ctypes.POINTER(_LockTimes))
_verify = _of_arena("rcv_verify", _int, ctypes.POINTER(_Verify))
_orphaned = _of_arena("rcv_orphaned", _int)
_orphan_take = _of_arena("rcv_orphan_take", _int)
_take_strays = _of_arena("rcv_take_strays", _int, ctypes.POINTER(_Stray), _int)
_strays_pending = _of_arena("rcv_strays_pending", _int)
_policy_default = _function(
    "rcv_policy_default", _int, ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_double)
)
_record = _of_arena("rcv_recording_begin", _int, _int)
_replay = _function(
    "rcv_replay", _int, ctypes.POINTER(_ReplaySetup), ctypes.POINTER(_Replay), ctypes.POINTER(ctypes.c_uint64)
)
_optimum = _function("rcv_optimum", _int, ctypes.POINTER(_ReplaySetup), _int, ctypes.POINTER(_u64))
_profiles = _of_arena("rcv_profiles", _int, _int)
_profiles_read = _of_arena("rcv_profiles_read", _int, ctypes.POINTER(_Profile), _int)
_handler_mend = _function("rcv_handler_mend", _int)
_handler_installed = _function("rcv_handler_installed", _int)


def _check(result: int) -> int:
    if result < 0:
        raise error_from(result, (_error_text() or b"").decode("utf-8", "replace"), _error_errno())
    return result


def _locked(arena: NativeArena, call: Callable[[], int]) -> int:
    """Call what takes the arena's lock: where another holds it, wait without the GIL and call again."""
    while (result := call()) == _AGAIN:
        arena.wait_for_lock()
    return _check(result)


def _numbers(options: Mapping[str, float]) -> ctypes.Array[_PolicyOption]:
    return (_PolicyOption * len(options))(*(_PolicyOption(name.encode(), value) for name, value in options.items()))


def _stream(ends: array[int], pages: array[int]) -> _Stream:
    """Return the structure over two arrays of 32-bit numbers, which it keeps alive; the core only reads them."""
    assert ends.itemsize == pages.itemsize == 4, "array('I') is wider here than the core reads"
    kinds = [_u32 * len(data) for data in (ends, pages)]
    return _Stream(len(ends), kinds[0].from_buffer(ends), kinds[1].from_buffer(pages))


def open_segment(
    fd: int,
    *,
    name: str,
    size: int,
    undo_size: int,
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
        create=create,
        trap_mode=trap_mode,
        policy=policy.encode(),
        busy_timeout=busy_timeout,
        name=name.encode(),
        policy_options=_numbers(policy_options),
        recording=ctypes.pointer(_stream(*recording)) if recording is not None else None,
        n_policy_options=len(policy_options),
    )
    out = _pointer()
    try:
        _check(_open(fd, ctypes.byref(options), ctypes.byref(out)))
    except TransactionError as error:  # misuse: of an option, where nothing is open yet
        raise ArenaOptionError(str(error)) from None
    assert out.value is not None
    return out.value


def policy_default(policy: str, option: str) -> float:
    """Return the default of a policy's option, as the core has it."""
    out = ctypes.c_double()
    _check(_policy_default(policy.encode(), option.encode(), ctypes.byref(out)))
    return out.value


def profiles(arena: NativeArena, on: bool | None = None) -> bool:
    """Keep profiles of handlers or not, or only tell; return whether they are kept."""
    kept: int = _profiles(arena, -1 if on is None else int(on))
    if kept < 0:
        _check(kept)
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
record_end = _of_arena("rcv_recording_end", None)


def record(arena: NativeArena, *, announced: bool) -> None:
    """Begin to record which pages each step writes: raw, or announced as well."""
    _check(_record(arena, announced))


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
        options=_numbers(options),
        stream=ctypes.pointer(_stream(ends, pages)),
        costs=(_u64 * 4)(*costs),
        n_options=len(options),
        pages=max(pages, default=0) + 1,
        comparisons=comparisons,
        handlers=(_u32 * len(handlers)).from_buffer(handlers) if handlers else None,
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
    room = (_u64 * len(by_step)).from_buffer(by_step)
    setup = _replay_setup(ends, pages, costs, comparisons, policy, options, handlers)
    _check(_replay(setup, ctypes.byref(out), room))
    return {name: getattr(out, name) for name in REPLAY}, by_step


def optimum(ends: array[int], pages: array[int], *, costs: Sequence[int], comparisons: int, on_demand: bool) -> int:
    """Return the nanoseconds that the run costs at best; `on_demand`: where pages become hot only after a write."""
    out = _u64()
    _check(_optimum(_replay_setup(ends, pages, costs, comparisons, "", {}), on_demand, ctypes.byref(out)))
    return out.value


def close_segment(address: int) -> None:
    """Give back the process's slot and unmap what nothing has been made of yet."""
    _check(_close(address))


def created(arena: NativeArena | int) -> bool:
    """Return whether this process's open made the segment."""
    return bool(_created(arena))


def recovered(arena: NativeArena) -> dict[str, Any] | None:
    """Return what recovery undid, or None where there was nothing to undo."""
    found = _Recovery()
    _recovered(arena, ctypes.byref(found))
    if not found.happened:
        return None
    report = {name: getattr(found, name) for name, *_ in _Recovery._fields_}
    report["handler"] = report["handler"].decode("utf-8", "replace")
    return report


def processes(arena: NativeArena) -> list[int]:
    """Return the ids of the processes that are attached, as far as their table holds them."""
    room = 256
    pids = (_u64 * room)()
    alive = _locked(arena, lambda: int(_processes(arena, pids, room)))
    return list(pids[: min(alive, room)])


def peek(fd: int, name: str) -> dict[str, Any]:
    """Read what can be told of the segment behind `fd` without attaching to it.

    Returns:
        The fields of `struct rcv_peek` by name; `peers` is a list of (pid, attached at, alive, of another PID namespace),
        `backed` one of (offset, length).
    """
    out = _Peek()
    _check(_peek(fd, name.encode(), ctypes.byref(out)))
    report: dict[str, Any] = {name: getattr(out, name) for name in PEEK}
    report["holder"] = out.holder
    report["backed"] = [tuple(part) for part in out.backed]
    report["handler"] = out.handler.decode("utf-8", "replace")
    report["lock"] = _lock_times(out.lock)
    report["peers"] = [
        (peer.pid, peer.attached_at, bool(peer.alive), bool(peer.foreign)) for peer in out.peer[: out.peers]
    ]
    return report


def peek_board(fd: int, name: str) -> tuple[dict[str | None, dict[str, int]], list[dict[str, int]]]:
    """Read what came of each handler's runs, and where conflicts were lost, without attaching.

    Returns:
        Counts by BOARD's names, by handler (None: those that were too many to tell apart); and the places of conflicts
        that stand out, with their counts, how much too high these may be and how many stand there, certainly most frequent first.
    """
    out = _BoardSeen()
    _check(_peek_board(fd, name.encode(), ctypes.byref(out)))
    handlers: dict[str | None, dict[str, int]] = {}
    for row in out.row[: out.rows]:
        text = row.handler.decode("utf-8", "replace")
        printable = "".join(letter if letter.isprintable() else "?" for letter in text)
        handlers[None if row.rest else printable] = dict(zip(BOARD, row.count, strict=True))
    spots = [
        {field: getattr(spot, field) for field, _ in spot._fields_} | {"queue": queue}
        for spot, queue in zip(out.spot[: out.spots], out.queue, strict=False)
    ]
    return handlers, sorted(spots, key=lambda spot: spot["error"] - spot["count"])


class Teller(NamedTuple):
    """A process that tells of its requests in flight when it is asked.

    Attributes:
        pid: Its id, as its own PID namespace has it.
        token: What tells it from all others, also of one that has the same id in another namespace.
        answers: Moves with each answer.
        in_flight: How many there were at its last one.
        foreign: Whether that id is of another PID namespace than ours.
        own: Whether it is this process.
        notes: Its last answer: texts, which may be anything, the oldest request first.
    """

    pid: int
    token: int
    answers: int
    in_flight: int
    foreign: bool
    own: bool
    notes: list[bytes]


def _tellers(seen: _NotesSeen) -> list[Teller]:
    found = [
        Teller(each.pid, each.token, each.answers, each.in_flight, bool(each.foreign), bool(each.own), [])
        for each in seen.teller[: seen.tellers]
    ]
    for note in seen.note[: seen.notes]:
        text = ctypes.string_at(ctypes.addressof(note) + _NoteSeen.text.offset, note.size)
        found[note.teller].notes.append(text)
    return found


def peek_notes(fd: int, name: str, *, ask: bool) -> list[Teller]:
    """Read what the processes that have the segment behind `fd` open have told of their requests; have them asked before that."""
    seen = _NotesSeen()
    _check(_peek_notes(fd, name.encode(), ask, ctypes.byref(seen)))
    return _tellers(seen)


def notes(arena: NativeArena) -> list[Teller]:
    """Read the same of an arena that is open."""
    seen = _NotesSeen()
    _notes_see(arena, ctypes.byref(seen))
    return _tellers(seen)


#: image_forget(address): forget which pages were met. image_close(address): give its memory back.
image_forget = _function("rcv_image_forget", None, _pointer)
image_close = _function("rcv_image_close", None, _pointer)


def image_open(fd: int, name: str) -> int:
    """Make an image of the segment behind `fd`, which stays open as long; return its address, for reading alone."""
    out = _pointer()
    _check(_image_open(fd, name.encode(), ctypes.byref(out)))
    assert out.value is not None
    return out.value


def image_take(address: int, seconds: float) -> None:
    """Fetch all pages that were read, as they were at one moment; raises `ArenaBusyError` if it finds no such moment in time."""
    _check(_image_take(address, int(seconds * 1e9)))


def image_grew(address: int) -> bool:
    """Return whether pages were met since the take, so that what was read may be of two moments."""
    return bool(_image_grew(address))


def image_full(address: int) -> bool:
    """Return whether there were more pages than an image holds."""
    return bool(_image_full(address))


def stats(arena: NativeArena) -> dict[str, int]:
    """Return the counters of `struct rcv_stats` by name."""
    out = _Stats()
    _locked(arena, lambda: int(_get_stats(arena, ctypes.byref(out))))
    return {stat.name: getattr(out, stat.name) for stat in STATS}


def _lock_times(times: _LockTimes) -> dict[str, tuple[int, int, tuple[int, ...]]]:
    return {name: (t.count, t.nanos, tuple(t.in_class)) for name, t in (("held", times.held), ("waited", times.waited))}


def lock_times(arena: NativeArena) -> dict[str, tuple[int, int, tuple[int, ...]]]:
    """Return for how long the lock was `held`, and `waited` for: how often, nanoseconds in all, how often by class."""
    out = _LockTimes()
    _get_lock_times(arena, ctypes.byref(out))
    return _lock_times(out)


def verify(arena: NativeArena) -> dict[str, int]:
    """Walk everything in the segment; raises `ArenaCorruptError` with the path of the first damage."""
    out = _Verify()
    _locked(arena, lambda: int(_verify(arena, ctypes.byref(out))))
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
    count = _check(_take_strays(arena, strays, room))
    return [(stray.page, stray.kind) for stray in strays[:count]]


def strays_pending(arena: NativeArena) -> int:
    """Count the stray writes that `take_strays` would return."""
    return int(_strays_pending(arena))


def handler_mend() -> bool:
    """Put our SIGSEGV handler back if another has displaced it; True if it had to."""
    return _check(_handler_mend()) > 0


def handler_installed() -> bool:
    """Return whether the SIGSEGV handler is ours."""
    return bool(_handler_installed())


# -- faults on demand: recoverable.faults ------------------------------------------------------------------------

FAULT_PHASE, FAULT_ROOM, FAULT_STORE = 1, 2, 3
FAULT_KILL, FAULT_SEGV, FAULT_FULL = 1, 2, 3

_fault_at = _function("rcv_fault_at", _int, _int, _u64, _int)
_fault_in_commit = _function("rcv_fault_in_commit", _int, _u64, _int)
_fault_name = _function("rcv_fault_name", ctypes.c_char_p, _int, _u64)
_fault_passed = _function("rcv_fault_passed", _u64, _int)
_fault_struck = _function("rcv_fault_struck", _u64)

#: fault_stop(): nothing is armed or watched any more; the counts stay. fault_clear(): they go, too. fault_watch(kind): count
#: its points from now.
fault_stop = _function("rcv_fault_stop", None)
fault_clear = _function("rcv_fault_clear", None)
fault_watch = _function("rcv_fault_watch", None, _int)
fault_count = _function("rcv_fault_count", None)
fault_die = _function("rcv_fault_die", None, _int)


def fault_at(kind: int, nth: int, action: int) -> None:
    """Let something happen at the nth point of that kind, counted since it is watched."""
    _check(_fault_at(kind, nth, action))


def fault_in_commit(nth: int, action: int) -> None:
    """Have the process die at the nth phase that is passed from now on, or where a transaction ends before."""
    _check(_fault_in_commit(nth, action))


def fault_names(kind: int) -> list[str]:
    """Return the names of the points of that kind that were passed; "" where it was not kept."""
    return [(_fault_name(kind, nth) or b"").decode() for nth in range(1, _fault_passed(kind) + 1)]


def fault_passed(kind: int) -> int:
    """Return how many points of a kind were passed since it was watched."""
    return int(_fault_passed(kind))


def fault_struck() -> int:
    """Count the faults that have been injected into this process."""
    return int(_fault_struck())


# -- test builds only (-Dcrashpoints=true) --------------------------------------------------------------------

FAIL_MALLOC, FAIL_MPROTECT, FAIL_FALLOCATE, FAIL_MMAP, FAIL_HEAP = 1, 2, 3, 4, 5


def _switch(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function that only test builds have, or one that says so."""
    if hasattr(_library, name):
        return _function(name, result, *arguments)

    def absent(*_: Any) -> Any:
        raise RuntimeError(f"{name} is not in this build: install it with -Csetup-args=-Dcrashpoints=true")

    return absent


_crash_at = _switch("rcv_crash_at", None, _u64)
_crash_count = _switch("rcv_crash_count", _u64)
_crash_last = _switch("rcv_crash_last", ctypes.c_char_p)
_crash_only = _switch("rcv_crash_only", None, ctypes.c_char_p)
_crash_note = _switch("rcv_crash_note", None, _pointer, ctypes.c_size_t)
_fail_at = _switch("rcv_fail_at", None, _int, _u64)
_fail_count = _switch("rcv_fail_count", _u64, _int)


_mutate = _switch("rcv_mutate", _int, ctypes.c_char_p)
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
    return hasattr(_library, "rcv_test_build") and bool(_function("rcv_test_build", _int)())


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


def crash_note(address: int, size: int) -> None:
    """Say where the point that kills writes its name: memory that another process shares."""
    _crash_note(address, size)


def fail_at(kind: int, nth: int) -> None:
    """Let the nth call of that kind from now fail once; 0 = never."""
    _fail_at(kind, nth)


def fail_count(kind: int) -> int:
    """Count the calls of that kind since `fail_at`."""
    return int(_fail_count(kind))
