"""Arrays of structured items come back exactly as they were given, or are refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recoverable import Arena, Array

INNER = np.dtype([("x", "u1"), ("y", "f8")], align=True)
DTYPES = {
    "packed": np.dtype([("a", "u1"), ("b", ">f8")]),
    "aligned": np.dtype([("a", "u1"), ("b", "f8"), ("c", "u2")], align=True),
    "aligned without gaps": np.dtype([("a", "f8"), ("b", "i8")], align=True),
    "offsets": np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 8], "itemsize": 24}),
    "gap in front": np.dtype({"names": ["a"], "formats": ["i4"], "offsets": [12]}),
    "out of order": np.dtype({"names": ["b", "a"], "formats": ["i4", "i4"], "offsets": [4, 0]}),
    "overlap": np.dtype({"names": ["word", "low"], "formats": ["<u4", "<u2"], "offsets": [0, 0]}),
    "titles": np.dtype([(("Title", "a"), "i4"), ("b", "S5")]),
    "titles and gaps": np.dtype(
        {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 8], "titles": ["Title", None], "itemsize": 16}
    ),
    "nested": np.dtype([("in", [("x", "u1"), ("y", "<M8[ns]")]), ("z", "<U3")]),
    "nested aligned": np.dtype([("in", INNER), ("z", "u1")]),
    "aligned nested": np.dtype([("z", "u1"), ("in", INNER)], align=True),
    "sub-arrays": np.dtype([("m", "f4", (2, 3)), ("n", "u1", 2)]),
    "aligned sub-arrays": np.dtype([("k", "u1"), ("m", "f8", (2,)), ("s", INNER, (2, 2))], align=True),
    "a field named f1": np.dtype({"names": ["f1", "b"], "formats": ["u1", "f8"], "offsets": [0, 8]}),
    "odd names": np.dtype([("a b", "i4"), ("ü", "i4"), ("'\"\\", "i4")]),
    "a field of bytes": np.dtype([("a", "u1"), ("gap", "V7"), ("b", "f8")]),
    "one field": np.dtype([("only", "c16")]),
}
every = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def same(a: Any, b: Any) -> bool:
    """Are two dtypes the same to the last byte?"""
    if a.subdtype is not None or b.subdtype is not None:
        return a == b and same(a.subdtype[0], b.subdtype[0])
    return (
        a == b
        and (a.itemsize, a.alignment, a.isalignedstruct, a.names)
        == (b.itemsize, b.alignment, b.isalignedstruct, b.names)
        and all(a.fields[n][1:] == b.fields[n][1:] and same(a[n], b[n]) for n in a.names or ())
    )


@every
def test_a_structured_dtype_comes_back_exactly(arena: Arena, dtype: Any) -> None:
    """Names, titles, order, offsets, bytes and alignment of a dtype are kept, also of those inside it."""
    with arena.transaction():
        arena.root["a"] = Array(3, dtype)
    there = arena.root["a"]
    assert same(there.dtype, dtype)
    assert same(there.view.dtype, dtype)
    assert same(there[:].dtype, dtype)
    assert there.itemsize == dtype.itemsize


@every
def test_items_go_in_and_come_out(arena: Arena, dtype: Any) -> None:
    """Every byte of a structured array is copied, and one item is set and read as numpy does it."""
    plain = np.zeros(4, dtype)
    plain.view("u1")[:] = np.arange(plain.nbytes, dtype="u1") % 50
    with arena.transaction():
        arena.root["a"] = Array(plain)
        there = arena.root["a"]
        assert there[:].tobytes() == plain.tobytes()
        there[1] = plain[2]
        there.view[3] = plain[2]
        assert repr(there[1].tolist()) == repr(there[3].tolist()) == repr(plain[2].tolist())
        arena.root["copy"] = there.copy()
        assert same(arena.root["copy"].dtype, dtype)
        assert repr(arena.root["copy"].to_python()) == repr(there[:].tolist())


@pytest.mark.parametrize(
    ("dtype", "match"),
    [
        (np.dtype([(f"column {i}", "f8") for i in range(20)]), "takes 4.. bytes, more than the 231"),
        (np.dtype([("ü" * 150, "i4")]), "more than the 231"),  # in bytes: it has fewer characters
        (np.dtype(("f4", (2,))), "which are arrays.*more dimensions"),
        (np.dtype([("a", "O")]), "hold no references"),
        (np.dtype([("a", "u1"), (((object, 2), "b"), "i4")]), "does not come back"),
    ],
    ids=["long", "long in bytes", "sub-array", "object", "title of no text"],
)
def test_what_can_not_be_kept_is_refused(dtype: Any, match: str) -> None:
    """A dtype whose description is too long, or does not give it back, is a TypeError, and no Array is made."""
    with pytest.raises(TypeError, match=match):
        Array(3, dtype)


def test_the_longest_description_that_is_kept(arena: Arena) -> None:
    """One of exactly 231 bytes comes back, one of 232 is refused."""
    size = len(repr(np.dtype([("", "i4")]).descr)) - len("f0")
    name = "é" * ((231 - size) // 2) + "e" * ((231 - size) % 2)
    with arena.transaction():
        arena.root["a"] = Array(2, [(name, "i4")])
    assert arena.root["a"].dtype.names == (name,)
    with pytest.raises(TypeError, match="takes 232 bytes"):
        Array(2, [(name + "e", "i4")])


def test_subclasses_of_ndarray(arena: Arena) -> None:
    """A record array is kept by its bytes; the mask of a masked one can't be, so it is refused."""

    class Odd(np.ndarray):  # type: ignore[type-arg]
        def tobytes(self, *_: Any) -> bytes:
            return b""

    odd = np.arange(3.0).view(Odd)
    records = np.rec.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")])
    with arena.transaction():
        arena.root["odd"], arena.root["records"] = Array(odd), Array(records)
        with pytest.raises(TypeError, match=r"masked.*nothing was made"):
            Array(np.ma.masked_equal([1, 2, 3], 2))
    assert arena.root["odd"][:].tolist() == [0, 1, 2]
    assert arena.root["records"][:].tolist() == [(1, 2.5)]


