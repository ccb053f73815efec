"""Other examples than the bank, explored: callbacks, raw writes, an independent transaction, messages of a WebSocket."""

from __future__ import annotations

import uuid
from typing import Any

import aiohttp
import pytest
import uvloop

from examples.chat import server as chat
from examples.features import server as features
from examples.leaderboard import server as leaderboard
from examples.shop import server as shop
from recoverable import Arena
from recoverable.faults import explore

np = pytest.importorskip("numpy")
pytestmark = [pytest.mark.slow, pytest.mark.crash]
VISITOR = "v" * 32


def open_shop(arena: Arena) -> None:
    """Fill the arena as the shop's first day does, and a cart."""
    shop.make_app(arena)
    with arena.transaction():
        arena.root["sessions"][VISITOR] = shop.Session()
        arena.root["sessions"][VISITOR].cart.update({"mug": 2, "tea": 1})


async def check_out(client: Any) -> int:
    """Buy what is in the cart."""
    async with client.post("/checkout", headers={"Cookie": f"session={VISITOR}"}) as response:
        return int(response.status)


def all_sold_is_ordered(arena: Arena) -> bool:
    """Stock, order, cart and revenue changed together."""
    root = arena.root
    sold = {
        sku: shop.OPENING - product.stock for sku, product in root["products"].items() if product.stock < shop.OPENING
    }
    orders, session = list(root["orders"].values()), root["sessions"][VISITOR]
    if not orders:
        return not sold and root["revenue"].value == 0 and len(session.cart) == 2
    return bool(
        orders[0]["items"] == sold
        and root["revenue"].value == orders[0]["total"]
        and not session.cart
        and session.orders == 1
    )


def test_every_point_of_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash at any point sells all that is in the cart, or nothing."""
    monkeypatch.setattr(shop.uuid, "uuid4", lambda: uuid.UUID(int=7))  # each run the same
    report = explore(check_out, app=shop.make_app, prepare=open_shop, invariant=all_sold_is_ordered)
    assert report.ok
    assert report.tried == report.found
    assert set(report.outcomes) == {"rolled back", "committed"}


def first_day(arena: Arena) -> None:
    """Fill the arena as the matrix's first day does."""
    features.make_app(arena)


async def learn(client: Any) -> int:
    """Send a basket of four things; return the answer."""
    async with client.post("/baskets", json={"basket": [1, 5, 9, 200]}) as response:
        return int(response.status)


def symmetric(arena: Arena) -> bool:
    """Nobody's half of the matrix is there without the other, and the pairs explain it."""
    together = np.array(arena.root["together"][:])
    return bool((together == together.T).all() and together.sum() == 2 * arena.root["pairs"].value)


def test_every_point_of_a_basket() -> None:
    """A crash between the two raw writes, a kill in any phase, a full arena: the matrix stays symmetric."""
    report = explore(learn, app=features.make_app, prepare=first_day, invariant=symmetric)
    assert report.ok
    assert report.tried == report.found
    assert {"line", "await", "commit", "phase"} <= report.found.keys()
    assert set(report.outcomes) == {"rolled back", "committed"}


async def play(client: Any) -> int:
    """Play a game."""
    async with client.post("/play/ann", json={"points": 7}) as response:
        return int(response.status)


def best_are_the_best(arena: Arena) -> bool:
    """The list of the best is that of the scores."""
    root = arena.root
    return sorted((-score, player) for player, score in root["scores"].items()) == [(-s, p) for s, p in root["top"]]


def test_every_point_of_a_game(monkeypatch: pytest.MonkeyPatch) -> None:
    """The score and the list change together; the attempt, which is independent, may stand alone."""
    monkeypatch.setattr(leaderboard.time, "time", lambda: 1e9)
    report = explore(
        play, app=leaderboard.make_app, prepare=leaderboard.make_app, invariant=best_are_the_best, atomic=False
    )
    assert report.ok
    assert report.tried == report.found
    assert {"rolled back", "committed", "other"} == set(report.outcomes)


heard: list[dict[str, Any]] = []


async def talk(client: Any) -> str:
    """Let two people into a room, and one say something; note what they hear."""
    limits = aiohttp.ClientWSTimeout(ws_receive=0.5, ws_close=0.5)
    async with (
        client.ws_connect("/rooms/lobby?who=bob", timeout=limits) as bob,
        client.ws_connect("/rooms/lobby?who=ann", timeout=limits) as ann,
    ):
        for each in (bob, ann):
            heard.append(await each.receive_json())
        await ann.send_json({"text": "hello"})
        answer = await ann.receive_json()
        if "error" in answer:
            return "refused"
        heard.extend([answer, await bob.receive_json()])
    return "said"


def a_word_was_said(arena: Arena) -> None:
    """Fill the arena as the chat's first day does, and a room."""
    chat.make_app(arena)
    with arena.transaction():
        arena.root["rooms"]["lobby"] = {"said": 1, "history": chat.Deque(maxlen=chat.KEPT)}
        arena.root["rooms"]["lobby"]["history"].append({"n": 1, "who": "bob", "text": "hi"})


def all_that_was_heard_is_kept(arena: Arena) -> bool:
    """What was said is numbered, and nobody has heard what is not in the history."""
    room = arena.root["rooms"]["lobby"].to_python()
    numbers = [message["n"] for message in room["history"]]
    return numbers == list(range(1, room["said"] + 1)) and all(message in room["history"] for message in heard)


def test_every_point_of_a_message() -> None:
    """A message over a WebSocket is kept and told, or neither, whatever happens to its transaction or its connection."""
    report = explore(
        talk,
        app=chat.make_app,
        prepare=a_word_was_said,
        invariant=all_that_was_heard_is_kept,
        before=heard.clear,
        loop_factory=uvloop.new_event_loop,  # as the example serves
    )
    assert report.ok
    assert report.tried == report.found
    assert report.found.keys() == {"line", "await", "write", "alloc", "commit", "phase"}
    assert set(report.outcomes) == {"rolled back", "committed"}
