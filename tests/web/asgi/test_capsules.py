"""Is a request that crashed on ASGI kept, without its secrets? Does it fail in the same way when it is replayed?"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import litestar
import pytest
import quart
import starlette.requests
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.middleware import Middleware as Entry
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from recoverable import Arena, ArenaOptionError, CapsuleError, asgi, between, fastapi, recoverable
from recoverable._asgi_lifespan import Lifespan
from recoverable.capsules import Capsule, Capsules
from recoverable.cli._app import run as command
from recoverable.faults import FaultsFound, explore
from support.asgi import Socket, client_of, lifespan_of
from support.capsules import arenas, current, kept, only

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

# The newest Litestar wants parameters to be declared in a way that the oldest one does not know.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*(declared using deprecated|Deprecated use of|Inferred dependency)")
PROTECT = pytest.mark.parametrize("protect", ["decorated", "all"])

SECRETS = ["hunter2", "4111 222", "4111%20222", "t0ken-of-ann", "k-42-k-42"]
HEADERS = {
    "Authorization": "Bearer t0ken-of-ann",
    "X-Api-Key": "k-42-k-42",
    "X-Request-ID": "r-1",
    "Content-Type": "application/json",
}
BODY = b'{"user": {"password": "hunter2"}, "n": 1}'


async def pays(arena: Arena, card: str, data: Any, key: str, *, mended: bool) -> dict[str, Any]:
    """Take one, wait, and crash by what is there now, with all that the client has said."""
    root = arena.root
    root["n"] = root.get("n", 0) + 1
    await asyncio.sleep(0)
    if root["n"] < 3 or mended:
        return {"n": root["n"]}
    raise ValueError(f"{root['n']} for {card}: {data['user']} {key} {data['n']}")


# -- the same application in each framework ----------------------------------------------------------------------------------


def of_starlette(arena: Arena, *, decorated: bool, mended: bool) -> Any:
    async def pay(request: starlette.requests.Request) -> Response:
        key = request.headers["x-api-key"]
        return JSONResponse(await pays(arena, request.path_params["card"], await request.json(), key, mended=mended))

    return Starlette(routes=[Route("/pay/{card}", recoverable(pay) if decorated else pay, methods=["POST"])])


def of_fastapi(arena: Arena, *, decorated: bool, mended: bool) -> Any:
    app = FastAPI()

    async def pay(card: str, data: dict[str, Any], request: Request) -> dict[str, Any]:
        return await pays(arena, card, data, request.headers["x-api-key"], mended=mended)

    app.post("/pay/{card}")(recoverable(pay) if decorated else pay)
    return app


def of_litestar(arena: Arena, *, decorated: bool, mended: bool) -> Any:
    async def pay(card: str, request: litestar.Request[Any, Any, Any]) -> dict[str, Any]:
        return await pays(arena, card, await request.json(), request.headers["x-api-key"], mended=mended)

    route = litestar.post("/pay/{card:str}", status_code=200)(recoverable(pay) if decorated else pay)
    return litestar.Litestar([route], logging_config=None, openapi_config=None)


def of_quart(arena: Arena, *, decorated: bool, mended: bool) -> Any:
    async def pay(card: str) -> Any:
        return await pays(
            arena, card, await quart.request.get_json(), quart.request.headers["x-api-key"], mended=mended
        )

    app = quart.Quart("shop")
    app.route("/pay/<card>", methods=["POST"])(recoverable(pay) if decorated else pay)
    return app


def of_fastapi_in_threads(arena: Arena, *, decorated: bool, mended: bool) -> Any:
    app = FastAPI()

    def pay(card: str, data: dict[str, Any], request: Request) -> dict[str, Any]:
        coroutine = pays(arena, card, data, request.headers["x-api-key"], mended=mended)
        with contextlib.suppress(StopIteration):
            coroutine.send(None)
        try:
            coroutine.send(None)
        except StopIteration as end:
            return dict(end.value)
        raise AssertionError

    app.post("/pay/{card}")(recoverable(pay) if decorated else pay)
    return app


FRAMEWORKS = {
    "starlette": of_starlette,
    "fastapi": of_fastapi,
    "fastapi in threads": of_fastapi_in_threads,
    "litestar": of_litestar,
    "quart": of_quart,
}


def set_up(app: Any, arena: Arena, **options: Any) -> Any:
    """Set an application up."""
    (fastapi if isinstance(app, FastAPI) else asgi).setup(app, arena, **options)
    return app


def maker_of(name: str, protect: str, *, mended: bool = False) -> Callable[..., Any]:
    """Return what makes an application of that framework, of an arena."""

    def make(arena: Arena, capsules: Capsules | None = None) -> Any:
        app = FRAMEWORKS[name](arena, decorated=protect == "decorated", mended=mended)
        return set_up(app, arena, protect=protect, capsules=capsules)

    return make


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[Any]:
    """Start an application up; give its client."""
    async with lifespan_of(app), client_of(app) as client:
        yield client


def again(arena: Arena) -> Arena:
    """Return a second handle of it, for an application, which closes it."""
    return Arena.open(arena.name, journal=arena.native.journal.path)


def has_none_of(secrets: list[str], capsules: Capsules) -> None:
    """See that the files have none of these texts."""
    for file in Path(capsules.folder).iterdir():
        raw = file.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in raw]


# -- each framework ----------------------------------------------------------------------------------------------------------


@PROTECT
@pytest.mark.parametrize("name", FRAMEWORKS)
async def test_a_crash_is_kept_and_fails_in_the_same_way(
    journaled: Arena, capsules: Capsules, log: list[dict[str, Any]], name: str, protect: str
) -> None:
    """Its file has the request without its secrets, and the commits that it stood on; mended, it no longer fails."""
    make = maker_of(name, protect)
    app = make(again(journaled), capsules)
    async with serving(app) as client:
        for status in 200, 200, 500:
            answer = await client.post("/pay/4111%20222?card=4111+222&a=1", content=BODY, headers=HEADERS)
            assert answer.status_code == status, answer.text
        with journaled.transaction():
            journaled.root["n"] = 7
        await journaled.durable()
    found = only(capsules)
    has_none_of(SECRETS, capsules)
    (told,) = [each for each in log if each["event"] == "request.rolled_back"]
    assert told["capsule"] == Path(found.file).name
    assert found.request is not None
    assert found.request["method"] == "POST"
    assert found.request["url"] == "/pay/[hidden]?card=[hidden]&a=1"
    assert found.request["route"] in ("/pay/{card}", "/pay/{card:str}")
    assert found.request["match"] == {"card": "[hidden]"}
    assert json.loads(found.body or b"") == {"user": {"password": "[hidden]"}, "n": 1}
    assert found.request["body"]["whole"]
    assert (found.request_id, found.whole_request, found.call) == ("r-1", protect == "all", None)
    assert found.handler.endswith("pay") or (protect == "all" and name in ("litestar", "quart"))
    assert name.split()[0] in found.versions
    assert found.error is not None
    assert found.error["message"].startswith("3 for [hidden]: {'password': '[hidden]'} [hidden] 1")
    assert found.error["frame"]["function"] == "pays"
    if not name.endswith("threads"):
        assert len(found.steps) == (1 if (name, protect) == ("quart", "all") else 2)  # which has a task of its own

    for target in make, app:
        replay = await found.replay_async(target, headers={"X-Api-Key": "[hidden]"})
        assert replay.same, replay.text
    mended = await found.replay_async(maker_of(name, protect, mended=True), headers={"X-Api-Key": "k"})
    assert (mended.error, mended.same) == (None, False), mended.text
    assert "it did not fail" in mended.text
    assert journaled.root["n"] == 7


async def test_nothing_stands_in_the_way_unless_it_is_asked_for(journaled: Arena, capsules: Capsules) -> None:
    """Without `capsules=` no run is noted, with it none is any more when the application has ended."""
    async with serving(maker_of("starlette", "decorated")(again(journaled))):
        assert between._notes is None
    async with serving(maker_of("starlette", "decorated")(again(journaled), capsules)):
        assert between._notes is not None
        with pytest.raises(ArenaOptionError, match="Give setup\\(\\) of all applications on one arena the same"):
            asgi.Middleware(Starlette(), journaled, capsules=Capsules(capsules.folder))
    assert between._notes is None
    assert journaled.native.capsules is None


# -- bodies ------------------------------------------------------------------------------------------------------------------


def crashing(arena: Arena, reads: Any, capsules: Capsules, middleware: Any = None, **options: Any) -> Starlette:
    """Return an application whose one function does something with its request, and crashes."""

    @recoverable
    async def crashes(request: starlette.requests.Request) -> Response:
        arena.root["n"] = 1
        said = await reads(request)
        raise ValueError(f"always: {said!r:.200}")

    middlewares = [] if middleware is None else [Entry(middleware)]
    app = Starlette(routes=[Route("/x", crashes, methods=["GET", "POST"])], middleware=middlewares)
    asgi.setup(app, again(arena) if arena.native.journal else Arena.open(arena.name), capsules=capsules, **options)
    return app


async def unread(request: starlette.requests.Request) -> bytes:
    return b""


async def reads(request: starlette.requests.Request) -> bytes:
    return await request.body()


async def streams(request: starlette.requests.Request) -> bytes:
    return b"".join([chunk async for chunk in request.stream()])


async def reads_a_part(request: starlette.requests.Request) -> bytes:
    async for chunk in request.stream():
        return chunk
    return b""


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for i in range(0, len(body), 500):
        yield body[i : i + 500]


@pytest.mark.parametrize("limit", ["1 MiB", 1000])
@pytest.mark.parametrize("read", [unread, reads, streams, reads_a_part])
@pytest.mark.parametrize("body", [b"", b"\xff\x00\xfe", b"x" * 3000])
async def test_what_was_received_of_a_body_is_kept(
    arena: Arena, tmp_path: Path, read: Any, body: bytes, limit: Any
) -> None:
    """Up to the capsules' own limit, however much is kept for another run; what nobody has asked for has not come."""
    capsules = Capsules(tmp_path / "capsules", body_limit=2000)
    async with serving(crashing(arena, read, capsules, body_limit=limit)) as client:
        assert (await client.post("/x", content=in_chunks(body) if body else b"")).status_code == 500
    found = only(capsules)
    assert found.request is not None
    come = b"" if read is unread else body[:500] if read is reads_a_part else body
    assert found.body == come[:2000]
    whole = not body or (len(come) == len(body) <= 2000)
    if read is reads_a_part and 0 < len(body) <= 500:
        whole = found.request["body"]["whole"]  # nobody has asked whether there is more
    assert found.request["body"]["whole"] == whole
    assert any("body" in each for each in found.lacks) == (not whole)


