"""What is told of the benchmarks' results elsewhere is what the results say."""

from __future__ import annotations

from pathlib import Path

import pytest

if not (Path(__file__).parents[2] / "benchmarks").is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)

from benchmarks import summary
from benchmarks.__main__ import ALL
from benchmarks.harness import OUT


def test_the_page_of_missed_aims_is_that_of_the_results() -> None:
    """It is written with each result: `python -m benchmarks NAME`."""
    missed, _ = summary.summaries(ALL, OUT)
    assert (OUT / "missed.md").read_text() == missed


def test_the_readme_tells_what_was_measured() -> None:
    """Its table of costs is written with each result, too."""
    _, costs = summary.summaries(ALL, OUT)
    found = summary.TABLE.search(summary.README.read_text())
    assert found is not None
    assert found[0] == costs
    assert costs.count("\n") == 4
