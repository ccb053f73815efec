"""What Python repeats of recoverable.h is what recoverable.h says: structures, constants, numbers of arguments."""

from __future__ import annotations

import ctypes
import inspect
import math
import re
from pathlib import Path

import pytest

from recoverable import errors
from recoverable._native import _binding, _core, _counts, _faults, _notes, _peek, _policies, _switches

INCLUDE = Path(__file__).parents[2] / "recoverable" / "_native" / "include"

STRUCTURES = {
    "rcv_policy_option": _policies.PolicyOption,
    "rcv_stream": _policies.Stream,
    "rcv_open_options": _core._Options,
    "rcv_recovery": _core._Recovery,
    "rcv_peer": _peek._Peer,
    "rcv_times": _counts._Times,
    "rcv_lock_times": _counts.LockTimes,
    "rcv_peek": _peek._Peek,
    "rcv_note_seen": _notes._NoteSeen,
    "rcv_teller": _notes._Teller,
    "rcv_notes_seen": _notes._NotesSeen,
    "rcv_stat_info": _counts._StatInfo,
    "rcv_handler_counts": _counts._HandlerCounts,
    "rcv_hotspot": _counts._HotSpot,
    "rcv_board_seen": _counts._BoardSeen,
    "rcv_verify_report": _core._Verify,
    "rcv_replay_setup": _policies._ReplaySetup,
    "rcv_replay": _policies._Replay,
    "rcv_profile": _policies._Profile,
    "rcv_stray": _core._Stray,
}
#: Of the modules below and errors.py: its name there, and in the header.
CONSTANTS = {
    (_binding, "_AGAIN"): "RCV_ERR_AGAIN",
    (_binding, "NAME"): "RCV_HANDLER_NAME",
    (_binding, "PEERS"): "RCV_PEERS",
    (_counts, "_STAT_TOTAL"): "RCV_STAT_TOTAL",
    (_counts, "CLASSES"): "RCV_TIME_CLASSES",
    (_policies, "_PROFILES"): "RCV_PROFILES",
}
MODULES = (_binding, _core, _counts, _faults, _notes, _peek, _policies, _switches)
SIZES = {"char": 1, "int": 4, "int32_t": 4, "uint32_t": 4, "uint64_t": 8, "double": 8, "rcv_off": 8}
#: Written by macros from one list, which the core reads out to Python.
LISTED = {"rcv_stats"}


def header() -> str:
    """Return recoverable.h and its parts without comments."""
    text = "".join(path.read_text() for path in sorted(INCLUDE.glob("*.h")))
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)


def constants() -> dict[str, int]:
    """Return its numeric definitions and enumerators."""
    text = header()
    found = {name: int(number) for name, number in re.findall(r"#define (\w+) (\d+)u?\b", text)}
    for body in re.findall(r"\benum(?: \w+)? \{(.*?)\}", text, re.DOTALL):
        number = -1
        for name, value in re.findall(r"(\w+)(?:\s*=\s*(-?\d+))?\s*(?:,|$)", body.strip()):
            number = int(value) if value else number + 1
            found[name] = number
    return found


def members(structure: str) -> list[tuple[str, int]]:
    """Return the names of a structure's members, and the bytes that each takes."""
    body = re.search(rf"\bstruct {structure} \{{(.*?)\n\}};", header(), re.DOTALL)
    assert body, f"recoverable.h has no struct {structure}"
    numbers, found = constants(), []
    for declaration in body[1].split(";"):
        if not (words := declaration.split()):
            continue
        kind, _, names = re.sub(r"\bconst\b", "", " ".join(words)).strip().partition(" ")
        if kind == "struct":
            kind, _, names = names.partition(" ")
        for item in names.split(","):
            name, *counts = re.findall(r"\w+", item)
            each = (
                8
                if "*" in item
                else SIZES[kind]
                if kind in SIZES
                else sum(size for _, size in members(kind))
                if kind not in STRUCTURES
                else ctypes.sizeof(STRUCTURES[kind])
            )
            found.append((name, each * math.prod(numbers.get(count) or int(count) for count in counts)))
    return found


@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures_are_the_headers(structure: str) -> None:
    """Each structure of ctypes has the members of the header's, in their order, as large as there."""
    mine = STRUCTURES[structure]
    assert [(field[0], getattr(mine, field[0]).size) for field in mine._fields_] == members(structure)


def test_every_structure_is_compared() -> None:
    """No structure of these modules is left out here."""
    there = {
        cls
        for module in MODULES
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, ctypes.Structure) and cls.__module__ == module.__name__
    }
    assert there - set(STRUCTURES.values()) == {_counts._Stats}
    assert not LISTED & set(STRUCTURES)


def test_constants_are_the_headers() -> None:
    """Numbers that Python repeats are those of the header."""
    numbers = constants()
    assert {(module, name): getattr(module, name) for module, name in CONSTANTS} == {
        key: numbers[there] for key, there in CONSTANTS.items()
    }


def test_every_error_has_its_class() -> None:
    """Each code of `enum rcv_error` gives the exception that errors.py names for it, and there are no others."""
    codes = {name: number for name, number in constants().items() if name.startswith("RCV_ERR_")}
    ours = {f"RCV_ERR{name}": number for name, number in vars(errors).items() if f"RCV_ERR{name}" in codes}
    assert ours.items() <= codes.items()
    special = {codes["RCV_ERR_OS"], codes["RCV_ERR_AGAIN"], codes["RCV_ERR_ASK"], codes["RCV_ERR_BUG"]}
    assert errors._KINDS.keys() | special == set(codes.values())


def test_functions_take_as_many_arguments() -> None:
    """What ctypes calls takes the number of arguments that the header declares."""
    declared = {
        name: 0 if parameters.strip() == "void" else parameters.count(",") + 1
        for name, parameters in re.findall(r"RCV_API [^;(]*?\b(rcv_\w+)\(([^;]*?)\)\s*;", header())
    }
    used = {name: f for name, f in vars(_binding.library).items() if name.startswith("rcv_") and f.argtypes is not None}
    assert len(used) > 30
    assert {name: len(f.argtypes) for name, f in used.items()} == {name: declared[name] for name in used}
