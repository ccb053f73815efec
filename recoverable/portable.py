"""The writer of portable exports: an arena as lines of JSON, which any release reads. `recoverable export --portable` is this.

    python portable.py NAME FILE

does the same under a release that has no such option: this file is run by its path, by the Python that has that release. So
it keeps to the standard library and to public names that the oldest release has. The one exception is how a Record whose
class is not imported tells its fields, which has been called the same ever since.

What we want: a file that says all of a state, kinds and order and every bit, without saying how a segment holds it; and that a
large state takes little memory, to write as to read.

What does not work: a line a container, for one can have all of the state in it; all children before their parent or behind it, for
then as many wait.

What does: containers in slices. What is small stands in its parent's line, whole. What is large is named there by a number, and
its own slices follow at once, before the parent goes on. So only containers around the current one are open. A long value
comes in pieces before the slice that it is in. docs/format.md has the grammar; recoverable/cli/_portable.py reads it.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and globals().get("__spec__") is None and not sys.flags.safe_path:
    del sys.path[0]  # the folder of this file: its modules would hide those that they are called like

import base64
import contextlib
import datetime as dt
import hashlib
import importlib.metadata
import json
import os
import re
import struct
from ast import literal_eval
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final
from uuid import UUID

import recoverable
from recoverable import (
    Arena,
    Array,
    CodecError,
    Counter,
    Deque,
    Dict,
    List,
    Record,
    RecoverableError,
    Set,
    register_codec,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["VERSION", "Coded", "NotPortableError", "dumps", "main", "whole_file", "write"]

#: Of the grammar. A file with more in it than a reader of this version knows has another one.
VERSION: Final = 1

_SLICE: Final = 1 << 18  # characters of a line, about
_INLINE: Final = 1 << 15  # of a container that stands in its parent's line
_DEEPEST: Final = 8  # containers in each other there
_BYTES: Final = _SLICE * 3 // 4  # of an Array in a line
_CODEC: Final = re.compile(r"""stored with the codec ('.*'|".*"), which is not registered""", re.DOTALL)

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class NotPortableError(RecoverableError):
    """Reports a value that this writer does not know, of a later release. No file was written."""


class _TooLargeError(Exception):
    """Something does not fit into its parent's line."""


class _Room:
    """How many characters may still be used."""

    __slots__ = ("left",)

    def __init__(self, left: float) -> None:
        self.left = left

    def take(self, n: int) -> None:
        self.left -= n
        if self.left < 0:
            raise _TooLargeError


def dumps(value: Any) -> bytes:
    """Return a line."""
    return _encode(value).encode() + b"\n"


# -- values --------------------------------------------------------------------------------------------------------------


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _text(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 does not have
        return {"str": _base64(value.encode("utf-8", "surrogatepass"))}
    return value


def _int(value: int) -> Any:
    return value if -(1 << 63) <= value < 1 << 63 else {"int": hex(value)}


def _float(value: float) -> Any:
    if value - value == 0:  # it is finite
        return value
    return {"float": struct.pack(">d", value).hex()}


def _moment(value: dt.datetime | dt.time) -> list[Any]:
    zone = getattr(value.tzinfo, "key", None)
    return [(value.replace(tzinfo=None) if zone else value).isoformat(), zone, value.fold]


_SCALARS: Final[dict[type, Callable[[Any], Any]]] = {
    type(None): lambda v: v,
    bool: lambda v: v,
    int: _int,
    float: _float,
    str: _text,
    bytes: lambda v: {"bytes": _base64(v)},
    dt.datetime: lambda v: {"datetime": _moment(v)},
    dt.date: lambda v: {"date": v.isoformat()},
    dt.time: lambda v: {"time": _moment(v)},
    dt.timedelta: lambda v: {"timedelta": [v.days, v.seconds, v.microseconds]},
    Decimal: lambda v: {"decimal": str(v)},
    UUID: lambda v: {"uuid": v.hex},
}
_LONG: Final = (str, bytes)
_CONTAINERS: Final = (Array, Counter, Deque, Dict, List, Record, Set)


class Coded:
    """A value of a codec that is not registered here: the bytes that an arena has of it. Each codec has a class of its own."""

    __slots__ = ("data",)
    name: str

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.data)


def _keep(error: CodecError) -> None:
    """See to it that values of a codec that is not registered can be read, as the bytes that they are."""
    found = _CODEC.search(str(error))
    if found is None:  # a time zone, say, that this machine does not know
        raise error
    name = literal_eval(found[1])
    kind = type("Coded", (Coded,), {"__slots__": (), "name": name})
    register_codec(kind, encode=lambda value: value.data, decode=kind, name=name)


