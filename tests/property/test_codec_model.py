"""Values go in and come out the same; equal keys are one key; damaged bytes are told as such."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recoverable import Arena, ArenaCorruptError, CodecError, codecs
from recoverable._native.codec import tuple_bytes, tuple_of
from support.models import canonical

EXAMPLES = int(os.environ.get("RECOVERABLE_EXAMPLES", "60"))
common = settings(max_examples=EXAMPLES, deadline=None, derandomize="RECOVERABLE_EXAMPLES" not in os.environ)

zones = st.none() | st.just(dt.UTC) | st.timezones()
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(),
    st.text(st.characters()),  # surrogates included
    st.binary(),
    st.datetimes(timezones=zones, allow_imaginary=False),
    st.dates(),
    st.times(timezones=st.none() | st.just(dt.UTC)),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=6)


@pytest.fixture(scope="module")
def open_arena() -> Iterator[Arena]:
    """One arena for all examples."""
    with Arena.temporary("16 MiB") as arena:
        yield arena


def hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def zone(value: Any) -> Any:
    return str(getattr(value, "tzinfo", None)), getattr(value, "fold", None)


@pytest.mark.slow
@common
@given(value=values)
@example(value=(dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=dt.timezone(dt.timedelta(seconds=30))),))
def test_values_round_trip(open_arena: Arena, value: Any) -> None:
    """A value is read as it was written: type, content, sign, NaN, zone and fold."""
    with open_arena.transaction():
        open_arena.root["x"] = [value, {"k": value}]
        for found in (open_arena.root["x"][0], open_arena.root["x"][1]["k"]):
            assert canonical(found) == canonical(value)
            assert repr(found) == repr(value)
            assert zone(found) == zone(value)


@pytest.mark.slow
@common
@given(keys=st.lists(values.filter(hashable), max_size=8))
@example(keys=[1, True, 1.0, (1,), (True,), 0.5, 2**70, float(2**70), -0.0, 0])
def test_keys_are_those_of_a_dict(open_arena: Arena, keys: list[Any]) -> None:
    """The same keys give the same entries as a dict; but a moment is its text: two zones' names of one instant are two keys."""
    keys = [key for key in keys if not aware(key)]
    model: dict[Any, int] = {}
    with open_arena.transaction():
        open_arena.root["d"] = {}
        there = open_arena.root["d"]
        for n, key in enumerate(keys):
            if key != key or (isinstance(key, tuple) and key not in [key]):
                continue
            model[key] = n
            there[key] = n
        if any(map(nan_inside, model)):
            return  # a NaN equals itself in an arena
        assert list(there.values()) == list(model.values())
        assert list(there) == list(model)
        assert all(key in there and there[key] == model[key] for key in model)


def aware(key: Any) -> bool:
    return any(map(aware, key)) if isinstance(key, tuple) else getattr(key, "tzinfo", None) is not None


def nan_inside(key: Any) -> bool:
    return any(map(nan_inside, key)) if isinstance(key, tuple) else key != key


@pytest.mark.slow
@common
@given(value=values, cut=st.integers(0, 200), at=st.integers(0, 200), bits=st.integers(0, 255))
def test_damaged_bytes_are_told(value: Any, cut: int, at: int, bits: int) -> None:
    """Encoded bytes that are cut, lengthened or changed give a value or an error of ours, never another one."""
    data = codecs.pack((value,))
    assert data is not None
    changed = bytearray(data)
    changed[at % len(data)] ^= bits
    for broken in (data[:cut], data + b"\0" * cut, bytes(changed), bytes(changed[: cut or None])):
        with contextlib.suppress(ArenaCorruptError, CodecError):
            codecs.unpack(broken)


@common
@given(data=st.binary(max_size=60))
def test_garbage_is_told(data: bytes) -> None:
    """Any bytes give a value or an error of ours."""
    with contextlib.suppress(ArenaCorruptError, CodecError):
        codecs.unpack(data)
    assert outcome(tuple_of, data) == outcome(codecs.unpack, data)


@pytest.mark.slow
@common
@given(value=values, at=st.integers(0, 200), bits=st.integers(0, 255))
@example(
    value=(127, 128, -128, -129, 2**63 - 1, -(2**63), 2**63, 0, -1, True, 1.0, b"", "", "\ud800", None, ((),)),
    at=0,
    bits=0,
)
def test_native_tuples_have_the_same_bytes(value: Any, at: int, bits: int) -> None:
    """Tuples of the core's own types become the bytes that codecs makes of them, and come back so, damaged or not."""
    one = (value,)
    for key, pack in ((False, codecs.pack), (True, codecs.pack_key)):
        data = tuple_bytes(one, key)
        assert data is None or data == pack(one)
    plain = (
        isinstance(value, (int, str, bytes))
        and not isinstance(value, bool)
        and (isinstance(value, (str, bytes)) or abs(value) < 2**63)
    )
    assert not plain or tuple_bytes(one, True) is not None
    changed = bytearray(codecs.pack(one) or b"")
    assert outcome(tuple_of, bytes(changed)) == ("value", repr(one))
    changed[at % len(changed)] ^= bits
    assert outcome(tuple_of, bytes(changed)) == outcome(codecs.unpack, bytes(changed))


@pytest.mark.slow
def test_tuples_of_any_depth() -> None:
    """Tuples nested more deeply than the native code follows are left to codecs, and those of a type with a codec as well."""
    deep: tuple[Any, ...] = ()
    for _ in range(60):
        deep = (deep, 1)
    assert tuple_bytes(deep) is None
    data = codecs.pack(deep)
    assert data is not None
    assert tuple_of(data) == deep
    pair = type("Pair", (tuple,), {})
    assert tuple_bytes(pair((1, 2))) is None
    assert codecs.pack(pair((1, 2))) == tuple_bytes((1, 2))


def outcome(unpack: Callable[[bytes], Any], data: bytes) -> tuple[str, str]:
    try:
        return "value", repr(unpack(data))
    except (ArenaCorruptError, CodecError) as error:
        return type(error).__name__, ""
