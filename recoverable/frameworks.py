"""The web frameworks that the library knows.

A new one takes a module with a `recoverable.web.WebAdapter`, which the module registers, and a line here.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

__all__ = ["ADAPTERS", "REPLAYS", "discover", "replay_of", "replayed_by"]

#: What a program that uses a framework has imported, and the module that has the adapter of that framework.
ADAPTERS: Final = {
    "aiohttp.web": "recoverable._aiohttp",
    "litestar.app": "recoverable._litestar",
    "quart.app": "recoverable._quart",
    "starlette.requests": "recoverable._starlette",
}

#: What an interface is called in capsules, what a program that uses it has imported, and what answers a kept request again.
REPLAYS: Final = {
    "aiohttp": ("aiohttp.web", "recoverable._aiohttp_replay"),
    "asgi": ("recoverable._asgi", "recoverable._asgi_replay"),
}


def replay_of(interface: str) -> Any:
    """Return the module that answers the requests of an interface again; KeyError: there is none."""
    return importlib.import_module(REPLAYS[interface][1])


def replayed_by(app: Any) -> Any:
    """Return the module that answers requests to an application again, or None: it is no application."""
    there = (importlib.import_module(module) for imported, module in REPLAYS.values() if imported in sys.modules)
    return next((each for each in there if each.is_application(app)), None)


_missing = set(ADAPTERS)  # those whose adapters were not loaded here so far


def discover() -> None:
    """Load the adapters of the frameworks that the program has imported, and only those."""
    if not sys.modules.keys().isdisjoint(_missing):
        for framework in _missing & sys.modules.keys():
            importlib.import_module(ADAPTERS[framework])
            _missing.discard(framework)
