"""No test of faults leaves any armed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from recoverable.faults import _watch


@pytest.fixture(autouse=True)
def nothing_left_armed() -> Iterator[None]:
    """Fail a test that leaves faults armed."""
    yield
    left = _watch.armed()
    _watch.disarm()
    assert left is None
