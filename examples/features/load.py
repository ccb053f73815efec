"""Customers who fill baskets, and what must hold whatever they buy."""

from __future__ import annotations

import random

import aiohttp

from .server import ITEMS


async def visit(session: aiohttp.ClientSession, url: str, rng: random.Random, largest: int = 6) -> int:
    """Buy a basket of neighbouring items and ask for more like it; return the first status that is not 200, or 200."""
    middle = min(int(rng.expovariate(1 / 40)), ITEMS - 1)  # few items are bought often, most of them seldom
    near = [item for item in range(middle - 10, middle + 10) if 0 <= item < ITEMS]
    basket = rng.sample(near, rng.randint(2, largest))
    try:
        async with session.post(f"{url}/baskets", json={"basket": basket}) as response:
            await response.read()
            if response.status != 200:
                return response.status
        async with session.get(f"{url}/similar/{basket[0]}") as response:
            await response.read()
            return response.status
    except aiohttp.ClientConnectionError:
        return 0  # the handler was cancelled, or the server killed


async def problems(session: aiohttp.ClientSession, url: str) -> list[str]:
    """Ask whether the matrix is symmetric and adds up."""
    async with session.get(f"{url}/check") as response:
        state = await response.json()
    found = [] if state["symmetric"] else ["the matrix is not symmetric"]
    if state["sum"] != 2 * state["pairs"]:
        found.append(f"the matrix adds up to {state['sum']}, and {state['pairs']} pairs were counted")
    return found
