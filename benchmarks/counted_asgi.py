"""The servers of `counted.py` that speak ASGI: hello and the bank in Starlette and in FastAPI, below uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from benchmarks.loopback import PATIENCE

Make = Callable[[], Any]  # makes an application


def starlette_hello(temporary: Callable[[str], Any], protect: str | None = None) -> Make:
    """Return what makes it in Starlette; `protect`: what is protected, None: it is plain."""

    def make() -> Any:
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import JSONResponse
        from starlette.routing import Route

        async def hello(request: Request) -> JSONResponse:
            return JSONResponse({"message": "hello"})

        if protect is None:
            return Starlette(routes=[Route("/", hello)])
        import recoverable
        import recoverable.asgi

        arena = temporary("16 MiB")
        served = recoverable.recoverable(hello) if protect == "decorated" else hello
        app = Starlette(routes=[Route("/", served)])
        recoverable.asgi.setup(app, arena, protect=protect)  # type: ignore[arg-type]  # one of the two
        return app

    return make


def fastapi_hello(temporary: Callable[[str], Any], protect: str | None = None) -> Make:
    """Return what makes it in FastAPI."""

    def make() -> Any:
        from fastapi import FastAPI

        app = FastAPI()

        async def hello() -> dict[str, str]:
            return {"message": "hello"}

        if protect is None:
            app.get("/")(hello)
            return app
        import recoverable
        import recoverable.fastapi

        app.get("/")(recoverable.recoverable(hello) if protect == "decorated" else hello)
        recoverable.fastapi.setup(app, temporary("16 MiB"), protect=protect)  # type: ignore[arg-type]  # one of the two
        return app

    return make


def bank(temporary: Callable[[str], Any], name: str, protected: bool) -> Make:
    """Return what makes the bank of `served_asgi.py`, plain or with all of it in the arena."""

    def make() -> Any:
        from benchmarks import plain, served_asgi

        served_asgi.PATIENCE = PATIENCE
        if not protected:
            plain.install()
            served_asgi.install_plain()
        from examples.bank import server

        async def fraud_check(*, hangs: bool) -> None:
            await asyncio.sleep(0)

        server.fraud_check = fraud_check
        arena: Any = temporary("64 MiB") if protected else plain.Arena()
        app = served_asgi.APPLICATIONS[name](arena, 100_000)
        with arena.transaction():
            for n in range(500):
                arena.root["audit"][f"old-{n}"] = {"from": n, "to": n + 1, "amount": n}
        return app

    return make


def families(temporary: Callable[[str], Any]) -> dict[str, dict[str, Make]]:
    """Return the rows, by family; `temporary(size)` opens an arena for one."""
    return {
        "Starlette hello": {
            "plain": starlette_hello(temporary),
            "setup() and @recoverable": starlette_hello(temporary, "decorated"),
            'setup(protect="all")': starlette_hello(temporary, "all"),
        },
        "FastAPI hello": {
            "plain": fastapi_hello(temporary),
            "setup() and @recoverable": fastapi_hello(temporary, "decorated"),
        },
        **{
            name: {"plain": bank(temporary, name, False), "all in the arena": bank(temporary, name, True)}
            for name in ("bank, Starlette", "bank, FastAPI")
        },
    }


def load() -> None:
    """Import what all of them need."""
    import uvicorn.protocols.http.httptools_impl  # noqa: F401

    import recoverable.fastapi  # noqa: F401
