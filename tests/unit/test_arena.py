"""Opening, sharing and unlinking arenas, and what they report."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from recoverable import (
    Arena,
    ArenaOptionError,
    Array,
    TransactionClosedError,
    TransactionError,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def segment(name: str) -> Path:
    """Return the file behind an arena."""
    return Path(f"/dev/shm/recoverable.{name}")


def test_state_outlives_closing(name: str) -> None:
    """What was committed is there when the arena is opened again."""
    with Arena.open(name, "4 MiB") as arena, arena.transaction():
        arena.root["kept"] = 1
    with Arena.open(name) as arena:
        assert dict(arena.root.items()) == {"kept": 1}
        assert arena.recovered is None


def test_a_segment_is_closed_to_others(name: str) -> None:
    """The shared memory has mode 0600 whatever the umask is."""
    before = os.umask(0)
    try:
        Arena.open(name, "4 MiB").close()
    finally:
        os.umask(before)
    assert segment(name).stat().st_mode & 0o777 == 0o600


def test_memory_is_claimed_as_needed(name: str) -> None:
    """The size is a ceiling: a new arena takes a small part of it."""
    with Arena.open(name, "1 GiB") as arena:
        stats = arena.stats()
        assert arena.size == stats.size == 1024**3
        assert segment(name).stat().st_blocks * 512 < 64 * 1024**2
        assert stats.claimed < stats.size


def test_without_a_size_there_is_a_default(name: str) -> None:
    """`Arena.open(name)` alone makes an arena."""
    with Arena.open(name) as arena:
        assert 0 < arena.size <= 256 * 1024**2


def test_an_existing_arena_keeps_its_size(name: str, log: list[dict[str, Any]]) -> None:
    """Another size is ignored when attaching, and the event says so."""
    Arena.open(name, "4 MiB").close()
    with Arena.open(name, "8 MiB") as arena:
        assert arena.size == 4 * 1024**2
    assert [event.get("asked_size") for event in log if event["event"] == "arena.attached"] == [8 * 1024**2]


def test_opening_twice_shares_one_mapping(name: str) -> None:
    """Two opens in one process see each other's work, join each other's transactions and are closed one by one."""
    first = Arena.open(name, "4 MiB")
    second = Arena.open(name)
    with first.transaction():
        second.root["a"] = 1
        with second.transaction():
            second.root["b"] = 2
    assert first.stats().processes == 1
    first.close()
    with pytest.raises(TransactionClosedError):
        _ = first.root
    with second.transaction():
        second.root["c"] = 3
    assert list(second.root) == ["a", "b", "c"]
    second.close()


def test_unlink_lets_the_name_be_made_anew(name: str) -> None:
    """After `unlink` the name gives a new arena, while the old one lives on for those who have it."""
    old = Arena.open(name, "4 MiB")
    with old.transaction():
        old.root["which"] = "old"
    Arena.unlink(name)
    with Arena.open(name, "4 MiB") as new:
        assert len(new.root) == 0
        assert old.root["which"] == "old"
    old.close()


def test_a_temporary_arena_goes_with_its_block(name: str) -> None:
    """`Arena.temporary` unlinks at the end, after an exception too."""
    with Arena.temporary("4 MiB") as arena:
        made = segment(arena.name)
        assert made.exists()
    assert not made.exists()
    assert arena.closed
    with pytest.raises(ZeroDivisionError), Arena.temporary("4 MiB", name=name) as arena:
        _ = 1 / 0
    assert not segment(name).exists()


def test_a_temporary_arena_does_not_take_an_existing_one(name: str) -> None:
    """A temporary arena never unlinks what was there before."""
    Arena.open(name, "4 MiB").close()
    with pytest.raises(ArenaOptionError, match="exists already"), Arena.temporary(name=name):
        pass
    with Arena.open(name, create=False) as arena, pytest.raises(ArenaOptionError), Arena.temporary(name=name):
        pass
    assert arena.closed
    assert segment(name).exists()


def test_a_temporary_arena_is_unlinked_though_views_live(name: str) -> None:
    """A view that outlives the block is an error, and the segment is gone all the same."""
    numpy = pytest.importorskip("numpy")
    held = []
    with pytest.raises(TransactionError, match="1 raw buffer"), Arena.temporary("4 MiB", name=name) as arena:
        with arena.transaction():
            arena.root["m"] = Array((4,), "f8")
        held.append(arena.root["m"].view)
    assert not segment(name).exists()
    assert numpy.all(held[0] == 0)
    held.clear()
    arena.close()


def test_stats_count_what_happened(arena: Arena) -> None:
    """Commits and rollbacks of this process are counted."""
    before = arena.stats()
    with arena.transaction():
        arena.root["a"] = 1
    with pytest.raises(ZeroDivisionError), arena.transaction():
        arena.root["a"] = 1 / 0
    with pytest.raises(KeyError), arena.transaction():
        arena.root["a"] = 2
        raise KeyError
    after = arena.stats()
    assert after.commits == before.commits + 1
    assert after.rollbacks == before.rollbacks + 1
    assert after.commit_seq == before.commit_seq + 1
    assert after.processes == 1
    assert after.in_flight == 0
    assert arena.processes() == [os.getpid()]


def test_verify_counts_what_is_there(arena: Arena) -> None:
    """A sound arena gives a report without leaks."""
    with arena.transaction():
        arena.root["a"] = {"b": 1, "c": "x" * 10_000}
    report = arena.verify()
    assert report.containers == 2
    assert report.entries == 3
    assert report.leaked_blocks == report.leaked_bytes == 0


def test_a_killed_process_is_reported(name: str) -> None:
    """`arena.recovered` tells what attaching has undone, and the event says it too."""
    program = f"""
import os, signal, recoverable
arena = recoverable.Arena.open({name!r}, "4 MiB")
with arena.transaction():
    arena.root["before"] = 1
with arena.transaction():
    arena.root["before"] = 2
    os.kill(os.getpid(), signal.SIGKILL)
"""
    child = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, env=dict(os.environ))
    assert child.returncode == -9, child.stderr.decode()
    with Arena.open(name) as arena:
        assert arena.root["before"] == 1
        report = arena.recovered
        assert report is not None
        assert report.phase == "step"
        assert report.records > 0
        assert report.pid > 0
        arena.verify()


def test_a_process_killed_while_others_run_is_reported(arena: Arena) -> None:
    """`arena.recovered` tells what was undone of another process's step in an arena that stayed open."""
    with arena.transaction():
        arena.root["n"] = 1
    assert arena.recovered is None
    pid = os.fork()
    if pid == 0:
        with arena.transaction():
            arena.root["n"] = 2
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert arena.root["n"] == 1
    report = arena.recovered
    assert report is not None
    assert (report.phase, report.pid) == ("step", pid)
    arena.verify()


def test_threads_can_open_and_close_at_once(new_name: Callable[[], str]) -> None:
    """Opening and closing the same and different names from many threads leaves nothing open."""
    names = [new_name() for _ in range(2)]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(10):
                with Arena.open(names[(number + turn) % 2], "4 MiB") as arena, arena.transaction():
                    arena.root[number] = turn
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for name in names:
        with Arena.open(name, create=False) as arena:
            assert set(arena.root) == {0, 1, 2, 3}