class Streams(BaseHTTPMiddleware):
    """Takes the body of a PUT, and gives it to nobody."""

    async def dispatch(self, request: starlette.requests.Request, call_next: Any) -> Response:
        await streams(request)
        answer: Response = await call_next(request)
        return answer


class Reads(BaseHTTPMiddleware):
    """Reads the body, which is given on."""

    async def dispatch(self, request: starlette.requests.Request, call_next: Any) -> Response:
        await request.body()
        answer: Response = await call_next(request)
        return answer


@pytest.mark.parametrize("middleware", [Reads, Streams])
async def test_a_body_that_a_middleware_has_read(arena: Arena, capsules: Capsules, middleware: Any) -> None:
    """What it gives on is kept, and what it does not is said to be missing; it may be in any message."""
    async with serving(crashing(arena, unread if middleware is Streams else reads, capsules, middleware)) as client:
        assert (await client.post("/x", content=b"plain")).status_code == 500
    found = only(capsules)
    assert found.request is not None
    assert found.body == (b"plain" if middleware is Reads else None)
    assert found.request["body"]["whole"] == (middleware is Reads)
    assert found.error is not None
    assert found.error["message"].startswith("always" if middleware is Reads else "[left out")


PART = 'Content-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
FORM = "--bb\r\n" + "--bb\r\n".join([PART.format("a", "1"), PART.format("card", "4111 222")]) + "--bb--\r\n"
MULTIPART = {"Content-Type": "multipart/form-data; boundary=bb"}


