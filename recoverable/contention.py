"""Hot spots: requests that have lost at the same place run again one after another, not all at once.

What we want: two hundred requests for one key, each with an `await` after its write, take as long as one after another would.
First committer wins, so of those that run at once one is done and all others run again, five and a half times in the mean.

What does: whoever has lost draws a number for that place, in all processes together, and runs again when its turn has come
(`segment/tickets.c` has the queue, `Turn` is a place in it). It stands there until its runs have ended, or for one second of the
others' time. Nobody holds the arena's lock meanwhile, and a request whose first run meets nobody never comes by here.

A turn is worth what it saves those behind: a run of theirs. So one whose handler is known to take a moment waits for some twenty
such moments, and not less than 50 ms, for one that has its turn; then it takes its number away. Who has lost its number so stands
in no one's way again, unless it was still waiting itself: then it has had no turn, and draws again if it loses. Nor does a handler
whose turns were in vain, several in a row, as those of one that only reads are beside others that write: its requests wait for
their turns, and have the next one go on at once. Until one of them commits a write.

First runs stand there too, where all would lose: of the recent runs of that handler, with these arguments of its route, nine
of ten have lost at the place, and no more than two others committed in the time of such a run: where several do, in a storm
over ten keys, one queue for all would be slower (`Habit`). Having waited is no evidence, since a queue makes people wait: so
one in 32 of those who would have to wait does not, and only what becomes of those who did not wait is noted. All this is found
out only of handlers that lose often; the others pay nothing.

One place a request: what runs inside one that has a place draws none, unless it is of another arena whose name comes later. So
no two can wait for each other. Who is to be privileged waits for its turn first. All of it is courtesy: whoever does not wait
is right, too, only later.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import _get_running_loop as running_loop  # returns None outside a loop; documented for this use
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from recoverable import lines, privilege, turns
from recoverable._native.runtime import unit_of, whole_of
from recoverable.waits import Spot, waiting

if TYPE_CHECKING:
    from collections.abc import Hashable

    from recoverable._native.runtime import Handler, NativeArena, Report, Transaction, Turn

__all__ = ["FirstRun", "Habit", "Place", "Spot", "leave_early", "lost_first", "note_commit", "spot_of"]

_PROBE: Final = 32  # first runs that would have to wait, of which one does not
_RECENT: Final = 32  # first runs that a habit goes by
_LEAST: Final = 6  # of them before it says anything
_OFTEN: Final = 0.9  # of them have lost there
_PACE: Final = 8  # of them that the pace is a mean of
_ABREAST: Final = 2  # commits in the time of a first run; where there are more, one queue would be slower than losing
_VOTES: Final = 4  # that one place is ahead of the others, at most
_VAIN: Final = (
    8  # turns in a row without a commit that wrote anything, from which on a handler gives its turns on at once
)
_TAKEN: Final = (
    4  # of them is as much as one that others have waited for too long, or of a handler not known to write at all
)
_WORTH: Final = 20.0  # runs of its own for which one waits for one that has its turn
_SHORTEST: Final = 0.05  # seconds that it waits at least; a look at others may take a third of that
_FADES: Final = 0.9  # of the longest run, with each that is shorter
_DENSE: Final = 32  # commits between two conflicts of a handler that loses often, at most
_QUIET: Final = 128  # first runs, none of which has lost there, after which its handler is watched no more
_HABITS: Final = 1024  # kept for an arena; the oldest goes

_inside: contextvars.ContextVar[Place | None] = contextvars.ContextVar("recoverable.contention", default=None)


def spot_of(report: Report) -> Spot | None:
    """Return where a run has lost; None: nowhere in particular."""
    if not report["conflict_kind"] or (not report["conflict_id"] and report["conflict_container"]):
        return None  # or its container is gone
    return report["conflict_id"], report["conflict_kind"], report["conflict_arg"]


# -- waiting ------------------------------------------------------------------------------------------------------------


class Place:
    """The one place that a request may have, from its first conflict or its beginning to its end.

    Args:
        native: The arena.
        request: The transaction on whose behalf it waits, for those who are told of it.
    """

    __slots__ = ("_had_place", "_lost", "_native", "_slow", "_spent", "_turn", "around", "request", "waited")

    def __init__(self, native: NativeArena, request: Transaction | None = None) -> None:
        self._native = native
        self.request = request  # the transaction of its last run
        self.around = next(iter(_held()), None)  # of a request around it, of another arena perhaps
        self._turn: Turn | None = None
        self._had_place = False  # in the segment, when its turn came
        self._spent = 0.0  # seconds that it has waited, wherever
        self._lost: Spot | None = None  # where it has lost before
        self._slow = False  # others have taken its number away
        self.waited = False  # for the turn that it has

    async def stand_again(self, spot: Spot | None) -> None:
        """Wait for the turn to run again after it has lost there. Who has lost in one container twice stands for all of that."""
        before, self._lost = self._lost, spot
        if spot is not None and before is not None and before != spot and _in_one(before, spot):
            self._lost = spot = whole_of(spot)
        await self.stand(spot)

    async def stand(self, spot: Spot | None, habit: Habit | None = None) -> None:
        """Wait for the turn to run at that spot, where it does not have it already; leave another one's queue first.

        Of those who would have to wait, a habit lets some go on without: `waited` is False then, too.
        """
        around = next(iter(_held()), None)
        if spot is None or running_loop() is None:  # driven by hand, it can't wait for others to be driven
            return
        if around is not None and around is not self and around.arena >= self.arena:
            return
        if any(privilege.around(self.request)):  # those ahead may be waiting for that one
            return
        turn = self._turn
        if turn is not None:
            there = turn.unit == unit_of(spot)
            if there or self._was_taken(turn):  # elsewhere it may have gained all
                self._in_vain(turn)
            if there and _stands(turn) and not self._gives_way():
                return
        self._leave()  # who has lost its number while it waited has had no turn: it draws again, behind those who stand there now
        entry = self._entry(spot)
        try:
            entry.enter()
            self.waited = entry.turn is None or not entry.turn.has_come()
            if self.waited and habit is not None and habit.probes():
                self.waited = False
            else:
                if self.waited:
                    await self._wait(entry)
                turn = entry.turn
                if turn is not None and not self._gives_way():
                    self._turn, self._had_place = turn, turn.held
                    _inside.set(self)
                    return
        except BaseException:
            entry.leave()
            raise
        entry.leave()

    async def _wait(self, entry: turns.Entry) -> None:
        """Wait for its turn, as long as it may in all; behind many who hang one goes on without."""
        begun, most = monotonic(), self._native.busy_timeout - self._spent
        try:
            if most <= 0:
                return
            with waiting(self.request, "turn", entry.holder, entry.unit):
                if entry.turn is None:
                    await entry.stand_in_front(most)
                turn, left = entry.turn, most - (monotonic() - begun)
                if turn is not None and left > 0:
                    await lines.wait(self._native, turn.unit, turn.has_come, left, turn.is_behind_others)
        finally:
            self._spent += monotonic() - begun

    def _entry(self, spot: Spot) -> turns.Entry:
        handler = None if self.request is None else self.request.handler
        watch = None if handler is None else self._native.watches.get(handler)
        patience = 0.0 if watch is None or not watch.took else max(_SHORTEST, _WORTH * watch.took)
        return turns.Entry(self._native, spot, handler, patience)

    def _was_taken(self, turn: Turn) -> bool:
        return self._had_place and not turn.held

    def _in_vain(self, turn: Turn, *, cancelled: bool = False) -> None:
        """Its turn has ended, or a run in it has, and nothing was committed. That it was cancelled before that says nothing."""
        if turn.drawn and not self._had_place:
            return  # it has lost its number while it waited
        self._slow = self._slow or self._was_taken(turn)
        if self.request is not None and (self._was_taken(turn) or not cancelled):
            watch = _watch_of(self.request)
            watch.vain += _TAKEN if self._was_taken(turn) or not watch.writes else 1

    def _gives_way(self) -> bool:
        """Return whether nobody is to wait for it, though its turn has come."""
        watch = None if self.request is None else self._native.watches.get(self.request.handler)
        return self._slow or (watch is not None and watch.vain >= _VAIN)

    def is_in_queue(self) -> bool:
        """Return whether it stands somewhere."""
        return self._turn is not None and _stands(self._turn)

    @property
    def arena(self) -> str:
        """The name of its arena."""
        name: str = self._native.owner.name
        return name

    def is_waited_for(self) -> bool:
        """Return whether others of this process wait for its turn to end."""
        return self._turn is not None and turns.anybody_behind(self._native, self._turn)

    def leave(self, *, cancelled: bool = False) -> None:
        """The run has ended, or was cancelled: the next one's turn."""
        turn = self._turn
        try:
            if turn is not None and (
                self.request is None or self.request.state != "committed" or not self.request.wrote
            ):
                self._in_vain(turn, cancelled=cancelled)
        finally:
            self._leave()
            if _inside.get() is self:
                _inside.set(self.around)

    def _leave(self) -> None:
        if self._turn is not None:
            turns.leave(self._native, self._turn)
            self._turn = None


