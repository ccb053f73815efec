"""Dict: a dict in the arena."""

from __future__ import annotations

import itertools
from collections.abc import ItemsView, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from typing import TYPE_CHECKING, Any, TypeVar

from recoverable._keys import spelled_key
from recoverable._native.dict import DictHandle, view_items, view_keys, view_of, view_values
from recoverable._native.runtime import register_container, whole

__all__ = ["Dict"]

K = TypeVar("K")
V = TypeVar("V")

_VALUES, _ITEMS = 2, 3


class Dict(DictHandle[K, V]):
    """A `dict` that lives in an arena: same methods, same order, same exceptions.

    Made by `Dict({...})` it is not stored yet and behaves as the plain dict that it wraps; assigning it into a container of
    an arena stores it, and from then on it is a handle on what is stored. Assigning a plain `dict` stores a copy.

    Values: `None bool int float str bytes`, tuples, dates and times, `Decimal`, `UUID`, types that have a codec, and
    containers. Keys: the same without containers; 1, 1.0 and True are one key, as in a dict.

    Different keys never conflict between requests. `len()`, iteration and views read the Dict as a whole: a request that
    uses them conflicts with one that inserts or deletes meanwhile (or, for values and items, changes anything in it).

    Raises:
        NoTransactionError: a write outside a transaction.
        StaleReferenceError: it was deleted, replaced or rolled back.
        TypeError: a key or value that can't be stored; it names the way out.
        ArenaFullError: no room; the Dict is as it was before the operation.
    """

    __slots__ = ()

    def keys(self) -> KeysView[K]:
        """Return a view of the keys, in insertion order."""
        return _Keys(self)

    def values(self) -> ValuesView[V]:
        """Return a view of the values, in the order of their keys."""
        return _Values(self)

    def items(self) -> ItemsView[K, V]:
        """Return a view of the (key, value) pairs, in insertion order."""
        return _Items(self)

    def update(self, other: Any = (), /, **kwargs: Any) -> None:
        """Set every key of a mapping or of an iterable of pairs, as dict.update() does; a failure sets none."""
        fresh: dict[Any, Any] = {}
        fresh.update(other, **kwargs)  # dict's own ways to ask: whatever it takes of a MultiDict, say, is what we take
        if self._arena is None:
            for key, value in fresh.items():
                self[key] = value
        elif fresh:
            with whole(self):
                for key, value in fresh.items():
                    self[key] = value

    def __or__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**self.to_python(), **_plain(other)}

    def __ror__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**_plain(other), **self.to_python()}

    def __ior__(self, other: Any) -> Dict[K, V]:  # type: ignore[misc]
        self.update(other)
        return self

    @classmethod
    def fromkeys(cls, keys: Any, value: Any = None) -> Dict[Any, Any]:
        """Return a Dict that is not stored yet, with these keys and one value."""
        return cls(dict.fromkeys(keys, value))

    # -- as plain parts, and for people: see Container ------------------------------------------------------------

    def _parts(self) -> dict[Any, Any]:
        return self._flat() or dict(self.items())

    @classmethod
    def _of_parts(cls, extra: Any, parts: dict[Any, Any]) -> Dict[Any, Any]:
        return Dict(parts)

    def _entries(self, offset: int, limit: int) -> list[tuple[str, Any]]:
        return [(f"[{spelled_key(key)}]", self[key]) for key in itertools.islice(self, offset, offset + limit)]

    def _follow(self, step: Any) -> tuple[Any, str]:
        if step.kind == "word" and step.key in self:
            return self[step.key], f"[{spelled_key(step.key)}]"
        return super()._follow(step)


class _Keys(KeysView[K]):
    """Can be walked backwards, too."""

    __slots__ = ()
    if not TYPE_CHECKING:
        __init__, __iter__ = view_of, view_keys

    def __reversed__(self) -> Iterator[K]:
        return reversed(self._mapping)  # type: ignore[attr-defined]


class _Values(ValuesView[V]):
    """Walks the values directly instead of looking up each key."""

    __slots__ = ()
    if not TYPE_CHECKING:
        __init__, __iter__ = view_of, view_values

    def __reversed__(self) -> Iterator[V]:
        return self._mapping._iterate(_VALUES, True)  # type: ignore[attr-defined,no-any-return]

    def __contains__(self, value: object) -> bool:
        return any(v is value or v == value for v in self)


class _Items(ItemsView[K, V]):
    """Walks the items directly instead of looking up each key."""

    __slots__ = ()
    if not TYPE_CHECKING:
        __init__, __iter__ = view_of, view_items

    def __reversed__(self) -> Iterator[tuple[K, V]]:
        return self._mapping._iterate(_ITEMS, True)  # type: ignore[attr-defined,no-any-return]

    def __contains__(self, item: object) -> bool:
        return isinstance(item, tuple) and len(item) == 2 and super().__contains__(item)


def _plain(mapping: Mapping[Any, Any]) -> dict[Any, Any]:
    return mapping.to_python() if isinstance(mapping, Dict) else dict(mapping)


MutableMapping.register(Dict)
register_container(Dict, {dict: Dict})
