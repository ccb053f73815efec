"""A copy of an arena that its feed alone brings forward: is it what the arena is?"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from recoverable import Arena
from recoverable._native import feed as native_feed
from recoverable._native.feed import Restore
from recoverable.arena import open_copy
from recoverable.cli import _image
from support.segments import Saved, path_of


def all_of(arena: Arena, at: int) -> bytes:
    """Return the records from a position on."""
    found = []
    while records := native_feed.read(arena.native, at, 1 << 20):
        found.append(records)
        at += len(records)
    return b"".join(found)


class Replica:
    """A copy in an object without a name. Close it.

    Attributes:
        at: So far it is brought forward: a position in the feed.
    """

    def __init__(self, name: str, saved: Saved | None = None) -> None:
        """Copy the segment of that name as it is, in which nothing goes on; or a saved one."""
        self.name = name
        self.fd = os.memfd_create("replica", os.MFD_CLOEXEC)
        if saved is None:
            with path_of(name).open("rb") as file:
                _image._copy(file.fileno(), self.fd)
        else:
            os.ftruncate(self.fd, saved.size)
            for at, piece in saved.pieces:
                os.pwrite(self.fd, piece, at)
        with self.opened() as arena:
            state = native_feed.state(arena.native)
            assert state is not None
            self.at = state[4]

    def apply(self, records: bytes) -> None:
        """Bring it forward."""
        restore = Restore(self.fd, self.name)
        try:
            restore.apply(records)
        finally:
            restore.close()
        self.at += len(records)

    def follow(self, arena: Arena) -> None:
        """Bring it forward to what the arena is."""
        if records := all_of(arena, self.at):
            self.apply(records)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Arena]:
        """Open a copy of it, which may be changed."""
        fd = os.memfd_create("replica-copy", os.MFD_CLOEXEC)
        try:
            _image._copy(self.fd, fd)
            arena = open_copy(self.name, fd)
            try:
                yield arena
            finally:
                arena.close()
        finally:
            os.close(fd)

    def close(self) -> None:
        """Forget it."""
        os.close(self.fd)
