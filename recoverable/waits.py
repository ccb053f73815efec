"""What requests wait for on behalf of others: their turn at a hot spot, a privileged run, the lock; room in the feed, the disk.

What we want: whoever runs a server is told which request is held up, by whom, and how long already, while it still waits;
and can ask at any moment. A request that waits for nobody pays nothing, and no request fails because of what is told of it.

What does: whoever awaits on behalf of a request does it inside `with waiting(...)`, which puts it on a list of its event
loop. One timer a loop, which is there while somebody waits, looks at that list: a request that has waited for `late`
seconds, in all of its runs together, has its `request.held_up`, once. It is written by a callback of the loop, in the
context of the request: an exception of the program's log pipeline is the loop's to report, and no operation of the arena is
going on.

Whom it waits for is read when it begins to wait, and whenever somebody asks, and is kept: a loop that stood still may look only
when that one is gone.

A thread that stands still for the lock can tell nothing meanwhile. How long it has stood is noted then (`waiting.pxi`), and told
when its step, its block or its read ends (`tell_held_up`, `tell_late`).
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import traceback
from asyncio import _get_running_loop as running_loop  # returns None outside a loop; documented for this use
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from recoverable import events, web
from recoverable._native.runtime import Wait, late, unit_of, whole_of
from recoverable.frames import caller

if TYPE_CHECKING:
    from collections.abc import Callable

    from recoverable._native.runtime import NativeArena, Transaction

__all__ = ["Kind", "Spot", "SpotName", "note_spot", "request_id", "tell_held_up", "tell_late", "waiting", "whole"]

#: What is waited for.
Kind: TypeAlias = Literal["turn", "privilege", "lock", "feed", "disk"]
#: The container's id, the kind and the argument of a unit.
Spot: TypeAlias = tuple[int, int, int]

_LOOK: Final = 0.025  # seconds between two looks at those who wait
_SPOTS: Final = 1024  # whose names are kept for an arena; the oldest goes

#: What no handler holds.
_NOBODYS: Final = ("feed", "disk")

_Holder: TypeAlias = tuple[int, str]


class SpotName(NamedTuple):
    """Where a hot spot is: the container's path, and the part of it; each may be None."""

    path: str | None
    key: str | None


def whole(transaction: Transaction) -> Transaction:
    """Return the transaction that is the whole request: the outermost of those that are independent inside each other."""
    while transaction.parent is not None:
        transaction = transaction.parent
    return transaction


def request_id(transaction: Transaction) -> str:
    """Return the id of a transaction's request, the same for all of its runs."""
    root = whole(transaction)
    if root.request_id is None:
        root.request_id = web.request_id(root.request)
    return root.request_id


# -- where -----------------------------------------------------------------------------------------------------------------


def note_spot(native: NativeArena, spot: Spot | None, path: str | None, key: str | None) -> None:
    """Keep what a spot is called: it takes the lock to find that out, which who only tells of it may not do."""
    if spot is None:
        return
    names = native.places
    for unit, name in ((unit_of(spot), SpotName(path, key)), (unit_of(whole_of(spot)), SpotName(path, None))):
        if unit not in names and len(names) >= _SPOTS:
            names.pop(next(iter(names)), None)
        names[unit] = name


# -- who waits ----------------------------------------------------------------------------------------------------------------


