"""What is told of a feed and a journal: by `arena.stats()`, metrics, `ls`, `top` and `doctor`, also when something is wrong."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from recoverable import Arena, metrics
from recoverable._native import _switches
from recoverable._native import feed as native_feed
from recoverable._native.runtime import meter
from recoverable.cli import _app, _doctor, _doctor_journal, _outside, _top
from recoverable.journal.compact import compact
from recoverable.journal.folder import Folder

SYNC = 7  # enum rcv_fail_kind
MIB = 1024**2


@pytest.fixture
def arena(name: str, folder: str) -> Iterator[Arena]:
    """Give an arena with a journal and some commits, which are durable."""
    with Arena.temporary("16 MiB", name=name, journal=folder, busy_timeout=0.5) as made:
        put(made, 5)
        asyncio.run(made.durable())
        yield made


def put(arena: Arena, number: int) -> None:
    """Commit that many times."""
    for i in range(number):
        with arena.transaction():
            arena.root["n"] = i


def values(arena: Arena) -> dict[tuple[str, ...], float]:
    """Return the metrics of an arena, by their names and labels but for the arena's."""
    registry = CollectorRegistry()
    metrics.register(registry)
    try:
        return {
            (
                sample.name.removeprefix("recoverable_"),
                *[v for k, v in sample.labels.items() if k != "arena"],
            ): sample.value
            for family in registry.collect()
            for sample in family.samples
            if sample.labels.get("arena") == arena.name
        }
    finally:
        meter(False)


def test_an_arena_without_a_feed_has_nothing_to_tell(new_name: Callable[[], str]) -> None:
    """There is no feed in its statistics, no metric of one, and no journal in the list."""
    with Arena.temporary("4 MiB", name=new_name()) as arena:
        assert arena.stats().feed is None
        assert _outside.peek(arena.name).feed is None
        assert _app._journaled(_outside.peek(arena.name)) == ""
        assert not [each for each in values(arena) if each[0].startswith(("feed", "sink", "journal"))]


def test_statistics_tell_what_the_journal_has(arena: Arena) -> None:
    """Inside and outside tell the same: commits that are behind, who serves, what flushes took."""
    feed = arena.stats().feed
    assert feed is not None
    assert feed == _outside.peek(arena.name).feed
    assert feed.size == MIB
    assert feed.journal is not None
    assert (feed.journal.name, feed.journal.process, feed.journal.bytes) == ("journal", os.getpid(), 0)
    assert feed.flushes is not None
    assert feed.flushes.count == sum(feed.flushes.classes) > 0
    assert feed.flushes.commits >= 5
    assert 0 < feed.flushes.mean <= feed.flushes.longest < 1
    assert abs(feed.flushes.at - time.time()) < 60
    seen = values(arena)
    assert seen["journal_commits_total",] == feed.flushes.commits
    assert seen["journal_flush_seconds_count",] == feed.flushes.count
    assert seen["journal_failing", "stopped"] == 0
    assert "up to date, by" in _app._journaled(_outside.peek(arena.name))


def test_the_last_snapshot_and_what_an_answer_means_are_told(arena: Arena, folder: str) -> None:
    """At once, and a while after a compaction has made another one, whoever did that."""
    feed = arena.stats().feed
    assert feed is not None
    last = feed.snapshot
    assert last is not None
    assert last.seq < feed.seq
    assert abs(last.at - time.time()) < 60
    assert last.bytes > 4096
    assert arena.stats().durability == "journal"
    assert values(arena)["journal_snapshot_bytes",] == last.bytes
    assert values(arena)["journal_durability", "disk"] == 0
    arena.durability = "disk"
    assert arena.stats().durability == "disk"
    assert values(arena)["journal_durability", "disk"] == 1
    rows = dict(_top._journal(next(_top.samples(arena.name, 1, 1))))
    assert f"of commit {last.seq}, " in rows["snapshot"]
    for _ in range(30):  # more than a file has room for
        with arena.transaction():
            arena.root["blob"] = os.urandom(20_000)
        asyncio.run(arena.durable())
    made = compact(Folder(folder), lambda _: None).snapshot
    assert made is not None
    health = arena.native.journal._health
    health.note(health.last_snapshot())
    feed = arena.stats().feed
    assert feed is not None
    assert feed.snapshot is not None
    assert feed.snapshot.seq == made.seq > last.seq
    assert feed == _outside.peek(arena.name).feed


def test_a_sink_that_is_behind_is_told(arena: Arena) -> None:
    """One that takes nothing has all commits since it began before it."""
    native_feed.open_sink(arena.native, "slow", True)
    begun = time.time()
    put(arena, 7)
    first = time.time()
    asyncio.run(arena.durable())
    feed = arena.stats().feed
    assert feed is not None
    (slow,) = [sink for sink in feed.sinks if sink.name == "slow"]
    assert (slow.commits, slow.process, slow.required, slow.lost) == (7, 0, True, False)
    assert feed.used == slow.bytes > 7 * 64
    assert 0 < time.time() - first <= slow.seconds + 0.01
    assert slow.seconds <= time.time() - begun + 0.01  # its clock and ours are not read at one moment
    assert feed.journal is not None
    assert feed.journal.seconds == 0.0
    assert values(arena)["sink_lag_commits", "slow"] == 7
    assert values(arena)["feed_used_bytes",] == slow.bytes
    rows = dict(_top._journal(next(_top.samples(arena.name, 1, 1))))
    assert "7 commits" in rows["slow"]
    assert "served by nobody" in rows["slow"]
    assert " in " in rows["flushes"]


