"""How requests wait for room in the commit feed: a sink that may not miss anything is behind by all that the ring holds.

Nothing of a request is in the arena while it waits, and the lock is free. Blocks can't wait: they are rolled back, and say so.
"""

from __future__ import annotations

import time
from asyncio import _get_running_loop as running_loop  # None where there is none; documented for this use
from typing import TYPE_CHECKING

from recoverable import lines
from recoverable._native import feed as native_feed
from recoverable.waits import waiting

if TYPE_CHECKING:
    from recoverable._native.runtime import Transaction

__all__ = ["room"]

_LOOK = 0.05  # seconds: how long a thread sleeps at a time


async def room(transaction: Transaction) -> None:
    """Wait until there is room for what the transaction would commit, as far as can be told before: for `busy_timeout` in all.

    After that it is for its commit to find out whether there is room for its very record.
    """
    if transaction.has_feed_room():
        return
    begun, before = time.monotonic(), transaction.feed_time
    try:
        with waiting(transaction, "feed", holder=lambda: None):
            found = await _found(transaction, transaction.arena.busy_timeout - before)
    finally:
        transaction.feed_time = max(transaction.feed_time, before + time.monotonic() - begun)  # its parts at once: once
    if not found:
        transaction.insist_on_feed()


async def _found(transaction: Transaction, seconds: float) -> bool:
    native, has_room = transaction.arena, transaction.has_feed_room
    if running_loop() is not None:
        return await lines.wait(native, "feed", has_room, seconds)
    end = time.monotonic() + seconds  # driven by hand
    while True:
        seen = native_feed.bell(native)
        if has_room():
            return True
        if time.monotonic() >= end:
            return False
        native_feed.wait(native, seen, _LOOK)
