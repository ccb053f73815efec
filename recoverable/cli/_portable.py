"""The reader of portable exports: makes a new arena of what `recoverable/portable.py` has written, maybe under another release.

The file is read twice: once for its checksum, which says that all of it is there and nothing has changed, and once to fill the
arena, a line a transaction. So neither memory nor the undo log has to hold more than a line and one value.

The arena lies beside its name while it is filled, as NAME~in, which no arena can be called. Killed meanwhile, that is left, and
the next import of the name begins there.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import os
import struct
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from recoverable import _shm, codecs, portable
from recoverable._native import feed as native_feed
from recoverable._native.record import Layout, RecordHandle
from recoverable._options import parse_size
from recoverable.arena import open_new
from recoverable.cli._codes import Refused
from recoverable.cli._portable_file import PortableFile
from recoverable.containers import Array, Counter, Deque, Dict, List, Set
from recoverable.containers.dtype import numpy
from recoverable.containers.record import Schema
from recoverable.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from recoverable.arena import Arena
    from recoverable.cli._render import Progress

__all__ = ["export_file", "import_file", "there_is"]


# -- values --------------------------------------------------------------------------------------------------------------


def _moment(kind: type[dt.datetime] | type[dt.time], text: str, zone: str | None, fold: int) -> Any:
    value = kind.fromisoformat(text).replace(fold=fold)
    if zone is None:
        return value
    try:
        return value.replace(tzinfo=ZoneInfo(zone))
    except ZoneInfoNotFoundError:
        raise CodecError(
            f"a moment with the time zone {zone!r}, which this machine does not know: install it, or the package tzdata"
        ) from None


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_SCALARS: Final[dict[str, Callable[[Any], Any]]] = {
    "int": lambda text: int(text, 16),
    "float": lambda text: struct.unpack(">d", bytes.fromhex(text))[0],
    "str": lambda text: _decoded(text).decode("utf-8", "surrogatepass"),
    "bytes": _decoded,
    "datetime": lambda parts: _moment(dt.datetime, *parts),
    "date": dt.date.fromisoformat,
    "time": lambda parts: _moment(dt.time, *parts),
    "timedelta": lambda parts: dt.timedelta(*parts),
    "decimal": Decimal,
    "uuid": UUID,
}


class _Fields(RecordHandle):
    """A Record by the schema that the file has, whose class is not needed; each schema has a class of its own."""

    __slots__ = ()

    @staticmethod
    def _allowed(_: str) -> tuple[type, ...]:
        return (object,)


def _dtype(text: Any) -> Any:
    """Make a dtype of what describes it."""
    if isinstance(text, str):
        return text
    np = numpy()
    if np is None:
        raise CodecError("an Array of a structured type needs numpy: install recoverable[numpy]")
    if "of" in text:
        return np.dtype((_dtype(text["of"]), tuple(text["shape"])))
    columns = {key: text[key] for key in ("names", "offsets", "itemsize", "titles") if key in text}
    return np.dtype(columns | {"formats": [_dtype(each) for each in text["formats"]]}, align=text["aligned"])


# -- containers ------------------------------------------------------------------------------------------------------------


class _Reader:
    """Fills an arena, line by line."""

    def __init__(self, arena: Arena, file: PortableFile) -> None:
        self._arena = arena
        self._file = file
        self._open: dict[int, Any] = {0: arena.root}  # containers whose slices are not all there
        self._counts: dict[int, int] = {0: 0}
        self._pieces: deque[str] = deque()
        self._schemas: list[type[_Fields]] = []
        self._kept: dict[str, type[portable.Coded]] = {}
        self._late: list[tuple[Any, list[Any]]] = []  # made empty, filled once they are stored
        self._kinds: dict[str, Callable[[Any], Any]] = {
            **_SCALARS,
            "pieces": self._joined,
            "codec": lambda parts: self._of_codec(*parts),
            "Dict": self._dict,
            "List": lambda content: self._named(List, content) if isinstance(content, int) else self._all(content),
            "Set": self._set,
            "Deque": lambda parts: self._deque(*parts),
            "Counter": Counter,
            "Record": lambda parts: self._record(*parts),
            "Array": lambda parts: self._array(*parts),
        }

    def read(self) -> None:
        """Read all lines behind the first."""
        lines = self._file.lines("imported")
        next(lines)
        for data in lines:
            with self._file.told():
                self._line(json.loads(data))
        if self._open or self._pieces:
            self._file.wrong("something before it is missing")

    def _line(self, line: dict[str, Any]) -> None:
        if "to" in line:
            with self._arena.transaction():
                self._fill(line)
        elif "piece" in line:
            self._pieces.append(line["piece"])
        elif "whole" in line:
            del self._open[line["whole"]]
            if self._counts.pop(line["whole"]) != line["count"]:
                self._file.wrong(f"container {line['whole']} is not whole")
        elif "schema" in line:
            self._schema(**line)
        elif "end" not in line:
            self._file.unknown(f"a line of {', '.join(map(repr, line))}")

    def _fill(self, line: dict[str, Any]) -> None:
        number = line["to"]
        container, at = self._open[number], self._counts[number]
        if "items" in line:
            self._counts[number] = at + len(line["items"])
            self._put(container, at, line["items"])
        elif "bytes" in line:
            data = _decoded(line["bytes"])
            container._put_part(at, data)
            self._counts[number] = at + len(data)
        else:
            self._counts[number] = at + line["zeros"]  # which it is made of
        while self._late:
            late, pairs = self._late.pop()
            self._store(late, 0, pairs)
        if self._pieces:
            self._file.wrong("a value before it is not used")

    def _put(self, container: Any, at: int, items: list[Any]) -> None:
        if isinstance(container, Dict):
            self._store(container, at, [(self._value(key), self._value(value)) for key, value in items])
        else:
            self._store(container, at, self._all(items))

    def _store(self, container: Any, at: int, items: list[Any]) -> None:
        if isinstance(container, Dict):
            for key, value in items:
                container[key] = value
        elif isinstance(container, Set):
            container.update(items)
        elif isinstance(container, RecordHandle):
            fields = type(container)._layout.fields  # type: ignore[attr-defined]
            for field, value in zip(fields[at : at + len(items)], items, strict=True):
                field.__set__(container, value)
        else:
            container.extend(items)

    # What stands for a value, and the value

    def _value(self, found: Any) -> Any:
        if isinstance(found, dict):
            ((kind, content),) = found.items()
            make = self._kinds.get(kind)
            if make is None:
                self._file.unknown(f"a value of kind {kind!r}")
            return make(content)
        return tuple(map(self._value, found)) if isinstance(found, list) else found

    def _all(self, found: list[Any]) -> list[Any]:
        return [self._value(each) for each in found]

    def _joined(self, n: int) -> Any:
        return self._value(json.loads("".join([self._pieces.popleft() for _ in range(n)])))

    def _of_codec(self, name: str, text: str) -> Any:
        kind = self._kept.get(name)
        if kind is None:
            kind = self._kept[name] = type("Coded", (portable.Coded,), {"__slots__": (), "name": name})
            codecs._by_type[kind] = codecs._Codec(kind, lambda value: value.data, kind, name)
        return kind(_decoded(text))

    def forget(self) -> None:
        """Leave this process's codecs as they were."""
        for kind in self._kept.values():
            del codecs._by_type[kind]

    def _named(self, make: Callable[[], Any], number: int) -> Any:
        """Make a container whose slices follow."""
        if number in self._open:
            self._file.wrong(f"container {number} is there twice")
        container = self._open[number] = make()
        self._counts[number] = 0
        return container

    def _dict(self, content: Any) -> Any:
        if isinstance(content, int):
            return self._named(Dict, content)
        pairs = [(self._value(key), self._value(value)) for key, value in content]
        found = dict(pairs)
        return found if len(found) == len(pairs) else self._later(Dict(), pairs)

    def _set(self, content: Any) -> Any:
        if isinstance(content, int):
            return self._named(Set, content)
        items = self._all(content)
        return Set(items) if len(set(items)) == len(items) else self._later(Set(), items)

    def _later(self, container: Any, items: list[Any]) -> Any:
        """Have a container filled in the arena: Python takes some of its keys for one, as moments in different zones."""
        self._late.append((container, items))
        return container

    def _deque(self, bound: int | None, content: Any) -> Any:
        if isinstance(content, int):
            return self._named(partial(Deque, (), bound), content)
        return Deque(self._all(content), bound)

    def _schema(self, schema: int, name: str, fields: list[tuple[str, str]]) -> None:
        if schema != len(self._schemas):
            self._file.wrong("a kind of Record is missing before it")
        kind = type("_Fields", (_Fields,), {"__slots__": ()})
        text = Schema(name, tuple(field for field, _ in fields), tuple(each for _, each in fields))
        kind._layout = Layout(kind, text, {})  # type: ignore[attr-defined]
        self._schemas.append(kind)

    def _record(self, schema: int, content: Any) -> Any:
        kind = self._schemas[schema]
        record = kind.__new__(kind)
        n = len(kind._layout.fields)  # type: ignore[attr-defined]
        if isinstance(content, int):
            record._pending = [None] * n
            return self._named(lambda: record, content)
        record._pending = self._all(content)
        if len(record._pending) != n:
            self._file.wrong("a Record with fewer or more fields than its kind has")
        return record

    def _array(self, dtype: Any, shape: list[int], content: Any) -> Any:
        array = Array(tuple(shape), _dtype(dtype))
        if isinstance(content, int):
            return self._named(lambda: array, content)
        data = _decoded(content)
        if len(data) != array.nbytes:
            self._file.wrong("an Array with fewer or more bytes than its items have")
        return array._of_parts((array.shape, array._dtype), {0: data})


