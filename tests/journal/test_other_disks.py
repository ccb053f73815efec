"""A journal on a disk that has lost a place, and on a file system whose rename() knows no flags."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena
from recoverable.journal.folder import Folder
from support import disks

pytestmark = pytest.mark.slow  # a compiler, and processes

FILE = "journal-0000000000000001"
PUT = """
    import asyncio, sys
    from recoverable import Arena
    from recoverable._native import journal
    journal.file_size(256 * 1024)
    name, folder, first, last = *sys.argv[1:3], *map(int, sys.argv[3:])
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        for n in range(first, last):
            with arena.transaction():
                arena.root["n"] = n
                arena.root["pad"] = str(n) * 2000
            asyncio.run(arena.durable())
"""
OPEN = """
    import sys
    from recoverable import Arena
    from recoverable.errors import RecoverableError
    try:
        with Arena.open(sys.argv[1], "16 MiB", journal=sys.argv[2]) as arena:
            print(arena.root.get("n"))
    except RecoverableError as error:
        print(type(error).__name__, error)
        sys.exit(3)
"""
RESTORE = "import sys; from recoverable.cli._app import run; sys.exit(run(['journal', *sys.argv[1:]]))"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make the library that is in front of the C library."""
    return disks.shim(tmp_path_factory.mktemp("disks"))


def batches(folder: str) -> list[Any]:
    """Return the batches of the first file."""
    with Folder(folder).open_file(1) as file:
        return list(iter(file.next, None))


@pytest.mark.parametrize("which", ["head", "first", "middle", "last", "behind"])
def test_a_place_that_the_disk_has_lost_is_damage(name: str, folder: str, library: str, which: str) -> None:
    """It is told with the last sound commit, and the command that goes back to it does so."""
    with Arena.open(name, "16 MiB", journal=folder) as arena:
        for n in range(20):
            with arena.transaction():
                arena.root["n"] = n
            asyncio.run(arena.durable())
    Arena.unlink(name)
    found = [each for each in batches(folder) if each.records]
    assert len(found) == 20
    first = Folder(folder).start_of(1).seq
    offset, seq = {
        "head": (50, first),
        "first": (found[0].offset + 30, first),
        "middle": (found[10].offset + 70, found[9].seq),
        "last": (found[19].offset + 70, found[18].seq),
        "behind": (200 * 1024, found[19].seq),
    }[which]
    lost = f"{FILE}:{offset}"
    opened = disks.run(library, OPEN, name, folder, LOST=lost)
    assert opened.returncode == 3, opened
    assert opened.stdout.startswith("ArenaCorruptError"), opened.stdout
    assert FILE in opened.stdout
    (to,) = re.findall(r"recoverable journal restore --to (\d+) --name", opened.stdout)
    assert int(to) == seq
    restored = disks.run(library, RESTORE, "restore", "--to", to, "--name", name, folder, LOST=lost)
    assert restored.returncode == 0, restored
    put = disks.run(library, PUT, name, folder, "1000", "1001", LOST=lost)
    assert put.returncode == 0, put
    Arena.unlink(name)
    opened = disks.run(library, OPEN, name, folder, LOST=lost)
    assert opened.stdout == "1000\n", opened
    Arena.unlink(name)


def test_a_journal_goes_on_where_rename_knows_no_flags(name: str, folder: str, library: str) -> None:
    """From file to file, and what there was before is not replaced."""
    put = disks.run(library, PUT, name, folder, "0", "300", PLAIN="1")
    assert put.returncode == 0, put
    files = Folder(folder).files()
    assert len(files) > 2
    for number in files:
        assert Path(Folder(folder).file_path(number)).stat().st_nlink == 1
    Arena.unlink(name)
    opened = disks.run(library, OPEN, name, folder, PLAIN="1")
    assert opened.stdout == "299\n", opened
    Arena.unlink(name)


@pytest.mark.crash
def test_one_that_is_killed_between_two_names_leaves_a_file_that_is_not_written_over(
    name: str, folder: str, library: str
) -> None:
    """The file in use is called `spare`, too: the next one is made of another."""
    assert disks.run(library, PUT, name, folder, "0", "1", PLAIN="1").returncode == 0
    assert disks.run(library, PUT, name, folder, "1", "300", PLAIN="1", KILLED="1").returncode == -9
    before = Folder(folder).files()
    last = Folder(folder).file_path(before[-1])
    assert Path(last).samefile(f"{folder}/spare")
    put = disks.run(library, PUT, name, folder, "300", "600", PLAIN="1")
    assert put.returncode == 0, put
    assert len(Folder(folder).files()) > len(before)
    assert [start.number for start in Folder(folder).starts()] == Folder(folder).files()
    Arena.unlink(name)
    opened = disks.run(library, OPEN, name, folder, PLAIN="1")
    assert opened.stdout == "599\n", opened
    Arena.unlink(name)
