"""What an item of an Array is: the few types that need no numpy, and numpy's when it is there."""

from __future__ import annotations

import ast
import contextlib
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
_NO_DTYPE = (
    TypeError,
    ValueError,
    SyntaxError,
    MemoryError,
    RecursionError,
    OverflowError,
)  # what numpy and ast say to it
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
    if text[:1] in "[(":  # not kept: the names of a structured dtype can be changed
        return _dtype_of(ast.literal_eval(text))
    return _numpy_dtype(text)


def _dtype_of(kept: Any) -> Any:
    """Make the dtype again that _description() has described."""
    np = numpy()
    if isinstance(kept, list):
        return np.dtype([tuple(field) for field in kept])
    if not isinstance(kept, tuple):
        return np.dtype(kept)
    if len(kept) == 2:
        return np.dtype((_dtype_of(kept[0]), kept[1]))
    size, aligned, fields = kept
    columns: dict[str, Any] = {
        "names": [field[0] for field in fields],
        "formats": [_dtype_of(field[1]) for field in fields],
        "offsets": [field[2] for field in fields],
        "itemsize": size,
    }
    if any(len(field) > 3 for field in fields):
        columns["titles"] = [field[3] if len(field) > 3 else None for field in fields]
    return np.dtype(columns, align=bool(aligned))


def _description(dtype: Any) -> Any:
    """Describe a dtype by text, numbers, lists and tuples: as numpy does, where that says all of it.

    It does not for a structured one with gaps, overlaps, or a C compiler's alignment: (bytes, aligned, fields), each of these
    (name, description, offset[, title]). An array inside one is (description of its items, shape).
    """
    if dtype.subdtype is not None:
        return _description(dtype.subdtype[0]), dtype.subdtype[1]
    if dtype.names is None:
        return dtype.str
    with contextlib.suppress(ValueError):  # fields that overlap, or are out of order
        packed = dtype.descr
        if _same(numpy().dtype(packed), dtype):
            return packed
    fields = []
    for name in dtype.names:
        kind, *where = dtype.fields[name]
        fields.append((name, _description(kind), *where))
    return dtype.itemsize, int(dtype.isalignedstruct), fields


def _same(a: Any, b: Any) -> bool:
    """Are two dtypes the same, alignment included, which their == leaves out?"""
    if a.subdtype is not None and b.subdtype is not None:
        return a == b and _same(a.subdtype[0], b.subdtype[0])
    if a != b or a.isalignedstruct != b.isalignedstruct:
        return False
    return all(_same(a[name], b[name]) for name in a.names or ())


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
    try:
        dtype = numpy_dtype(spec) if isinstance(spec, str) and spec[:1] in ("[", "(") else np.dtype(spec)
    except _NO_DTYPE as error:
        raise TypeError(f"an Array can't hold items of type {spec!r:.200}: {error}; nothing was made") from None
    if dtype.hasobject or dtype.itemsize == 0:
        raise TypeError(
            f"an Array can't hold items of type {dtype}: they must have a fixed size and hold no references"
        )
    if dtype.subdtype is not None:
        raise TypeError(
            f"an Array can't hold items of type {dtype}, which are arrays; nothing was made: give the Array more dimensions"
        )
    text = dtype.str if dtype.names is None else repr(_description(dtype))
    size = len(text.encode("utf-8", "replace"))
    if size > _TEXT_LIMIT:
        raise TypeError(
            f"the description of {dtype} takes {size} bytes, more than the {_TEXT_LIMIT} that an arena keeps; nothing was made: "
            "give it fewer or shorter names"
        )
    _check_kept(text, dtype)
    known = _PLAIN.get(text[1:]) if not dtype.names and dtype.isnative else None
    return ItemType(text, dtype.itemsize, known[0] if known else "")


def _check_kept(text: str, dtype: Any) -> None:
    """Raise TypeError unless the dtype comes back from its description."""
    try:
        kept = _same(numpy_dtype(text), dtype) and text.isprintable()
    except _NO_DTYPE:
        kept = False
    if not kept:
        raise TypeError(
            f"an Array can't hold items of type {dtype!r}: an arena keeps their type as text, and this one does not come back "
            "from its text; nothing was made: use a type of numpy's own, with fields named by text"
        )
