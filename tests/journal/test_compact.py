"""Compaction: what it makes is the state, what it drops is not needed, and nothing that happens meanwhile changes that."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena
from recoverable._compaction import verify
from recoverable.errors import ArenaBusyError, ArenaCorruptError, JournalError
from recoverable.journal import snapshots, start
from recoverable.journal.compact import Compacted, compact
from recoverable.journal.folder import Folder
from recoverable.journal.replay import replay
from support.children import child
from support.compactions import Steps, copy_folder
from support.forks import in_child

KILLS = int(os.environ.get("RECOVERABLE_KILLS", "8"))


def fill(arena: Arena, begin: int, number: int) -> None:
    """Commit that many times, durably; 200 commits are some 120 KiB."""
    for i in range(begin, begin + number):
        with arena.transaction():
            arena.root[f"k{i % 90}"] = {"n": i, "text": str(i) * 20, "list": [i] * (i % 30)}
            arena.root["n"] = i
    asyncio.run(arena.durable())


def plain(arena: Arena) -> Any:
    """Return all of its state."""
    return arena.root.to_python()


def compacted(folder: str, **options: Any) -> Compacted:
    """Compact a folder."""
    return compact(Folder(folder), verify, **options)


def restored(name: str, folder: str) -> Any:
    """Return the state that a journal alone has; the arena of that name goes."""
    with Arena.open(name, journal=folder, create=False) as arena:
        assert arena.verify().leaked_blocks == 0
        state = plain(arena)
    Arena.unlink(name)
    return state


def names(folder: str) -> list[str]:
    """Return what lies in a folder."""
    return sorted(os.listdir(folder))  # noqa: PTH208


def full(name: str, folder: str, number: int = 2000) -> Any:
    """Make a journal of several files, and return its state; nothing else is left of the arena."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        for at in range(0, number, 250):
            fill(arena, at, 250)
        state = plain(arena)
    Arena.unlink(name)
    assert len(Folder(folder).files()) > 3
    return state


