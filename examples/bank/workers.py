"""The bank with several workers on one arena, under gunicorn: `gunicorn.conf.py` has the settings."""

from __future__ import annotations

import os

from aiohttp import web

from recoverable import Arena

from .server import make_app


async def make_worker() -> web.AppRunner:
    """Build what a worker serves. Each calls this in its own event loop, so each opens the arena for itself."""
    arena = Arena.open(os.environ.get("BANK", "bank"), size="64 MiB")
    return web.AppRunner(
        make_app(arena),
        handler_cancellation=True,  # a client that hangs up cancels its handler, which rolls back
        access_log=None,
        shutdown_timeout=8.0,  # less than gunicorn's graceful_timeout, after which it kills
    )
