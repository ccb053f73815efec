"""What a capsule keeps of an aiohttp request: its line, headers and body, as far as they are known.

A body is read once, by whoever reads it, perhaps never, perhaps in pieces. So its stream gets a buffer that remembers what came,
up to a limit; what a middleware has read before a run began is what `read()` has kept.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from aiohttp import streams, web

from recoverable._aiohttp_parts import parts_of
from recoverable._kept import leads_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["keep_body", "kept_of", "routed_to"]


class _Remembering(deque[bytes]):
    """A stream's buffer that remembers what came."""

    def __init__(self, chunks: Iterable[bytes], limit: int) -> None:
        super().__init__(chunks)
        self.chunks = list(self)
        self.room = limit - sum(map(len, self.chunks))

    def append(self, data: bytes) -> None:
        super().append(data)
        if self.room > 0:
            self.chunks.append(data)
            self.room -= len(data)


def keep_body(request: web.BaseRequest, limit: int) -> Any:
    """Have a request's body remembered from now on, as far as nobody has read it yet; what `kept_of` takes."""
    body: Any = request._payload
    if type(body) is not streams.StreamReader:
        return None
    buffer = body._buffer
    if type(buffer) is _Remembering:
        return buffer
    if type(buffer) is not deque or body._cursor or body._buffer_offset:
        return None
    body._buffer = _Remembering(buffer, limit)
    return body._buffer


def kept_of(before: Any, kept: Any, limit: int, is_plain: Callable[[object], bool]) -> dict[str, Any]:
    """Return the facts of a request, with nothing hidden; `body` is bytes, or None: it is not known.

    Args:
        before: What it was like before its runs.
        kept: What `keep_body` has returned.
        limit: Bytes of the body.
        is_plain: Whether something that middlewares have put on the request is to be kept.
    """
    request = before.request
    match = getattr(request, "_match_info", None)
    state, keyed, left_out = {}, {}, []
    for key, value in (before.state or {}).items():
        name = key if isinstance(key, str) else getattr(key, "_name", str(key))
        if not is_plain(value):
            left_out.append(name)
        elif isinstance(key, str):
            state[key] = value
        else:
            keyed[name] = value
    payload: Any = request._payload
    size = getattr(payload, "total_bytes", 0)
    body: bytes | None = None
    if request._read_bytes is not None:
        body = request._read_bytes
    elif isinstance(kept, _Remembering):
        body = b"".join(kept.chunks)
    elif not request.body_exists or not size:
        body = b""
    ended = bool(payload.is_eof()) if body is not None else False
    declared = request.content_length
    everything = body is not None and ended and len(body) == (size or len(body))
    read = request._read_bytes is not None or getattr(payload, "_cursor", True)
    return {
        "method": request.method,
        "url": request.path_qs,
        "host": request.host,
        "version": f"{request.version.major}.{request.version.minor}",
        "headers": [
            (name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape"))
            for name, value in request.raw_headers
        ],
        "route": getattr(getattr(getattr(match, "route", None), "resource", None), "canonical", None),
        "match": dict(before.match if before.match is not None else (match or {})),
        "state": state,
        "keyed": keyed,
        "state_left_out": left_out,
        "body": body,
        "size": declared if declared is not None else size if ended else None,
        "all": everything,
        "whole": everything and body is not None and len(body) <= limit,
        "seen": bool(size and read),
        "charset": _or_none(lambda: request.charset),
        "cookies": _or_none(lambda: list(request.cookies.values())) or [],
        "parts_of": parts_of,
        "interface": "aiohttp",
        "libraries": ("aiohttp",),
    }


def _or_none(read: Callable[[], Any]) -> Any:
    """Return what a request says of itself, or None: what its client has sent can't be read."""
    try:
        return read()
    except Exception:  # of many kinds; its program has not read it, either
        return None


def routed_to(request: web.BaseRequest, fn: Any) -> Any:
    """Return the function that a request's route leads to, if that is `fn`, not something that calls it; or None."""
    return fn if leads_to(getattr(getattr(request, "_match_info", None), "handler", None), fn) else None