def test_a_new_snapshot_is_the_state_and_what_is_before_two_goes(name: str, folder: str) -> None:
    """A state is restored from what a compaction leaves, and the journal keeps to what the last two snapshots need."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        at = 0
        for round_ in range(5):
            for _ in range(4):
                fill(arena, at, 250)
                at += 250
            done = compacted(folder)
            assert done.snapshot is not None
            assert done.records > 500
            assert len(Folder(folder).snapshots()) == 2
            assert (done.files > 1) == (round_ > 0)
            again = compacted(folder)
            assert (again.snapshot, again.files, again.snapshots) == (None, 0, 0)
        assert len(Folder(folder).files()) < 16  # of some 35; how many depends on how large batches were
        state = plain(arena)
    Arena.unlink(name)
    assert restored(name, folder) == state
    for position in Folder(folder).snapshots()[1:]:  # the older one and the journal say the same
        Path(Folder(folder).snapshot_path(position)).unlink()
    assert restored(name, folder) == state


def test_a_snapshot_stays_sparse(name: str, folder: str) -> None:
    """A snapshot of a large arena with little in it takes little."""
    with Arena.open(name, "1 GiB", journal=folder) as arena:
        for at in range(0, 1000, 250):
            fill(arena, at, 250)
        done = compacted(folder)
    Arena.unlink(name)
    assert done.snapshot is not None
    status = os.stat(Folder(folder).snapshot_path(done.snapshot.position))  # noqa: PTH116
    assert status.st_size > 1024**3
    assert status.st_blocks * 512 < 8 * 1024**2


def test_a_server_commits_meanwhile(name: str, folder: str) -> None:
    """Beside a server that commits without a pause, compactions work, and what comes back is what it had."""
    ended = threading.Event()
    with Arena.open(name, "16 MiB", journal=folder) as arena:

        def serve() -> None:
            for at in itertools.count(0, 50):
                if ended.is_set():
                    return
                fill(arena, at, 50)

        thread = threading.Thread(target=serve)
        thread.start()
        made = 0
        try:
            while made < 4:
                done = in_child(lambda: compacted(folder).snapshot is not None)
                assert done.returned, str(done)
                made += done.value
        finally:
            ended.set()
            thread.join()
        state = plain(arena)
    Arena.unlink(name)
    assert restored(name, folder) == state


# -- killed ------------------------------------------------------------------------------------------------------------------


@pytest.mark.crash
@pytest.mark.slow
def test_killed_at_each_step_it_leaves_all_that_is_needed(name: str, folder: str, tmp_path: Path, seed: int) -> None:
    """Killed in front of any call that changes a file, it leaves the state. Each fourth one, unless RECOVERABLE_KILLS says more."""
    full(name, folder, 1250)
    compacted(folder)
    with Arena.open(name, journal=folder) as arena:
        for at in range(1250, 2500, 250):
            fill(arena, at, 250)
        state = plain(arena)
    Arena.unlink(name)
    rng = random.Random(seed)
    stride = 1 if KILLS > 8 else 4
    for end in itertools.count(1 + seed % stride, stride):
        copy = str(tmp_path / f"copy{end}")
        copy_folder(folder, copy)

        def run(copy: str = copy, end: int = end) -> bool:
            steps = Steps(end)
            steps.install()
            compacted(copy)
            return True

        ending = in_child(run)
        assert ending.value or ending.signal == signal.SIGKILL, str(ending)
        journal = Folder(copy)
        found = list(snapshots.latest(journal, []))
        assert len(found) >= 2
        ends = set()
        for snapshot, _ in found[:2]:  # both, and what is behind them
            ends.add(replay(journal, None, snapshot)[0].position)
        assert len(ends) == 1
        if not ending.signal or rng.random() < 0.2:
            assert restored(name, copy) == state
        else:
            assert compacted(copy).seconds
            assert "snapshot.next" not in names(copy)
            assert replay(journal, None, next(iter(snapshots.latest(journal, [])))[0])[0].position in ends
        if not ending.signal:
            break
    assert end > 40


@pytest.mark.crash
def test_killed_at_random_beside_a_server(name: str, folder: str, seed: int) -> None:
    """Killed at any moment beside a server that commits, nothing is missing when the server's memory is gone."""
    rng = random.Random(seed)
    ended = threading.Event()
    with Arena.open(name, "16 MiB", journal=folder) as arena:

        def serve() -> None:
            for at in itertools.count(0, 50):
                if ended.is_set():
                    return
                fill(arena, at, 50)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            for _ in range(KILLS):
                with child(lambda: compacted(folder)) as pid:
                    ended.wait(rng.uniform(0.01, 0.3))
                    os.kill(pid, signal.SIGKILL)
        finally:
            ended.set()
            thread.join()
        state = plain(arena)
    Arena.unlink(name)
    compacted(folder)
    assert restored(name, folder) == state


# -- damage, and others --------------------------------------------------------------------------------------------------------


def damage(path: str, offset: int) -> None:
    """Change a byte of a file."""
    with Path(path).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def first_data(path: str) -> int:
    """Return an offset that a checksum is over."""
    return 8192 if Path(path).name.startswith("journal") else 100


