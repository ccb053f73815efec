"""A private arena that has a state of the past: what a capsule is replayed in.

What we want: the state that the first step saw, in an arena that can be written to, beside whatever arenas this process has, and
without touching the journal. A snapshot is copied into an object without a name, and brought forward there by the journal's
records; then it is an arena like any other. `forward` brings it on from there.
"""

from __future__ import annotations

import contextlib
import functools
import os
from typing import TYPE_CHECKING, Any, Final

from recoverable import _registry
from recoverable._descriptors import opened
from recoverable._native.feed import Restore
from recoverable.arena import Arena, open_copy
from recoverable.errors import CapsuleError, HistoryError
from recoverable.history import History
from recoverable.history.line import Line
from recoverable.journal import snapshots
from recoverable.journal.folder import Folder
from recoverable.journal.order import END

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from recoverable._native.runtime import NativeArena

__all__ = ["Past", "private", "standing_in"]


class Past:
    """The states of a journal that a capsule is about.

    Raises:
        HistoryError: It does not have them, or no longer.
        JournalError: The folder can't be read.
    """

    def __init__(self, path: str, arena: dict[str, Any], last: tuple[int, int]) -> None:
        """Look whether they are there.

        Args:
            path: The journal's folder.
            arena: What the capsule says of the arena.
            last: The number of the last commit that is needed, and its position in the feed.
        """
        self.name = arena["name"]
        self.folder = Folder(path, write=False)
        self.line = Line(self.folder)
        self.history = History(self.folder)
        seq, position = last
        keyframe = self.line.keyframes[-1]
        if keyframe.arena != arena["identity"]:
            raise HistoryError(
                f"journal {path!r} is of another arena than the capsule, whose arena was {arena['name']!r}. Nothing was run. Name "
                "the folder of its journal."
            )
        cut = min((start.position for start in self.line.starts if start.epoch > arena["epoch"]), default=END)
        if self.line.epoch < arena["epoch"] or position > cut:
            raise HistoryError(
                f"journal {path!r} goes on from a state before commit {seq}, which the capsule is about: it was restored to an "
                "earlier one since, or is an old copy. Nothing was run.",
                self.line.oldest,
                self.line.newest,
            )
        if seq > self.line.newest:
            raise HistoryError(
                f"commit {seq}, which the capsule is about, is not in journal {path!r}, which goes up to commit "
                f"{self.line.newest}. Nothing was run.",
                self.line.oldest,
                self.line.newest,
            )


_NAME: Final = "capsule"


@contextlib.contextmanager
def private(past: Past, seq: int, step_limit: float | None) -> Iterator[Arena]:
    """Make an arena of the state after a commit, in an object without a name, which goes with the block."""
    fd = os.memfd_create(f"recoverable.{_NAME}", os.MFD_CLOEXEC)
    try:
        _fill(past, fd, seq)
        arena = open_copy(past.name, fd)
    finally:
        os.close(fd)
    try:
        arena.native.journal = _Durable(past.folder.path)
        if step_limit is not None:
            arena.step_limit = step_limit
        yield arena
    finally:
        arena.native.capsules = None
        if not arena.native.raw_count():  # else somebody has a view of it, and it goes with that
            arena.close()


def _fill(past: Past, fd: int, seq: int) -> None:
    line = past.line
    keyframe = line.keyframe(seq)
    with line.read(), opened(past.folder.snapshot_path(keyframe.position), os.O_RDONLY) as source:
        snapshots.copy(keyframe, source, fd)
    copy = Restore(fd, _NAME)
    try:
        copy.back()
        line.replay(copy, keyframe, seq)
        copy.renew()
    finally:
        copy.close()


class _Durable:
    """Stands for the journal of an arena that has none: nothing waits for a disk in a replay."""

    stopped = False
    doubts = 0

    def __init__(self, path: str) -> None:
        self.path = path

    def keep(self, compact: bool) -> None: ...

    def is_durable(self, position: int) -> bool:
        return True

    def position(self, native: NativeArena, seq: int | None) -> int:
        return 0

    async def wait(self, position: int, timeout: float) -> None: ...

    def close(self) -> bool:
        return True

    def begin_again(self) -> None: ...

    def forget(self) -> None: ...


@contextlib.contextmanager
def standing_in(arena: Arena) -> Iterator[Callable[[Arena], None]]:
    """Have an arena stand for those that a program uses: `Arena.open` gives it, whatever the name.

    Yields:
        A function that has it stand for one that the program has opened before, in the hands of whoever has that.
    """
    if _registry.stand_in is not None:
        raise CapsuleError(
            "another capsule is being replayed in this process. Nothing was run. Replay one after the other."
        )
    segment, native = arena._segment, arena.native
    back: list[Callable[[], None]] = []

    def stand_for(found: Arena) -> None:
        other = found.native
        if other is native:
            return
        for each in {id(each): each for each in (found, *found._segment.arenas)}.values():
            back.append(_switched(each, arena))
        for handler in [handler for handler in _registry.handlers if handler.arena is other]:
            handler.arena = native
            back.append(functools.partial(setattr, handler, "arena", other))

    for each in list(_registry.borrowed):  # of an earlier replay: modules stay imported
        stand_for(each)
    _registry.stand(segment)
    try:
        yield stand_for
    finally:
        for undo in reversed(back):
            undo()
        _registry.stand(None)
        for each in [each for each in segment.arenas if each is not arena]:
            each.close()


def _switched(arena: Arena, to: Arena) -> Callable[[], None]:
    """Have an Arena lead to what another one leads to; return what undoes it."""
    was = arena._segment, arena.native, arena._closed, arena._history
    arena._segment, arena.native, arena._closed, arena._history = to._segment, to.native, False, {}

    def undo() -> None:
        arena._segment, arena.native, arena._closed, arena._history = was

    return undo
