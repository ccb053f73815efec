"""What processes tell of their requests when they are asked."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, NamedTuple

from recoverable._native._binding import PEERS, arena_function, c_int, check, core_function, u32, u64

if TYPE_CHECKING:
    from recoverable._native.runtime import NativeArena


class _NoteSeen(ctypes.Structure):
    _fields_ = (("teller", u32), ("size", u32), ("text", ctypes.c_char * 488))  # RCV_NOTE_TEXT


class _Teller(ctypes.Structure):
    _fields_ = tuple((name, u64) for name in ("pid", "token", "answers", "in_flight", "foreign", "own"))


class _NotesSeen(ctypes.Structure):
    _fields_ = (("tellers", u64), ("notes", u64), ("teller", _Teller * PEERS), ("note", _NoteSeen * 64))


_peek_notes = core_function("rcv_peek_notes", c_int, c_int, ctypes.c_char_p, c_int, ctypes.POINTER(_NotesSeen))
_notes_see = arena_function("rcv_notes_see", None, ctypes.POINTER(_NotesSeen))


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
    check(_peek_notes(fd, name.encode(), ask, ctypes.byref(seen)))
    return _tellers(seen)


def notes(arena: NativeArena) -> list[Teller]:
    """Read the same of an arena that is open."""
    seen = _NotesSeen()
    _notes_see(arena, ctypes.byref(seen))
    return _tellers(seen)
