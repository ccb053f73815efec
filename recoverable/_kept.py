"""What the adapters of web frameworks have in common for requests that crashed (`recoverable.capsules`)."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

__all__ = ["Part", "PartsOf", "body_of", "headers_of", "leads_to"]

#: What is said of the connection, or of the body as it came; and the body's length, which is another one where it was cut.
_ANEW: Final = {"content-length", "transfer-encoding", "content-encoding", "expect", "connection"}


class Part(NamedTuple):
    """A part of a multipart body, as the framework reads it.

    Attributes:
        name: Its name; None: it can't be told.
        kind: Its Content-Type as it stands; "": it has none.
        charset: Which its text is decoded by.
        raw: Its content as it stands.
        plain: The same, decoded as Content-Transfer-Encoding says.
    """

    name: str | None
    kind: str
    charset: str
    raw: bytes
    plain: bytes


#: Gives the parts of a body of that Content-Type, or raises a ValueError: it can't be read.
PartsOf: TypeAlias = Callable[[bytes, str], list[Part]]


def leads_to(handler: Any, fn: Any) -> bool:
    """Return whether the handler of a route is a function, or calls nothing but that."""
    for _ in range(20):
        if handler is None:
            return False
        if handler is fn or getattr(handler, "fn", None) is fn:
            return True
        if isinstance(handler, type):  # a class-based view: its methods are
            return any(getattr(value, "fn", value) is fn for kind in handler.__mro__ for value in vars(kind).values())
        if isinstance(handler, functools.partial):
            handler = handler.func
        else:
            handler = getattr(handler, "__func__", None) or getattr(handler, "__wrapped__", None)
    return False


# -- a request that is made again -----------------------------------------------------------------------------------------


def body_of(kept: dict[str, Any]) -> bytes:
    """Return the body of a request that a capsule has, as far as it has it."""
    told = kept["body"]
    return base64.b64decode(told["base64"]) if told["base64"] is not None else (told["text"] or "").encode()


def headers_of(kept: dict[str, Any], given: dict[str, str], body: bytes, *keeps: str) -> list[tuple[str, str]]:
    """Return its headers, as they are to be sent.

    Args:
        kept: What the capsule has of it.
        given: Headers to be added, or to replace what was hidden.
        body: Its body.
        keeps: Which of those that the connection has may be given.
    """
    left_out = _ANEW | {name.lower() for name in given} - set(keeps)
    headers = [(name, value) for name, value in kept["headers"] if name.lower() not in left_out]
    headers += given.items()
    if body or kept["method"] not in ("GET", "HEAD"):
        headers.append(("Content-Length", str(len(body))))
    return headers
