"""What a start makes of files that are damaged at their heads, gone, or of another line of states; and that its advice works."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena
from recoverable._native import feed as native_feed
from recoverable._native import journal as native_journal
from recoverable.errors import ArenaCorruptError
from recoverable.history import History
from recoverable.journal.compact import compact
from recoverable.journal.folder import Folder
from recoverable.journal.keeper import is_due

HEAD = 96  # bytes that the checksum of a head is over


def put(arena: Arena, n: int) -> int:
    """Commit once, durably, and return the number of the commit."""
    with arena.transaction():
        arena.root["n"] = n
        arena.root[f"k{n % 20}"] = str(n) * 400
    asyncio.run(arena.durable())
    state = native_feed.state(arena.native)
    assert state is not None
    return state[5]


def filled(name: str, folder: str, files: int, begin: int = 0) -> dict[int, Any]:
    """Have a journal go on until it has so many files; return the state after each commit."""
    states = {}
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        n = begin
        while len(Folder(folder).files()) < files:
            seq = put(arena, n := n + 1)
            states[seq] = arena.root.to_python()
        for _ in range(3):
            seq = put(arena, n := n + 1)
            states[seq] = arena.root.to_python()
    Arena.unlink(name)
    return states


def damage(path: str, offset: int) -> None:
    """Change a byte of a file."""
    with Path(path).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def opened(name: str, folder: str) -> Any:
    """Return what a start finds."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        state = arena.root.to_python()
        arena.verify()
    Arena.unlink(name)
    return state


def advice(message: str) -> int:
    """Return the commit that an error recommends to go back to."""
    (seq,) = re.findall(r"recoverable journal restore --to (\d+) --name", message)
    return int(seq)


# -- heads ---------------------------------------------------------------------------------------------------------------------


def test_a_damaged_head_of_a_file_that_is_not_needed_ends_nothing(
    name: str, folder: str, ask: Callable[..., Any], log: list[dict[str, Any]]
) -> None:
    """Whatever byte of it has changed: a start passes over it and says so; so do all the commands; and nothing is dropped."""
    states = filled(name, folder, 4)
    compact(
        Folder(folder), lambda fd: None
    )  # the last file but one is not needed by a start, which has a snapshot behind it
    journal = Folder(folder)
    old = journal.file_path(journal.files()[0])
    last = states[max(states)]
    for offset in range(HEAD):
        damage(old, offset)
        starts, bad = journal.heads()
        assert (len(starts), [each.number for each in bad]) == (len(journal.files()) - 1, [journal.files()[0]]), offset
        damage(old, offset)
    damage(old, 24)
    before = sorted(journal.files())
    assert opened(name, folder) == last
    assert Path(old).name in next(event for event in log if event["event"] == "journal.damaged")["detail"]
    code, out, err = ask("ls", folder)
    assert (code, "the head of" in out) == (0, True), err
    code, out, err = ask("tail", folder)
    assert (code, str(max(states)) in out, "passed over" in err) == (0, True, True)
    assert ask("verify", folder)[0] == 1
    assert is_due(journal) in (True, False)
    with pytest.raises(ArenaCorruptError, match=r"head.*nothing was dropped"):
        compact(journal, lambda fd: None)
    assert set(before) <= set(journal.files())
    seq = sorted(states)[-2]
    code, out, err = ask("restore", "--to", str(seq), "--name", name, folder)
    assert (code, "passed over" in out) == (0, True), err
    with Arena.open(name, journal=folder) as arena:
        assert arena.root.to_python() == states[seq]
    Arena.unlink(name)
    with History.open(folder) as history:
        assert history.at(seq).to_python() == states[seq]


@pytest.mark.parametrize("which", ["first", "middle", "last"])
def test_a_damaged_head_of_a_file_that_is_needed_is_named(
    name: str, folder: str, which: str, ask: Callable[..., Any]
) -> None:
    """A start says which file, up to where the state is sound, and a command that restores that; and it does."""
    states = filled(name, folder, 3)
    journal = Folder(folder)
    number = {"first": 1, "middle": 2, "last": 3}[which]
    begin = journal.start_of(number).seq
    damage(journal.file_path(number), 40)
    with pytest.raises(
        ArenaCorruptError, match=rf"head of journal-0*{number}, at its offset 0.*commit {begin}\b"
    ) as error:
        Arena.open(name, "16 MiB", journal=folder)
    assert advice(str(error.value)) == begin
    assert ask("ls", folder)[0] == ask("tail", folder)[0] == 0
    code, _, err = ask("restore", "--to", str(begin), "--name", name, folder)
    assert code == 0, err
    with Arena.open(name, journal=folder) as arena:
        assert arena.root.to_python() == states.get(begin, {})
        put(arena, 1000)
        state = arena.root.to_python()
    Arena.unlink(name)
    assert opened(name, folder) == state


