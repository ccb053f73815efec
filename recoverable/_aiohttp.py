"""aiohttp's adapter, and the inside of its requests: which one the running code belongs to, and how it was before a run.

aiohttp has no public words for most of this: how far a body was read, what `read()` and `post()` keep of it, what of an
answer has left. Their names are the same in all of aiohttp 3; tests/web/test_rerun_request.py is run with the oldest and
the newest version. Where something is not as expected, the request counts as one that can't be run again.

A run can be repeated unless *it* consumed what can't be read again or sent what can't be taken back: what is compared is
how things were when the run began (`AiohttpBefore`). The body goes back into its stream, so that `read()`,
`can_read_body` and `clone()` do what they did the first time. The head of a `web.Response` waits in its writer for the
body (since aiohttp 3.12): it is dropped by giving the request a new writer.

A task that a handler starts belongs to its request as well, but the handler may be using the request meanwhile. Only a
run that has the request among its arguments, or runs in the request's own task, puts anything back.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, Final

from aiohttp import abc, streams, web

from recoverable import middleware, runner
from recoverable._aiohttp_kept import keep_body, kept_of, routed_to
from recoverable._given import given
from recoverable._native.runtime import (
    AiohttpBefore,
    AiohttpRequests,
    current_transaction,
    running_request,
)
from recoverable.errors import ConflictError, TransactionError
from recoverable.web import WebAdapter, register

if TYPE_CHECKING:
    from recoverable.arena import Arena

__all__ = ["HEADS_WAIT", "adapter"]

_NO_RERUN: Final = "It can't be run again, because "
_SENT: Final = _NO_RERUN + "its response was being sent already; the connection is closed."
_STREAMED: Final = _NO_RERUN + "its body was streamed; read it with read(), json() or post()."
_PARSED: Final = _NO_RERUN + "its form was parsed, and only post() of that same request has the fields."
_CLOSED: Final = _NO_RERUN + "the file of an upload was closed; leave that to aiohttp, which does it after the handler."
_IN_USE: Final = _NO_RERUN + "it is in a task of its own and its handler may be using the request; give it the request."

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLONES: Final = "_recoverable_clones"
HEADS_WAIT: Final = hasattr(abc.AbstractStreamWriter, "send_headers")
#: What is not looked into; of all else aiohttp's abstract classes are asked, which takes long.
_HANDLE: Final = getattr(web.RequestHandler._handle_request, "__code__", None)


# -- which request ----------------------------------------------------------------------------------------------------


def of_task() -> web.BaseRequest | None:
    """Return the request that the running task handles, or None: aiohttp has a task for each, and a local variable in it."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop
        return None
    coroutine: Any = None if task is None else task.get_coro()
    if _HANDLE is None or getattr(coroutine, "cr_code", None) is not _HANDLE or coroutine.cr_frame is None:
        return None
    request = coroutine.cr_frame.f_locals.get("request")
    return request if isinstance(request, web.BaseRequest) else None


def same(one: object, other: object) -> bool:
    """Return whether they are one request, or clones of one: those share what the answer is written to."""
    if not isinstance(one, web.BaseRequest) or not isinstance(other, web.BaseRequest):
        return False
    return one._payload_writer is other._payload_writer


def _search(args: tuple[Any, ...], kwargs: dict[str, Any]) -> web.BaseRequest | None:
    """Find the request of a call where nothing has said which it is: in the program's own middlewares, say."""
    return next(given(web.BaseRequest, args, kwargs), None) or of_task()


def _givens(request: web.BaseRequest) -> list[web.BaseRequest]:
    """Return the request and those that it was cloned from, as far as they can be known: the next run has them as well."""
    here = running_request.get()
    known: tuple[Any, ...] = (request, of_task(), None if here is None else here.request)
    return [each for each in known if same(each, request)]


def _relatives(request: web.BaseRequest) -> list[web.BaseRequest]:
    """Return these and all that were cloned from them."""
    todo = _givens(request)
    found: list[web.BaseRequest] = []
    while todo:
        each = todo.pop()
        if not any(each is other for other in found):
            found.append(each)
            todo += vars(each).get(_CLONES, ())
    return found


# -- as it was before a run -------------------------------------------------------------------------------------------


