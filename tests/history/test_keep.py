"""How much of the past is kept, what is told of what is gone, and what a kill in the middle of dropping it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, ArenaOptionError, HistoryError, JournalError
from recoverable._compaction import verify
from recoverable.history import History
from recoverable.journal import keep
from recoverable.journal.compact import compact
from recoverable.journal.folder import Folder
from support.children import child
from support.compactions import Steps, copy_folder
from support.forks import in_child

KILLS = int(os.environ.get("RECOVERABLE_KILLS", "8"))
ROUNDS = 5
NOBODY = 65534


def work(arena: Arena, begin: int) -> int:
    """Fill some files of the journal, durably; return the number that it has come to."""
    for i in range(begin, begin + 600):
        with arena.transaction():
            arena.root[f"k{i % 90}"] = {"n": i, "text": str(i) * 30, "list": [i] * (i % 30)}
            arena.root["n"] = i
    asyncio.run(arena.durable())
    return begin + 600


def rounds(arena: Arena, folder: str, made: list[int] | None = None) -> list[tuple[int, datetime.datetime]]:
    """Work and compact by turns; return the value of `n` after each round, and when that was.

    Args:
        arena: Works.
        folder: Is compacted.
        made: Takes the positions of the snapshots.
    """
    at, seen = 0, []
    for _ in range(ROUNDS):
        at = work(arena, at)
        seen.append((at - 1, datetime.datetime.now(datetime.UTC)))
        snapshot = compact(Folder(folder), verify).snapshot
        if snapshot is not None and made is not None:  # None: all of the round lies in the file that is being written
            made.append(snapshot.position)
        time.sleep(0.01)
    return seen


def test_what_is_to_be_kept_stays(new_name: Callable[[], str], folder: str) -> None:
    """With keep="24h" every state from the first on can be made, whatever was compacted; by number, and by time."""
    with Arena.temporary("16 MiB", name=new_name(), journal=folder, compact=False, keep="24h") as arena:
        made = Folder(folder).snapshots()
        seen = rounds(arena, folder, made)
        history = arena.history
        assert history is arena.history
        commits = list(history.commits())
        assert len(commits) == ROUNDS * 600
        for n, when in seen:
            assert history.at(when)["n"] == n
        assert history.at(commits[-1])["n"] == 0
        assert Folder(folder).snapshots() == made
        assert len(made) > 3


def test_what_is_not_to_be_kept_goes_and_is_told_of(new_name: Callable[[], str], folder: str) -> None:
    """Without keep= what a start needs is left; an older state is a named error, which says what there is."""
    with Arena.temporary("16 MiB", name=new_name(), journal=folder, compact=False) as arena:
        seen = rounds(arena, folder)
        assert len(Folder(folder).snapshots()) == 2
        with pytest.raises(HistoryError, match="keep=") as caught:
            arena.history.at(seen[0][1])
        assert caught.value.oldest is not None
        assert arena.history.at(caught.value.oldest)["n"] > seen[0][0]
        assert arena.history.at(caught.value.newest or 0)["n"] == seen[-1][0]
        assert min(commit.seq for commit in arena.history.commits()) > 1


def test_a_size_is_kept_to(new_name: Callable[[], str], folder: str) -> None:
    """With a size, as much more history is left as takes no more; the folder says so to whoever compacts."""
    with Arena.temporary("16 MiB", name=new_name(), journal=folder, compact=False, keep="5 MB") as arena:
        rounds(arena, folder)
        kept = Folder(folder).snapshots()
        assert 2 < len(kept) < ROUNDS + 1
        paths = [Path(Folder(folder).snapshot_path(position)) for position in kept[:-2]]  # beyond what a start needs
        assert sum(path.stat().st_blocks * 512 for path in paths) + kept[-2] - kept[0] <= 5_000_000
    with Arena.temporary("16 MiB", name=new_name(), journal=f"{folder}2", compact=False, keep=0) as arena:
        rounds(arena, f"{folder}2")
        assert len(Folder(f"{folder}2").snapshots()) == 2


def test_workers_that_start_together_say_the_same(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each writes a file of its own, and gives it the name: none takes it away from another, or leaves something."""
    Path(folder).mkdir()
    rename = os.rename

    def late(old: str, new: str) -> None:
        monkeypatch.setattr(os, "rename", rename)
        keep.write(Folder(folder), keep.Keep(seconds=60.0))  # the other one
        rename(old, new)

    monkeypatch.setattr(os, "rename", late)
    keep.write(Folder(folder), keep.Keep(seconds=60.0))
    assert keep.read(Folder(folder)).seconds == 60.0
    assert [path.name for path in Path(folder).iterdir()] == ["keep"]


