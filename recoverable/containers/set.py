"""Set: a set in the arena."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, MutableSet
from collections.abc import Set as AbstractSet
from typing import Any, TypeVar

from recoverable._keys import spelled_key
from recoverable._native.runtime import register_container, whole
from recoverable._native.set import SetHandle

__all__ = ["Set"]

T = TypeVar("T")
_SETS = (AbstractSet, SetHandle)


class Set(SetHandle[T], MutableSet[T]):
    """A `set` that lives in an arena, in insertion order: same methods, same exceptions.

    Made by `Set(...)` it is not stored yet; assigning it, or a plain set, into a container stores it. Operators give plain
    sets. Different items never conflict between requests; `len()` and iteration read the Set as a whole.

    Raises: as Dict.
    """

    __slots__ = ()

    @classmethod
    def _from_iterable(cls, items: Iterable[Any]) -> set[Any]:
        return set(items)

    def remove(self, item: T) -> None:
        """Take an item out; KeyError without it."""
        if not self._discard(item):
            raise KeyError(item)

    def discard(self, item: T) -> None:
        """Take an item out if it is there."""
        self._discard(item)

    def pop(self) -> T:
        """Take out the item that was put in last and return it."""
        item: T
        for item in reversed(self):
            self._discard(item)
            return item
        raise KeyError("pop from an empty set")

    def update(self, *others: Iterable[T]) -> None:
        """Put in every item of the others."""
        self._change([item for other in others for item in list(other)], self.add)

    def difference_update(self, *others: Iterable[Any]) -> None:
        """Take out every item of the others."""
        self._change([item for other in others for item in list(other)], self._discard)

    def intersection_update(self, *others: Iterable[Any]) -> None:
        """Keep only what is in all the others."""
        keep = self.intersection(*others)
        self._change([item for item in list(self) if item not in keep], self._discard)

    def symmetric_difference_update(self, other: Iterable[T]) -> None:
        """Keep what is in one of the two only."""
        items = dict.fromkeys(other)
        there = [item for item in items if item in self]
        fresh = [item for item in items if item not in self]
        if not self._stored:
            self._change(there, self._discard)
            self._change(fresh, self.add)
            return
        with whole(self):
            self._change(there, self._discard)
            self._change(fresh, self.add)

    def _change(self, items: list[Any], how: Any) -> None:
        if not self._stored:
            for item in items:
                how(item)
            return
        with whole(self):
            for item in items:
                how(item)

    def union(self, *others: Iterable[Any]) -> set[Any]:
        """Return a plain set of what is in any."""
        return set(self).union(*others)

    def intersection(self, *others: Iterable[Any]) -> set[Any]:
        """Return a plain set of what is in all."""
        return set(self).intersection(*others)

    def difference(self, *others: Iterable[Any]) -> set[Any]:
        """Return a plain set of what is in none of the others."""
        return set(self).difference(*others)

    def symmetric_difference(self, other: Iterable[Any]) -> set[Any]:
        """Return a plain set of what is in one of the two only."""
        return set(self).symmetric_difference(other)

    def issubset(self, other: Iterable[Any]) -> bool:
        """Is every item in the other?"""
        return set(self).issubset(other)

    def issuperset(self, other: Iterable[Any]) -> bool:
        """Is every item of the other here?"""
        return set(self).issuperset(other)

    def isdisjoint(self, other: Iterable[Any]) -> bool:
        """Have the two nothing in common?"""
        return set(self).isdisjoint(other)

    def __and__(self, other: Any) -> set[Any]:
        return self.intersection(other) if isinstance(other, _SETS) else NotImplemented

    def __or__(self, other: Any) -> set[Any]:
        return self.union(other) if isinstance(other, _SETS) else NotImplemented

    def __sub__(self, other: Any) -> set[Any]:
        return self.difference(other) if isinstance(other, _SETS) else NotImplemented

    def __xor__(self, other: Any) -> set[Any]:
        return self.symmetric_difference(other) if isinstance(other, _SETS) else NotImplemented

    __rand__, __rxor__ = __and__, __xor__

    def __ror__(self, other: Any) -> set[Any]:
        return set(other).union(self) if isinstance(other, _SETS) else NotImplemented

    def __rsub__(self, other: Any) -> set[Any]:
        return set(other).difference(self) if isinstance(other, _SETS) else NotImplemented

    def __ior__(self, other: Iterable[Any]) -> Set[T]:  # type: ignore[misc]
        if not isinstance(other, _SETS):
            return NotImplemented
        self.update(other)
        return self

    def __iand__(self, other: Iterable[Any]) -> Set[T]:  # type: ignore[misc]
        if not isinstance(other, _SETS):
            return NotImplemented
        self.intersection_update(other)
        return self

    def __isub__(self, other: Iterable[Any]) -> Set[T]:  # type: ignore[misc]
        if not isinstance(other, _SETS):
            return NotImplemented
        self.difference_update(other)
        return self

    def __ixor__(self, other: Iterable[Any]) -> Set[T]:  # type: ignore[misc]
        if not isinstance(other, _SETS):
            return NotImplemented
        self.symmetric_difference_update(other)
        return self

    def __eq__(self, other: object) -> bool:
        if self._same(other):
            return True
        return (
            set(self) == (set(other) if isinstance(other, Set) else other)
            if isinstance(other, (set, frozenset, Set))
            else NotImplemented
        )

    def __iter__(self) -> Iterator[T]:
        return SetHandle.__iter__(self)

    def __repr__(self) -> str:
        if self._stored and self._arena.closed:
            return "<Set of a closed arena>"
        items = ", ".join(map(repr, self))
        return f"Set({{{items}}})" if items else "Set()"

    # -- as plain parts, and for people: see Container ------------------------------------------------------------

    def _parts(self) -> dict[Any, Any]:
        return dict.fromkeys(self, True)

    @classmethod
    def _of_parts(cls, extra: Any, parts: dict[Any, Any]) -> Set[Any]:
        return Set(parts)

    def _part(self, key: Any) -> bool:
        if key not in self:
            raise KeyError(key)
        return True

    def _put_part(self, key: Any, value: Any) -> None:
        self.add(key)

    def _drop_part(self, key: Any) -> None:
        self.discard(key)

    def _entries(self, offset: int, limit: int) -> list[tuple[str, Any]]:
        return [(f"{{{spelled_key(key)}}}", key) for key in itertools.islice(self, offset, offset + limit)]


register_container(Set, {set: Set, frozenset: Set})
