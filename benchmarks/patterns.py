"""What the tables of docs/conflicts.md say, as functions: tests and benchmarks/contention.py run what the page shows."""

from __future__ import annotations

import functools
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recoverable import Arena

PAGE = Path(__file__).resolve().parent.parent / "docs" / "conflicts.md"

Body = Callable[[Arena, int, Callable[[], Awaitable[Any]]], Awaitable[None]]


@dataclass(frozen=True)
class Row:
    """A row of a table: what it is called, and two cells of code."""

    name: str
    one: str
    other: str


def rows(heading: str, columns: tuple[int, int, int]) -> list[Row]:
    """Return the rows of the table under a heading, by their columns for the name and the two cells of code."""
    section = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line[2:-2].split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return [Row(*(_code(cells[column]) for column in columns)) for cells in lines[1:]]


def _code(cell: str) -> str:
    return "\n".join(re.fullmatch(r"`(.*)`|(.*)", line)[1] or line for line in cell.split("<br>"))


def conflicting() -> list[Row]:
    """Return the patterns: what conflicts, and what to write instead."""
    return rows("Requests that do the same", (0, 1, 3))


def harmless() -> list[Row]:
    """Return the pairs that don't conflict."""
    return rows("Requests that don't conflict", (0, 0, 1))


@functools.cache
def _state() -> Callable[[], dict[str, Any]]:
    """Return the page's function that makes what its rows work on."""
    names: dict[str, Any] = {"__name__": "conflicts"}
    exec(re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1], names)
    return names["state"]


def fill(arena: Arena) -> None:
    """Put it into an arena, as it is at the beginning."""
    with arena.transaction():
        arena.root.clear()
        arena.root.update(_state()())


@functools.cache
def body(code: str) -> Body:
    """Return the function whose body is a cell of code."""
    lines = ["async def handler(arena, me, service):"]
    lines += [f"    {name} = arena.root[{name!r}]" for name in _state()() if re.search(rf"\b{name}\b", code)]
    lines += [f"    {line}" for line in code.splitlines()]
    names: dict[str, Any] = {"SoldOut": LookupError, "Taken": LookupError}
    exec("\n".join(lines), names)
    return names["handler"]
