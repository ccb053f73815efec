"""How full the arena's lock is: for how long it is held and waited for, as `arena.stats().lock` tells it.

Steps on one arena run one at a time. How many workers one arena carries follows from how long each request holds the lock,
docs/scale.md says how. What is counted is on the board of the segment, by all processes since the arena was made
(`held.c`); the growth over a second is what happened in that second.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final, NamedTuple

__all__ = ["BOUNDS", "CLASSES", "Counted", "LockTimes", "Times"]

CLASSES: Final = 24  # RCV_TIME_CLASSES

#: Upper bounds of the classes in seconds; in the last class is what took longer.
BOUNDS: Final = tuple((256 << i) / 1e9 for i in range(CLASSES - 1))


@dataclass(frozen=True, slots=True)
class Times:
    """How often something happened, and how long it took.

    Attributes:
        count: How often.
        seconds: How long, all together.
        classes: How often it took less than 256 ns, then 512 ns, and so on by `BOUNDS`, each without what was less than
            the one before; the last is the rest.
    """

    count: int = 0
    seconds: float = 0.0
    classes: tuple[int, ...] = field(default=(0,) * CLASSES, repr=False)

    def __sub__(self, earlier: Times) -> Times:
        """Return what has been added since an earlier look."""
        return Times(
            max(0, self.count - earlier.count),
            max(0.0, self.seconds - earlier.seconds),
            tuple(max(0, new - old) for new, old in zip(self.classes, earlier.classes, strict=True)),
        )

    @property
    def mean(self) -> float:
        """Seconds, the mean; 0.0 where there was none."""
        return self.seconds / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """Return the seconds that this share of them did not exceed, to within a class, whose bounds are a factor 2 apart."""
        left = share * sum(self.classes)
        for n, bound in zip(self.classes, (*BOUNDS, 2 * BOUNDS[-1]), strict=True):
            if n and left <= n:
                return bound * (0.5 + 0.5 * left / n)
            left -= n
        return 0.0


class Counted(NamedTuple):
    """What the core counts. Of `held` and `waited`: how often, nanoseconds in all, how often by class."""

    held: tuple[int, int, tuple[int, ...]]
    waited: tuple[int, int, tuple[int, ...]]
    running: int  # nanoseconds


@dataclass(frozen=True, slots=True)
class LockTimes:
    """For how long the lock was held and waited for, by all processes.

    `later - earlier` is what happened in between, over whose length `busy` is. Of one alone, it is over the time since the
    machine was started, which says little.

    A hold of 10 ms or more is always counted, with its own time, also one that ended with its thread or process. Of shorter
    ones all of the first 16 of a process are timed, then fewer and fewer, in the end one in 17 to 32, and each stands for all
    since the one before. So a count lacks the last few holds of each process, less than a tenth of all and 31 at most. Seconds
    and classes are estimates, which get better with the number of holds: with 100 short ones timed, the standard error of the
    mean is a tenth of their standard deviation.

    Attributes:
        held: How long it was held, of the holds that ended.
        waited: How long it was waited for, of those who had to, and have it or gave up. All of them are timed.
        over: Seconds, on the monotonic clock, or between the two.
        running: Seconds for which it has been held by now, if that is 10 ms or more (less on a fast processor), else 0.0. Of a
            dead process, up to when it was last seen alive, and a second more at most.
        taken: Seconds that it was held. `held` has a hold in full once it has ended; this has the part of each that lies
            between the two looks.
    """

    held: Times
    waited: Times
    over: float
    running: float = 0.0
    taken: float = 0.0

    def __sub__(self, earlier: LockTimes) -> LockTimes:
        """Return what has happened since an earlier look."""
        return LockTimes(
            self.held - earlier.held,
            self.waited - earlier.waited,
            self.over - earlier.over,
            self.running,
            max(0.0, self.taken - earlier.taken),
        )

    @property
    def busy(self) -> float:
        """The share of the time that somebody held it: 0.0 to 1.0."""
        return min(1.0, self.taken / self.over) if self.over > 0 else 0.0

    @classmethod
    def of(cls, counted: Counted) -> LockTimes:
        """Return it from what the core counts."""
        held, waited = (Times(count, nanos / 1e9, classes) for count, nanos, classes in (counted.held, counted.waited))
        return cls(held, waited, time.monotonic(), counted.running / 1e9, (counted.held[1] + counted.running) / 1e9)

    def first(self) -> LockTimes:
        """Return what a first look tells by itself: whether the lock is held, and for how long."""
        return LockTimes(Times(), Times(), self.running, self.running, self.running)
