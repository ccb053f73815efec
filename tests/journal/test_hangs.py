"""A disk that hangs: closing an arena does not wait for it for ever, and nobody else waits for who closes or opens one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, InDoubtError, _registry, events
from recoverable._native import _switches
from recoverable.journal import attach, keeper
from recoverable.journal import gate as gate_of
from recoverable.journal.health import Health

pytestmark = pytest.mark.skipif(not _switches.test_build(), reason="needs -Dcrashpoints=true")
_WRITTEN = "journal.written"  # before the flush


@pytest.fixture
def hangs() -> Iterator[Callable[[bool], None]]:
    """Have all flushes of this process hang from now on, or go on."""

    def hang(on: bool = True) -> None:
        _switches.crash_hold(_WRITTEN if on else None)

    yield hang
    hang(False)


def commit(arena: Arena, n: int) -> None:
    with arena.transaction():
        arena.root["n"] = n


def hanging(arena: Arena) -> None:
    """Wait until the thread that writes hangs."""
    until = time.monotonic() + 20
    while _switches.crash_last() != _WRITTEN and time.monotonic() < until:
        time.sleep(0.005)
    assert _switches.crash_last() == _WRITTEN


def test_closing_gives_up_when_nothing_moves(
    name: str, tmp_path: Path, log: list[dict[str, Any]], hangs: Callable[..., None]
) -> None:
    """It returns after busy_timeout and says so; the thread goes on with the disk, and a later start has everything."""
    arena = Arena.open(name, "4 MiB", journal=tmp_path / "journal", busy_timeout=0.2)
    commit(arena, 1)
    asyncio.run(arena.durable())
    hangs()
    commit(arena, 2)
    hanging(arena)
    arena.close()
    assert arena.closed
    assert [each["arena"] for each in log if each["event"] == "journal.abandoned"] == [name]
    hangs(False)
    with Arena.open(name, journal=tmp_path / "journal", busy_timeout=20) as again:
        assert again.root["n"] == 2
        commit(again, 3)
        asyncio.run(again.durable())
    Arena.unlink(name)
    with Arena.open(name, journal=tmp_path / "journal") as again:
        assert again.root["n"] == 3
    Arena.unlink(name)


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_waits_in_another_loop_when_it_gives_up_is_told(name: str, tmp_path: Path, when: str) -> None:
    """Or who begins to wait then: nothing of the arena is looked at any more, and the request is in doubt."""
    code = f"""
    import asyncio, threading, time
    from recoverable import Arena, InDoubtError
    from recoverable._native import _switches

    arena = Arena.open({name!r}, "4 MiB", journal={str(tmp_path / "journal")!r}, busy_timeout=0.2)
    gate, flusher = arena.native.journal, arena.native.journal._flusher
    _switches.crash_hold({_WRITTEN!r})
    with arena.transaction():
        arena.root["n"] = 1
    position = gate.position(arena.native, None)
    waits, closed = threading.Event(), threading.Event()

    async def main():
        if {when!r} == "before":
            waiting = asyncio.ensure_future(gate.wait(position, 60))
            while not gate._loops:
                await asyncio.sleep(0)
            waits.set()
        else:
            waits.set()
            while not closed.is_set():
                await asyncio.sleep(0.001)
            waiting = asyncio.ensure_future(gate.wait(position, 60))
        try:
            await waiting
        except InDoubtError as error:
            print("in doubt:", "closed first" in str(error))
        await asyncio.sleep(0.2)  # the next looks
        print(gate._loops, flusher.end(0), flusher.serves())

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    waits.wait()
    arena.close()
    closed.set()
    thread.join()
    print("closed:", arena.closed)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], timeout=120, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "event" not in line and "journal" not in line] == [
        "in doubt: True",
        "{} False False",
        "closed: True",
    ]
    assert "Traceback" not in done.stderr
    with Arena.open(name, journal=tmp_path / "journal") as arena:
        assert arena.root["n"] == 1
    Arena.unlink(name)


