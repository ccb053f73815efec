"""Have something else happen at a chosen instruction of Python code, as a thread does that gets the GIL there."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import recoverable

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_OURS = os.path.dirname(recoverable.__file__) + os.sep  # noqa: PTH120 -- as frames have it


def interrupted(function: Callable[[], Any], at: int, meanwhile: Callable[[], object]) -> tuple[Any, bool]:
    """Call a function; at the instruction of that number of the library's Python code, call something else.

    Returns:
        What it returned, and whether it has come to that instruction.
    """
    left = at

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(_OURS):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            if left == 0:
                meanwhile()
            left -= 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        result = function()
    finally:
        sys.settrace(before)
    return result, left < 0
