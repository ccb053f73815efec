"""What an item of an Array is: the few types that need no numpy, and numpy's when it is there."""

from __future__ import annotations

import ast
import functools
import sys
from dataclasses import dataclass
from typing import Any

__all__ = ["ItemType", "item_type", "numpy", "numpy_dtype"]

# numpy's short name -> (struct code, bytes)
_PLAIN = {
    "?": ("?", 1), "b1": ("?", 1), "bool": ("?", 1),
    "i1": ("b", 1), "int8": ("b", 1), "u1": ("B", 1), "uint8": ("B", 1),
    "i2": ("h", 2), "int16": ("h", 2), "u2": ("H", 2), "uint16": ("H", 2),
    "i4": ("i", 4), "int32": ("i", 4), "u4": ("I", 4), "uint32": ("I", 4),
    "i8": ("q", 8), "int64": ("q", 8), "u8": ("Q", 8), "uint64": ("Q", 8),
    "f4": ("f", 4), "float32": ("f", 4), "f8": ("d", 8), "float64": ("d", 8),
    "int": ("q", 8), "float": ("d", 8),
}  # fmt: skip
_SHORT = {
    "?": "|b1", "b": "|i1", "B": "|u1", "h": "<i2", "H": "<u2",
    "i": "<i4", "I": "<u4", "q": "<i8", "Q": "<u8", "f": "<f4", "d": "<f8",
}  # fmt: skip
_TEXT_LIMIT = 231  # bytes of the description that the segment keeps


@dataclass(frozen=True, slots=True)
class ItemType:
    """Says what an item is.

    Attributes:
        text: What the segment keeps: numpy's type string, or the repr of a structured type's description.
        size: Bytes of an item.
        code: Its struct code, or "" where only numpy knows it.
    """

    text: str
    size: int
    code: str


def numpy() -> Any:
    """Return the numpy module, or None where it is not installed. Imported at the first need only."""
    try:
        import numpy as np
    except ImportError:
        return None
    return np


def numpy_dtype(text: str) -> Any:
    """Return numpy's dtype for what a segment keeps of one; numpy is there."""
    if text.startswith("["):  # not kept: the names of a structured dtype can be changed
        return numpy().dtype([tuple(field) for field in ast.literal_eval(text)])
    return _numpy_dtype(text)


@functools.lru_cache(maxsize=64)
def _numpy_dtype(text: str) -> Any:
    return numpy().dtype(text)


def item_type(spec: Any) -> ItemType:
    """Read a dtype: "f8", "int64", float, a numpy dtype or anything numpy makes one of, or what a segment keeps.

    Raises:
        TypeError: not a type of fixed size, or one that needs numpy where it is not installed.
    """
    if isinstance(spec, ItemType):
        return spec
    plain = isinstance(spec, type) and spec in (int, float, bool)  # a numpy dtype is *equal* to them, without being one
    name = spec.__name__ if plain else spec
    if isinstance(name, str):
        known = _PLAIN.get(name.lstrip("<|=" if sys.byteorder == "little" else ">|="))
        if known:
            return ItemType(_SHORT[known[0]], known[1], known[0])
    np = numpy()
    if np is None:
        raise TypeError(
            f"an Array of {spec!r} needs numpy, which is not installed; nothing was made: "
            "install recoverable[numpy], or use one of " + " ".join(sorted(k for k in _PLAIN if len(k) == 2))
        )
    if isinstance(spec, str) and spec.startswith("["):
        spec = [tuple(field) for field in ast.literal_eval(spec)]
    dtype = np.dtype(spec)
    if dtype.hasobject or dtype.itemsize == 0:
        raise TypeError(
            f"an Array can't hold items of type {dtype}: they must have a fixed size and hold no references"
        )
    text = repr(dtype.descr) if dtype.names else dtype.str
    if len(text) > _TEXT_LIMIT:
        raise TypeError(
            f"the description of {dtype} takes {len(text)} bytes, more than the {_TEXT_LIMIT} that an arena keeps"
        )
    known = _PLAIN.get(text[1:]) if not dtype.names and dtype.isnative else None
    return ItemType(text, dtype.itemsize, known[0] if known else "")
