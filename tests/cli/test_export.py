"""`recoverable export` and `import`: a file of the committed state, and what is made of it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from recoverable import Arena
from recoverable._native import _peek
from recoverable.cli import _file, _image
from recoverable.errors import ArenaFullError
from support.commands import child, command
from support.segments import path_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STATE = {"ann": 10, "list": list(range(2000)), "text": "x" * 100_000}

BUSY = """
import sys, threading
from recoverable import Arena
arena = Arena.open(sys.argv[1], create=False)
with arena.transaction():
    arena.root.update(left=0, right=0)
stop = threading.Event()
def work():
    n = 0
    while not stop.is_set():
        n += 1
        with arena.transaction():
            arena.root["left"] = n
            arena.root["right"] = n
worker = threading.Thread(target=work)
worker.start()
print("ready", flush=True)
sys.stdin.read()
stop.set()
worker.join()
"""


@pytest.fixture
def filled(name: str) -> str:
    """Give the name of an arena with STATE in it, that nobody has open."""
    with Arena.open(name, "4 MiB") as arena, arena.transaction():
        arena.root.update(STATE)
    return name


@pytest.fixture
def file(filled: str, tmp_path: Path) -> Path:
    """Give a file that it was exported to."""
    path = tmp_path / "state.rcv"
    with _image.capture(filled) as copy:
        _file.write(copy, filled, path)
    return path


@pytest.mark.slow
def test_there_and_back(filled: str, new_name: Callable[[], str], tmp_path: Path) -> None:
    """What was exported and imported under another name is the same, and goes on as an arena of its own."""
    path, other = tmp_path / "state.rcv", new_name()
    before = path_of(filled).read_bytes()
    assert command("export", filled, str(path)).returncode == 0
    assert path_of(filled).read_bytes() == before
    done = command("import", other, str(path))
    assert (done.returncode, done.stdout) == (0, f"imported {other}\n"), done.stderr
    with Arena.open(other, create=False) as arena:
        assert arena.root.to_python() == STATE
        with arena.transaction():
            arena.root["more"] = "y" * 1_000_000
        arena.verify()


@pytest.mark.slow
@pytest.mark.crash
def test_a_running_server_is_exported_at_one_moment(name: str, new_name: Callable[[], str], tmp_path: Path) -> None:
    """Of two values that each request changes together, a file never has one without the other."""
    Arena.open(name, "4 MiB").close()
    process = child(BUSY, name)
    for options in [], ["--portable"], [], ["--portable"], []:
        path, other = tmp_path / "state", new_name()
        assert command("export", name, str(path), "--force", *options).returncode == 0
        assert command("import", other, str(path)).returncode == 0
        with Arena.open(other, create=False) as arena:
            assert arena.root["left"] == arena.root["right"] > 0
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.slow
def test_nothing_is_overwritten(filled: str, file: Path) -> None:
    """An arena of that name stays, and so does a file unless --force is given."""
    before = path_of(filled).read_bytes()
    done = command("import", filled, str(file))
    assert (done.returncode, done.stdout) == (4, "")
    assert path_of(filled).read_bytes() == before
    file.write_text("mine")
    assert command("export", filled, str(file)).returncode == 4
    assert file.read_text() == "mine"
    assert command("export", filled, str(file), "--force").returncode == 0
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_every_damage_of_a_file_is_found(file: Path, seed: int) -> None:
    """A flipped bit anywhere, an end that is missing, or more than there was: nothing is given out."""
    print("seed", seed)
    whole, chosen = file.read_bytes(), random.Random(seed)
    cases = [whole[:length] for length in (0, 4, 8, 10, 12, 60, len(whole) // 2, len(whole) - 1)] + [whole + b"x"]
    for _ in range(40):
        data = bytearray(whole)
        data[chosen.choice([chosen.randrange(200), chosen.randrange(len(data))])] ^= 1 << chosen.randrange(8)
        cases.append(bytes(data))
    for data in cases:
        file.write_bytes(data)
        with pytest.raises(_file.DamagedFileError), _file.read(file):
            pass


@pytest.mark.slow
def test_a_damaged_file_makes_no_arena(file: Path, new_name: Callable[[], str]) -> None:
    """Import ends with 6 and one line; no arena of that name is there."""
    data, other = bytearray(file.read_bytes()), new_name()
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    done = command("import", other, str(file))
    assert (done.returncode, done.stderr.count("\n")) == (6, 1)
    assert "checksum" in done.stderr
    assert not path_of(other).exists()


def test_memory_is_there_before_the_name_is_used(filled: str, new_name: Callable[[], str]) -> None:
    """What an imported arena counts as claimed has memory behind it: a write can't end in SIGBUS."""
    other = new_name()
    with _image.capture(filled) as copy:
        assert _image.publish(copy, other)
    with path_of(other).open("rb") as object_:
        report = _peek.peek(object_.fileno(), other)
    assert path_of(other).stat().st_blocks * 512 >= sum(length for _, length in report["backed"])


def test_a_full_machine_is_an_error_and_leaves_nothing(
    filled: str, new_name: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where /dev/shm has no room, import says so and removes what it had begun."""

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    other = new_name()
    monkeypatch.setattr(_image.os, "posix_fallocate", full)
    with _image.capture(filled) as copy, pytest.raises(ArenaFullError, match="no room"):
        _image.publish(copy, other)
    assert not path_of(other).exists()