def _stands(turn: Turn) -> bool:
    """Return whether it has its turn still: it has a place, or has never had one because the table was full."""
    return turn.held or not turn.drawn


def _held() -> list[Place]:
    """Return the places that the running request has, and those around it, in whatever arenas; the innermost first.

    They refer to each other from then on, and to no other: a task that starts its successor, which does the same, is around that
    one only as long as it stands somewhere.
    """
    found: list[Place] = []
    place = _inside.get()
    while place is not None:
        if place.is_in_queue():
            found.append(place)
        place = place.around
    for i, place in enumerate(found):
        place.around = found[i + 1] if i + 1 < len(found) else None
    return found


def leave_early(transaction: Transaction) -> None:
    """Its handler has committed it, and goes on outside of it, for as long as it likes: the next one's turn."""
    if transaction.wrote:
        note_commit(transaction)
    place = _inside.get()
    while place is not None and place.request is not transaction:
        place = place.around
    if place is not None:
        place.leave()


# -- who would lose --------------------------------------------------------------------------------------------------------


class Habit:
    """What became of the recent first runs of a handler, with the same arguments of its route."""

    __slots__ = ("_bits", "_elsewhere", "_n", "_pace", "_votes", "_waited", "commits", "spot")

    def __init__(self) -> None:
        self._forget()
        self.commits = 0  # of all their runs
        self._votes = 0  # that this spot is ahead of others
        self._elsewhere = 0  # losses at other places of its container, one after the other
        self._waited = 0  # first runs that would have had to wait
        self.spot: Spot | None = None  # where they lose, mostly

    def _forget(self) -> None:
        self._bits = self._n = 0
        self._pace = 0.0  # commits of others while a first run that lost went on; 1: one after another is the best

    def lost(self, spot: Spot) -> None:
        """One has lost there. Votes find the one that has the majority, if there is one (Boyer and Moore, 1981)."""
        if self.covers(spot):
            self._votes = min(self._votes + 1, _VOTES)
            self._elsewhere = 0 if spot == self.spot else self._elsewhere + 1
            if self._elsewhere > 1:
                self.spot = whole_of(spot)
        elif self._votes > 0:
            self._votes -= 1
        else:
            if self.spot is not None:
                self._forget()  # what was found out about another place says nothing about this one
            self.spot, self._votes = spot, 1

    def covers(self, spot: Spot) -> bool:
        """Return whether it lies in the container where they lose, mostly."""
        return self.spot is not None and _in_one(self.spot, spot)

    def probes(self) -> bool:
        """Return whether this one, which would have to wait, does not."""
        self._waited += 1
        return self._waited % _PROBE == 0

    def note(self, lost: bool, meanwhile: int) -> None:
        """One more has ended, which had not waited: it has lost there, or not, and so many others have committed meanwhile."""
        self._bits = (self._bits << 1 | lost) & ((1 << _RECENT) - 1)
        self._n = min(self._n + 1, _RECENT)
        if lost:
            self._pace += (meanwhile - self._pace) / min(self._n, _PACE)

    @property
    def queues(self) -> bool:
        """Whether the next first run is to wait for its turn."""
        often = self._n >= _LEAST and self._bits.bit_count() >= _OFTEN * self._n
        return often and self._pace <= _ABREAST


