"""List: a list in the arena."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, MutableSequence
from typing import Any, TypeVar

from recoverable._native.list import ListHandle
from recoverable._native.runtime import Container, register_container, whole

__all__ = ["List"]

V = TypeVar("V")


class List(ListHandle[V]):
    """A `list` that lives in an arena: same methods, same slices, same exceptions.

    Made by `List([...])` it is not stored yet; assigning it, or a plain list, into a container stores it. `append`,
    `pop()` and access by position take the same time whatever the length; `insert`, `del` and slices in the middle shift
    what follows, as in a list.

    Items in different chunks of 32 never conflict between requests; appends to one List do (use a Deque for a queue).

    Raises: as Dict.
    """

    __slots__ = ()

    # -- slices, and what shifts positions ------------------------------------------------------------------------

    def _set_slice(self, key: slice, value: Iterable[V]) -> None:
        if not self._stored:
            self._pending[key] = value
            return
        values = list(value)
        n = len(self)
        start, stop, step = key.indices(n)
        if step != 1:
            places = range(start, stop, step)
            if len(values) != len(places):
                raise ValueError(
                    f"attempt to assign sequence of size {len(values)} to extended slice of size {len(places)}"
                )
            with whole(self):
                for i, item in zip(places, values, strict=True):
                    self[i] = item
                self._expect(n)
            return
        stop = max(start, stop)
        common = min(stop - start, len(values))
        self._splice(start, stop - start - common, common, values, n)

    def _splice(self, start: int, drop: int, common: int, values: list[Any], n: int) -> None:
        """Of n items, replace `common` from `start` on, then drop the next `drop`, or make room for the further values."""
        with whole(self):
            if drop:
                self._remove(start + common, drop, n)
            elif len(values) > common:
                self._gap(start + common, len(values) - common, n)
            for i, value in enumerate(values):
                self[start + i] = value
            self._expect(n - drop + len(values) - common)

    def _delete_slice(self, key: slice) -> None:
        n = len(self)
        places = sorted(range(*key.indices(n)), reverse=True)
        if places and places[0] - places[-1] == len(places) - 1:
            self._remove(places[-1], len(places), n)
            return
        with whole(self):
            for done, i in enumerate(places):
                self._remove(i, 1, n - done)

    def __contains__(self, value: object) -> bool:
        return any(v is value or v == value for v in self._items())

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """Return the first position of a value; ValueError without one."""
        items = self._items()
        return items.index(value, start, len(items) if stop is None else stop)

    def count(self, value: Any) -> int:
        """Return how many items equal a value."""
        return self._items().count(value)

    def insert(self, index: int, value: V) -> None:
        """Put an item before a position."""
        if not self._stored:
            self._pending.insert(index, value)
            return
        index, n = operator.index(index), len(self)
        i = max(0, index + n) if index < 0 else min(index, n)
        self._splice(i, 0, 0, [value], n)

    def remove(self, value: Any) -> None:
        """Delete the first item that equals a value; ValueError without one."""
        items = self._items()
        try:
            i = items.index(value)
        except ValueError:
            raise ValueError("list.remove(x): x not in list") from None
        if self._stored:
            self._remove(i, 1, len(items))
        else:
            del self._pending[i]

    def clear(self) -> None:
        """Delete everything."""
        del self[:]

    def reverse(self) -> None:
        """Turn the order round."""
        if not self._stored:
            self._pending.reverse()
        else:
            self._permute(range(len(self) - 1, -1, -1))

    def sort(self, *, key: Callable[[V], Any] | None = None, reverse: bool = False) -> None:
        """Sort in place, stably. Nothing is changed when a comparison raises."""
        if not self._stored:
            self._pending.sort(key=key, reverse=reverse)
            return
        items = self._items()
        keys: list[Any] = items if key is None else [key(v) for v in items]
        order = sorted(range(len(items)), key=keys.__getitem__, reverse=reverse)
        if len(self) != len(items):
            raise ValueError("list modified during sort")
        self._permute(order)

    # -- as a whole -----------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if isinstance(other, List):
            return self._same(other) or self._items() == other._items()
        return self._items() == other if isinstance(other, list) else NotImplemented

    def _compare(self, other: object, test: Callable[[Any, Any], bool]) -> bool:
        if isinstance(other, List):
            other = other._items()
        return test(self._items(), other) if isinstance(other, list) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return self._compare(other, operator.lt)

    def __le__(self, other: object) -> bool:
        return self._compare(other, operator.le)

    def __gt__(self, other: object) -> bool:
        return self._compare(other, operator.gt)

    def __ge__(self, other: object) -> bool:
        return self._compare(other, operator.ge)

    def __add__(self, other: Any) -> list[Any]:
        if not isinstance(other, (list, List)):
            return NotImplemented
        return self.to_python() + (other.to_python() if isinstance(other, List) else other)

    def __radd__(self, other: Any) -> list[Any]:
        return other + self.to_python() if isinstance(other, list) else NotImplemented

    def __iadd__(self, other: Iterable[V]) -> List[V]:  # type: ignore[misc]
        self.extend(other)
        return self

    def __mul__(self, n: int) -> list[Any]:
        return self.to_python() * n

    __rmul__ = __mul__

    def __imul__(self, n: int) -> List[V]:
        n = operator.index(n)
        if n <= 0:
            self.clear()
        else:
            items = self._items()
            self.extend(v.copy() if isinstance(v, Container) else v for _ in range(n - 1) for v in items)
        return self

    def __repr__(self) -> str:
        if self._stored and self._arena.closed:
            return "<List of a closed arena>"
        return f"List({self.to_python()!r})"

    # -- as plain parts, and for people: see Container ------------------------------------------------------------

    def _parts(self) -> dict[int, Any]:
        return dict(enumerate(self._items()))

    @classmethod
    def _of_parts(cls, extra: Any, parts: dict[int, Any]) -> List[Any]:
        return List(parts.values())

    def _put_part(self, key: int, value: Any) -> None:
        if key < len(self):
            self[key] = value
        else:
            self.append(value)


MutableSequence.register(List)
register_container(List, {list: List})
