"""`recoverable ls`, `rm` and `verify`, and what all commands share: streams and exit codes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from recoverable import Arena, ArenaNotFoundError
from support.commands import child, command, command_json

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

SHARED = Path("/dev/shm")

#: Dies by its own hand with half of a transfer in the arena.
DIES_IN_A_STEP = """
import os, signal, sys
from recoverable import Arena
arena = Arena.open(sys.argv[1], create=False)
transaction = arena.transaction()
transaction.__enter__()
arena.root["ann"] -= 5
print("ready", flush=True)
sys.stdin.read()
"""

ATTACHED = """
import sys
from recoverable import Arena
arena = Arena.open(sys.argv[1], create=False)
print("ready", flush=True)
sys.stdin.read()
"""


def content(name: str) -> bytes:
    """Return the bytes of an arena's object."""
    return (SHARED / f"recoverable.{name}").read_bytes()


def killed_in_a_step(name: str) -> int:
    """Leave an arena whose only process was killed in the middle of a step; return its id."""
    with Arena.open(name, "4 MiB") as arena, arena.transaction():
        arena.root.update(ann=10, bob=10)
    process = child(DIES_IN_A_STEP, name)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    return process.pid


# -- ls --------------------------------------------------------------------------------------------------------


def test_ls_lists_an_arena_and_who_is_attached(arena: Arena) -> None:
    """`ls --json` has each arena with its size, what is used of it, its processes and its commits."""
    with arena.transaction():
        arena.root["text"] = "x" * 100_000
    (found,) = [entry for entry in command_json("ls") if entry["name"] == arena.name]
    assert found["size"] == arena.size
    assert 100_000 < found["used"] <= found["claimed"] < found["size"]
    assert [process["pid"] for process in found["processes"]] == [os.getpid()]
    assert found["commits"] == arena.stats().commit_seq
    assert found["dead"] == []
    assert found["recovered_at"] == found["recoveries"] == 0


def test_ls_writes_a_table_for_people(arena: Arena) -> None:
    """A line of `ls` has name, ceiling and processes; a pipe gets no colour."""
    done = command("ls", env={**os.environ, "TERM": "xterm-256color"})
    title, *lines = done.stdout.splitlines()
    (line,) = [line for line in lines if line.startswith(arena.name)]
    assert title.split()[:2] == ["NAME", "USED"]
    assert "16 MiB" in line
    assert str(os.getpid()) in line
    assert "\x1b" not in done.stdout


def test_ls_changes_nothing_of_what_a_killed_process_left(name: str) -> None:
    """`ls` tells the dead process and that its step waits to be undone, and undoes nothing itself."""
    pid = killed_in_a_step(name)
    before = content(name)
    (found,) = [entry for entry in command_json("ls") if entry["name"] == name]
    assert (found["dead"], found["processes"], found["phase"]) == ([pid], [], "step")
    (line,) = [line for line in command("ls").stdout.splitlines() if line.startswith(name)]
    assert f"{pid} (dead)" in line
    assert line.endswith("at the next open")
    assert content(name) == before


def test_ls_tells_when_a_step_was_undone(name: str) -> None:
    """After the next open, `ls` has the time of the recovery."""
    killed_in_a_step(name)
    with Arena.open(name, create=False) as arena:
        assert arena.root.to_python() == {"ann": 10, "bob": 10}
    (found,) = [entry for entry in command_json("ls") if entry["name"] == name]
    assert found["recoveries"] == 1
    assert abs(found["recovered_at"] - (SHARED / f"recoverable.{name}").stat().st_mtime) < 3600
    (line,) = [line for line in command("ls").stdout.splitlines() if line.startswith(name)]
    assert line.endswith("ago (1)")


def test_ls_goes_on_after_a_damaged_arena(arena: Arena, new_name: Callable[[], str]) -> None:
    """An object that is no arena is listed with what is wrong, beside the others."""
    broken = new_name()
    (SHARED / f"recoverable.{broken}").write_bytes(b"\xff" * 65536)
    found = {entry["name"]: entry for entry in command_json("ls")}
    assert "error" not in found[arena.name]
    assert "damaged" in found[broken]["error"]


# -- rm --------------------------------------------------------------------------------------------------------


def test_ls_names_what_is_no_arena(arena: Arena) -> None:
    """What a restore or an import makes, and what a journal has set aside, are not taken for arenas; rm removes them."""
    for kind in "restoring", "in", "20260531T120000":
        (SHARED / f"recoverable.{arena.name}~{kind}").write_bytes(b"")
    text = command("ls").stdout
    for kind, says in {
        "restoring": "restored from a journal",
        "in": "imported",
        "20260531T120000": "recoverable rm",
    }.items():
        (line,) = (each for each in text.splitlines() if each.startswith(f"{arena.name}~{kind}"))
        assert says in line
        assert command("rm", f"{arena.name}~{kind}").returncode == 0
    assert f"{arena.name}~" not in command("ls").stdout


