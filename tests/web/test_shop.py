"""The example shop, for real: carts, orders and mails over sockets, crashes, a restart."""

from __future__ import annotations

import pytest

from examples.shop.load import problems, visit
from support.servers import serving

pytestmark = pytest.mark.slow  # each starts a server


async def test_order_takes_stock_empties_the_cart_and_sends_one_mail() -> None:
    """A checkout that is answered 200 has changed stock, orders and revenue, and its mail has left."""
    async with serving("shop") as client:
        assert await client.send("PUT", "/cart/mug", {"n": 2}) == (200, {"mug": 2})
        assert await client.send("PUT", "/cart/tea", {"n": 1}) == (200, {"mug": 2, "tea": 1})
        assert await client.send("PUT", "/cart/tea", {"n": 0}) == (200, {"mug": 2})
        status, order = await client.send("POST", "/checkout")
        assert (status, order["total"]) == (200, 2 * 12_00 + 4_90)
        books = await client.get("/books")
        assert books["stock"]["mug"] == books["opening"] - 2
        assert books["orders"] == {order["order"]: {"items": {"mug": 2}, "total": order["total"]}}
        assert books["mails"] == [order]
        assert (await client.send("POST", "/checkout"))[0] == 409  # the cart is empty now
        assert await problems(client.session, client.url) == []


@pytest.mark.parametrize(("crash", "answer"), [("raise", 500), ("cancel", 0)])
async def test_crash_in_the_checkout_leaves_stock_cart_and_mailbox_alone(crash: str, answer: int) -> None:
    """A checkout that crashes after it took the stock has taken nothing, and no mail has left; the cart is still full."""
    async with serving("shop") as client:
        await client.send("PUT", "/cart/mug", {"n": 2})
        before = await client.get("/books")
        assert (await client.send("POST", "/checkout", crash=crash))[0] == answer
        assert await client.get("/books") == before
        assert (await client.send("POST", "/checkout"))[0] == 200


async def test_cart_outlives_the_process() -> None:
    """A server killed in the middle of a checkout comes back with the full stock and the full cart."""
    async with serving("shop") as client:
        await client.send("PUT", "/cart/pot", {"n": 3})
        before = await client.get("/books")
        assert await client.send("POST", "/checkout", crash="die") == (0, None)
        await client.server.killed()
        await client.start()
        assert await client.get("/books") == before
        assert (await client.send("POST", "/checkout"))[0] == 200


async def test_nonsense_is_refused() -> None:
    """Unknown products are answered 404, impossible numbers 400, an empty cart 409; too many pieces give nothing away."""
    async with serving("shop") as client:
        assert (await client.send("PUT", "/cart/car", {"n": 1}))[0] == 404
        for bad in ({"n": -1}, {"n": 101}, {"n": "1"}, {}, []):
            assert (bad, (await client.send("PUT", "/cart/mug", bad))[0]) == (bad, 400)
        assert (await client.send("POST", "/checkout"))[0] == 409


async def test_orders_and_mails_agree_under_crashes(seed: int) -> None:
    """With one checkout in five crashing and customers colliding, stock, orders, revenue and mails add up."""
    async with serving("shop", "--crash-rate", "0.2") as client:
        answers = await client.visits(visit, seed, 10)
        assert {200, 500, 0} <= set(answers) <= {200, 500, 503, 0}
        assert await problems(client.session, client.url) == []
        assert (await client.get("/stats"))["conflicts"] > 0
