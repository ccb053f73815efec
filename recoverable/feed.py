"""The commit feed: what each commit has changed, in the order of the commits, for whoever keeps or shows it elsewhere.

An arena that was made with `feed=` has a ring in its segment. Each commit leaves a record there, in whatever process it was
made, and `Arena.feed` reads them in any other, without ever waiting for the arena's lock. Old records are overwritten.
"""

from __future__ import annotations

import asyncio
import datetime
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from recoverable import _times, bell, feed_state
from recoverable._native import feed as native_feed
from recoverable._native import journal as native_journal
from recoverable._native.paths import describe_conflict
from recoverable.errors import (
    ArenaCorruptError,
    ArenaOptionError,
    FeedMissingError,
    FeedOverrunError,
    JournalError,
    StaleReferenceError,
    TransactionClosedError,
    TransactionError,
)

if TYPE_CHECKING:
    from recoverable.arena import Arena

__all__ = ["Commit", "Feed", "Place", "Unit"]

_READ = 256 * 1024  # bytes at a time
_MOST = (1 << 64) - 1  # a commit's number
_LOOK = 0.5  # seconds: how often a thread that waits looks for signals, and for what nobody has woken it for (feed.c)


class Unit(NamedTuple):
    """One conflict unit that a commit has written: the finest thing that requests can disagree about.

    Attributes:
        container: Where its container lay, as an offset; 0: not known.
        id: That container's number, never given again; 0: a page of an Array.
        kind: Which kind of unit, as the core numbers them.
        arg: Which one: a key's hash, a page, …
    """

    container: int
    id: int
    kind: int
    arg: int


