"""The example bank on FastAPI and on Starlette, under uvicorn with uvloop and httptools, as `served.py` runs it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

PATIENCE = 60


def patient() -> None:
    """Have transfers take as long as they take: a time-out on a busy machine is no cost of recovery."""
    from examples.bank import server

    server.PATIENCE = PATIENCE


def fastapi_bank(arena: Any, accounts: int) -> Any:
    """Make the example."""
    import importlib

    patient()
    return importlib.import_module("examples.fastapi_bank.server").make_app(arena, accounts=accounts)


def starlette_bank(arena: Any, accounts: int) -> Any:
    """Make its transfer, with aiohttp's example's rules, on Starlette."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    import recoverable

    patient()
    from examples.bank.server import OPENING, PATIENCE, fraud_check
    from recoverable.asgi import setup

    with arena.transaction():
        arena.root["accounts"] = recoverable.Array([OPENING] * accounts, "i8")
        arena.root["audit"] = {}

    @recoverable.recoverable(timeout=PATIENCE)
    async def transfer(request: Request) -> JSONResponse:
        order = await request.json()
        source, target, amount = order["from"], order["to"], order["amount"]
        balances, audit = arena.root["accounts"], arena.root["audit"]
        if order["id"] in audit:
            return JSONResponse({"id": order["id"], "done": "before"})
        if balances[source] < amount:
            return JSONResponse({"error": f"account {source} does not hold {amount} cents"}, 409)
        balances[source] -= amount
        await fraud_check(hangs=False)
        balances[target] += amount
        audit[order["id"]] = {"from": source, "to": target, "amount": amount}
        return JSONResponse({"id": order["id"], "done": "now"})

    app = Starlette(routes=[Route("/transfer", transfer, methods=["POST"])])
    setup(app, arena)
    return app


APPLICATIONS: dict[str, Callable[[Any, int], Any]] = {"bank, FastAPI": fastapi_bank, "bank, Starlette": starlette_bank}


def install_plain() -> None:
    """Replace what these import of the library's adapters, as `plain.install` does for aiohttp's."""
    import recoverable.asgi
    import recoverable.fastapi

    def setup(app: Any, arena: Any, **options: Any) -> None:
        """Set nothing up."""

    async def transaction() -> AsyncIterator[Any]:
        yield None

    recoverable.asgi.setup = setup
    recoverable.fastapi.setup = setup
    recoverable.fastapi.transaction = transaction


@contextlib.asynccontextmanager
async def listening(app: Any) -> AsyncIterator[int]:
    """Serve it on a free port, in the running loop, and give that; shut it down at the end."""
    import uvicorn

    config = uvicorn.Config(
        app, "127.0.0.1", 0, http="httptools", ws="none", log_level="warning", access_log=False, lifespan="on"
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    running = asyncio.create_task(server.serve())
    while not server.started:
        if running.done():
            running.result()
            raise RuntimeError("uvicorn has ended")
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await running
