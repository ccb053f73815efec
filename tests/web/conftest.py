"""Arenas that an application may close, or that have a journal; where crashes are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from recoverable import Arena
from recoverable._native import journal as native_journal
from recoverable.capsules import Capsules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def shared(name: str) -> Iterator[tuple[Arena, Arena]]:
    """Give an arena, and a second handle of it for the application, which closes it."""
    with Arena.temporary("16 MiB", name=name) as arena:
        yield arena, Arena.open(name)


@pytest.fixture
def journaled(new_name: Callable[[], str], tmp_path: Path) -> Iterator[Arena]:
    """Give an arena with a journal of small files."""
    native_journal.file_size(256 * 1024)
    with Arena.temporary("16 MiB", name=new_name(), journal=tmp_path / "journal", compact=False) as arena:
        yield arena
    native_journal.file_size(64 * 1024**2)


@pytest.fixture
def capsules(tmp_path: Path) -> Capsules:
    """Give a folder for capsules that does not exist yet."""
    return Capsules(tmp_path / "capsules", hide=["password", "X-Api-Key", "card"])