def _habit_of(transaction: Transaction) -> Habit:
    """Return the habit of a transaction's handler, with the arguments of the route by which its request came."""
    habits: dict[Hashable, Habit] = transaction.arena.habits
    before = transaction.request
    key = (transaction.handler, None if before is None else before.adapter.arguments(before.request))
    habit = habits.pop(key, None) or Habit()
    if len(habits) >= _HABITS:
        habits.pop(next(iter(habits)), None)
    habits[key] = habit  # the last one now: the first goes first
    return habit


def _in_one(one: Spot, other: Spot) -> bool:
    """Return whether both are places of one container."""
    return one == other or (one[0] == other[0] != 0)  # 0: pages of raw memory are of none


class _Watch:
    """Whether a handler loses often. Of one that does every first run is noted, which costs each of them some microseconds."""

    __slots__ = ("last", "lost", "quiet", "took", "vain", "writes")

    def __init__(self) -> None:
        self.lost = 0  # first runs, one soon after the other
        self.last = 0  # commits in the arena until then
        self.quiet = 0  # first runs since one has lost
        self.took = 0.0  # seconds: about the longest of its recent runs that have committed writes; 0: not known
        self.writes = False  # one of its runs has committed writes
        self.vain = 0  # turns in a row that were, of all its requests


def _watch_of(transaction: Transaction) -> _Watch:
    watches: dict[str, _Watch] = transaction.arena.watches
    watch = watches.get(transaction.handler)
    if watch is None:
        if len(watches) >= _HABITS:
            oldest = next(iter(watches))
            watches.pop(oldest, None)
            transaction.arena.watched.discard(oldest)
        watch = watches[transaction.handler] = _Watch()
    return watch


