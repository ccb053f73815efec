"""ASGI's adapter, and an HTTP request as one sees it there: what was received of it, and what was sent.

ASGI has no object for a request: there is a scope, which is a dict, a function that gives the parts of the body, and one that takes
those of the answer. An `Exchange` stands between both sides. It keeps what it has given of the body, up to a limit, so that
another run can be given it again; it knows whether anything of an answer has left, and holds the answer of an application that is
one transaction until that has been committed.

What a framework makes of scope and functions, a Request say, has its own memory of what was read. A `Kind` of it can be put into
`kinds`: it finds these objects among the arguments of a call, and makes them as they were.
"""

from __future__ import annotations

from types import BuiltinMethodType, MethodType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

from recoverable import outcome, runner
from recoverable._asgi_kept import Received, keep_body, kept_of, routed_to
from recoverable._native.exchange import ANSWER, KEY, Exchanged, ExchangeRequests, Kept, whole_copy
from recoverable._native.runtime import Requests, current_transaction, running_request
from recoverable.callbacks import name_of
from recoverable.web import WebAdapter, commits, register, status_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterator, MutableMapping

    from recoverable._kept import PartsOf
    from recoverable.arena import Arena

    Message = MutableMapping[str, Any]
    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = [
    "CLOSED",
    "STREAMED",
    "Answer",
    "Back",
    "Exchange",
    "Host",
    "Kind",
    "Refused",
    "adapter",
    "hosts",
    "kinds",
    "note_answer",
    "note_raised",
]

_NO_RERUN: Final = "It can't be run again, because "
_SENT: Final = _NO_RERUN + "its response was being sent already."
_USED: Final = _NO_RERUN + "it has received or sent messages of its WebSocket; make a message the unit."
STREAMED: Final = _NO_RERUN + "its body was streamed; read it with body(), json() or form(), or raise body_limit."
CLOSED: Final = (
    _NO_RERUN + "the file of an upload was closed; leave that to the framework, which does it after the handler."
)
_IN_USE: Final = _NO_RERUN + "it has read the body of a request that it was not given; give it the request."


class Answer(NamedTuple):
    """How an application that is one transaction has answered; `status`: as the commit rule is to see it."""

    status: int


