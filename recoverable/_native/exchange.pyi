"""What `exchange.pyx` gives: a request in ASGI, as far as each one comes by."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from recoverable._native.runtime import RequestBefore, Requests, Transaction

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

KEY: Final[str]
ANSWER: Final[frozenset[str]]

def watch_exchanges(watched: bool) -> None: ...
def hand_on_watched(hand_on: Callable[[Any, App], Awaitable[None]]) -> None: ...

class Exchanged:
    app: App
    scope: Scope
    raised_at: Any
    raised_as: int | None
    raised: BaseException | None
    read: int
    passed: int
    sent: int
    limit: int
    over: bool
    withholds: bool
    crashed: bool
    _receive: Receive
    _send: Send
    _messages: list[Message] | None
    _first: int
    _size: int
    _whole: Transaction | None
    _start: Message | None
    _held: list[Message] | None
    _held_size: int
    def __init__(self, app: App, scope: Scope, receive: Receive, send: Send, limit: int) -> None: ...
    @property
    def outermost(self) -> Any: ...
    @property
    def holds(self) -> bool: ...
    @property
    def from_client(self) -> Receive: ...
    @property
    def to_client(self) -> Send: ...
    def pass_received(self) -> Awaitable[Message]: ...
    def pass_sent(self, message: Message) -> Awaitable[None]: ...
    def keep(self, message: Message) -> None: ...
    def send(self, message: Message) -> Awaitable[None]: ...
    def end(self, scope: Scope) -> None: ...

class Kept(RequestBefore):
    @property
    def scope(self) -> dict[str, Any]: ...
    @property
    def written(self) -> list[tuple[dict[Any, Any], dict[Any, Any], dict[str, Any] | None]]: ...
    @property
    def others(self) -> list[Callable[[], str | None]] | None: ...
    @property
    def read(self) -> int: ...
    @property
    def passed(self) -> int: ...
    @property
    def sent(self) -> int: ...

def whole_copy(session: Any) -> dict[Any, Any]: ...

remembering: list[Callable[[Any], Callable[[], Callable[[], object] | str | None] | None]]

class ExchangeRequests(Requests): ...

class Serve:
    def __init__(
        self,
        app: App,
        kind: type[Exchanged],
        arena: Any,
        requests: Requests,
        limit: int,
        withholds: bool,
        later: bool,
        failed: Callable[[Any, BaseException, bool], Awaitable[bool]],
        otherwise: App,
        begin: Callable[[], object],
    ) -> None: ...
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]: ...

class Innermost:
    def __init__(self, app: App, kind: type[Exchanged], arena: Any) -> None: ...
    @property
    def app(self) -> App: ...
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]: ...
