"""A bank that cannot lose money: the first example to read.

What it teaches

1. State hangs on `arena.root` and looks like plain Python: an `Array` of balances, a `Dict` of the transfers done.
2. `@recoverable` makes a handler all-or-nothing. `transfer` below takes the money, waits for another service and only
   then gives it. Whatever goes wrong in between (an exception, a response of 500, a timeout, a client that hangs up,
   `kill -9`), the debit is undone, and nobody has ever seen it.
3. Started again under the same name, the server goes on where the last committed transfer left it.
4. A client that got no answer sends its transfer again under the same id: the audit knows whether it was done.

Run it, break it, and look at the total, which never changes:

    python examples/bank/server.py --port 8080 --crash-rate 0.3
    curl -d '{"id": "t1", "from": 0, "to": 1, "amount": 500}' localhost:8080/transfer
    curl -d '{"id": "t2", "from": 0, "to": 1, "amount": 500, "crash": "raise"}' localhost:8080/transfer
    curl localhost:8080/total
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import random
import signal
import socket
from typing import Any

import uvloop
from aiohttp import web

from recoverable import Arena, Array, Dict, recoverable
from recoverable.aiohttp import arena_key, setup

OPENING = 100_00  # cents on every account on the first day
PATIENCE = 0.5  # seconds that a transfer may take
CRASHES = ("raise", "500", "timeout", "cancel", "die")  # what a transfer may be told to do half-way

ACCOUNTS = web.AppKey("accounts", Array)  # account number -> cents
AUDIT = web.AppKey("audit", Dict)  # transfer id -> {"from": account, "to": account, "amount": cents}
CRASH_RATE = web.AppKey("crash_rate", float)


# -- the handlers ------------------------------------------------------------------------------------------------------


@recoverable(timeout=PATIENCE)
async def transfer(request: web.Request) -> web.Response:
    """Move money from one account to another, or leave no trace of having tried."""
    accounts, audit = request.app[ACCOUNTS], request.app[AUDIT]
    order = await read_order(request, len(accounts))
    crash = order.get("crash") or bad_luck(request.app[CRASH_RATE])
    source, target, amount = order["from"], order["to"], order["amount"]

    if order["id"] in audit:
        return web.json_response({"id": order["id"], "done": "before"})
    if accounts[source] < amount:
        raise web.HTTPConflict(text=f"account {source} does not hold {amount} cents")

    accounts[source] -= amount  # from here to the credit, this money is nowhere ...
    misbehave(crash)
    await fraud_check(hangs=crash == "timeout")  # ... while other requests are served
    if crash == "500":
        return web.json_response({"error": "injected: a response of 500 rolls back, too"}, status=500)
    answer = web.json_response({"id": order["id"], "done": "now"})  # first: from the next access to the end others wait
    accounts[target] += amount
    audit[order["id"]] = {"from": source, "to": target, "amount": amount}
    return answer


@recoverable
async def account(request: web.Request) -> web.Response:
    """Answer the balance of one account, in cents."""
    number = int(request.match_info["number"])
    if number >= len(request.app[ACCOUNTS]):
        raise web.HTTPNotFound(text=f"there is no account {number}")
    return web.json_response({"account": number, "balance": request.app[ACCOUNTS][number]})


@recoverable
async def total(request: web.Request) -> web.Response:
    """Answer the sum of all balances: one committed state, however many transfers are in flight."""
    accounts = request.app[ACCOUNTS]
    return web.json_response({"total": sum(accounts)})


@recoverable
async def books(request: web.Request) -> web.Response:
    """Answer all that an auditor needs, as of one moment: the balances and every transfer that led to them."""
    accounts, audit = request.app[ACCOUNTS], request.app[AUDIT]
    transfers = {name: dict(entry) for name, entry in audit.items()}
    return web.json_response({"opening": OPENING, "balances": list(accounts), "audit": transfers})


async def verify(request: web.Request) -> web.Response:
    """Walk the whole arena; damage raises `ArenaCorruptError`, a response of 500."""
    request.app[arena_key].verify()
    return web.json_response({"ok": True})


async def stats(request: web.Request) -> web.Response:
    """Answer the arena's own figures."""
    return web.json_response(dataclasses.asdict(request.app[arena_key].stats()))


async def health(request: web.Request) -> web.Response:
    """Answer that the server is up."""
    return web.json_response({"pid": os.getpid()})


# -- what a transfer needs ---------------------------------------------------------------------------------------------


