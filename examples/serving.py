"""What every example needs and none of them is about: options, a socket, bad luck."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import random
import signal
import socket
from typing import TYPE_CHECKING

import uvloop
from aiohttp import web

from recoverable import Arena
from recoverable.aiohttp import arena_key

if TYPE_CHECKING:
    from collections.abc import Callable

CRASH_RATE = web.AppKey("crash_rate", float)
CRASHES = ("raise", "cancel", "die")


class Injected(RuntimeError):
    """A bug, on purpose."""


async def bad_luck(
    app: web.Application, asked: str | None = None, *, kinds: tuple[str, ...] = ("raise", "cancel")
) -> None:
    """Crash in the middle of a handler: as `asked`, else for `--crash-rate` of the calls.

    Args:
        app: Says how often.
        asked: "raise" an exception; "cancel" the handler, as a client that hangs up does; "die" by SIGKILL, as by the
            OOM killer, with whatever the handler has written so far in the arena.
        kinds: Those to choose from where nothing is asked for. Never the whole server's death.
    """
    kind = asked
    if kind is None and random.random() < app[CRASH_RATE]:
        kind = random.choice(kinds)
    if kind == "raise":
        raise Injected("injected: a bug in the middle of a handler")
    if kind == "cancel" and (task := asyncio.current_task()):
        task.cancel()  # takes effect at the next await
        await asyncio.sleep(0)
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)


def asked_for(request: web.Request) -> str | None:
    """Return the crash that a client asks for, to see what happens: `curl -H 'X-Crash: raise' ...`."""
    kind = request.headers.get("X-Crash")
    return kind if kind in CRASHES else None


def serve(make_app: Callable[..., web.Application], name: str, about: str, argv: list[str] | None = None) -> None:
    """Run an example on the loopback interface until SIGTERM or Ctrl-C.

    Args:
        make_app: `make_app(arena, crash_rate=0.0)` builds the application.
        name: Of its arena, unless `--name` says otherwise.
        about: One line for `--help`.
        argv: The arguments; those of the process by default.
    """
    parser = argparse.ArgumentParser(prog=f"python -m examples.{name}", description=about)
    parser.add_argument("--name", default=name, help="of the arena: the same name finds the same state")
    parser.add_argument("--size", default="64 MiB", help="ceiling of the arena")
    parser.add_argument("--port", type=int, default=0, help="0: any free one, announced on stdout")
    parser.add_argument("--crash-rate", type=float, default=0.0, help="share of the requests that crash half-way")
    options = parser.parse_args(argv)

    arena = Arena.open(options.name, size=options.size)  # says on stderr what a killed predecessor left half-done
    app = make_app(arena, crash_rate=options.crash_rate)
    app.router.add_get("/verify", verify)
    app.router.add_get("/stats", stats)
    listening = socket.create_server(("127.0.0.1", options.port))
    recovered = arena.recovered and dataclasses.asdict(arena.recovered)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    print(json.dumps({"ready": url, "pid": os.getpid(), "recovered": recovered}), flush=True)
    web.run_app(
        app,
        sock=listening,
        loop=uvloop.new_event_loop(),
        handler_cancellation=True,  # a client that hangs up cancels its handler, which rolls back
        access_log=None,
        print=None,
    )


async def verify(request: web.Request) -> web.Response:
    """Walk the whole arena; damage raises `ArenaCorruptError`, a response of 500."""
    request.app[arena_key].verify()
    return web.json_response({"ok": True})


async def stats(request: web.Request) -> web.Response:
    """Answer the arena's own figures."""
    return web.json_response(dataclasses.asdict(request.app[arena_key].stats()))