# -- the arena --------------------------------------------------------------------------------------------------------------


def export_file(arena: Arena, name: str, path: Path, progress: Progress) -> int:
    """Write a private copy of an arena as a portable export; return how many bytes that took."""
    state = native_feed.state(arena.native)
    return portable.write(
        arena,
        name,
        path,
        feed=None if state is None else state[2],
        progress=lambda done: progress(done, 0, "written"),
    )


def import_file(path: Path, name: str, *, size: str | None, feed: str | None, progress: Progress) -> None:
    """Make an arena of a portable export.

    Args:
        path: The file.
        name: Of the arena, checked.
        size: The ceiling of its data; None: as it was.
        feed: Bytes of its feed; None: as it was.
        progress: Is told how far it is.

    Raises:
        Refused: There is an arena of that name.
        DamagedFileError: It is no portable export, not whole, or damaged. All of these leave nothing behind.
        ArenaVersionError: It was written by a later release.
        ArenaFullError: `size`, `feed` or /dev/shm is too small.
        CodecError: It needs a time zone, or numpy, which are not installed.
    """
    with path.open("rb") as opened:
        file = PortableFile(path, opened, progress)
        head = file.head()
        with contextlib.suppress(FileNotFoundError):
            if os.stat(_shm.path_of(name)).st_size:  # noqa: PTH116 -- before the work; publishing looks again
                raise there_is(name)
        file.check()
        asked = parse_size(head.get("size") if size is None else size)
        ring = head.get("feed") if feed is None else feed
        with _beside(name) as (beside, fd):
            with open_new(beside, fd, asked, 0 if ring is None else parse_size(ring, "feed")) as arena:
                reader = _Reader(arena, file)
                try:
                    reader.read()
                finally:
                    reader.forget()
                arena.verify()
            _publish(beside, name)


@contextlib.contextmanager
def _beside(name: str) -> Iterator[tuple[str, int]]:
    """Give the name and descriptor of an empty object where an arena can be made before it has its name."""
    beside = f"{name}~in"
    with _shm.locked(beside, create=True, timeout=0.0) as fd:
        os.ftruncate(fd, 0)  # of an import that was killed
        try:
            yield beside, fd
        except BaseException:
            _shm.unlink(beside)
            raise


def _publish(beside: str, name: str) -> None:
    with _shm.locked(name, create=True, timeout=5.0) as fd:
        if os.fstat(fd).st_size:
            raise there_is(name)
        os.rename(_shm.path_of(beside), _shm.path_of(name))  # noqa: PTH104


def there_is(name: str) -> Refused:
    """Return the error of a name that is in use."""
    return Refused(
        f"there is an arena {name!r} already, and it was not touched; recoverable rm {name}, or another name"
    )