async def read_order(request: web.Request, accounts: int) -> dict[str, Any]:
    """Return the order if it makes sense; answer 400 if not."""
    try:
        order = await request.json()
    except ValueError:
        order = None
    match order:
        case {"id": str(), "from": int(source), "to": int(target), "amount": int(amount)} if amount > 0:
            if source in range(accounts) and target in range(accounts) and order.get("crash") in (None, *CRASHES):
                return dict(order)
    raise web.HTTPBadRequest(text="a transfer has an id (text), from, to (accounts) and a positive amount (cents)")


async def fraud_check(*, hangs: bool) -> None:
    """Ask a pretended other service, which takes its time."""
    await asyncio.sleep(60 if hangs else 0.003)


def misbehave(crash: str | None) -> None:
    """Do, between a debit and its credit, what handlers do on a bad day."""
    if crash == "raise":
        raise RuntimeError("injected: a bug between debit and credit")
    if crash == "cancel" and (task := asyncio.current_task()):
        task.cancel()  # as when the client hangs up: the next await raises CancelledError
    if crash == "die":
        os.kill(os.getpid(), signal.SIGKILL)  # as the OOM killer would: the debit is in the arena at this moment


def bad_luck(rate: float) -> str | None:
    """Choose a crash for this share of the transfers (never the whole server's)."""
    return random.choice(("raise", "500", "timeout", "cancel")) if random.random() < rate else None


# -- the server --------------------------------------------------------------------------------------------------------


def make_app(
    arena: Arena, *, accounts: int = 200, crash_rate: float = 0.0, allow_faults: bool = False
) -> web.Application:
    """Build the application around an arena, which is filled on its first day only."""
    with arena.transaction():  # all of it, or nothing: a kill in here leaves an empty bank, not half a one
        if "accounts" not in arena.root:
            arena.root["accounts"] = Array([OPENING] * accounts, "i8")
            arena.root["audit"] = {}

    app = web.Application()
    app[ACCOUNTS] = arena.root["accounts"]
    app[AUDIT] = arena.root["audit"]
    app[CRASH_RATE] = crash_rate
    setup(app, arena, step_limit=2.0, allow_faults=allow_faults)
    app.add_routes(
        [
            web.post("/transfer", transfer),
            web.get(r"/accounts/{number:\d{1,9}}", account),
            web.get("/total", total),
            web.get("/books", books),
            web.get("/verify", verify),
            web.get("/stats", stats),
            web.get("/health", health),
        ]
    )
    return app


def main(argv: list[str] | None = None) -> None:
    """Serve the bank on the loopback interface until SIGTERM or Ctrl-C."""
    options = options_of(argv)
    # Says on stderr what a killed predecessor left half-done, or what was restored from the journal.
    arena = Arena.open(options.name, size=options.size, journal=options.journal, durable=options.durable)
    app = make_app(arena, accounts=options.accounts, crash_rate=options.crash_rate, allow_faults=options.allow_faults)
    listening = socket.create_server(("127.0.0.1", options.port))
    print(json.dumps(announcement(arena, listening.getsockname()[1])), flush=True)
    web.run_app(
        app,
        sock=listening,
        loop=uvloop.new_event_loop(),
        handler_cancellation=True,  # a client that hangs up cancels its handler, which rolls back
        access_log=None,
        print=None,
    )


def options_of(argv: list[str] | None) -> argparse.Namespace:
    """Read the options of a bank."""
    parser = argparse.ArgumentParser(description="A bank that cannot lose money.")
    parser.add_argument("--name", default="bank", help="of the arena: the same name finds the same money")
    parser.add_argument("--size", default="64 MiB", help="ceiling of the arena")
    parser.add_argument("--accounts", type=int, default=200, help="how many, on the first day")
    parser.add_argument("--port", type=int, default=0, help="0: any free one, announced on stdout")
    parser.add_argument("--crash-rate", type=float, default=0.0, help="share of transfers that crash half-way")
    parser.add_argument("--allow-faults", action="store_true", help="not production: RECOVERABLE_FAULTS is obeyed")
    parser.add_argument("--journal", help="a folder: what is committed outlives the machine's memory")
    parser.add_argument("--durable", choices=("memory", "journal", "disk"), help="what an answer waits for")
    return parser.parse_args(argv)


def announcement(arena: Arena, port: int) -> dict[str, Any]:
    """Describe the server in one line for the program that started it."""
    recovered, restored = arena.recovered, arena.restored
    return {
        "ready": f"http://127.0.0.1:{port}",
        "pid": os.getpid(),
        "recovered": recovered and dataclasses.asdict(recovered),
        "restored": restored and dataclasses.asdict(restored) | {"at": restored.at.isoformat()},
    }


if __name__ == "__main__":
    main()
