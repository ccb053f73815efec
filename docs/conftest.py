"""Runs the Python blocks of these pages: `pytest docs`. Blocks of one page share their names, from top to bottom."""

from __future__ import annotations

from doctest import ELLIPSIS, NORMALIZE_WHITESPACE
from pathlib import Path
from typing import Any

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

from recoverable import Arena, _registry


def _clean(namespace: dict[str, Any]) -> None:
    """Close and remove the arenas that a page has opened; all are named docs-…"""
    namespace.clear()  # views would keep an arena open
    for segment in _registry.all_open():
        for arena in list(segment.arenas):
            arena.close()
        if segment.name.startswith("docs-"):
            Arena.unlink(segment.name)


def _setup(namespace: dict[str, Any]) -> None:
    """Remove what a killed run has left."""
    for left in Path("/dev/shm").glob("recoverable.docs-*"):
        Arena.unlink(left.name.removeprefix("recoverable."))


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS | NORMALIZE_WHITESPACE)],
    pattern="*.md",
    setup=_setup,
    teardown=_clean,
).pytest()