class Refused(Exception):
    """An answer of ours to a failure of ours: 503 or 507."""

    def __init__(self, status: int, text: str, headers: dict[str, str]) -> None:
        super().__init__(status, text, headers)
        self.status, self.text, self.headers = status, text, headers

    def messages(self) -> Iterator[Message]:
        """Give it as ASGI's messages."""
        body = self.text.encode()
        headers = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body)), **self.headers}
        yield {
            "type": "http.response.start",
            "status": self.status,
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
        yield {"type": "http.response.body", "body": body}


def _put_back(kept: Kept, scope: Scope) -> None:
    """Make a scope as it was, in place."""
    scope.clear()
    scope.update(kept.scope)
    for mapping, items, attributes in kept.written:
        dict.clear(mapping)
        dict.update(mapping, whole_copy(items) if mapping is kept.scope.get("session") else items)
        if attributes is not None:
            vars(mapping).clear()
            vars(mapping).update(attributes)


class Exchange(Exchanged):
    """One HTTP request, or WebSocket, at one place in the chain of ASGI applications. What each needs of it is native.

    Args:
        app: The application below.
        scope: Its scope.
        receive: Gives what the client sends.
        send: Takes what it is sent.
        limit: How many bytes of its body are kept to be read again.

    Attributes:
        outermost: The one that the request met first: all those of one request have the same.
        read: How many messages it has given, or given again.
        passed: How many have been received by middlewares before it moved in, for others or for it.
        sent: How many of an answer have left; of a WebSocket: how many messages there were in either direction.
        over: Whether its application has ended.
        raised: What was raised in it, and made an answer of, by the framework.
    """

    __slots__ = ()

    @property
    def transport(self) -> Any:
        """What a fault aborts, as of a request of aiohttp's; None: there is no client any more, or none that it could cut off."""
        outermost = self.outermost
        return None if outermost.over else getattr(getattr(outermost.from_client, "__self__", None), "transport", None)

    # -- what is received ----------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """Give the next message from the client, or one that another run was given."""
        if self._messages and (i := self.read - self._first) < len(self._messages):
            self.read += 1
            return dict(self._messages[i])  # whoever gets it may change it
        message = await self._receive()
        self.keep(message)
        return message

    @property
    def size(self) -> int:
        """How many bytes of the body it was given."""
        return self._size

    def received(self, begin: int) -> bytes | None:
        """Return what has been received of the body, from its byte `begin` on, or None: it is not kept."""
        return None if self._first else b"".join(each.get("body", b"") for each in self._messages or ())[begin:]

    def can_rewind(self, read: int) -> bool:
        """Return whether all is kept that it has given since it had given so many messages."""
        return read >= self._first or read == self.read

    def rewind(self, read: int) -> bool:
        """Be about to give again what followed so many messages; return False if that is gone."""
        if not self.can_rewind(read):
            return False
        self.read = read
        return True

    # -- what is sent --------------------------------------------------------------------------------------------------

    async def hold(self, message: Message) -> None:
        """Take a message of an answer that may not leave yet, or of nothing that is held."""
        kind = message["type"]
        if kind == "http.response.start":
            self._start, self._held, self._held_size = message, [], 0
            if self._whole is None and message["status"] < 500:
                await self.flush()
        elif kind not in ANSWER or self._held is None:  # a hint; or what the server refuses
            await self._send(message)
        else:
            self._held.append(message)
            if self._whole is None:
                if message.get("more_body"):
                    await self.flush()
            elif self.commits():
                # Before the first part of it leaves; its handling goes on outside, its background tasks say.
                if not self._whole.left:  # else another task, which has sent a part as well, waits for the commit
                    self.name_whole()
                    await runner.leave(self._whole, outcome.DEFAULT)
                    self._whole, self.withholds = None, False
                    await self._leave()  # flush(), of which each such request would pay the coroutine
            else:
                self._held_size += len(message.get("body", b""))
                if self._held_size > self.limit:  # it is to be rolled back, and can't be run again from here on
                    await self._leave()

    def begin_whole(self) -> None:
        """All of its handling is the transaction that runs here: hold the answer until that is committed."""
        self._whole = current_transaction()

    def commits(self) -> bool:
        """Return whether what was answered commits: by what was raised for that, where the framework says so, or by its status.

        Who has not answered, because the client has hung up perhaps, has failed: servers make a 500 of it.
        """
        status = None if self._start is None else self._start["status"]
        if status is not None and (
            status >= 500 or self.raised_as not in (None, status)
        ):  # a middleware has made another of it
            return bool(status < 500)
        if self.raised is not None:
            return commits(None, self.raised)
        return status is not None

    def answer(self) -> Answer | None:
        """Return how it was answered, for the commit rule; None: it has committed already."""
        return None if self._whole is None else Answer(200 if self.commits() else 500)

    def crash(self) -> BaseException | None:
        """Return what a framework has made a 500 of, and has not raised: a crash, where crashes are kept."""
        whole, start = self._whole, self._start
        if whole is None or start is None or start["status"] < 500 or whole.arena.capsules is None:
            return None
        if self.raised is None or status_of(self.raised) is not None:
            return None
        return self.raised.with_traceback(self.raised_at)

    def name_whole(self) -> None:
        """Call the transaction of all of it by its endpoint, which its framework has put into the scope when it had found it."""
        if self._whole is not None and (endpoint := self.scope.get("endpoint")) is not None:
            self._whole.rename(name_of(endpoint))

    async def _leave(self) -> None:
        """Send what was held."""
        start, held = self._start, self._held
        self._start, self._held = None, None
        for message in [] if start is None else [start, *(held or ())]:
            self.sent += 1
            await self._send(message)

    async def flush(self) -> None:
        """Send what was held, and hold no more: it has ended, or been committed."""
        self._whole, self.withholds = None, False
        await self._leave()

    def is_refuted(self) -> bool:
        """Return whether it was going to be answered with what is not so, since it was rolled back before that left."""
        return self._whole is not None and self._start is not None and bool(self._start["status"] < 500)

    def drop_answer(self) -> bool:
        """Drop an answer that is held; return False if some of it has left."""
        self._start, self._held, self.raised, self.crashed = None, None, None, False
        return self.sent == 0 and self.scope["type"] == "http"

    async def refuse(self, refused: Refused) -> None:
        """Answer with 503 or 507."""
        self._whole, self.withholds = None, False
        for message in refused.messages():
            self.sent += 1
            await self.to_client(message)


# -- as it was before a run -------------------------------------------------------------------------------------------


#: What makes something as it was; a sentence that says why that can't be done; None: there is nothing to be done.
Back: TypeAlias = "Callable[[], object] | str | None"


class Kind(Protocol):
    """What a framework makes of a scope: its class of requests."""

    @property
    def libraries(self) -> tuple[str, ...]:
        """The names of its distributions."""

    @property
    def parts_of(self) -> PartsOf | None:
        """What gives the parts of a multipart body as it reads them; None: nothing here does."""

    def has(self, scope: Scope) -> bool:
        """Return whether a request has come to an application of it."""

    def routed_to(self, scope: Scope) -> Any:
        """Return the function that its route has led to, or what calls only that, or None."""

    def among(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        """Give those among a call's arguments, and in what these are made of."""

    def back(self, request: Any, exchange: Exchange, kept: int) -> Back:
        """Return what makes one as it was when its exchange had given so many messages, or why it can't be done; change nothing."""

    def route(self, scope: Scope) -> str | None:
        """Return the path of the route by which a request came, or None."""

    def endpoint(self, app: App, scope: Scope) -> Any:
        """Return what a request that has not been routed yet will be routed to in an application, or None."""


#: Those of the frameworks in use.
kinds: list[Kind] = []


class Host(Protocol):
    """How `recoverable.asgi.setup` gets around the applications of a framework that has no `add_middleware()`."""

    def has(self, app: Any) -> bool:
        """Return whether it is such an application."""

    def around(self, app: Any) -> Any:
        """Return what requests of an application come to first."""

    def put_around(self, app: Any, served: Any, lifespan: Any) -> None:
        """Have requests come to that first; `lifespan`: what is to begin and to end with the application."""


#: Those of the frameworks in use.
hosts: list[Host] = []


def note_raised(error: BaseException, scope: Scope) -> None:
    """A response is going to be made of what was raised. For frameworks, whose answers don't say so.

    Args:
        error: It.
        scope: Of the request: one handler may call another application, whose failures are not its own.
    """
    here = running_request.get()
    exchange: Any = None if here is None else here.request
    if not isinstance(exchange, Exchange) or scope.get(KEY) is not exchange.outermost:
        return
    each: Any
    for each in (exchange, exchange.outermost):
        each.raised, each.raised_at, each.raised_as = error, error.__traceback__, None  # which Starlette takes off


def note_answer(response: Any, scope: Scope) -> None:
    """What was noted is answered by that. For frameworks whose handlers of exceptions return responses."""
    here = running_request.get()
    exchange: Any = None if here is None else here.request
    if isinstance(exchange, Exchange) and scope.get(KEY) is exchange.outermost and exchange.raised is not None:
        each: Any
        for each in (exchange, exchange.outermost):
            each.raised_as = status_of(response)


def _is_of(value: object, exchange: Exchange) -> bool:
    """Return whether it is an exchange's receive() or send()."""
    return (
        isinstance(value, (MethodType, BuiltinMethodType))
        and value.__self__ is exchange
        and value.__name__ in ("receive", "send")
    )


def _ways_back(kept: Kept, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | list[Callable[[], object]]:
    """Return what makes the request as it was before a run with these arguments, or why it can't be done; change nothing."""
    exchange: Exchange = kept.request
    if exchange.over:
        return []
    if exchange.sent != kept.sent:
        return _USED if exchange.scope["type"] == "websocket" else _SENT
    whole = any(each is exchange for each in args)
    given = [(kind, each) for kind in kinds for each in kind.among(args, kwargs)]
    given = [(kind, each) for kind, each in given if each.scope.get(KEY) is exchange.outermost]
    raw = whole or any(_is_of(each, exchange) for each in args)
    if not given and not raw:
        # who was not given it may be one of several that its handler has running
        return _IN_USE if (exchange.read, exchange.passed) != (kept.read, kept.passed) else []
    if raw and not exchange.can_rewind(kept.read):
        return STREAMED
    backs = [kind.back(each, exchange, kept.read) for kind, each in given] + [back() for back in kept.others or ()]
    if (why := next((each for each in backs if isinstance(each, str)), None)) is not None:
        return why
    ways: list[Callable[[], object]] = [each for each in backs if callable(each)]
    if raw:
        ways.append(lambda: exchange.rewind(kept.read))
    if whole:
        ways.append(exchange.drop_answer)
    return [*ways, lambda: _put_back(kept, exchange.scope)]


def restore(before: Kept, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Make the request as it was before a run with these arguments, or return a sentence that says why it can't be done."""
    ways = _ways_back(before, args, kwargs)
    if isinstance(ways, str):
        return ways
    exchange: Exchange = before.request
    if isinstance(exchange._receive, Received):
        exchange._receive.scope = dict(exchange.scope)  # a capsule may be made of it yet
    for way in ways:
        way()
    return None


def can_restore(before: Kept) -> bool:
    """Return whether it could be made as it was before its run, without a doubt; change nothing."""
    return not isinstance(_ways_back(before, before.args, before.kwargs or {}), str)


# -- the adapter --------------------------------------------------------------------------------------------------------

_ROUTE: Final = 39  # characters that a working set keeps of its route: both the method and the end of the path


class _Adapter(WebAdapter):
    responses = (Answer,)
    errors = (Refused,)
    loggers = ("uvicorn.error", "hypercorn.error")
    requests: Requests = ExchangeRequests()

    def status_of(self, answer: Answer | Refused) -> int:
        return answer.status

    def arena(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arena | None:
        return None  # the context variable says it

    def route(self, request: Exchange) -> str | None:
        paths = (kind.route(request.scope) for kind in kinds)
        path = next((path for path in paths if path is not None), None)
        if path is None:
            return None
        method = request.scope.get("method", "WS")
        if len(method) + len(path) >= _ROUTE:
            path = ".." + path[len(method) + 3 - _ROUTE :]
        return f"{method} {path}"

    def arguments(self, request: Exchange) -> Hashable:
        values = tuple(request.scope.get("path_params", {}).values())
        try:
            hash(values)
        except TypeError:  # of a converter of the program's own
            return tuple(map(repr, values))
        return values

    def request_id(self, request: Exchange) -> str | None:
        for name, value in request.scope.get("headers", ()):
            if name == b"x-request-id":
                given: str = value.decode("latin-1")
                return given if 0 < len(given) <= 128 and given.isprintable() else None
        return None

    restore = staticmethod(restore)
    can_restore = staticmethod(can_restore)

    def keep_body(self, request: Exchange, limit: int) -> Received | None:
        return keep_body(request, limit)

    def kept_of(
        self, before: Kept, kept: Received | None, limit: int, is_plain: Callable[[object], bool]
    ) -> dict[str, Any]:
        return kept_of(before.request, kept, limit, is_plain, kinds)

    def routed_to(self, request: Exchange, fn: Any) -> Any:
        return routed_to(request, fn, kinds)

    def answered(self, before: Kept) -> bool:
        exchange: Exchange = before.request
        return not exchange.over and exchange.sent != before.sent

    def same(self, one: object, other: object) -> bool:
        return isinstance(one, Exchange) and isinstance(other, Exchange) and one.outermost is other.outermost

    def function(self, request: Exchange) -> Any:
        return request.scope.get("app", request.app)

    def will_run(self, request: Exchange) -> Any:
        found = (kind.endpoint(request.app, request.scope) for kind in kinds)
        return next((each for each in found if each is not None), None) or self.function(request)

    def drop_answer(self, request: Exchange) -> bool:
        return request.drop_answer()

    def hang_up(self, request: Exchange) -> None:
        """Do nothing: what is raised goes on to the server, which closes the connection of one that was answered by half."""

    def refusal(self, status: int, text: str, headers: dict[str, str]) -> Refused:
        return Refused(status, text, headers)


adapter: Final = _Adapter()
register(adapter)