async def parses(request: starlette.requests.Request) -> Any:
    return (await request.form())["card"]


@pytest.mark.parametrize(
    ("body", "kind", "kept_body"),
    [
        (FORM, MULTIPART["Content-Type"], FORM.replace("4111 222", "[hidden]")),
        (FORM[:-8], MULTIPART["Content-Type"], None),
        ("a=1&card=4111+222", "application/x-www-form-urlencoded", "a=1&card=[hidden]"),
        ("a=1&card=h\xe4nter2", "application/x-www-form-urlencoded", "a=1&card=[hidden]"),
        (
            FORM.replace('"card"', "card"),
            MULTIPART["Content-Type"],
            FORM.replace("4111 222", "[hidden]").replace('"card"', "card"),
        ),
    ],
)
async def test_fields_of_forms_are_hidden(
    journaled: Arena, capsules: Capsules, body: str, kind: str, kept_body: str | None
) -> None:
    """As Starlette reads them; a body that can't be searched is left out, and so is what the program says of it."""
    app = crashing(journaled, parses, capsules)
    async with serving(app) as client:
        answer = await client.post("/x", content=body.encode("latin-1"), headers={"Content-Type": kind})
        assert answer.status_code in (400, 500)
        await journaled.durable()
    if answer.status_code == 400:  # the form is no form
        assert kept(capsules) == []
        return
    found = only(capsules)
    has_none_of(["4111 222", "4111+222", "nter2"], capsules)
    assert (found.body is None) == (kept_body is None)
    assert found.body is None or found.body.decode() == kept_body
    assert found.error is not None
    replay = await found.replay_async(app)
    assert replay.same, replay.text


