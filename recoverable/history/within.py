"""What lies at a place, and on the way there: where a commit must have written to change it.

All of it is asked of a state once, which takes as long as there are containers. From then on, those that come are added as commits
put them there. The numbers of those that go stay, and do no harm: no other container ever gets one.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from recoverable._keys import that_equals_itself
from recoverable._native import paths
from recoverable._native.runtime import Container
from recoverable.history.commits import containers_within
from recoverable.history.differences import part_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from recoverable._native.runtime import NativeArena
    from recoverable.history.commits import Places
    from recoverable.history.places import Path

__all__ = ["Within", "places_of"]

_MEMORY: Final = 0  # what units of raw memory have as their container's number


class _Memory(NamedTuple):
    """Where an Array's items lie, and the Array."""

    begin: int
    end: int
    offset: int
    number: int


class Within:
    """The containers at a place and on the way there, as of the state that has been come to.

    Attributes:
        place: It.
        all_seen: Whether all commits are told of that put containers there. Else the Arrays are asked for again where one was
            written to that is not known.
        has_moved: Whether the place has come to lead elsewhere: `places` are to be asked for again.
        has_grown: Whether containers have come to be there; who has used `places` forgets it.
    """

    def __init__(self, place: Path, *, all_seen: bool = True) -> None:
        self.place = place
        self.all_seen = all_seen
        self.has_moved = self.has_grown = False
        self._known = False
        self._numbers = array("Q")
        self._keys = array("Q")
        self._arrays: list[_Memory] = []  # that do not overlap, in their order

    def forget(self) -> None:
        """Have all asked for again."""
        self._known, self.has_moved = False, True

    def places(self, native: NativeArena) -> Places:
        """Return where the next commit has to write for the value to change, in a state that nothing has come to untold."""
        if not self._known:
            self._ask(native)
        self.has_grown = False
        return self._numbers, self._keys

    def _ask(self, native: NativeArena) -> None:
        come_through, value, whole = self.place.chain(native.root())
        numbers: set[int] = set()
        keys: set[tuple[int, int]] = set()
        self._arrays = []
        for container, key in come_through:
            digest = container._unit_of(key) if _is_key(key) else None
            if digest is None:
                numbers.update(self._of(container))
            else:
                keys.add((paths.number_of(container), digest))
        if whole and isinstance(value, Container):
            for each in containers_within(value):
                numbers.update(self._of(each))
        self._arrays.sort()
        self._numbers = array("Q", sorted(numbers))
        self._keys = array("Q", [part for pair in sorted(keys) for part in pair])
        self._known, self.has_moved = True, False

    def _of(self, container: Container) -> tuple[int, ...]:
        """Return what its units have as their container's number; note where an Array lies."""
        number = paths.number_of(container)
        if not container._in_pieces:
            return (number,)
        begin, end = container._memory
        if begin != end:
            self._arrays.append(_Memory(begin, end, paths.offset_of(container), number))
        return number, _MEMORY

    # -- what commits put there ------------------------------------------------------------------------------------------

    def meets(self, path: Path) -> bool:
        """Return whether a container is at the place or below it, or on the way there."""
        return path.is_within(self.place) or self.place.is_within(path)

    def _next(self, path: Path) -> Any:
        """Return the key that leads on from a container that is on the way."""
        return self.place.keys[len(path.keys)]

    def asked_of(self, path: Path, keys: list[Any] | None) -> list[Any] | None:
        """Return those of a container's keys that matter: on the way, the one that leads on."""
        if keys is None or path.is_within(self.place):
            return keys
        leads_on = (self._next(path),)  # as tuples compare: NaN with itself
        return [key for key in keys if (that_equals_itself(key),) == leads_on]

    def note(self, old: Container, new: Container, path: Path, keys: list[Any] | None) -> None:
        """Take notice of the containers that a commit has put into one, by the keys that it has written (None: not known)."""
        if not self._known or new._in_pieces:
            return
        if not path.is_within(self.place):
            before, after = (_linked(each, self._next(path)) for each in (old, new))
            if after is not None and (before is None or paths.number_of(before) != paths.number_of(after)):
                self.forget()
        elif keys is not None:
            for key in keys:
                if (part := _linked(new, key)) is not None:
                    self._add(part)
        else:
            for part in new._parts().values():
                if isinstance(part, Container):
                    self._add(part)

    def _add(self, container: Container) -> None:
        """Add one that is there, and what is in it, if it has come there just now."""
        if self._has(paths.number_of(container)):
            return
        kept, self._arrays = self._arrays, []
        for each in containers_within(container):
            for number in self._of(each):
                if not self._has(number):
                    insort(self._numbers, number)  # most are the last
        come, self._arrays = self._arrays, kept
        for memory in come:
            first, end = self._meeting(memory.begin, memory.end)
            self._arrays[first:end] = [memory]  # those were freed
        self.has_grown = True

    def _has(self, number: int) -> bool:
        at = bisect_left(self._numbers, number)
        return at < len(self._numbers) and self._numbers[at] == number

    # -- Arrays ------------------------------------------------------------------------------------------------------------

    def _meeting(self, begin: int, end: int) -> tuple[int, int]:
        """Return which of the Arrays have some bytes of the segment: from which one, and up to which."""
        first = bisect_right(self._arrays, (begin, _END))
        if first > 0 and self._arrays[first - 1].end > begin:
            first -= 1
        return first, bisect_left(self._arrays, (end,), lo=first)

    def _knows(self, native: NativeArena, page: int) -> bool:
        """Return whether a page is of an Array that is known, or of none that is there."""
        at = paths.page_at(native, page)
        if at is None:
            return True
        first, end = self._meeting(at, at + 1)
        return any(_at(native, memory) is not None for memory in self._arrays[first:end])

    def know_arrays(self, native: NativeArena, pages: list[int]) -> None:
        """Have it known, in the state before a commit, to which Arrays there belong the pages that the commit has written to."""
        if not self._known or (not self.all_seen and not all(self._knows(native, page) for page in pages)):
            self._ask(native)

    def written(
        self, native: NativeArena, ranges: tuple[tuple[int, bytes | int], ...]
    ) -> Iterator[tuple[Container, list[tuple[int, int]]]]:
        """Yield the Arrays there that a commit has written to, in the state before it, each with its bytes that are other ones.

        `ranges`: what the commit has written, as it has it.
        """
        found: dict[_Memory, list[tuple[int, int]]] = {}
        for offset, data in ranges:
            behind = offset + (data if isinstance(data, int) else len(data))
            first, end = self._meeting(offset, behind)
            for memory in self._arrays[first:end]:
                begin = max(offset, memory.begin)
                found.setdefault(memory, []).append((begin - memory.begin, min(behind, memory.end) - memory.begin))
        for memory, spans in found.items():
            array_of = _at(native, memory)
            if array_of is not None:
                yield array_of, spans


_END: Final = 1 << 64


def _at(native: NativeArena, memory: _Memory) -> Container | None:
    """Return the Array that has a memory; None: it is gone."""
    found = paths.container_at(native, memory.offset, memory.number)
    return found if found is not None and found._in_pieces else None


def _linked(container: Container, key: Any) -> Container | None:
    """Return the container that a key leads to."""
    try:
        part = part_of(container, key)
    except (AttributeError, TypeError, ValueError):  # it has no such keys
        return None
    return part if isinstance(part, Container) else None


def _is_key(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


def places_of(path: Path, native: NativeArena) -> Places:
    """Return where the next commit has to write for the value at a path to change, as the arena is now."""
    return Within(path).places(native)
