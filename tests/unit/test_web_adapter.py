"""A web framework is one adapter: with a small one of its own, all that the library does for requests is there."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

import recoverable
from recoverable import Arena, attempt, middleware, web
from recoverable._native.runtime import Requests
from support.forks import in_child

if TYPE_CHECKING:
    from collections.abc import Callable


class Request:
    def __init__(self, path: str) -> None:
        self.path = path
        self.seen: list[str] = []
        self.sent = False


class Answer:
    def __init__(self, code: int, text: str = "") -> None:
        self.code = code
        self.text = text


class Abort(Exception):
    def __init__(self, code: int, text: str = "") -> None:
        self.code = code
        self.text = text


class Small(web.WebAdapter):
    responses = (Answer,)
    errors = (Abort,)
    loggers = ("small.server",)

    def __init__(self) -> None:
        self.requests = Requests(lambda request: list(request.seen))

    def status_of(self, answer: Answer | Abort) -> int | None:
        return answer.code

    def arena(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arena | None:
        return None

    def route(self, request: Request) -> str | None:
        return f"GET {request.path}"

    def request_id(self, request: Request) -> str | None:
        return "id-of-small"

    def restore(self, before: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        before.request.seen[:] = before.kept
        return "It can't be run again, because it has answered." if before.request.sent else None

    def answered(self, before: Any) -> bool:
        return bool(before.request.sent)

    def same(self, one: object, other: object) -> bool:
        return one is other

    def function(self, request: Request) -> Any:
        return handlers[request.path]

    def drop_answer(self, request: Request) -> bool:
        return not request.sent

    def hang_up(self, request: Request) -> None:
        request.seen.append("hung up")

    def refusal(self, status: int, text: str, headers: dict[str, str]) -> BaseException:
        return Abort(status, text)


handlers: dict[str, Any] = {}


def served(arena: Arena, handler: Any, protect: str = "decorated") -> tuple[Any, Request]:
    """Serve one request by that handler, in a process that uses the framework; what came of it, and the request."""
    adapter = Small()
    web.register(adapter)
    request = Request("/page")
    handlers["/page"] = handler
    try:
        answer = asyncio.run(middleware.of(adapter, arena, protect)(request, handler))  # type: ignore[arg-type]
    except Abort as refused:
        answer = refused
    return answer, request


def child(function: Callable[[], Any]) -> Any:
    """Call it in a process of its own: frameworks stay registered."""
    ended = in_child(function)
    assert ended.returned, ended
    return ended.value


async def lose(arena: Arena) -> None:
    """Have another transaction change what the running one reads here."""
    seen = arena.root.get("contended", 0)

    async def other() -> None:
        with arena.transaction():
            arena.root["contended"] = seen + 1

    await asyncio.get_running_loop().create_task(other())


@pytest.mark.parametrize(("code", "kept"), [(200, True), (404, True), (500, False), (503, False)])
@pytest.mark.parametrize("protect", ["decorated", "all"])
def test_the_status_of_a_response_decides(arena: Arena, protect: str, code: int, kept: bool) -> None:
    """A response of 500 or above rolls back, by the attribute that the framework has its status in."""

    async def handler(request: Request) -> Answer:
        arena.root["a"] = 1
        return Answer(code)

    def check() -> Any:
        run = recoverable.recoverable(handler) if protect == "decorated" else handler
        return served(arena, run, protect)[0].code

    assert child(check) == code
    assert ("a" in arena.root) is kept


@pytest.mark.parametrize(("code", "kept"), [(302, True), (404, False), (500, False)])
def test_the_status_of_an_exception_decides(arena: Arena, code: int, kept: bool) -> None:
    """A redirect commits; what is raised goes on."""

    @recoverable.recoverable
    async def handler(request: Request) -> Answer:
        arena.root["a"] = 1
        raise Abort(code)

    assert child(lambda: served(arena, handler)[0].code) == code
    assert ("a" in arena.root) is kept


def test_a_request_is_made_as_it_was_and_run_again(arena: Arena) -> None:
    """The run after a conflict finds the request as the first did."""

    async def handler(request: Request) -> Answer:
        request.seen.append("body")
        arena.root["n"] = len(request.seen)
        if attempt() == 1:
            await lose(arena)
        return Answer(200, str(attempt()))

    def check() -> Any:
        answer, request = served(arena, handler, "all")
        return answer.text, request.seen

    assert child(check) == ("2", ["body"])
    assert arena.root["n"] == 1


def test_failures_of_ours_become_responses(arena: Arena) -> None:
    """A conflict that is not solved is a 503, a full arena a 507, as the framework's own exceptions."""

    @recoverable.recoverable(max_conflicts=0)
    async def loses(request: Request) -> Answer:
        arena.root["n"] = 1
        await lose(arena)
        return Answer(200)

    @recoverable.recoverable
    async def fills(request: Request) -> Answer:
        arena.root["n"] = b"x" * 2**26
        return Answer(200)

    def check() -> Any:
        return [(answer.code, answer.text) for answer in (served(arena, loses)[0], served(arena, fills)[0])]

    assert child(check) == [
        (503, "503: too busy; nothing was changed, try again\n"),
        (507, "507: no room for this change; nothing was changed\n"),
    ]


def test_half_an_answer_is_not_run_again(arena: Arena) -> None:
    """What has begun to leave can't be taken back: the connection is closed."""

    @recoverable.recoverable
    async def handler(request: Request) -> Answer:
        arena.root["n"] = attempt()
        request.sent = True
        await lose(arena)
        return Answer(200)

    def check() -> Any:
        adapter = Small()
        web.register(adapter)
        request = Request("/page")
        handlers["/page"] = handler
        with pytest.raises(recoverable.ConflictError, match="it has answered"):
            asyncio.run(middleware.of(adapter, arena, "decorated")(request, handler))  # type: ignore[arg-type]
        return request.seen

    assert child(check) == ["hung up"]
    assert "n" not in arena.root


def test_a_traceback_is_written_once(arena: Arena, log: list[dict[str, Any]]) -> None:
    """The framework's own record of a crash points to our event, by the request's id."""

    @recoverable.recoverable
    async def handler(request: Request) -> Answer:
        arena.root["a"] = 1
        raise KeyError("crash")

    def check() -> Any:
        records: list[logging.LogRecord] = []
        logger = logging.getLogger("small.server")
        keep = logging.Handler()
        keep.emit = records.append  # type: ignore[method-assign]
        logger.addHandler(keep)
        logger.propagate = False
        try:
            served(arena, handler)
        except KeyError:
            logger.exception("failed")
        (record,) = records
        return record.getMessage(), record.exc_info, [event["request_id"] for event in log if "request_id" in event]

    message, traceback, ids = child(check)
    assert message == "failed: KeyError; see request.rolled_back, request_id=id-of-small"
    assert traceback is None
    assert ids == ["id-of-small"]


def test_one_that_is_registered_twice_is_in_use_once(arena: Arena) -> None:
    """A handler without a request, for which all frameworks are asked, runs as before."""

    @recoverable.recoverable
    async def handler() -> int:
        arena.root["a"] = 1
        return len(web.adapters)

    def check() -> Any:
        before, adapter = len(web.adapters), Small()
        web.register(adapter)
        web.register(adapter)
        return asyncio.run(handler()) - before

    assert child(check) == 1
    assert arena.root["a"] == 1
