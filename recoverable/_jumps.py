"""Jumps back that Python has put outside of the `with` or `try` that their loop is in.

Python 3.12 and 3.13 turn the end of `while condition:` into a jump forward over a jump back, and the latter has no entry in the
exception table. Python looks there for exceptions that come from outside, and one that it raises there leaves the function past
its `with` and `finally`. `_native/raising.pxi` raises ours elsewhere.
"""

from __future__ import annotations

import dis
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from types import CodeType

__all__ = ["NOTHING", "Outside", "outside"]

_BACK: Final = dis.opmap["JUMP_BACKWARD"]
_LONGER: Final = dis.opmap["EXTENDED_ARG"]


class Outside(NamedTuple):
    """Jumps back of some code that are outside of what their loop is in, by the offsets of instructions.

    Attributes:
        jumps: The jumps, and those before them that decide about them and are outside as well.
        before: What decides about them inside.
        targets: What they jump to, inside.
    """

    jumps: frozenset[int]
    before: frozenset[int]
    targets: frozenset[int]


NOTHING: Final = Outside(frozenset(), frozenset(), frozenset())


def outside(code: CodeType) -> Outside:
    """Return its jumps back that no entry covers, while one covers what they jump to.

    Where a `try` begins a loop's body, and the loop itself is in nothing, that is said of the loop, too, and does no harm: it is
    stopped as the `try` begins.
    """
    if not code.co_exceptiontable:
        return NOTHING
    # Without its constants, whose reprs may be the program's, or refused.
    bytecode: Any = dis.Bytecode(code.replace(co_consts=(None,) * len(code.co_consts)))
    covered = [range(entry.start, entry.end) for entry in getattr(bytecode, "exception_entries", ())]

    def inside(offset: int) -> bool:
        return any(offset in each for each in covered)

    jumps: set[int] = set()
    before: set[int] = set()
    targets: set[int] = set()
    this: list[int] = []  # the offsets of one instruction, with what makes its argument longer
    last: list[int] = []
    for each in bytecode:
        this.append(each.offset)
        if each.opcode == _LONGER:
            continue
        if each.opcode == _BACK and not inside(each.offset) and inside(each.argval):
            jumps.update(range(this[0], each.offset + 1, 2))
            targets.add(each.argval)
            if last:
                (before if inside(last[-1]) else jumps).update(last)
        last, this = this, []
    return Outside(frozenset(jumps), frozenset(before), frozenset(targets))
