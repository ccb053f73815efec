"""Closed segments as bytes: saved, put back, scribbled over. Holes stay holes."""

from __future__ import annotations

import os
from pathlib import Path

SHARED = Path("/dev/shm")


def path_of(name: str) -> Path:
    """Return the file of an arena's segment."""
    return SHARED / f"recoverable.{name}"


class Saved:
    """A segment's content, kept in memory piece by piece."""

    def __init__(self, name: str) -> None:
        self.pieces: list[tuple[int, bytes]] = []
        with path_of(name).open("rb") as file:
            self.size = os.fstat(file.fileno()).st_size
            at = 0
            while at < self.size:
                try:
                    start = os.lseek(file.fileno(), at, os.SEEK_DATA)
                except OSError:  # only a hole is left
                    break
                at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                piece = os.pread(file.fileno(), at - start, start)
                self.pieces.append((start, piece))

    def put(self, name: str) -> None:
        """Make a segment of that name with this content; one that is there goes first."""
        path = path_of(name)
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.ftruncate(fd, self.size)
            for at, piece in self.pieces:
                os.pwrite(fd, piece, at)
        finally:
            os.close(fd)
