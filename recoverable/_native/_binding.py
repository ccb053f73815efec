"""How a function of the core is called by ctypes: its types, its failure as an exception.

What runs in each request does not come by here: that is in the Cython modules.
An open arena is its `NativeArena` here, of which ctypes asks for the address in the very call: so none of these can reach an
arena that another thread has just closed. What is not attached, an image, is its address (`rcv_arena *` as an integer).
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from recoverable._native import load
from recoverable.errors import error_from

if TYPE_CHECKING:
    from collections.abc import Callable

    from recoverable._native.runtime import NativeArena

_AGAIN = -13  # RCV_ERR_AGAIN
NAME = 40  # RCV_HANDLER_NAME
PEERS = 128  # RCV_PEERS
u32, u64, c_int, void_p = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int, ctypes.c_void_p
library = load()


def core_function(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of the core with those types of its result and its arguments."""
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments
    return function


def arena_function(name: str, result: Any, *arguments: Any) -> Any:
    """Return a function whose first argument is an arena: closed, it raises `TransactionClosedError`."""
    function = core_function(name, result, void_p, *arguments)

    def call(arena: NativeArena | int, *others: Any) -> Any:
        try:
            return function(arena, *others)
        except ctypes.ArgumentError:  # what ctypes makes of any exception of a conversion
            if not isinstance(arena, int):
                arena.check_open()
            raise

    return call


_error_text = core_function("rcv_error_text", ctypes.c_char_p)
_error_errno = core_function("rcv_error_errno", c_int)


def check(result: int) -> int:
    """Return a result, or raise the exception of one that is negative."""
    if result < 0:
        raise error_from(result, (_error_text() or b"").decode("utf-8", "replace"), _error_errno())
    return result


def locked(arena: NativeArena, call: Callable[[], int]) -> int:
    """Call what takes the arena's lock: where another holds it, wait without the GIL and call again."""
    if (result := call()) != _AGAIN:
        return check(result)
    try:
        while result == _AGAIN:
            arena.wait_for_lock()
            result = call()
        return check(result)
    finally:
        arena.wait_over()  # what has kept the lock for this thread, since when a signal's handler or the watchdog may have raised
        arena.tell_late()
