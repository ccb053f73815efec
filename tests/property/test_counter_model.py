"""Counter against a number."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from recoverable import Counter
from support.container_machine import Number, apply, call, inplace, machine, replace

amounts = st.integers(-5, 5) | st.sampled_from([2**62, -(2**62), 2**63 - 1, -(2**63), 2**64, "1", 1.5, None])
values = st.integers(-9, 9) | st.sampled_from([2**63 - 2, -(2**63)])
originals = st.builds(Number, values)


def store(number: Number) -> Counter:
    return Counter(number.value)


def compared(container: Any, n: int) -> Any:
    value = container.value if isinstance(container, Number) else container
    return value == n, value != n, value < n, value <= n, value > n, value >= n


def add(container: Any, n: Any) -> Any:
    if isinstance(container, Number):
        container.add(n)
        return container
    container += n
    return container


def subtract(container: Any, n: Any) -> Any:
    if isinstance(container, Number):
        container.add(-n)
        return container
    container -= n
    return container


simple = st.one_of(
    call("add"),
    call("add", amounts),
    call("add", amounts),
    apply("value", lambda c: c.value),
    apply("int", lambda c: c.value if isinstance(c, Number) else int(c)),
    apply("index", lambda c: range(10)[c.value if isinstance(c, Number) else c]),
    apply("bool", lambda c: bool(c.value if isinstance(c, Number) else c)),
    apply("compared", compared, st.integers(-9, 9)),
    apply("repr", lambda c: f"Counter({c.value})" if isinstance(c, Number) else repr(c)),
    inplace("+=", add, amounts),
    inplace("-=", subtract, st.integers(-5, 5) | st.sampled_from(["1", None])),
    replace(originals, store),
)

TestCounterModel = machine(simple, originals, store)
