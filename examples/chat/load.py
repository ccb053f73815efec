"""People who chat, and what must hold whatever they say."""

from __future__ import annotations

import random

import aiohttp

ROOMS = ("lobby", "games", "music")


async def visit(session: aiohttp.ClientSession, url: str, rng: random.Random) -> int:
    """Enter a room, say a few things, hear them, leave; return how many were kept."""
    room, who, kept = rng.choice(ROOMS), f"visitor-{rng.randrange(10**6)}", 0
    try:
        async with session.ws_connect(f"{url}/rooms/{room}?who={who}") as socket:
            for n in range(rng.randint(1, 5)):
                await socket.send_json({"text": f"{who} says {n}"})
                while True:  # others talk meanwhile
                    message = await socket.receive_json()
                    if "error" in message or (message["who"], message["text"]) == (who, f"{who} says {n}"):
                        break
                kept += "error" not in message
    except (aiohttp.ClientError, TypeError):
        pass  # the server was killed: a frame that says "closed" is no JSON
    return kept


async def problems(session: aiohttp.ClientSession, url: str) -> list[str]:
    """Look at each room's history: consecutive numbers up to how much was said, and not too many of them."""
    found = []
    for room in ROOMS:
        async with session.get(f"{url}/rooms/{room}/history") as response:
            if response.status == 404:
                continue
            kept = await response.json()
        numbers = [message["n"] for message in kept["history"]]
        if numbers != list(range(kept["said"] - len(numbers) + 1, kept["said"] + 1)):
            found.append(f"{room} has said {kept['said']} and remembers {numbers}")
    return found
