"""What is bought together: a numpy matrix in the arena, changed in place by raw writes, and undone all the same.

What it teaches

1. An `Array` is memory. Its `.view` is a numpy array on the very pages that all workers share: any numpy expression works
   on it, nothing is copied, and the library finds out which pages were written.
2. Raw writes are a part of the request like all others. `learn` below changes the matrix above its diagonal, waits, and
   changes it below: a crash in between undoes the first half, and nobody has ever seen the matrix asymmetric.
3. The rules that come with it. Get a new view after each `await`, and drop it soon. Reads through it are not
   checked for conflicts: fine for a recommendation, not for a balance. Two requests that write to one page may conflict.

Run it, break it, and ask whether the matrix is symmetric:

    python -m examples.features --port 8080 --crash-rate 0.2
    curl -d '{"basket": [1, 5, 9]}' localhost:8080/baskets
    curl localhost:8080/similar/5
    curl localhost:8080/check
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import numpy as np
from aiohttp import web

from recoverable import Arena, Array, Counter, Dict, recoverable
from recoverable.aiohttp import arena_key, setup

from ..serving import CRASH_RATE, asked_for, bad_luck, serve

ITEMS = 512  # the matrix takes a megabyte
LARGEST = 20  # items in a basket


@recoverable
async def learn(request: web.Request) -> web.Response:
    """Count each pair of a basket's items as bought together once more."""
    root = state(request)
    a, b = np.array(list(itertools.combinations(await basket_of(request), 2))).T
    root["together"].view[a, b] += 1  # scattered raw writes: some pages, each found by its first store
    await stock_check()  # others are served meanwhile, and see neither half
    await bad_luck(request.app, asked_for(request))
    root["together"].view[b, a] += 1
    root["pairs"].add(len(a))
    return web.json_response({"pairs": len(a)})


@recoverable
async def similar(request: web.Request) -> web.Response:
    """Answer the items that are bought with the same things as this one: the cosines of its row with all others."""
    item = int(request.match_info["item"])
    if item >= ITEMS:
        raise web.HTTPNotFound(text=f"there is no item {item}")
    together = state(request)["together"].view  # no await below: all of it is of one moment
    lengths = np.sqrt((together * together).sum(axis=1)) + 1e-9
    cosines = together @ together[item] / lengths / lengths[item]
    cosines[item] = 0
    best = np.argsort(-cosines, kind="stable")[:5]
    return web.json_response({"similar": [[int(n), round(float(cosines[n]), 6)] for n in best if cosines[n] > 0]})


@recoverable
async def check(request: web.Request) -> web.Response:
    """Answer whether the matrix is symmetric, and adds up to the pairs that were counted."""
    together = state(request)["together"].view
    return web.json_response(
        {
            "symmetric": bool((together == together.T).all()),
            "sum": int(together.sum()),
            "pairs": state(request)["pairs"].value,
        }
    )


# -- what they need ----------------------------------------------------------------------------------------------------


def state(request: web.Request) -> Dict[str, Any]:
    """Return the root of the state."""
    return request.app[arena_key].root


async def basket_of(request: web.Request) -> list[int]:
    """Return the basket; answer 400 if it makes no sense."""
    try:
        match await request.json():
            case {"basket": list(basket)} if 2 <= len(basket) <= LARGEST:
                items = sorted({int(item) for item in basket})
                if len(items) == len(basket) and items[0] >= 0 and items[-1] < ITEMS:
                    return items
    except (TypeError, ValueError):
        pass
    raise web.HTTPBadRequest(text=f"a basket is 2 to {LARGEST} different items below {ITEMS}")


async def stock_check() -> None:
    """Ask a pretended other service, which takes its time."""
    await asyncio.sleep(0.002)


def make_app(arena: Arena, *, crash_rate: float = 0.0) -> web.Application:
    """Build the application around an arena, which is filled on its first day only."""
    with arena.transaction():
        if "together" not in arena.root:
            arena.root.update(together=Array((ITEMS, ITEMS), "f4"), pairs=Counter())

    app = web.Application()
    app[CRASH_RATE] = crash_rate
    setup(app, arena, step_limit=2.0)
    app.add_routes(
        [web.post("/baskets", learn), web.get(r"/similar/{item:\d{1,9}}", similar), web.get("/check", check)]
    )
    return app


def main(argv: list[str] | None = None) -> None:
    """Serve the matrix."""
    serve(make_app, "features", "What is bought together: a numpy matrix in the arena.", argv)
