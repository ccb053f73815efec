"""Hot spots: requests that have lost at the same place run again one after another, not all at once.

What we want: two hundred requests for one key, each with an `await` after its write, take as long as one after another would.
First committer wins, so of those that run at once one is done and all others run again, five and a half times in the mean.

What does: whoever has lost draws a number for that place, in all processes together, and runs again when its turn has come
(`segment/tickets.c` has the queue, `Turn` is a place in it). It stands there until that run has ended, or for one second of the
others' time. Nobody holds the arena's lock meanwhile, and a request whose first run meets nobody never comes by here.

First runs stand there too, where all would lose: of the recent runs of that handler, with these arguments of its route, nine of ten
have lost at the place, or have waited for it and then used it (`Habit`). That is found out only of handlers that lose often; all
others pay nothing.

One place a request: what runs inside one that has a place draws none, so that no two can wait for each other. Who is to be
privileged waits for its turn first. All of it is courtesy: whoever does not wait is right, too, only later.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import _get_running_loop as running_loop  # None where there is none; documented for this use
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from recoverable import privilege
from recoverable._native.runtime import Turn, unit_of, whole_of

if TYPE_CHECKING:
    from collections.abc import Hashable

    from recoverable._native.runtime import Decide, Handler, NativeArena, Report, Transaction

__all__ = ["FirstRun", "Place", "Spot", "lost_first", "spot_of"]

#: The container's id, the kind and the argument of a unit.
Spot: TypeAlias = tuple[int, int, int]

_POLL: Final = 0.005  # seconds between two looks: at other processes, and at one that has its turn for too long
_RECENT: Final = 32  # first runs that a habit goes by
_LEAST: Final = 6  # of them before it says anything
_OFTEN: Final = 0.9  # of them have lost, or waited
_VOTES: Final = 4  # that one place is ahead of the others, at most
_DENSE: Final = 32  # commits between two conflicts of a handler that loses often, at most
_QUIET: Final = 128  # first runs, none of them held up, after which its handler is watched no more
_HABITS: Final = 1024  # kept for an arena; the oldest goes

_inside: contextvars.ContextVar[Place | None] = contextvars.ContextVar("recoverable.contention", default=None)


def spot_of(report: Report) -> Spot | None:
    """Return where a run has lost; None: nowhere in particular."""
    if not report["conflict_kind"]:
        return None
    return report["conflict_id"], report["conflict_kind"], report["conflict_arg"]


# -- waiting ------------------------------------------------------------------------------------------------------------


class _Waiter:
    """Who waits; only the first of a loop looks now and then."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


class Place:
    """The one place that a request may have, from its first conflict or its beginning to its end."""

    __slots__ = ("_lost", "_native", "_turn", "waited")

    def __init__(self, native: NativeArena) -> None:
        self._native = native
        self._turn: Turn | None = None
        self._lost: Spot | None = None  # where it has lost before
        self.waited = False  # for the turn that it has

    async def stand_again(self, spot: Spot | None) -> None:
        """Wait for the turn to run again after it has lost there. Who has lost in one container twice stands for all of that."""
        before, self._lost = self._lost, spot
        if spot is not None and before is not None and before != spot and before[0] == spot[0]:
            self._lost = spot = whole_of(spot)
        await self.stand(spot)

    async def stand(self, spot: Spot | None) -> None:
        """Wait for the turn to run at that spot, where it does not have it already; leave another one's queue first."""
        around = _inside.get()
        if spot is None or (around is not None and around is not self and around.taken):
            return
        turn, self._turn = self._turn, None
        if turn is not None and turn.held and turn.unit == unit_of(spot):
            self._turn = turn
            return
        self._leave(turn)
        turn = Turn(self._native, spot)
        try:
            self.waited = await self._wait(turn)
        except BaseException:
            self._leave(turn)
            raise
        self._turn = turn
        _inside.set(self)

    @property
    def taken(self) -> bool:
        """Whether it stands somewhere."""
        return self._turn is not None and self._turn.held

    def leave(self) -> None:
        """The run has ended: the next one's turn."""
        turn, self._turn = self._turn, None
        self._leave(turn)

    def _leave(self, turn: Turn | None) -> None:
        if turn is None or not turn.held:
            return
        turn.drop()
        line = self._native.lines.get((turn.unit, running_loop()))
        if line:
            line[0].wake()

    async def _wait(self, turn: Turn) -> bool:
        loop = running_loop()
        if turn.has_come():
            return False
        if loop is None:  # driven by hand
            while not turn.has_come():
                await privilege.give_others_a_turn()
            return True
        key, me = (turn.unit, loop), _Waiter()
        line: deque[_Waiter] = self._native.lines.setdefault(key, deque())
        line.append(me)
        try:
            while not turn.has_come():
                me.future = loop.create_future()
                timer = loop.call_later(_POLL, me.wake) if line[0] is me else None
                try:
                    await me.future
                finally:
                    if timer is not None:
                        timer.cancel()
        finally:
            line.remove(me)
            if line:
                line[0].wake()  # it is the one who looks now
            elif self._native.lines.get(key) is line:
                del self._native.lines[key]
        return True


