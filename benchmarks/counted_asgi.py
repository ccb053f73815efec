"""The servers of `counted.py` that speak ASGI: hello in Starlette and in FastAPI, below uvicorn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    }


def load() -> None:
    """Import what all of them need."""
    import uvicorn.protocols.http.httptools_impl  # noqa: F401

    import recoverable.fastapi  # noqa: F401
