"""An arena that an application may close."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from recoverable import Arena

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def shared(name: str) -> Iterator[tuple[Arena, Arena]]:
    """Give an arena, and a second handle of it for the application, which closes it."""
    with Arena.temporary("16 MiB", name=name) as arena:
        yield arena, Arena.open(name)