@pytest.mark.parametrize("name", ["litestar", "quart"])
async def test_a_multipart_body_that_nobody_here_can_search_is_left_out(
    arena: Arena, capsules: Capsules, name: str
) -> None:
    """With names to hide; and the file says so."""

    async def litestars(request: litestar.Request[Any, Any, Any]) -> None:
        raise ValueError((await request.form())["card"])

    async def quarts() -> None:
        raise ValueError((await quart.request.form)["card"])

    if name == "litestar":
        route = litestar.post("/x")(recoverable(litestars))
        app: Any = litestar.Litestar([route], logging_config=None, openapi_config=None)
    else:
        app = quart.Quart("shop")
        app.route("/x", methods=["POST"])(recoverable(quarts))
    async with serving(set_up(app, Arena.open(arena.name), capsules=capsules)) as client:
        assert (await client.post("/x", content=FORM, headers=MULTIPART)).status_code == 500
    found = only(capsules)
    has_none_of(["4111 222"], capsules)
    assert found.body is None
    assert "the body, which could not be searched for secrets" in found.lacks


# -- more than one run -------------------------------------------------------------------------------------------------------


@PROTECT
async def test_a_run_that_lost_is_told_of_in_the_last_one_s(journaled: Arena, capsules: Capsules, protect: str) -> None:
    """The request was made as it was meanwhile; where it came, and its body, are in the capsule all the same."""
    tries: list[bytes] = []

    async def pay(request: starlette.requests.Request) -> Response:
        root = journaled.root
        tries.append(await request.body())
        seen = root.get("contended", 0)
        if len(tries) == 1:

            async def other() -> None:
                with journaled.transaction():
                    root["contended"] = seen + 1

            await asyncio.get_running_loop().create_task(other(), context=contextvars.Context())
        root["contended"] = seen + 1
        raise ValueError(f"{request.path_params['card']} {seen}")

    app = Starlette(routes=[Route("/pay/{card}", pay if protect == "all" else recoverable(pay), methods=["POST"])])
    asgi.setup(app, again(journaled), protect=protect, capsules=capsules)  # type: ignore[arg-type]
    async with serving(app) as client:
        assert (await client.post("/pay/4111%20222", content=b"b")).status_code == 500
        await journaled.durable()
    found = only(capsules)
    assert len(tries) == 2
    assert [run["conflict"]["path"] for run in found.runs] == ["root"]
    assert found.body == b"b"
    has_none_of(["4111 222", "4111%20222"], capsules)
    replay = await found.replay_async(app)
    assert replay.error is not None
    assert replay.same, replay.text


async def test_where_a_request_went_is_known_after_its_last_run(arena: Arena, capsules: Capsules) -> None:
    """With `protect="all"` the route is found inside, and is gone when the request has been made as it was."""

    async def pay(request: starlette.requests.Request) -> Response:
        seen = arena.root.get("contended", 0)

        async def other() -> None:
            with arena.transaction():
                arena.root["contended"] = seen + 1

        await asyncio.get_running_loop().create_task(other(), context=contextvars.Context())
        arena.root["contended"] = seen + 2
        return PlainTextResponse(request.path_params["card"])

    app = Starlette(routes=[Route("/pay/{card}", pay)])
    asgi.setup(app, Arena.open(arena.name), protect="all", capsules=capsules)
    async with serving(app) as client:
        assert (await client.get("/pay/4111%20222")).status_code == 503
    found = only(capsules)
    assert found.request is not None
    assert (found.request["route"], found.request["match"]) == ("/pay/{card}", {"card": "[hidden]"})
    has_none_of(["4111 222", "4111%20222"], capsules)


