"""A short run of benchmarks/soak.py, which does ten million."""

from __future__ import annotations

import os

import pytest

from benchmarks.soak import soak


@pytest.mark.slow
def test_all_memory_comes_back(seed: int) -> None:
    """After 200,000 random operations over all containers, committed and rolled back, not a byte is lost."""
    figures = soak(int(os.environ.get("RECOVERABLE_SOAK", "200000")), seed)
    assert figures["before"] == figures["after"]
    assert figures["most"] > 10 * figures["before"]
