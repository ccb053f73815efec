"""Which arenas are open in this process, and which of them a handler without `arena=` means.

The answer is on the path of every request, so it is worked out when an arena is opened, closed or bound to an
application, and kept in `state.only`: the one arena that every way of finding one would lead to, or None where the
request has to be asked.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from recoverable._native.runtime import open_arenas_state
from recoverable.errors import RecoverableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recoverable._native.runtime import Handler, NativeArena
    from recoverable._segment import Segment
    from recoverable.arena import Arena

__all__ = [
    "add",
    "all_bound",
    "all_open",
    "bind",
    "borrowed",
    "decorated",
    "find",
    "find_behind",
    "handlers",
    "lock",
    "remove",
    "resolve",
    "stand",
    "state",
    "turn",
]


state = open_arenas_state
#: Held for moments only, by who changes what is open, or must not have it closed meanwhile.
lock = threading.RLock()
_turns: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_segments: dict[tuple[int, int], Segment] = {}  # by device and inode: a name may be unlinked and made again
_bound: weakref.WeakSet[Arena] = weakref.WeakSet()
#: Handlers that were decorated with an arena.
handlers: weakref.WeakSet[Handler[Any]] = weakref.WeakSet()
#: What is decorated with `@recoverable`: the functions themselves.
decorated: weakref.WeakSet[Any] = weakref.WeakSet()
#: The segment that stands for all others while a capsule is replayed: who opens any arena gets it.
stand_in: Segment | None = None
#: Arenas that somebody has got so, and may have kept.
borrowed: weakref.WeakSet[Arena] = weakref.WeakSet()


def _fork() -> None:
    global lock
    lock = threading.RLock()  # a thread that the child does not have may hold the old one
    _turns.clear()


os.register_at_fork(after_in_child=_fork)


def _refresh() -> None:
    natives = [segment.native for segment in _segments.values()]
    state.only = None
    if stand_in is not None:
        state.only = stand_in.native
    elif len(natives) == 1 and all(arena.native is natives[0] for arena in _bound):
        state.only = natives[0]


def turn(name: str) -> Any:
    """Return the lock of who opens or closes an arena of that name: a restore may take minutes, and a disk may hang."""
    with lock:
        found = _turns.get(name)
        if found is None:
            found = _turns[name] = threading.RLock()
        return found


def find(key: tuple[int, int]) -> Segment | None:
    """Return the open segment with that device and inode."""
    return _segments.get(key)


def find_behind(fd: int) -> Segment | None:
    """Return the open segment whose object that descriptor is of."""
    status = os.fstat(fd)
    return find((status.st_dev, status.st_ino))


def add(segment: Segment) -> None:
    """Note that a segment is open."""
    _segments[segment.key] = segment
    _refresh()


def remove(segment: Segment) -> None:
    """Note that a segment is closed."""
    _segments.pop(segment.key, None)
    _refresh()


def stand(segment: Segment | None) -> None:
    """Have a segment stand for all others; None: no more."""
    global stand_in
    stand_in = segment
    _refresh()


def bind(arena: Arena) -> None:
    """Note that an application's handlers mean this arena, open or closed."""
    _bound.add(arena)
    _refresh()


def all_bound() -> list[Arena]:
    """Return the arenas that handlers of applications mean, open or closed."""
    return list(_bound)


def all_open() -> list[Segment]:
    """Return the open segments."""
    return list(_segments.values())


def resolve(of_app: Arena | None, handler: str) -> NativeArena:
    """Return the arena that a handler without `arena=` means, where `state.only` does not tell.

    Args:
        of_app: The arena of the request's application, or None.
        handler: The handler's name, for the message.

    Raises:
        RecoverableError: None is open, or several are and the request does not tell.
    """
    if stand_in is not None:
        return stand_in.native
    if of_app is not None:
        return of_app.native
    names: Sequence[Any] = sorted(segment.name for segment in _segments.values())
    if len(names) == 1:
        return all_open()[0].native
    if not names:
        raise RecoverableError(
            f"{handler} is recoverable, but no arena is open. It was not run. Open one with Arena.open(name) first."
        )
    raise RecoverableError(
        f"{handler} is recoverable, but {len(names)} arenas are open ({', '.join(map(repr, names))}) and none is "
        "named. It was not run. Say which: @recoverable(arena=...), or setup(app, arena) from recoverable.aiohttp."
    )
