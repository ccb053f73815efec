"""How the command writes: tables and sizes for people, JSON for programs. Colour only where a terminal wants it."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from recoverable._options import human_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

__all__ = ["Progress", "ago", "console", "say", "show", "table", "write_json"]

_LOOK = 0.1  # seconds
_WIDE = 200  # columns, where nobody looks at them: a pipe gets whole lines


def console() -> Console:
    """Return where results are written; plain and wide when that is no terminal."""
    return Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, emoji=False, markup=False)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> None:
    """Write rows under titles; the columns of `numbers` are set to the right."""
    out = Table(box=None, pad_edge=False, header_style="bold")
    for column, title in enumerate(titles):
        out.add_column(title, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        out.add_row(*row)
    show(out)


def show(what: RenderableType) -> None:
    """Write what rich can draw, as text without trailing blanks."""
    to = console()
    with to.capture() as text:
        to.print(what)
    say("\n".join(line.rstrip() for line in text.get().splitlines()))


def say(text: str) -> None:
    """Write a line of the result; half a surrogate pair, which no encoding has, as its escape, which JSON reads as well."""
    click.echo(text.encode(errors="backslashreplace").decode())


def write_json(value: Any) -> None:
    """Write a value as JSON, indented."""
    say(json.dumps(value, indent=2, ensure_ascii=False))


def ago(at: float) -> str:
    """Say how long ago a time was, given in seconds since the epoch; "never" for 0."""
    if not at:
        return "never"
    seconds = max(0, int(time.time() - at))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


class Progress:
    """A line on standard error that says how far something is; nothing where that is no terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self._on = not quiet and sys.stderr.isatty()
        self._at = 0.0

    def __call__(self, done: int, total: int, doing: str) -> None:
        """Say so, ten times a second at most. `total`: 0 where it is not known."""
        if self._on and time.monotonic() - self._at > _LOOK:
            self._at = time.monotonic()
            of = f" of {human_size(total)}" if total else ""
            click.echo(f"\r\x1b[K{doing} {human_size(done)}{of}", err=True, nl=False)

    def end(self) -> None:
        """Remove the line."""
        if self._at:
            click.echo("\r\x1b[K", err=True, nl=False)
