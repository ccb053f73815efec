"""A portable export as lines: whether all of it is there, which line is being read, and what is wrong with one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn

from recoverable import portable
from recoverable.cli._file import DamagedFileError
from recoverable.errors import ArenaFullError, ArenaVersionError, CodecError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from recoverable.cli._render import Progress

__all__ = ["PortableFile", "is_portable"]

_LONGEST: Final = 1 << 24  # bytes of a line: the writer's are much shorter
_BAD: Final = (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RecursionError, struct.error)


def is_portable(path: Path) -> bool:
    """Return whether a file begins as a portable export does, and not as another."""
    with path.open("rb") as file:
        return file.read(1) == b"{"


class PortableFile:
    """A portable export, and which line of it is being read."""

    def __init__(self, path: Path, file: IO[bytes], progress: Progress) -> None:
        self._path = path
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._progress = progress
        self.line = 0

    def wrong(self, why: str) -> NoReturn:
        raise DamagedFileError(f"{self._path}, line {self.line}: {why}; nothing was imported")

    def unknown(self, what: str) -> NoReturn:
        raise ArenaVersionError(
            f"{self._path}, line {self.line}: {what}, which this release does not know; nothing was imported: import it with the "
            "release that wrote it, or a later one"
        )

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Say at which line something went wrong."""
        try:
            yield
        except ArenaFullError as error:
            raise ArenaFullError(
                f"{self._path}, line {self.line}: {error}. Nothing was imported; --size and --feed ask for more"
            ) from None
        except CodecError as error:
            raise CodecError(f"{self._path}, line {self.line}: {error}. Nothing was imported") from None
        except _BAD as error:
            self.wrong(f"it can't be read ({type(error).__name__}: {error})")

    def lines(self, doing: str) -> Iterator[bytes]:
        self._file.seek(0)
        self.line = done = 0
        while data := self._file.readline(_LONGEST + 1):
            self.line += 1
            if len(data) > _LONGEST:
                self.wrong("it is longer than any line of such a file")
            done += len(data)
            self._progress(done, self._size, doing)
            yield data

    def check(self) -> None:
        """Read all of it: that it is whole, and has not changed since it was written."""
        total, last = hashlib.sha256(), b""
        for data in self.lines("checked"):
            total.update(last)
            last = data
        with contextlib.suppress(ValueError):
            if last.endswith(b"\n") and json.loads(last) == {"end": self.line - 1, "sha256": total.hexdigest()}:
                return
        at = self.line
        self._find_damage()
        self.line = at
        if last.startswith(b'{"end":') and last.endswith(b"}\n"):
            self.wrong("the checksum there does not fit: the file has changed since it was written")
        self.wrong(
            "the file ends there, without the line that says that it is whole: copy it again from where it was made"
        )

    def _find_damage(self) -> None:
        """Name the first whole line that is not even JSON, if there is one."""
        for data in self.lines("checked"):
            try:
                json.loads(data)
            except (ValueError, RecursionError):
                if data.endswith(b"\n"):
                    self.wrong("it is damaged")

    def head(self) -> dict[str, Any]:
        """Return what the first line says."""
        data = next(self.lines("checked"), b"")
        head: Any = None
        with contextlib.suppress(ValueError):
            head = json.loads(data)
        if not isinstance(head, dict) or head.get("recoverable") != "portable":
            self.wrong("this is no file that `recoverable export` has written, or its first line is damaged")
        if head.get("version") not in range(1, portable.VERSION + 1):
            self.unknown(f"version {head.get('version')!r} of portable exports")
        return head