def lost_first(transaction: Transaction, handler: Handler[Any]) -> None:
    """Note that a first run has lost. A handler that loses often is watched from now on."""
    native, watch = transaction.arena, _watch_of(transaction)
    watch.lost = watch.lost + 1 if native.commits - watch.last <= _DENSE else 1
    watch.last = native.commits
    watch.quiet = 0
    if watch.lost >= _LEAST:
        native.watched.add(transaction.handler)
        handler.watch(True)


def note_commit(transaction: Transaction, took: float | None = None) -> None:
    """Note that a run has committed writes, after so many seconds if they are known, if its handler has lost before."""
    watch: _Watch | None = transaction.arena.watches.get(transaction.handler)
    if watch is not None:
        if took is not None:
            watch.took = max(took, _FADES * watch.took)
        watch.writes = True
        watch.vain = 0
    if transaction.handler in transaction.arena.watched:
        _habit_of(transaction).commits += 1


class FirstRun:
    """A first run of a handler that is watched: whether it has to wait for its turn, and what became of it.

    Args:
        transaction: Its transaction.
        handler: The handler.
        coroutine: What the call of its function has given.
    """

    __slots__ = ("_before", "_handler", "coroutine", "habit")

    def __init__(self, transaction: Transaction, handler: Handler[Any], coroutine: Any) -> None:
        self.habit, self._handler, self.coroutine = _habit_of(transaction), handler, coroutine
        self._before = self.habit.commits

    async def stand(self, place: Place) -> None:
        """Wait for its turn, if it is a habit of its handler to lose."""
        if self.habit.queues:
            await place.stand(self.habit.spot, self.habit)

    def ended(self, transaction: Transaction, place: Place, error: BaseException | None) -> None:
        """It has ended. A handler that has not lost for long is watched no more."""
        if transaction.locked_out or isinstance(error, (asyncio.CancelledError, GeneratorExit)):
            return  # which says nothing
        lost = spot_of(transaction.report()) if transaction.conflicted else None
        if lost is not None:
            self.habit.lost(lost)
        lost_there = lost is not None and self.habit.covers(lost)
        in_queue = place.waited or place.is_waited_for()  # that the first of a queue does not lose says nothing
        if not in_queue:
            self.habit.note(lost_there, self.habit.commits - self._before)
        watch = _watch_of(transaction)
        watch.quiet = 0 if lost_there or in_queue else watch.quiet + 1
        if watch.quiet >= _QUIET:
            watch.lost = 0
            transaction.arena.watched.discard(transaction.handler)
            self._handler.watch(False)
            habits = transaction.arena.habits  # when it loses again, it may be for another reason
            for key in [key for key in habits if key[0] == transaction.handler]:
                habits.pop(key, None)
