"""Is a request that crashed kept, whatever it was like, without its secrets? Does it fail in the same way when it is replayed?"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import stat
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web

from recoverable import Arena, ArenaOptionError, between, recoverable
from recoverable._aiohttp_kept import _Remembering
from recoverable.aiohttp import arena_key, setup
from recoverable.capsules import Capsules
from recoverable.capsules.contents import Facts
from recoverable.capsules.hiding import UNSEARCHED
from recoverable.capsules.writer import Writer
from support.capsules import arenas, crashing, current, kept, only
from support.web import application, key, lose, ok, serving


def is_none_of(secrets: list[str], capsules: Capsules) -> None:
    """See that the files have none of these texts."""
    for file in Path(capsules.folder).iterdir():
        text = file.read_text()
        assert not [secret for secret in secrets if secret in text]


# -- what is kept ------------------------------------------------------------------------------------------------------------


async def test_a_crash_is_kept_and_named_in_its_event(journaled: Arena, capsules: Capsules) -> None:
    """Request, exception, steps and versions are in a file of the owner's alone, which the event of the rollback names."""

    @recoverable
    async def pay(request: web.Request) -> web.Response:
        journaled.root["n"] = 1
        await asyncio.sleep(0)
        raise ValueError(f"no {(await request.json())['what']}")

    with structlog.testing.capture_logs() as logs:
        async with crashing(journaled, pay, capsules, "/pay/{who}") as client:
            sent = {"X-Request-ID": "r-1", "X-More": "ä"}
            assert (await client.post("/pay/ann?a=1", json={"what": "tea"}, headers=sent)).status == 500
            await asyncio.to_thread(capsules.flush, 10)
            stats = journaled.stats()
    found = only(capsules)
    assert (stats.capsules, stats.capsules_dropped) == (1, 0)
    (told,) = [log for log in logs if log["event"] == "request.rolled_back"]
    assert told["capsule"] == Path(found.file).name
    assert found.request is not None
    assert (found.request["method"], found.request["url"], found.request["route"]) == (
        "POST",
        "/pay/ann?a=1",
        "/pay/{who}",
    )
    assert found.request["match"] == {"who": "ann"}
    assert found.body == b'{"what": "tea"}'
    assert found.request["body"]["whole"]
    assert found.error is not None
    assert (found.error["type"], found.error["message"]) == ("ValueError", "no tea")
    assert "test_capsules.py" in found.error["traceback"]
    assert found.error["frame"]["function"].endswith("pay")
    assert "await request.json()" in found.error["frame"]["code"]
    assert (found.request_id, len(found.steps), found.runs) == ("r-1", 1, ())
    assert found.arena["journal"] == journaled.native.journal.path
    assert found.versions.keys() == {"python", "recoverable", "aiohttp"}
    assert stat.S_IMODE(Path(found.file).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(capsules.folder).stat().st_mode) == 0o700


async def test_nothing_stands_in_the_way_unless_it_is_asked_for(arena: Arena, capsules: Capsules) -> None:
    """Without `capsules=` no run is noted, with it none is any more when the application has ended."""
    setup(web.Application(), arena)
    assert between._notes is None
    assert arena.native.capsules is None
    async with crashing(arena, recoverable(_crashes), capsules):
        assert between._notes is not None
    assert between._notes is None
    assert arena.native.capsules is None


async def _crashes(request: web.Request) -> web.Response:
    raise ValueError("always")


async def _never(request: web.Request) -> web.Response:
    request.app[arena_key].root["n"] = 1
    raise web.HTTPConflict


async def _returns(request: web.Request) -> web.Response:
    request.app[arena_key].root["n"] = 1
    return web.Response(status=500)


async def test_answers_and_cancellations_are_no_crashes(arena: Arena, capsules: Capsules) -> None:
    """A 409, a 500 that was returned, a request whose client has gone, and one that a retry has saved, are not kept."""
    tries = []

    @recoverable(retries=1)
    async def second(request: web.Request) -> web.Response:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError
        return ok()

    async def gone(request: web.Request) -> web.Response:
        arena.root["n"] = 1
        raise asyncio.CancelledError

    routes = {
        "/never": recoverable(_never),
        "/returns": recoverable(_returns),
        "/second": second,
        "/gone": recoverable(gone),
    }
    async with serving(application(Arena.open(arena.name), routes, capsules=capsules)) as client:
        for path in routes:
            with contextlib.suppress(aiohttp.ClientError):
                await client.get(path)
    assert tries == [1, 1]
    assert kept(capsules) == []


