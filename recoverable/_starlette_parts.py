"""The parts of a multipart body, as Starlette reads them: by python-multipart, which it needs for forms.

Another reader would find other names and other ends, and what it misses is kept. Where that library is missing, no program that
uses Starlette has read such a body, and none is searched.
"""

from __future__ import annotations

import codecs
from typing import Any, Final

from recoverable._kept import Part

try:
    from python_multipart.multipart import MultipartParser, parse_options_header
except ModuleNotFoundError:
    MultipartParser = None  # type: ignore[assignment, misc]

__all__ = ["parts_of"]

_PARTS: Final = 2000


def parts_of(body: bytes, content_type: str) -> list[Part]:
    """Return the parts of a body.

    Raises:
        ValueError: It can't be read.
    """
    if MultipartParser is None:
        raise ValueError("python-multipart is not installed")
    try:
        return _Parts(body, content_type).found
    except Exception as error:  # of many kinds, as anybody may write the body
        raise ValueError("the body can't be read") from error


class _Parts:
    """Reads a body; each method but the first is called by the parser."""

    def __init__(self, body: bytes, content_type: str) -> None:
        self.found: list[Part] = []
        _, options = parse_options_header(content_type)
        charset = options.get(b"charset", b"utf-8").decode("latin-1")
        try:
            self._charset = codecs.lookup(charset).name
        except LookupError:
            self._charset = "latin-1"
        self._ended = False
        names = "part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "end"
        calls: Any = {f"on_{name}": getattr(self, name) for name in names}
        parser = MultipartParser(options[b"boundary"], calls)
        parser.write(body)
        parser.finalize()
        if not self._ended:
            raise ValueError("it has no end")

    def part_begin(self) -> None:
        if len(self.found) == _PARTS:
            raise ValueError("there are too many")
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._data = bytearray()

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def part_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name")
        raw = bytes(self._data)
        kind = self._headers.get(b"content-type", b"").decode("latin-1")
        self.found.append(Part(None if name is None else self._decoded(name), kind, self._charset, raw, raw))

    def end(self) -> None:
        self._ended = True

    def _decoded(self, name: bytes) -> str:
        try:
            return name.decode(self._charset)
        except UnicodeDecodeError:
            return name.decode("latin-1")
