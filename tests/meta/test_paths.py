"""The files and folders that our pages name: each of them exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PAGES = ("CONTRIBUTING.md", "tests/README.md", "docs/design.md")

#: What looks like a file's name, `*` included.
FILE = re.compile(r"(?<![\w./<>*-])[\w*][\w./*-]*\.(?:py|pyi|pyx|pxi|pxd|c|h|md|toml|build|ini|svg)\b(?![\w/])")

#: What looks like a folder's, in backquotes.
FOLDER = re.compile(r"`([\w./-]+)/`")

#: Not ours, or made by a build.
OTHERS = {"Python.h", "build"}


def everything() -> set[str]:
    """Return all files and folders of the source tree, by their paths in it."""
    found = set()
    for top in ("recoverable", "tests", "docs", "benchmarks", "examples"):
        found |= {str(path.relative_to(ROOT)) for path in (ROOT / top).rglob("*")} | {top}
    return found | {path.name for path in ROOT.iterdir()}


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page: str) -> None:
    """Every file and folder that the page names is there: by its path, or by the end of it."""
    if not (ROOT / page).exists():
        pytest.skip("needs the source tree")
    text = (ROOT / page).read_text()
    named = {*FILE.findall(text), *FOLDER.findall(text)} - OTHERS
    there = {"/" + path for path in everything()}
    missing = set()
    for name in named:
        ending = re.compile("/" + re.escape(name).replace(r"\*", "[^/]*") + "$")
        if not any(ending.search(path) for path in there):
            missing.add(name)
    assert named
    assert not missing
