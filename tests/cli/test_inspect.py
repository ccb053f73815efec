"""`recoverable inspect`: the tree, pages of it, values by path; of an arena in use and of one that nobody has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from recoverable import Arena, Array, Counter, Deque, Record
from recoverable.cli import _inspect
from recoverable.cli._live import Copy
from support.commands import child, command, command_json
from support.segments import path_of

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pupil(Record):
    name: str
    marks: list


@pytest.fixture
def school(arena: Arena) -> Arena:
    """Give an arena with a container of each kind."""
    with arena.transaction():
        arena.root.update(
            {
                "pupils": {"ann": [1, 2, 3.5], "bob": []},
                "best": Pupil(name="ann", marks=[6]),
                "count": Counter(5),
                "seen": {7},
                "queue": Deque(["a", "b"]),
                "grid": Array((10, 4), "f4"),
                "pair": (1, b"x"),
                5: None,
            }
        )
    return arena


@pytest.mark.slow
def test_the_tree_has_types_and_sizes(school: Arena) -> None:
    """Without a path it is the root's page: each entry with its type, how many it holds, and its value."""
    found = command_json("inspect", school.name)
    assert (found["type"], found["length"], found["path"]) == ("Dict", 8, "root")
    entries = {entry["path"].removeprefix("root"): entry for entry in found["entries"]}
    assert {path: entry["type"] for path, entry in entries.items()} == {
        "['pupils']": "Dict",
        "['best']": "Pupil",
        "['count']": "Counter",
        "['seen']": "Set",
        "['queue']": "Deque",
        "['grid']": "Array",
        "['pair']": "tuple",
        "[5]": "NoneType",
    }
    assert entries["['pupils']"]["length"] == 2
    assert entries["['count']"]["value"] == 5
    assert entries["['grid']"]["about"] == "<f4 (10, 4)"
    assert entries["['pair']"]["value"] == "(1, b'x')"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ('root["pupils"]["ann"][2]', 3.5),
        ('["pupils"]["ann"][-1]', 3.5),
        ("pupils/ann/2", 3.5),
        ("best/name", "ann"),
        ('root["best"].name', "ann"),
        ('root["best"].marks[0]', 6),
        ("queue/1", "b"),
        ('root["grid"][3, 1]', 0.0),
        ("5", None),
        ("count", 5),
    ],
)
def test_a_value_by_its_path(school: Arena, path: str, value: object) -> None:
    """A path leads through every kind of container, as Python writes it or between slashes."""
    node = _inspect.look(Copy(school.root), _inspect.parse(path))
    assert node.as_json()["value"] == value


@pytest.mark.parametrize(
    "path",
    ["pupils/zoe", "pupils/ann/3", "best/age", 'root["best"]["name"]', "count/1", "seen/7", 'root["pupils"].ann'],
)
def test_where_nothing_lies(school: Arena, path: str) -> None:
    """A path that leads nowhere is an error that says how far it led."""
    with pytest.raises(_inspect.PathError, match="has nothing at"):
        _inspect.look(Copy(school.root), _inspect.parse(path))


@pytest.mark.parametrize("path", ["root[", "root.a(1)", "root[f()]", "[1]+[2]", "root[" * 5000])
def test_what_is_no_path(path: str) -> None:
    """What is no path is refused, and nothing in it is run."""
    with pytest.raises(_inspect.PathError, match="is not a path"):
        _inspect.parse(path)


@pytest.mark.parametrize("kind", ["dict", "list", "set", "deque"])
def test_pages(arena: Arena, kind: str) -> None:
    """--offset and --limit choose a container's page, and what is left out is counted."""
    with arena.transaction():
        arena.root["big"] = {
            "dict": {i: i for i in range(100)},
            "list": list(range(100)),
            "set": set(range(100)),
            "deque": Deque(range(100)),
        }[kind]
    seen = []
    for offset in range(0, 100, 30):
        node = _inspect.look(Copy(arena.root), _inspect.parse("big"), offset=offset, limit=30)
        assert node.length == 100
        assert node.left_out == 100 - len(node.children)
        seen += [entry.value for entry in node.children]
    assert sorted(seen) == list(range(100))


def test_depth(school: Arena) -> None:
    """--depth opens containers in containers; 0 opens none."""
    deep = _inspect.look(Copy(school.root), [], depth=3)
    (ann,) = [node for _, node in deep.rows() if node.path == "root['pupils']['ann']"]
    assert [entry.value for entry in ann.children] == [1, 2, 3.5]
    assert _inspect.look(Copy(school.root), [], depth=0).children == []


def test_memory_is_that_of_all_below(school: Arena) -> None:
    """A container's memory has what it holds in it; the root's is all that is allocated, but for what records need."""
    node = _inspect.look(Copy(school.root), [])
    assert node.memory is not None
    assert node.memory > sum(entry.memory or 0 for entry in node.children)
    grid = next(entry for entry in node.children if entry.path == "root['grid']")
    assert grid.memory is not None
    assert 4096 + 160 < grid.memory < 8192
    assert node.memory <= school.verify().bytes


@pytest.mark.slow
def test_an_arena_in_use_is_left_as_it_is(school: Arena) -> None:
    """Beside a server not a byte of the arena changes, not even of its lock and its tables, and memory is told."""
    before = path_of(school.name).read_bytes()
    found = command_json("inspect", school.name)
    assert found["memory"] > 4096
    assert path_of(school.name).read_bytes() == before
    assert command_json("inspect", school.name, "--memory") == found


HALF_DONE = """
import sys
from recoverable import Arena
arena = Arena.open(sys.argv[1], create=False)
block = arena.transaction()
block.__enter__()
arena.root["ann"] -= 5
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_of_a_killed_server_committed_state_is_shown_and_nothing_changed(name: str) -> None:
    """What the dead process had half done is undone in a copy only."""
    with Arena.open(name, "4 MiB") as arena, arena.transaction():
        arena.root.update(ann=10, bob=10)
    process = child(HALF_DONE, name)
    process.kill()
    process.communicate(timeout=30)
    before = path_of(name).read_bytes()
    found = command_json("inspect", name)
    assert [entry["value"] for entry in found["entries"]] == [10, 10]
    assert found["memory"] > 0
    assert path_of(name).read_bytes() == before


@pytest.fixture
def holder(name: str) -> Iterator[str]:
    """Give an arena whose lock another process holds, in a step that does not end."""
    with Arena.open(name, "4 MiB") as arena, arena.transaction():
        arena.root.update(ann=10)
    process = child(HALF_DONE, name)
    yield name
    process.kill()
    process.communicate(timeout=30)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--memory",)])
def test_a_step_that_does_not_end_is_not_waited_for(holder: str, options: tuple[str, ...]) -> None:
    """In the middle of somebody's step it shows what was committed before, and changes nothing."""
    before = path_of(holder).read_bytes()
    found = command_json("inspect", holder, *options)
    assert [entry["value"] for entry in found["entries"]] == [10]
    assert path_of(holder).read_bytes() == before


@pytest.mark.slow
def test_exit_codes(school: Arena) -> None:
    """No such arena and no such path are 3; a table in a pipe has no colour."""
    assert command("inspect", "no-such-arena").returncode == 3
    done = command("inspect", school.name, "pupils/zoe")
    assert (done.returncode, done.stdout) == (3, "")
    assert "root['pupils'] has nothing at 'zoe'" in done.stderr
    done = command("inspect", school.name, "--depth", "2", "--limit", "2", env={**os.environ, "FORCE_COLOR": "1"})
    assert "6 more" in done.stdout
    assert "\x1b" not in done.stdout
