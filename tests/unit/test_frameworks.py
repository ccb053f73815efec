"""A framework of a release that is not known: who only imports it goes on, who is to be served by it is told."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from recoverable import Arena, ArenaOptionError, frameworks
from recoverable.asgi import Middleware, setup


@pytest.fixture
def novel(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the class of applications of a framework whose adapter can't be loaded."""
    monkeypatch.setitem(sys.modules, "novel.app", types.ModuleType("novel.app"))
    monkeypatch.setitem(frameworks.ADAPTERS, "novel.app", "recoverable._no_such_adapter")
    monkeypatch.setattr(frameworks, "_missing", {"novel.app"})
    monkeypatch.setattr(frameworks, "_unknown", {})
    return type("App", (), {"__module__": "novel.app", "user_middleware": []})


def test_it_is_told_where_it_matters(arena: Arena, novel: Any) -> None:
    """A warning once, and an error of setup()."""
    with pytest.warns(RuntimeWarning, match="novel of an unknown version is not supported: No module"):
        frameworks.discover()
    frameworks.discover()
    for serve in setup, Middleware:
        with pytest.raises(ArenaOptionError, match="Nothing was changed"):
            serve(novel(), arena)
