"""A leaderboard: one place that everybody wants to change, and a limit that a crash must not reset.

What it teaches

1. A hot spot. Each game reads the ten best and may change them, so games at the same time conflict: one commits, the
   others run again on what it has left. Nobody locks anything, and no score is lost.
2. What must outlive a rollback is committed on its own, by `transaction(independent=True)` inside the handler. The rate
   limit counts *requests*: if the count were a part of the game's transaction, a request that crashes would be free, and
   a client could crash as often as it likes. `attempt()` tells a request from its re-runs, which are not counted.

Run it, break it, and look at the ten best:

    python -m examples.leaderboard --port 8080 --crash-rate 0.2
    curl -d '{"points": 7}' localhost:8080/play/ann
    curl localhost:8080/top
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiohttp import web

from recoverable import Arena, Dict, List, attempt, recoverable
from recoverable.aiohttp import arena_key, setup

from ..serving import CRASH_RATE, asked_for, bad_luck, serve

BEST = 10
LIMIT = web.AppKey("limit", int)  # games in a window, for each player
WINDOW = web.AppKey("window", int)  # seconds


@recoverable
async def play(request: web.Request) -> web.Response:
    """Count the attempt; add points to the player's score and keep the list of the ten best: both, or none."""
    player, points = request.match_info["player"], await points_of(request)
    if attempt() == 1:  # a run after a conflict is no new request
        with request.app[arena_key].transaction(independent=True):  # stands, whatever becomes of the game
            count_attempt(state(request)["attempts"], player, request.app[LIMIT], request.app[WINDOW])

    scores, top = state(request)["scores"], state(request)["top"]
    before = rank(top, player)  # read before the wait: who else changes the list meanwhile conflicts with us
    score = scores.get(player, 0) + points
    scores[player] = score
    await referee()
    await bad_luck(request.app, asked_for(request))
    enter(top, player, score)
    return web.json_response({"score": score, "rank": rank(top, player), "before": before})


@recoverable
async def best(request: web.Request) -> web.Response:
    """Answer the ten best."""
    return web.json_response({"top": [list(row) for row in state(request)["top"]]})


@recoverable
async def books(request: web.Request) -> web.Response:
    """Answer everything, as of one moment."""
    return web.json_response(state(request).to_python())


# -- what they need ----------------------------------------------------------------------------------------------------


def state(request: web.Request) -> Dict[str, Any]:
    """Return the root of the state."""
    return request.app[arena_key].root


async def points_of(request: web.Request) -> int:
    """Return the points of a game; answer 400 if they make no sense."""
    try:
        match await request.json():
            case {"points": int(points)} if 0 < points <= 1000:
                return points
    except ValueError:
        pass
    raise web.HTTPBadRequest(text='say how many, from 1 to 1000: {"points": 7}')


def count_attempt(attempts: Dict[str, Any], player: str, limit: int, seconds: int) -> None:
    """Count one more attempt in this window of so many seconds; answer 429 beyond the limit."""
    window = int(time.time()) // seconds
    since, n = attempts.get(player, (window, 0))
    n = n + 1 if since == window else 1
    if n > limit:
        raise web.HTTPTooManyRequests(
            headers={"Retry-After": str(seconds)}, text=f"{limit} games in {seconds} s are enough"
        )
    attempts[player] = (window, n)


async def referee() -> None:
    """Ask a pretended other service whether the game was fair, which takes its time."""
    await asyncio.sleep(0.002)


def enter(top: List[Any], player: str, score: int) -> None:
    """Put a player's new score where it belongs."""
    rows = [(score, player), *(row for row in top if row[1] != player)]
    rows = sorted(rows, key=lambda row: (-row[0], row[1]))[:BEST]
    if rows != list(top):  # to store what is there already would be a change, and a conflict
        top[:] = rows


def rank(top: List[Any], player: str) -> int | None:
    """Return a player's place among the best, from 1."""
    return next((place for place, row in enumerate(top, 1) if row[1] == player), None)


def make_app(arena: Arena, *, crash_rate: float = 0.0, limit: int = 50, window: int = 1) -> web.Application:
    """Build the application around an arena, which is filled on its first day only."""
    with arena.transaction():
        if "scores" not in arena.root:
            arena.root.update(scores={}, top=[], attempts={})

    app = web.Application()
    app[CRASH_RATE] = crash_rate
    app[LIMIT] = limit
    app[WINDOW] = window
    setup(app, arena, step_limit=2.0)
    app.add_routes([web.post("/play/{player}", play), web.get("/top", best), web.get("/books", books)])
    return app


def main(argv: list[str] | None = None) -> None:
    """Serve the leaderboard."""
    serve(make_app, "leaderboard", "A leaderboard with a rate limit.", argv)
