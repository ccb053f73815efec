"""Deque: a double-ended queue in the arena."""

from __future__ import annotations

import collections
import operator
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from typing import Any, TypeVar

from recoverable._native.deque import DequeHandle
from recoverable._native.runtime import Container, register_container, whole

__all__ = ["Deque"]

V = TypeVar("V")


class Deque(DequeHandle[V]):
    """A `collections.deque` that lives in an arena: the natural job queue.

    Made by `Deque(items, maxlen)` it is not stored yet; assigning it, or a plain deque, into a container stores it. Both
    ends take the same time whatever the length. A request that appends and one that pops from the other end conflict only
    if they meet at one item; `len()` reads both ends. A bounded Deque looks at both ends whenever it grows.

    Raises: as Dict.
    """

    __slots__ = ()

    def __delitem__(self, key: int) -> None:
        if not self._stored:
            del self._pending[key]
            return
        i, n = operator.index(key), len(self)
        i += n if i < 0 else 0
        if not 0 <= i < n:
            raise IndexError("deque index out of range")
        with whole(self):
            self.rotate(-i)
            self.popleft()
            self.rotate(i)

    def __iter__(self) -> Iterator[V]:
        return self._walk(self._ends(), 1) if self._stored else iter(self._pending)

    def __reversed__(self) -> Iterator[V]:
        return self._walk(self._ends(), -1) if self._stored else reversed(self._pending)

    def _walk(self, ends: tuple[int, int], step: int) -> Iterator[V]:
        """Give the items from one end; RuntimeError when the ends are others than when the iterator was made."""
        for i in range(ends[1] - ends[0])[::step]:
            if self._ends() != ends:
                raise RuntimeError("deque mutated during iteration")
            yield self[i]
        if step > 0 and self._ends() != ends:  # backwards, the original does not look
            raise RuntimeError("deque mutated during iteration")

    def __contains__(self, value: object) -> bool:
        return any(v is value or v == value for v in self)

    def extend(self, values: Iterable[V]) -> None:
        """Append every item of an iterable at the right end."""
        self._push_all(values, self.append)

    def extendleft(self, values: Iterable[V]) -> None:
        """Append every item of an iterable at the left end, so that they stand in reverse."""
        self._push_all(values, self.appendleft)

    def _push_all(self, values: Iterable[V], push: Callable[[V], None]) -> None:
        items = list(values)
        if not self._stored:
            for value in items:
                push(value)
            return
        with whole(self):
            for value in items:
                push(value)

    def insert(self, index: int, value: V) -> None:
        """Put an item before a position; IndexError if it is full."""
        if not self._stored:
            self._pending.insert(index, value)
            return
        index, n = operator.index(index), len(self)
        if self.maxlen is not None and n >= self.maxlen:
            raise IndexError("deque already at its maximum size")
        i = max(0, index + n) if index < 0 else min(index, n)
        with whole(self):
            self.rotate(-i)
            self.appendleft(value)
            self.rotate(i)
            if len(self) != n + 1:  # by the value's codec: it may lie elsewhere
                raise RuntimeError("deque mutated during insert(); nothing was inserted")

    def remove(self, value: Any) -> None:
        """Delete the first item that equals a value; ValueError without one."""
        ends = self._ends() if self._stored else None
        for i, item in enumerate(self):
            if item is value or item == value:
                if ends is not None and self._ends() != ends:
                    raise IndexError("deque mutated during remove(); nothing was removed")
                del self[i]
                return
        raise ValueError("deque.remove(x): x not in deque")

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Return the first position of a value; ValueError without one."""
        return list(self).index(value, start, len(self) if stop is None else stop)

    def count(self, value: Any) -> int:
        """Return how many items equal a value."""
        return list(self).count(value)

    def __bool__(self) -> bool:
        return len(self) != 0

    def _compare(self, other: object, test: Callable[[Any, Any], Any]) -> Any:
        if not isinstance(other, (Deque, collections.deque)):
            return NotImplemented
        return test(list(self), list(other))

    def __eq__(self, other: object) -> bool:
        return True if self._same(other) else self._compare(other, operator.eq)

    def __lt__(self, other: object) -> Any:
        return self._compare(other, operator.lt)

    def __le__(self, other: object) -> Any:
        return self._compare(other, operator.le)

    def __gt__(self, other: object) -> Any:
        return self._compare(other, operator.gt)

    def __ge__(self, other: object) -> Any:
        return self._compare(other, operator.ge)

    def __iadd__(self, other: Iterable[V]) -> Deque[V]:  # type: ignore[misc]
        self.extend(other)
        return self

    def __add__(self, other: Any) -> collections.deque[Any]:
        if not isinstance(other, (Deque, collections.deque)):
            return NotImplemented
        return collections.deque(
            [*self.to_python(), *(other.to_python() if isinstance(other, Deque) else other)], self.maxlen
        )

    def __radd__(self, other: Any) -> collections.deque[Any]:
        return other + collections.deque(self.to_python()) if isinstance(other, collections.deque) else NotImplemented

    def __mul__(self, n: int) -> collections.deque[Any]:
        return collections.deque(self.to_python(), self.maxlen) * n

    __rmul__ = __mul__

    def __imul__(self, n: int) -> Deque[V]:
        n = operator.index(n)
        if n <= 0:
            self.clear()
        else:
            items = list(self)
            self.extend(v.copy() if isinstance(v, Container) else v for _ in range(n - 1) for v in items)
        return self

    def __repr__(self) -> str:
        if self._stored and self._arena.closed:
            return "<Deque of a closed arena>"
        bound = "" if self.maxlen is None else f", maxlen={self.maxlen}"
        return f"Deque({self.to_python()!r}{bound})"

    # -- as plain parts, and for people: see Container ------------------------------------------------------------

    def _extra(self) -> int | None:
        return self.maxlen

    @classmethod
    def _of_parts(cls, extra: int | None, parts: dict[int, Any]) -> Deque[Any]:
        return Deque(parts.values(), extra)

    def _put_part(self, key: int, value: Any) -> None:
        if key < len(self):
            self[key] = value
        else:
            self.append(value)

    def _drop_part(self, key: int) -> None:
        self.pop()


MutableSequence.register(Deque)
register_container(Deque, {collections.deque: lambda plain: Deque(plain, plain.maxlen)})
