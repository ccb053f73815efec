"""History: what an arena was, who has changed it, and when it went wrong."""

from __future__ import annotations

import datetime
import inspect
import os
import weakref
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from recoverable import _times
from recoverable._native import feed as native_feed
from recoverable.errors import ArenaOptionError, HistoryError
from recoverable.feed import Commit
from recoverable.history.commits import Search, commits
from recoverable.history.differences import Difference, at_place
from recoverable.history.line import Line
from recoverable.history.places import ROOT, Path
from recoverable.history.states import State, States, Stepper
from recoverable.history.trail import Change, Trail, backwards, forwards, newest_of
from recoverable.history.watch import Watch
from recoverable.history.within import places_of
from recoverable.journal.folder import Folder
from recoverable.journal.order import END

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

    from recoverable._native.runtime import NativeArena
    from recoverable.journal.snapshots import Snapshot

__all__ = ["Change", "History", "When"]

#: A commit, its number, or a moment: a datetime without a time zone is local time.
When: TypeAlias = "int | datetime.datetime | Commit"
_TRIES: Final = 3  # commits that a path's last writer may be, before all are looked at in their order
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def _nanoseconds(moment: datetime.datetime) -> int:
    since = moment.astimezone(datetime.UTC) - _EPOCH
    return min(max(0, (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000 + 999), END - 1)


def _bounds(when: When | None, default: int) -> tuple[int, int]:
    """Return the number of the last commit, and the last moment."""
    if when is None:
        return default, END
    if isinstance(when, datetime.datetime):
        return END, _nanoseconds(when)
    seq: object = when.seq if isinstance(when, Commit) else when
    if isinstance(seq, bool) or not isinstance(seq, int) or not 0 <= seq < END:
        raise ArenaOptionError(
            f"{when!r} is no commit. Nothing was looked at. Give its number, a Commit, or a datetime.datetime."
        )
    return seq, END


class History:
    """The past of an arena, by its journal: read-only, beside a server or without one.

    What it shows is what was on the disk when it was asked: commits of the last milliseconds may be missing. Snapshots are taken
    for sound, which `recoverable journal verify` tells. Several threads can use it, and share the states that it returns.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._states = States()
        self._native: NativeArena | None = None  # where the arena is open: it tells when something has come to the disk
        self._watches: weakref.WeakValueDictionary[int, Watch] = weakref.WeakValueDictionary()

    @classmethod
    def of(cls, native: NativeArena) -> Self:
        """Return that of an arena which is open here with a journal: `Arena.history`."""
        made = cls.open(native.journal.path)
        made._native = native
        return made

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Open the history in the folder of a journal.

        Raises:
            JournalError: It can't be read.
            HistoryError: There is no history in it.
        """
        made = cls(Folder(folder, write=False))
        Line(made._folder)
        return made

    def close(self) -> None:
        """End what is being watched, and forget what is kept for the next call; containers of states that somebody has go on."""
        for kept in self._watches.valuerefs():  # all at once: another thread may begin one meanwhile
            watch = kept()
            if watch is not None:
                watch.close()
        self._states.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def oldest(self) -> int:
        """The number of the oldest commit whose state can be made."""
        return Line(self._folder).oldest

    @property
    def newest(self) -> int:
        """The number of the last commit that is on the disk. Where the arena is not open here, its flush may still go on."""
        newest, taken = Line(self._folder).newest, self._taken()
        return newest if taken is None else min(newest, taken)

    def _taken(self) -> int | None:
        """Return the last commit that is on the disk, by what the arena knows; None: it is not open here."""
        if self._native is not None and not self._native.closed:
            for _, name, _, taken, *_ in native_feed.sinks(self._native):
                if name == "journal":
                    return taken
        return None

    # -- states --------------------------------------------------------------------------------------------------------

    def at(self, when: When, progress: Callable[[int, int, str], None] | None = None) -> Any:
        """Return the root of the state after a commit, or at a moment: real containers, which can only be read.

        Args:
            when: The commit, or the moment. The number of one that was rolled back stands for the commit before it.
            progress: Called with the bytes of commits that were applied, 0, and what is being done.

        Raises:
            HistoryError: It is not kept any more, or there was no such commit yet.
            ArenaCorruptError: The journal is damaged on the way there: the message says where.
            PastError: From the containers: something was to be written.
        """
        return self._at(Line(self._folder), when, progress)[0].root

    def _at(
        self, line: Line, when: When, progress: Callable[[int, int, str], None] | None = None
    ) -> tuple[State, Line]:
        """Return the state after a commit, or at a moment, and the line that it is of, which may have gone on meanwhile."""
        seq, at = _bounds(when, END)
        state = self._states.at(line, seq, at, progress)
        if seq != END and state.seq < seq:
            line = Line(self._folder)
            newest = line.newest
            if newest < seq:
                raise HistoryError(
                    f"commit {seq} is not in journal {self._folder.path!r}, which goes up to commit {newest}. Nothing was changed. "
                    "What was committed in the last milliseconds may not be there yet: await arena.durable().",
                    line.oldest,
                    newest,
                )
            line = Line(self._folder)  # it was rolled back, or has just come: perhaps in a file that has
            state = self._states.at(line, seq, at, progress)
        if isinstance(when, Commit):
            self._check(line, when)
            if state.seq != seq or _times.of(state.at) < when.at:
                raise self._left(line, when)
        return state, line

    def _check(self, line: Line, commit: Commit) -> None:
        """Raise HistoryError if another commit has its number: what is restored goes on from an earlier one."""
        for found in commits(line, Search((commit.seq, commit.seq))):
            if found.at != commit.at:
                raise self._left(line, commit)

    def _left(self, line: Line, commit: Commit) -> HistoryError:
        return HistoryError(
            f"commit {commit.seq} of {commit.at.isoformat()} is not in journal {self._folder.path!r} any more: it was restored to "
            "an earlier one, and what came behind that was left. Nothing was changed. Give a number to look at what has it now.",
            line.oldest,
            line.newest,
        )

    # -- commits -------------------------------------------------------------------------------------------------------

    def commits(
        self,
        *,
        since: When | None = None,
        until: When | None = None,
        handler: str | None = None,
        request_id: str | None = None,
        path: str | Path | None = None,
    ) -> Iterator[Commit]:
        """Yield commits, the newest first.

        Args:
            since: The first, or the moment from which on.
            until: The last, or the moment up to which.
            handler: Of this handler alone.
            request_id: Of this request alone.
            path: Of those that have changed what is there, as root['accounts']['ann'].
        """
        if path is not None:
            for change in self.changes(path, since=since, until=until, handler=handler, request_id=request_id):
                yield change.commit
            return
        line = Line(self._folder)
        yield from commits(line, self._search(line, since, until, handler, request_id))

    def _search(
        self, line: Line, since: When | None, until: When | None, handler: str | None, request_id: str | None
    ) -> Search:
        for when in (since, until):
            if isinstance(when, Commit):
                self._check(line, when)
        first, last = _bounds(since, 0), _bounds(until, END)
        return Search(
            (first[0] if first[0] != END else 0, last[0]),
            (first[1] // 1000 * 1000 if first[1] != END else 0, last[1]),
            handler,
            request_id,
        )

    def changes(
        self,
        path: str | Path = ROOT,
        *,
        since: When | None = None,
        until: When | None = None,
        handler: str | None = None,
        request_id: str | None = None,
    ) -> Iterator[Change]:
        """Yield what commits have changed at a path or below it, the newest first, with the values before and after.

        Raises:
            ArenaOptionError: That is no path; or nothing was found, and a position in the text counts from the end.
        """
        place, line = Path.parse(path), Line(self._folder)
        search = self._search(line, since, until, handler, request_id)
        found = False
        for change in backwards(line, place, search):
            found = True
            yield change
        if not found:
            self._check_positions(path, place, line)

    def _check_positions(self, path: str | Path, place: Path, line: Line) -> None:
        """Raise ArenaOptionError if somebody has written a path as Python would read it: with a position that counts from the end.

        Asked where nothing was found: what is a List now may have been a Dict with such a key.
        """
        if isinstance(path, str) and "-" in path and place.counts_from_end(self._states.at(line).root):
            raise ArenaOptionError(
                f"{path} has a negative position, and nothing was found there. Positions count from the beginning here."
            )

    def watch(
        self,
        path: str | Path | None = ROOT,
        *,
        after: When | None = None,
        handler: str | None = None,
        request_id: str | None = None,
    ) -> Watch:
        """Return an iterator of what commits change at a path or below it, the oldest first, as they come to the disk.

        For `for` in a thread, and for `async for` in an event loop. It goes on until it, this history, or the arena is closed. With
        `after`, a state is made to find that: in an event loop, use asyncio.to_thread.

        Args:
            path: Where; None: each commit, without what it has changed, which takes less.
            after: The commit to begin behind; the newest, if not said.
            handler: Of this handler alone.
            request_id: Of this request alone.

        Raises:
            ArenaOptionError: That is no path; or a position in the text counts from the end.
            HistoryError: `after` is not kept. Later: what comes next was dropped before it was asked for, or cut off by a restore.
            JournalError: Later, where the arena is open here: its journal has stopped, and all that is on the disk was given.
        """
        place, line = None if path is None else Path.parse(path), Line(self._folder)
        if after is None:
            taken = self._taken()  # which does not read the last file
            seq = line.newest if taken is None or taken < line.keyframes[-1].seq else taken
        else:
            state, line = self._at(line, after)
            seq = state.seq
        search = self._search(line, None, None, handler, request_id).between(seq + 1, END)
        if path is not None and place is not None:
            self._check_positions(path, place, line)
        watch = Watch(self._folder, self._native, line, place, search, seq)
        self._watches[id(watch)] = watch
        return watch

    def last_writer(self, path: str | Path) -> Commit | None:
        """Return the commit that has changed what is at a path last; None: none that is kept has.

        Raises: As changes().
        """
        place, line = Path.parse(path), Line(self._folder)
        frames = line.keyframes
        for i in range(len(frames) - 1, -1, -1):
            last = i + 1 == len(frames)
            after = self._states.at(line) if last else State(line, frames[i + 1])
            end = END if last else frames[i + 1].position
            change = self._last(line, frames[i], end, place, after)
            if change is not None:
                return change.commit
        self._check_positions(path, place, line)
        return None

    def _last(self, line: Line, frame: Snapshot, end: int, place: Path, after: State) -> Change | None:
        """Return the last change between a keyframe and a position: from where the path leads behind it, backwards."""
        places, seq = places_of(place, after.native) if place.keys else None, END
        for _ in range(_TRIES):
            commit = next(commits(line, Search((0, seq)), places, frame.position, end), None)
            if commit is None:
                return None
            stepper = Stepper(line, frame, commit.seq - 1)
            trail = Trail(stepper, place, Search((commit.seq, commit.seq)), everywhere=True)
            for record in stepper.steps(trail.find, end, commit.seq):
                change = trail.change(record)
                if change is not None:
                    return change
                if place.keys:  # it may have put others where the path leads, which are as those before it were
                    places = places_of(place, stepper.before.native)
            seq = commit.seq - 1
        return newest_of(forwards(Stepper(line, frame), place, Search((0, seq)), end))

    def changed_by(self, when: When) -> Change:
        """Return what one commit has changed.

        Raises:
            HistoryError: It is not kept, or was none.
        """
        state, line = self._at(Line(self._folder), when)
        seq = state.seq
        if isinstance(when, int) and seq != when:
            raise HistoryError(
                f"{when} is not a commit: that number went to a transaction that was rolled back.",
                line.oldest,
                line.newest,
            )
        stepper = Stepper(line, line.keyframe(seq - 1), seq - 1)
        for change in forwards(stepper, ROOT, Search((seq, seq))):
            return change
        (commit,) = commits(line, Search((seq, seq)))
        return Change(commit, ())

    # -- between states --------------------------------------------------------------------------------------------------

    def diff(self, a: When, b: When, path: str | Path = ROOT) -> list[Difference]:
        """Return what is different at a path, or below it, in the second of two states.

        Raises: As at(), and as changes().
        """
        place, line = Path.parse(path), Line(self._folder)
        before, line = self._at(line, a)
        after, line = self._at(line, b)
        found = list(at_place(place, before.root, after.root))
        if not found:
            self._check_positions(path, place, line)
        return found

    def bisect(
        self,
        invariant: Callable[[Any], object],
        good: When | None = None,
        bad: When | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Change:
        """Return the first commit after which an invariant is false.

        Args:
            invariant: Called with the root of a state. It is true of the good one and false of the bad one, and is taken to change
                once in between.
            good: A state of which it is true; the oldest that is kept, if not said.
            bad: One of which it is false; the newest, if not said.
            progress: Called with the numbers of the last good and the first bad commit that are known.

        Raises:
            HistoryError: It is false of the good state, or true of the bad one: the message says which.
            ArenaOptionError: It is an async function.
            Exception: What the invariant raises, with a note that says of which state.
        """

        def ask(state: State) -> bool:
            try:
                holds = invariant(state.root)
                if inspect.iscoroutine(holds):
                    holds.close()
                    raise ArenaOptionError(
                        "the invariant is an async function. Nothing was searched for. Give a plain one."
                    )
                return bool(holds)
            except Exception as error:
                error.add_note(f"This was asked of the state after commit {state.seq}.")
                raise

        line = Line(self._folder)
        low, line = self._at(line, line.oldest if good is None else good)
        high, line = self._at(line, bad) if bad is not None else (self._states.at(line), line)
        for state, should, which in (low, True, "good"), (high, False, "bad"):
            if ask(state) != should:
                raise HistoryError(
                    f"the invariant {'does not hold' if should else 'holds'} for the {which} state, after commit {state.seq}: "
                    f"there is nothing to search for between {low.seq} and {high.seq}. Give another {which} state.",
                    line.oldest,
                    high.seq,
                )
        if low.seq >= high.seq:
            raise HistoryError(
                f"the good state, after commit {low.seq}, is not before the bad one, after commit {high.seq}. "
                "Nothing was searched for.",
                line.oldest,
                high.seq,
            )
        begin, end = low.seq, high.seq
        while end - begin > 1:
            middle = (begin + end) // 2
            state = self._states.at(line, middle)
            if state.seq <= begin or ask(state):  # the same state as at `begin`: it need not be asked again
                begin = middle
            else:
                end = state.seq
            if progress is not None:
                progress(begin, end)
        return self.changed_by(end)