async def test_a_run_that_another_one_follows_is_told_of_in_the_last_one_s(arena: Arena, capsules: Capsules) -> None:
    """Of a request that crashes in each of its runs there is one capsule, which has what became of the earlier ones."""

    @recoverable(retries=2)
    async def thrice(request: web.Request) -> web.Response:
        raise ValueError("once more")

    @recoverable(max_conflicts=1)
    async def loses(request: web.Request) -> web.Response:
        arena.root["mine"] = 1
        await lose(arena)
        return ok()

    with arena.transaction():
        arena.root["contended"] = 0
    routes = {"/thrice": thrice, "/loses": loses}
    with structlog.testing.capture_logs() as logs:
        async with serving(application(Arena.open(arena.name), routes, capsules=capsules)) as client:
            assert (await client.get("/thrice")).status == 500
            assert (await client.get("/loses")).status == 503
    crashed, lost = kept(capsules)
    assert [run["error"] for run in crashed.runs] == ["ValueError: once more"] * 2
    assert lost.error is not None
    assert lost.error["type"] == "ConflictError"
    assert [run["conflict"]["path"] for run in lost.runs] == ["root"]
    (told,) = [log for log in logs if log["event"] == "request.conflict" and log["then"] == "raise"]
    assert told["capsule"] == Path(lost.file).name


async def test_each_kind_of_end_is_kept_once(arena: Arena, capsules: Capsules) -> None:
    """A time limit, a fallback, an end that is no Exception, an independent transaction: one capsule each."""

    class OwnError(BaseException):
        pass

    @recoverable(timeout=0.05)
    async def late(request: web.Request) -> web.Response:
        arena.root["n"] = 1
        await asyncio.sleep(30)
        return ok()

    @recoverable(fallback=lambda error, request: ok())
    async def falls_back(request: web.Request) -> web.Response:
        raise LookupError("back")

    @recoverable
    async def ends(request: web.Request) -> web.Response:
        arena.root["n"] = 1
        raise OwnError

    @recoverable(nested="independent")
    async def inner() -> None:
        arena.root["inner"] = 1
        raise KeyError("inner")

    @recoverable
    async def outer(request: web.Request) -> web.Response:
        arena.root["n"] = 1
        await inner()
        return ok()

    @recoverable
    async def catches(request: web.Request) -> web.Response:
        with contextlib.suppress(KeyError):
            await inner()
        return ok()

    routes = {"/late": late, "/back": falls_back, "/ends": ends, "/outer": outer, "/catches": catches}
    async with serving(application(Arena.open(arena.name), routes, capsules=capsules)) as client:
        for path in routes:
            with contextlib.suppress(aiohttp.ClientError):
                await client.get(path)
    told = [each.error["type"] for each in kept(capsules) if each.error is not None]
    assert [kind.rpartition(".")[2] for kind in told] == ["TimeoutError", "LookupError", "OwnError", "KeyError"]


async def test_applications_on_one_arena_have_the_same_capsules(
    arena: Arena, capsules: Capsules, tmp_path: Path
) -> None:
    """Others would keep secrets that the first ones hide; the same ones go on until the last application has ended."""

    @recoverable
    async def crashes(request: web.Request) -> web.Response:
        raise ValueError

    async with crashing(arena, crashes, capsules) as one:
        with pytest.raises(ArenaOptionError, match="Give setup\\(\\) of all applications on one arena the same"):
            setup(web.Application(), arena, capsules=Capsules(tmp_path / "others"))
        async with crashing(arena, crashes, capsules):
            pass
        assert (await one.get("/x")).status == 500
    assert len(kept(capsules)) == 1
    async with crashing(arena, crashes, Capsules(tmp_path / "others")) as other:
        assert (await other.get("/x")).status == 500
    assert len(kept(capsules)) == 1


async def test_a_step_that_was_stopped_is_kept_and_replayed(journaled: Arena, capsules: Capsules) -> None:
    """The watchdog's StepTooLongError is a crash as well; how long it took, its message says, is never the same."""
    arena = journaled

    @recoverable
    async def hangs(request: web.Request) -> web.Response:
        arena.root["n"] = 1
        end = time.monotonic() + 10
        while time.monotonic() < end:
            pass
        return ok()

    async with crashing(arena, hangs, capsules, step_limit=0.05) as client:
        assert (await client.get("/x")).status == 500
    found = only(capsules)
    assert found.error is not None
    assert found.error["type"] == "StepTooLongError"
    assert found.arena["step_limit"] == pytest.approx(0.05)
    await arena.durable()
    replay = await found.replay_async(hangs)
    assert replay.same, replay.text