# -- indexing ----------------------------------------------------------------------------------------------------

MASK = np.arange(5) % 2 == 0
INDICES: dict[str, Any] = {
    "ellipsis": ...,
    "new axis": None,
    "ellipsis and new axis": (..., None),
    "list": [1, 2],
    "repeated": [3, 1, 1],
    "array": np.array([0, 4]),
    "mask": MASK,
    "empty mask": np.zeros(5, bool),
    "list of bools": [True, False, True, False, False],
    "numpy int": np.int64(3),
    "0-d array": np.array(2),
    "slice with a step": slice(None, None, 2),
    "backwards": slice(None, None, -1),
    "negative": -1,
    "true": True,
    "tuple": (2,),
    "ellipsis and int": (..., 1),
    "several": (slice(1, 3), [0]),
}


@pytest.mark.parametrize("shape", [(5,), (5, 3)])
@pytest.mark.parametrize("key", INDICES.values(), ids=INDICES)
@pytest.mark.parametrize("dtype", ["f8", ">i4", [("a", "i4")]])
def test_indices_pick_what_numpy_picks(arena: Arena, shape: tuple[int, ...], key: Any, dtype: Any) -> None:
    """Any index of numpy's reads and sets the same items, in one dimension and more; or raises the same."""
    plain = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    with arena.transaction():
        there = arena.root["a"] = Array(plain)
        there = arena.root["a"]
        try:
            picked = plain[key]
        except IndexError:
            with pytest.raises(IndexError):
                there[key]
            return
        found = there[key]
        assert np.shape(found) == np.shape(picked)
        assert np.array_equal(np.asarray(found, plain.dtype), picked)
        there[key] = plain[-1, -1] if len(shape) == 2 else plain[-1]
        plain[key] = plain[-1, -1] if len(shape) == 2 else plain[-1]
        assert np.array_equal(there[:], plain)
    assert there.size == plain.size


@pytest.mark.parametrize(
    "dtype", ["(", "f8,(", "[('a'", "(" * 5000, "1f8(", "xx", "", object(), [("a", "f8"), ("a", "i4")], {"a": 1}]
)
def test_what_is_no_dtype(arena: Arena, dtype: Any) -> None:
    """It is a TypeError that names it, whatever numpy, or the reader of texts, makes of it."""
    with pytest.raises(TypeError, match=r"can't hold items of type .*nothing was made"):
        Array(3, dtype)