@pytest.mark.parametrize("which", ["snapshot-0", "snapshot-1", "page", "journal", "end"])
def test_where_something_is_damaged_nothing_is_dropped(name: str, folder: str, which: str) -> None:
    """A damaged snapshot, or a damaged file that is read, is named, and all that there was is still there."""
    full(name, folder, 1250)
    compacted(folder)
    with Arena.open(name, journal=folder) as arena:
        for at in range(1250, 2500, 250):
            fill(arena, at, 250)
        state = plain(arena)
    Arena.unlink(name)
    journal = Folder(folder)
    old, new = map(journal.snapshot_path, journal.snapshots())
    last = journal.files()[-1]
    if which == "journal":
        damage(f"{folder}/journal-{last - 1:016x}", 8192)
    elif which == "end":  # looks like a torn one, but another file goes on behind it
        with journal.open_file(last - 1) as file:
            found = list(iter(file.next, None))
        damage(f"{folder}/journal-{last - 1:016x}", found[-1].offset + 80)
    else:
        path = old if which == "snapshot-0" else new
        damage(path, os.stat(path).st_size - 10 if which == "page" else 100)  # noqa: PTH116
    before = names(folder)
    if which == "snapshot-0":
        compacted(folder)  # it is read by nobody, and is dropped
        before = []
    else:
        with pytest.raises(ArenaCorruptError, match=r"damaged|in front of file"):
            compacted(folder)
    assert set(names(folder)) >= set(before)
    if which in ("snapshot-1", "page"):  # a new one was made from the older one, and is sound
        assert len(journal.snapshots()) == 3
    if which not in ("journal", "end"):
        assert restored(name, folder) == state


def test_what_does_not_stand_a_walk_gets_no_name(name: str, folder: str) -> None:
    """A new snapshot in which something is found to be wrong is not kept, and nothing is dropped for it."""
    state = full(name, folder)
    before = names(folder)

    def refuse(fd: int) -> None:
        raise ArenaCorruptError("a list that ends in nothing.")

    with pytest.raises(ArenaCorruptError, match="ends in nothing"):
        compact(Folder(folder), refuse)
    assert names(folder) == sorted([*before, "compacting"])
    assert restored(name, folder) == state


def test_two_at_once_exclude_each_other(name: str, folder: str) -> None:
    """Who compacts keeps others from it, also within one process."""
    state = full(name, folder)
    refused = []

    def progress(done: int, total: int, doing: str) -> None:
        if not refused:
            with pytest.raises(ArenaBusyError, match="another process"):
                compacted(folder)
            refused.append(doing)

    compacted(folder, progress=progress)
    assert refused
    assert restored(name, folder) == state


def test_a_folder_without_a_journal_is_refused(tmp_path: Path) -> None:
    """There is nothing to compact in a folder that has no journal."""
    with pytest.raises(JournalError, match="no journal"):
        compact(Folder(tmp_path), verify)


def test_the_rate_is_bounded(name: str, folder: str) -> None:
    """So many bytes a second are read and replayed, and no more."""
    full(name, folder, 1250)
    doing = set()
    done = compacted(folder, rate=4e6, progress=lambda done, total, what: doing.add(what))
    assert done.snapshot is not None
    assert done.seconds > done.bytes / 4e6
    assert doing == {"copied", "replayed", "verified"}


# -- epochs --------------------------------------------------------------------------------------------------------------------


def test_a_snapshot_of_what_was_cut_off_is_not_used(name: str, folder: str, tmp_path: Path) -> None:
    """After an earlier moment was restored, snapshots and files beyond it are of another line, and are not used."""
    full(name, folder)
    compacted(folder)
    journal = Folder(folder)
    first = journal.starts()[1]
    target = os.memfd_create("restored")
    try:
        lock = journal.take()
        found = start.restore(journal, target, "test", seq=first.seq + 5)
        lock.release()
    finally:
        os.close(target)
    assert found.seq == first.seq + 5
    with Arena.open(name, journal=folder, create=False) as arena:
        n = arena.root["n"]
        assert n < 1000
        for at in range(5000, 6000, 250):
            fill(arena, at, 250)
        state = plain(arena)
        assert compacted(folder).snapshot is not None
        for at in range(6000, 7000, 250):
            fill(arena, at, 250)
        state = plain(arena)
        done = compacted(folder)
        assert done.files > 1  # also what was cut off
    Arena.unlink(name)
    assert len(journal.snapshots()) == 2
    assert restored(name, folder) == state