# -- where a handler is ------------------------------------------------------------------------------------------------------


async def test_each_step_sees_what_it_saw(journaled: Arena, capsules: Capsules) -> None:
    """Also behind a middleware that has a task of its own, in a mounted application, with its start-up, and dependencies."""
    started: list[str] = []
    reached, changed = asyncio.Event(), asyncio.Event()

    def make(arena: Arena, capsules: Capsules | None = None) -> Any:
        root = arena.root

        @contextlib.asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
            started.append("begin")
            with arena.transaction():
                root["from start-up"] = 1
            yield {"told": "by start-up"}
            started.append("end")

        async def price() -> Any:
            return root["price"]

        routes = APIRouter(prefix="/shop")

        @routes.get("/buy/{n}")
        @recoverable
        async def buy(n: int, request: Request, price: Any = Depends(price)) -> None:  # noqa: B008
            reached.set()
            await changed.wait()
            await asyncio.sleep(0)  # the first step has ended here in a replay, too
            raise RuntimeError(f"{n} {price} {list(root['seen'])} {request.state.told}")

        @routes.get("/change")
        @recoverable
        async def change() -> None:
            root["seen"].append("meanwhile")
            changed.set()

        app = FastAPI(lifespan=lifespan)
        inner = FastAPI()
        inner.include_router(routes)
        app.mount("/in", inner)
        app.add_middleware(Reads)
        fastapi.setup(app, arena, capsules=capsules)
        return app

    with journaled.transaction():
        journaled.root.update(price=3, seen=["before"])
    app = make(again(journaled), capsules)
    lifespan = Lifespan(app)
    await lifespan.start()

    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": dict(lifespan.state)}, receive, send)

    async with client_of(with_state) as client:
        answer = asyncio.ensure_future(client.get("/in/shop/buy/7"))
        await reached.wait()
        assert (await client.get("/in/shop/change")).status_code == 200
        assert (await answer).status_code == 500
    await lifespan.stop()
    with journaled.transaction():
        journaled.root.clear()
    await journaled.durable()
    found = only(capsules)
    assert found.request is not None
    assert found.request["route"] == "/in/shop/buy/{n}"
    started.clear()
    assert [seq - found.steps[0][0] for seq, _ in found.steps] == [0, 1]
    replay = await found.replay_async(make)
    assert replay.same, replay.text
    assert str(replay.error) == "7 3 ['before', 'meanwhile'] by start-up"
    assert replay.steps == tuple(seq for seq, _ in found.steps)
    assert started == ["begin", "end"]
    assert "what the application had written to the arena as it started up was put back" in replay.text


async def test_a_call_inside_of_a_request(journaled: Arena, capsules: Capsules) -> None:
    """With arguments that can be kept it is made by itself; with others all of the request is, up to that call."""
    arena = journaled

    def make(arena: Arena, capsules: Capsules | None = None) -> Any:
        async def takes(request: Any, n: int) -> None:
            arena.root["n"] = n
            raise ValueError(f"{request.query_params['q']} {n}")

        async def endpoint(request: starlette.requests.Request) -> Response:
            await arena.run(takes, request, 3)
            return PlainTextResponse("ok")

        app = Starlette(routes=[Route("/x", endpoint)])
        asgi.setup(app, arena, capsules=capsules)
        return app

    async with serving(make(again(arena), capsules)) as client:
        assert (await client.get("/x?q=1")).status_code == 500
        await arena.durable()
    found = only(capsules)
    assert found.call is not None
    assert found.call["missing"] == ["request: Request"]
    replay = await found.replay_async(make)
    assert replay.same, replay.text
    assert str(replay.error) == "1 3"


async def on_message(text: str) -> str:
    """Answer a message of a WebSocket."""
    root = current().root
    root["n"] = root.get("n", 0) + 1
    return str(1 / (3 - root["n"])) + text


