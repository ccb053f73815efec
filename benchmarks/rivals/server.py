"""python -m benchmarks.rivals.server RIVAL FOLDER ADDRESS: one bank over HTTP, until SIGTERM; prints its port."""

from __future__ import annotations

import asyncio
import json
import logging
import sys

import structlog
import uvloop
from aiohttp import web

from benchmarks.rivals import ACCOUNTS, DURABLE, OPENING, RIVALS, WAIT, Bank, Low
from benchmarks.serving import listening, terminated


def application(bank: Bank) -> web.Application:
    """Return the bank's application: the same for all rivals."""

    async def transfer(request: web.Request) -> web.Response:
        order = await request.json()
        ref, a, b, amount = order["id"], order["from"], order["to"], order["amount"]
        if not (0 <= a < ACCOUNTS and 0 <= b < ACCOUNTS and amount > 0):
            raise web.HTTPBadRequest
        try:
            done = await bank.transfer(ref, a, b, amount)
        except Low:
            raise web.HTTPConflict from None
        return web.json_response({"id": ref, "done": done})

    async def total(request: web.Request) -> web.Response:
        return web.json_response({"total": await bank.total()})

    async def idle(request: web.Request) -> web.Response:
        """Answer when no other request is in flight: clients that have gone leave theirs behind."""
        handling = request.task.get_coro().__qualname__
        while sum(task.get_coro().__qualname__ == handling for task in asyncio.all_tasks()) > 1:  # noqa: ASYNC110
            await asyncio.sleep(WAIT)
        return web.json_response({})

    async def books(request: web.Request) -> web.Response:
        """Compare the balances with what the audit says they should be."""
        found = await bank.books()
        should = dict.fromkeys(range(ACCOUNTS), OPENING)
        for a, b, amount in found.audit.values():
            should[a] -= amount
            should[b] += amount
        off = sum(should[n] != balance for n, balance in found.balances.items())
        kept = [ref for ref in found.audit if ref.startswith("kept")]
        return web.json_response({"off": off, "audit": len(found.audit), "state": bank.state(), "kept": kept})

    app = web.Application()
    bank.setup(app)
    app.add_routes([web.post("/transfer", bank.decorate(transfer)), web.get("/total", total), web.get("/books", books)])
    app.router.add_get("/idle", idle)
    return app


async def serve(bank: Bank) -> None:
    await bank.open()
    async with listening(application(bank)) as port:
        print(json.dumps({"port": port}), flush=True)
        await terminated()
    await bank.close()


if __name__ == "__main__":
    # The bugs are ours.
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    name, folder, address = sys.argv[1:]
    rival = next(rival for rival in (*RIVALS, *DURABLE) if rival.name == name)
    uvloop.run(serve(rival.bank()(folder, address)))
