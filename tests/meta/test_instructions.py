"""The gate on instructions: what callgrind wrote is read rightly, and a row that grew is named with its functions."""

from __future__ import annotations

from pathlib import Path

import pytest

if not (Path(__file__).parents[2] / "benchmarks").is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)

from benchmarks import callgrind, instructions
from benchmarks.instructions import ROWS, Counting, Counts, Stored

DUMP = """\
version: 1
events: Ir
ob=/usr/lib/libpython3.11.so.1.0
fl=ceval.c
fn=_PyEval_EvalFrameDefault
10 100
cob=/venv/runtime.cpython-311-x86_64-linux-gnu.so
cfn=begin
calls=3 5
10 4000
20 11
fn=free.part.0
30 7

ob=/venv/runtime.cpython-311-x86_64-linux-gnu.so
fn=begin
5 900
fi=other.h
6 50
fn=end.lto_priv.0.cold
7 20
totals: 1088
"""


def test_a_dump_is_read_as_self_cost() -> None:
    """What a function called is not its own; parts and copies that a compiler made count as the function."""
    assert callgrind.parsed(DUMP) == {
        ("libpython", "_PyEval_EvalFrameDefault"): 111,
        ("libpython", "free"): 7,
        ("runtime", "begin"): 950,
        ("runtime", "end"): 20,
    }


@pytest.fixture
def stored() -> Stored:
    """What was reached by a row that is made up."""
    row = ("hello", "@recoverable")
    profile = Counts({"runtime: begin": 600.0, "runtime: end": 400.0}, {"recoverable/runner.py: run": 5.0})
    return Stored({}, {"hello": 50_000}, {row: 4000}, {row: profile})


def test_a_row_within_its_ceiling_says_nothing(stored: Stored) -> None:
    """Two percent above what was reached are let pass."""
    row = ("hello", "@recoverable")
    assert instructions.judged(row, Counts({"runtime: begin": 4080.0}, {}), stored) == []


def test_a_row_that_grew_names_the_functions(stored: Stored) -> None:
    """Three percent more fail, with the functions that grew and the Python functions that run more lines."""
    row = ("hello", "@recoverable")
    now = Counts(
        {"runtime: begin": 720.0, "runtime: end": 400.0, "libpython: rest": 3000.0},
        {"recoverable/runner.py: run": 9.0, "recoverable/new.py: f": 2.0},
    )
    said = "\n".join(instructions.judged(row, now, stored))
    assert "4,120 instructions above plain, +120" in said
    assert "+120  runtime: begin (600 → 720)" in said
    assert "runtime: end" not in said
    assert "+4  recoverable/runner.py: run (5 → 9)" in said
    assert "+2  recoverable/new.py: f (0 → 2)" in said


def test_the_smaller_of_two_counts_stays() -> None:
    """A row that is counted again keeps what is least."""
    counting = Counting()
    for n in (500.0, 400.0, 450.0):
        counting._keep(("hello", "plain"), Counts({"x: y": n}, {}))
    assert counting.found["hello", "plain"].total == 400


def test_each_row_has_a_ceiling() -> None:
    """What is stored is of the rows that are counted, of each of them, and not of others."""
    assert {row for row in ROWS if row[1] != "plain"} == Stored.load().reached.keys()