class Cut:
    """A journal of which a restore has cut off something; what is opened is unlinked."""

    def __init__(self, name: str, folder: str, ask: Callable[..., Any], files: int = 0) -> None:
        """Commit up to n = 10, go back to n = 5, and on with 100 and 101, in so many files more."""
        self.folder = Folder(folder, create=True)
        with Arena.open(name, "16 MiB", journal=folder) as arena:
            for n in range(1, 11):
                self.last = put(arena, n)
                if n == 5:
                    self.to = self.last
        Arena.unlink(name)
        assert ask("restore", "--to", str(self.to), "--name", name, folder)[0] == 0
        self.number = self.folder.files()[-1]
        with Arena.open(name, "16 MiB", journal=folder) as arena:
            put(arena, 100)
            n = 101
            put(arena, n)
            while len(self.folder.files()) < self.number + files:
                put(arena, n := n + 1)
        Arena.unlink(name)
        self.path = self.folder.file_path(self.number)


@pytest.mark.parametrize("files", [0, 1])
def test_a_damaged_head_still_cuts_off_what_its_restore_has(
    name: str, folder: str, files: int, ask: Callable[..., Any]
) -> None:
    """Its first batch says where it begins: what a start recommends is of this line, and so is all that others show."""
    cut = Cut(name, folder, ask, files)
    damage(cut.path, 40)
    with pytest.raises(ArenaCorruptError, match=rf"head of.*sound up to commit {cut.to}\b") as error:
        Arena.open(name, "16 MiB", journal=folder)
    assert advice(str(error.value)) == cut.to
    if not files:
        shown = json.loads(ask("tail", "--json", folder)[1])
        assert max(each["seq"] for each in shown) == cut.to
    assert ask("restore", "--to", str(cut.last), "--name", name, folder)[0] != 0
    code, _, err = ask("restore", "--to", str(cut.to), "--name", name, folder)
    assert code == 0, err
    with Arena.open(name, journal=folder) as arena:
        assert arena.root["n"] == 5
        put(arena, 6)
    Arena.unlink(name)
    assert opened(name, folder)["n"] == 6
    with History.open(folder) as history:
        assert history.at(cut.to).to_python()["n"] == 5
        assert history.at(history.newest).to_python()["n"] == 6


@pytest.mark.parametrize("files", [0, 1])
def test_where_nobody_knows_what_was_cut_off_nothing_is_called_sound(
    name: str, folder: str, files: int, ask: Callable[..., Any]
) -> None:
    """With its first batch damaged as well, or the file gone, what is before it may count or not: what certainly does is named."""
    cut = Cut(name, folder, ask, files)
    damage(cut.path, 40)
    damage(cut.path, 4096 + 70)
    oldest = cut.folder.start_of(1).seq  # of the first snapshot, and the only one
    for gone in (False, True) if files else (False,):
        if gone:
            Path(cut.path).unlink()
        with pytest.raises(ArenaCorruptError, match="may have begun with a restore") as error:
            Arena.open(name, "16 MiB", journal=folder)
        assert "sound" not in str(error.value)
        assert advice(str(error.value)) == oldest
    code, _, err = ask("restore", "--to", str(oldest), "--name", name, folder)
    assert code == 0, err
    assert "n" not in opened(name, folder)


