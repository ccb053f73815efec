"""A folder with what does not belong there, or a disk that takes no more: the error of a start says what, and what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena
from recoverable._native import journal as native_journal
from recoverable.errors import ArenaCorruptError, ArenaFullError, JournalError
from recoverable.journal.compact import compact
from recoverable.journal.folder import Folder


def life(name: str, folder: str, n: int | None) -> None:
    """Open the arena, commit once, unless there is nothing to be, and lose what is in memory."""
    with Arena.open(name, "4 MiB", journal=folder, compact=False) as arena:
        if n is not None:
            with arena.transaction():
                arena.root["n"] = n
    Arena.unlink(name)


def put_there(kind: str, path: str) -> None:
    """Have something else than a file lie there."""
    Path(path).unlink(missing_ok=True)
    if kind == "folder":
        Path(path).mkdir()
    elif kind == "link":
        Path(path).symlink_to("/etc/hostname")
    else:
        os.mkfifo(path)


NO_FILES = {"folder": "it is a folder", "link": "it is a link", "fifo": "its first bytes are others"}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_of_commits_is_named(name: str, folder: str, kind: str, ask: Callable[..., Any]) -> None:
    """By an error that says that nothing was changed and what to do, with the state in memory and without."""
    life(name, folder, 1)
    with Arena.open(name, "4 MiB", journal=folder):
        pass
    put_there(kind, Folder(folder).file_path(9))
    for then in "Move the folder away", "recoverable journal restore --to":
        with pytest.raises(
            ArenaCorruptError,
            match=rf"journal-0*9 is no file of a journal: {NO_FILES[kind]}\. .*Nothing was changed.*{then}",
        ):
            Arena.open(name, "4 MiB", journal=folder)
        if then.startswith("Move"):
            Arena.unlink(name)
    code, out, err = ask("ls", folder)
    assert (code, NO_FILES[kind] in " ".join(out.split())) == (0, True), err
    assert ask("verify", folder)[0] == 1
    assert ask("tail", folder)[0] == 0


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_what_is_no_snapshot_is_passed_over(name: str, folder: str, kind: str, ask: Callable[..., Any]) -> None:
    """As a damaged one is."""
    life(name, folder, 1)
    put_there(kind, Folder(folder).snapshot_path(9 << 40))
    with Arena.open(name, "4 MiB", journal=folder) as arena:
        assert arena.restored is not None
        assert "it is no file" in arena.restored.damaged[0]
    Arena.unlink(name)
    code, out, err = ask("ls", folder)
    assert (code, "it is no file" in out) == (0, True), err
    assert ask("verify", folder)[0] == 1


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_spare_that_is_no_file_is_named(name: str, folder: str, kind: str) -> None:
    """A restore can't make a file of it, and says what to move away; then it can."""
    life(name, folder, 1)
    spare = f"{folder}/spare"
    put_there(kind, spare)
    with pytest.raises(JournalError, match=rf"Nothing was opened.*unchanged\. Move {spare} away.*start again"):
        Arena.open(name, "4 MiB", journal=folder)
    Path(spare).rename(f"{folder}/other")
    with Arena.open(name, "4 MiB", journal=folder) as arena:
        assert arena.root["n"] == 1
    Arena.unlink(name)


def test_a_restore_on_a_full_disk_is_told(name: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left, and what to do; it leaves nothing behind."""
    life(name, folder, 1)
    files = Folder(folder).files()

    def full(*_: Any) -> None:
        raise ArenaFullError("making journal-0000000000000002 failed (No space left on device)")

    with monkeypatch.context() as patched:
        patched.setattr(native_journal, "create_file", full)
        with pytest.raises(JournalError, match=r"No space left.*Nothing was opened.*unchanged.*start again"):
            Arena.open(name, "4 MiB", journal=folder)
    assert Folder(folder).files() == files
    assert not list(Path("/dev/shm").glob(f"recoverable.{name}*"))
    with Arena.open(name, "4 MiB", journal=folder) as arena:
        assert arena.root["n"] == 1
    Arena.unlink(name)


def spoil(path: str) -> None:
    """Change the content of a snapshot, whose page stays sound."""
    with Path(path).open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))


def two_snapshots(name: str, folder: str) -> Folder:
    """Make a journal with one of the beginning, and one behind commit n = 0; n is 3 at its end."""
    journal = Folder(folder, create=True)
    for n in range(2):
        life(name, folder, n)
    compact(journal, lambda fd: None)
    for n in range(2, 4):
        life(name, folder, n)
    assert len(journal.snapshots()) == 2
    return journal


def test_where_all_snapshots_are_damaged_all_are_named(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """And what can be done."""
    journal = two_snapshots(name, folder)
    for position in journal.snapshots():
        spoil(journal.snapshot_path(position))
    with pytest.raises(ArenaCorruptError, match=r"no sound snapshot.*Nothing was changed\..*Put a copy") as error:
        Arena.open(name, "4 MiB", journal=folder)
    for position in journal.snapshots():
        assert f"snapshot-{position:016x}" in str(error.value)
    spoil(journal.snapshot_path(journal.snapshots()[1]))  # as it was
    code, _, err = ask("restore", "--to", "1", "--name", name, folder)
    assert (code, "restore a later state" in err) == (6, True), err


def test_what_is_certain_begins_with_a_sound_snapshot(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """The oldest one's page is sound and its content is not: it is not what an error recommends to go back to."""
    journal = two_snapshots(name, folder)
    old, new = journal.snapshots()
    spoil(journal.snapshot_path(old))
    Path(journal.file_path(3)).write_bytes(b"")
    with pytest.raises(ArenaCorruptError, match=r"may have begun with a restore.* --to 2 .* --to 3 ") as error:
        Arena.open(name, "4 MiB", journal=folder)
    assert "of the oldest snapshot" in str(error.value)
    code, _, err = ask("restore", "--to", "2", "--name", name, folder)
    assert code == 0, err
    with Arena.open(name, "4 MiB", journal=folder) as arena:
        assert arena.root["n"] == 0
    Arena.unlink(name)
    assert journal.snapshots() == [old, new]


@pytest.mark.parametrize("to", ["2554-07-22", "2999-01-01", "9999-12-31"])
def test_a_time_beyond_all_records_is_the_last_commit(name: str, folder: str, to: str, ask: Callable[..., Any]) -> None:
    """Records have 64 bits for it."""
    life(name, folder, 1)
    code, _, err = ask("restore", "--to", to, "--name", name, folder)
    assert code == 0, err
    with Arena.open(name, "4 MiB", journal=folder) as arena:
        assert arena.root["n"] == 1
    Arena.unlink(name)


def test_ls_says_what_was_cut_off_and_what_never_was_there(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """A file without commits is not cut off; one that a later file than the next has cut ends where that one says."""
    for n in None, 0, 1, 2, None:  # the first file stays empty, and the last before the restore
        life(name, folder, n)
    assert ask("restore", "--to", "2", "--name", name, folder)[0] == 0
    Arena.unlink(name)
    rows = {row["name"][-1]: row for row in json.loads(ask("ls", "--json", folder)[1]) if row["name"] < "s"}
    assert [rows[each]["note"] for each in "123456"] == [
        "no commits",
        "counts up to commit 2",
        *["cut off by a restore"] * 3,
        "no commits",
    ]
    assert (rows["2"]["last"], rows["3"]["last"]) == (2, None)
