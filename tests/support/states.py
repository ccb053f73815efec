"""States with every kind of container in each other, and what tells two of them apart."""

from __future__ import annotations

import datetime as dt
import struct
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from recoverable import Array, Counter, Deque, Dict, List, Record, Set

__all__ = ["Part", "deeper", "leaves", "states", "told"]


class Part(Record, name="states.Part"):
    what: Any
    tag: str = ""


class Made(Record, name="states.Made"):
    """Has an `__init__` of its own."""

    what: Any

    def __init__(self, left: Any, right: Any) -> None:
        super().__init__(what=[left, right])


NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
numbers = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([-0.0, Decimal("1.10"), Decimal("-Infinity")])
words = st.text(st.characters(), max_size=20) | st.sampled_from(["\ud800", "\ud834\udd1e"])
moments = st.sampled_from([NOON, NOON.astimezone(dt.timezone(dt.timedelta(hours=2))), dt.date(2026, 1, 2), dt.time(1)])
plain = st.one_of(st.none(), st.booleans(), numbers, words, st.binary(max_size=20), moments, st.just(UUID(int=7)))
leaves = plain | st.recursive(plain, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
keys = st.integers(-9, 9) | st.text(max_size=3)
several = st.lists(keys | moments, max_size=4, unique_by=repr)  # of which Python takes some for one


def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Give every kind of container around what there is."""
    return st.one_of(
        st.dictionaries(keys, inner, max_size=4).map(Dict),
        st.dictionaries(keys, inner, max_size=3),
        st.lists(inner, max_size=4).map(List),
        st.lists(inner, max_size=3),
        st.builds(Deque, st.lists(inner, max_size=4), st.none() | st.integers(4, 6)),
        several.map(Set),
        st.integers(-(2**63), 2**63 - 1).map(Counter),
        st.lists(st.integers(0, 255), min_size=1, max_size=5).map(lambda items: Array(items, "uint8")),
        st.builds(lambda what, tag: Part(what=what, tag=tag), inner, st.text(max_size=3)),
        st.builds(Made, inner, inner),
    )


states = st.dictionaries(st.text(max_size=3), st.recursive(leaves, deeper, max_leaves=12), min_size=1, max_size=4)


def told(value: Any) -> Any:
    """Give the kinds and the content, in order and to the last bit, as plain tuples."""
    if isinstance(value, (Dict, dict)):
        return "Dict", [(told(key), told(item)) for key, item in value.items()]
    if isinstance(value, Deque):
        return "Deque", value.maxlen, list(map(told, value))
    if isinstance(value, (List, list)):
        return "List", list(map(told, value))
    if isinstance(value, tuple):
        return "tuple", list(map(told, value))
    if isinstance(value, Record):
        return type(value), [(name, told(getattr(value, name))) for name in value._schema.names]
    if isinstance(value, Set):
        return "Set", list(map(told, value))
    if isinstance(value, Array):
        data = value._read(0, value.nbytes) if value._stored else value._initial() or bytes(value.nbytes)
        return "Array", value.dtype, value.shape, bytes(data)
    if isinstance(value, Counter):
        return "Counter", value.value
    return type(value), struct.pack(">d", value) if isinstance(value, float) else hex(value) if isinstance(
        value, int
    ) else repr(value)
