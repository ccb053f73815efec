"""A shop that sends no mail for an order that does not stand.

What it teaches

1. Sessions and carts are state in the process, found by a cookie, and survive the process: no Redis beside it.
2. `Record`s for what has fields, `Dict`s for what has keys, a `Counter` for a total that everybody adds to.
3. A handler may run twice (two customers want the last mug: one of them runs again) or not at all in the end. So what
   leaves the process goes to `after_commit`: one mail for each order, and none for an order that was rolled back.

Run it, break it, and compare orders with mails:

    python -m examples.shop --port 8080 --crash-rate 0.2
    curl -c jar -b jar -X PUT localhost:8080/cart/mug -d '{"n": 2}'
    curl -c jar -b jar -X POST -H 'X-Crash: raise' localhost:8080/checkout
    curl -c jar -b jar -X POST localhost:8080/checkout
    curl localhost:8080/books
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from aiohttp import web

from recoverable import Arena, Counter, Dict, Record, after_commit, recoverable
from recoverable.aiohttp import arena_key, setup

from ..serving import CRASH_RATE, asked_for, bad_luck, serve

OPENING = 10_000  # pieces of each product on the first day
PRICES = {"mug": 12_00, "pot": 39_00, "tea": 4_50, "tin": 7_25}  # cents
SENT = web.AppKey("sent", list)  # the mails that have left: outside the arena, as a real mail server is


class Product(Record, name="shop.product"):
    """What is sold."""

    price: int  # cents
    stock: int


class Session(Record, name="shop.session"):
    """What is known of one visitor."""

    cart: dict[str, int] = {}  # noqa: RUF012 - product -> pieces; each record gets its own
    orders: int = 0


# -- the handlers ------------------------------------------------------------------------------------------------------


@recoverable
async def put(request: web.Request) -> web.Response:
    """Put so many pieces of a product into the visitor's cart; 0 takes it out."""
    sku, n = request.match_info["sku"], await number(request)
    if sku not in state(request)["products"]:
        raise web.HTTPNotFound(text=f"there is no {sku}")
    token, session = visitor(request)
    if n:
        session.cart[sku] = n
    else:
        session.cart.pop(sku, None)
    response = web.json_response(dict(session.cart))
    response.set_cookie("session", token, httponly=True, samesite="Lax")
    return response


@recoverable
async def checkout(request: web.Request) -> web.Response:
    """Sell what is in the cart: stock, order, cart and revenue change together or not at all."""
    products, orders = state(request)["products"], state(request)["orders"]
    _, session = visitor(request)
    if not session.cart:
        raise web.HTTPConflict(text="the cart is empty")
    items, total = dict(session.cart), 0
    for sku, n in items.items():
        product = products[sku]
        if product.stock < n:
            raise web.HTTPConflict(text=f"only {product.stock} {sku} left")  # what was taken above goes back by itself
        product.stock -= n
        total += n * product.price

    total += await shipping(items)  # others are served meanwhile, and see the stock as it was
    await bad_luck(request.app, asked_for(request))

    order = uuid.uuid4().hex
    answer = web.json_response(
        {"order": order, "total": total}
    )  # before the arena is touched again, and others wait for it
    orders[order] = {"items": items, "total": total}
    session.cart.clear()
    session.orders += 1
    state(request)["revenue"].add(total)  # a Counter: additions never conflict
    after_commit(send_mail, request.app, order, total)
    return answer


@recoverable
async def books(request: web.Request) -> web.Response:
    """Answer what an auditor needs, as of one moment."""
    root = state(request)
    return web.json_response(
        {
            "opening": OPENING,
            "stock": {sku: product.stock for sku, product in root["products"].items()},
            "orders": root["orders"].to_python(),
            "revenue": root["revenue"].value,
            "mails": request.app[SENT],
        }
    )


# -- what they need ----------------------------------------------------------------------------------------------------


def state(request: web.Request) -> Dict[str, Any]:
    """Return the root of the state."""
    return request.app[arena_key].root


def visitor(request: web.Request) -> tuple[str, Session]:
    """Find the visitor's session by the cookie, or begin one."""
    sessions = state(request)["sessions"]
    token = request.cookies.get("session", "")
    if token not in sessions:
        token = uuid.uuid4().hex
        sessions[token] = Session()
    return token, sessions[token]


async def number(request: web.Request) -> int:
    """Return how many pieces are asked for; answer 400 if that makes no sense."""
    try:
        match await request.json():
            case {"n": int(n)} if 0 <= n <= 100:
                return n
    except ValueError:
        pass
    raise web.HTTPBadRequest(text='say how many, from 0 to 100: {"n": 2}')


async def shipping(items: dict[str, int]) -> int:
    """Ask a pretended other service what the parcel will cost. Asking twice does no harm."""
    await asyncio.sleep(0.002)
    return 4_90 if sum(items.values()) < 10 else 0


def send_mail(app: web.Application, order: str, total: int) -> None:
    """Hand a mail to a pretended mail server: nobody can take it back."""
    app[SENT].append({"order": order, "total": total})


# -- the server --------------------------------------------------------------------------------------------------------


def make_app(arena: Arena, *, crash_rate: float = 0.0) -> web.Application:
    """Build the application around an arena, which is filled on its first day only."""
    root = arena.root
    with arena.transaction():
        if "products" not in root:
            root["products"] = {sku: Product(price=price, stock=OPENING) for sku, price in PRICES.items()}
            root.update(sessions={}, orders={}, revenue=Counter())

    app = web.Application()
    app[SENT] = []
    app[CRASH_RATE] = crash_rate
    setup(app, arena, step_limit=2.0)
    app.add_routes(
        [web.put("/cart/{sku}", put), web.post("/checkout", checkout), web.get("/books", books)],
    )
    return app


def main(argv: list[str] | None = None) -> None:
    """Serve the shop."""
    serve(make_app, "shop", "A shop that sends no mail for an order that does not stand.", argv)