def _by_its_codec(value: Any) -> tuple[str, bytes]:
    """Return what an arena has of a value whose codec this process has registered."""
    codec = getattr(recoverable.codecs, "_by_type", {}).get(type(value))
    if codec is None:
        raise NotPortableError(
            f"a value of type {type(value).__name__!r} can't be written as text by this release of portable.py; no file was "
            "made: use that of the release that wrote the arena, or a later one"
        )
    return codec.name, codec.encode(value)


def _dtype(kind: Any) -> Any:
    """Describe an Array's dtype: by text, or what numpy.dtype() takes of a structured one."""
    if isinstance(kind, str):  # without numpy
        return kind
    if kind.subdtype is not None:
        return {"of": _dtype(kind.subdtype[0]), "shape": list(kind.subdtype[1])}
    if kind.names is None:
        return kind.str
    fields = [kind.fields[name] for name in kind.names]
    out = {
        "names": list(kind.names),
        "formats": [_dtype(field[0]) for field in fields],
        "offsets": [field[1] for field in fields],
        "itemsize": kind.itemsize,
        "aligned": kind.isalignedstruct,
    }
    if any(len(field) > 2 for field in fields):
        out["titles"] = [field[2] if len(field) > 2 else None for field in fields]
    return out


def _memory(array: Any) -> memoryview:
    """Return an Array's bytes, as they lie in the arena."""
    view = array.view
    if not isinstance(view, memoryview):
        view = memoryview(view.reshape(-1).view("u1"))
    return view.cast("B") if view.format != "B" else view


# -- the writer ------------------------------------------------------------------------------------------------------------