def test_a_log_pipeline_that_raises_leaves_it_closed(
    name: str, tmp_path: Path, hangs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That its disk hangs is told to nobody then, and printed."""

    def fail(*_: Any) -> None:
        raise RuntimeError("no room for the log")

    arena = Arena.open(name, "4 MiB", journal=tmp_path / "journal", busy_timeout=0.2)
    hangs()
    commit(arena, 1)
    hanging(arena)
    monkeypatch.setattr(events, "journal_abandoned", fail)
    arena.close()
    assert arena.closed
    hangs(False)
    with Arena.open(name, journal=tmp_path / "journal", busy_timeout=20) as again:
        assert again.root["n"] == 1
    Arena.unlink(name)


def test_a_slow_disk_is_waited_for(name: str, tmp_path: Path, log: list[dict[str, Any]]) -> None:
    """What is waited for is that something becomes durable, not that all does."""
    arena = Arena.open(name, "4 MiB", journal=tmp_path / "journal", busy_timeout=20)
    for n in range(50):
        commit(arena, n)
    arena.close()
    assert not [each for each in log if each["event"] == "journal.abandoned"]
    Arena.unlink(name)


def test_others_do_not_wait_for_who_closes(
    name: str, new_name: Any, tmp_path: Path, hangs: Callable[..., None]
) -> None:
    """While one arena is being closed, another is opened and closed, and what is open can be looked at."""
    arena = Arena.open(name, "4 MiB", journal=tmp_path / "journal", busy_timeout=60)
    hangs()
    commit(arena, 1)
    hanging(arena)
    closing = threading.Thread(target=arena.close)
    closing.start()
    try:
        while not arena.native.journal._flusher.ended:
            time.sleep(0.001)
        with Arena.temporary("4 MiB", name=new_name()) as other:
            commit(other, 1)
            with _registry.lock:
                assert len(_registry.all_open()) == 2
        assert closing.is_alive()
    finally:
        hangs(False)
        closing.join()
    assert arena.closed
    Arena.unlink(name)


def test_others_do_not_wait_for_who_restores(
    name: str, new_name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore may take minutes."""
    with Arena.open(name, "4 MiB", journal=tmp_path / "journal") as arena:
        commit(arena, 1)
    Arena.unlink(name)
    entered, go_on, real = threading.Event(), threading.Event(), attach.restore

    def slow(*arguments: Any, **options: Any) -> Any:
        entered.set()
        assert go_on.wait(60)
        return real(*arguments, **options)

    monkeypatch.setattr(attach, "restore", slow)

    def opens() -> None:
        with Arena.open(name, journal=tmp_path / "journal") as arena:
            assert arena.root["n"] == 1

    opening = threading.Thread(target=opens)
    opening.start()
    try:
        assert entered.wait(60)
        with Arena.temporary("4 MiB", name=new_name()) as other:
            commit(other, 1)
        assert opening.is_alive()
    finally:
        go_on.set()
        opening.join()
    Arena.unlink(name)


def interrupted(arena: Arena) -> None:
    """Close an arena whose disk hangs, and have Ctrl-C end that."""

    def interrupt() -> None:
        while not arena.native.journal._flusher.ended:
            time.sleep(0.001)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            arena.close()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not arena.closed


def test_a_signal_ends_the_waiting(name: str, tmp_path: Path, hangs: Callable[..., None]) -> None:
    """Ctrl-C while an arena is being closed: it stays open, and can be closed when the disk answers."""
    arena = Arena.open(name, "4 MiB", journal=tmp_path / "journal", busy_timeout=60)
    hangs()
    commit(arena, 1)
    hanging(arena)
    interrupted(arena)
    hangs(False)
    arena.close()
    assert arena.closed
    Arena.unlink(name)


@pytest.mark.parametrize("how", ["waits", "stands", "closes"])
def test_what_is_committed_after_that_is_written(
    name: str, tmp_path: Path, hangs: Callable[..., None], how: str
) -> None:
    """As before, when the disk answers, and nobody is told meanwhile that the arena was closed."""
    arena = Arena.open(name, "4 MiB", journal=tmp_path / "journal", busy_timeout=60)
    gate = arena.native.journal
    hangs()
    commit(arena, 1)
    hanging(arena)
    interrupted(arena)
    commit(arena, 2)
    with pytest.raises(InDoubtError, match=r"its disk does not answer.*was interrupted"):
        asyncio.run(arena.durable(timeout=0.01))
    hangs(False)
    if how != "closes":
        until = time.monotonic() + 20
        for n in (3, 4):
            commit(arena, n)
            position = gate.position(arena.native, None)
            if how == "waits":
                asyncio.run(gate.wait(position, 20))
            else:  # what nobody waits for
                while not gate.is_durable(position) and time.monotonic() < until:
                    time.sleep(0.001)
                assert gate.is_durable(position)
        assert not gate.stopped
    commit(arena, 5)
    arena.close()
    Arena.unlink(name)
    with Arena.open(name, journal=tmp_path / "journal") as arena:
        assert arena.root["n"] == 5
    Arena.unlink(name)


def test_an_interrupted_close_of_what_has_ended_meanwhile_writes_the_rest(
    name: str, tmp_path: Path, hangs: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no thread has looked whether the one that was to end has."""
    monkeypatch.setattr(gate_of, "_TURN", 0)
    arena = Arena.open(name, "4 MiB", journal=tmp_path / "journal", busy_timeout=60)
    gate = arena.native.journal
    hangs()
    commit(arena, 1)
    hanging(arena)
    with gate._turn:  # whoever would look waits for his turn
        interrupted(arena)
        hangs(False)
        while gate._flusher.serves():
            time.sleep(0.001)
        commit(arena, 2)
    arena.close()
    Arena.unlink(name)
    with Arena.open(name, journal=tmp_path / "journal") as arena:
        assert arena.root["n"] == 2
    Arena.unlink(name)


def test_a_program_ends_although_its_disk_hangs(name: str, tmp_path: Path) -> None:
    """Also where nothing was closed: what is open when the interpreter ends is closed, and not waited for for ever."""
    code = f"""
    from recoverable import Arena
    from recoverable._native import _switches

    arena = Arena.open({name!r}, "4 MiB", journal={str(tmp_path / "journal")!r}, busy_timeout=0.2)
    _switches.crash_hold({_WRITTEN!r})
    with arena.transaction():
        arena.root["n"] = 1
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], timeout=120, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "journal.abandoned" in done.stderr + done.stdout) == (0, True), done.stderr
    with Arena.open(name, journal=tmp_path / "journal") as arena:
        assert arena.root["n"] == 1
    Arena.unlink(name)