def test_rm_removes_what_nobody_has_open(name: str) -> None:
    """`rm` unlinks the arena and says so."""
    Arena.open(name, "4 MiB").close()
    done = command("rm", name)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"removed {name}\n", "")
    with pytest.raises(ArenaNotFoundError):
        Arena.open(name, create=False)


def test_rm_refuses_while_a_live_process_is_attached(name: str) -> None:
    """A process that has the arena open keeps it; the message names the process."""
    Arena.open(name, "4 MiB").close()
    process = child(ATTACHED, name)
    done = command("rm", name)
    assert done.returncode == 4
    assert done.stdout == ""
    assert str(process.pid) in done.stderr
    assert done.stderr.count("\n") == 1
    assert (SHARED / f"recoverable.{name}").exists()
    process.communicate(timeout=30)
    assert command("rm", name).returncode == 0


def test_rm_force_says_what_it_breaks(name: str) -> None:
    """With --force it is removed under a live process, and standard error says whose commits will be lost."""
    Arena.open(name, "4 MiB").close()
    process = child(ATTACHED, name)
    done = command("rm", "--force", name)
    assert done.returncode == 0
    assert f"process {process.pid} is still in the removed arena" in done.stderr
    assert "lost" in done.stderr
    assert not (SHARED / f"recoverable.{name}").exists()
    process.communicate(timeout=30)


def test_rm_needs_force_for_what_it_cannot_judge(name: str) -> None:
    """Whether somebody has a damaged arena can't be told: it stays without --force."""
    path = SHARED / f"recoverable.{name}"
    path.write_bytes(b"\xff" * 65536)
    done = command("rm", name)
    assert (done.returncode, path.exists()) == (4, True)
    assert "can't tell" in done.stderr
    assert command("rm", "--force", name).returncode == 0
    assert not path.exists()


def test_rm_removes_a_half_made_arena(name: str) -> None:
    """What its maker did not finish is nobody's: no --force is needed."""
    path = SHARED / f"recoverable.{name}"
    path.touch(0o600)
    assert command("rm", name).returncode == 0
    assert not path.exists()


# -- verify ------------------------------------------------------------------------------------------------------


def test_verify_counts_what_is_sound(arena: Arena) -> None:
    """`verify --json` of an arena in use has the numbers that `arena.verify()` has."""
    with arena.transaction():
        arena.root.update(numbers=list(range(100)), text="x" * 1000)
    here = arena.verify()
    found = command_json("verify", arena.name)
    assert found["sound"] is True
    assert (found["containers"], found["entries"]) == (here.containers, here.entries)


def test_verify_leaves_the_work_of_a_killed_process_alone(name: str) -> None:
    """It checks what the arena will be after recovery, on a copy: the arena itself is byte for byte as it was."""
    killed_in_a_step(name)
    before = content(name)
    done = command("verify", name)
    assert done.returncode == 0, done.stderr
    assert f"the next to open {name} will undo" in done.stdout
    assert content(name) == before


def test_verify_of_a_damaged_arena_ends_with_6(name: str) -> None:
    """Damage is one line on standard error, and an exit code of its own; the arena is not marked."""
    with Arena.open(name, "4 MiB") as arena, arena.transaction():
        arena.root.update(list=list(range(1000)), marker="seven" * 100)
    path = SHARED / f"recoverable.{name}"
    data = bytearray(path.read_bytes())
    at = data.index(b"marker")
    data[at - 16 : at - 8] = b"\xff" * 8  # in the head of its entry
    path.write_bytes(data)
    done = command("verify", name)
    assert done.returncode == 6, done.stdout
    assert done.stderr.startswith("recoverable: ")
    assert done.stderr.count("\n") == 1
    assert path.read_bytes() == data


# -- all commands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["nonsense"], 2),
        (["ls", "--nonsense"], 2),
        (["rm"], 2),
        (["rm", "a/b"], 2),
        (["verify", "no-such-arena"], 3),
        (["rm", "no-such-arena"], 3),
        (["--help"], 0),
        (["--version"], 0),
    ],
)
def test_exit_codes(arguments: list[str], code: int) -> None:
    """Misuse is 2, what is not there 3; the error goes to standard error, the result to standard output."""
    done = command(*arguments)
    assert done.returncode == code
    assert bool(done.stdout) == (code == 0)
    assert bool(done.stderr) == (code != 0)


def test_a_reader_that_leaves_is_no_error(arena: Arena) -> None:
    """`recoverable ls | head -c 0` ends in silence."""
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen(
        [sys.executable, "-m", "recoverable.cli", "ls"], stdout=write, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(write)
        _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (0, "")


def test_the_script_is_the_command() -> None:
    """The package installs a script named `recoverable`."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["recoverable"] == "recoverable.cli:main"


def test_the_package_alone_has_the_command() -> None:
    """What the command imports comes with a plain `pip install`, and the extra that once brought it still is one."""
    wanted = [requirement for requirement in metadata.requires("recoverable") or [] if "extra ==" not in requirement]
    assert {"click", "rich"} <= {re.split(r"[<>=! ]", requirement)[0] for requirement in wanted}
    assert "cli" in (metadata.metadata("recoverable").get_all("Provides-Extra") or [])
