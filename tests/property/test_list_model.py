"""List against list."""

from __future__ import annotations

import operator
from typing import Any

from hypothesis import strategies as st

from support.container_machine import (
    apply,
    call,
    comparisons,
    inplace,
    ints,
    machine,
    plain,
    replace,
    scalars,
    slices,
    trees,
)

positions = st.integers(-5, 5) | st.integers(-80, 80) | st.sampled_from(["1", 1.0, None])
far = st.sampled_from([2**70, -(2**70)])
items = st.lists(trees, max_size=5) | st.lists(st.integers(0, 9), max_size=40)
others = (
    st.lists(scalars, max_size=3)
    | st.lists(st.integers(0, 9), max_size=40)
    | st.sampled_from([(), (1,), "ab", 5, None])
)


def sort(container: Any, key: Any, reverse: bool) -> None:
    """A list is left half sorted where a comparison raises; a List as it was."""
    kept = list(container) if isinstance(container, list) else None
    try:
        container.sort(key=key, reverse=reverse)
    except TypeError:
        if kept is not None:
            container[:] = kept
        raise


def by_text(value: Any) -> str:
    return repr(plain(value))


def by_kind(value: Any) -> str:  # many equal keys: is it stable?
    return type(plain(value)).__name__


def failing(value: Any) -> Any:
    raise ValueError


def walk_and_append(container: Any) -> list[Any]:
    """As with a list, an iteration sees what is appended meanwhile."""
    seen = []
    for item in container:
        seen.append(plain(item))
        if len(seen) < 3:
            container.append(len(seen))
    return seen


def walk_and_shrink(container: Any) -> list[Any]:
    seen = []
    for item in reversed(container):
        seen.append(plain(item))
        if container:
            container.pop()
    return seen


simple = st.one_of(
    call("append", trees),
    call("append", trees),
    call("extend", others | items),
    call("insert", positions, trees),
    call("pop"),
    call("pop", positions),
    call("remove", scalars),
    call("index", scalars),
    call("index", scalars, st.integers(-9, 9), st.integers(-9, 9)),
    call("count", scalars),
    call("clear"),
    call("reverse"),
    call("copy"),
    apply("sort", sort, st.sampled_from([None, None, by_text, by_kind, failing]), st.booleans()),
    apply("get", operator.getitem, positions | far),
    apply("get", operator.getitem, slices),
    apply("set", operator.setitem, positions | far, trees),
    apply("set", operator.setitem, slices, others | items),
    apply("del", operator.delitem, positions | far),
    apply("del", operator.delitem, slices),
    apply("in", operator.contains, scalars),
    apply("len", len),
    apply("bool", bool),
    apply("list", list),
    apply("reversed", lambda container: list(reversed(container))),
    apply("walk_and_append", walk_and_append),
    apply("walk_and_shrink", walk_and_shrink),
    apply("repr", lambda c: repr(c) if not isinstance(c, list) else f"List({c!r})"),
    apply("hash", hash),
    apply("+", operator.add, others),
    apply("*", operator.mul, st.integers(-1, 3) | st.just(1.5)),
    apply("r*", lambda c, n: n * c, st.integers(-1, 3)),
    apply("nested", lambda c, i, value: c[i].append(value), positions, scalars),
    comparisons(others | items),
    inplace("+=", operator.iadd, others),
    inplace("*=", operator.imul, st.integers(-1, 3) | st.just("2")),
    replace(items),
    call("extend", st.lists(ints, min_size=30, max_size=70)),
)

TestListModel = machine(simple, items)