@pytest.mark.skipif(not _switches.test_build(), reason="needs a build with -Dcrashpoints=true")
def test_a_journal_that_has_stopped_is_told_with_its_reason(arena: Arena) -> None:
    """A failed flush is in the statistics, the metrics, the list and on the screen."""
    _switches.fail_at(SYNC, 1)
    put(arena, 1)
    end = time.monotonic() + 5
    while (feed := arena.stats().feed) is None or feed.flushes is None or feed.flushes.stopped is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert feed.flushes.stopped == os.strerror(errno.EIO)
    assert feed.journal is not None
    assert feed.journal.lost
    assert values(arena)["journal_failing", "stopped"] == 1
    assert values(arena)["sink_lost", "journal"] == 1
    assert _app._journaled(_outside.peek(arena.name)) == f"stopped: {os.strerror(errno.EIO)}"
    assert "stopped" in dict(_top._journal(next(_top.samples(arena.name, 1, 1))))["flushes"]
    finding = _doctor.journals(_outside.looked_at())
    assert (finding.level, f"{arena.name}: {os.strerror(errno.EIO)}" in finding.found) == ("bad", True)


def test_the_doctor_knows_of_journals(arena: Arena) -> None:
    """One that works is not worth a word."""
    finding = _doctor.journals([_outside.peek(arena.name)])
    assert (finding.level, finding.found) == ("ok", "1 of 1 arenas have one")
    assert _doctor.journals([]).level == "ok"


# -- doctor --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finding", "level", "says"),
    [
        (_doctor_journal.disk("tmpfs"), "note", "volume"),
        (_doctor_journal.disk("nfs4"), "note", "fdatasync"),
        (_doctor_journal.disk("ext4"), "ok", ""),
        (_doctor_journal.flushing(0.001), "ok", ""),
        (_doctor_journal.flushing(0.05), "note", "faster"),
        (_doctor_journal.room(100 * MIB, 10 * MIB, 64 * MIB), "bad", "make room"),
        (_doctor_journal.room(200 * MIB, 100 * MIB, 64 * MIB), "note", "compaction"),
        (_doctor_journal.room(500 * MIB, 100 * MIB, 64 * MIB), "ok", ""),
        (_doctor_journal.writer(True), "ok", ""),
        (_doctor_journal.writer(False), "note", "memory"),
    ],
)
def test_each_finding_has_its_remedy(finding: Any, level: str, says: str) -> None:
    """What is not right has a level and a remedy; what is right has none."""
    assert finding.level == level
    assert says in finding.remedy
    assert bool(finding.remedy) == (level != "ok")


def test_a_file_system_is_found_by_its_device() -> None:
    """The type is the one of the mount with the folder's device."""
    mounts = "25 1 0:23 / /dev/shm rw shared:4 - tmpfs tmpfs rw\n28 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
    assert _doctor_journal.file_system(os.makedev(8, 1), mounts) == "ext4"
    assert _doctor_journal.file_system(os.makedev(0, 23), mounts) == "tmpfs"
    assert _doctor_journal.file_system(os.makedev(9, 9), mounts) == ""


def test_the_doctor_looks_at_a_folder(arena: Arena, folder: str, tmp_path: Path) -> None:
    """A sound one that is written has nothing bad; a folder that is not there, or is damaged, has."""
    found = _doctor_journal.examine(folder)
    assert {each.what for each in found} >= {"journal's writer", "journal's files", "last snapshot", "journal's room"}
    assert not [each for each in found if each.level == "bad" and each.what != "journal's room"]
    assert [each.level for each in _doctor_journal.examine(str(tmp_path / "none"))] == ["bad"]
    journal = Folder(folder)
    with Path(journal.snapshot_path(journal.snapshots()[-1])).open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"?" * 10)
    (bad,) = [each for each in _doctor_journal.examine(folder) if each.what == "journal's files"]
    assert bad.level == "bad"
    assert "recoverable journal verify" in bad.remedy


def test_the_doctor_reads_the_last_file(arena: Arena, folder: str) -> None:
    """A batch that is damaged, with sound ones behind it, is found at once."""
    put(arena, 5)
    asyncio.run(arena.durable())
    journal = Folder(folder)
    with journal.open_file(journal.files()[-1]) as file:
        first = file.next()
    assert first is not None
    with Path(folder, f"journal-{journal.files()[-1]:016x}").open("r+b") as raw:
        raw.seek(first.offset + 80)
        raw.write(b"?" * 8)
    (bad,) = [each for each in _doctor_journal.examine(folder) if each.what == "journal's files"]
    assert bad.level == "bad"
    assert "damaged" in bad.found
