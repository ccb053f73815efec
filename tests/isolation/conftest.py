"""Arenas in which two units hardly ever share a stamp: these tests are about the conflicts that must not be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from recoverable import Arena

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def arena(name: str) -> Iterator[Arena]:
    """Give an empty arena with the largest stamp table there is: a million stamps, 8 MiB."""
    with Arena.temporary("1 GiB", name=name) as opened:
        yield opened