@pytest.mark.parametrize("keep", ["a day", "-3h", "", True, 3.5, datetime.timedelta(0), "9999999999 w", 24, "24"])
def test_bad_input(new_name: Callable[[], str], folder: str, keep: Any) -> None:
    """What is neither a time nor a size is refused, and nothing is made."""
    with pytest.raises(ArenaOptionError, match="Nothing was opened"):
        Arena.open(new_name(), journal=folder, keep=keep)
    assert not Path(folder).exists()


def test_history_without_a_journal(new_name: Callable[[], str], tmp_path: Path) -> None:
    """Is a named error: keep= and arena.history without one, and a folder that has none."""
    with pytest.raises(ArenaOptionError, match="journal="):
        Arena.open(new_name(), keep="24h")
    with Arena.temporary("8 MiB", name=new_name()) as arena, pytest.raises(JournalError, match="no history"):
        arena.history  # noqa: B018
    with pytest.raises(HistoryError, match="no snapshot"):
        History.open(tmp_path)
    with pytest.raises(JournalError):
        History.open(tmp_path / "nothing")


@pytest.mark.crash
@pytest.mark.slow
def test_killed_at_each_step_of_dropping(name: str, folder: str, tmp_path: Path, seed: int) -> None:
    """Killed in front of any call that changes a file: those to be kept are there, and of others it is said that they are gone."""
    with Arena.open(name, "16 MiB", journal=folder, compact=False, keep="24h") as arena:
        seen = [(n, when) for n, when in rounds(arena, folder)]
        work(arena, ROUNDS * 600)
    Arena.unlink(name)
    keep.write(Folder(folder), keep.Keep(bytes=5_000_000))  # which drops some of it
    stride = 1 if KILLS > 8 else 5
    ends = dropped = 0
    for end in itertools.count(1 + seed % stride, stride):
        copy = str(tmp_path / f"copy{end}")
        copy_folder(folder, copy)

        def run(copy: str = copy, end: int = end) -> bool:
            Steps(end).install()
            compact(Folder(copy), verify)
            return True

        ending = in_child(run)
        assert ending.value or ending.signal == signal.SIGKILL, str(ending)
        left = _states(copy, seen)
        assert left[-2:] == [n for n, _ in seen[-2:]]
        dropped += len(left) < len(seen)
        compact(Folder(copy), verify)
        after = _states(copy, seen)
        assert set(after) <= set(left)
        assert len(after) < len(seen)
        shutil.rmtree(copy)
        if not ending.signal:
            break
        ends += 1
    assert ends > 40 // stride
    assert dropped


def _states(folder: str, seen: list[tuple[int, datetime.datetime]]) -> list[int]:
    """Return which of the states are there; what is there is right."""
    found = []
    with History.open(folder) as history:
        for n, when in seen:
            with contextlib.suppress(HistoryError):
                assert history.at(when)["n"] == n
                found.append(n)
    return found


@pytest.fixture
def readable() -> Iterator[str]:
    """Give a folder that other users may search; those of the tests are this user's."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        folder = Path(path, "journal")
        yield str(folder)
        folder.chmod(0o700)


def test_a_folder_that_may_only_be_read(name: str, readable: str) -> None:
    """As a backup that is mounted so: all is there."""
    folder = readable
    with Arena.open(name, "16 MiB", journal=folder, compact=False) as arena:
        last = work(arena, 0) - 1
    Arena.unlink(name)

    def reads() -> list[Any]:
        for path in (folder, *Path(folder).iterdir()):
            Path(path).chmod(0o555 if path == folder else 0o444)
            if os.getuid() == 0:
                os.chown(path, NOBODY, -1)
        if os.getuid() == 0:
            os.setuid(NOBODY)
        with pytest.raises(OSError, match="denied"):
            Path(folder, "new").touch()
        with History.open(folder) as history:
            found = history.bisect(lambda root: root.get("n", 0) < 300)
            writer = history.last_writer("root['n']")
            assert writer is not None
            return [history.at(writer)["n"], str(found.differences[-1]), len(list(history.commits()))]

    ending = in_child(reads)
    assert ending.value == [last, "root['n']: 299 -> 300", 600], str(ending)


def test_killed_while_it_drops(name: str, folder: str) -> None:
    """Killed anywhere in a compaction that keeps some history, all that is to be kept is there, and the next one goes on."""
    with Arena.open(name, "16 MiB", journal=folder, compact=False, keep="24h") as arena:
        seen = rounds(arena, folder)
    for i in range(KILLS):

        def compacts() -> None:
            compact(Folder(folder), verify)

        with Arena.open(name, journal=folder, compact=False) as arena:
            last = work(arena, (i + ROUNDS) * 600) - 1
            seen.append((last, datetime.datetime.now(datetime.UTC)))
        with child(compacts) as pid:
            time.sleep(0.005 * (i + 1))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with History.open(folder) as history:
            for n, when in seen:
                assert history.at(when)["n"] == n
    Arena.unlink(name)
