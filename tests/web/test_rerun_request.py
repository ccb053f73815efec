"""A request that is run again is as it was before: its mapping, its match info, its body; and one answer leaves, well-formed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from recoverable import Arena, ConflictError, attempt, recoverable
from support.web import application, key, lose, ok, raw, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Shared = tuple[Arena, Arena]
SESSION, STORAGE, COUNT, USER = key("session"), key("storage"), key("count"), key("user")

#: Whether aiohttp keeps a response's head until the body comes.
HEADS_WAIT = hasattr(aiohttp.abc.AbstractStreamWriter, "send_headers")


# -- what a run put on the request --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protect", ["decorated", "all"])
async def test_a_cached_session_is_loaded_again(shared: Shared, protect: Any) -> None:
    """A session library that caches on the request counts once a request, however often the handler is run."""
    arena, for_app = shared
    saved = {"visits": 0}

    @web.middleware
    async def sessions(request: web.Request, handler: Any) -> web.StreamResponse:
        request[STORAGE] = saved
        response = await handler(request)
        if SESSION in request:
            saved.update(request[SESSION])
        return response  # type: ignore[no-any-return]

    def get_session(request: web.Request) -> dict[str, int]:
        if SESSION not in request:
            request[SESSION] = dict(request[STORAGE])
        return request[SESSION]  # type: ignore[no-any-return]

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        get_session(request)["visits"] += 1
        if attempt() < 3:
            await lose(arena)
        arena.root["n"] = 1
        return ok(get_session(request)["visits"])

    async with serving(application(for_app, {"/": handler}, (sessions,), protect=protect)) as client:
        assert [await (await client.get("/")).text() for _ in range(3)] == ["1", "2", "3"]


@pytest.mark.parametrize("retried", [False, True], ids=["conflict", "retry"])
async def test_the_mapping_and_the_match_info_are_as_before(shared: Shared, retried: bool) -> None:
    """What the run before stored, replaced or deleted is undone; what an outer middleware stored is there."""
    arena, for_app = shared
    seen: list[Any] = []

    @web.middleware
    async def outer(request: web.Request, handler: Any) -> web.StreamResponse:
        request[USER], request[COUNT] = "me", 1
        request.match_info["tenant"] = "t"
        return await handler(request)  # type: ignore[no-any-return]

    @recoverable(retries=1 if retried else 0)
    async def handler(request: web.Request) -> web.Response:
        seen.append((dict(request.items()), dict(request.match_info)))
        request[COUNT] += 1
        request[SESSION] = object()
        del request[USER]
        request.match_info["name"] = request.match_info.pop("name").upper()
        if attempt() == 1:
            if retried:
                raise RuntimeError
            await lose(arena)
        arena.root["n"] = 1
        return ok(f"{request[COUNT]} {request.match_info['name']}")

    async with serving(application(for_app, {"/{name}": handler}, (outer,))) as client:
        assert await (await client.get("/x")).text() == "2 X"
    assert seen == [({USER: "me", COUNT: 1}, {"name": "x", "tenant": "t"})] * 2


# -- the body -----------------------------------------------------------------------------------------------------------


async def test_a_request_that_is_cloned_is_run_again(shared: Shared) -> None:
    """A middleware that clones the request gets a whole one again, and who reads the clone gets the body again."""
    arena, for_app = shared
    bodies: list[bytes] = []

    @web.middleware
    async def clones(request: web.Request, handler: Any) -> web.StreamResponse:
        return await handler(request.clone(headers={**request.headers, "X-Clone": "1"}).clone())  # type: ignore[no-any-return]

    async def plain(request: web.Request) -> web.Response:
        assert request.headers["X-Clone"] == "1"
        bodies.append(await request.read())
        if attempt() < 3:
            await lose(arena)
        arena.root["n"] = len(bodies[-1])
        return ok(len(bodies[-1]))

    async def hides(request: web.Request) -> web.Response:
        return await arena.run(lambda: plain(request))

    routes = {"/plain": plain, "/decorated": recoverable(plain), "/hides": hides}
    async with serving(application(for_app, routes, (clones,), protect="all")) as client:
        for path in routes:
            bodies.clear()
            answer = await client.post(path, data=b"x" * 3000)
            assert (answer.status, await answer.text()) == (200, "3000"), path
            assert bodies == [b"x" * 3000] * 3


async def test_a_decorated_handler_reads_a_clone_again(shared: Shared) -> None:
    """With `@recoverable` alone the clone is the handler's argument, and is made as it was."""
    arena, for_app = shared

    @web.middleware
    async def clones(request: web.Request, handler: Any) -> web.StreamResponse:
        return await handler(request.clone())  # type: ignore[no-any-return]

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        again = request.clone()  # which aiohttp refuses once the body was read
        data = await again.json()
        if attempt() == 1:
            await lose(arena)
        arena.root["data"] = data
        return ok()

    for app in (application(for_app, {"/": handler}, (clones,)), application(None, {"/": handler}, (clones,))):
        async with serving(app) as client:
            assert (await client.post("/", json={"a": 1})).status == 200
        assert arena.root["data"] == {"a": 1}