async def test_a_message_of_a_websocket(journaled: Arena, capsules: Capsules) -> None:
    """A message is the unit: what crashes is kept as the function with its arguments, and made again by itself."""
    arenas.append(journaled)
    app = FastAPI()

    @app.websocket("/ws")
    async def chat(websocket: WebSocket) -> None:
        await websocket.accept()
        with contextlib.suppress(ZeroDivisionError):
            async for text in websocket.iter_text():
                await websocket.send_text(await journaled.run(on_message, text))
        await websocket.close()

    fastapi.setup(app, again(journaled), capsules=capsules)
    async with lifespan_of(app):
        socket = Socket(app, "/ws")
        assert (await socket.next())["type"] == "websocket.accept"
        assert await socket.ask("one") == "0.5one"
        assert await socket.ask("two") == "1.0two"
        socket._to_app.put_nowait({"type": "websocket.receive", "text": "three"})
        assert (await socket.next())["type"] == "websocket.close"
        await socket.close()
        await journaled.durable()
    found = only(capsules)
    assert found.request is not None
    assert (found.request["kind"], found.request["url"]) == ("websocket", "/ws")
    assert found.call is not None
    assert found.call["args"] == [{"value": "three"}]
    for target in None, app:
        replay = await found.replay_async(target)
        assert replay.same, replay.text


# -- what a replay refuses ---------------------------------------------------------------------------------------------------


class Login(BaseHTTPMiddleware):
    """Lets nobody in without a token."""

    async def dispatch(self, request: starlette.requests.Request, call_next: Any) -> Response:
        if request.headers.get("Authorization") != "Bearer t0ken-of-ann":
            return Response(status_code=401)
        answer: Response = await call_next(request)
        return answer


async def test_what_can_not_be_replayed_is_said(journaled: Arena, capsules: Capsules) -> None:
    """Middlewares run again, and may refuse; a handler alone is not enough; what is no application is none."""
    app = crashing(journaled, reads, capsules, Login)
    async with serving(app) as client:
        assert (await client.get("/x", headers=HEADERS)).status_code == 500
        await journaled.durable()
    found = only(capsules)
    with pytest.raises(CapsuleError, match="has answered 401, and has not called the handler"):
        await found.replay_async(app)
    assert (await found.replay_async(app, headers={"Authorization": "Bearer t0ken-of-ann"})).same
    handler = app.routes[0].endpoint  # type: ignore[attr-defined]
    with pytest.raises(CapsuleError, match="only its application knows what a handler is called with"):
        await found.replay_async(handler)
    with pytest.raises(CapsuleError, match="no application of aiohttp or ASGI"):
        await found.replay_async(lambda: 3)

    @contextlib.asynccontextmanager
    async def fails(app: Any) -> AsyncIterator[None]:
        raise KeyError("no start")
        yield

    broken = Starlette(lifespan=fails)
    with pytest.raises(CapsuleError, match="did not start"):
        await found.replay_async(broken)


async def test_a_replay_that_takes_too_long_says_where(journaled: Arena, capsules: Capsules) -> None:
    """The application is cancelled, and its handler's place told."""
    app = crashing(journaled, reads, capsules)
    async with serving(app) as client:
        assert (await client.get("/x")).status_code == 500
        await journaled.durable()

    async def waits(request: starlette.requests.Request) -> bytes:
        await asyncio.sleep(60)
        return b""

    async with serving(slow := crashing(journaled, waits, capsules)):
        pass
    with pytest.raises(
        CapsuleError, match=r"was stopped after 0.2 seconds, at test_capsules.py:\d+ in .*waits: the replay's own"
    ):
        await only(capsules).replay_async(slow, timeout=0.2)


async def test_an_application_in_a_middleware_alone(journaled: Arena, capsules: Capsules) -> None:
    """`Middleware(app, arena, capsules=)` around whatever is an ASGI application."""

    def make(arena: Arena, capsules: Capsules | None = None) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                for kind in "startup", "shutdown":
                    await receive()
                    await send({"type": f"lifespan.{kind}.complete"})
            else:
                arena.root["n"] = (await receive())["body"].decode()
                raise ValueError(arena.root["n"])

        return asgi.Middleware(app, arena, protect="all", capsules=capsules)

    async with serving(make(again(journaled), capsules)) as client:
        with contextlib.suppress(ValueError):
            await client.post("/x", content=b"said")
        await journaled.durable()
    found = only(capsules)
    assert (found.body, found.whole_request) == (b"said", True)
    replay = await found.replay_async(make)
    assert (replay.same, str(replay.error)) == (True, "said"), replay.text


# -- what is done with them --------------------------------------------------------------------------------------------------


