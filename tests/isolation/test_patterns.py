"""The page that says which patterns conflict, and what to write instead, is right about each."""

from __future__ import annotations

from pathlib import Path

import pytest

if not (Path(__file__).parents[2] / "benchmarks").is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)

from benchmarks.patterns import Row, body, conflicting, fill, harmless
from recoverable import Arena, ConflictError
from support.workers import Request, pause


def conflict(arena: Arena, first: str, second: str) -> bool:
    """Have two requests wait at the same time, and then end; return whether the second to end conflicts."""
    fill(arena)
    requests = [Request(arena, body(code), arena, me, pause) for me, code in ((21, first), (20, second))]
    for request in requests:
        request.step()
    requests[0].finish()
    try:
        requests[1].finish()
    except ConflictError:
        return True
    return False


@pytest.mark.parametrize("row", conflicting(), ids=lambda row: row.name)
def test_what_conflicts_and_what_does_not(arena: Arena, row: Row) -> None:
    """Two requests of a pattern conflict, and two that are written as the page says don't."""
    assert conflict(arena, row.one, row.one)
    assert not conflict(arena, row.other, row.other)


@pytest.mark.parametrize("row", harmless(), ids=lambda row: f"{row.one} and {row.other}")
def test_what_never_conflicts(arena: Arena, row: Row) -> None:
    """Two requests that share a container but nothing in it don't conflict, whoever is first."""
    one, other = (f"{code}\nawait service()" for code in (row.one, row.other))
    assert not conflict(arena, one, other)
    assert not conflict(arena, other, one)


def test_the_page_has_both_tables() -> None:
    """A page whose tables are not found would be right about nothing."""
    assert (len(conflicting()), len(harmless())) == (21, 10)
