"""Journals of tests have small files, and are kept; requests that crash are, too, where a test asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recoverable import Arena
from recoverable._native import journal as native_journal
from recoverable.capsules import Capsules


@pytest.fixture(autouse=True)
def small_files() -> Iterator[None]:
    """Have files of 256 KiB made: what is tested is not how long 64 MiB of zeros take."""
    native_journal.file_size(256 * 1024)
    yield
    native_journal.file_size(64 * 1024**2)


@pytest.fixture
def arena(new_name: Callable[[], str], tmp_path: Path) -> Iterator[Arena]:
    """Give an arena with a journal."""
    with Arena.temporary("16 MiB", name=new_name(), journal=tmp_path / "journal", compact=False, keep="24h") as made:
        yield made


@pytest.fixture
def capsules(arena: Arena, tmp_path: Path) -> Iterator[Capsules]:
    """Give where its crashes are kept."""
    made = Capsules(tmp_path / "capsules", hide=["pin"])
    made.begin(arena.native)
    yield made
    made.end(arena.native)
