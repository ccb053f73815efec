"""The web frameworks that the library knows.

A new one takes a module with a `recoverable.web.WebAdapter`, which the module registers, and a line here.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

__all__ = ["ADAPTERS", "discover"]

#: What a program that uses a framework has imported, and the module that has the adapter of that framework.
ADAPTERS: Final = {
    "aiohttp.web": "recoverable._aiohttp",
    "litestar.app": "recoverable._litestar",
    "quart.app": "recoverable._quart",
    "starlette.requests": "recoverable._starlette",
}


_missing = set(ADAPTERS)  # those whose adapters were not loaded here so far


def discover() -> None:
    """Load the adapters of the frameworks that the program has imported, and only those."""
    if not sys.modules.keys().isdisjoint(_missing):
        for framework in _missing & sys.modules.keys():
            importlib.import_module(ADAPTERS[framework])
            _missing.discard(framework)