# -- bodies ------------------------------------------------------------------------------------------------------------------


async def _unread(request: web.Request) -> bytes:
    return b""


async def _read(request: web.Request) -> bytes:
    return await request.read()


async def _streamed(request: web.Request) -> bytes:
    return b"".join([chunk async for chunk in request.content.iter_chunked(1000)])


@pytest.mark.parametrize("reads", [_unread, _read, _streamed])
@pytest.mark.parametrize("body", [b"", b"plain", b"\xff\x00\xfe", b"x" * 3000])
async def test_a_body_is_kept_however_it_was_read(arena: Arena, tmp_path: Path, reads: Any, body: bytes) -> None:
    """Not read, read or streamed, text or not: what has come of it is kept, up to the limit, and said if it is not all."""
    capsules = Capsules(tmp_path / "capsules", body_limit=2000)

    @recoverable
    async def crashes(request: web.Request) -> web.Response:
        await reads(request)
        raise ValueError

    async with crashing(arena, crashes, capsules) as client:
        assert (await client.post("/x", data=body)).status == 500
    found = only(capsules)
    assert found.request is not None
    assert found.body == body[:2000]
    assert found.request["body"]["whole"] == (len(body) <= 2000)
    assert any("body" in each for each in found.lacks) == (len(body) > 2000)
    assert found.request["body"]["size"] in (len(body), None)


async def test_a_body_that_hiding_makes_longer_is_not_called_whole(arena: Arena, tmp_path: Path) -> None:
    """What is cut after that is said to be cut; letters of all languages take what they took."""

    @recoverable
    async def crashes(request: web.Request) -> web.Response:
        await request.read()
        raise ValueError

    tea = "茶" * 600
    capsules = Capsules(tmp_path / "capsules", body_limit=2000, hide=["card", "cards"])
    async with crashing(arena, crashes, capsules) as client:
        for body in f'{{"card": "4111 1111", "text": "{tea}"}}', f'{{"cards": [{"1," * 900}1]}}':
            await client.post("/x", data=body.encode(), headers={"Content-Type": "application/json"})
    one, two = kept(capsules)
    assert (one.body or b"").decode() == f'{{"card": "[hidden]", "text": "{tea}"}}'
    assert not one.request or one.request["body"]["whole"]
    assert two.request is not None
    assert two.request["body"]["whole"] == (len(two.body or b"") < 2000)


def test_no_more_of_a_body_is_remembered_than_is_kept() -> None:
    """Of a long body the first chunks are remembered, up to the limit, whatever is read of it meanwhile."""
    buffer = _Remembering([b"1234"], 10)
    for _ in range(3):
        buffer.append(b"12345678")
        buffer.popleft()
    assert (b"".join(buffer.chunks), list(buffer)) == (b"123412345678", [b"12345678"])


async def test_a_body_that_was_read_before_or_has_not_come_is_said_to_be_so(arena: Arena, capsules: Capsules) -> None:
    """What a middleware has read is kept, what it has streamed is not, and of a body that comes later only its beginning."""

    @web.middleware
    async def reads(request: web.Request, handler: Any) -> web.StreamResponse:
        if request.method == "PUT":
            await request.read()
        elif request.method == "PATCH":
            await request.content.read()
        return await handler(request)  # type: ignore[no-any-return]

    app = web.Application(middlewares=[reads])
    app.router.add_route("*", "/x", recoverable(_crashes))
    setup(app, Arena.open(arena.name), capsules=capsules)
    async with serving(app) as client:
        await client.put("/x", data=b"before")
        await client.patch("/x", data=b"streamed")
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nbegin")
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
    read, streamed, late = kept(capsules)
    assert (read.body, read.lacks) == (b"before", [])
    assert streamed.body is None
    assert late.body == b"begin"
    assert "of 100" in late.lacks[0]


# -- secrets -----------------------------------------------------------------------------------------------------------------


