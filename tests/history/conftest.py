"""Journals of tests have small files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from recoverable._native import journal as native_journal


@pytest.fixture(autouse=True)
def small_files() -> Iterator[None]:
    """Have files of 256 KiB made: what is tested is not how long 64 MiB of zeros take."""
    native_journal.file_size(256 * 1024)
    yield
    native_journal.file_size(64 * 1024**2)
