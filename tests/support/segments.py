"""Closed segments as bytes: saved, put back, scribbled over. Holes stay holes."""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recoverable import Arena

COSTS = (7000, 3000, 120, 150)  # nanoseconds of a trap, a protection, a comparison and a copy, on a quiet machine
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


_numbers = itertools.count()


@contextlib.contextmanager
def calibrated(size: str, **options: Any) -> Iterator[Arena]:
    """Open a new arena whose costs are COSTS, for tests of decisions that depend on what was measured when it was made."""
    name = f"test-{os.getpid()}-calibrated-{next(_numbers)}"
    try:
        with contextlib.closing(Arena.open(name, size)) as arena:
            stats = arena.stats()
        measured = stats.cost_trap_ns, stats.cost_protect_ns, stats.cost_compare_ns, stats.cost_copy_ns
        with path_of(name).open("r+b") as file:
            header = file.read(4096)
            assert header.count(struct.pack("=4Q", *measured)) == 1
            file.seek(header.index(struct.pack("=4Q", *measured)))
            file.write(struct.pack("=4Q", *COSTS))
        with contextlib.closing(Arena.open(name, **options)) as arena:
            assert arena.stats().cost_trap_ns == COSTS[0]
            yield arena
    finally:
        Arena.unlink(name)
