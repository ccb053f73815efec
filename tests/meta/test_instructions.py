"""The gate on instructions: what callgrind wrote is read rightly, and a row that grew is named with its functions."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

if not (Path(__file__).parents[2] / "benchmarks").is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)

from benchmarks import callgrind, instructions, tree
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
fn=begin'2
8 3
totals: 1091
"""


def test_a_dump_is_read_as_self_cost() -> None:
    """What a function called is not its own; parts and copies of a function count as the function."""
    assert callgrind.parsed(DUMP) == {
        ("libpython", "_PyEval_EvalFrameDefault"): 111,
        ("libpython", "free"): 7,
        ("runtime", "begin"): 953,
        ("runtime", "end"): 20,
    }


def test_what_a_function_calls_can_be_left_out_with_it() -> None:
    """What it called is taken off those that it called; what they did for others stays."""
    dump = "ob=/usr/lib/libpython3.11.so.1.0\nfn=look_up\n10 30\ncfn=compare\ncalls=2 0\n11 8\nfn=compare\n20 12\nfn=main\n1 5\n"
    whole = {("libpython", "look_up"): 30, ("libpython", "compare"): 12, ("libpython", "main"): 5}
    assert callgrind.parsed(dump) == whole
    assert callgrind.parsed(dump, {"look_up"}) == {
        ("libpython", "look_up"): 0,
        ("libpython", "compare"): 4,
        ("libpython", "main"): 5,
    }


@pytest.fixture
def stored() -> Stored:
    """What was reached by a row that is made up."""
    row = ("hello", "@recoverable")
    profile = Counts({"runtime: begin": 600.0, "runtime: end": 400.0}, {"recoverable/runner.py: run": 5.0})
    return Stored({"python": "3.11.7", "compiler": "12.2.0"}, {"hello": 50_000}, {row: 4000}, {row: profile})


def counted(*, plain: float = 50_000, above: float = 4000) -> Counting:
    """Return what counting a plain server and the row of `stored` would find."""
    counting = Counting()
    counting._keep(("hello", "plain"), Counts({"libpython: eval": plain}, {}))
    counting._keep(("hello", "@recoverable"), Counts({"libpython: eval": plain, "runtime: begin": above}, {}))
    return counting


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


@pytest.mark.parametrize(("above", "fails"), [(3900, False), (4000, False), (4080, False), (4120, True)])
def test_three_percent_are_too_much(stored: Stored, above: float, fails: bool) -> None:
    """What counts is the difference to the plain server of the same run."""
    assert bool(instructions.verdict(counted(above=above), stored)) is fails
    assert bool(instructions.verdict(counted(plain=50_900, above=above), stored)) is fails


@pytest.mark.parametrize(
    ("here", "plain", "why"),
    [
        ({}, 50_000, ""),
        ({"python": "3.11.9"}, 50_900, ""),
        ({"python": "3.12.1"}, 50_000, "those of Python 3.11 (python 3.12.1, not 3.11.7)"),
        ({"compiler": "14.1.0"}, 50_000, "of other versions (compiler 14.1.0, not 12.2.0)"),
        ({"python": "3.11.9"}, 51_100, "takes 51,100 instructions where it took 50,000"),
    ],
)
def test_elsewhere_nothing_is_judged(stored: Stored, here: dict[str, str], plain: float, why: str) -> None:
    """Another Python, compiler or library is a reason that is told, and so is a plain server that takes something else."""
    said = instructions.elsewhere(stored, counted(plain=plain), stored.build | here)
    assert why in said if why else said == ""


@pytest.mark.slow
def test_it_says_that_it_did_not_count(tmp_path: Path) -> None:
    """Without valgrind nothing is judged, and a line begins with NOT RUN, for which .ci/run looks."""
    ran = subprocess.run(
        tree.command("benchmarks.instructions"), env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stdout.startswith("NOT RUN: valgrind is not installed")) == (0, True), ran.stderr


def test_the_smaller_of_two_counts_stays() -> None:
    """A row that is counted again keeps what is least."""
    counting = Counting()
    for n in (500.0, 400.0, 450.0):
        counting._keep(("hello", "plain"), Counts({"x: y": n}, {}))
    assert counting.found["hello", "plain"].total == 400


def test_each_row_has_a_ceiling() -> None:
    """What is stored is of the rows that are counted, of each of them, and not of others."""
    assert {row for row in ROWS if row[1] != "plain"} == Stored.load().reached.keys()
