"""`recoverable journal`: what it shows of a journal, what it finds, and that what it restores is the state of that moment."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from recoverable import Arena, recoverable
from recoverable._native import feed as native_feed
from recoverable._native import journal as native_journal
from recoverable.cli import _doctor_journal
from recoverable.cli._codes import ABSENT
from recoverable.cli._journal import journal
from recoverable.journal.folder import Folder
from support.commands import command


def put(arena: Arena, n: int) -> None:
    """Commit once; a hundred are some 100 KiB."""
    with arena.transaction():
        arena.root["n"] = n
        arena.root[f"k{n % 20}"] = str(n) * 400


def last(arena: Arena) -> int:
    """Return the number of its last commit."""
    state = native_feed.state(arena.native)
    assert state is not None
    return state[5]


def small(name: str, folder: str, states: dict[int, Any] | None = None, number: int = 12) -> None:
    """Make a journal with a few commits, each a batch of its own; `states`: what it was after each."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        for n in range(number):
            put(arena, n)
            asyncio.run(arena.durable())
            if states is not None:
                states[last(arena)] = arena.root.to_python()
    Arena.unlink(name)


def long(name: str, folder: str, begin: int = 0, number: int = 1200) -> Any:
    """Make a journal of several files; return the state."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        for n in range(begin, begin + number):
            put(arena, n)
            if n % 20 == 0:
                asyncio.run(arena.durable())
        state = arena.root.to_python()
    Arena.unlink(name)
    return state


def numbers(folder: str) -> list[int]:
    """Return the numbers of all commits."""
    done = CliRunner().invoke(journal, ["tail", "-n", "1000", "--json", folder])
    return [each["seq"] for each in json.loads(done.output)]


def damage(path: str, offset: int) -> None:
    """Change a byte of a file."""
    with Path(path).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_ls_tells_what_lies_there(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """Each snapshot and file is listed with its commits, and they go on from each other."""
    long(name, folder)
    code, out, _ = ask("ls", folder)
    assert code == 0
    assert "AFTER COMMIT" in out
    found = json.loads(ask("ls", "--json", folder)[1])
    files = [each for each in found if each["name"].startswith("journal-")]
    assert [each["name"] for each in files] == [f"journal-{n:016x}" for n in Folder(folder).files()]
    assert all(first["last"] == second["after"] for first, second in itertools.pairwise(files))
    assert found[0]["name"].startswith("snapshot-")
    assert files[-1]["last"] == numbers(folder)[-1]
    assert files[0]["begins"] < files[-1]["ends"]


def test_a_file_without_commits_is_not_cut_off(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """A journal that went on in a new file before anything was committed lost nothing by it."""
    with Arena.open(name, "4 MiB", journal=folder):
        pass
    Arena.unlink(name)
    tip = Folder(folder).tip()
    assert tip is not None
    native_journal.create_file(folder, tip.as_start()._replace(number=tip.start.number + 1))
    files = [each for each in json.loads(ask("ls", "--json", folder)[1]) if each["name"].startswith("journal-")]
    assert [each["note"] for each in files] == ["no commits", "no commits"]
    assert [each["last"] for each in files] == [each["after"] for each in files]
    with Arena.open(name, journal=folder):
        pass
    Arena.unlink(name)


def test_folders_without_a_journal(tmp_path: Path, ask: Callable[..., Any]) -> None:
    """There is no journal, or no folder: 3. It is a file: 2."""
    for each in (["ls"], ["verify"], ["compact"], ["tail"], ["restore", "--name", "x"]):
        code, _, err = ask(*each, str(tmp_path))
        assert (code, "there is no journal" in err) == (3, True), err
        code, _, err = ask(*each, str(tmp_path / "none"))
        assert (code, "there is no folder" in err) == (3, True), err
        assert ask(*each, __file__)[0] == 2


# -- verify ------------------------------------------------------------------------------------------------------------------


def test_verify_names_the_place_of_damage(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """A sound journal ends with 0; a damaged snapshot, file or head, and a file that is missing, with 1 and where it is."""
    long(name, folder)
    assert ask("compact", folder)[0] == 0
    assert ask("verify", folder)[0] == 0
    assert json.loads(ask("verify", "--json", folder)[1])["sound"] is True
    journal = Folder(folder)
    snapshot, file = journal.snapshot_path(journal.snapshots()[0]), f"{folder}/journal-{journal.files()[1]:016x}"
    for path, offset, expected in (
        (snapshot, 100, "content"),
        (snapshot, os.stat(snapshot).st_size - 10, "no page"),  # noqa: PTH116
        (file, 8192, r"damaged at offset"),
        (file, 30, "head"),
    ):
        damage(path, offset)
        code, out, _ = ask("verify", folder)
        assert code == 1
        assert f"{Path(path).name}: " in out
        assert expected in out
        assert json.loads(ask("verify", "--json", folder)[1])["sound"] is False
        damage(path, offset)
    for gone, expected in (
        ([file], "missing"),
        (list(map(journal.snapshot_path, journal.snapshots())), "has no snapshot"),
    ):
        for path in gone:
            Path(path).rename(f"{folder}/kept.{Path(path).name}")
        code, out, _ = ask("verify", folder)
        assert (code, expected in out) == (1, True), out
        for path in gone:
            Path(f"{folder}/kept.{Path(path).name}").rename(path)
    with journal.open_file(journal.files()[1]) as opened:
        end = list(iter(opened.next, None))[-1]
    damage(file, end.offset + 80)
    code, out, _ = ask("verify", folder)
    assert (code, "commits are missing" in out) == (1, True)


def test_verify_beside_a_server_takes_nothing_for_damage(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """While a server commits as fast as it can, nothing looks damaged."""
    ended = threading.Event()
    with Arena.open(name, "16 MiB", journal=folder) as arena:

        def serve() -> None:
            for n in itertools.count():
                if ended.is_set():
                    return
                put(arena, n)
                if n % 3 == 0:
                    asyncio.run(arena.durable())

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            for _ in range(10):
                code, out, err = ask("verify", folder)
                assert code == 0, out + err
                assert ask("ls", folder)[0] == ask("tail", folder)[0] == 0
        finally:
            ended.set()
            thread.join()
    Arena.unlink(name)


# -- compact -----------------------------------------------------------------------------------------------------------------


def test_compact_says_what_it_did(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """A new snapshot is made, and what is older than two goes; again, there is nothing to do."""
    long(name, folder)
    code, out, _ = ask("compact", folder)
    assert (code, out.startswith("made a snapshot up to commit ")) == (0, True)
    assert ask("compact", folder)[1].startswith("nothing to do")
    state = long(name, folder, begin=2000)
    done = json.loads(ask("compact", "--json", "--rate", "500", folder)[1])
    assert done["files"] > 1
    assert done["snapshots"] == 1
    long(name, folder)
    assert ask("compact", "--quiet", folder)[:2] == (0, "")
    assert state is not None
    with Folder(folder).kept():
        assert ask("compact", folder)[0] == ask("verify", folder)[0] == 4


def test_compact_refuses_where_there_is_damage(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """It ends with 6, says where, and has changed nothing."""
    long(name, folder)
    damage(f"{folder}/journal-{1:016x}", 8192)
    code, _, err = ask("compact", folder)
    assert (code, "damaged at offset" in err, "Nothing was changed" in err) == (6, True, True)


# -- restore -----------------------------------------------------------------------------------------------------------------


def test_restore_to_each_commit_is_the_state_then(
    name: str, new_name: Any, folder: str, ask: Callable[..., Any]
) -> None:
    """Whatever commit of a small journal is named, and in whatever order, the state is what it was behind it."""
    states: dict[int, Any] = {}
    small(name, folder, states)
    saved = {each: Path(folder, each).read_bytes() for each in os.listdir(folder)}  # noqa: PTH208
    for seq in states:
        for each in os.listdir(folder):  # noqa: PTH208
            Path(folder, each).unlink()
        for each, data in saved.items():
            Path(folder, each).write_bytes(data)
        other = new_name()
        code, out, err = ask("restore", "--to", str(seq), "--name", other, folder)
        assert code == 0, err
        assert ("no longer count" in out) == (seq != max(states))
        with Arena.open(other, journal=folder, create=False) as arena:
            assert arena.root.to_python() == states[seq]
            assert arena.verify().leaked_blocks == 0
        Arena.unlink(other)


def test_restore_to_what_is_not_there_is_refused(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """A commit that there was not, or not yet, and a state that is older than all that is kept: nothing is made."""
    small(name, folder)
    newest = numbers(folder)[-1]
    for to, told in (
        (str(newest + 1), f"which goes up to commit {newest}"),
        ("0", "does not go back as far as that"),
        ("1999-01-01", "does not go back as far as that"),
    ):
        code, _, err = ask("restore", "--to", to, "--name", name, folder)
        assert (code, told in err) == (ABSENT, True), err
        assert not Path(f"/dev/shm/recoverable.{name}").exists()


def test_commits_that_were_replayed_are_counted(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """Not what freeing memory has written between them."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        for n in range(6):
            with arena.transaction():
                arena.root["big"] = {f"k{i}": [n, "x" * 100] for i in range(200)}
        asyncio.run(arena.durable())
        state = arena.root.to_python()
    Arena.unlink(name)
    replayed = len(numbers(folder))
    assert json.loads(ask("restore", "--name", name, "--json", folder)[1])["records"] == replayed
    with Arena.open(name, journal=folder) as arena:
        assert arena.root.to_python() == state
    Arena.unlink(name)


