"""The bank on FastAPI, under uvicorn.

What it teaches, beside what `examples/bank/server.py` says

1. `@recoverable` stands below the route's decorator. The transaction is all of the route: dependencies, the path function, the
   response model. If any of these fails, nothing has happened.
2. `Depends(transaction)` does the same for a path function that is left as it is, and gives it the arena's root.
3. A plain `def`, which FastAPI runs in a thread, is in the transaction as well.
4. `setup(app, arena)` closes the arena at shut-down, and answers 503 and 507 where the arena is busy or full.

Run it, break it, and look at the total, which never changes:

    python -m examples.fastapi_bank --port 8080 --crash-rate 0.3
    curl --json '{"id": "t1", "from": 0, "to": 1, "amount": 500}' localhost:8080/transfer
    curl --json '{"id": "t2", "from": 0, "to": 1, "amount": 500, "crash": "raise"}' localhost:8080/transfer
    curl localhost:8080/total
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Path
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, PositiveInt

from recoverable import Arena, Array, recoverable
from recoverable.fastapi import setup, transaction

from ..bank.server import OPENING, PATIENCE, announcement, bad_luck, fraud_check, misbehave, options_of

Root = Annotated[Any, Depends(transaction)]


class Order(BaseModel):
    """What a client sends: its own id for the transfer, two accounts, cents; and how it is to crash half-way."""

    id: str
    source: int = Field(alias="from", ge=0)
    target: int = Field(alias="to", ge=0)
    amount: PositiveInt
    crash: Literal["raise", "500", "timeout", "cancel", "die"] | None = None


class Receipt(BaseModel):
    """What a client is answered. It has to fit, before anything is committed."""

    id: str
    done: Literal["now", "before"]


def make_app(arena: Arena, *, accounts: int = 200, crash_rate: float = 0.0, allow_faults: bool = False) -> FastAPI:
    """Build the application around an arena, which is filled on its first day only."""
    with arena.transaction():  # all of it, or nothing: a kill in here leaves an empty bank, not half a one
        if "accounts" not in arena.root:
            arena.root["accounts"] = Array([OPENING] * accounts, "i8")
            arena.root["audit"] = {}
    app = FastAPI(title="A bank that cannot lose money")

    @app.post("/transfer", response_model=Receipt)
    @recoverable(timeout=PATIENCE)
    async def transfer(order: Order) -> Any:
        """Move money from one account to another, or leave no trace of having tried."""
        balances, audit = arena.root["accounts"], arena.root["audit"]
        if max(order.source, order.target) >= len(balances):
            raise HTTPException(400, "there is no such account")
        if order.id in audit:
            return {"id": order.id, "done": "before"}
        if balances[order.source] < order.amount:
            raise HTTPException(409, f"account {order.source} does not hold {order.amount} cents")

        crash = order.crash or bad_luck(crash_rate)
        balances[order.source] -= order.amount  # from here to the credit, this money is nowhere ...
        misbehave(crash)
        await fraud_check(hangs=crash == "timeout")  # ... while other requests are served
        if crash == "500":
            return JSONResponse({"error": "injected: a response of 500 rolls back, too"}, 500)
        balances[order.target] += order.amount
        audit[order.id] = {"from": order.source, "to": order.target, "amount": order.amount}
        return {"id": order.id, "done": "now"}

    @app.get("/accounts/{number}")
    async def account(number: Annotated[int, Path(ge=0)], root: Root) -> dict[str, int]:
        """Answer the balance of one account, in cents."""
        if number >= len(root["accounts"]):
            raise HTTPException(404, f"there is no account {number}")
        return {"account": number, "balance": root["accounts"][number]}

    @app.get("/total")
    def total(root: Root) -> dict[str, int]:
        """Answer the sum of all balances: one committed state, in a thread, however many transfers are in flight."""
        return {"total": sum(root["accounts"])}

    @app.get("/books")
    async def books(root: Root) -> dict[str, Any]:
        """Answer all that an auditor needs, as of one moment: the balances and every transfer that led to them."""
        transfers = {name: dict(entry) for name, entry in root["audit"].items()}
        return {"opening": OPENING, "balances": list(root["accounts"]), "audit": transfers}

    @app.get("/verify")
    def verify() -> dict[str, bool]:
        """Walk the whole arena; damage raises `ArenaCorruptError`, a response of 500."""
        arena.verify()
        return {"ok": True}

    @app.get("/stats")
    async def stats() -> dict[str, Any]:
        """Answer the arena's own figures."""
        return dataclasses.asdict(arena.stats())

    @app.get("/health")
    async def health() -> dict[str, int]:
        """Answer that the server is up."""
        return {"pid": os.getpid()}

    @app.exception_handler(TimeoutError)
    async def too_slow(request: Any, error: Exception) -> JSONResponse:
        """Answer 504 to a transfer that took too long, and was rolled back. FastAPI would answer 500."""
        return JSONResponse({"detail": "the fraud check takes too long; nothing was changed"}, 504)

    setup(app, arena, step_limit=2.0, allow_faults=allow_faults)
    return app


def main(argv: list[str] | None = None) -> None:
    """Serve the bank on the loopback interface until SIGTERM or Ctrl-C."""
    options = options_of(argv)
    # Says on stderr what a killed predecessor left half-done, or what was restored from the journal.
    arena = Arena.open(options.name, size=options.size, journal=options.journal, durable=options.durable)
    app = make_app(arena, accounts=options.accounts, crash_rate=options.crash_rate, allow_faults=options.allow_faults)
    listening = socket.create_server(("127.0.0.1", options.port))
    print(json.dumps(announcement(arena, listening.getsockname()[1])), flush=True)
    config = uvicorn.Config(app, lifespan="on", log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