def restore(before: AiohttpBefore, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Make the request as it was before a run with these arguments, or return a sentence that says why it can't be done."""
    request = before.request
    own = same(of_task(), request) or any(each is request for each in given(web.BaseRequest, args, kwargs))
    if own:
        _put(request._state, before.state)
        if (match := getattr(request, "_match_info", None)) is not None:
            _put(match, before.match)
    if _is_over(request):
        return None

    prepared = _is_prepared(before)
    if _has_sent(before) or (prepared and before.head is not None):
        return _SENT
    relatives = _relatives(request)
    consumed = _consumed(before)
    body = _kept(request, relatives, consumed)
    if consumed and body is None:
        return _PARSED if any(map(_has_form, relatives)) else _STREAMED
    files = _files(relatives)
    if any(file.closed for file in files):
        return _CLOSED
    if not own:
        return _IN_USE if prepared or any(file.tell() for file in files) else None

    if prepared and not drop_answer(request):
        return _SENT
    if body is not None:
        _unread(request._payload, body)
        for each in relatives:
            if body:
                each._read_bytes = each._post = None
    for file in files:
        file.seek(0)
    return None


def can_restore(before: AiohttpBefore) -> bool:
    """Return whether it could be made as it was before a run, without a doubt; change nothing."""
    request = before.request
    if _is_over(request):
        return True
    if _is_prepared(before) or _has_sent(before):
        return False
    relatives, consumed = _relatives(request), _consumed(before)
    if consumed and _kept(request, relatives, consumed) is None:
        return False
    return not any(file.closed or file.tell() for file in _files(relatives))


def _is_prepared(before: AiohttpBefore) -> bool:
    """Return whether the head of another answer waits to be sent than then."""
    return getattr(before.request._payload_writer, "_headers_buf", None) is not before.head


def _has_sent(before: AiohttpBefore) -> bool:
    return getattr(before.request._payload_writer, "output_size", None) != before.sent


def _files(requests: list[web.BaseRequest]) -> list[Any]:
    """Return the files that their forms brought along."""
    fields = (field for each in requests for field in (each._post or {}).values())
    return [field.file for field in fields if isinstance(field, web.FileField)]


def _put(mapping: Any, items: dict[Any, Any] | None) -> None:
    mapping.clear()
    if items:
        mapping.update(items)


def _is_over(request: web.BaseRequest) -> bool:
    """Return whether its handler has ended, so that nothing which goes on can spoil it."""
    current = getattr(request._protocol, "_current_request", request)
    return current is None or (isinstance(current, web.BaseRequest) and not same(current, request))


def _consumed(before: AiohttpBefore) -> int:
    """Return how many bytes of its body were consumed since."""
    now = getattr(before.request._payload, "_cursor", 0)
    return now - before.read if isinstance(now, int) and isinstance(before.read, int) else 0


def _kept(request: web.BaseRequest, relatives: list[web.BaseRequest], consumed: int) -> bytes | None:
    """Return what goes back into the stream: nothing for a form whose fields are kept; None where the body is gone."""
    if not consumed:
        return None
    for each in relatives:
        if each._read_bytes is not None and len(each._read_bytes) == consumed:
            return each._read_bytes
    if any(map(_has_form, _givens(request))):  # a clone that the run made is out of reach for the next one
        return b""
    return None


def _has_form(request: web.BaseRequest) -> bool:
    """Return whether it keeps the fields of a form whose bytes nobody has kept."""
    return request._post is not None and request.content_type == "multipart/form-data"


def _unread(body: Any, data: bytes) -> None:
    """Put data back into a stream that is at its end. With none, `can_read_body` is true again all the same, but reading fails."""
    if data or not body._buffer:
        body._buffer.appendleft(data)
    if not data:
        body.set_exception(ConflictError(f"Nothing was committed. {_PARSED}", reason=_PARSED))
    body._size += len(data)
    body._cursor -= len(data)
    body._eof_counter = 0


def is_sent(before: AiohttpBefore) -> bool:
    """Return whether bytes of an answer have left since."""
    request = before.request
    return not _is_over(request) and getattr(request._payload_writer, "output_size", None) != before.sent


def drop_answer(request: web.BaseRequest) -> bool:
    """Drop an answer that was prepared; return False if some of it has left, or may have."""
    writer: Any = request._payload_writer
    sent = getattr(writer, "output_size", None)
    if sent == len(_CONTINUE) and "Expect" in request.headers:  # aiohttp 3.10 counts this
        sent = 0
    if sent:
        return False
    if getattr(writer, "_headers_buf", None) is None:
        return True
    try:
        fresh = type(writer)(writer._protocol, writer.loop)
    except (AttributeError, TypeError):  # somebody's own writer
        return False
    for each in _relatives(request):
        each._payload_writer = fresh
    return True


# -- two moments that aiohttp has no hook for ---------------------------------------------------------------------------


def _remember_clones() -> None:
    """Have a request know its clones: a body that one of them has read is gone for all others."""
    clone = web.BaseRequest.clone

    @functools.wraps(clone)
    def remembering(self: web.BaseRequest, **changes: Any) -> web.BaseRequest:
        made = clone(self, **changes)
        vars(self).setdefault(_CLONES, []).append(made)
        return made

    web.BaseRequest.clone = remembering  # type: ignore[method-assign]


def _commit_at_handshake() -> None:
    """Have `WebSocketResponse.prepare()` commit when all of it is done but the sending, and go on outside."""
    write_headers = web.WebSocketResponse._write_headers

    @functools.wraps(write_headers)
    async def committing(self: web.WebSocketResponse) -> None:
        if current_transaction() is not None:
            await runner.commit_early()
        elif (
            (here := running_request.get()) is not None
            and here.whole
            and same(here.request, self._req)
            and of_task() is None
        ):
            raise TransactionError(
                "WebSocketResponse.prepare() in a task of its own, which is outside of the request's transaction and can't "
                "commit it. Nothing was sent or committed. Await it in the handler itself; asyncio.timeout() limits its time."
            )
        await write_headers(self)

    web.WebSocketResponse._write_headers = committing  # type: ignore[assignment, method-assign]


# -- failures of ours that are aiohttp's ----------------------------------------------------------------------------------


class _Refusal(web.HTTPException):
    """The response to a failure of ours, which is that failure as well: what the program's middlewares see.

    aiohttp sends whatever HTTPException leaves its handlers, also where half of another response has been sent; this one does
    not let it, whenever that was begun.
    """

    def __init__(self, failure: BaseException, text: str, headers: dict[str, str]) -> None:
        self._failure = failure
        web.HTTPException.__init__(self, text=text, headers=headers)
        vars(self).update({name: value for name, value in vars(failure).items() if name != "reason"})
        self.args = failure.args

    async def prepare(self, request: web.BaseRequest) -> Any:
        if not drop_answer(request):
            adapter.hang_up(request)
            raise ConnectionError("a part of another response has been sent; the connection is closed")
        return await super().prepare(request)

    def __repr__(self) -> str:
        return repr(self._failure)

    def __str__(self) -> str:
        return str(self._failure)

    @property
    def reason(self) -> str:
        """A ConflictError's, if it has one; else the response's."""
        return getattr(self._failure, "reason", None) or super().reason

    def __reduce__(self) -> Any:  # in another process it is the failure
        return self._failure.__reduce__()


@functools.cache
def _refusals(kind: type[BaseException], status: int) -> type[_Refusal]:
    """Return the class of responses of that status that are failures of that kind, and are called like it."""
    http = web.HTTPInsufficientStorage if status == 507 else web.HTTPServiceUnavailable
    return type(kind.__name__, (_Refusal, kind, http), {"__module__": kind.__module__, "__doc__": kind.__doc__})


# -- the adapter --------------------------------------------------------------------------------------------------------

_ROUTE: Final = 39  # characters that a working set keeps of its route: both the method and the end of the path


class _Adapter(WebAdapter):
    responses = (web.StreamResponse,)
    errors = (web.HTTPException,)
    plain = (web.Response,), "_status"
    loggers = ("aiohttp.server",)
    requests = AiohttpRequests(
        web.BaseRequest,
        web.View,
        streams.EmptyStreamReader,
        _search,
        heads_wait=HEADS_WAIT,
        routed=web.Request,
    )
    arena_key: web.AppKey[Arena] | None = None  # where an application has its arena: recoverable.aiohttp's

    def status_of(self, answer: web.StreamResponse | web.HTTPException) -> int:
        return answer.status

    def arena(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arena | None:
        request = self.requests.find(args, kwargs)
        if self.arena_key is None or not isinstance(request, web.Request):
            return None
        return request.config_dict.get(self.arena_key)

    def route(self, request: web.BaseRequest) -> str | None:
        resource = request.match_info.route.resource if isinstance(request, web.Request) else None
        if resource is None:  # there is no such page, say
            return None
        method, path = request.method, resource.canonical
        if len(method) + len(path) >= _ROUTE:
            path = ".." + path[len(method) + 3 - _ROUTE :]
        return f"{method} {path}"

    def outermost(self, request: web.Request) -> web.Application | None:
        apps: tuple[web.Application, ...] = getattr(request.match_info, "apps", ())
        return apps[0] if apps else None

    def arguments(self, request: web.BaseRequest) -> tuple[str, ...]:
        return tuple(request.match_info.values()) if isinstance(request, web.Request) else ()

    def request_id(self, request: web.BaseRequest) -> str | None:
        given = request.headers.get("X-Request-ID", "")
        return given if 0 < len(given) <= 128 and given.isprintable() else None

    restore = staticmethod(restore)
    can_restore = staticmethod(can_restore)
    answered = staticmethod(is_sent)
    keep_body = staticmethod(keep_body)
    kept_of = staticmethod(kept_of)
    routed_to = staticmethod(routed_to)
    same = staticmethod(same)
    drop_answer = staticmethod(drop_answer)

    def function(self, request: web.Request) -> Any:
        return request.match_info.handler

    def hang_up(self, request: web.BaseRequest) -> None:
        if request.transport is not None:
            request.transport.close()

    def refusal(self, status: int, text: str, headers: dict[str, str]) -> web.HTTPException:
        kind = web.HTTPInsufficientStorage if status == 507 else web.HTTPServiceUnavailable
        return kind(text=text, headers=headers)

    def refuse(self, error: BaseException, status: int, text: str, headers: dict[str, str]) -> BaseException:
        return _refusals(type(error), status)(error, text, headers)  # type: ignore[arg-type]  # classes are hashable

    def outside(self, error: BaseException) -> BaseException:
        here, request = running_request.get(), of_task()
        if request is None or (here is not None and here.request is not None) or self.arena((request,), {}) is None:
            return error
        return self.refuse(error, *middleware.refusal(error))


adapter: Final = _Adapter()
_remember_clones()
_commit_at_handshake()
register(adapter)