async def test_secrets_are_in_no_part_of_the_file(arena: Arena, capsules: Capsules) -> None:
    """Headers, fields and what a message quotes of them: none of it is in the file, and the file says what was left out."""

    @recoverable
    async def crashes(request: web.Request) -> web.Response:
        data = await request.json()
        request[key("password")] = data
        try:
            raise KeyError(request.cookies["session"])
        except KeyError as error:
            raise ValueError(
                f"{data['user']['Password']!r} of {request.query['card']} at {request.path_qs}, {request.headers['x-api-key']}"
            ) from error

    secrets = ["hunter2", "4111", "s3cr3t-key", "c00kie", "t0ken", "dXNlcjp0MGtlbg"]
    async with crashing(arena, crashes, capsules, "/x/{card}") as client:
        answer = await client.post(
            "/x/4111-1?card=4111%202222",
            json={"user": {"Password": "hunter2"}, "n": 1},
            headers={
                "X-API-KEY": "s3cr3t-key",
                "Cookie": "session=c00kie",
                "Referer": "http://x/?card=4111+2222",
                "Authorization": "Basic " + base64.b64encode(b"user:t0ken").decode(),
            },
        )
        assert answer.status == 500
    found = only(capsules)
    is_none_of(secrets, capsules)
    assert found.error is not None
    assert found.error["message"].startswith("'[hidden]' of [hidden] at /x/[hidden]?card=")
    assert json.loads(found.body or b"") == {"user": {"Password": "[hidden]"}, "n": 1}
    told = {each.casefold() for each in found.hidden}
    assert told == {
        "header authorization",
        "header cookie",
        "header x-api-key",
        "query card",
        "path card",
        "field password",
    }


_streamed_cards: list[bytes] = []  # the second run finds none in the stream


@recoverable(retries=1)
async def _quotes(request: web.Request) -> web.Response:
    _streamed_cards.extend(re.findall(rb'"card": "(\d+)', b"".join([chunk async for chunk in request.content])))
    card = _streamed_cards[-1].decode()
    request[key("note")] = {"told": [card]}
    await _charges(card, True)
    return ok()


@recoverable(nested="independent")
async def _charges(number: str, now: bool) -> None:
    current().root["n"] = now
    try:
        raise KeyError(number)
    except KeyError as error:
        raise type(f"Refused{number}", (Exception,), {})(f"{number} was refused") from error


async def _repeats(request: web.Request) -> web.Response:
    body = await request.read()
    request.app[arena_key].root["n"] = 1
    raise ValueError(f"bad body {body[:100]!r}")


@pytest.mark.parametrize(
    ("handler", "body"),
    [
        (_quotes, b'{"card": "4111222233334444", "more": "%s"}' % (b"x" * 400_000)),
        (_quotes, b'{"card": "4111222233334444",}'),
        (recoverable(_repeats), b'{"card": "4111222233334444",}'),
    ],
)
async def test_what_quotes_a_body_that_can_not_be_searched_is_left_out(
    arena: Arena, tmp_path: Path, handler: Any, body: bytes
) -> None:
    """Its secrets are not known: messages, the traceback's too, earlier runs' errors, arguments, items, and names of classes."""
    arenas.append(arena)
    capsules = Capsules(tmp_path / "capsules", hide=["card"], body_limit="1 KiB")
    async with crashing(arena, handler, capsules) as client:
        assert (await client.post("/x", data=body, headers={"Content-Type": "application/json"})).status == 500
        await asyncio.to_thread(capsules.flush, 10)
    for found in kept(capsules):
        assert found.error is not None
        assert (found.error["message"], UNSEARCHED in found.error["traceback"]) == (UNSEARCHED, True)
        assert "test_capsules.py" in found.error["traceback"]
        assert all(run["error"] == UNSEARCHED for run in found.runs)
        assert found.body is None
    is_none_of(["4111222233334444"], capsules)


@pytest.mark.parametrize(
    ("reads", "content_type"), [(_unread, "application/json"), (_read, "application/octet-stream")]
)
async def test_no_message_is_left_out_without_need(arena: Arena, tmp_path: Path, reads: Any, content_type: str) -> None:
    """Where nobody has read the body, and where it is of a kind that has no fields."""

    @recoverable
    async def crashes(request: web.Request) -> web.Response:
        request.app[arena_key].root["n"] = len(await reads(request))
        raise ValueError("always")

    capsules = Capsules(tmp_path / "capsules", hide=["card"], body_limit="1 KiB")
    async with crashing(arena, crashes, capsules) as client:
        body = (b'{"card": "4111222' if reads is _unread else b"\0=") + b"3" * 3000
        assert (await client.post("/x", data=body, headers={"Content-Type": content_type})).status == 500
    found = only(capsules)
    assert found.error is not None
    assert found.error["message"] == "always"
    is_none_of(["4111222"], capsules)


