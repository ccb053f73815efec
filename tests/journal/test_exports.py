"""Exports and imports beside a feed and a journal: what was imported is an arena of its own, which no old journal is of."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from recoverable import Arena
from recoverable._native import feed as native_feed
from recoverable.cli import _app
from recoverable.errors import FeedMissingError, JournalError

DOCS = Path(__file__).parents[2] / "docs"
KINDS = [[], ["--portable"]]


def ran(*arguments: str) -> None:
    """Run a command, which must end well."""
    assert _app.run([*arguments]) == 0


@pytest.mark.parametrize("options", KINDS)
def test_what_was_imported_is_another_arena(name: str, tmp_path: Path, options: list[str]) -> None:
    """It begins a feed and a journal of its own: of the folder that it was exported beside, it is refused, which loses nothing."""
    old, new, file = str(tmp_path / "old"), str(tmp_path / "new"), str(tmp_path / "file")
    with Arena.open(name, "1 MiB", journal=old) as arena:
        with arena.transaction():
            arena.root["n"] = 1
        ran("export", name, file, *options)
        with arena.transaction():
            arena.root["n"] = 2
        state = native_feed.state(arena.native)
    Arena.unlink(name)
    ran("import", name, file)
    before = sorted((path.name, path.read_bytes()) for path in Path(old).glob("[js]*-*"))
    with pytest.raises(JournalError, match=f"another arena.*recoverable rm {name}"):
        Arena.open(name, journal=old)
    assert sorted((path.name, path.read_bytes()) for path in Path(old).glob("[js]*-*")) == before
    with Arena.open(name, journal=new) as arena:
        assert arena.root == {"n": 1}
        found = native_feed.state(arena.native)
        assert found is not None
        assert state is not None
        assert found[0] != state[0]
        assert found[2] == state[2]
        with arena.transaction():
            arena.root["n"] = 3
    Arena.unlink(name)
    for folder, n in (new, 3), (old, 2):
        with Arena.open(name, journal=folder) as arena:
            assert arena.root == {"n": n}
        Arena.unlink(name)


@pytest.mark.parametrize("options", KINDS)
def test_nobody_waits_for_a_journal_that_is_elsewhere(name: str, tmp_path: Path, options: list[str]) -> None:
    """Of an arena with a journal, an import that is opened without one goes on beyond what its ring holds."""
    file = str(tmp_path / "file")
    with Arena.open(name, "4 MiB", feed="64 KiB", journal=tmp_path / "old") as arena:
        with arena.transaction():
            arena.root["n"] = 1
        ran("export", name, file, *options)
    Arena.unlink(name)
    ran("import", name, file)
    with Arena.open(name) as arena:
        for i in range(100, 200):  # the least ring has 256 KiB
            with arena.transaction():
                arena.root["text"] = str(i) * 1000
        assert native_feed.sinks(arena.native) == []
        assert [commit.seq for commit in arena.feed(after=arena.stats().commit_seq - 3, follow=False)] == [
            arena.stats().commit_seq - i for i in (2, 1, 0)
        ]


@pytest.mark.parametrize("options", KINDS)
def test_without_a_feed_it_stays_without(name: str, tmp_path: Path, options: list[str]) -> None:
    """An arena without a feed comes back without one; opened with a journal it is refused, and told how it gets one."""
    file = str(tmp_path / "file")
    with Arena.open(name, "1 MiB") as arena, arena.transaction():
        arena.root["n"] = 1
    ran("export", name, file, *options)
    Arena.unlink(name)
    ran("import", name, file)
    with Arena.open(name) as arena, pytest.raises(FeedMissingError, match="import --feed"):
        arena.feed()
    with pytest.raises(JournalError, match=r"export .* --portable; recoverable rm .* import .* --feed"):
        Arena.open(name, journal=tmp_path / "new")
    with Arena.open(name) as arena:
        assert arena.root == {"n": 1}


def commands_of(page: str) -> list[list[str]]:
    """Return the commands of a page's block that moves an arena into one with a feed."""
    for block in re.findall(r"^```sh\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE):
        if "--feed" in block:
            return [shlex.split(line, comments=True)[1:] for line in block.splitlines()]
    raise AssertionError(f"{page} does not say how")


def test_the_commands_of_the_page_give_an_arena_a_journal(name: str, tmp_path: Path) -> None:
    """An arena that was made without a feed gets a journal by the commands that docs/journal.md names, and keeps its state."""
    with Arena.open(name, "1 MiB") as arena, arena.transaction():
        arena.root.update(n=1, list=[1, {"a": (2, 3)}])
    for command in commands_of("journal.md"):
        ran(*({"shop": name, "shop.jsonl": str(tmp_path / "shop.jsonl")}.get(word, word) for word in command))
    with Arena.open(name, journal=tmp_path / "journal") as arena, arena.transaction():
        arena.root["n"] = 2
    Arena.unlink(name)
    with Arena.open(name, journal=tmp_path / "journal") as arena:
        assert arena.root.to_python() == {"n": 2, "list": [1, {"a": (2, 3)}]}
