"""Set against set."""

from __future__ import annotations

import operator
from typing import Any

from hypothesis import strategies as st

from support.container_machine import apply, call, comparisons, inplace, machine, plain, replace

members = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        1,
        1.0,
        2,
        -1,
        2.5,
        2**63,
        10**30,
        "",
        "a",
        "b",
        "\ud800",
        "k" * 300,
        b"",
        b"a",
        (1, "a"),
        (1.0, "a"),
        ((), None),
    ]
)
unhashable = st.sampled_from([[], {}, ([],)])
sets = st.sets(members, max_size=6) | st.sets(st.integers(0, 60), max_size=40)
several = st.lists(members, max_size=5)
others = sets | several.map(frozenset) | several | st.sampled_from([5, None])


def pop(container: Any) -> bool:
    """Which one is not said; that it was there and is gone, is."""
    before = set(container)
    item = container.pop()
    assert item in before
    assert item not in container
    container.add(item)
    container.discard(min(before, key=repr))  # the same one in both
    return True


def walk_and(method: str) -> Any:
    def walk(container: Any) -> None:
        for _ in container:
            getattr(container, method)(*(["fresh"] if method == "add" else []))

    return walk


def shown(container: Any) -> Any:
    text = repr(container)
    if text in ("Set()", "set()"):
        return 0
    inner = text.removeprefix("Set(").removesuffix(")") if text.startswith("Set") else text
    return plain(eval(inner))


simple = st.one_of(
    call("add", members),
    call("add", members),
    call("add", st.integers(0, 200)),
    call("add", unhashable),
    call("discard", members | unhashable),
    call("remove", members),
    call("clear"),
    call("update", others),
    call("update", sets, several),
    call("intersection_update", others),
    call("difference_update", others),
    call("symmetric_difference_update", others),
    *(call(name, others) for name in ("union", "intersection", "difference", "symmetric_difference")),
    *(call(name, others) for name in ("issubset", "issuperset", "isdisjoint")),
    call("copy"),
    apply("pop", pop),
    apply("in", operator.contains, members | unhashable),
    apply("len", len),
    apply("bool", bool),
    apply("set", set),
    apply("repr", shown),
    apply("hash", hash),
    apply("walk and add", walk_and("add")),
    apply("walk and clear", walk_and("clear")),
    *(apply(op.__name__, op, others) for op in (operator.or_, operator.and_, operator.sub, operator.xor)),
    *(
        apply("r" + op.__name__, lambda c, other, op=op: op(other, c), others)
        for op in (operator.or_, operator.and_, operator.sub, operator.xor)
    ),
    *(inplace(op.__name__, op, others) for op in (operator.ior, operator.iand, operator.isub, operator.ixor)),
    comparisons(others),
    replace(sets),
)

TestSetModel = machine(simple, sets)
