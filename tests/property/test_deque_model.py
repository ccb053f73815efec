"""Deque against collections.deque."""

from __future__ import annotations

import operator
from collections import deque
from typing import Any

from hypothesis import strategies as st

from recoverable import Deque
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
    trees,
)

positions = st.integers(-5, 5) | st.integers(-80, 80) | st.sampled_from(["1", 1.0, slice(0, 1)])
far = st.sampled_from([2**70, -(2**70)])
items = st.lists(trees, max_size=5) | st.lists(st.integers(0, 9), max_size=40)
bounds = st.none() | st.none() | st.integers(0, 5)
deques = st.builds(deque, items, bounds)
others = deques | st.sampled_from([(), (1,), [1], 5, None])


def walk_and(method: str) -> Any:
    def walk(container: Any) -> list[Any]:
        seen = []
        for item in container:
            seen.append(plain(item))
            getattr(container, method)(*([1] if "append" in method else []))
        return seen

    return walk


def store(original: deque[Any]) -> Deque[Any]:
    return Deque(original, original.maxlen)


def shown(container: Any) -> str:
    if isinstance(container, Deque):
        return repr(container)
    bound = "" if container.maxlen is None else f", maxlen={container.maxlen}"
    return f"Deque({[*container]!r}{bound})"


simple = st.one_of(
    call("append", trees),
    call("append", trees),
    call("appendleft", trees),
    call("appendleft", trees),
    call("pop"),
    call("popleft"),
    call("popleft"),
    call("extend", items | st.just(5)),
    call("extendleft", items),
    call("extend", st.lists(ints, min_size=50, max_size=80)),
    call("extendleft", st.lists(ints, min_size=50, max_size=80)),
    apply("drain", lambda c, n: [plain(c.popleft()) for _ in range(n)], st.integers(20, 70)),
    apply("drain right", lambda c, n: [plain(c.pop()) for _ in range(n)], st.integers(20, 70)),
    call("insert", positions, trees),
    call("remove", scalars),
    call("index", scalars),
    call("index", scalars, st.integers(-9, 9), st.integers(-9, 9)),
    call("count", scalars),
    call("clear"),
    call("reverse"),
    call("rotate"),
    call("rotate", st.integers(-70, 70) | st.just(1.0)),
    call("copy"),
    apply("get", operator.getitem, positions | far),
    apply("set", operator.setitem, positions | far, trees),
    apply("del", operator.delitem, positions | far),
    apply("in", operator.contains, scalars),
    apply("len", len),
    apply("bool", bool),
    apply("maxlen", lambda c: c.maxlen),
    apply("list", list),
    apply("reversed", lambda container: list(reversed(container))),
    apply("walk and append", walk_and("append")),
    apply("walk and popleft", walk_and("popleft")),
    apply("repr", shown),
    apply("hash", hash),
    apply("+", operator.add, others),
    apply("*", operator.mul, st.integers(-1, 3) | st.just(1.5)),
    apply("nested", lambda c, i, value: c[i].append(value), positions, scalars),
    comparisons(others),
    inplace("+=", operator.iadd, others),
    inplace("*=", operator.imul, st.integers(-1, 3) | st.just("2")),
    replace(deques, store),
)

TestDequeModel = machine(simple, deques, store)