class _Writer:
    def __init__(self, file: IO[bytes], progress: Callable[[int], None] | None) -> None:
        self._file = file
        self._progress = progress
        self._sum = hashlib.sha256()
        self._lines = 0
        self._schemas: dict[str, int] = {}
        self._numbers = 0  # given to containers
        self._waiting: list[tuple[int, Any]] = []  # containers that the current slice names
        self.written = 0

    def put(self, line: bytes) -> None:
        self._file.write(line)
        self._sum.update(line)
        self._lines += 1
        self.written += len(line)
        if self._progress is not None:
            self._progress(self.written)

    def end(self) -> None:
        self.put(dumps({"end": self._lines, "sha256": self._sum.hexdigest()}))

    def state(self, root: Any) -> None:
        """Write a container with all that is in it."""
        inside = [self._slices(0, root)]
        while inside:
            named = next(inside[-1], None)
            if named is None:
                inside.pop()
            else:
                inside.extend(self._slices(number, container) for number, container in reversed(named))

    def _slices(self, number: int, container: Any) -> Iterator[list[tuple[int, Any]]]:
        """Write a container, a slice at a time; yield the containers that the slice names."""
        if isinstance(container, Array):
            yield from self._array(number, container)
            return
        items: list[Any] = []
        size = count = 0
        for item in _items(container):
            found, took = self._item(item) if type(item) is not _Pair else self._pair(item)
            items.append(found)
            size += took
            if size >= _SLICE:
                yield self._slice(number, items)
                count, size, items = count + len(items), 0, []
        if items:
            yield self._slice(number, items)
        self.put(dumps({"whole": number, "count": count + len(items)}))

    def _slice(self, number: int, items: list[Any]) -> list[tuple[int, Any]]:
        self.put(dumps({"to": number, "items": items}))
        named, self._waiting = self._waiting, []
        return named

    def _array(self, number: int, array: Any) -> Iterator[list[tuple[int, Any]]]:
        nbytes = array.nbytes
        for at in range(0, nbytes, _BYTES):
            with _memory(array)[at : at + _BYTES] as part:
                data = bytes(part)
            self.put(dumps({"to": number, "bytes": _base64(data)} if any(data) else {"to": number, "zeros": len(data)}))
            yield []
        self.put(dumps({"whole": number, "count": nbytes}))

    # What an item of a slice is, and how many characters it takes, about.

    def _pair(self, pair: _Pair) -> tuple[Any, int]:
        key, n = self._item(pair[0])
        value, m = self._item(pair[1])
        return [key, value], n + m

    def _item(self, value: Any) -> tuple[Any, int]:
        room = _Room(_INLINE)
        with contextlib.suppress(_TooLargeError):
            found = self._value(value, room, 0)
            return found, int(_INLINE - room.left)
        if isinstance(value, _CONTAINERS):
            self._numbers += 1
            self._waiting.append((self._numbers, value))
            return self._named(value, self._numbers), 32
        text = _encode(self._value(value, _Room(float("inf")), 0))
        pieces = range(0, len(text), _SLICE)
        for at in pieces:
            self.put(dumps({"piece": text[at : at + _SLICE]}))
        return {"pieces": len(pieces)}, len(text)

    def _value(self, value: Any, room: _Room, depth: int) -> Any:
        """Return what stands for a value, whole."""
        kind = type(value)
        if kind in _LONG:  # not even begun if it is too long
            room.take(len(value))
        room.take(12)
        how = _SCALARS.get(kind)
        if how is not None:
            found = how(value)
            if type(found) is dict:
                room.take(sum(map(len, found.values())))
            return found
        if kind is tuple:
            return [self._value(item, room, depth) for item in value]
        if isinstance(value, _CONTAINERS):
            return self._inline(value, room, depth + 1)
        name, data = (value.name, value.data) if isinstance(value, Coded) else _by_its_codec(value)
        room.take(len(data))
        return {"codec": [name, _base64(data)]}

    def _inline(self, container: Any, room: _Room, depth: int) -> Any:
        if isinstance(container, Counter):
            return {"Counter": container.value}
        if isinstance(container, Array):
            room.take(container.nbytes * 4 // 3 + 64)
            data = b""
            if container.nbytes:
                with _memory(container) as memory:
                    data = bytes(memory)
            return self._named(container, _base64(data))
        if depth > _DEEPEST or (not isinstance(container, Record) and len(container) * 12 > room.left):
            raise _TooLargeError
        return self._named(
            container,
            [
                [self._value(part, room, depth) for part in item]
                if type(item) is _Pair
                else self._value(item, room, depth)
                for item in _items(container)
            ],
        )

    def _named(self, container: Any, content: Any) -> Any:
        """Return what stands for a container: its kind, what else it is made of, and its content, or its number."""
        if isinstance(container, Array):
            return {"Array": [_dtype(container.dtype), list(container.shape), content]}
        if isinstance(container, Deque):
            return {"Deque": [container.maxlen, content]}
        if isinstance(container, Record):
            return {"Record": [self._schema(container), content]}
        return {type(container).__name__: content}

    def _schema(self, record: Any) -> int:
        """Return the number of a Record's kind, which has a line of its own before it is used."""
        text = _schema_text(record)
        number = self._schemas.get(text)
        if number is None:
            number = self._schemas[text] = len(self._schemas)
            schema = json.loads(text)
            line = {"schema": number, "name": schema["name"], "fields": schema["fields"]}
            self.put(json.dumps(line).encode() + b"\n")  # in ASCII: a name may have half of a surrogate pair
        return number


class _Pair(tuple[Any, Any]):
    """A key of a Dict and its value; no tuple of the user's."""

    __slots__ = ()


def _schema_text(record: Any) -> str:
    return record._schema_text(record._stored_schema())  # type: ignore[no-any-return]


def _items(container: Any) -> Iterator[Any]:
    """Yield what is in a container, in order; of a Record, its fields as they are stored, whatever its class has."""
    if isinstance(container, Record):
        for i in range(len(json.loads(_schema_text(container))["fields"])):
            try:
                value = container._slot_value(i)
            except CodecError as error:
                _keep(error)
                value = container._slot_value(i)
            yield value
        return
    done = 0
    while True:
        try:
            items = map(_Pair, container.items()) if isinstance(container, Dict) else container
            for item in islice(items, done, None):
                yield item
                done += 1
            return
        except CodecError as error:  # the next one's: read it again
            _keep(error)


# -- files -----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Give a file to write, which has its name only when it is whole and on the disk. Its owner alone may read it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 -- a descriptor
            yield file
            file.flush()
            os.fsync(descriptor)
        unfinished.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        unfinished.unlink(missing_ok=True)


def _release() -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("recoverable")
    return None


def write(
    arena: Arena, name: str, path: Path, *, feed: int | None = None, progress: Callable[[int], None] | None = None
) -> int:
    """Write the committed state of an arena to a file, as of one moment. Others wait for the arena meanwhile.

    Args:
        arena: The arena, or a private copy of it, for which nobody waits.
        name: What the file calls it.
        path: The file, which is replaced.
        feed: Bytes of its feed; None: it has none, or this is not known.
        progress: Called with the bytes that are written so far.

    Returns:
        The bytes written.

    Raises:
        NotPortableError: There is a value in it that this writer does not know.
    """
    with whole_file(path) as file:
        writer = _Writer(file, progress)
        head = {"recoverable": "portable", "version": VERSION, "name": name, "release": _release()}
        head |= {"written": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "size": arena.size, "feed": feed}
        writer.put(dumps(head))
        with arena.transaction():
            writer.state(arena.root)
        writer.end()
    return writer.written


def main(arguments: list[str]) -> int:
    """Write the arena of a name to a file.

    Returns:
        The exit code.
    """
    if len(arguments) != 2:
        print("usage: python portable.py NAME FILE", file=sys.stderr)  # noqa: T201
        return 2
    name, path = arguments[0], Path(arguments[1])
    if path.exists():
        print(f"portable.py: {path} is there already and was not touched", file=sys.stderr)  # noqa: T201
        return 4
    try:
        with Arena.open(name, create=False) as arena:
            size = write(arena, name, path)
    except (RecoverableError, OSError) as error:
        print(f"portable.py: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"exported {name}: {size} bytes in {path}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
