"""What a capsule keeps of an ASGI request: its line, headers and body, as far as they are known.

The parts of a body come by once, when somebody asks for them. What is asked for from a run on goes through a `Received`, which
remembers it up to a limit; what came before has its Exchange, as long as it keeps it for another run.
"""

from __future__ import annotations

import urllib.parse
from collections import ChainMap
from typing import TYPE_CHECKING, Any

from recoverable._kept import leads_to

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from recoverable._asgi import Exchange, Kind, Message, Receive, Scope

__all__ = ["Received", "keep_body", "kept_of", "routed_to"]

_FORM = b"application/x-www-form-urlencoded"


class Received:
    """What gives an Exchange the messages that its client sends, and remembers what they have of a body.

    Attributes:
        chunks: Of the body, up to the limit.
        size: Of all of it that has come.
        ended: Whether that is all.
        count: How many messages there were.
        scope: As a run has left it that was followed by another one.
    """

    __slots__ = ("_receive", "_room", "chunks", "count", "ended", "scope", "size")

    def __init__(self, receive: Receive, before: Sequence[Message], limit: int) -> None:
        self._receive, self._room = receive, limit
        self.chunks: list[bytes] = []
        self.size = self.count = 0
        self.ended = False
        self.scope: Scope = {}
        for message in before:
            self._note(message)

    def _note(self, message: Message) -> None:
        data = message.get("body", b"")
        if self._room > 0 and data:
            self.chunks.append(data)
            self._room -= len(data)
        self.size += len(data)
        self.count += 1
        self.ended = self.ended or not message.get("more_body")

    async def __call__(self) -> Message:
        """Give the next message."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._note(message)
        return message


def keep_body(exchange: Exchange, limit: int) -> Received | None:
    """Have a request's body remembered from now on, as far as what has come of it is known; what `kept_of` takes."""
    receive = exchange._receive
    if isinstance(receive, Received):
        return receive
    if exchange.scope["type"] != "http" or exchange._first:
        return None
    received = Received(receive, exchange._messages or (), limit)
    if not exchange.over:
        exchange._receive = received
    return received


def kept_of(
    exchange: Exchange, received: Received | None, limit: int, is_plain: Callable[[object], bool], kinds: list[Kind]
) -> dict[str, Any]:
    """Return the facts of a request, with nothing hidden; `body` is bytes, or None: it is not known.

    Args:
        exchange: Its Exchange.
        received: What `keep_body` has returned.
        limit: Bytes of the body.
        is_plain: Whether something is to be kept as it is.
        kinds: Those of the frameworks in use.
    """
    scope: Any = exchange.scope if received is None else ChainMap(exchange.scope, received.scope)
    kind = next((each for each in kinds if each.has(scope)), None)
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope.get("headers", ())]
    named = {name.lower(): value for name, value in headers}
    path = scope.get("raw_path") or urllib.parse.quote(scope.get("path", "/")).encode()
    query = scope.get("query_string", b"")
    declared = int(named["content-length"]) if named.get("content-length", "").isdecimal() else None
    none = scope["type"] != "http" or not (declared or "transfer-encoding" in named)
    body: bytes | None = b""
    ended, size = none, exchange.size
    if received is not None:
        ended, size = none or received.ended, received.size
        # Where a middleware has received more than it has given on, nobody knows what that was.
        body = None if not received.count and exchange.passed and not none else b"".join(received.chunks)
    elif not none:
        body, ended = None, False
    everything = body is not None and ended and len(body) == size
    return {
        "method": scope.get("method", "GET"),
        "url": (path.partition(b"?")[0] + (b"?" + query if query else b"")).decode("latin-1"),
        "host": named.get("host", ""),
        "version": scope.get("http_version", "1.1"),
        "headers": headers,
        "route": next((route for each in kinds if (route := each.route(scope)) is not None), None),
        "match": {
            str(name): value if is_plain(value) else str(value)
            for name, value in (scope.get("path_params") or {}).items()
        },
        "state": {},  # a replay runs what puts something on the request
        "keyed": {},
        "state_left_out": [],
        "body": body,
        "size": declared if declared is not None else size if ended else None,
        "all": everything,
        "whole": everything and body is not None and len(body) <= limit,
        "seen": bool(size or exchange.passed),
        # What is not escaped, some read in this way.
        "charset": "latin-1" if named.get("content-type", "").lower().encode("latin-1").startswith(_FORM) else None,
        "cookies": [],
        "parts_of": None if kind is None else kind.parts_of,
        "interface": "asgi",
        "libraries": () if kind is None else kind.libraries,
        "more": {
            "kind": scope["type"],
            "scheme": scope.get("scheme", "http"),
            "root_path": scope.get("app_root_path", scope.get("root_path", "")),
        },
    }


def routed_to(exchange: Exchange, fn: Any, kinds: list[Kind]) -> Any:
    """Return the function that a request's route leads to, if a run of `fn` is one of that; or None."""
    fn = getattr(fn, "whole_of", fn)  # of a route of FastAPI's
    endpoints = (each.routed_to(exchange.scope) for each in kinds)
    return fn if any(leads_to(each, fn) for each in endpoints if each is not None) else None
