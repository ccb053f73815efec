"""The arena's file is removed or replaced under a running process: the process goes on, and says so within a second."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from recoverable import Arena, metrics
from support.commands import child, command
from support.forks import in_child
from support.segments import path_of

if TYPE_CHECKING:
    from collections.abc import Callable

Log = list[dict[str, Any]]

HOLDS = """
import sys
from recoverable import Arena
arena = Arena.open(sys.argv[1], "4 MiB")
with arena.transaction():
    arena.root["n"] = 41
print("ready", flush=True)
sys.stdin.read()
"""


def told(log: Log) -> list[str]:
    """Return the arenas that an event at error level has called orphaned."""
    return [event["arena"] for event in log if event["event"] == "arena.orphaned" and event["log_level"] == "error"]


def remove(name: str) -> None:
    """Remove the arena's file."""
    path_of(name).unlink()


def move(name: str) -> None:
    """Give the arena's file another name."""
    path_of(name).rename(path_of(name + "-moved"))


def replace(name: str) -> None:
    """Put another file in its place, in one step."""
    other = path_of(name + "-new")
    other.write_bytes(b"")
    other.rename(path_of(name))


def link(name: str) -> None:
    """Put a link in its place."""
    remove(name)
    path_of(name).symlink_to("/dev/null")


@pytest.fixture(params=[remove, move, replace, link])
def lose(request: pytest.FixtureRequest, new_name: Callable[[], str]) -> Callable[[str], None]:
    """Give a way to lose the name."""
    return request.param


@pytest.fixture
def opened(new_name: Callable[[], str]) -> Any:
    """Give an arena with a committed number."""
    name = new_name()
    with Arena.open(name, "4 MiB") as arena:
        with arena.transaction():
            arena.root["n"] = 1
        yield arena
    path_of(name + "-moved").unlink(missing_ok=True)


def test_asking_tells_at_once(opened: Arena, log: Log, lose: Callable[[str], None]) -> None:
    """`arena.orphaned` and `stats()` look when they are asked; the event comes once, however often that is."""
    assert not opened.orphaned
    assert not opened.stats().orphaned
    lose(opened.name)
    assert opened.orphaned
    assert opened.stats().orphaned
    assert opened.stats().orphaned
    with opened.transaction():
        opened.root["n"] += 1
    assert opened.root["n"] == 2
    assert told(log) == [opened.name]


@pytest.mark.slow
def test_a_running_worker_notices_within_a_second(opened: Arena, log: Log) -> None:
    """Transactions alone notice: nobody asks, and what they commit stays readable to the process."""
    remove(opened.name)
    end = time.monotonic() + 5
    while not told(log) and time.monotonic() < end:
        with opened.transaction():
            opened.root["n"] += 1
        time.sleep(0.02)
    assert end - time.monotonic() > 4
    count = opened.root["n"]
    for _ in range(50):
        with opened.transaction():
            opened.root["n"] += 1
        time.sleep(0.02)
    assert opened.root["n"] == count + 50
    assert told(log) == [opened.name]


@pytest.mark.slow
def test_an_idle_worker_notices_with_its_next_run(opened: Arena, log: Log) -> None:
    """However long it was idle, a burst before that included: the first transaction afterwards says so, a read-only one too."""
    for _ in range(200):
        with opened.transaction():
            opened.root["n"] += 1
    remove(opened.name)
    time.sleep(0.6)
    assert told(log) == []
    with opened.transaction():
        assert opened.root["n"] == 201
    assert told(log) == [opened.name]


def test_two_arenas_of_one_name_in_one_process(opened: Arena, log: Log) -> None:
    """Opening the name again gives the new arena, which is not orphaned; the old one stays what it was."""
    remove(opened.name)
    with Arena.open(opened.name, "4 MiB") as new:
        assert dict(new.root) == {}
        assert (new.orphaned, opened.orphaned) == (False, True)
        with new.transaction():
            new.root["n"] = 100
        with opened.transaction():
            opened.root["n"] += 1
        assert (new.root["n"], opened.root["n"]) == (100, 2)
        opened.stats()
        assert not new.stats().orphaned
        assert told(log) == [opened.name]
    Arena.unlink(opened.name)


def test_a_name_that_comes_back(opened: Arena) -> None:
    """Moved away and back, the arena is no orphan any more."""
    move(opened.name)
    assert opened.orphaned
    path_of(opened.name + "-moved").rename(path_of(opened.name))
    assert not opened.orphaned


@pytest.mark.crash
def test_each_forked_worker_tells(opened: Arena) -> None:
    """A child of a process that has told it tells it as well, of its own use."""
    remove(opened.name)
    assert opened.stats().orphaned

    def worker() -> list[str]:
        from structlog.testing import capture_logs

        with capture_logs() as events:
            opened.stats()
        return told([dict(event) for event in events])

    ending = in_child(worker)
    assert ending.value == [opened.name], str(ending)


