"""The parts of a multipart body, as aiohttp reads them.

A reader of one's own would find other names and other ends than the server does, and what it misses is kept. So aiohttp's is used,
on bytes that are all there: nothing waits. What it refuses, and what it would read by more than one reader, is not searched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp.multipart import MultipartReader

from recoverable._kept import Part

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["parts_of"]

_PARTS: Final = 2000


def parts_of(body: bytes, content_type: str) -> list[Part]:
    """Return the parts of a body.

    Raises:
        ValueError: aiohttp can't read it, or one part is compressed or has parts itself.
    """
    try:
        return _parts(body, content_type)
    except Exception as error:  # of many kinds, as anybody may write the body
        raise ValueError("the body can't be read") from error


def _parts(body: bytes, content_type: str) -> list[Part]:
    content: Any = _Content(body)
    reader = MultipartReader({"Content-Type": content_type}, content)
    found: list[Part] = []
    while (part := _done(reader.next())) is not None:
        if isinstance(part, MultipartReader) or part.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ValueError("it has parts, or is compressed")
        if len(found) == _PARTS:
            raise ValueError("there are too many")
        raw = bytes(_done(part.read()))
        try:
            name = part.name
        except Warning:  # where the program has them raised: it is malformed
            name = None
        kind = part.headers.get("Content-Type", "")
        found.append(Part(name, kind, part.get_charset("utf-8"), raw, bytes(part.decode(raw))))
    return found


def _done(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that does not wait."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise ValueError("it waits")


class _Content:
    """Stands for the stream that aiohttp reads a body from."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    async def read(self, size: int = -1) -> bytes:
        end = len(self._body) if size < 0 else self._at + size
        data = self._body[self._at : end]
        self._at += len(data)
        return data

    async def readline(self, **options: Any) -> bytes:
        end = self._body.find(b"\n", self._at)
        return await self.read(-1 if end < 0 else end + 1 - self._at)

    def unread_data(self, data: bytes) -> None:
        self._body, self._at = data + self._body[self._at :], 0

    def at_eof(self) -> bool:
        return self._at >= len(self._body)
