"""How far an arena's feed is, how far behind its sinks are, and what its journal's writer has done: as the core counts it."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from recoverable._native import feed as native_feed
from recoverable._native import journal as native_journal

if TYPE_CHECKING:
    from recoverable._native.journal import State
    from recoverable._native.runtime import NativeArena

__all__ = ["FeedState", "Flushes", "LastSnapshot", "Sink", "of", "of_fd"]


@dataclass(frozen=True, slots=True)
class Sink:
    """What reads the feed and may not miss anything: the journal, say.

    Attributes:
        name: Its name.
        process: The id of the process that serves it, as that one's PID namespace has it; 0: nobody does.
        seq: The number of the last commit that it has taken.
        commits: How many it has not taken yet, at most: numbers of commits have gaps.
        bytes: Of these.
        seconds: Since when the first of them waits; 0.0: it has all, or that one is overwritten.
        required: Whether commits wait for it when the feed is full.
        lost: Whether it has missed something, or has failed.
    """

    name: str
    process: int
    seq: int
    commits: int
    bytes: int
    seconds: float
    required: bool
    lost: bool


@dataclass(frozen=True, slots=True)
class Flushes:
    """What has been written to a journal, by whatever process, since the arena was made or restored.

    Attributes:
        count: Flushes: batches of commits that became durable together.
        commits: In all of them.
        bytes: In all of them.
        seconds: What they took, from writing to the disk's answer.
        longest: What the longest of them took.
        classes: How many took less than 256 ns << class, and not less than that of the class before.
        at: When the last one ended, in seconds since the epoch; 0.0: there was none.
        stopped: Why nothing more becomes durable, as the system says it; None: it does.
        delayed: Why nothing can be written just now, as of a full disk; None: it can.
    """

    count: int
    commits: int
    bytes: int
    seconds: float
    longest: float
    classes: tuple[int, ...]
    at: float
    stopped: str | None
    delayed: str | None

    @property
    def mean(self) -> float:
        """Seconds that a flush took."""
        return self.seconds / self.count if self.count else 0.0

    @property
    def batch(self) -> float:
        """Commits in a flush."""
        return self.commits / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class LastSnapshot:
    """The last snapshot of a journal, as of a few seconds ago: a start replays what was committed since.

    Attributes:
        seq: The number of the last commit in it.
        at: When that was, in seconds since the epoch.
        bytes: What it takes on the disk.
    """

    seq: int
    at: float
    bytes: int


class Seen(NamedTuple):
    """What the core tells: the feed's epoch, size, tail, head, seq, at; a sink's name, cursor, seq, pid, required, lost, since."""

    feed: tuple[int, int, int, int, int, int] | None
    sinks: list[tuple[str, int, int, int, bool, bool, int]]
    journal: State | None


@dataclass(frozen=True, slots=True)
class FeedState:
    """How far a feed is.

    Attributes:
        size: Bytes of its ring.
        used: How much of that is commits which a required sink has not taken.
        seq: The number of the last commit in it.
        at: When that was, in seconds since the epoch.
        epoch: How often the arena was restored.
        sinks: What reads it.
        flushes: What has been written to its journal; None: nothing yet, and nobody has failed to.
        snapshot: The journal's last one; None: not known.
    """

    size: int
    used: int
    seq: int
    at: float
    epoch: int
    sinks: tuple[Sink, ...]
    flushes: Flushes | None
    snapshot: LastSnapshot | None

    @property
    def journal(self) -> Sink | None:
        """The sink of the journal; None: there is none."""
        return next((sink for sink in self.sinks if sink.name == "journal"), None)

    @classmethod
    def of(cls, seen: Seen) -> FeedState | None:
        """Return it from what the core tells; None: there is no feed."""
        if seen.feed is None:
            return None
        epoch, size, _, head, seq, at = seen.feed
        now = time.time()
        sinks = tuple(
            Sink(
                name,
                pid,
                taken,
                max(0, seq - taken),
                max(0, head - cursor),
                max(0.0, now - since / 1e9) if since else 0.0,
                required,
                lost,
            )
            for name, cursor, taken, pid, required, lost, since in seen.sinks
        )
        used = max((sink.bytes for sink in sinks if sink.required and not sink.lost), default=0)
        flushes = snapshot = None
        if seen.journal is not None:
            flushes = _flushes(seen.journal)
            last, of, taken = seen.journal.snapshot
            snapshot = LastSnapshot(last, of / 1e9, taken) if of else None
        return cls(size, used, seq, at / 1e9, epoch >> 32, sinks, flushes, snapshot)


def _flushes(state: State) -> Flushes:
    return Flushes(
        count=state.batches,
        commits=state.records,
        bytes=state.bytes,
        seconds=state.nanos / 1e9,
        longest=state.worst / 1e9,
        classes=state.in_class,
        at=state.at / 1e9,
        stopped=why(state.stopped) or None,
        delayed=why(state.delayed) or None if not state.stopped else None,
    )


def why(number: int) -> str:
    """Return why nothing becomes durable, given an errno; "": it does."""
    if number == errno.ENOENT:
        return "its folder, or the file in use, was moved or removed"
    if number in (errno.ESTALE, errno.EEXIST):
        return (
            "the folder is not this arena's journal any more: something else has written there, or files were removed"
        )
    if number == errno.EUCLEAN:
        return "the file in use is damaged: see recoverable journal verify"
    return os.strerror(number) if number else ""


def of(native: NativeArena) -> FeedState | None:
    """Return it of an open arena; None: it has no feed."""
    state = native_feed.state(native)
    if state is None:
        return None
    return FeedState.of(Seen(state[1:], [sink[1:] for sink in native_feed.sinks(native)], native_journal.state(native)))


def of_fd(fd: int, name: str) -> FeedState | None:
    """Return it of the arena behind a descriptor, without attaching."""
    return FeedState.of(Seen(*native_journal.peek(fd, name)))
