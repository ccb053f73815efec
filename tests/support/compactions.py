"""Compactions that are killed: in front of any call that changes a file, on copies of a folder."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recoverable.journal import compact as compaction
from recoverable.journal import snapshots, start

__all__ = ["Steps", "copy_folder"]


class Steps:
    """Ends the process in front of the n-th call of what changes files."""

    CALLS = (
        (os, "open"), (os, "unlink"), (os, "rename"), (os, "fsync"), (os, "pwrite"), (os, "copy_file_range"),
        (os, "ftruncate"), (compaction, "_make_spare"), (compaction, "Restore"), (snapshots, "finish"),
        (start, "replay"),
    )  # fmt: skip

    def __init__(self, end: int) -> None:
        self.n, self.end = 0, end

    def install(self) -> None:
        for module, name in self.CALLS:
            setattr(module, name, self._wrap(getattr(module, name)))

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.n += 1
            if self.n == self.end:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call


def copy_folder(source: str, target: str) -> None:
    os.mkdir(target)  # noqa: PTH102
    for each in os.listdir(source):  # noqa: PTH208
        with contextlib.ExitStack() as stack:
            files = [
                stack.enter_context(Path(path, each).open(mode)) for path, mode in ((source, "rb"), (target, "wb"))
            ]
            snapshots.duplicate(*(file.fileno() for file in files), os.fstat(files[0].fileno()).st_size)
