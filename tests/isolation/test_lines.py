"""Lines: whoever waits for what only looking tells is woken, whatever interrupts the one who looks."""

from __future__ import annotations

import asyncio
import signal

import pytest

from recoverable import Arena, lines


def test_a_signal_whose_handler_raises_while_a_line_looks_wakes_nobody_too_late(arena: Arena) -> None:
    """A loop that survives a KeyboardInterrupt, raised in the middle of a look, looks again."""
    looks, over = 0, False

    def is_over() -> bool:
        nonlocal looks
        looks += 1
        if looks == 4:  # the first three are those of who begins to wait
            signal.raise_signal(signal.SIGINT)
        return over

    loop = asyncio.new_event_loop()
    try:
        waits = [loop.create_task(lines.wait(arena.native, "what", is_over, 20)) for _ in range(2)]
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(asyncio.gather(*waits))
        over = True
        done, late = loop.run_until_complete(asyncio.wait(waits, timeout=2))
        assert not late
        assert [task.result() for task in done] == [True, True]
        assert arena.native.lines == {}
    finally:
        loop.close()


async def test_what_can_not_be_looked_at_is_raised_where_it_is_waited_for(arena: Arena) -> None:
    """An exception of one's own look is one's own; who stands behind is looked at next."""
    wrong = False

    def fails() -> bool:
        if wrong:
            raise ValueError("can't look")
        return False

    first = asyncio.ensure_future(lines.wait(arena.native, "what", fails, 20))
    await asyncio.sleep(0)
    behind = asyncio.ensure_future(lines.wait(arena.native, "what", lambda: wrong, 20))
    await asyncio.sleep(0)
    wrong = True
    ends = await asyncio.wait_for(asyncio.gather(first, behind, return_exceptions=True), 5)
    assert [type(end) for end in ends] == [ValueError, bool]
    assert arena.native.lines == {}


async def test_who_has_waited_for_long_enough_is_woken_behind_one_who_may_wait_longer(arena: Arena) -> None:
    """Steps of a request wait for `busy_timeout` in all, so a later one may stand behind who has just begun to wait."""
    over = False
    first = asyncio.ensure_future(lines.wait(arena.native, "what", lambda: over, 20))
    await asyncio.sleep(0)
    behind = [
        asyncio.ensure_future(lines.wait(arena.native, "what", lambda: over, seconds)) for seconds in (20, 0.03, 0.001)
    ]
    for number in (2, 1):
        assert await asyncio.wait_for(asyncio.shield(behind[number]), 5) is False
        assert [each.done() for each in behind[:2]] == [False, number == 1]
    assert not first.done()
    over = True
    assert await asyncio.wait_for(asyncio.gather(first, behind[0]), 5) == [True, True]
    assert arena.native.lines == {}
