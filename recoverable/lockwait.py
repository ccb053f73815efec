"""How requests wait for the arena's lock without stopping their event loop.

What we want: a handler of another process, or of another thread, that does not come back holds the lock for seconds; this loop
serves everything that does not need the arena meanwhile, and the rest as soon as the lock is free.

What does not work: waiting where the lock is needed, which is in the middle of synchronous code; taking the lock and keeping it
until the loop comes by again, which has everybody else wait for this loop.

What does: nobody keeps the lock for later. The driver looks before a step of what has been in the arena before, and before a
commit; where the lock is another's, it awaits `stand` first. Between that look and the access it may be taken: an access waits
for some milliseconds on the spot (`brief.c`), and then ends its run, which begins again after `stand` (`may_rerun` says whether
that can be). All this only looks: whoever is unlucky each time waits on the spot, where the queue is fair: briefly, and where
it sees that the lock goes from one long step to the next, for some more milliseconds at its access, so that it gets in at all.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import _get_running_loop as running_loop  # returns None outside a loop; documented for this use
from typing import TYPE_CHECKING

from recoverable import feedwait, lines, privilege, web
from recoverable._native.runtime import unlucky
from recoverable.waits import waiting

if TYPE_CHECKING:
    from recoverable._native.runtime import Transaction

__all__ = ["at_entry", "before_commit", "may_rerun", "stand"]


async def stand(transaction: Transaction) -> None:
    """Wait until the lock is free, or was a moment ago.

    Raises:
        ArenaBusyError: This transaction, and those whose runs it goes on with, have waited for `busy_timeout` in all.
    """
    native = transaction.arena
    if running_loop() is None:  # driven by hand, it can't wait for others to be driven
        return
    if native.lock_is_free():
        return
    begun, moves, before = time.monotonic(), native.lock_moves(), transaction.lock_time

    def is_over() -> bool:
        if native.lock_is_free():
            return True
        if (now := time.monotonic()) - begun <= unlucky:
            return False
        if native.lock_moves() == moves:
            return native.try_lock()
        if native.lock_is_stuck() or now - native.let_in < unlucky:
            return False
        native.let_in = now  # one after the other: each may have the loop wait
        return True

    try:
        with waiting(transaction, "lock"):
            if not await lines.wait(native, "lock", is_over, native.busy_timeout - before):
                native.raise_busy()
    finally:
        waited = time.monotonic() - begun
        transaction.lock_time = max(transaction.lock_time, before + waited)  # what its parts wait at once counts once
        native.note_lock_wait(waited)


async def at_entry(transaction: Transaction) -> None:
    """Wait before a run that has not begun."""
    try:
        await stand(transaction)
    except BaseException:
        transaction.rollback()
        raise


async def before_commit(transaction: Transaction) -> None:
    """Wait while the commit would make a privileged run invalid, while the feed has no room, and while the lock is another's."""
    await privilege.give_way(transaction)
    await feedwait.room(transaction)
    await stand(transaction)


def may_rerun(transaction: Transaction) -> bool:
    """Return whether its run can be ended now and begin again, or end as cancelled if it is."""
    try:
        return asyncio.current_task() is not None and not transaction.closed and web.may_rerun(transaction.request)
    except Exception:  # of a request of a class of the program's own
        return False
