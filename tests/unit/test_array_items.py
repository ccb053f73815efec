"""Items of an Array of several dimensions, and items picked by lists: each behaves as numpy's, and is one announced access."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recoverable import Arena, Array, ConflictError
from tests.support.workers import Request, pause

TYPES = ("f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?", ">f8", "M8[s]")
VALUES: tuple[Any, ...] = (
    *(
        0,
        1,
        -1,
        127,
        128,
        255,
        256,
        2**31,
        2**32,
        2**63,
        2**64,
        2**70,
        True,
        1.0,
        2.75,
        1e300,
        float("inf"),
        "3",
        "x",
        None,
    ),
    *(
        np.float32(2.5),
        np.float64(2.5),
        np.int8(-3),
        np.uint64(2**63 + 5),
        np.bool_(True),
        np.array(4),
        np.datetime64(5, "s"),
    ),
)


def outcome(items: Any, key: Any, value: Any) -> object:
    """Set an item; return its bytes and type, or what was raised."""
    try:
        with np.errstate(all="ignore"):
            items[key] = value
    except Exception as error:
        return type(error)
    return np.asarray(items[key]).tobytes(), type(items[key])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", TYPES)
def test_an_item_takes_and_gives_what_numpys_does(arena: Arena, dtype: str) -> None:
    """A single item of a matrix is stored, refused and given back as by an ndarray of the same type."""
    plain = np.zeros((3, 4), dtype)
    with arena.transaction():
        arena.root["m"] = Array((3, 4), dtype)
        for value in VALUES:
            assert outcome(arena.root["m"], (1, -2), value) == outcome(plain, (1, -2), value), value
        assert arena.root["m"].to_python() == plain.tolist()


@pytest.mark.parametrize("key", [(3, 0), (0, 4), (-4, 0), (0, 2**70), (np.int64(3), 0)])
def test_an_item_out_of_bounds_is_an_index_error(arena: Arena, key: Any) -> None:
    """An item that does not exist is neither read nor written, and the error names the dimension."""
    with arena.transaction():
        arena.root["m"] = Array((3, 4), "f4")
        for attempt in (lambda: arena.root["m"][key], lambda: arena.root["m"].__setitem__(key, 1)):
            with pytest.raises(IndexError, match="dimension"):
                attempt()
        assert not np.asarray(arena.root["m"]).any()


KEYS = (
    ([0, 2, 2], [1, 3, 3]),
    (np.array([[0], [2]]), np.array([1, 3])),
    (1, [0, 1, 2]),
    ([-1, 0], [-1, 0]),
    (np.array([], int), np.array([], int)),
    np.array([True, False, True]),
    ([0, 1], slice(None)),
    ([0.5], [1]),
    ([7], [1]),
    [2, 0],
)


@pytest.mark.parametrize("key", KEYS)
def test_lists_of_indices_pick_what_numpys_do(arena: Arena, key: Any) -> None:
    """Reading and writing by lists of indices gives what it gives on an ndarray, errors included."""
    plain = np.arange(12, dtype="i4").reshape(3, 4)
    with arena.transaction():
        arena.root["m"] = Array(plain)
        m = arena.root["m"]
        try:
            expected = plain[key]
        except IndexError:
            with pytest.raises(IndexError):
                m[key]
            with pytest.raises(IndexError):
                m[key] = 1
            return
        got = m[key]
        assert got.dtype == expected.dtype
        assert got.tolist() == expected.tolist()
        got += 1  # a copy of one's own
        plain[key] += 5
        m[key] += 5
        assert m.to_python() == plain.tolist()


def test_lists_of_indices_read_their_items_alone(arena: Arena) -> None:
    """A request that reads items by lists of indices conflicts with a change of one of them, and of no other item."""
    with arena.transaction():
        arena.root["m"] = Array((8, 8), "f4")

    async def learn() -> None:
        arena.root["m"][[1, 2], [3, 4]] += 1
        await pause()

    beside, same = Request(arena, learn), Request(arena, learn)
    beside.step()
    with arena.transaction():
        arena.root["m"][1, 4] += 1
    beside.finish()
    same.step()
    with arena.transaction():
        arena.root["m"][2, 4] += 1
    with pytest.raises(ConflictError):
        same.finish()
    assert [arena.root["m"][key] for key in ((1, 3), (1, 4), (2, 4))] == [1, 1, 2]
