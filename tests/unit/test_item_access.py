"""Items by index, and pairs by iteration: the ways in that run no Python code answer as Python's own do."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from recoverable import Arena, Array


class Seven:
    """Stands for a position, as a numpy integer does."""

    def __index__(self) -> int:
        return 7


@pytest.fixture
def root(arena: Arena) -> Any:
    with arena.transaction():
        arena.root["l"] = list(range(10))
        arena.root["a"] = Array(10, "i8")
        arena.root["d"] = {f"key{i}": i for i in range(5)}
    return arena.root


@pytest.mark.parametrize("key", [0, -1, True, 7, Seven(), -10])
def test_a_list_takes_every_index_that_a_list_takes(arena: Arena, root: Any, key: Any) -> None:
    """An int, a bool and what has __index__ read, replace and delete the item that a plain list's would."""
    plain = list(range(10))
    assert root["l"][key] == plain[key]
    with arena.transaction():
        root["l"][key] = 99
        plain[key] = 99
        assert root["l"].to_python() == plain
        del root["l"][key]
        del plain[key]
    assert root["l"].to_python() == plain


@pytest.mark.parametrize("key", [10, -11, 2**63, -(2**63), 2**70, -(2**70)])
@pytest.mark.parametrize("name", ["l", "a"])
def test_an_index_out_of_range_is_an_index_error(arena: Arena, root: Any, name: str, key: int) -> None:
    """However large: it does not wrap round, and nothing is written."""
    with arena.transaction():
        with pytest.raises(IndexError):
            root[name][key]
        with pytest.raises(IndexError):
            root[name][key] = 1
    assert sum(root["l"]) == 45
    assert not any(root["a"])


def test_a_list_refuses_what_is_no_index(arena: Arena, root: Any) -> None:
    """A str and a float are a TypeError, as with a plain list."""
    for key in ("1", 1.0, None):
        with arena.transaction():
            with pytest.raises(TypeError):
                root["l"][key]
            with pytest.raises(TypeError):
                root["l"][key] = 1
            with pytest.raises(TypeError):
                del root["l"][key]


def test_pairs_that_are_kept_stay_what_they_were(root: Any) -> None:
    """An iterator may give one tuple again, but never one that somebody still has."""
    assert list(root["d"].items()) == [(f"key{i}", i) for i in range(5)]
    assert dict(root["d"].items()) == {f"key{i}": i for i in range(5)}
    items = iter(root["d"].items())
    first = next(items)
    second = next(items)
    assert (first, second) == (("key0", 0), ("key1", 1))
    assert {hash(pair): pair for pair in root["d"].items()} == {hash(p): p for p in list(root["d"].items())}
    assert next(itertools.pairwise(root["d"].items())) == (("key0", 0), ("key1", 1))


def test_hashes_of_pairs_that_nobody_keeps_differ(root: Any) -> None:
    """Each pair hashes as what it holds, also where its tuple was another pair's before."""
    assert list(map(hash, root["d"].items())) == [hash((f"key{i}", i)) for i in range(5)]


def test_each_handle_of_an_array_knows_its_type(arena: Arena) -> None:
    """A type that was met before is not parsed again, and Arrays of equal types keep their own shapes."""
    numpy = pytest.importorskip("numpy")
    row = numpy.dtype([("x", "<f4"), ("n", "<i8")])
    with arena.transaction():
        arena.root["rows"], arena.root["more"] = Array(3, row), Array((2, 4), row)
        arena.root["one"], arena.root["two"] = Array(3, "f4"), Array((2, 2), "f4")
    for _ in range(2):
        assert [(arena.root[n].shape, arena.root[n].dtype) for n in ("rows", "more")] == [((3,), row), ((2, 4), row)]
        assert arena.root["one"][1] == 0.0
        assert arena.root["two"][1].shape == (2,)
        assert arena.root["rows"][1]["n"] == 0
