"""The folder that benchmarks of durability write to: it must be on a disk, and what that disk takes is told with the results."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.harness import Report, Settings, Spread

IN_MEMORY = "tmpfs", "ramfs"
BLOCK = 4096
_PIECE = 1 << 20


class NoDisk(Exception):
    """The folder is in memory, where nothing is durable; says where it is."""


@contextlib.contextmanager
def folder(settings: Settings) -> Iterator[Path]:
    """Make a folder on the disk, and remove it at the end.

    Raises:
        NoDisk: The folder is in memory.
    """
    check(settings.disk)
    with tempfile.TemporaryDirectory(prefix="bench-disk-", dir=settings.disk) as path:
        yield Path(path)


def check(path: Path) -> None:
    """Raise NoDisk if a folder is in memory."""
    if (kind := file_system(path)) in IN_MEMORY:
        raise NoDisk(f"{path} is {kind}; name a folder on a disk: --disk FOLDER")


def file_system(path: Path) -> str:
    """Return the type of the file system that a folder is on, as the kernel calls it."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    above = [mount for mount in mounts if path.resolve().is_relative_to(mount[4])]
    deepest = max(reversed(above), key=lambda mount: len(mount[4]))  # the last one of those that lie over each other
    return deepest[deepest.index("-") + 1]


def flushes(path: Path) -> int | None:
    """Return how many flushes the device under a folder has done so far, for everybody; None: it does not count them."""
    device = path.stat().st_dev
    with contextlib.suppress(OSError, IndexError):
        count = int(Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text().split()[15])
        return count or None
    return None


# -- the bare loop ----------------------------------------------------------------------------------------------------


class Bare:
    """A file that has its size and holds zeros, as those of the journal, and a loop that writes batches there."""

    def __init__(self, path: Path, size: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._size, self._at = size, 0
        zeros = bytes(_PIECE)
        for at in range(0, size, _PIECE):
            os.pwrite(self._fd, zeros[: size - at], at)
        os.fsync(self._fd)

    def write(self, sizes: Sequence[int], told: Callable[[float], object] = lambda took: None) -> float:
        """Write batches of those sizes, each durable before the next; return seconds. `told` gets those of each."""
        data = memoryview(os.urandom(max(sizes)))
        begun = last = time.perf_counter()
        for size in sizes:
            if self._at + size > self._size:
                self._at = 0
            os.pwrite(self._fd, data[:size], self._at)
            os.fdatasync(self._fd)
            self._at += size
            now = time.perf_counter()
            told(now - last)
            last = now
        return last - begun

    def close(self) -> None:
        os.close(self._fd)


def tell(report: Report, settings: Settings) -> None:
    """Note what the disk is, and how long a flush takes there by itself."""
    with folder(settings) as path:
        bare, took = Bare(path / "bare", 16 << 20), list[float]()
        bare.write([BLOCK] * settings.pick(1000, 100), took.append)
        bare.close()
    bare_us = Spread.of(each * 1e6 for each in took)
    report.figure("a block of 4 KiB, written and flushed: µs", bare_us)
    report.note(
        f"The disk is {file_system(settings.disk)}; `pwrite` of 4 KiB and `fdatasync` take {bare_us} µs there, in a file that "
        f"has its size and holds zeros, and {max(took) * 1e6:,.0f} µs at worst in {len(took):,}."
    )
