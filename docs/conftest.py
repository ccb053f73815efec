"""Runs the Python and console blocks of these pages: `pytest docs`. Blocks of one page share their names, top to bottom.

A Python block that begins with a comment such as `# shop.py` is that file as well, for the console blocks below it.
An output block is what the last Python block has printed, but for numbers, ids, folders, and where lines are broken; so is what a
command prints in a console block. A line that begins with (Pdb) is typed into it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE
from pathlib import Path
from typing import Any

from sybil import Document, Example, Region, Sybil
from sybil.parsers.myst import CodeBlockParser, PythonCodeBlockParser

from recoverable import Arena, ArenaNotFoundError, _registry
from support.console import Terminal, commands

_run_python = PythonCodeBlockParser(doctest_optionflags=ELLIPSIS | NORMALIZE_WHITESPACE)


def _python(document: Document) -> Iterable[Region]:
    """Find the Python blocks, and have each keep what it prints."""
    for region in _run_python(document):
        region.evaluator = _recorded(region.evaluator)
        yield region


def _recorded(evaluate: Callable[[Example], str | None]) -> Callable[[Example], str | None]:
    def run(example: Example) -> str | None:
        text = example.parsed if isinstance(example.parsed, str) else ""  # of a doctest it is an object
        if program := re.match(r"# (\w+\.py)\n", text):  # a later one may import it
            Path(example.namespace["_programs"].name, program[1]).write_text(text)
        if "from litestar import" in text:  # which looks at the module of each handler
            example.namespace["__name__"] = __name__
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), _logging_of(example.namespace):
            failed = evaluate(example)
        example.namespace["_printed"] = printed.getvalue()
        return failed

    return run


@contextlib.contextmanager
def _logging_of(namespace: dict[str, Any]) -> Iterator[None]:
    """Have logging as a program has it, with what the page has configured, and without the handlers of pytest's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = namespace.get("_handlers", [])
    root.setLevel(namespace.get("_level", logging.WARNING))
    try:
        yield
    finally:
        namespace["_handlers"], namespace["_level"] = root.handlers[:], root.level
        root.handlers[:] = handlers
        root.setLevel(level)


def _output(example: Example) -> str | None:
    """Compare an output block with what the Python block above it has printed."""
    wanted, found = (_alike(text) for text in (example.parsed, example.namespace.get("_printed", "")))
    return (
        None
        if wanted == found
        else f"printed\n{example.namespace.get('_printed')}\nwhich is\n{found}\nand not\n{wanted}"
    )


def _alike(text: str) -> str:
    """Leave out what is another one each time: ids, numbers, in which folder a page is as a program, spaces."""
    text = re.sub(r"\b([0-9a-f]{32}\b|\d{8}T\d{6}-\d+-[0-9a-f]{8}-)", "ID", text)
    text = re.sub(r"[^\s\"│]*/\w+\.(md|py)\b", "FILE", text)
    return " ".join(re.sub(r"\d+", "0", text).split())


def _console(example: Example) -> str | None:
    """Type the commands of a console block; return the first difference."""
    terminal: Terminal | None = example.namespace.get("_terminal")
    if terminal is None:
        folder = example.namespace["_folder"] = tempfile.TemporaryDirectory(prefix="recoverable-docs-")
        arenas = re.findall(r'Arena\.open\("([^"]+)"', example.document.text)
        terminal = Terminal(Path(folder.name), {name: f"docs-{name}-{os.getpid()}" for name in arenas})
        example.namespace["_terminal"] = terminal
        for name, program in _programs(example.document).items():
            terminal.write(name, program)
    for command, printed in commands(example.parsed):
        typed = re.findall(r"^\(Pdb\) (.*)$", printed, re.MULTILINE)
        found = terminal.type(command, typed).strip()
        wanted = re.sub(r"^\(Pdb\) .*$", "(Pdb)", printed, flags=re.MULTILINE)
        if found != printed and (command.startswith("curl") or _alike(found) != _alike(wanted)):
            return f"{command}\nprints\n{found}\nand not\n{printed}"
    return None


def _programs(document: Document) -> dict[str, str]:
    blocks = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```$", document.text, re.DOTALL | re.MULTILINE)
    return dict(blocks)


def _clean(namespace: dict[str, Any]) -> None:
    """Close and remove the arenas that a page has opened; all are named docs-…"""
    if "_terminal" in namespace:
        namespace["_terminal"].kill()
        for name in namespace["_terminal"].arenas.values():
            with contextlib.suppress(ArenaNotFoundError):
                Arena.unlink(name)
        namespace["_folder"].cleanup()
    sys.path.remove(namespace["_programs"].name)
    namespace["_programs"].cleanup()
    namespace.clear()  # views would keep an arena open
    for segment in _registry.all_open():
        for arena in list(segment.arenas):
            arena.close()
        if segment.name.startswith("docs-"):
            Arena.unlink(segment.name)


def _setup(namespace: dict[str, Any]) -> None:
    """Remove what a killed run has left; make a folder for the programs of the page."""
    for left in Path("/dev/shm").glob("recoverable.docs-*"):
        Arena.unlink(left.name.removeprefix("recoverable."))
    namespace["_programs"] = tempfile.TemporaryDirectory(prefix="recoverable-docs-")
    sys.path.append(namespace["_programs"].name)


pytest_collect_file = Sybil(
    parsers=[
        _python,
        CodeBlockParser("output", _output),
        CodeBlockParser("console", _console),
    ],
    pattern="*.md",
    setup=_setup,
    teardown=_clean,
).pytest()
