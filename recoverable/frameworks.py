"""The web frameworks that the library knows.

A new one takes a module with a `recoverable.web.WebAdapter`, which the module registers, and a line here.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import warnings
from typing import Any, Final

from recoverable.errors import ArenaOptionError

__all__ = ["ADAPTERS", "REPLAYS", "check", "discover", "replay_of", "replayed_by"]

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


_unknown: dict[str, Exception] = {}  # what their loading has failed with: they are of a version that we don't know


def discover() -> None:
    """Load the adapters of the frameworks that the program has imported, and only those."""
    if not sys.modules.keys().isdisjoint(_missing):
        for framework in _missing & sys.modules.keys():
            _missing.discard(framework)
            try:
                importlib.import_module(ADAPTERS[framework])
            except (ImportError, AttributeError) as error:  # a program that only imports it goes on
                name = framework.partition(".")[0]
                _unknown[name] = error
                warnings.warn(
                    _told(name, "Its responses and requests are not known here."), RuntimeWarning, stacklevel=3
                )


def check(app: Any) -> None:
    """Load them, and see whether that of an application could be.

    Raises:
        ArenaOptionError: Its framework is of a version that is not supported.
    """
    discover()
    for framework in {cls.__module__.partition(".")[0] for cls in type(app).__mro__} & _unknown.keys():
        raise ArenaOptionError(_told(framework, "Nothing was changed.")) from _unknown[framework]


def _told(framework: str, left: str) -> str:
    try:
        version = importlib.metadata.version(framework)
    except importlib.metadata.PackageNotFoundError:
        version = "of an unknown version"
    why = _unknown[framework]
    return f"{framework} {version} is not supported: {why}. {left} Use another release of it, or of recoverable."
