"""A conflict over a key that is too long to be shown is told like any other."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from recoverable import Arena, ConflictError
from support.workers import Request, pause

KEYS = {
    "digits": 10**5000,
    "negative": -(10**5000),
    "text": "x" * 2_000_000,
    "bytes": b"\n" * 1_000_000,
    "tuple": ("a", 10**5000, ("b" * 1000,)),
}


@pytest.mark.parametrize("what", KEYS)
def test_a_conflict_over_a_long_key(arena: Arena, what: str, log: list[dict[str, Any]]) -> None:
    """The error, its event and the hot spots show 200 characters of it, in the path and in the place."""
    key = KEYS[what]
    with arena.transaction():
        arena.root[key] = {key: 1, "n": 1}

    async def add() -> None:
        arena.root[key][key] += 1
        arena.root[key]["n"] += 1
        await pause()

    request = Request(arena, add)
    request.step()
    with arena.transaction():
        arena.root[key][key] = 10
    with pytest.raises(ConflictError) as caught:
        request.step()
    shown = caught.value.key
    assert shown is not None
    assert len(shown) == 200
    assert shown.endswith("…")
    assert caught.value.path == f"root[{shown}]"
    assert shown in str(caught.value)
    (spot,) = arena.stats().hot_spots
    assert (spot.path, spot.key) == (caught.value.path, shown)
    assert shown in next(event for event in log if event["event"] == "request.conflict")["key"]


def test_a_key_that_can_be_shown_is(arena: Arena) -> None:
    """Up to 200 characters, it is its repr(): also in the places where Python allows no more digits than that."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        for key in (10**150, ("a", (1,)), "x" * 198, b"y"):
            with arena.transaction():
                arena.root[key] = 1

            async def add(key: Any = key) -> None:
                arena.root[key] += 1
                await pause()

            request = Request(arena, add)
            request.step()
            with arena.transaction():
                arena.root[key] += 10
            with pytest.raises(ConflictError) as caught:
                request.step()
            assert caught.value.key == repr(key)
    finally:
        sys.set_int_max_str_digits(limit)
