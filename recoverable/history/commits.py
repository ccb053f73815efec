"""Commits of the past: which there were, whose they were, and what each of them has changed."""

from __future__ import annotations

import copy
import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from recoverable import _times
from recoverable._native import feed as native_feed
from recoverable._native import journal as native_journal
from recoverable._native import paths
from recoverable._native.runtime import Container
from recoverable.codecs import exact
from recoverable.feed import Commit, Unit
from recoverable.history.differences import MISSING, Difference, differences, of_part, of_parts, part_of
from recoverable.history.places import ROOT, Path
from recoverable.journal.order import END

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator

    from recoverable._native.journal import File
    from recoverable._native.runtime import NativeArena
    from recoverable.history.line import Line
    from recoverable.history.within import Within

__all__ = ["Places", "Search", "changed", "commits", "containers_within", "parsed"]

#: Where somebody has written: numbers of containers, and pairs of such a number and the hash of a key.
Places: TypeAlias = "tuple[array[int], array[int]]"
_MICROSECOND: Final = datetime.timedelta(microseconds=1)
_HANDLER: Final = 39  # bytes that a record keeps of a handler's name
_REQUEST_ID: Final = 135  # and of a request's id
_AT_ONCE: Final = 256  # records that are made commits together


class Search:
    """Which commits are looked for."""

    def __init__(
        self,
        seqs: tuple[int, int] = (0, END),
        times: tuple[int, int] = (0, END),
        handler: str | None = None,
        request_id: str | None = None,
    ) -> None:
        self._seqs = seqs
        self._times = times
        self._handler = None if handler is None else _end_of(handler, _HANDLER)
        self._request_id = None if request_id is None else _begin_of(request_id, _REQUEST_ID)

    def find(self, file: File, position: int, end: int, places: Places | None = None) -> list[tuple[int, int, int]]:
        """Return (offset, length, position) of those in a file, the oldest first."""
        return file.search(position, end, self._seqs, self._times, self._handler, self._request_id, places)

    def find_in(
        self, records: bytes, begin: int, position: int, end: int, places: Places | None = None, most: int = 0
    ) -> list[tuple[int, int, int]]:
        """Return (offset, length, position) of those in a batch, the first record of which is at `begin` of the feed.

        `most`: how many are wanted; 0: all.
        """
        return native_journal.search(
            records, begin, position, end, self._seqs, self._times, self._handler, self._request_id, places, most
        )

    def between(self, first: int, last: int) -> Search:
        """Return what looks for those of them that have such a number."""
        found = copy.copy(self)
        found._seqs = max(first, self._seqs[0]), min(last, self._seqs[1])
        return found

    @property
    def anybody(self) -> Search:
        """What looks for all commits up to the last of them, whoever's."""
        return Search((0, self.last))

    def fits(self, commit: Commit) -> bool:
        """Return whether a commit is one of them."""
        at = (commit.at - _times.of(0)) // _MICROSECOND
        return (
            self._seqs[0] <= commit.seq <= self._seqs[1]
            and self._times[0] // 1000 <= at <= self._times[1] // 1000
            and self._handler in (None, commit.handler)
            and self._request_id in (None, commit.request_id)
        )

    def has_all_behind(self, seq: int) -> bool:
        """Return whether all commits behind one are looked for, up to the last."""
        return (
            self._handler is None and self._request_id is None and self._seqs[0] <= seq + 1 and self._times == (0, END)
        )

    @property
    def first(self) -> int:
        """The number before which there are none."""
        return self._seqs[0]

    @property
    def last(self) -> int:
        """The number behind which there are none."""
        return self._seqs[1]

    def may_be_before(self, seq: int, at: int) -> bool:
        """Return whether there may be some before a commit."""
        return self._seqs[0] < seq and self._times[0] <= at

    def may_be_behind(self, at: int) -> bool:
        """Return whether there may be some after a moment."""
        return at <= self._times[1]


def _end_of(text: str, most: int) -> str:
    """Return what a record keeps of a handler's name: its end, in whole characters."""
    return text.encode("utf-8", "surrogatepass")[-most:].decode("utf-8", "ignore")


def _begin_of(text: str, most: int) -> str:
    """Return what a record keeps of a request's id: its beginning, in whole characters."""
    return text.encode("utf-8", "surrogatepass")[:most].decode("utf-8", "ignore")


