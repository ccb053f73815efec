"""Arenas for tests of steps that take too long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from recoverable import Arena
from support.watched import spared_arena

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def spared(new_name: Callable[[], str]) -> Iterator[Arena]:
    """Give an arena whose steps are stopped soon, and never end the process."""
    with spared_arena(new_name()) as opened:
        yield opened


@pytest.fixture
def other(new_name: Callable[[], str]) -> Iterator[Arena]:
    """Give one whose steps are not watched."""
    with Arena.temporary("4 MiB", name=new_name()) as opened:
        yield opened