@pytest.mark.crash
@pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")
def test_who_sees_no_shared_memory_raises_no_alarm(opened: Arena, tmp_path: Path) -> None:
    """A process that has changed its root directory, where there is no /dev/shm, can't tell and says nothing."""

    def worker() -> bool:
        os.chroot(tmp_path)
        return opened.orphaned

    assert in_child(worker).value is False


def test_a_scrape_tells(opened: Arena, log: Log) -> None:
    """The gauge is 1 for the orphan, and an idle worker that is only scraped has the event."""
    registry = CollectorRegistry()
    metrics.register(registry)
    gauge = f'recoverable_arena_orphaned{{arena="{opened.name}"}}'
    assert f"{gauge} 0.0" in generate_latest(registry).decode()
    remove(opened.name)
    assert f"{gauge} 1.0" in generate_latest(registry).decode()
    assert told(log) == [opened.name]


# -- from outside, and the way back -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.crash
def test_doctor_tells_who_works_in_a_removed_arena(name: str) -> None:
    """`doctor` names arena and process, says whether a new one has the name, and ends with 1."""
    process = child(HOLDS, name)
    try:
        remove(name)
        Arena.open(name, "1 MiB").close()
        done = command("doctor", "--json")
        (finding,) = [each for each in json.loads(done.stdout) if each["what"] == "orphaned arenas"]
        assert done.returncode == 1
        assert finding["level"] == "bad"
        assert f"{name} in {process.pid} beside a new arena of that name" in finding["found"]
        assert "restart" in finding["remedy"] or "start them again" in finding["remedy"]
    finally:
        process.communicate(timeout=30)


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.skipif(shutil.which("cp") is None, reason="needs cp")
def test_the_remedy_of_the_deployment_page(name: str) -> None:
    """An old worker's state, copied through its descriptor while it is stopped, becomes the arena again."""
    process = child(HOLDS, name)
    try:
        remove(name)
        Arena.open(name, "1 MiB").close()
        process.send_signal(signal.SIGSTOP)
        (source,) = [
            path
            for path in Path(f"/proc/{process.pid}/fd").iterdir()
            if f"recoverable.{name} (deleted)" in os.readlink(path)  # noqa: PTH115 -- it is not there
        ]
        saved = path_of(name + ".saved")
        subprocess.run(["cp", "--sparse=always", source, saved], check=True, timeout=60)
        saved.chmod(0o600)
        saved.rename(path_of(name))
    finally:
        process.kill()
        process.communicate(timeout=30)
    done = command("verify", name)
    assert done.returncode == 0, done.stderr
    with Arena.open(name, create=False) as arena:
        assert arena.root["n"] == 41
        assert not arena.orphaned


# -- what lies there already ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o666, 0o644, 0o660, 0o400, 0o777])
def test_an_adopted_file_gets_our_mode(name: str, mode: int) -> None:
    """An empty file of ours becomes an arena with mode 0600; one that others could open is made anew."""
    path_of(name).touch()
    path_of(name).chmod(mode)
    with path_of(name).open("rb") as stranger:
        with Arena.open(name, "1 MiB") as arena:
            with arena.transaction():
                arena.root["n"] = 1
            assert path_of(name).stat().st_mode & 0o7777 == 0o600
        assert (os.fstat(stranger.fileno()).st_size == 0) == bool(mode & 0o077)


def test_a_mode_that_was_changed_is_set_back(name: str) -> None:
    """Opening an arena that somebody has opened to all closes it again, and keeps its content."""
    with Arena.open(name, "1 MiB") as arena, arena.transaction():
        arena.root["n"] = 1
    path_of(name).chmod(0o666)
    with Arena.open(name) as arena:
        assert arena.root["n"] == 1
        assert path_of(name).stat().st_mode & 0o7777 == 0o600


def test_a_file_is_made_with_our_mode_whatever_the_umask(name: str) -> None:
    """A umask that takes rights from the owner does not end in an arena that nobody can open again."""
    old = os.umask(0o277)
    try:
        Arena.open(name, "1 MiB").close()
    finally:
        os.umask(old)
    assert path_of(name).stat().st_mode & 0o7777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's file")
@pytest.mark.parametrize("size", [0, 65536])
def test_another_users_file_is_refused_and_left(name: str, size: int) -> None:
    """Even for root, and even if it is empty and open to all: it is named, and stays what it was."""
    path_of(name).write_bytes(b"x" * size)
    path_of(name).chmod(0o666)
    os.chown(path_of(name), 12345, 12345)
    before = path_of(name).stat()
    with pytest.raises(PermissionError, match=r"belongs to user 12345.*Nothing was opened or changed"):
        Arena.open(name, "1 MiB")
    after = path_of(name).stat()
    assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)
