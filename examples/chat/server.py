"""A chat that forgets nothing it has said and says nothing it has not kept.

What it teaches

1. A WebSocket lives for hours and is no unit of work; a *message* is. The handler stays undecorated, and each message is
   a transaction of its own: `say` is decorated. One that crashes is undone; the connection goes on.
2. The others hear of a message by `after_commit`: never of one that was rolled back, and in the order of the commits.
3. Connections are no state: they stay outside the arena. The history is, and is there after `kill -9`.

Run it, and talk to it from two terminals with any WebSocket client:

    python -m examples.chat --port 8080 --crash-rate 0.2
    websocat 'ws://localhost:8080/rooms/lobby?who=ann'
    {"text": "hello"}
    {"text": "this one goes wrong", "crash": "raise"}
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from typing import Any

from aiohttp import WSMsgType, web

from recoverable import Arena, Deque, after_commit, recoverable
from recoverable.aiohttp import arena_key, setup

from ..serving import CRASH_RATE, CRASHES, Injected, bad_luck, serve

KEPT = 100  # messages of each room
LONGEST = 1000  # characters
MEMBERS = web.AppKey("members", defaultdict)  # room -> inbox of each that is connected -> its socket

Message = dict[str, Any]


@recoverable
async def say(app: web.Application, room: str, who: str, text: str, crash: str | None = None) -> Message:
    """Add a message to a room's history: one transaction."""
    rooms = app[arena_key].root["rooms"]
    if room not in rooms:
        rooms[room] = {"said": 0, "history": Deque(maxlen=KEPT)}
    place = rooms[room]
    place["said"] += 1
    message = {"n": place["said"], "who": who, "text": text}
    place["history"].append(message)
    after_commit(tell, app, room, message)
    await bad_luck(app, crash, kinds=("raise",))
    return message


def tell(app: web.Application, room: str, message: Message) -> None:
    """Put a message into the inbox of everybody in the room."""
    for inbox in app[MEMBERS][room]:
        inbox.put_nowait(message)


async def chat(request: web.Request) -> web.WebSocketResponse:
    """Serve one connection: the history first, then what is said, one transaction for each message that comes in."""
    app, room, who = request.app, request.match_info["room"], request.query.get("who", "somebody")
    socket = web.WebSocketResponse(heartbeat=30, timeout=3, max_msg_size=16 * LONGEST)
    await socket.prepare(request)
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    for message in recent(app, room):  # no await from here until we are a member: nothing is missed, nothing doubled
        inbox.put_nowait(message)
    app[MEMBERS][room][inbox] = socket
    delivery = asyncio.create_task(deliver(inbox, socket))
    try:
        async for frame in socket:
            try:
                text, crash = parse(frame.data if frame.type is WSMsgType.TEXT else "")
                await say(app, room, who, text, crash)
            except (ValueError, Injected) as error:  # undone; whoever sent it is told, nobody else
                await socket.send_json({"error": str(error)})
    finally:
        del app[MEMBERS][room][inbox]
        delivery.cancel()
    return socket


@recoverable
async def history(request: web.Request) -> web.Response:
    """Answer what a room remembers, for clients that only look."""
    room = request.match_info["room"]
    rooms = request.app[arena_key].root["rooms"]
    if room not in rooms:
        raise web.HTTPNotFound(text=f"nothing was ever said in {room}")
    return web.json_response({"said": rooms[room]["said"], "history": recent(request.app, room)})


# -- what they need ----------------------------------------------------------------------------------------------------


def recent(app: web.Application, room: str) -> list[Message]:
    """Return the messages that a room remembers, as plain objects."""
    rooms = app[arena_key].root["rooms"]
    return rooms[room]["history"].to_python() if room in rooms else []


def parse(data: str) -> tuple[str, str | None]:
    """Return a message's text, and the crash that it asks for."""
    match json.loads(data) if data else None:
        case {"text": str(text), "crash": str(crash)} if 0 < len(text) <= LONGEST and crash in CRASHES:
            return text, crash
        case {"text": str(text)} if 0 < len(text) <= LONGEST:
            return text, None
    raise ValueError(f'a message is {{"text": "..."}}, of up to {LONGEST} characters')


async def deliver(inbox: asyncio.Queue[Message], socket: web.WebSocketResponse) -> None:
    """Send what arrives, at the speed of this client, until it is gone."""
    with contextlib.suppress(ConnectionError):
        while True:
            await socket.send_json(await inbox.get())


async def hang_up(app: web.Application) -> None:
    """Close what is open at shutdown; aiohttp would wait for the clients to do it."""
    sockets = [socket for room in app[MEMBERS].values() for socket in room.values()]
    await asyncio.gather(*(socket.close(code=1001, message=b"the server is going down") for socket in sockets))


def make_app(arena: Arena, *, crash_rate: float = 0.0) -> web.Application:
    """Build the application around an arena, which is empty on its first day."""
    with arena.transaction():
        arena.root.setdefault("rooms", {})

    app = web.Application()
    app[MEMBERS] = defaultdict(dict)
    app[CRASH_RATE] = crash_rate
    app.on_shutdown.append(hang_up)
    setup(app, arena, step_limit=2.0)
    app.add_routes([web.get("/rooms/{room}", chat), web.get("/rooms/{room}/history", history)])
    return app


def main(argv: list[str] | None = None) -> None:
    """Serve the chat."""
    serve(make_app, "chat", "A chat that forgets nothing it has said.", argv)
