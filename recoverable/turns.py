"""How the requests of a process come by a place in the queue of a spot, which is a table in the segment that all processes share.

What we want: a process with more requests at a spot than that table has places runs them one after another all the same, and leaves
places there for other spots and other processes.

What does: so many of an event loop's requests stand at a spot in the segment, at most. All others stand in front, in a line of
their loop (`lines.py`), and come by a place in the order in which they came by here. Where the table is full because of others,
one of a loop's requests at a time goes on without a place, as if it had its turn; for others of this loop it is in the way as one
that has, for a second at most. Those whose numbers were taken away have no use for their places: the oldest give them up for who
comes.

Each loop by itself, for one that hangs would keep those of the others in front, and only who stands in the table takes its numbers
away. Where it still fails: in front, and without a place in a full table, several loops and processes know nothing of each other.
"""

from __future__ import annotations

import os
from asyncio import _get_running_loop as running_loop  # returns None outside a loop; documented for this use
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from recoverable import lines
from recoverable._native.runtime import Turn, unit_of

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from recoverable._native.runtime import NativeArena
    from recoverable.waits import Spot

__all__ = ["Entry", "anybody_behind", "leave"]

_PLACES: Final = 64  # of one event loop at one spot, of the 512 that there are
_HOLD: Final = (
    1.0  # seconds for which one that goes on without a place is waited for: as long as one with a place (tickets.c)
)


class _Standing(NamedTuple):
    until: float  # when one without a place is not waited for any more, by monotonic(); 0: it has one
    handler: str | None
    loop: AbstractEventLoop | None


def _those(native: NativeArena, unit: int) -> dict[Turn, _Standing]:
    here: dict[Turn, _Standing] = native.fronts.setdefault(unit, {})
    return here


def _front(unit: int) -> tuple[str, int]:
    return "front", unit


class Entry:
    """A request's way into the queue of a spot; whoever makes one enters, and leaves it.

    Args:
        native: The arena.
        spot: Where.
        handler: Whose request it is.
        patience: For how many seconds it waits for one that has its turn, if that is less than for others; 0: as long as they do.

    Attributes:
        turn: What it has got; None: it has to stand in front.
        unit: What stands for the spot.
    """

    __slots__ = ("_handler", "_loop", "_native", "_patience", "_spot", "turn", "unit")

    def __init__(self, native: NativeArena, spot: Spot, handler: str | None, patience: float) -> None:
        self._native, self._spot, self._handler, self._patience = native, spot, handler, patience
        self._loop = running_loop()
        self.unit = unit_of(spot)
        self.turn: Turn | None = None

    def enter(self) -> None:
        """Take a place, if nobody of this event loop stands in front, and it may have one."""
        if self._loop not in self._native.lines.get(_front(self.unit), ()):
            self._enter()

    def leave(self) -> None:
        """Leave the queue, if it has come that far."""
        if self.turn is not None:
            leave(self._native, self.turn)
            self.turn = None

    def _enter(self) -> bool:
        """Take a place, if it may have one, or go on as the only one without."""
        ours = self._ours()
        if len(ours) >= _PLACES:
            if self._in_the_way() >= _PLACES:
                return False
            self._clear(ours)
        turn, until = Turn(self._native, self._spot, self._handler, self._patience), 0.0
        if not turn.drawn:
            if self._in_the_way() > 0:
                return False
            until = monotonic() + min(_HOLD, self._native.busy_timeout)
        self.turn = turn  # from here on somebody leaves it
        _those(self._native, self.unit)[turn] = _Standing(until, self._handler, self._loop)
        return True

    def _clear(self, ours: dict[Turn, _Standing]) -> None:
        """Have the oldest whose numbers were taken away give up their places, down to as many as there may be."""
        taken = [turn for turn, standing in ours.items() if not standing.until and not turn.held]
        for turn in taken[: len(ours) - _PLACES + 1]:
            turn.drop()
            _those(self._native, self.unit).pop(turn, None)

    def _ours(self) -> dict[Turn, _Standing]:
        """Return those of this event loop."""
        here = list(self._native.fronts.get(self.unit, {}).items())  # at once: other threads may come and go
        return {turn: standing for turn, standing in here if standing.loop is self._loop}

    def _in_the_way(self) -> int:
        now = monotonic()
        return sum(standing.until > now if standing.until else turn.held for turn, standing in self._ours().items())

    async def stand_in_front(self, seconds: float) -> None:
        """Wait until it may enter, for so long at most."""
        try:
            await lines.wait(self._native, _front(self.unit), self._enter, seconds, lambda: False, in_order=True)
        finally:
            if self.turn is None and not self._native.fronts.get(self.unit):
                self._native.fronts.pop(self.unit, None)

    def holder(self) -> tuple[int, str] | None:
        """Return process and handler of whom it waits for, as far as known: 0, "" where not; None: nobody's."""
        if self.turn is not None:
            return self.turn.holder()
        for turn, standing in self._ours().items():
            return turn.holder() or (os.getpid(), standing.handler or "")
        return None


def leave(native: NativeArena, turn: Turn) -> None:
    """Leave the queue: whoever is next is to look."""
    here: dict[Turn, Any] = native.fronts.get(turn.unit, {})
    here.pop(turn, None)
    turn.drop()
    lines.look(native, turn.unit)
    if _front(turn.unit) in native.lines:
        lines.look(native, _front(turn.unit))
    elif not here:
        native.fronts.pop(turn.unit, None)


def anybody_behind(native: NativeArena, turn: Turn) -> bool:
    """Return whether others of this process wait for it to leave."""
    return turn.unit in native.lines or _front(turn.unit) in native.lines
