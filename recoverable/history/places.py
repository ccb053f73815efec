"""Paths, as root['accounts']['ann'].balance[3]: read from text, followed in a state, and made of a container."""

from __future__ import annotations

import ast
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from recoverable._keys import key_of, spelled, that_equals_itself
from recoverable._native import paths
from recoverable._native.runtime import Container
from recoverable.errors import ArenaOptionError, RecoverableError

if TYPE_CHECKING:
    from recoverable._native.runtime import NativeArena

__all__ = ["ROOT", "Path"]


@dataclass(frozen=True, slots=True)
class Path:
    """Where a value is: the keys, fields and positions that lead to it from the root."""

    keys: tuple[Any, ...] = ()
    text: str = field(default="root", compare=False)
    _of_array: bool = field(default=False, compare=False, repr=False)  # its last key is the index of an Array's item

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Path(keys={spelled(self.keys)}, text={self.text!r})"

    def to(self, container: Container, key: Any) -> Path:
        """Return the path of a part of the container that it leads to."""
        return Path((*self.keys, that_equals_itself(key)), self.text + container._part_text(key), container._in_pieces)

    def is_within(self, other: Path) -> bool:
        """Return whether the other is this one, or leads to it."""
        n = len(other.keys)
        if self._of_array and n >= len(self.keys):  # the other may name the item, or its row, in several steps
            above = len(self.keys) - 1
            index = _flat(other.keys[above:])
            return self.keys[:above] == other.keys[:above] and _flat(self.keys[above:])[: len(index)] == index
        return self.keys[:n] == other.keys

    @classmethod
    def parse(cls, text: str | Path) -> Path:
        """Read one from text.

        Raises:
            ArenaOptionError: It is none.
        """
        if isinstance(text, Path):
            return text
        keys: list[Any] = []
        try:
            if not isinstance(text, str):
                raise TypeError
            node = ast.parse(text.strip(), mode="eval").body
            while not (isinstance(node, ast.Name) and node.id == "root"):
                if isinstance(node, ast.Subscript):
                    keys.append(key_of(node.slice))
                elif isinstance(node, ast.Attribute):
                    keys.append(node.attr)
                else:
                    raise ValueError(text)
                node = node.value
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            raise ArenaOptionError(
                f"{text!r} is no path. Nothing was looked at. Write it as Python would: root['accounts']['ann'], root['cart'].sum."
            ) from None
        return cls(tuple(reversed(keys)), text.strip())

    @classmethod
    def of(cls, container: Container) -> Path | None:
        """Return that of a container; None: it is gone."""
        steps = []
        while (parent := paths.parent_of(container)) is not None:
            key = paths.key_in(parent, container)
            if key is NotImplemented:
                key = next((k for k, part in parent._parts().items() if _is(part, container)), NotImplemented)
            if key is NotImplemented:
                return None
            steps.append((parent, key))
            container = parent
        if paths.number_of(container) != paths.number_of(_native(container).root()):
            return None
        path = ROOT
        for parent, key in reversed(steps):
            path = path.to(parent, key)
        return path

    def chain(self, root: Any) -> tuple[list[tuple[Container, Any]], Any, bool]:
        """Follow it: what was come through as (container, key), what was found, and whether all of it is there.

        Where it ends early, what was found is the last value that there is. At a position that counts from the end is nothing:
        what came there as time went by would be another value each time.
        """
        come_through: list[tuple[Container, Any]] = []
        value = root
        keys = deque(self.keys)
        while keys:
            if not isinstance(value, Container):
                return come_through, value, False
            key = keys.popleft()
            if value._in_pieces:  # m[1][2] is m[1, 2]
                key = _flat((key, *keys))
                keys.clear()
            come_through.append((value, key))
            if _counts_from_end(value, key):
                return come_through, value, False
            try:
                value = value._part(key)
            except RecoverableError:  # some are LookupErrors as well: its class or codec is not known in this process
                raise
            except (LookupError, AttributeError, TypeError, ValueError):
                return come_through, value, False
        return come_through, value, True

    def counts_from_end(self, root: Any) -> bool:
        """Return whether it has a position that counts from the end, of a sequence that is there."""
        come_through, _, there = self.chain(root)
        return not there and bool(come_through) and _counts_from_end(*come_through[-1])


ROOT = Path()


def _counts_from_end(container: Container, key: Any) -> bool:
    return container._unit_of(0) is None and any(isinstance(each, int) and each < 0 for each in _flat((key,)))


def _flat(keys: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return keys with what is in tuples among them as keys."""
    return tuple(each for key in keys for each in (key if isinstance(key, tuple) else (key,)))


def _native(container: Container) -> NativeArena:
    native: NativeArena = container._arena
    return native


def _is(part: Any, container: Container) -> bool:
    return isinstance(part, Container) and paths.number_of(part) == paths.number_of(container)
