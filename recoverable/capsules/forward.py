"""Bringing a private arena forward: to what others have committed since, exactly, while its own transaction goes on.

What we want: what a step saw, down to which containers are the same ones as before, since a handler may hold them. What does not
work: to apply the records of others' commits to an arena that a transaction goes on in: they say which bytes changed, and by now
its own containers may lie there. Nor is it enough to store what Python finds different: True equals 1, and a list that was
replaced by an equal one is another list.

What does: the commits say which containers were written to. Each of those is made, in a transaction of its own, what it is in the
state to be come to: the same values by type and bytes, the same containers by their numbers, new ones where there are new ones.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Final

from recoverable import _state
from recoverable._native import paths
from recoverable._native.runtime import Container
from recoverable.codecs import exact
from recoverable.history.commits import Search, commits, containers_within
from recoverable.history.differences import MISSING, part_of
from recoverable.history.places import Path

if TYPE_CHECKING:
    from collections.abc import Hashable

    from recoverable.arena import Arena
    from recoverable.history import History
    from recoverable.history.line import Line

__all__ = ["Forward"]

#: Pairs of items of two sequences that may be compared: beyond, what is between their equal ends is replaced.
_PAIRS: Final = 4_000_000


class Forward:
    """A private arena, and what has become there of the containers of the past."""

    def __init__(self, arena: Arena, history: History, line: Line, seq: int) -> None:
        """Begin with an arena that has the state after a commit."""
        self._arena, self._history, self._line = arena, history, line
        self._seq = seq
        self._begun = arena.stats().commit_seq
        self._before = history.at(seq)
        self._numbers: dict[int, int] = {}  # of containers of the past that were made here: their numbers here

    def put_back(self) -> bool:
        """Undo what others have written here since it was made, an application as it started up; return whether anything was.

        A container that they have made in the place of one of the same kind stands for that: who has made it may hold it.
        """
        if self._arena.stats().commit_seq == self._begun:
            return False
        with self._arena.transaction():
            self._settle(self._arena.root, self._before)
        return True

    def _settle(self, live: Any, wanted: Container) -> None:
        """Make one here, with all in it, what it was before."""
        self._numbers[paths.number_of(wanted)] = paths.number_of(live)
        if not wanted._in_pieces:
            for key, then in wanted._parts().items():
                now = part_of(live, key) if isinstance(then, Container) else MISSING
                if isinstance(now, Container) and type(now) is type(then) and now._extra() == then._extra():
                    self._settle(now, then)
        self._store(live, wanted, None)

    def to(self, seq: int) -> None:
        """Bring it to what was committed by others up to a commit.

        Raises:
            HistoryError: The journal no longer has it.
            ArenaCorruptError: It is damaged on the way there.
        """
        if seq <= self._seq:
            return
        root = self._history.at(seq)
        written = self._written(root, seq)
        with self._arena.transaction():
            for keys, container, units in written:
                live = _follow(self._arena.root, keys)
                if self._is(live, container):  # else it was made whole, by what it is in
                    self._store(live, container, units)
        self._seq, self._before = seq, root

    def _written(self, root: Any, seq: int) -> list[tuple[tuple[Any, ...], Container, list[tuple[int, int]] | None]]:
        """Return what was written to and is still there, the outer ones first: its path, it, and its units; None: any."""
        found: dict[int, tuple[int, list[tuple[int, int]] | None]] = {}
        everything = memory = False
        for commit in commits(self._line, Search((self._seq + 1, seq))):
            everything = everything or not commit.complete
            for unit in commit.units:
                memory = memory or unit.kind == paths.PAGE
                units = found.setdefault(unit.id, (unit.container, []))[1]
                if units is not None:
                    units.append((unit.kind, unit.arg))
        if everything or memory:  # of memory, a commit only says which bytes
            for each in containers_within(root):
                if everything or each._in_pieces:
                    found[paths.number_of(each)] = paths.offset_of(each), None
        there = []
        for number, (where, units) in found.items():
            container = paths.container_at(root._arena, where, number)
            path = None if container is None else Path.of(container)
            if container is not None and path is not None:
                there.append((path.keys, container, None if units is None else list(dict.fromkeys(units))))
        return sorted(there, key=lambda each: len(each[0]))

    # -- which is which ------------------------------------------------------------------------------------------------

    def _number(self, then: Container) -> int | None:
        """Return the number here of a container of the past; None: there is none yet."""
        number = paths.number_of(then)
        if number in self._numbers:
            return self._numbers[number]
        return number if self._was(then) else None

    def _was(self, container: Container) -> bool:
        """Return whether a container of that number was there before."""
        offset, number = paths.offset_of(container), paths.number_of(container)
        return paths.container_at(self._before._arena, offset, number) is not None

    def _is(self, now: Any, then: Container) -> bool:
        return isinstance(now, Container) and paths.number_of(now) == self._number(then)

    def _take(self, now: Any, then: Container) -> bool:
        """Return whether one here is the other: also one that the replay has made by itself, by an independent transaction."""
        if self._is(now, then):
            return True
        own = isinstance(now, Container) and not self._was(now) and paths.number_of(now) not in self._numbers.values()
        if not own or self._number(then) is not None or not _state.same(_state.image(now), _state.image(then)):
            return False
        self._note(now, then)
        return True

    def _note(self, now: Any, then: Container) -> None:
        """Note that one here is the other, with all in it."""
        self._numbers[paths.number_of(then)] = paths.number_of(now)
        if not then._in_pieces:
            for key, part in then._parts().items():
                if isinstance(part, Container):
                    self._note(now._part(key), part)

    # -- making it so ----------------------------------------------------------------------------------------------------

    def _store(self, live: Any, wanted: Any, units: list[tuple[int, int]] | None) -> None:
        """Make one here what the other is."""
        if live._in_pieces:
            now = live._parts()
            for at, piece in wanted._parts().items():
                if now[at] != piece:
                    live._put_part(at, piece)
            return
        keys = None if units is None else wanted._written(live, units)
        if isinstance(live, MutableSequence):
            self._sequence(live, wanted, keys)
        elif keys is not None:  # a key that is 1 there may be True here: that one has to go
            for key, here in zip(keys, live._written(wanted, units), strict=True):
                if exact(key) != exact(here):
                    live._drop_part(here)
                self._put(live, key, part_of(live, key), part_of(wanted, key))
        else:
            now, then = ({exact(key): (key, part) for key, part in each._parts().items()} for each in (live, wanted))
            for token, (key, _) in now.items():
                if token not in then:
                    live._drop_part(key)
            for token, (key, part) in then.items():
                self._put(live, key, now[token][1] if token in now else MISSING, part)

    def _put(self, live: Any, key: Any, now: Any, then: Any) -> None:
        """Make one part what it is there."""
        if then is MISSING:
            if now is not MISSING:
                live._drop_part(key)
        elif isinstance(then, Container):
            if not self._take(now, then):
                live._put_part(key, _state.build(_state.image(then)))
                self._note(live._part(key), then)
        elif now is MISSING or isinstance(now, Container) or exact(now) != exact(then):
            live._put_part(key, then)

    def _sequence(self, live: Any, wanted: Any, positions: list[int] | None) -> None:
        n = len(wanted)
        if positions is not None:  # none has moved
            for i in reversed(range(n, len(live))):
                del live[i]
            for i in positions:
                if i < n:
                    self._put(live, i, live[i] if i < len(live) else MISSING, wanted[i])
            return
        now, then = list(live), list(wanted)
        stay = self._staying(now, then)
        gone = set(range(len(now))).difference(i for i in stay if i is not None)
        for i in sorted(gone, reverse=True):
            del live[i]
        for i, from_ in enumerate(stay):
            if from_ is not None:
                self._put(live, i, now[from_], then[i])
            elif isinstance(then[i], Container):
                live.insert(i, _state.build(_state.image(then[i])))
                self._note(live[i], then[i])
            else:
                live.insert(i, then[i])

    def _staying(self, now: list[Any], then: list[Any]) -> list[int | None]:
        """Return for each item that is to be there which of those that are there it is, or None: a new one."""
        old = [("here", paths.number_of(each)) if isinstance(each, Container) else exact(each) for each in now]
        new = [self._token(each) for each in then]
        begin, most = 0, min(len(old), len(new))
        while begin < most and old[begin] == new[begin]:
            begin += 1
        end = 0
        while end < most - begin and old[-1 - end] == new[-1 - end]:
            end += 1
        middle = old[begin : len(old) - end], new[begin : len(new) - end]
        stay: list[int | None] = [*range(begin), *[None] * len(middle[1]), *range(len(old) - end, len(old))]
        if len(middle[0]) * len(middle[1]) <= _PAIRS:
            blocks = SequenceMatcher(None, *middle, autojunk=False).get_opcodes()
        else:
            blocks = [("replace", 0, len(middle[0]), 0, len(middle[1]))]
        for _, first, last, to, behind in blocks:
            for i in range(min(last - first, behind - to)):  # also one in the place of another: it is made that
                stay[begin + to + i] = begin + first + i
        return stay

    def _token(self, then: Any) -> Hashable:
        if not isinstance(then, Container):
            return exact(then)
        number = self._number(then)
        return ("there", paths.number_of(then)) if number is None else ("here", number)


def _follow(root: Any, keys: tuple[Any, ...]) -> Any:
    """Return what is at a path, or MISSING."""
    for key in keys:
        if not isinstance(root, Container):
            return MISSING
        root = part_of(root, key)
    return root