def test_a_snapshot_of_what_was_cut_off_is_not_begun_with(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """Also where the head of the file that has cut it off is damaged."""
    filled(name, folder, 3)
    compact(Folder(folder), lambda fd: None)
    journal = Folder(folder)
    newest = journal.snapshots()[-1]
    to = journal.start_of(2).seq
    assert journal.start_of(2).position < newest
    assert ask("restore", "--to", str(to), "--name", name, folder)[0] == 0
    with Arena.open(name, journal=folder) as arena:
        put(arena, 1000)
    Arena.unlink(name)
    damage(journal.file_path(journal.files()[-1]), 40)
    with pytest.raises(ArenaCorruptError) as error:
        Arena.open(name, "16 MiB", journal=folder)
    assert advice(str(error.value)) == to
    assert "cut off" in ask("ls", folder)[1]
    assert ask("restore", "--to", str(to), "--name", name, folder)[0] == 0
    assert opened(name, folder)["n"] < 1000


# -- what errors recommend -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["first", "middle", "batch"])
def test_what_a_start_recommends_works(name: str, folder: str, which: str, ask: Callable[..., Any]) -> None:
    """A file that is gone, or damaged in its first batch: the command that it names works, and so do later starts."""
    states = filled(name, folder, 4)
    journal = Folder(folder)
    number = {"first": 1, "middle": 2, "batch": 3}[which]
    begin = journal.start_of(number).seq
    if which == "batch":
        damage(journal.file_path(number), 4096 + 70)
    else:
        Path(journal.file_path(number)).unlink()
    with pytest.raises(ArenaCorruptError) as error:
        Arena.open(name, "16 MiB", journal=folder)
    seq = advice(str(error.value))
    assert seq == begin
    code, out, err = ask("restore", "--to", str(seq), "--name", name, folder)
    assert code == 0, err
    assert "no longer count" in out
    with Arena.open(name, journal=folder) as arena:
        assert arena.root.to_python() == states.get(seq, {})
        put(arena, 1000)
        state = arena.root.to_python()
    Arena.unlink(name)
    assert opened(name, folder) == state
    with History.open(folder) as history:
        assert history.at(history.newest).to_python() == state


@pytest.mark.parametrize("gone", [True, False])
def test_what_the_snapshot_has_all_of_is_not_blamed(name: str, folder: str, gone: bool) -> None:
    """The file that begins where the snapshot lies is gone, or nothing in it can be read: it is named, and no older one."""
    for n in range(3):  # files 1 to 3, each of a life of its own; the snapshot lies where the third begins
        with Arena.open(name, "16 MiB", journal=folder) as arena:
            put(arena, n)
        Arena.unlink(name)
    compact(Folder(folder), lambda fd: None)
    for n in range(3, 5):
        with Arena.open(name, "16 MiB", journal=folder) as arena:
            put(arena, n)
        Arena.unlink(name)
    journal = Folder(folder)
    assert journal.snapshots()[-1] == journal.start_of(3).position
    snapshot = journal.start_of(3).seq
    if gone:
        Path(journal.file_path(3)).unlink()
    else:
        Path(journal.file_path(3)).write_bytes(b"")
        damage(journal.file_path(2), 40)  # which nobody needs
    with pytest.raises(
        ArenaCorruptError, match="before file 4 one is missing" if gone else "journal-0*3,? .*sound"
    ) as error:
        Arena.open(name, "16 MiB", journal=folder)
    assert advice(str(error.value)) == snapshot
    assert "another restore" not in str(error.value)


def test_a_moment_behind_what_is_missing_says_what_to_do(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """By a time nobody can tell what was meant: it is an error, and the command in it works."""
    states = filled(name, folder, 3)
    Path(Folder(folder).file_path(2)).unlink()
    code, _, err = ask("restore", "--to", "0s", "--name", name, folder)
    assert code == 6, err
    seq = advice(err)
    assert ask("restore", "--to", str(seq), "--name", name, folder)[0] == 0
    with Arena.open(name, journal=folder) as arena:
        assert arena.root.to_python() == states[seq]
    Arena.unlink(name)


# -- lines ---------------------------------------------------------------------------------------------------------------------


def test_a_file_of_another_line_is_not_taken_for_this_one(
    name: str, new_name: Any, folder: str, tmp_path: Path, ask: Callable[..., Any]
) -> None:
    """Two hosts go on from one backup, and files of one come among those of the other: nothing of them is replayed."""
    filled(name, folder, 2)
    other = new_name()
    for each in "a", "b":
        shutil.copytree(folder, tmp_path / each)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    states = filled(name, a, 4, begin=1000)
    filled(other, b, 4, begin=2000)
    last = Folder(a).files()[-1]
    assert Folder(b).files()[-1] == last
    begins = [start.epoch for start in Folder(a).starts()]
    assert len(set(begins)) == 2
    kept = Path(Folder(a).file_path(last)).read_bytes()
    shutil.copy(Folder(b).file_path(last), Folder(a).file_path(last))
    with pytest.raises(ArenaCorruptError, match="another restore of the same state") as error:
        opened(name, a)
    assert advice(str(error.value)) in states
    assert ask("verify", a)[0] == 1
    # the same where it says that it is of this epoch, or of a later one: its chain is another
    with Folder(b).open_file(last) as file:
        foreign = file.start()
    Path(Folder(a).file_path(last)).unlink()
    own = Folder(a).starts()[-1]
    for epoch in own.epoch, own.epoch + (1 << 32):
        with Folder(a).open_file(own.number) as file:
            end = list(iter(file.next, None))[-1]
        native_journal.create_file(a, foreign._replace(epoch=epoch, position=end.end, seq=end.seq, at=end.at))
        with pytest.raises(ArenaCorruptError, match="does not go on from the last batch"):
            opened(name, a)
        assert ask("verify", a)[0] == 1
        with History.open(a) as history, pytest.raises(ArenaCorruptError, match="does not go on"):
            history.at(datetime.datetime.now(datetime.UTC))
        Path(Folder(a).file_path(last)).unlink()
    Path(Folder(a).file_path(last)).write_bytes(kept)
    assert opened(name, a) == states[max(states)]


def test_batches_without_commits_are_part_of_the_chain(name: str, folder: str, ask: Callable[..., Any]) -> None:
    """A clean end writes one: what goes on from there in a new file is this line's, and so is a restore to a commit of a batch."""
    for life in range(3):
        with Arena.open(name, "16 MiB", journal=folder) as arena:
            with arena.transaction():
                arena.root["n"] = life
            if life == 1:
                asyncio.run(arena.durable())
        tip = Folder(folder).tip()
        assert tip is not None
        Arena.unlink(name)
        native_journal.create_file(folder, tip.as_start()._replace(number=tip.start.number + 1))
        assert opened(name, folder) == {"n": life}
        with Arena.open(name, "16 MiB", journal=folder):
            pass
        Arena.unlink(name)
    assert ask("verify", folder)[0] == 0
    found = json.loads(ask("tail", "--json", folder)[1])
    for each in reversed(found):
        assert ask("restore", "--to", str(each["seq"]), "--name", name, folder)[0] == 0
        Arena.unlink(name)
        assert ask("verify", folder)[0] == 0
        assert opened(name, folder)["n"] >= 0
