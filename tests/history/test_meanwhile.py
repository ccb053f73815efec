"""What is asked for while the folder changes: commits that come to the disk, that a restore has left, that a compaction drops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from recoverable import Arena, HistoryError, _shm
from recoverable._compaction import verify
from recoverable._native import feed as native_feed
from recoverable.feed import Commit
from recoverable.history import History
from recoverable.history.states import States
from recoverable.journal import attach
from recoverable.journal.compact import compact
from recoverable.journal.folder import Folder
from recoverable.journal.order import END


@pytest.fixture
def arena(new_name: Callable[[], str], folder: str) -> Iterator[Arena]:
    """Give an arena with a journal."""
    with Arena.temporary("16 MiB", name=new_name(), journal=folder, compact=False) as made:
        put(made, 1)
        yield made


def put(arena: Arena, n: int, fill: str = "") -> int:
    """Commit, have it on the disk, and return its number."""
    with arena.transaction():
        arena.root["n"] = n
        arena.root["fill"] = fill
    asyncio.run(arena.durable(timeout=30))
    state = native_feed.state(arena.native)
    assert state is not None
    return state[5]


# -- not there yet -----------------------------------------------------------------------------------------------------------


def _at(history: History, seq: int) -> Any:
    return history.at(seq)["n"]


def _diff(history: History, seq: int) -> Any:
    (found,) = history.diff(history.newest, seq, "root['n']")
    return found.after


def _changed_by(history: History, seq: int) -> Any:
    return {str(each.path): each.after for each in history.changed_by(seq).differences}["root['n']"]


def _bisect(history: History, seq: int) -> Any:
    found = history.bisect(lambda root: root["n"] == 1, good=history.newest, bad=seq)
    return {str(each.path): each.after for each in found.differences}["root['n']"]


def _watch(history: History, seq: int) -> Any:
    watch = history.watch("root['n']", after=seq)
    watch._take()
    return 2 if not watch._ready else list(watch._ready)


@pytest.mark.parametrize("ask", [_at, _diff, _changed_by, _bisect, _watch])
@pytest.mark.parametrize("fill", ["", "x" * 400_000], ids=["", "in a new file"])
@pytest.mark.parametrize("moment", ["behind the replay", "before the end is looked at"])
def test_a_commit_that_comes_to_the_disk_while_it_is_looked_for(
    arena: Arena, monkeypatch: pytest.MonkeyPatch, ask: Callable[[History, int], Any], fill: str, moment: str
) -> None:
    """Is found, or said not to be there: it is never taken for one that was rolled back."""
    history = arena.history
    next_one = history.newest + (2 if fill else 1)
    with pytest.raises(HistoryError, match="goes up to commit"):
        ask(history, next_one)
    looked_for, come, at, tip = False, False, States.at, Folder.tip

    def comes() -> None:
        nonlocal come
        if looked_for and not come:
            come = True
            if fill:
                assert put(arena, 1, fill) == next_one - 1
            assert put(arena, 2) == next_one

    def late(states: States, line: Any, seq: int = END, *rest: Any) -> Any:
        nonlocal looked_for
        found = at(states, line, seq, *rest)
        looked_for = looked_for or seq == next_one
        if moment == "behind the replay":
            comes()
        return found

    def later(folder: Folder) -> Any:
        comes()
        return tip(folder)

    monkeypatch.setattr(States, "at", late)
    monkeypatch.setattr(Folder, "tip", later)
    assert ask(history, next_one) == 2
    assert come


def test_a_number_that_was_rolled_back_stands_for_the_one_before(arena: Arena) -> None:
    """Also where commits have come behind it."""
    seq = put(arena, 2)
    with pytest.raises(ZeroDivisionError), arena.transaction():
        arena.root["n"] = 1 / 0
    later = put(arena, 3)
    assert [arena.history.at(each)["n"] for each in range(seq, later + 1)] == [2] * (later - seq) + [3]


# -- left by a restore -------------------------------------------------------------------------------------------------------


def test_a_commit_of_a_line_that_was_left(name: str, folder: str) -> None:
    """Is not taken for the one that has its number now, nor for the state that was restored; others are still taken."""

    def work(numbers: range) -> list[Commit]:
        with Arena.open(name, "16 MiB", journal=folder, compact=False) as arena:
            for n in numbers:
                put(arena, n)
            found = list(arena.history.commits())
        Arena.unlink(name)
        return found[::-1]

    old = work(range(6))
    with _shm.locked(name, create=True, timeout=5):
        attach.restore(name, Folder(folder), seq=old[2].seq, at=END)
    new = work(range(10, 12))
    compact(Folder(folder), verify)
    with History.open(folder) as history:
        assert [each.seq for each in new] == [each.seq for each in old[:5]]
        assert [history.at(each)["n"] for each in new] == [0, 1, 2, 10, 11]
        assert [history.at(each)["n"] for each in old[:3]] == [0, 1, 2]
        for commit in old[3:]:
            asked: list[Callable[[], Any]] = [
                lambda commit=commit: history.at(commit),
                lambda commit=commit: history.changed_by(commit),
                lambda commit=commit: history.diff(old[0], commit),
                lambda commit=commit: history.diff(commit, old[0]),
                lambda commit=commit: history.watch(after=commit),
                lambda commit=commit: history.bisect(lambda root: True, good=commit),
            ]
            if commit.seq <= new[-1].seq:
                asked += [
                    lambda commit=commit: list(history.commits(since=commit)),
                    lambda commit=commit: list(history.commits(until=commit)),
                    lambda commit=commit: list(history.changes("root['n']", until=commit)),
                ]
            for ask in asked:
                with pytest.raises(HistoryError, match=f"commit {commit.seq} "):
                    ask()
        assert list(history.commits(since=new[3])) == new[:2:-1]


def test_a_line_that_was_left_within_the_last_batch_of_a_file(name: str, folder: str) -> None:
    """What lies behind it, the mark of a clean end included, is no part of what the next file goes on from."""
    for n in range(3):
        with Arena.open(name, "16 MiB", journal=folder, compact=False) as arena:
            for i in range(5):  # on the disk at once, mostly
                with arena.transaction():
                    arena.root["n"] = 10 * n + i
        Arena.unlink(name)
        with History.open(folder) as history:
            newest = history.newest
        with _shm.locked(name, create=True, timeout=5):
            attach.restore(name, Folder(folder), seq=newest - 2, at=END)
        Arena.unlink(name)
    with History.open(folder) as history:
        assert [change.differences[0].after for change in history.changes("root['n']")][::-1] == [
            *(0, 1, 2),
            *(10, 11, 12),
            *(20, 21, 22),
        ]


# -- dropped by a compaction -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [lambda history: history.commits(), lambda history: history.changes("root")],
    ids=["commits", "changes"],
)
def test_what_is_left_is_said_as_it_is_by_then(
    arena: Arena, folder: str, ask: Callable[[History], Iterator[Any]]
) -> None:
    """Whoever reads on over a compaction is told which states can be had now."""
    history = arena.history
    for n in range(300):
        with arena.transaction():
            arena.root[f"k{n % 9}"] = str(n) * 1000
    oldest = history.oldest
    put(arena, 2)
    reading = ask(history)
    next(reading)
    for n in range(3):
        put(arena, n, str(n) * 300_000)
        compact(Folder(folder), verify)
    assert history.oldest > oldest
    with pytest.raises(HistoryError) as raised:
        list(reading)
    left = raised.value
    assert left.oldest is not None
    assert left.newest is not None
    assert left.oldest > oldest
    assert f"commits {left.oldest} to {left.newest}" in str(left)
    assert history.at(left.oldest) is not None
    assert history.at(left.newest)["n"] == 2
