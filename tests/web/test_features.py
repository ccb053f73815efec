"""The example feature matrix, for real: raw writes of numpy over sockets, crashes, a restart."""

from __future__ import annotations

import pytest

from examples.features.load import problems, visit
from support.servers import serving

pytestmark = pytest.mark.slow  # each starts a server


async def test_basket_is_counted_on_both_sides_of_the_diagonal() -> None:
    """A basket that is answered 200 has counted each of its pairs twice, and items are similar by what they share."""
    async with serving("features") as client:
        assert await client.send("POST", "/baskets", {"basket": [1, 5, 9]}) == (200, {"pairs": 3})
        assert await client.send("POST", "/baskets", {"basket": [500, 2]}) == (200, {"pairs": 1})
        assert await client.get("/check") == {"symmetric": True, "sum": 8, "pairs": 4}
        assert await client.get("/similar/5") == {"similar": [[1, 0.5], [9, 0.5]]}
        assert (await client.get("/stats"))["traps"] > 0


@pytest.mark.parametrize(("crash", "answer"), [("raise", 500), ("cancel", 0)])
async def test_crash_between_the_halves_is_undone(crash: str, answer: int) -> None:
    """A basket that crashes when one half of the matrix is written leaves the matrix as it was."""
    async with serving("features") as client:
        await client.send("POST", "/baskets", {"basket": [1, 2]})
        assert (await client.send("POST", "/baskets", {"basket": [1, 2, 300]}, crash=crash))[0] == answer
        assert await client.get("/check") == {"symmetric": True, "sum": 2, "pairs": 1}


async def test_death_between_the_halves_is_undone_at_the_restart() -> None:
    """A server killed when one half of the matrix is written comes back with a symmetric one."""
    async with serving("features") as client:
        await client.send("POST", "/baskets", {"basket": [1, 2]})
        assert await client.send("POST", "/baskets", {"basket": [1, 2, 300]}, crash="die") == (0, None)
        await client.server.killed()
        await client.start()
        assert await client.get("/check") == {"symmetric": True, "sum": 2, "pairs": 1}


async def test_nonsense_is_refused() -> None:
    """Baskets that make no sense are answered 400, unknown items 404."""
    async with serving("features") as client:
        for bad in ([1], [1, 1], [1, 512], [-1, 2], ["a", "b"], list(range(21)), None):
            assert (bad, (await client.send("POST", "/baskets", {"basket": bad}))[0]) == (bad, 400)
        assert (await client.send("GET", "/similar/512"))[0] == 404
        assert await client.get("/check") == {"symmetric": True, "sum": 0, "pairs": 0}


async def test_matrix_stays_symmetric_under_crashes(seed: int) -> None:
    """With one basket in five crashing and baskets colliding on pages, the matrix is symmetric and adds up."""
    async with serving("features", "--crash-rate", "0.2") as client:
        answers = await client.visits(visit, seed, 10)
        assert set(answers) <= {200, 500, 503, 0}
        assert answers.count(200) > 20
        assert await problems(client.session, client.url) == []
        assert (await client.get("/stats"))["rollbacks"] > 0
