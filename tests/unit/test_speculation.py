"""The policies on live arenas: what each makes of the same writes, their options, and the oracle's recording."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recoverable import Arena, Array
from recoverable._native import _core
from recoverable.errors import ArenaOptionError
from recoverable.speculation import OPTIONS, POLICIES, Recording

PAGE = 4096


def run(steps: list[list[int]], **options: Any) -> dict[str, int]:
    """Write one item in each page of each step; return what it took, and check that it is all there."""
    with Arena.temporary(size="16 MiB", **options) as arena:
        with arena.transaction():
            arena.root["a"] = Array((64, PAGE // 8), "i8")
        a = arena.root["a"]
        expected = np.zeros(64, "i8")
        before = arena.stats()
        for number, pages in enumerate(steps):
            expected[pages] = number + 1
            with arena.transaction():
                a.view[pages, 5] = number + 1
        after = arena.stats()
        with arena.transaction():
            assert (a.view[:, 5] == expected).all()
        return {
            name: getattr(after, name) - getattr(before, name)
            for name in ("traps", "promotions", "demotions", "hot_pages")
        }


FIXED = [[1, 3, 5, 7]] * 100


@pytest.mark.parametrize("policy", sorted(POLICIES.keys() - {"incremental", "oracle"}))
def test_a_fixed_working_set_is_learned(policy: str) -> None:
    """On the same pages again and again every estimator traps far less often than `incremental`."""
    assert run(FIXED, policy=policy)["traps"] < 400 / 2


def test_the_ends_of_the_scale() -> None:
    """`incremental` traps each time, `full` once a page."""
    assert run(FIXED, policy="incremental") == {
        "traps": 400,
        "promotions": 0,
        "demotions": 0,
        "hot_pages": 0,
    }
    full = run(FIXED, policy="full")
    assert (full["traps"], full["promotions"], full["demotions"], full["hot_pages"]) == (4, 4, 0, 4)


def test_options_are_obeyed() -> None:
    """`max_hot` bounds the hot set, `epochs` says when a page leaves it."""
    assert run(FIXED, policy="full", policy_options={"max_hot": 3})["hot_pages"] == 3
    once = [[1], [2], [2], [2], [2], [2]]
    assert run(once, policy="active-cks", policy_options={"epochs": 2})["hot_pages"] == 1
    assert run(once, policy="active-cks", policy_options={"epochs": 20})["hot_pages"] == 2


def test_the_documented_defaults_are_those_of_the_core() -> None:
    """Each option that is documented is one of the core's, with that default."""
    assert OPTIONS.keys() == POLICIES.keys()
    for policy, options in OPTIONS.items():
        for name, (default, _) in options.items():
            if default is not None:
                assert _core.policy_default(policy, name) == default, (policy, name)
    with pytest.raises(Exception, match='"patience", "window"'):
        _core.policy_default("adaptive", "nothing")


def test_a_recording_is_its_steps() -> None:
    """A `Recording` gives back what it was made of, each page once a step."""
    recording = Recording.of([[3, 1, 3], [], [2]], ["a", "b", "a"])
    assert list(recording) == [[3, 1], [], [2]]
    assert len(recording) == 3
    assert recording.handlers == ("a", "b", "a")


@pytest.mark.parametrize("steps", [[], [[]], [[1 << 30]]])
def test_odd_recordings(steps: list[list[int]]) -> None:
    """An empty recording is one; a page that the arena does not have is refused."""
    options = {"policy": "oracle", "policy_options": {"recording": Recording.of(steps)}}
    if steps == [[1 << 30]]:
        with pytest.raises(ArenaOptionError, match="names page 1073741824"):
            run(FIXED, **options)
    else:
        assert run(FIXED, **options)["traps"] == 400
