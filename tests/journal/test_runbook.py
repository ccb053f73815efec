"""docs/howto/journal.md: its commands run as they stand there, one after the other, and do what the page says."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena

PAGE = Path(__file__).parents[2] / "docs/howto/journal.md"
SETTING = f"""set -e
recoverable() {{ {sys.executable} -m recoverable.cli "$@"; }}
systemctl() {{ :; }}
"""


def blocks() -> dict[str, str]:
    """Return the page's shell blocks, by the section that they stand in."""
    found: dict[str, str] = {}
    for section in re.split(r"^#+ ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        for block in re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE):
            found[section.split("\n")[0]] = block
    return found


@pytest.mark.slow
def test_the_commands_of_the_page(name: str, tmp_path: Path) -> None:
    """Each section finds what the one before it has left."""
    folder = tmp_path / "lib" / "shop"
    folder.parent.mkdir()
    (tmp_path / "other").mkdir()
    commands = blocks()

    def commit(value: int) -> None:
        with arena.transaction():
            arena.root["n"] = value
        asyncio.run(arena.durable())

    def type_in(section: str, replaced: tuple[str, str] = ("", "")) -> str:
        text = commands.pop(section)
        for old, new in (("/var/lib", str(folder.parent)), ("/mnt/other", str(tmp_path / "other")), replaced):
            text = text.replace(old, new) if old else text
        text = re.sub(r"(?<![\w/.])shop(?![\w/.])", name, text)
        done = subprocess.run(["bash", "-c", SETTING + text], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, (text, done.stdout, done.stderr)
        return done.stdout

    arena = Arena.open(name, "16 MiB", journal=folder)
    for value in range(5):
        commit(value)
    told = type_in("When something is wrong with the journal", ("recoverable doctor --journal", "true"))
    assert "up to date, by" in told
    assert "journal-0000000000000001" in told
    assert "served by process" in type_in("A request ended by InDoubtError")
    assert len(type_in("Who writes the journal").split()) == 2
    assert "nothing to do" in type_in("The disk is full")
    type_in("A flush has failed")
    assert (tmp_path / "other" / "shop.export").stat().st_size
    folder.rename(folder.with_name("elsewhere"))
    arena.close()
    type_in("The folder was moved or removed")
    with Arena.open(name, journal=folder) as arena:
        seq = arena.stats().feed.seq
        commit(5)
    told = type_in("Back to an earlier moment", ("2026-05-31T12:00:00", str(seq)))
    assert "no longer count" in told
    with Arena.open(name, journal=folder) as arena:
        assert arena.root["n"] == 4
        commit(6)
    type_in("A larger arena")
    with Arena.open(name, journal=folder) as arena:
        assert arena.root["n"] == 6
        assert arena.size >= 64 * 1024**2
        commit(7)
    assert not commands, "sections that nobody tries"
    Arena.unlink(name)
    with Arena.open(name, journal=folder) as arena:
        assert (arena.root["n"], arena.size >= 64 * 1024**2) == (7, True)
    Arena.unlink(name)


def test_a_larger_size_is_told_how_to_have_it(name: str, tmp_path: Path, log: list[dict[str, Any]]) -> None:
    """What comes back from a journal has the size that it had; unlinking it first, as without one, would change nothing."""
    with Arena.open(name, "4 MiB", journal=tmp_path / "journal"):
        pass
    for unlinks in True, False:
        if unlinks:
            Arena.unlink(name)
        with Arena.open(name, "64 MiB", journal=tmp_path / "journal") as arena:
            assert arena.size < 5 * 1024**2
        event = [each for each in log if each["event"] == "arena.attached"][-1]
        assert f"recoverable import {name} FILE --size" in event["note"]
        assert "unlink" not in event["note"]
    Arena.unlink(name)
