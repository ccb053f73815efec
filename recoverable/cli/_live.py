"""Reading an arena that servers work in, without their noticing: no lock, no slot in its tables, nothing stored.

The object is open and mapped for reading alone. What is read comes from a private image of it (`image.c`): pages that a
first attempt met are fetched again together, as of one moment between two commits, and an attempt that meets no further page
has read that moment. What does not fit between two commits is refused; nobody waits for us.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from recoverable._native import _peek
from recoverable._native.paths import describe_conflict, memory_of
from recoverable._native.runtime import NativeArena
from recoverable.cli import _outside
from recoverable.errors import ArenaBusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from recoverable._native.runtime import Container

__all__ = ["Copy", "Live", "live"]

T = TypeVar("T")

_PATIENCE: Final = 2.0  # seconds for a read
_MEASURING: Final = 0.05  # seconds for adding up one container's memory
_MEASURING_ALL: Final = 1.0


class Copy:
    """A private copy of an arena, or a state of its past, as something to read from: its root."""

    def __init__(self, root: Container) -> None:
        self.root = root

    def at_one_moment(self, read: Callable[[], T], *, patience: float = 0.0) -> T:
        """Return what `read` returns: nobody changes a copy."""
        return read()

    def memory(self, value: Container) -> int | None:
        """Return the bytes that a container and all that it holds take."""
        return memory_of(value)


class Live:
    """An image of an arena that others may be working in. Use `live`."""

    def __init__(self, name: str, address: int) -> None:
        self._name = name
        self._address = address
        self._native = NativeArena(address)
        self._native.owner = self
        self._measuring = _MEASURING_ALL
        self._inside = False
        self.name = name
        self.root: Container = self.at_one_moment(self._native.root)

    def close(self) -> None:
        """Give the image's memory back; containers that came from it can't be used any more."""
        self._native.mark_closed()
        _peek.image_close(self._address)

    def at_one_moment(self, read: Callable[[], T], *, patience: float = _PATIENCE) -> T:
        """Return what `read` returns when all that it reads is of one moment. It may be called several times.

        Args:
            read: Reads from this arena, outside transactions, and has no other effect.
            patience: Seconds after which to give up.

        Raises:
            ArenaBusyError: It reads more than there is time for between two commits, or more than an image holds.
        """
        if self._inside:
            return read()
        self._inside = True
        try:
            return self._attempts(read, time.monotonic() + patience)
        finally:
            self._inside = False

    def _attempts(self, read: Callable[[], T], end: float) -> T:
        _peek.image_forget(self._address)
        while True:
            _peek.image_take(self._address, max(0.0, end - time.monotonic()))
            try:
                result = read()
            except Exception:
                if not _peek.image_grew(self._address):  # what it raised is true
                    raise
            else:
                if not _peek.image_grew(self._address):
                    return result
            if _peek.image_full(self._address) or time.monotonic() > end:
                raise ArenaBusyError(
                    f"arena {self._name!r}: this is too much to be read between two commits of the processes that work in "
                    "it. Nothing was changed, and nobody waited. Ask for less (--limit, --offset, a longer path), or for "
                    "a copy (--memory)."
                )

    def place(self, kind: int, container: int, identity: int, arg: int) -> tuple[str | None, str | None]:
        """Return the path of a container, and the part of it, that a conflict was lost at; None where it is gone."""
        where = {"conflict_kind": kind, "conflict_container": container, "conflict_id": identity, "conflict_arg": arg}
        return self.at_one_moment(lambda: describe_conflict(self._native, where))

    def memory(self, value: Container) -> int | None:
        """Return the bytes that a container and all that it holds take; None where that is too much to walk here."""
        begun = time.monotonic()
        try:
            return self.at_one_moment(lambda: memory_of(value), patience=min(_MEASURING, self._measuring))
        except ArenaBusyError:
            return None
        finally:
            self._measuring = max(0.0, self._measuring - (time.monotonic() - begun))


@contextmanager
def live(name: str) -> Iterator[Live]:
    """Open an image of the arena of that name. Raises what `_outside.opened` raises, and where it is damaged."""
    with _outside.opened(name) as fd:
        address = _peek.image_open(fd, name)
        try:
            image: Any = Live(name, address)
        except BaseException:
            _peek.image_close(address)
            raise
        try:
            yield image
        finally:
            image.close()