@pytest.mark.parametrize("how", ["read", "form", "upload"])
async def test_a_body_that_is_asked_for_first_is_there_again(shared: Shared, how: str) -> None:
    """`if request.can_read_body:` takes the same way in each run: it is true, although the body was read."""
    arena, for_app = shared

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        value: Any = None
        if request.can_read_body:
            if how == "read":
                value = await request.text()
            else:
                field = (await request.post())["a"]
                value = field.file.read().decode() if isinstance(field, web.FileField) else field
        if attempt() < 3:
            await lose(arena)
        arena.root["value"] = value
        return ok()

    upload = aiohttp.FormData()
    upload.add_field("a", b"text", filename="f")
    data = {"read": b"text", "form": {"a": "text"}, "upload": upload}[how]
    async with serving(application(for_app, {"/": handler})) as client:
        assert (await client.post("/", data=data)).status == 200
    assert arena.root["value"] == "text"


async def test_a_body_of_which_a_part_was_streamed_is_gone(shared: Shared) -> None:
    """What `read()` kept is not the whole: the run began with a part that it took from the stream."""
    arena, for_app = shared

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        arena.root["value"] = await request.content.readexactly(4) + await request.read()
        await lose(arena)
        return ok()

    async with serving(application(for_app, {"/": handler})) as client:
        answer = await client.post("/", data=b"headbody")
        assert answer.status == 503
        assert "its body was streamed" in await answer.text()
    assert "value" not in arena.root


@pytest.mark.parametrize("how", ["post of a clone", "read", "another clone", "multipart"])
async def test_a_form_that_was_parsed_is_never_read_empty(shared: Shared, how: str) -> None:
    """The bytes of a parsed form are gone: whoever asks for them in another way is answered 503, and commits nothing."""
    arena, for_app = shared

    async def ask(request: web.Request) -> Any:
        match how:
            case "post of a clone":
                return dict(await request.clone().post())
            case _ if attempt() == 1:
                return dict(await request.post())
            case "another clone":
                return dict(await request.clone().post())
            case "multipart":
                return await (await request.multipart()).next()
            case _:
                return await request.read()

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        arena.root["form"] = len(await ask(request))
        if attempt() == 1:
            await lose(arena)
        return ok()

    form = aiohttp.MultipartWriter("form-data")
    form.append("text").set_content_disposition("form-data", name="a")
    async with serving(application(for_app, {"/": handler})) as client:
        answer = await client.post("/", data=form)
        assert (answer.status, "its form was parsed" in await answer.text()) == (503, True)
    assert "form" not in arena.root


@pytest.mark.parametrize("then", ["conflict", "retry", "fallback"])
async def test_an_upload_whose_file_was_closed(shared: Shared, then: str) -> None:
    """A handler that has closed the file can't be run again: 503 with the reason, its own exception, or the fallback."""
    arena, for_app = shared

    async def fallback(error: BaseException, request: web.Request) -> web.Response:
        return ok(type(error).__name__)

    @recoverable(retries=1 if then == "retry" else 0, fallback=fallback if then == "fallback" else None)
    async def handler(request: web.Request) -> web.Response:
        field: Any = (await request.post())["f"]
        with field.file as file:
            arena.root["file"] = file.read()
        if then == "retry":
            raise RuntimeError
        await lose(arena)
        return ok()

    data = aiohttp.FormData()
    data.add_field("f", b"content", filename="f")
    async with serving(application(for_app, {"/": handler})) as client:
        answer = await client.post("/", data=data)
        expected = {
            "conflict": (503, "file of an upload was closed"),
            "retry": (500, ""),
            "fallback": (200, "Conflict"),
        }
        status, text = expected[then]
        assert answer.status == status
        assert text in await answer.text()
    assert "file" not in arena.root


# -- the answer ---------------------------------------------------------------------------------------------------------


def prepares(arena: Arena, response: Callable[[int], web.Response], **options: Any) -> Any:
    """Return a handler that prepares its answer, and then loses a conflict in its first run."""

    @recoverable(**options)
    async def handler(request: web.Request) -> web.Response:
        answer = response(attempt())
        await answer.prepare(request)
        if attempt() == 1:
            await lose(arena)
        arena.root["n"] = attempt()
        return answer

    return handler


def chunked_first(run: int) -> web.Response:
    """Return an answer that is chunked and compressed in the first run only."""
    answer = web.Response(text="x" * 40)
    if run == 1:
        answer.enable_chunked_encoding()
        answer.enable_compression(web.ContentCoding.gzip)
    return answer


