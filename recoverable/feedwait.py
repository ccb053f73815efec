"""How requests wait for room in the commit feed: a sink that may not miss anything is behind by all that the ring holds.

Nothing of a request is in the arena while it waits, and the lock is free. The same for a block at its end, but that has its thread
stand still: who takes commits out of the feed does not need it. What a block has read is noted only where the ring is half full
when it begins (`txn.c`); one that finds it full all the same loses as soon as anybody else commits.
"""

from __future__ import annotations

import contextlib
import time
from asyncio import _get_running_loop as running_loop  # None where there is none; documented for this use
from typing import TYPE_CHECKING

from recoverable import lines
from recoverable._native import feed as native_feed
from recoverable.waits import waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from recoverable._native.runtime import Transaction

__all__ = ["room", "room_here"]

_LOOK = 0.05  # seconds: how long a thread sleeps at a time


async def room(transaction: Transaction) -> None:
    """Wait until there is room for what the transaction would commit, as far as can be told before: for `busy_timeout` in all.

    After that it is for its commit to find out whether there is room for its very record.
    """
    if transaction.has_feed_room():
        return
    with _wait(transaction) as seconds:
        if running_loop() is None:  # driven by hand
            _stand(transaction, seconds)
        else:
            await lines.wait(
                transaction.arena, "feed", transaction.has_feed_room, seconds, rank=transaction.feed_ticket
            )


def room_here(transaction: Transaction) -> None:
    """Do so in a thread that stands still meanwhile."""
    if not transaction.has_feed_room():
        with _wait(transaction) as seconds:
            _stand(transaction, seconds)


@contextlib.contextmanager
def _wait(transaction: Transaction) -> Iterator[float]:
    """Say that it waits, for so many seconds at most. When they are over, its commit does not wait again."""
    begun, before = time.monotonic(), transaction.feed_time
    try:
        with waiting(transaction, "feed"):
            yield transaction.arena.busy_timeout - before
    finally:
        transaction.feed_time = max(transaction.feed_time, before + time.monotonic() - begun)  # its parts at once: once
    if transaction.feed_time >= transaction.arena.busy_timeout and not transaction.has_feed_room():
        transaction.insist_on_feed()


def _stand(transaction: Transaction, seconds: float) -> None:
    transaction.wait_alone()
    native, end = transaction.arena, time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        seen = native_feed.bell(native)
        if transaction.has_feed_room():
            return
        native_feed.wait(native, seen, min(left, _LOOK))