def test_a_folder_that_hangs_does_not_hold_up_closing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that looks after the journal asks the disk without the lock that closing takes."""
    monkeypatch.setattr(keeper, "_LOOK", 0.01)
    monkeypatch.setattr(keeper, "_ENDING", 0.05)
    asked, go_on = threading.Event(), threading.Event()
    arena = Arena.open(name, "4 MiB", journal=tmp_path / "journal")

    def hang(self: Health) -> None:
        asked.set()
        go_on.wait(60)

    monkeypatch.setattr(Health, "last_snapshot", hang)
    commit(arena, 1)
    asyncio.run(arena.durable())
    try:
        assert asked.wait(60)
        closing = threading.Thread(target=arena.close)
        closing.start()
        closing.join(30)
        assert arena.closed
    finally:
        go_on.set()
    Arena.unlink(name)


def test_what_is_closed_does_not_begin_again(name: str, folder: str) -> None:
    """A signal came behind the end of closing: whoever waits learns what was durable then, and nothing is watched any more."""
    arena = Arena.open(name, "4 MiB", journal=folder)
    with arena.transaction():
        arena.root["n"] = 1
    asyncio.run(arena.durable())
    gate, at = arena.native.journal, gate_of.Gate.position(arena.native, None)
    arena.close()
    gate.begin_again()
    assert gate.is_durable(at)
    assert gate.stopped
    Arena.unlink(name)
