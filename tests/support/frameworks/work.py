"""What the application of each framework does when it is asked, and how it says where it is: by files, which a test waits for."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import json
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from recoverable import Arena

#: Of the bodies that an application is to keep for another run.
BODY_LIMIT = 2**16


class Verbs(Protocol):
    """What each framework has a way of its own for; of one request."""

    def answer(self, text: str, status: int = 200) -> Any:
        """Return a response."""

    def error(self, status: int) -> Exception:
        """Return what is raised to be answered with a status."""

    async def read(self, kind: str) -> str:
        """Read the body in one of its ways: "json", "form", "multipart", "raw" or "parts"; "open": a file that is left open."""

    def stream(self, parts: AsyncIterator[str], events: bool) -> Any:
        """Return a response that is sent part by part, or as server-sent events."""

    def background(self, answer: Any, task: Callable[[], Awaitable[None]]) -> Any:
        """Return an answer that has a task run after it."""


class Work:
    """The work of one process.

    Each request has a key. It adds one to the arena's item of that name, and does then what it is asked for.
    """

    def __init__(self, arena: Arena, folder: Path) -> None:
        self.arena, self._folder = arena, folder
        self._gates: collections.Counter[str] = collections.Counter()

    async def gate(self, key: str) -> None:
        """Say that it is there, and wait to be let through; each time that a key comes here has a number."""
        self._gates[key] += 1
        name = f"{key}-{self._gates[key]}"
        (self._folder / f"there-{name}").touch()
        while not (self._folder / f"go-{name}").exists():  # noqa: ASYNC110 -- another process makes it
            await asyncio.sleep(0.005)

    def note(self, key: str, text: str) -> None:
        """Keep what a run was given: not in the arena, so that it is not rolled back."""
        with (self._folder / f"runs-{key}").open("a") as file:
            file.write(json.dumps(text) + "\n")

    async def do(self, verbs: Verbs, query: Mapping[str, str]) -> Any:
        """Handle a request."""
        key, what, status = query["key"], query["what"], int(query.get("status", 200))
        root = self.arena.root
        if what == "transfer":
            return await self._transfer(verbs, key)
        seen = root.get(key, 0)
        if "read" in query:
            self.note(key, await verbs.read(query["read"]))
        root[key] = seen + 1
        await asyncio.sleep(0)
        answer = verbs.answer(what, status)
        match what:
            case "raise":
                raise verbs.error(status)
            case "crash":
                raise RuntimeError("crash")
            case "cancel":
                current = asyncio.current_task()
                assert current is not None
                current.cancel()
                await asyncio.sleep(0)
            case "gate":
                await self.gate(key)
            case "full":
                root[f"{key}-big"] = bytes(2**26)
            case "stream" | "events":
                answer = verbs.stream(self._parts(key, "fails" in query), what == "events")
            case "background":
                answer = verbs.background(answer, functools.partial(self._after, key))
                await asyncio.sleep(0.01)  # Quart's would run now, if it were not for its transaction
                if "fails" in query:
                    raise RuntimeError("crash")
        return answer

    async def _parts(self, key: str, fails: bool) -> AsyncIterator[str]:
        yield "1"
        await self.gate(key)
        with self.arena.transaction():
            self.arena.root[f"{key}-part"] = self.arena.root[key]
        if fails:
            raise RuntimeError("crash")
        yield "2"

    async def _after(self, key: str) -> None:
        with self.arena.transaction():
            self.arena.root[f"{key}-after"] = self.arena.root.get(key, 0)
        (self._folder / f"after-{key}").touch()

    async def _transfer(self, verbs: Verbs, key: str) -> Any:
        accounts = self.arena.root["accounts"]
        source, target = hash(key) % len(accounts), (hash(key) + 1) % len(accounts)
        accounts[source] -= 1
        await asyncio.sleep(0)
        accounts[target] += 1
        self.arena.root["audit"][key] = True
        return verbs.answer("transferred")

    async def depend(self, query: Mapping[str, str]) -> None:
        """Write what a dependency does, which may be in a transaction or not."""
        with self.arena.transaction():
            self.arena.root[f"{query['key']}-dependency"] = 1

    async def message(self, text: str) -> str:
        """Handle a message of a WebSocket: a key, and what it is to do."""
        key, what = text.split()
        self.arena.root[key] = self.arena.root.get(key, 0) + 1
        await asyncio.sleep(0)
        if what == "gate":
            await self.gate(key)
        if what == "crash":
            raise RuntimeError("crash")
        return what


class Between:
    """A middleware of the program's: it reads the body, gives it on in one part, and changes the answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Be in between."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = query_of(scope).get("instead")
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        given = [{"type": "http.request", "body": body, "more_body": False}]

        async def receiving() -> Any:
            return given.pop() if given else await receive()

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], (b"x-between", b"%d" % len(body))]
                message = message | {"headers": headers, "status": int(status or message["status"])}
            await send(message)

        await self.app(scope, receiving, sending)


class Only:
    """A middleware where a request's path begins so, and nothing elsewhere."""

    def __init__(self, *arguments: Any, app: Any = None) -> None:
        """Take an application, which Litestar gives by its name, the path and the middleware."""
        self._app, self._path, middleware = (app, *arguments) if app is not None else arguments
        self._there = middleware(self._app)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Be in between, or not."""
        app = self._there if scope.get("path", "").startswith(self._path) else self._app
        await app(scope, receive, send)


async def events_of(parts: AsyncIterator[str]) -> AsyncIterator[str]:
    """Write parts as server-sent events, for frameworks that don't."""
    async for part in parts:
        yield f"data: {part}\n\n"


class Outermost:
    """What is around an application, and ours: it says how each request has ended, at last."""

    def __init__(self, app: Any, folder: Path) -> None:
        self._app, self._folder = app, folder

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        ended = "returned"
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            ended = type(error).__name__
            raise
        finally:
            with contextlib.suppress(KeyError):
                file = self._folder / f"ended-{query_of(scope)['key']}"
                file.with_suffix(".new").write_text(ended)
                file.with_suffix(".new").rename(file)


def query_of(scope: Any) -> dict[str, str]:
    """Return the arguments of a request."""
    return dict(parse_qsl(scope["query_string"].decode()))
