"""Journals of tests have small files; their command runs in the test's process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from recoverable._native import journal as native_journal
from recoverable.cli._app import run


@pytest.fixture(autouse=True)
def small_files() -> Iterator[None]:
    """Have files of 256 KiB made: what is tested is not how long 64 MiB of zeros take."""
    native_journal.file_size(256 * 1024)
    yield
    native_journal.file_size(64 * 1024**2)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `recoverable journal` in this process: its exit code, and what it wrote."""

    def ask(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(["journal", *arguments])
        return code, *capsys.readouterr()

    return ask
