"""Players, and what must hold whatever they do."""

from __future__ import annotations

import random

import aiohttp

from .server import BEST


async def visit(session: aiohttp.ClientSession, url: str, rng: random.Random, players: int = 1000) -> int:
    """Play one game; return its status, 0 if it was not answered. Fewer players make more conflicts."""
    player, points = f"player-{rng.randrange(players)}", rng.randint(1, 100)
    try:
        async with session.post(f"{url}/play/{player}", json={"points": points}) as response:
            await response.read()
            return response.status
    except aiohttp.ClientConnectionError:
        return 0  # the handler was cancelled, or the server killed


async def problems(session: aiohttp.ClientSession, url: str) -> list[str]:
    """Compare the list of the best with the scores."""
    async with session.get(f"{url}/books") as response:
        books = await response.json()
    rows = sorted(([score, player] for player, score in books["scores"].items()), key=lambda row: (-row[0], row[1]))
    if books["top"] != rows[:BEST]:
        return [f"the best are said to be {books['top']}, and are {rows[:BEST]}"]
    return []