# -- who would lose --------------------------------------------------------------------------------------------------------


class Habit:
    """What became of the recent first runs of a handler, with the same arguments of its route."""

    __slots__ = ("_bits", "_n", "_votes", "spot")

    def __init__(self) -> None:
        self._bits = self._n = self._votes = 0
        self.spot: Spot | None = None  # where they lose, mostly

    def lost(self, spot: Spot) -> None:
        """One has lost there. Votes find the one that has the majority, if there is one (Boyer and Moore, 1981)."""
        if self.spot is not None and self.spot[0] == spot[0]:
            self._votes = min(self._votes + 1, _VOTES)
            if self.spot != spot:
                self.spot = whole_of(spot)
        elif self._votes > 0:
            self._votes -= 1
        else:
            self.spot, self._votes = spot, 1

    def note(self, held_up: bool) -> None:
        """One more has ended: it has lost, or it has waited for its turn and then used what it had waited for."""
        self._bits = (self._bits << 1 | held_up) & ((1 << _RECENT) - 1)
        self._n = min(self._n + 1, _RECENT)

    @property
    def queues(self) -> bool:
        """Whether the next first run is to wait for its turn."""
        return self._n >= _LEAST and self._bits.bit_count() >= _OFTEN * self._n


def _habit_of(transaction: Transaction) -> Habit:
    """Return the habit of a transaction's handler, with the arguments of the route by which its request came."""
    habits: dict[Hashable, Habit] = transaction.arena.habits
    before = transaction.request
    key = (transaction.handler, None if before is None else before.adapter.arguments(before.request))
    habit = habits.get(key)
    if habit is None:
        if len(habits) >= _HABITS:
            habits.pop(next(iter(habits)), None)
        habit = habits[key] = Habit()
    return habit


class _Watch:
    """Whether a handler loses often. Of one that does every first run is noted, which costs each of them some microseconds."""

    __slots__ = ("last", "lost", "quiet")

    def __init__(self) -> None:
        self.lost = 0  # first runs, one soon after the other
        self.last = 0  # commits in the arena until then
        self.quiet = 0  # first runs since one was held up


def lost_first(transaction: Transaction) -> bool:
    """Note that a first run has lost. Return whether its handler loses often."""
    native = transaction.arena
    watch: _Watch = native.watches.setdefault(transaction.handler, _Watch())
    watch.lost = watch.lost + 1 if native.commits - watch.last <= _DENSE else 1
    watch.last = native.commits
    watch.quiet = 0
    return watch.lost >= _LEAST


class FirstRun:
    """A first run of a handler that is watched: whether it has to wait for its turn, and what became of it."""

    __slots__ = ("_handler", "_used", "habit", "spot")

    def __init__(self, transaction: Transaction, handler: Handler[Any]) -> None:
        self.habit, self._handler = _habit_of(transaction), handler
        self.spot = self.habit.spot if self.habit.queues else None
        self._used = False

    def watched(self, decide: Decide, transaction: Transaction) -> Decide:
        """Return the rule, which looks before the end whether the run has used what it has waited for."""
        spot = self.spot
        if spot is None:
            return decide

        def rule(result: Any, error: BaseException | None) -> object:
            self._used = transaction.noted(spot)
            return decide(result, error)

        return rule

    def ended(self, transaction: Transaction, place: Place | None) -> None:
        """It has ended. A handler that has not been held up for long is watched no more."""
        held_up = transaction.conflicted or (self._used and place is not None and place.waited)
        self.habit.note(held_up)
        watch = transaction.arena.watches.setdefault(transaction.handler, _Watch())
        watch.quiet = 0 if held_up else watch.quiet + 1
        if transaction.conflicted:
            if (spot := spot_of(transaction.report())) is not None:
                self.habit.lost(spot)
        elif watch.quiet >= _QUIET:
            watch.lost = 0
            self._handler.watch(False)