@pytest.mark.skipif(not HEADS_WAIT, reason="this aiohttp sends the head at once")
async def test_a_prepared_answer_that_has_not_left_is_dropped(shared: Shared) -> None:
    """A head that waits is no answer: the handler is run again, or another answer is given, and each is well-formed."""
    arena, for_app = shared

    async def fallback(error: BaseException, request: web.Request) -> web.Response:
        return ok("fallback")

    @web.middleware
    async def answers(request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]) -> Any:
        try:
            return await handler(request)
        except ConflictError:
            if "own" in request.query:
                return ok("own")
            raise

    async def full(request: web.Request) -> web.Response:
        await chunked_first(1).prepare(request)
        arena.root["big"] = b"x" * (32 << 20)
        return ok()

    routes = {
        "/rerun": prepares(arena, chunked_first),
        "/lost": prepares(arena, chunked_first, max_conflicts=0),
        "/fallback": prepares(arena, chunked_first, max_conflicts=0, fallback=fallback),
        "/full": recoverable(full),
    }
    expected = {
        "/rerun": b"x" * 40,
        "/lost": b"503",
        "/lost?own": b"own",
        "/fallback": b"fallback",
        "/full": b"507",
        "/rerun?again": b"x" * 40,
    }
    async with serving(application(for_app, routes, (answers,))) as client:
        asked = [f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in expected]
        got = await raw(client, *asked[:-1], asked[-1].replace("Host", "Connection: close\r\nHost"))
    assert got.count(b"HTTP/1.1 ") == len(expected)
    for body in expected.values():  # pipelined: one that is malformed spoils all that follow
        head, _, got = got.partition(b"\r\n\r\n")
        (length,) = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]
        assert got[:length].startswith(body)
        got = got[length:]
    assert got == b""


@pytest.mark.skipif(not HEADS_WAIT, reason="this aiohttp sends the head at once")
async def test_head_requests_and_clones_with_a_prepared_answer(shared: Shared) -> None:
    """HEAD has no body to wait for, and a clone shares what the answer is written to."""
    arena, for_app = shared

    @web.middleware
    async def clones(request: web.Request, handler: Any) -> web.StreamResponse:
        return await handler(request.clone())  # type: ignore[no-any-return]

    for app in (
        application(for_app, {"/": prepares(arena, chunked_first)}, (clones,), protect="all"),
        application(None, {"/": prepares(arena, chunked_first)}, (clones,)),
    ):
        async with serving(app) as client:
            assert (await client.head("/")).status == 200
            assert await (await client.get("/")).text() == "x" * 40


async def test_a_fallback_does_not_answer_twice(shared: Shared) -> None:
    """When half of an answer was sent, a fallback's response is not sent after it: the connection is closed."""
    arena, for_app = shared
    called: list[str] = []

    async def fallback(error: BaseException, request: web.Request) -> web.Response:
        called.append(type(error).__name__)
        return ok("fallback")

    @recoverable(fallback=fallback)
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await lose(arena)
        arena.root["n"] = 1
        return response

    async with serving(application(for_app, {"/": handler})) as client:
        got = await raw(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert got.count(b"HTTP/1.1 ") == 1
    assert called == ["ConflictError"]


async def test_a_request_that_waited_for_100_continue(shared: Shared) -> None:
    """The interim answer is none: the handler is run again, and a failure of ours is told."""
    arena, for_app = shared

    @recoverable(max_conflicts=1)
    async def handler(request: web.Request) -> web.Response:
        data = await request.read()
        if attempt() == 1 or "lose" in request.query:
            await lose(arena)
        arena.root["n"] = 1
        return ok(len(data))

    async with serving(application(for_app, {"/": handler})) as client:
        answer = await client.post("/", data=b"x" * 3000, expect100=True)
        assert (answer.status, await answer.text()) == (200, "3000")
        assert (await client.post("/?lose", data=b"x", expect100=True)).status == 503


async def test_requests_of_one_connection_do_not_meet(shared: Shared) -> None:
    """Pipelined requests that are run again are answered in their order, each with its own body."""
    arena, for_app = shared

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        data = await request.text()
        if attempt() == 1:
            await lose(arena)
        arena.root[data] = 1
        return ok(f"<{data}>")

    asked = [f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{n}" for n in range(4)]
    asked.append("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\n4")
    async with serving(application(for_app, {"/": handler})) as client:
        got = await raw(client, *asked)
    assert [got.index(b"<%d>" % n) for n in range(5)] == sorted(got.index(b"<%d>" % n) for n in range(5))
    assert got.count(b"HTTP/1.1 200") == 5


async def test_a_client_that_leaves_between_two_runs(shared: Shared) -> None:
    """A disconnect that cancels the handler while it is run again leaves nothing."""
    arena, for_app = shared
    again, ended = asyncio.Event(), asyncio.Event()

    @recoverable
    async def handler(request: web.Request) -> web.Response:
        await request.read()
        if attempt() == 1:
            await lose(arena)
        arena.root["n"] = 1
        if attempt() == 2:
            again.set()
            try:
                await asyncio.sleep(30)
            finally:
                ended.set()
        return ok()

    async with serving(application(for_app, {"/": handler})) as client:
        asked = asyncio.create_task(client.post("/", data=b"x"))
        await again.wait()
        asked.cancel()
        await asyncio.wait_for(ended.wait(), 5)
    assert "n" not in arena.root
