"""The comparison of stores sees what it tells: of a bank that loses money, and of one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

if not (Path(__file__).parents[2] / "benchmarks").is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)

from benchmarks import compare
from benchmarks.compare import Seen
from benchmarks.rivals import DECORATED, PLAIN, RIVALS, lines_of_code

WHAT = {
    PLAIN: Seen(survives_exception=False, survives_kill=False, in_flight=True),
    DECORATED: Seen(survives_exception=True, survives_kill=True, in_flight=False),
}


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("name", WHAT)
def test_what_is_told_was_seen(name: str) -> None:
    """Bugs, a kill under load and a reader find the plain bank wrong each time, and the recoverable one never."""
    (rival,) = (rival for rival in RIVALS if rival.name == name)
    assert compare.see(rival) == WHAT[name]


def test_lines_of_code_leave_out_the_benchmark() -> None:
    """What a user writes counts; documentation, and what makes the handler fail, do not."""
    plain, decorated = (next(rival.bank() for rival in RIVALS if rival.name == name) for name in WHAT)
    # Both have the same handler: the difference is an arena that is opened, filled once, and given to two functions.
    assert lines_of_code(plain) < lines_of_code(decorated) <= lines_of_code(plain) + 10
