"""The example leaderboard, for real: a hot spot, a rate limit, crashes, a restart."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.test_utils import TestClient, TestServer

from examples.leaderboard.load import problems, visit
from examples.leaderboard.server import make_app
from recoverable import Arena
from support.servers import serving

pytestmark = pytest.mark.slow  # each starts a server


async def test_game_adds_points_and_ranks() -> None:
    """A game adds to the player's score and to the list of the best, and says where the player is now."""
    async with serving("leaderboard") as client:
        assert await client.send("POST", "/play/ann", {"points": 7}) == (200, {"score": 7, "rank": 1, "before": None})
        assert await client.send("POST", "/play/bob", {"points": 9}) == (200, {"score": 9, "rank": 1, "before": None})
        assert await client.send("POST", "/play/ann", {"points": 7}) == (200, {"score": 14, "rank": 1, "before": 2})
        assert await client.get("/top") == {"top": [[14, "ann"], [9, "bob"]]}
        for bad in ({"points": 0}, {"points": 1001}, {"points": "1"}, []):
            assert (bad, (await client.send("POST", "/play/ann", bad))[0]) == (bad, 400)


@pytest.mark.parametrize(("crash", "answer"), [("raise", 500), ("cancel", 0)])
async def test_crash_undoes_the_game_but_not_the_attempt(crash: str, answer: int) -> None:
    """A game that crashes leaves no score, and counts as an attempt all the same."""
    async with serving("leaderboard") as client:
        assert (await client.send("POST", "/play/ann", {"points": 7}, crash=crash))[0] == answer
        books = await client.get("/books")
        assert (books["scores"], books["top"]) == ({}, [])
        assert books["attempts"]["ann"][1] == 1


async def test_game_that_runs_again_counts_as_one_attempt() -> None:
    """Of games at the same time, those that lose a conflict run again, and count once all the same."""
    async with serving("leaderboard") as client:
        answers = await asyncio.gather(*(client.send("POST", "/play/ann", {"points": 1}) for _ in range(8)))
        assert {status for status, _ in answers} == {200}
        assert (await client.get("/stats"))["conflicts"] > 0
        books = await client.get("/books")
        assert (books["scores"], books["top"]) == ({"ann": 8}, [[8, "ann"]])
        assert books["attempts"]["ann"][1] <= 8


async def test_limit_is_reached_by_crashing_too(arena: Arena) -> None:
    """Of a player's games that all crash, as many as the limit are played; the others are answered 429."""
    app = make_app(Arena.open(arena.name), limit=20, window=10**12)  # one window, however slow the machine is
    async with TestClient(TestServer(app)) as client:

        async def play() -> int:
            async with client.post("/play/eve", json={"points": 1}, headers={"X-Crash": "raise"}) as response:
                return response.status

        statuses = await asyncio.gather(*(play() for _ in range(50)))
    assert (statuses.count(500), statuses.count(429)) == (20, 30)
    assert arena.root["attempts"]["eve"][1] == 20


async def test_death_in_a_game_keeps_what_was_committed() -> None:
    """A server killed in the middle of a game comes back with the scores before it, and with the attempt."""
    async with serving("leaderboard") as client:
        await client.send("POST", "/play/ann", {"points": 7})
        assert await client.send("POST", "/play/bob", {"points": 9}, crash="die") == (0, None)
        await client.server.killed()
        await client.start()
        books = await client.get("/books")
        assert (books["scores"], books["top"]) == ({"ann": 7}, [[7, "ann"]])
        assert books["attempts"]["bob"][1] == 1


async def test_best_are_right_when_everybody_collides(seed: int) -> None:
    """With eight games at once, all changing the ten best, and one in five crashing, the list fits the scores."""
    async with serving("leaderboard", "--crash-rate", "0.2") as client:
        answers = await client.visits(visit, seed, 10)
        assert set(answers) <= {200, 500, 503, 0}
        assert answers.count(200) > 20
        assert await problems(client.session, client.url) == []
        assert (await client.get("/stats"))["conflicts"] > 0
