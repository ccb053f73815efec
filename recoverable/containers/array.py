"""Array: fixed-size items in the arena, one by one or as memory."""

from __future__ import annotations

import operator
import struct
import sys
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from recoverable._native.array import ArrayHandle, is_index
from recoverable._native.runtime import Mark, Transaction, register_container, whole
from recoverable.containers.dtype import item_type, numpy, numpy_dtype
from recoverable.errors import TransactionError

__all__ = ["Array"]

_DIMENSIONS = 8
_PIECE = 4096  # bytes of a part
_COMPARED = 512  # items that are compared at once
_PICKED = 1024  # items that are read one by one; beyond that a copy of all takes less


class Array(ArrayHandle):
    """Items of one type and fixed size: a column of balances, a feature matrix.

    Two ways in:

    - items and slices, `a[3] = 1.0`, `a[2, 5]`, `a[10:20] = …`: announced writes of exactly those bytes. Neighbouring items
      never conflict between requests. Reading gives plain numbers (one dimension) or numpy copies.
    - `.view`, the memory itself as an ndarray (without numpy: a memoryview, one dimension): for computation. Writes are found
      by page and merged by item; an item that two requests changed is a conflict. Read-only outside a transaction. For system calls
      (`readinto`, `recv_into`) use `.edit()`.

    Args:
        shape: An int, or a tuple of up to 8 of them; or a sequence or ndarray to copy.
        dtype: "f8", "i8", float, …: anything that numpy makes a dtype of, if it has a fixed size. Without numpy the plain
            number types.

    It is not stored yet, and has no items, until it is assigned into a container: `arena.root["m"] = Array(1000, "f4")`.
    It begins as zeros, or as a copy of the sequence. An Array takes whole pages of 4 KiB.
    """

    __slots__ = ()

    def __init__(self, shape: int | tuple[int, ...] | Sequence[Any], dtype: Any = None) -> None:
        np = numpy() if "numpy" in sys.modules else None  # else it is no ndarray; numpy takes 14 MB of a process
        source: Any = None
        if np is not None and isinstance(shape, np.ndarray):
            if isinstance(shape, np.ma.MaskedArray):
                raise TypeError(
                    "an Array can't keep the mask of a masked array; nothing was made: store its .filled(...), or .data and .mask"
                )
            source = np.ndarray.view(shape, np.ndarray)  # a subclass may have methods of its own
            source = source if dtype is None else source.astype(np.dtype(dtype))
            dtype, shape = source.dtype, source.shape
        elif isinstance(shape, (list, range)):
            source = list(shape)
            shape = (len(source),)
        item = item_type("f8" if dtype is None else dtype)
        extents = tuple(operator.index(n) for n in shape) if isinstance(shape, tuple) else (operator.index(shape),)  # type: ignore[arg-type]
        if not 1 <= len(extents) <= _DIMENSIONS:
            raise ValueError(f"an Array has 1 to {_DIMENSIONS} dimensions, not {len(extents)}")
        if any(n < 0 for n in extents):
            raise ValueError(f"an Array of shape {extents}: no extent can be negative")
        total = item.size
        for n in extents:
            total *= n
        if total >= 2**63:
            raise ValueError(f"an Array of shape {extents} would take {total} bytes")
        self._describe(extents, item.text, item.size, item.code)
        if source is not None:
            self._source = self._pack(source)

    # -- hooks of the native half -----------------------------------------------------------------------------

    def _load(self, shape: tuple[int, ...], dtype: str) -> None:
        item = item_type(dtype)
        self._describe(shape, item.text, item.size, item.code)

    def _pack(self, source: Any) -> bytes:
        """Copy what the items begin as: now, so that a bad one is an error here and no later change shows."""
        if isinstance(source, list) and self._format:
            try:
                return struct.pack(f"={len(source)}{self._format}", *source)
            except struct.error as error:
                raise TypeError(f"an item does not fit an Array of {self._dtype}: {error}; nothing was made") from None
        if isinstance(source, list):
            source = numpy().array(source, dtype=self.dtype)
        return source.tobytes()  # type: ignore[no-any-return]

    def _scalar(self) -> Any:
        return None if numpy() is None else numpy_dtype(self._dtype).type

    def _ndarray(self) -> tuple[Any, Any] | None:
        np = numpy()
        return None if np is None or self._dtype[:1] in "[(" else (np.ndarray, numpy_dtype(self._dtype))

    # -- what it is ---------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> Any:
        """The numpy dtype of an item; without numpy its type string, such as "<f8"."""
        self._know()
        return self._dtype if numpy() is None else numpy_dtype(self._dtype)

    @property
    def size(self) -> int:
        """How many items."""
        return _product(self.shape)

    @property
    def ndim(self) -> int:
        """How many dimensions."""
        self._know()
        return len(self.shape)

    # -- items --------------------------------------------------------------------------------------------------

    def _get(self, key: Any) -> Any:
        """Return what is no single item of one dimension: __getitem__ for the rest."""
        span = self._span(key)
        np = numpy()
        if span is None and (places := self._places(key)) is not None and places.size <= _PICKED:
            return np.frombuffer(self._gather(places.ravel()), dtype=self.dtype).reshape(places.shape)
        if span is None:
            return self._rows(key)
        at, shape = span
        count = _product(shape)
        raw = self._read(at * self.itemsize, count * self.itemsize)
        if np is not None:
            out = np.frombuffer(raw, dtype=self.dtype).reshape(shape)
            return out[()] if shape == () else out.copy()
        return list(struct.unpack(f"={count}{self._format}", raw))

    def _set(self, key: Any, value: Any) -> None:
        """Set what is no single item of one dimension."""
        span = self._span(key)
        np = numpy()
        if np is None:
            if span is None:
                raise TypeError(f"the index {key!r} needs numpy, which is not installed; nothing was written")
            at, shape = span
            values = list(value)
            if len(values) != _product(shape):
                raise ValueError(f"{len(values)} values for {_product(shape)} items; nothing was written")
            self._write(at * self.itemsize, struct.pack(f"={len(values)}{self._format}", *values))
            return
        if span is not None:
            at, shape = span
            block = np.empty(shape, self.dtype)
            block[...] = value
            self._write(at * self.itemsize, block.tobytes())
            return
        # Any other index: find which items it picks, and write each run of them.
        places = self._places(key)
        if places is None:
            places = np.arange(_product(self.shape)).reshape(self.shape)[key]
        block = np.empty(places.shape, self.dtype)
        block[...] = value
        self._write(0, b"")  # raises where nothing can be written
        if places.size:
            with whole(self):
                self._scatter(places.ravel(), block.tobytes())

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def fill(self, value: Any) -> None:
        """Set every item to one value."""
        self._know()
        if self._format:
            self._fill(struct.pack("=" + self._format, value))
        else:
            np = numpy()
            block = np.empty((), self.dtype)
            block[...] = value
            self._fill(block.tobytes())

    # -- memory -------------------------------------------------------------------------------------------------

    @property
    def view(self) -> Any:
        """The memory, as an ndarray (without numpy: a memoryview of one dimension). Writable inside a transaction only.

        Writes through it are found by page protection and undone with the transaction. Reading outside a transaction is
        not synchronised: it may see the running step's writes. While a view lives, its arena cannot be closed.
        """
        return self._view()

    def edit(self, key: Any = slice(None)) -> _Edit:
        """Open a range for writing, by system calls too: `with a.edit(slice(3, 5)) as part: file.readinto(part)`.

        Args:
            key: An index, or a slice of the first dimension with step 1.

        Returns:
            A context manager that gives the range as an ndarray (without numpy: a memoryview). Its pages are logged and made
            writable when the block begins, and what has changed is found when the step ends. An `await` inside it is refused.
        """
        self._know()
        span = self._span(key)
        if span is None:
            raise TypeError(f"edit({key!r}): a range must be one piece of memory: an index, or a slice with step 1")
        return _Edit(self, *span)

    def to_python(self) -> Any:
        """Return a plain copy: (nested) lists of numbers."""
        self._know()
        raw = self._read(0, self.nbytes)
        if self._format:
            return _nest(list(struct.unpack(f"={_product(self.shape)}{self._format}", raw)), self.shape)
        return numpy().frombuffer(raw, dtype=self.dtype).reshape(self.shape).tolist()

    def copy(self) -> Array:
        """Return an Array that is not stored yet, with a copy of the items."""
        self._know()
        out = Array(self.shape, item_type(self._dtype))
        out._source = self._read(0, self.nbytes) if self._stored else self._initial()
        return out

    def __repr__(self) -> str:
        if self._closed:
            return "<Array of a closed arena>"
        self._know()
        return f"<Array shape={self.shape} dtype={self._dtype!r}{'' if self._stored else ', not stored yet'}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if copy is False:
            raise ValueError("an Array gives numpy a copy; use .view for its memory")
        self._know()
        np = numpy()
        out = np.frombuffer(self._read(0, self.nbytes), dtype=self.dtype).reshape(self.shape).copy()
        return out if dtype is None else out.astype(dtype)

    # -- as plain parts, and for people: see Container ------------------------------------------------------------

    _in_pieces = True

    def _extra(self) -> tuple[tuple[int, ...], str]:
        return self.shape, self._dtype

    def _parts(self) -> dict[int, bytes]:
        self._know()
        raw = self._read(0, self.nbytes) if self.nbytes else b""
        return {at: raw[at : at + _PIECE] for at in range(0, len(raw), _PIECE)}

    @classmethod
    def _of_parts(cls, extra: tuple[tuple[int, ...], str], parts: dict[int, bytes]) -> Array:
        array = cls(*extra)
        array._source = b"".join(parts.values())
        return array

    def _part(self, key: Any) -> Any:
        """Return an item, or a row, by its index, as plain Python, whether numpy is there or not."""
        found = self[key[0] if isinstance(key, tuple) and len(key) == 1 else key]
        return found.tolist() if hasattr(found, "tolist") else found

    def _put_part(self, key: int, value: bytes) -> None:
        self._write(key, value)

    @staticmethod
    def _part_text(key: Any) -> str:
        return f"[{', '.join(map(repr, key))}]" if isinstance(key, tuple) and len(key) > 1 else f"[{key!r}]"

    def _other_items(self, before: Array, spans: list[tuple[int, int]] | None = None) -> list[tuple[Any, Any, Any]]:
        size, done, found = self.itemsize, 0, []
        for first, end in [(0, self.nbytes)] if spans is None else sorted(spans):
            begin = max(first // size * size, done)
            done = max(-(-end // size) * size, done)
            for at in range(begin, done, _COMPARED * size):  # a piece at a time: most are alike
                length = min(_COMPARED * size, done - at)
                old, new = before._read(at, length), self._read(at, length)
                if old == new:
                    continue
                for i in range(0, length, size):
                    if old[i : i + size] != new[i : i + size]:
                        index: Any = self._index((at + i) // size)
                        found.append((index, before._part(index), self._part(index)))
        return found

    def _index(self, flat: int) -> Any:
        """Return the index of an item by its place in memory."""
        index: list[int] = []
        for length in reversed(self.shape):
            index.append(flat % length)
            flat //= length
        return index[0] if len(index) == 1 else tuple(reversed(index))

    def _about(self) -> tuple[str, int, str]:
        return type(self).__name__, self.size, f"{self._dtype} {self.shape}"

    def _entries(self, offset: int, limit: int) -> None:
        return None

    def _follow(self, step: Any) -> tuple[Any, str]:
        found, text = super()._follow(step)
        return getattr(found, "item", lambda: found)(), text

    # -- inside ---------------------------------------------------------------------------------------------------

    def _span(self, key: Any) -> tuple[int, tuple[int, ...]] | None:
        """Return (first item, shape) where `key` picks one contiguous piece, else None."""
        parts = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, slice) or is_index(part) for part in parts):
            return None
        if len(parts) > len(self.shape):
            raise IndexError(f"{len(parts)} indices for an Array of {len(self.shape)} dimensions")
        at, rest = 0, list(self.shape)
        for depth, part in enumerate(parts):
            extent = rest.pop(0)
            if isinstance(part, slice):
                start, stop, step = part.indices(extent)
                if step != 1 or any(p != slice(None) for p in parts[depth + 1 :]):
                    return None
                return at + start * _product(rest), (max(0, stop - start), *rest)
            i = operator.index(part)
            i += extent if i < 0 else 0
            if not 0 <= i < extent:
                raise IndexError(f"index {part} is out of bounds for dimension {depth}, which has {extent} items")
            at += i * _product(rest)
        return at, tuple(rest)

    def _places(self, key: Any) -> Any:
        """Return the numbers of the items that an index array (or number) for each dimension picks; None for other indices."""
        np = numpy()
        parts = key if isinstance(key, tuple) else (key,)
        if np is None or len(parts) != len(self.shape):
            return None
        try:
            lists = [
                np.asarray(part) if isinstance(part, (list, np.ndarray)) or is_index(part) else None for part in parts
            ]
            if any(part is None or part.dtype.kind not in "iu" for part in lists):
                return None
            return np.ravel_multi_index(lists, self.shape)
        except ValueError:  # a negative one, or one too large: numpy's to say
            return None

    def _rows(self, key: Any) -> Any:
        """Read an index that is not one piece of memory: through a copy of all items."""
        np = numpy()
        if np is None:
            if isinstance(key, slice):
                return self.to_python()[key]
            raise TypeError(f"the index {key!r} needs numpy, which is not installed")
        return np.asarray(self)[key]

    def _as_array(self, raw: Any, shape: tuple[int, ...]) -> Any:
        np = numpy()
        if np is not None:
            return np.ndarray(shape, numpy_dtype(self._dtype), raw)
        return memoryview(raw).cast(self._format)  # type: ignore[call-overload]


class _Edit:
    """The block of Array.edit()."""

    __slots__ = ("_array", "_at", "_open", "_shape", "_size")

    def __init__(self, array: Array, at: int, shape: tuple[int, ...]) -> None:
        self._array = array
        self._at = at * array.itemsize
        self._shape = shape or (1,)
        self._size = _product(shape) * array.itemsize
        self._open: list[tuple[Transaction, Mark]] = []

    def __enter__(self) -> Any:
        items = self._array._as_array(self._array._raw(True, self._at, self._size), self._shape)
        self._open.append(self._array._edit(self._at, self._size))
        return items

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._open:
            raise TransactionError("An edit was left that has not been entered. Nothing was changed.")
        owner, mark = self._open.pop()
        try:
            owner.release(mark)
        except TransactionError as astray:  # left out of order
            raise astray from error


def _product(extents: Sequence[int]) -> int:
    total = 1
    for n in extents:
        total *= n
    return total


def _nest(flat: list[Any], shape: tuple[int, ...]) -> list[Any]:
    if len(shape) == 1:
        return flat
    size = _product(shape[1:])
    return [_nest(flat[i * size : (i + 1) * size], shape[1:]) for i in range(shape[0])]


register_container(Array)