class waiting(Wait):  # noqa: N801 -- reads as a statement
    """While the block runs, the request of a transaction waits for others.

    Args:
        transaction: A transaction of that request; it may have ended. None: nobody asks for it.
        kind: What for.
        holder: Returns whom it waits for, a process and its handler, at this moment; None for the one who has the lock, or the
            privilege, and for nobody.
        unit: The spot whose turn it is for.
    """

    __slots__ = ("_context", "_holder", "_known", "kind", "unit")

    def __init__(
        self,
        transaction: Transaction | None,
        kind: Kind,
        holder: Callable[[], _Holder | None] | None = None,
        unit: int = 0,
    ) -> None:
        self.transaction = transaction if transaction is None or transaction.parent is None else whole(transaction)
        self.kind = kind
        self.unit = unit
        self._holder = holder
        self._known: _Holder | None = None  # the last one it is known to have waited for
        self._context: contextvars.Context | None = None

    def _begin(self) -> set[waiting]:
        """Find out what is known when it begins, and which list it is to be on."""
        assert self.transaction is not None
        native, self.loop = self.transaction.arena, running_loop()
        self._context = contextvars.copy_context()
        if self.kind not in _NOBODYS:
            self.holder()
        return native.waits.get(self.loop) or _of_loop(native, self.loop)

    @property
    def seconds(self) -> float:
        """How long its request has waited by now, in all."""
        return 0.0 if self.transaction is None else self.transaction.waited

    def holder(self) -> _Holder | None:
        """Return process and handler of whom it waits for, as far as known: 0, "" where not; None: nobody any more."""
        assert self.transaction is not None
        if self.kind in _NOBODYS:
            return None
        native, known = self.transaction.arena, self._known
        if self._holder is not None:
            now = self._holder()
        else:
            now = native.lock_holder() if self.kind == "lock" else native.privilege_holder()
        if now is not None and known is not None and not now[1] and now[0] in (0, known[0]):
            return known  # who has not said its name yet, or is leaving
        self._known = now or known
        return now

    def place(self) -> SpotName:
        """Return the spot whose turn it waits for."""
        assert self.transaction is not None
        name: SpotName = self.transaction.arena.places.get(self.unit, SpotName(None, None))
        return name

    def look(self) -> None:
        """Have it told if it has waited for long."""
        self._tell_if(self.seconds)

    def _tell_if(self, seconds: float) -> None:
        transaction = self.transaction
        if transaction is None or transaction.wait_told or seconds < late:
            return
        transaction.wait_told = True
        told = (transaction, self.kind, seconds, self.holder() or self._known, self.place())
        if self.loop is None:  # driven by hand
            _tell(*told)
        elif not self.loop.is_closed():  # else the collector closes what waited when it ended
            assert self._context is not None
            self.loop.call_soon(_tell, *told, context=self._context)


def _of_loop(native: NativeArena, loop: asyncio.AbstractEventLoop | None) -> set[waiting]:
    """Return those who wait on an event loop; from the first one on somebody looks at them."""
    waits: set[waiting] | None = native.waits.get(loop)
    if waits is None:
        for other in [each for each in list(native.waits) if each is not None and each.is_closed()]:
            native.waits.pop(other, None)
        waits = native.waits.setdefault(loop, set())
        if loop is not None:
            loop.call_later(_LOOK, _look, native, loop, context=contextvars.Context())
    return waits


def _look(native: NativeArena, loop: asyncio.AbstractEventLoop) -> None:
    waits: set[waiting] | None = native.waits.get(loop)
    if not waits or native.closed:
        native.waits.pop(loop, None)
        return
    try:
        for each in list(waits):
            each.look()
    finally:  # a signal's handler may raise, and the loop go on
        loop.call_later(_LOOK, _look, native, loop)


# -- telling ----------------------------------------------------------------------------------------------------------------


def _tell(
    transaction: Transaction, kind: Kind, seconds: float, holder: _Holder | None, place: SpotName | None = None
) -> None:
    who = (transaction.handler, transaction.attempt, request_id(transaction))
    _tell_of(transaction.arena, who, kind, seconds, holder, place)


def _tell_of(
    native: NativeArena,
    who: tuple[str, int, str],
    kind: Kind,
    seconds: float,
    holder: _Holder | None,
    place: SpotName | None = None,
) -> None:
    handler, attempt, given = who
    pid, by = holder or (0, "")
    path, key = place or (None, None)
    events.request_held_up(
        native.owner.name, handler, kind, int(seconds * 1000), by or None, pid, path, key, attempt, given
    )


def tell_held_up(native: NativeArena) -> None:
    """Tell of those whose threads have stood still for the lock."""
    with contextlib.ExitStack() as rest:  # if the program's log pipeline raises, the others are told of all the same
        for who, seconds, holder in reversed(native.take_untold()):
            if isinstance(who, list):  # the functions that ran as one of them has read outside of any transaction
                rest.callback(_tell_of, native, (caller(who), 1, web.request_id(None)), "lock", seconds, holder)
            else:
                rest.callback(_tell, who, "lock", seconds, holder)


def tell_late(native: NativeArena) -> None:
    """Tell of them when a read has ended, or has failed. It must not fail because of the program's log pipeline."""
    try:
        tell_held_up(native)
    except Exception:
        traceback.print_exc()