def parsed(records: bytes) -> list[Commit]:
    """Return the commits that records are of."""

    def make(seq: int, at: int, handler: str, request: str | None, units: Any, ranges: Any, *rest: Any) -> Commit:
        return Commit(seq, _times.of(at), handler, request, tuple(Unit(*unit) for unit in units), ranges, not rest[1])

    return native_feed.parse(records, make)


def commits(
    line: Line, search: Search, places: Places | None = None, begin: int = 0, end: int = END
) -> Iterator[Commit]:
    """Yield those that are looked for, the newest first, of some places, between two positions."""
    for stretch in reversed(line.stretches):
        if stretch.begin >= end or stretch.end <= begin:
            continue
        with line.opened(stretch) as file:
            found = search.find(file, max(stretch.begin, begin), min(stretch.end, end), places)
            start = file.start()
        for i in range(len(found), 0, -_AT_ONCE):
            yield from reversed(parsed(line.records(stretch, found[max(i - _AT_ONCE, 0) : i])))
        if not search.may_be_before(start.seq + 1, start.at):
            return


def containers_within(container: Container) -> Iterator[Container]:
    """Yield a container, and all that are in it."""
    yield container
    if not container._in_pieces:
        for part in container._parts().values():
            if isinstance(part, Container):
                yield from containers_within(part)


# -- what one has changed ---------------------------------------------------------------------------------------------------


def changed(commit: Commit, before: NativeArena, after: NativeArena, within: Within) -> Iterator[Difference]:
    """Yield what a commit has changed, by the states before and after it: all that is at a place, and what leads there.

    A container that it has made, or dropped, is told as the value of the place that it was put into, or was in.
    """
    if not commit.complete:
        within.forget()
        yield from differences(before.root(), after.root(), ROOT)
        return
    pages = [unit.arg for unit in commit.units if unit.kind == paths.PAGE]
    if pages:
        within.know_arrays(before, pages)
    units: dict[tuple[int, int], list[Unit]] = {}
    for unit in dict.fromkeys(commit.units):
        units.setdefault((unit.container, unit.id), []).append(unit)
    for (where, number), of_it in units.items():
        old, new = (paths.container_at(state, where, number) for state in (before, after))
        if old is None or new is None:
            continue
        path = Path.of(new)
        if path is None or not within.meets(path):
            continue
        keys = new._written(old, [(unit.kind, unit.arg) for unit in of_it]) if type(old) is type(new) else None
        if _is_at(old, path):
            yield from _within(old, new, path, within.asked_of(path, keys))
        within.note(old, new, path, keys)
    if pages:
        told = {number for _, number in units}
        for written, spans in within.written(before, commit.ranges):
            if paths.number_of(written) not in told:
                yield from _in_memory(written, after, spans)


def _is_at(old: Container, path: Path) -> bool:
    """Return whether a container was there before: of one that a List or a Deque has moved, those are compared by position."""
    was = Path.of(old)
    return was is not None and (was == path or was.text == path.text)  # by text: a key may not equal itself


def _within(old: Container, new: Container, path: Path, keys: list[Any] | None) -> Iterator[Difference]:
    if keys is None:
        yield from of_parts(old, new, path, shallow=True)
        return
    for key in keys:
        before, after = part_of(old, key), part_of(new, key)
        was = key if isinstance(key, str | bytes) else old._as_kept(key)  # some are other ones that equal it
        if before is not MISSING and after is not MISSING and exact(was) != exact(key):  # 1 has gone, and True has come
            yield from of_part(before, MISSING, path.to(old, was), shallow=True)
            before = MISSING
        yield from of_part(before, after, path.to(new, key), shallow=True)


def _in_memory(old: Container, after: NativeArena, spans: list[tuple[int, int]]) -> Iterator[Difference]:
    """Yield what is different in some bytes of an Array: what raw writes have done, a commit only tells by these."""
    new = paths.container_at(after, paths.offset_of(old), paths.number_of(old))
    path = None if new is None else Path.of(new)
    if new is not None and path is not None and _is_at(old, path):
        yield from (Difference(path.to(new, key), *values) for key, *values in new._other_items(old, spans) or ())