async def test_chaos_and_explorations_leave_them_too(journaled: Arena, capsules: Capsules, tmp_path: Path) -> None:
    """What an injected fault has crashed is kept, and said to be so."""
    app = FastAPI()

    @app.get("/x")
    @recoverable
    async def changes() -> None:
        journaled.root["n"] = 1
        await asyncio.sleep(0)

    options: Any = {"faults": "*=raise@await", "allow_faults": True, "faults_seed": 1}
    fastapi.setup(app, again(journaled), capsules=capsules, **options)
    async with serving(app) as client:
        assert (await client.get("/x")).status_code == 500
        await journaled.durable()
    found = only(capsules)
    assert found.error is not None
    assert found.error["type"] == "InjectedFault"
    assert "faults that were injected into its process" in found.lacks
    replay = await found.replay_async(app)
    assert (replay.same, replay.error) == (False, None)


def test_an_exploration_leaves_one_for_a_failure(tmp_path: Path) -> None:
    """With the request that has crashed in it."""

    def make(arena: Arena) -> FastAPI:
        app = FastAPI()

        @app.post("/x")
        @recoverable
        async def careful() -> None:
            arena.root["n"] = 1

        @app.get("/x")
        async def careless() -> None:
            with arena.transaction():
                arena.root["m"] = 1
            with contextlib.suppress(Exception):
                await arena.run(inside)
            with arena.transaction():
                arena.root["m"] = 2

        async def inside() -> None:
            arena.root["n"] = 1

        fastapi.setup(app, arena)
        return app

    async def asks(client: Any) -> int:
        return int((await client.get("/x")).status_code)

    capsules = Capsules(tmp_path / "capsules")
    with pytest.raises(FaultsFound) as caught:
        explore(asks, app=make, points=["line"], capsules=capsules, max_failures=1)
    (failure,) = caught.value.report.failures
    found = Capsule.open(Path(capsules.folder, str(failure.capsule)))
    assert found.exploration is not None


SHOP = """
import asyncio, os
from fastapi import FastAPI
from recoverable import Arena, recoverable
from recoverable.capsules import Capsules
from recoverable.fastapi import setup
arena = Arena.open(os.environ["SHOP"], journal=os.environ["SHOP_JOURNAL"])
app = FastAPI()
@app.post("/pay/{amount}")
@recoverable
async def pay(amount: int) -> int:
    arena.root["n"] -= amount
    await asyncio.sleep(0)
    assert arena.root["n"] >= 0 or not os.environ.get("BUG"), "below zero"
    return arena.root["n"]
setup(app, arena, capsules=Capsules(os.environ["SHOP_CAPSULES"]))
"""
SERVER = """
import asyncio, httpx, shop
with shop.arena.transaction(): shop.arena.root["n"] = 1
async def main():
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(shop.app, raise_app_exceptions=False), base_url="http://x"
    ) as client:
        assert (await client.post("/pay/2")).status_code == 500
    await shop.arena.durable()
asyncio.run(main())
"""


def test_the_command_runs_it_and_a_test_is_made_of_it(
    new_name: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`recoverable capsule run --app shop:app` ends with 0 as long as it fails in the same way; the test fails so long."""
    (tmp_path / "shop.py").write_text(SHOP)
    name = new_name()
    env = {"SHOP": name, "SHOP_JOURNAL": str(tmp_path / "journal"), "SHOP_CAPSULES": str(tmp_path / "capsules")}
    env |= {"PYTHONPATH": str(tmp_path), "BUG": "1"}
    subprocess.run([sys.executable, "-c", SERVER], env=os.environ | env, check=True, timeout=60)
    Arena.unlink(name)
    (file,) = (tmp_path / "capsules").iterdir()
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.syspath_prepend(tmp_path)
    made: dict[str, Any] = {}
    exec(Capsule.open(file).as_test("shop:app"), made)
    (test,) = [value for key, value in made.items() if key.startswith("test_pay_of_")]

    def ran(*arguments: str) -> tuple[int, str]:
        code = command(["capsule", *arguments])
        done = capsys.readouterr()
        return code, done.out + done.err

    assert "POST /pay/{amount}" in ran("ls", str(tmp_path / "capsules"))[1]
    run = ("run", str(file), "--app", "shop:app")
    try:
        code, said = ran(*run)
        assert (code, "it failed in the same way: AssertionError: below zero" in said) == (0, True), said
        with pytest.raises(AssertionError, match="failed in the same way: AssertionError: below zero"):
            test()
        monkeypatch.setenv("BUG", "")
        code, said = ran(*run)
        assert (code, "it did not fail, and returned" in said) == (1, True), said
        test()
    finally:
        sys.modules.pop("shop", None)
    assert not Path(f"/dev/shm/recoverable.{name}").exists()
