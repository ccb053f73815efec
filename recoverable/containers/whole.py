"""whole: several operations on a container as one."""

from __future__ import annotations

from typing import Any

__all__ = ["whole"]


class whole:  # noqa: N801 -- reads as a statement
    """Runs a block of operations on a stored container as one operation: a failure undoes all of them."""

    __slots__ = ("_container", "_mark")

    def __init__(self, container: Any) -> None:
        self._container = container

    def __enter__(self) -> None:
        self._mark = self._container._begin_several()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._container._undo_several(self._mark)
