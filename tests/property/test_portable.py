"""A portable export of any state, and what is imported of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recoverable import Arena, Array, portable
from recoverable.cli import _portable
from recoverable.cli._render import Progress
from support.states import states, told

#: How much goes into a line, in characters and in containers: all of a small state, little, and nothing.
LIMITS = [
    {},
    {"_SLICE": 40, "_INLINE": 60, "_DEEPEST": 2, "_BYTES": 2},
    {"_SLICE": 1, "_INLINE": 12, "_DEEPEST": 0, "_BYTES": 1},
]


@pytest.fixture(scope="module")
def source() -> Iterator[Arena]:
    """An arena, for all examples."""
    with Arena.temporary("4 MiB") as arena:
        yield arena


@pytest.mark.slow
@settings(max_examples=int(os.environ.get("RECOVERABLE_EXAMPLES", "30")))
@given(state=states, limits=st.sampled_from(LIMITS))
def test_any_state_there_and_back(
    source: Arena, tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any], limits: dict[str, int]
) -> None:
    """What is imported has the kinds, the order and the bits of what was exported, however it was cut; and is written alike."""
    paths = [tmp_path_factory.getbasetemp() / f"state-{i}.jsonl" for i in range(2)]
    name = f"{source.name}-imported"
    with source.transaction():
        source.root.clear()
        source.root.update(state)
    wanted = told(source.root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        for limit, value in limits.items():
            patch.setattr(portable, limit, value)
        portable.write(source, "x", paths[0])
        _portable.import_file(paths[0], name, size="1 MiB", feed=None, progress=Progress(quiet=True))
        try:
            with Arena.open(name, create=False) as arena:
                assert told(arena.root) == wanted
                portable.write(arena, "x", paths[1])
        finally:
            Arena.unlink(name)
    first, second = (path.read_bytes().splitlines()[1:-1] for path in paths)
    assert first == second


@pytest.mark.slow
def test_no_line_is_large(new_name: Callable[[], str], tmp_path: Path) -> None:
    """Lines have a bounded length, whatever has grown large: a container, a value, a key, an Array, what lies in each other."""
    name, path = new_name(), tmp_path / "state.jsonl"
    with Arena.temporary("32 MiB") as arena:
        with arena.transaction():
            arena.root["list"] = list(range(100_000))
            arena.root["text"] = ("é" * 600_000, b"x" * 400_000)
            arena.root["k" * 500_000] = {"n": 10**400_000}
            arena.root["numbers"] = [1 << 400_000] * 6 + [Decimal("1" * 100_000)] * 6
            arena.root["array"] = Array(300_000, "u1")
            arena.root["array"][299_999] = 7
            arena.root["rows"] = {i: {"texts": ["t" * 400] * 4} for i in range(300)}
            there = arena.root
            for _ in range(1_500):  # more than Python's own limit of recursion
                there["deep"] = {}
                there = there["deep"]
        wanted = arena.root["list"].to_python()
        portable.write(arena, "x", path)
        lines = path.read_bytes().splitlines()
        assert max(map(len, lines)) < 3 * portable._SLICE
        assert sum(map(len, lines)) > 3_500_000
        _portable.import_file(path, name, size=None, feed=None, progress=Progress(quiet=True))
        with Arena.open(name, create=False) as other:
            assert other.root["list"].to_python() == wanted
            for key in "array", "text", "k" * 500_000, "numbers", "rows":
                assert told(other.root[key]) == told(arena.root[key])
            assert [json.loads(line) for line in lines][-1]["end"] == len(lines) - 1
