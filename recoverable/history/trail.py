"""What has changed at a place, commit by commit: two states go through the commits, and what was written to is looked at.

Where to look is asked of the state that has been come to: the containers that the path leads through, and what is in them. Those
that come are added; all is asked again when the path has come to lead elsewhere.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from sys import getsizeof
from typing import TYPE_CHECKING, Final

from recoverable.history.commits import changed, parsed
from recoverable.history.differences import at_place
from recoverable.history.states import Stepper
from recoverable.history.within import Within
from recoverable.journal.order import END

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from recoverable.feed import Commit
    from recoverable.history.commits import Places, Search
    from recoverable.history.differences import Difference
    from recoverable.history.line import Line
    from recoverable.history.places import Path

__all__ = ["Change", "Trail", "backwards", "forwards", "newest_of"]

_VAIN: Final = 64  # commits that have changed nothing there, after which it is asked again where to look, at first
_MOVED: Final = 64  # times that the place has come to lead elsewhere, after which all commits are looked at
_FIRST: Final = 64  # commits that are gone through at a time, at first: the newest are wanted most
_KEPT: Final = 16384  # changes that are in memory at a time
_ROOM: Final = 64 << 20  # and the bytes that they take
_CHANGE: Final = 1024  # bytes that a change takes, without what it has of values
_DIFFERENCE: Final = 512  # and a difference
_NUMBER: Final = 32  # and a number


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit has changed.

    Attributes:
        commit: It: number, time, handler and request.
        differences: What is different after it, in the place that was asked for.
    """

    commit: Commit
    differences: tuple[Difference, ...]


class Trail:
    """Who looks at a place while a stepper goes through the commits; `everywhere`: not only where the place leads now."""

    def __init__(self, stepper: Stepper, place: Path, search: Search, *, everywhere: bool = False) -> None:
        self._stepper = stepper
        self._place = place
        self._search = search
        self._everywhere = everywhere or not place.keys
        self._within = Within(place, all_seen=not self._everywhere or search.has_all_behind(stepper.after.seq))
        self._where: tuple[Search, Places | None] | None = None
        self._vain, self._patience, self._moved = 0, _VAIN, 0

    def find(self, data: bytes, begin: int, position: int, end: int, most: int) -> list[tuple[int, int, int]]:
        """Return the records of a batch that may have changed the place, the first ones; 0: all."""
        if self._where is None:
            if self._everywhere:
                self._where = self._search, None
            else:  # others may change where the place leads
                self._where = self._search.anybody, self._within.places(self._stepper.after.native)
        search, places = self._where
        return search.find_in(data, begin, position, end, places, most)

    def change(self, record: bytes) -> Change | None:
        """Return what a record, around which the stepper stands, has changed there; None: nothing, or it is not looked for."""
        (commit,) = parsed(record)
        found = self._changed(commit)
        self._vain += not found
        if self._everywhere:
            pass
        elif self._within.has_moved:
            self._moved += 1
            if self._moved > _MOVED:
                self._everywhere = True
                self._within.all_seen = self._search.has_all_behind(commit.seq)
            self._look_again()
        elif self._within.has_grown:
            self._look_again()
        elif self._vain >= self._patience:
            self._within.forget()
            self._look_again()
            self._vain, self._patience = (
                0,
                self._patience * 2,
            )  # so that asking again takes no longer than what it saves
        return Change(commit, tuple(found)) if found and self._search.fits(commit) else None

    def _look_again(self) -> None:
        self._where = None
        self._stepper.find_again()

    def _changed(self, commit: Commit) -> list[Difference]:
        before, after, place = self._stepper.before.native, self._stepper.after.native, self._place
        everything = list(changed(commit, before, after, self._within))
        found = [each for each in everything if each.path.is_within(place)]
        if any(
            place.is_within(each.path) and each.path != place for each in everything
        ):  # what leads there is another one
            found += at_place(place, before.root(), after.root())
        return found


def forwards(
    stepper: Stepper, place: Path, search: Search, end: int = END, *, everywhere: bool = False
) -> Iterator[Change]:
    """Yield the changes from where a stepper is up to a position, the oldest first."""
    trail = Trail(stepper, place, search, everywhere=everywhere)
    for record in stepper.steps(trail.find, end, search.last):
        change = trail.change(record)
        if change is not None:
            yield change


def backwards(line: Line, place: Path, search: Search) -> Iterator[Change]:
    """Yield all changes, the newest first.

    Of a keyframe and the commits behind it, the newest commits are gone through first, more at a time where few have changed
    anything: what is in memory is bounded, and who wants the last ones does not wait for all.
    """
    frames = line.keyframes
    for i in range(len(frames) - 1, -1, -1):
        last = i + 1 == len(frames)
        if not last and not search.may_be_before(frames[i + 1].seq + 1, frames[i + 1].at):
            return
        end = END if last else frames[i + 1].position
        high = min(search.last, line.newest if last else frames[i + 1].seq)
        size = _FIRST
        least = max(frames[i].seq, search.first - 1)
        while high > least:
            low = max(high - size, least)
            stepper = Stepper(line, frames[i], low)
            begin = stepper.after.seq, stepper.after.at
            kept, low, size = _newest(stepper, place, search, end, low, high)
            while kept:
                yield kept.pop()
            if not search.may_be_before(begin[0] + 1, begin[1]) and low <= begin[0]:
                return
            high = low


def _newest(
    stepper: Stepper, place: Path, search: Search, end: int, low: int, high: int
) -> tuple[deque[Change], int, int]:
    """Return the last changes between two commits, behind which commit they are all, and how many commits to try next."""
    kept: deque[Change] = deque()
    size, begin = 0, low
    if search.may_be_behind(stepper.after.at):
        for change in forwards(stepper, place, search.between(low + 1, high), end):
            kept.append(change)
            size += _bytes(change)
            while len(kept) > _KEPT or (size > _ROOM and len(kept) > 1):
                low = kept[0].commit.seq
                size -= _bytes(kept.popleft())
    if low > begin:
        return kept, low, high - low
    fuller = min(_KEPT // (len(kept) or 1), _ROOM // (size or 1))  # how many times as many there is room for
    return kept, low, (high - low) * max(1, min(8, fuller * 3 // 4))


def _bytes(change: Change) -> int:
    """Return what a change takes of memory, about."""
    records = sum(len(data) for _, data in change.commit.ranges if isinstance(data, bytes))
    values = sum(_weight(value) for each in change.differences for value in (each.before, each.after))
    return _CHANGE + records + _DIFFERENCE * len(change.differences) + values


def _weight(value: object) -> int:
    kind = type(value)
    if kind is int or kind is float or value is None:
        return _NUMBER
    if isinstance(value, dict):
        return getsizeof(value) + sum(_weight(key) + _weight(part) for key, part in value.items())
    if isinstance(value, list | tuple | set | frozenset | deque):
        return getsizeof(value) + sum(map(_weight, value))
    return getsizeof(value)


def newest_of(changes: Iterable[Change]) -> Change | None:
    """Return the last one."""
    found = deque(changes, maxlen=1)
    return found[0] if found else None
