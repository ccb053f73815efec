"""The shop's customers, and what must hold whatever they do."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import aiohttp

from .server import PRICES


async def visit(session: aiohttp.ClientSession, url: str, rng: random.Random) -> int:
    """Fill a cart and go to the checkout, as one customer does; return the checkout's status, 0 if it was not answered."""
    try:
        cookies: dict[str, str] = {}  # not the session's own jar, which all customers of a test would share
        for sku in rng.sample(sorted(PRICES), rng.randint(1, 3)):
            order = {"n": rng.randint(1, 3)}
            async with session.put(f"{url}/cart/{sku}", json=order, cookies=cookies) as response:
                if response.status != 200:
                    return response.status
                cookies["session"] = response.cookies["session"].value
        async with session.post(f"{url}/checkout", cookies=cookies) as response:
            await response.read()
            return response.status
    except aiohttp.ClientConnectionError:
        return 0  # the handler was cancelled, or the server killed


async def problems(session: aiohttp.ClientSession, url: str, *, lost_mails: bool = False) -> list[str]:
    """Compare stock, orders, revenue and mails; name each disagreement.

    Args:
        session: Asks the server.
        url: Where it is.
        lost_mails: The server was restarted, so its list of mails starts empty.
    """
    async with session.get(f"{url}/books") as response:
        books: dict[str, Any] = await response.json()
    found = []
    sold: Counter[str] = Counter()
    for order in books["orders"].values():
        sold.update(order["items"])
    for sku, stock in books["stock"].items():
        if stock + sold[sku] != books["opening"]:
            found.append(f"{sku}: {stock} left and {sold[sku]} sold, of {books['opening']}")
    if books["revenue"] != sum(order["total"] for order in books["orders"].values()):
        found.append(f"the revenue is {books['revenue']}, which the orders do not add up to")
    mails = Counter(mail["order"] for mail in books["mails"])
    found += [f"{n} mails for order {order}" for order, n in mails.items() if n != 1]
    found += [f"a mail for order {order}, which does not stand" for order in mails.keys() - books["orders"].keys()]
    if not lost_mails:
        found += [f"no mail for order {order}" for order in books["orders"].keys() - mails.keys()]
    return found
