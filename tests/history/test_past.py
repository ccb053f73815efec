"""Is the past what was: each state, what each commit has changed, and who wrote what last?"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, _shm
from recoverable._native import feed as native_feed
from recoverable.history import History
from recoverable.history.places import Path as Place
from recoverable.journal import attach
from recoverable.journal.folder import Folder
from recoverable.journal.start import END
from support.children import child
from support.doing import Doing, plain, prepare

STEPS = int(os.environ.get("RECOVERABLE_HISTORY_STEPS", "30"))


@pytest.fixture(params=["hybrid", "trap"])
def arena(request: pytest.FixtureRequest, new_name: Callable[[], str], tmp_path: Path) -> Iterator[Arena]:
    """Give an arena with a journal that is kept."""
    options = {"tracking": request.param, "feed": "64 MiB", "journal": tmp_path / "journal", "compact": False}
    with Arena.temporary("64 MiB", name=new_name(), **options) as made:
        prepare(made)
        yield made


class Past:
    """A root of the past, to be read as an arena is."""

    def __init__(self, root: Any) -> None:
        self.root = root


def seq_of(arena: Arena) -> int:
    """Return the number of the last commit."""
    state = native_feed.state(arena.native)
    assert state is not None
    return state[5]


def flush(arena: Arena) -> None:
    """Have all that is committed on the disk."""
    asyncio.run(arena.durable(timeout=30))


def told(differences: Any) -> list[tuple[str, str, str]]:
    """Return differences comparably."""
    return sorted((each.path.text, repr(each.before), repr(each.after)) for each in differences)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_each_state_is_what_was(arena: Arena, seed: int, tmp_path: Path) -> None:
    """Over random work, the state after each commit is the shadow's, and what it changed is what is different."""
    doing = Doing(arena, random.Random(seed))
    kept = arena.root["a"].view  # a buffer lives: raw writes are possible all the time
    shadows = {seq_of(arena): plain(arena)}
    single: list[tuple[int, int]] = []
    for _ in range(STEPS):
        before = seq_of(arena)
        if doing.rng.random() < 0.8:
            doing.block()
            if seq_of(arena) != before:
                single.append((before, seq_of(arena)))
        else:
            doing.step()
        shadows[seq_of(arena)] = plain(arena)
    del kept
    flush(arena)
    with History.open(tmp_path / "journal") as history:
        for seq, expected in shadows.items():
            found = plain(Past(history.at(seq)))  # type: ignore[arg-type]
            assert [name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)] == []
        for before, after in single:
            found, expected = history.changed_by(after).differences, history.diff(before, after)
            assert told(found) == told(expected), f"commit {after}"
        _compare_changes(history, shadows, single)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_after_going_back_what_counts_is_what_was(name: str, seed: int, tmp_path: Path) -> None:
    """Numbers come again after a restore to an earlier commit: each is of the line that the arena went on with."""
    rng = random.Random(seed)
    folder = tmp_path / "journal"
    shadows: dict[int, Any] = {}
    single: list[tuple[int, int]] = []

    def work(arena: Arena) -> None:
        doing = Doing(arena, rng)
        shadows[seq_of(arena)] = plain(arena)
        for _ in range(STEPS):
            before = seq_of(arena)
            doing.block()
            if seq_of(arena) != before:
                single.append((before, seq_of(arena)))
            shadows[seq_of(arena)] = plain(arena)
            if rng.random() < 0.2:
                flush(arena)
        flush(arena)

    for back in range(3):
        with Arena.open(name, "64 MiB", feed="64 MiB", journal=folder, compact=False) as arena:
            if not back:
                prepare(arena)
            work(arena)
        Arena.unlink(name)
        if back < 2:
            kept = rng.choice([before for before, _ in single])
            with _shm.locked(name, create=True, timeout=5):
                attach.restore(name, Folder(folder), seq=kept, at=END)
            shadows = {seq: state for seq, state in shadows.items() if seq <= kept}
            single = [each for each in single if each[1] <= kept]
    with History.open(folder) as history:
        for seq, expected in shadows.items():
            assert plain(Past(history.at(seq))) == expected  # type: ignore[arg-type]
        for before, after in single:
            found, wanted = history.changed_by(after).differences, history.diff(before, after)
            assert told(found) == told(wanted), f"commit {after}"
        assert [each.seq for each in history.commits()] == sorted(
            {min(shadows), *(each for _, each in single)}, reverse=True
        )
        _compare_changes(history, shadows, single)


def _compare_changes(history: History, shadows: dict[int, Any], single: list[tuple[int, int]]) -> None:
    """Compare who has changed what with the shadows, for some paths, as far as each commit has one."""
    for path in (
        "root['c'].value",
        "root['r'].note",
        "root['d']['key7']",
        "root['d']",
        "root['l']",
        "root['a']",
        "root['big']",
    ):
        place = Place.parse(path)
        found = {change.commit.seq: change.differences for change in history.changes(path)}
        for before, after in single:
            expected = history.diff(before, after, place)
            assert told(found.get(after, ())) == told(expected), (path, after)
        last = history.last_writer(path)
        assert (last is None) == (not found)
        assert last is None or last.seq == max(found)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_commits_of_several_processes_are_in_one_history(arena: Arena, seed: int, tmp_path: Path) -> None:
    """What two processes commit at the same time is one line of states, each of them sound; the last is what the arena is."""

    def work(number: int) -> None:
        doing = Doing(arena, random.Random(seed + number))
        for _ in range(STEPS):
            doing.block()

    with child(lambda: work(1)):
        work(0)
    flush(arena)
    with History.open(tmp_path / "journal") as history:
        commits = list(history.commits())
        assert [commit.seq for commit in commits] == sorted({commit.seq for commit in commits}, reverse=True)
        for commit in commits[:: max(len(commits) // 10, 1)]:
            plain(Past(history.at(commit)))  # type: ignore[arg-type]
        assert plain(Past(history.at(commits[0]))) == plain(arena)  # type: ignore[arg-type]
