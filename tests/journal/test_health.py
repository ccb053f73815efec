"""A journal that fails is told of also where nobody waits for it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, InDoubtError
from recoverable._native import _switches
from recoverable.journal import keeper
from recoverable.journal.folder import Folder
from support.children import child

in_test_builds = pytest.mark.skipif(not _switches.test_build(), reason="needs -Dcrashpoints=true")


@in_test_builds
@pytest.mark.parametrize(("call", "event"), [("FAIL_SYNC", "journal.stopped"), ("FAIL_WRITE", "journal.delayed")])
@pytest.mark.parametrize("compact", [True, False])
def test_each_failure_is_told_once(
    name: str,
    tmp_path: Path,
    log: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    event: str,
    compact: bool,
) -> None:
    """By the thread that looks after the journal, compacting or not."""
    monkeypatch.setattr(keeper, "_LOOK", 0.01)

    def told() -> list[dict[str, Any]]:
        return [each for each in log if each["event"] == event]

    with Arena.temporary("4 MiB", name=name, journal=tmp_path / "journal", compact=compact) as arena:
        _switches.fail_at(getattr(_switches, call), 1)
        with arena.transaction():
            arena.root["n"] = 1
        until = time.monotonic() + 10
        while not told() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)
        with arena.transaction():
            arena.root["n"] = 2
        time.sleep(0.1)
        assert len(told()) == 1
        assert told()[0]["journal"] == str(tmp_path / "journal")


@pytest.mark.crash
def test_who_takes_over_and_finds_damage_says_so(
    name: str, tmp_path: Path, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that wrote is gone, the file where it stopped is damaged: nothing becomes durable any more."""
    monkeypatch.setattr(keeper, "_LOOK", 0.01)
    folder, reader, writer = tmp_path / "journal", *os.pipe()

    def serves() -> None:
        with Arena.open(name, "4 MiB", journal=folder) as arena:
            for i in range(5):
                with arena.transaction():
                    arena.root[f"k{i}"] = "x" * 1000
                asyncio.run(arena.durable())
            os.write(writer, b".")
            signal.pause()

    with child(serves) as pid:
        os.read(reader, 1)
        with Arena.open(name, journal=folder) as arena:
            with Folder(folder).open_file(1) as file:
                offset = list(iter(file.next, None))[1].offset
            with (folder / f"journal-{1:016x}").open("r+b") as file:
                file.seek(offset + 100)
                file.write(b"?")
            os.kill(pid, signal.SIGKILL)
            with arena.transaction():
                arena.root["n"] = 1
            with pytest.raises(InDoubtError, match="damaged"):
                asyncio.run(arena.durable(timeout=5))
    for fd in reader, writer:
        os.close(fd)
    Arena.unlink(name)
    (told,) = (event for event in log if event["event"] == "journal.stopped")
    assert "damaged" in told["detail"]


@in_test_builds
def test_a_failure_is_told_while_a_compaction_runs(
    name: str, tmp_path: Path, log: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that looks after the journal does not only wait for the process that it has started."""
    script, begun, go_on = tmp_path / "python3", tmp_path / "begun", tmp_path / "go_on"
    script.write_text(
        f'#!/bin/sh\n: > "{begun}"\nfor i in $(seq 600); do [ -e "{go_on}" ] && break; sleep 0.05; done\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(keeper, "_LOOK", 0.01)
    monkeypatch.setattr(keeper, "is_due", lambda _: True)
    monkeypatch.setattr(keeper, "interpreter", lambda: str(script))
    with Arena.temporary("4 MiB", name=name, journal=tmp_path / "journal") as arena:
        until = time.monotonic() + 10
        while not begun.exists() and time.monotonic() < until:
            time.sleep(0.01)
        _switches.fail_at(_switches.FAIL_SYNC, 1)
        with arena.transaction():
            arena.root["n"] = 1
        while not any(each["event"] == "journal.stopped" for each in log) and time.monotonic() < until:
            time.sleep(0.01)
        events = [each["event"] for each in log]
        go_on.touch()
    assert "journal.stopped" in events
    assert "journal.compaction_failed" not in events


async def test_an_answer_is_in_doubt_where_another_thread_closes_the_arena(name: str, tmp_path: Path) -> None:
    """The error says so, also if that ends between two looks at it."""
    arena = Arena.open(name, "4 MiB", journal=tmp_path / "journal")
    gate = arena.native.journal
    real = gate._health.look

    def closes() -> None:
        gate._health.look = real  # closing looks, too
        real()
        arena.close()

    gate._health.look = closes
    assert "the arena was closed first" in str(gate.in_doubt("within 1 s"))
    Arena.unlink(name)


@in_test_builds
async def test_a_failure_that_is_over_is_named_no_more(name: str, tmp_path: Path) -> None:
    """What is in doubt later is so for another reason."""
    with Arena.temporary("4 MiB", name=name, journal=tmp_path / "journal") as arena:
        _switches.fail_at(_switches.FAIL_WRITE, 1)
        with arena.transaction():
            arena.root["n"] = 1
        with pytest.raises(InDoubtError, match="No space left"):
            await arena.durable(timeout=0.05)
        await arena.durable()
        with arena.transaction():
            arena.root["n"] = 2
        with pytest.raises(InDoubtError, match=r"within 0 s\. It is not undone"):
            await arena.durable(timeout=0)
