"""States that are compared by fault injection: the same where nothing has changed, and told apart in words where something has."""

from __future__ import annotations

import math
from decimal import Decimal

from recoverable import Arena
from recoverable._state import differences, digest, image_of, restore, same

LONG = 10**4400
KEYS = [math.nan, -math.nan, Decimal("NaN"), (math.nan, LONG), LONG]


def test_keys_that_nothing_equals_and_that_python_does_not_write(arena: Arena) -> None:
    """Are in both of two states, or in one of them, like any others."""
    with arena.transaction():
        arena.root["d"] = {**dict.fromkeys(KEYS, LONG), "n": math.nan}
    before = image_of(arena)
    assert same(before, image_of(arena))
    assert digest(before) == digest(image_of(arena))
    assert differences(before, image_of(arena)) == []
    with arena.transaction():
        arena.root["d"][math.nan] = 0
        del arena.root["d"][LONG]
    now = image_of(arena)
    assert not same(before, now)
    assert sorted(each.partition(":")[0][:20] for each in differences(before, now)) == [
        f"root['d'][{hex(LONG)}"[:20],
        "root['d'][nan]",
    ]
    assert restore(arena, before) is False
    assert same(before, image_of(arena))
