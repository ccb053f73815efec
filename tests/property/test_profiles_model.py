"""Raw writes of handlers whose pages are captured, in any order and with any ending, against a plain ndarray."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recoverable import Arena, Array
from support.workers import Request, pause

PAGES, ITEMS = 24, 512
SETS = ([0, 1, 2, 3], [5, 9, 14], [2, 3, 20, 22, 23])


class Undone(Exception):
    """Ends a transaction, or goes back to a savepoint."""


# A step: pages of the handler's set that it writes (by bit), pages besides them, an item in each.
step = st.tuples(
    st.integers(0, 31) | st.just(31), st.lists(st.integers(0, PAGES - 1), max_size=2), st.integers(0, ITEMS - 1)
)
request = st.tuples(
    st.integers(0, len(SETS) - 1),
    st.lists(step, min_size=1, max_size=3),  # with an await between two
    st.none() | step,  # in a savepoint that is gone back to, in the last step
    st.sampled_from(["keep", "keep", "keep", "fail", "drop"]),
)


def pages_of(handler: int, bits: int, more: list[int]) -> list[int]:
    return [page for k, page in enumerate(SETS[handler]) if bits >> k & 1] + more


async def run(arena: Arena, model: Any, keys: Any, n: int, handler: int, steps: Any, back: Any, ending: str) -> None:
    array = arena.root["a"]
    for number, (bits, more, item) in enumerate(steps):
        if number:
            await pause()
        pages = pages_of(handler, bits, more)
        array.view[pages, item] = n
        if bits & 1:
            arena.root["keys"][item] = f"{n} in a step" * 3
        if ending == "keep":
            model[pages, item] = n
            if bits & 1:
                keys[item] = f"{n} in a step" * 3
        assert all(array.view[pages, item] == n)
    if back is not None:
        bits, more, item = back
        kept = array.view.copy()
        with contextlib.suppress(Undone), arena.savepoint():
            array.view[pages_of(handler, bits, more), item] = -n
            arena.root["keys"][item] = None
            raise Undone
        assert (array.view == kept).all()
        assert arena.root["keys"].get(item, 0) is not None
    if ending == "fail":
        raise Undone
    if ending == "drop":
        await pause()


async def zero(*args: Any) -> None:
    await run(*args)


async def one(*args: Any) -> None:
    await run(*args)


async def two(*args: Any) -> None:
    await run(*args)


@pytest.mark.slow
@settings(max_examples=int(os.environ.get("RECOVERABLE_EXAMPLES", "60")))
@given(
    requests=st.lists(request, min_size=8, max_size=40),
    keep_view=st.booleans(),
    policy=st.sampled_from(["incremental", "incremental", "adaptive"]),
    tracking=st.sampled_from(["hybrid", "hybrid", "trap"]),
)
def test_captured_pages_hold_what_was_committed(
    requests: list[Any], keep_view: bool, policy: str, tracking: str
) -> None:
    """Whatever is captured, in vain or not: the arena holds what the committed requests wrote, and a new process agrees."""
    options: dict[str, Any] = {"policy": policy, "policy_options": {"profiles": True}, "tracking": tracking}
    with Arena.temporary(size="4 MiB", **options) as arena:
        with arena.transaction():
            arena.root["a"] = Array((PAGES, ITEMS), "i8")
            arena.root["keys"] = {}
        model, keys = np.zeros((PAGES, ITEMS), "i8"), dict[int, str]()
        view = None
        if keep_view:  # raw buffers live between steps: captured at the first touch
            with arena.transaction():
                view = arena.root["a"].view
        for n, (handler, steps, back, ending) in enumerate(requests, 1):
            each = Request(arena, (zero, one, two)[handler], arena, model, keys, n, handler, steps, back, ending)
            if ending == "drop":
                for _ in steps:
                    each.step()
                each.close()
            else:
                with contextlib.suppress(Undone):
                    each.finish()
            assert (np.frombuffer(arena.root["a"].view, "i8").reshape(model.shape) == model).all()
            assert arena.root["keys"].to_python() == keys
        arena.verify()
        del view
