"""The command beside damaged segments: one line that says what is wrong and an exit code, never a traceback, never a hang."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import signal
import socket
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from recoverable import Arena
from recoverable.cli import _app
from support.commands import command
from support.damage import damage, fill, targets
from support.forks import in_child
from support.segments import path_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AMOUNT = int(os.environ.get("RECOVERABLE_FUZZ_COMMANDS", "15"))
SECONDS = 20  # for one command, whatever else the machine does

READERS = (
    ("inspect",),
    ("inspect", "--depth", "5", "--json"),
    ("inspect", "--memory", "--depth", "3"),
    ("verify",),
    ("export", "FILE", "--force"),
    ("top", "--once", "--interval", "0.05"),
)


def run(*arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; return its exit code and what it wrote to its two streams."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _app.run(list(arguments))
    return code, out.getvalue(), err.getvalue()


def lost_key(name: str) -> None:
    """Make an arena with a key that is listed and can't be found: the hash beside it is another one's."""
    with Arena.open(name, "1 MiB") as arena, arena.transaction():
        arena.root["carts"] = {}
        arena.root["carts"]["needle-in-it"] = 1  # an entry: the rows of a Dict that is made at once have no hash
    data = path_of(name).read_bytes()
    at = data.index(b"needle-in-it")
    assert data.count(b"needle-in-it") == 1
    with path_of(name).open("r+b") as file:
        file.seek(at - 56)  # struct rcv_entry: its hash is 56 bytes before the key
        (word,) = struct.unpack("<Q", file.read(8))
        file.seek(at - 56)
        file.write(struct.pack("<Q", word ^ 1 << 40))


def test_a_listed_key_that_is_not_found_is_damage(name: str) -> None:
    """`inspect` of a container with a key that can't be looked up says that it is damaged; other paths can be read."""
    lost_key(name)
    for more in ((), ("--json",), ("--memory",)):
        code, out, err = run("inspect", name, "carts", *more)
        assert (code, out) == (6, "")
        assert re.fullmatch(r"recoverable: .*damaged.*recoverable verify.*\n", err)
    assert run("inspect", name, "--depth", "0")[0] == 0


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.timeout(AMOUNT * SECONDS)
def test_no_damage_ends_in_a_traceback(name: str, seed: int, tmp_path: Path) -> None:
    """Whatever word of a segment is another, each command ends in time with a documented code and at most one line of error."""
    with Arena.open(name, size="1536 KiB", undo_size="256 KiB") as arena:
        fill(arena)
    sound = path_of(name).read_bytes()
    places = targets(sound)

    def child(number: int) -> list[tuple[tuple[str, ...], int, str]]:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        data = bytearray(sound)
        damage(data, random.Random(f"{seed}.{number}"), places)
        with path_of(name).open("r+b") as file:
            file.write(data)
        wrong = []
        for verb, *options in (READERS[number % len(READERS)], READERS[(number + 1) % len(READERS)], ("ls",)):
            arguments = [verb, *([name] if verb != "ls" else []), *options]
            arguments = [str(tmp_path / "file") if each == "FILE" else each for each in arguments]
            signal.alarm(SECONDS)
            code, _, err = run(*arguments)
            if code not in (0, 3, 4, 5, 6) or err.count("\n") != (code != 0):
                wrong.append((tuple(arguments), code, err))
        return wrong

    for number in range(AMOUNT):
        ending = in_child(lambda number=number: child(number), timeout=4 * SECONDS)  # type: ignore[misc]
        assert ending.returned, f"--seed={seed}, {number}: {ending}"
        assert ending.value == [], f"--seed={seed}, {number}"


def test_a_bug_of_ours_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has foreseen ends in one line with the place, and exit code 70."""
    Arena.open(name, "1 MiB").close()
    monkeypatch.setattr("recoverable.cli._outside.peek", lambda name: {}["no such"])
    code, out, err = run("ls")
    assert (code, out) == (70, "")
    assert re.fullmatch(r"recoverable: KeyError: 'no such' \(test_damaged\.py:\d+\)\. .*please report it\n", err)


@pytest.mark.slow
def test_values_that_no_encoding_has(arena: Arena) -> None:
    """Half a surrogate pair in a value is written as its escape, and JSON reads it back."""
    with arena.transaction():
        arena.root["half"] = "\ud800"
    assert "\\ud800" in run("inspect", arena.name, "half")[1]
    done = command("inspect", arena.name, "half", "--json")
    assert done.stderr == ""
    assert json.loads(done.stdout)["value"] == "\ud800"


# -- what is no segment ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["directory", "FIFO", "socket", "dangling link", "link", "device"])
def stranger(request: pytest.FixtureRequest, name: str, tmp_path: Path) -> Iterator[str]:
    """Put something else than a file in the place of an arena; give the word for it."""
    path = path_of(name)
    with contextlib.ExitStack() as stack:
        match request.param:
            case "directory":
                path.mkdir()
                stack.callback(path.rmdir)
            case "FIFO":
                os.mkfifo(path)
            case "socket":
                stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
            case "dangling link":
                path.symlink_to(tmp_path / "nothing")
            case "link":
                (tmp_path / "file").write_bytes(b"")
                path.symlink_to(tmp_path / "file")
            case _:
                try:
                    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
                except PermissionError:
                    pytest.skip("may not make a device")
        yield request.param.split()[-1]
        assert path.is_symlink() or path.exists(), "it was removed"
        if not path.is_dir():
            path.unlink()


def test_what_is_no_file_is_named(stranger: str, name: str, tmp_path: Path) -> None:
    """Each command says what lies in the arena's place, leaves it there, and ends with code 5; `ls` lists it."""
    for verb, *options in (*READERS, ("rm",), ("rm", "--force")):
        code, out, err = run(verb, name, *(str(tmp_path / "x") if each == "FILE" else each for each in options))
        assert (code, out) == (5, "")
        assert re.fullmatch(rf"recoverable: .*\b{stranger} is in the place of arena '{name}'.*\n", err)
    code, out, err = run("ls")
    assert (code, err) == (0, "")
    assert f"{stranger} is in the place of arena '{name}'" in out


def test_opening_what_is_no_file(stranger: str, name: str) -> None:
    """Arena.open and Arena.unlink name it at once, and touch nothing."""
    attempts: list[Callable[[], object]] = [
        lambda: Arena.open(name),
        lambda: Arena.open(name, create=False),
        lambda: Arena.unlink(name),
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match=f"{stranger} is in the place of arena") as caught:
            attempt()
        assert type(caught.value).__name__ == "ArenaSystemError"
        assert caught.value.errno