def test_doctor_tells_of_a_folder_that_no_start_can_use(name: str, folder: str) -> None:
    """One without a snapshot; and one without files of commits is told of, too."""
    small(name, folder)
    (snapshot,) = Path(folder).glob("snapshot-*")
    kept = snapshot.read_bytes()
    snapshot.unlink()
    assert [each.found for each in _doctor_journal.examine(folder) if each.level == "bad"] == [
        "there is no snapshot that a start could begin with"
    ]
    snapshot.write_bytes(kept)
    for each in Path(folder).glob("journal-*"):
        each.unlink()
    assert [each.what for each in _doctor_journal.examine(folder)]


def test_two_restores_are_two_epochs(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """After a restore the journal goes on from there; another one to a moment before or behind it is right as well."""
    states: dict[int, Any] = {}
    small(name, folder, states)
    early, late = sorted(states)[3], sorted(states)[8]
    assert ask("restore", "--to", str(late), "--name", name, folder)[0] == 0
    with Arena.open(name, journal=folder) as arena:
        assert arena.root.to_python() == states[late]
        put(arena, 100)
        second, kept = last(arena), arena.root.to_python()
        put(arena, 101)
    Arena.unlink(name)
    done = json.loads(ask("restore", "--to", str(second), "--name", name, "--json", folder)[1])
    assert (done["seq"], done["epoch"]) == (second, 2)
    with Arena.open(name, journal=folder) as arena:
        assert arena.root.to_python() == kept
    Arena.unlink(name)
    assert ask("restore", "--to", str(early), "--name", name, folder)[0] == 0
    with Arena.open(name, journal=folder) as arena:
        assert arena.root.to_python() == states[early]
        put(arena, 200)
        state = arena.root.to_python()
    Arena.unlink(name)
    assert ask("verify", folder)[0] == 0
    assert numbers(folder)[-2:] == [early, early + 1]
    with Arena.open(name, journal=folder) as arena:
        assert arena.root.to_python() == state
    Arena.unlink(name)


def test_restore_to_a_time(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """A time stands for the last commit until then; one before the first snapshot is refused, and what is no time is 2."""
    small(name, folder, number=3)
    moment = json.loads(ask("tail", "-n", "1", "--json", folder)[1])[0]["time"]
    time.sleep(0.002)
    with Arena.open(name, journal=folder) as arena:
        put(arena, 3)
    Arena.unlink(name)
    assert ask("restore", "--to", moment, "--name", name, folder)[0] == 0
    with Arena.open(name) as arena:
        assert arena.root["n"] < 3  # the table has milliseconds, in which several may lie
    Arena.unlink(name)
    code, _, err = ask("restore", "--to", "2001-01-01", "--name", name, folder)
    assert (code, "does not go back as far" in err) == (ABSENT, True)
    assert not Path(f"/dev/shm/recoverable.{name}").exists()
    assert ask("restore", "--to", "yesterday", "--name", name, folder)[0] == 2


def test_restore_to_where_an_error_says_that_it_is_sound(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """What the message of a damaged journal recommends works, and the journal goes on from there."""
    states: dict[int, Any] = {}
    small(name, folder, states)
    with Folder(folder).open_file(1) as file:
        batch = list(iter(file.next, None))[6]
    damage(f"{folder}/journal-{1:016x}", batch.offset + 100)
    code, _, err = ask("restore", "--name", name, folder)
    assert code == 6
    seq = err.split("--to ")[1].split()[0]
    code, out, _ = ask("restore", "--to", seq, "--name", name, folder)
    assert (code, "what follows the damage" in out) == (0, True)
    with Arena.open(name, journal=folder) as arena:
        assert arena.root.to_python() == states[int(seq)]
        put(arena, 100)
    Arena.unlink(name)
    with Arena.open(name, journal=folder) as arena:
        assert arena.root["n"] == 100
    Arena.unlink(name)


def test_restore_is_refused_where_it_would_do_harm(
    name: str, new_name: Any, folder: str, ask: Callable[..., Any]
) -> None:
    """Beside a process that writes there, and onto an arena that exists, it ends with 4 and has changed nothing."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        put(arena, 1)
        done = command("journal", "restore", "--name", new_name(), folder)
        assert (done.returncode, "is written by" in done.stderr) == (4, True), done.stderr
        put(arena, 2)
    code, _, err = ask("restore", "--name", name, folder)
    assert (code, "already" in err) == (4, True)
    with Arena.open(name, journal=folder) as arena:
        assert arena.root["n"] == 2
    Arena.unlink(name)


# -- tail ----------------------------------------------------------------------------------------------------------------------


def test_tail_shows_the_last_commits(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """They are told with number, time, handler and size, over the ends of files."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        for n in range(600):
            put(arena, n)
            if n % 20 == 0:
                asyncio.run(arena.durable())

        @recoverable(arena=arena)
        async def deposit() -> None:
            arena.root["n"] = 1000

        asyncio.run(deposit())
        number = last(arena)
    Arena.unlink(name)
    found = json.loads(ask("tail", "--json", "-n", "500", folder)[1])
    assert len(found) == 500
    assert found[-1]["seq"] == number
    assert found[-1]["handler"].endswith("deposit")
    assert found[0]["bytes"] > 400
    assert [each["seq"] for each in found] == sorted(each["seq"] for each in found)
    assert "HANDLER" in ask("tail", folder)[1]


def test_tail_follows(name: str, folder: str) -> None:
    """New commits come as lines while a server makes them, until it is interrupted, with 0."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        put(arena, 1)
        asyncio.run(arena.durable())
        process = subprocess.Popen(
            [sys.executable, "-m", "recoverable.cli", "journal", "tail", "-n", "1", "--follow", "--json", folder],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        seen = [json.loads(process.stdout.readline())["seq"]]
        for n in range(2, 5):
            put(arena, n)
            seen.append(json.loads(process.stdout.readline())["seq"])
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        process.stdout.close()
        assert seen[-1] == last(arena)
        assert seen == list(range(seen[0], seen[0] + 4))
    Arena.unlink(name)
