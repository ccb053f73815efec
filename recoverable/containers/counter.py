"""Counter: a number that many requests may raise at once."""

from __future__ import annotations

from typing import Any

from recoverable._native.counter import CounterHandle
from recoverable._native.runtime import register_container

__all__ = ["Counter"]

_KIND = 6  # RCV_K_COUNTER


class Counter(CounterHandle):
    """A 64-bit integer whose additions commute: hits, stock, totals.

    For example::

        arena.root["hits"] = Counter()
        arena.root["hits"].add(1)        # never conflicts with another request's add

    Reading `.value` conflicts with additions that others commit meanwhile. It is no `collections.Counter`: for counts by
    key, hang Counters into a Dict.

    Args:
        value: What it begins with.

    Raises:
        OverflowError: it would leave the range of 64 bits; nothing was added.
    """

    __slots__ = ()

    def __iadd__(self, n: int) -> Counter:
        self.add(n)
        return self

    def __isub__(self, n: int) -> Counter:
        self.add(-n)
        return self

    def __int__(self) -> int:
        return self.value

    def __index__(self) -> int:
        return self.value

    def __bool__(self) -> bool:
        return self.value != 0

    def __eq__(self, other: object) -> bool:
        if self._same(other):
            return True
        if isinstance(other, Counter):
            return self.value == other.value
        return self.value == other if isinstance(other, (int, float)) else NotImplemented

    def __lt__(self, other: Any) -> bool:
        return self.value < (other.value if isinstance(other, Counter) else other)

    def __le__(self, other: Any) -> bool:
        return self.value <= (other.value if isinstance(other, Counter) else other)

    def __gt__(self, other: Any) -> bool:
        return self.value > (other.value if isinstance(other, Counter) else other)

    def __ge__(self, other: Any) -> bool:
        return self.value >= (other.value if isinstance(other, Counter) else other)

    def copy(self) -> Counter:
        """Return a Counter that is not stored yet, with the same value."""
        return Counter(self.value)

    def __repr__(self) -> str:
        if self._arena is not None and self._arena.closed:
            return "<Counter of a closed arena>"
        return f"Counter({self.value})"


register_container(_KIND, Counter)