async def test_a_cookie_has_the_value_that_aiohttp_gives_it(arena: Arena, capsules: Capsules) -> None:
    """However it was written; and a class that is made of a secret has another name in the file."""

    @recoverable
    async def crashes(request: web.Request) -> web.Response:
        request.app[arena_key].root["n"] = 1
        raise type(f"No{request.cookies['b']}", (Exception,), {})(f"who is {dict(request.cookies)}")

    async with crashing(arena, crashes, capsules) as client:
        cookies = 'a=1, b=other2secret; sid="ab\\073cdefgh"; c="p\\344sswort"'
        assert (await client.get("/x", headers={"Cookie": cookies})).status == 500
    found = only(capsules)
    assert found.error is not None
    assert found.error["type"] == "No[hidden]"
    is_none_of(["ab;cdefgh", "cdefgh", "other2secret", "sswort"], capsules)


# -- when there are many, or none can be written -------------------------------------------------------------------------------


async def test_a_storm_of_crashes_is_bounded(arena: Arena, tmp_path: Path) -> None:
    """Of hundreds of crashes at once some are written, and as many kept as asked for; the others are counted and told of once."""
    capsules = Capsules(tmp_path / "capsules", keep=5)
    with structlog.testing.capture_logs() as logs:
        async with crashing(arena, recoverable(_crashes), capsules) as client:
            answers = await asyncio.gather(*(client.get("/x") for _ in range(200)))
            assert {answer.status for answer in answers} == {500}
            await asyncio.to_thread(capsules.flush, 20)
    assert len(kept(capsules)) == 5
    assert capsules.written + capsules.dropped == 200
    assert capsules.written >= 32
    assert capsules.dropped
    assert 1 <= [log["event"] for log in logs].count("capsule.dropped") <= capsules.written


def test_a_storm_is_told_of_once(tmp_path: Path) -> None:
    """However many of it are written meanwhile; and another one again, when all of it is."""
    disk = threading.Semaphore(0)
    writer = Writer(str(tmp_path), 5, (), 0)

    def fill() -> int:
        """Take as many as there is room for, and one more, which is dropped."""
        where = {"name": "a", "identity": None, "epoch": None, "journal": None}
        for n in range(100):
            if writer.take("handler", lambda: Facts(0.0, "handler", None, where)) is None:
                return n
        raise AssertionError("there is room for more than 100")

    with structlog.testing.capture_logs() as logs, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "_write", lambda name, facts: disk.acquire())
        patch.setattr("recoverable.capsules.writer._PACE", 0)
        taken = fill()
        for n in range(1, 4):
            disk.release()
            while writer.written < n:
                time.sleep(0.001)
            taken += fill()
        assert [log["event"] for log in logs] == ["capsule.dropped"]
        disk.release(taken - 3)
        assert writer.flush(30)
        taken = fill()
        assert [log["event"] for log in logs] == ["capsule.dropped"] * 2
        disk.release(taken)
        assert writer.flush(30)


async def test_what_can_not_be_removed_leaves_the_others_bounded(arena: Arena, tmp_path: Path) -> None:
    """A folder that is named like a capsule is no capsule, and what was written beside it counts as written."""
    folder = tmp_path / "capsules"
    (folder / "20200101T000000-000001-aaaaaaaa-1-x.json").mkdir(parents=True)
    capsules = Capsules(folder, keep=2)
    async with crashing(arena, recoverable(_crashes), capsules) as client:
        for _ in range(4):
            assert (await client.get("/x")).status == 500
        await asyncio.to_thread(capsules.flush, 10)
    assert (capsules.written, capsules.dropped) == (4, 0)
    assert len(list(folder.iterdir())) == 3


async def test_a_folder_that_can_not_be_written_harms_no_request(arena: Arena, tmp_path: Path) -> None:
    """It is told of once, and again after one could be written."""
    (tmp_path / "file").write_text("")
    capsules = Capsules(tmp_path / "file")
    with structlog.testing.capture_logs() as logs:
        async with crashing(arena, recoverable(_crashes), capsules) as client:
            for _ in range(3):
                assert (await client.get("/x")).status == 500
                await asyncio.to_thread(capsules.flush, 10)
            (tmp_path / "file").unlink()
            assert (await client.get("/x")).status == 500
            await asyncio.to_thread(capsules.flush, 10)
    assert [log["detail"] for log in logs if log["event"] == "capsule.dropped"] == ["Not a directory"]
    assert (capsules.written, capsules.dropped) == (1, 3)
    assert len(kept(capsules)) == 1
