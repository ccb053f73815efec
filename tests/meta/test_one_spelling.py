"""One spelling of imports, which can't clash with the decorator's name: `from recoverable import metrics, recoverable`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import recoverable

ROOT = Path(__file__).parents[2]
PACKAGE = Path(recoverable.__file__).parent

#: What users read, and copy from: pages, examples, and all of the package, for its docstrings, comments and messages.
TEXTS = sorted(
    path
    for folder, kinds in ((ROOT, ("*.md",)), (ROOT / "docs", ("**/*.md",)), (ROOT / "examples", ("**/*.md", "**/*.py")))
    for kind in kinds
    for path in folder.glob(kind)
    if "_build" not in path.parts
) + sorted(path for kind in ("*.py", "*.pyi", "*.pyx", "*.pxi") for path in PACKAGE.rglob(kind))

#: Modules that users import.
MODULES = ["aiohttp", "asgi", "capsules", "faults", "history", "metrics"]

#: Binds `recoverable`, unless it gives another name.
_DOTTED = re.compile(r"^.*\bimport\s+(?:\w+,\s*)*recoverable\.[\w.]+(?!\s+as\b)(?![\w.]).*$", re.MULTILINE)
#: A call by the dotted name; an `autofunction::` or a mention is none.
_CALLED = re.compile(rf"^(?!.*auto\w+::).*(?<![\w./])recoverable\.(?:{'|'.join(MODULES)})\.\w+\(.*$", re.MULTILINE)


def test_there_are_texts() -> None:
    """The README, the pages, the examples and the package are looked at."""
    names = {str(path.relative_to(ROOT)) for path in TEXTS if path.is_relative_to(ROOT)}
    assert names >= {"README.md", "docs/metrics.md", "docs/howto/deployment.md", "examples/bank/server.py"}
    assert PACKAGE / "metrics.py" in TEXTS


@pytest.mark.parametrize("pattern", [_DOTTED, _CALLED], ids=["import", "call"])
def test_nothing_that_users_read_binds_the_packages_name_by_a_dotted_import(pattern: re.Pattern[str]) -> None:
    """Neither `import recoverable.metrics` nor, but for messages and docstrings, a call of `recoverable.metrics.setup()`."""
    found = [
        f"{path.name}: {match[0].strip()}"
        for path in TEXTS
        if path.name != "CHANGELOG.md" and not (pattern is _CALLED and path.is_relative_to(PACKAGE))
        for match in pattern.finditer(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "pattern", "found"),
    [
        ("import recoverable.metrics\n", _DOTTED, True),
        ("    import os, recoverable.aiohttp  # noqa\n", _DOTTED, True),
        ("write `import recoverable.metrics` for it\n", _DOTTED, True),
        ("import recoverable.portable as p; print(p)\n", _DOTTED, False),
        ("from recoverable import metrics\n", _DOTTED, False),
        ("import recoverable\n", _DOTTED, False),
        ("calls `recoverable.metrics.register()` then\n", _CALLED, True),
        (".. autoclass:: recoverable.history.Change()\n", _CALLED, False),
    ],
)
def test_what_is_found(text: str, pattern: re.Pattern[str], found: bool) -> None:
    """What binds the name, and nothing else."""
    assert bool(pattern.search(text)) is found


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_the_documented_spelling_works_in_any_order(module: str) -> None:
    """Before the decorator's import, after it, and in one line with it."""
    for program in (
        f"from recoverable import {module}\nfrom recoverable import recoverable",
        f"from recoverable import recoverable\nfrom recoverable import {module}",
        f"from recoverable import Arena, {module}, recoverable",
        f"from recoverable.{module} import *\nfrom recoverable import recoverable, {module}",
    ):
        check = f"{program}\nassert {module}.__name__ == 'recoverable.{module}' and callable(recoverable)"
        subprocess.run([sys.executable, "-c", check], check=True, timeout=60)
