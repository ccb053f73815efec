"""Paths of items of Arrays: what a difference is called can be asked for again, in any way that Python would write it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recoverable import Arena, ArenaOptionError, Array
from recoverable.history import History


@pytest.fixture
def history(new_name: Callable[[], str], tmp_path: Path) -> Iterator[History]:
    """Give that of an arena in which items of a matrix and of a vector were written, and the matrix replaced."""
    with Arena.temporary("16 MiB", name=new_name(), journal=tmp_path / "journal", compact=False) as arena:
        with arena.transaction():
            arena.root["m"] = Array((2, 3), "i4")
            arena.root["v"] = Array((3,), "f8")
        for index, value in ((1, 2), 5), ((0, 0), 6), ((1, 2), 7), ((1, 0), 8):
            with arena.transaction():
                arena.root["m"][index] = value
        with arena.transaction():
            arena.root["v"][1] = 0.5
        asyncio.run(arena.durable())
        yield arena.history


@pytest.mark.parametrize("path", ["root['m'][1, 2]", "root['m'][1][2]", "root['m'][(1, 2)]", 'root["m"][1,2]'])
def test_an_item(history: History, path: str) -> None:
    """An item of a matrix is found by its index, in one step or in two."""
    found = [difference for change in history.changes(path) for difference in change.differences]
    assert [(str(each.path), each.before, each.after) for each in found][:2] == [
        ("root['m'][1, 2]", 5, 7),
        ("root['m'][1, 2]", 0, 5),
    ]
    assert all(type(each.after) is int for each in found[:2])
    last = history.last_writer(path)
    assert last is not None
    assert [str(each) for each in history.changed_by(last).differences] == ["root['m'][1, 2]: 5 -> 7"]


def test_a_row(history: History) -> None:
    """A row is all of its items."""
    commits = list(history.commits())
    found = [str(each) for change in history.changes("root['m'][1]") for each in change.differences]
    assert found[:3] == ["root['m'][1, 0]: 0 -> 8", "root['m'][1, 2]: 5 -> 7", "root['m'][1, 2]: 0 -> 5"]
    assert "root['m'][1]: (nothing) -> [0, 0, 0]" in found
    assert [str(each) for each in history.diff(commits[-1], commits[0], "root['m'][1]")] == [
        "root['m'][1, 0]: 0 -> 8",
        "root['m'][1, 2]: 0 -> 7",
    ]
    assert [str(each) for each in history.diff(commits[-1], commits[0], "root['v'][1]")] == ["root['v'][1]: 0.0 -> 0.5"]


def test_each_path_that_is_told_can_be_asked_for(history: History) -> None:
    """The text of each difference is a path, at which the same difference is found."""
    for commit in history.commits():
        for difference in history.changed_by(commit).differences:
            changes = history.changes(difference.path.text, since=commit, until=commit)
            assert [each for change in changes for each in change.differences] == [difference]


@pytest.mark.parametrize("path", ["root['m'][-1, 0]", "root['m'][1][-1]", "root['m'][0, 1, 0]", "root['m'][5, 5]"])
def test_what_is_no_item(history: History, path: str) -> None:
    """A negative index is refused, as everywhere; where nothing lies nothing has changed."""
    if "-1" in path:
        with pytest.raises(ArenaOptionError, match="negative"):
            list(history.changes(path))
    else:
        assert list(history.changes(path)) == []
        assert history.last_writer(path) is None