class Place(NamedTuple):
    """Where a unit is, in words.

    Attributes:
        path: The container's path, as `root["cart"]`; None: it is gone, or an Array's page.
        key: The key, or the place in it, as far as it can be told.
    """

    path: str | None
    key: str | None


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit, as the feed has it.

    Attributes:
        seq: Its number: it grows with each commit, and not always by one.
        at: When it was made.
        handler: Whose it was; for a block, the name that it was given.
        request_id: The id that its request was sent with; else the one that an event, or a list of requests, had given it by
            then; or None.
        units: What it has written, by unit; of more than a thousand, the first. A container that it has made is told by the
            place where it was put.
        ranges: The bytes that are different after it: (offset in the segment, bytes), or (offset, how many zeros).
        complete: Whether `units` has all of them.
    """

    seq: int
    at: datetime.datetime
    handler: str
    request_id: str | None
    units: tuple[Unit, ...]
    ranges: tuple[tuple[int, bytes | int], ...] = field(repr=False)
    complete: bool = True
    _arena: Arena | None = field(default=None, repr=False, compare=False)

    def places(self) -> list[Place]:
        """Return where its units are, as the arena is *now*: what was moved or deleted since has no place.

        Raises:
            TransactionClosedError: The arena is closed.
        """
        if self._arena is None:
            return []
        native = self._arena.native
        return [
            Place(
                *describe_conflict(
                    native,
                    {
                        "conflict_kind": unit.kind,
                        "conflict_container": unit.container,
                        "conflict_id": unit.id,
                        "conflict_arg": unit.arg,
                    },
                )
            )
            for unit in self.units
        ]


class Feed(Iterator[Commit], AsyncIterator[Commit]):
    """The commits of an arena from one of them on, the oldest first; for `for` in a thread, and for `async for` in an event loop.

    It may be behind by what the ring holds. It keeps nothing: what it has not read is not waited for. Damage ends it, by an
    ArenaCorruptError after the commits before it.
    """

    def __init__(self, arena: Arena, after: int | None, follow: bool, durable: bool = False) -> None:
        self._arena = arena
        self._follow = follow
        self._durable = durable
        self._ready: deque[Commit] = deque()
        self._closed = False
        self._damage: ArenaCorruptError | None = None  # behind what is ready
        state = native_feed.state(arena.native)
        if state is None:
            raise FeedMissingError(
                f"arena {arena.name!r} was made without a feed. Nothing was changed. Make it with feed=, as in "
                f'Arena.open({arena.name!r}, feed="64 MiB"); recoverable export --portable and import --feed move what is in it.'
            )
        if durable and arena.native.journal is None:
            raise JournalError(
                f"arena {arena.name!r} is open without a journal, so none of its commits is ever on the disk. Nothing was "
                "changed. Open it with journal=, or leave durable= out."
            )
        if after is not None and type(after) is not int:
            raise TypeError(
                f"after={after!r} is not a commit's number: give an int, as Commit.seq, or 0 for all. Nothing was read."
            )
        if after is not None and not 0 <= after <= _MOST:
            raise ArenaOptionError(
                f"after={after} is no commit's number: those lie between 0, for all, and {_MOST}. Nothing was read."
            )
        self._next = state[4] if after is None else self._seek(after)

    def _overrun(self) -> FeedOverrunError:
        oldest = self._oldest()
        left = "it has no commit at all now" if oldest is None else f"the oldest commit that it still has is {oldest}"
        return FeedOverrunError(
            f"the feed of arena {self._arena.name!r} no longer has what comes next. The arena is as it was. Begin with a "
            f"copy of its state; {left}. A larger feed= keeps more.",
            oldest=oldest,
        )

    def _oldest(self) -> int | None:
        """Return the number of the oldest commit that the ring has, leaving out slices of reclaiming, which are nobody's."""
        native, at = self._arena.native, 0
        while (state := native_feed.state(native)) is not None:
            at = max(at, state[3])
            try:
                records = native_feed.read(native, at, 4096)
            except StaleReferenceError:  # overwritten since
                continue
            found = native_feed.parse(records, lambda seq, *rest: None if rest[5] else seq, at)
            if not found:
                break
            for seq in found:
                if seq is not None:
                    return int(seq)
            at += len(records)
        return None

    def _seek(self, seq: int) -> int:
        try:
            return native_feed.seek(self._arena.native, seq)
        except StaleReferenceError:
            raise self._overrun() from None

    def _make(self, seq: int, at: int, handler: str, request: str | None, units: Any, ranges: Any, *rest: Any) -> None:
        of_reclaiming, cut, _ = rest
        if not of_reclaiming:
            time = _times.of(at)
            named = tuple(Unit(*unit) for unit in units)
            self._ready.append(Commit(seq, time, handler, request, named, ranges, not cut, self._arena))

    def _durable_bytes(self) -> int:
        """Return how many bytes from here on are on the disk: of whole records."""
        return max(0, native_journal.durable(self._arena.native) - self._next)

    def _check_comes(self) -> None:
        """Raise an error where what comes next never will: it was overwritten undurable, or the journal has stopped."""
        native = self._arena.native
        state = native_feed.state(native)
        if state is not None and self._next < state[3]:
            raise self._overrun()
        journal = native_journal.state(native)
        if self._follow and journal is not None and journal.stopped and not self._durable_bytes():
            raise JournalError(
                f"the journal of arena {self._arena.name!r} has stopped: {feed_state.why(journal.stopped)}. What is committed is "
                "in memory, and no further commit comes to the disk, so none is given. Restart with a sound disk; or leave "
                "durable= out."
            )

    def _take(self) -> bool:
        """Read what there is; say whether there is a commit to give."""
        while not self._ready:
            if self._damage is not None:
                damage, self._damage, self._closed = self._damage, None, True
                raise damage
            if self._arena.closed:
                raise TransactionClosedError(
                    f"arena {self._arena.name!r} was closed while its next commit was waited for."
                )
            try:
                room = min(_READ, self._durable_bytes()) if self._durable else _READ
                if not room:
                    self._check_comes()
                records = native_feed.read(self._arena.native, self._next, room) if room else b""
                native_feed.parse(records, self._make, self._next)
            except StaleReferenceError:
                raise self._overrun() from None
            except ArenaCorruptError as damage:  # told once, after what is sound before it
                self._damage = damage
                continue
            if not records:
                return False
            self._next += len(records)
        return True

    def close(self) -> None:
        """End it: whoever waits for its next commit gets none. Closing twice is fine."""
        self._closed = True
        if not self._arena.closed:
            native_feed.wake(self._arena.native)

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> Commit:
        while True:
            seen = native_feed.bell(self._arena.native)
            if self._closed:
                raise StopIteration
            if self._take():
                return self._ready.popleft()
            if not self._follow:
                raise StopIteration
            if asyncio._get_running_loop() is not None:
                raise TransactionError(
                    "the next commit was waited for in an event loop, which would stand still. Nothing was changed. "
                    "Use `async for`, or arena.feed(follow=False) for what there is."
                )
            bell.of(self._arena.native).sleep(seen, _LOOK)

    def __aiter__(self) -> Feed:
        return self

    async def __anext__(self) -> Commit:
        while True:
            seen = native_feed.bell(self._arena.native)
            if self._closed:
                raise StopAsyncIteration
            if self._take():
                return self._ready.popleft()
            if not self._follow:
                raise StopAsyncIteration
            await bell.of(self._arena.native).moved(seen)
