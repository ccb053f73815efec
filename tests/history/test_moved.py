"""Who has changed what is told as it was, where containers are replaced by others of their kind, and where Lists move them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recoverable import Arena, Array, Deque, Record
from recoverable.history import history as asked


class Pair(Record, name="tests.history.Pair"):
    x: int = 0
    y: int = 0


@pytest.fixture
def arena(new_name: Callable[[], str], tmp_path: Path) -> Iterator[Arena]:
    """Give an arena with a journal."""
    with Arena.temporary("16 MiB", name=new_name(), journal=tmp_path / "journal", compact=False) as made:
        yield made


def done(arena: Arena, change: Callable[[Any], object]) -> int:
    """Make a commit, and return its number."""
    with arena.transaction():
        change(arena.root)
    asyncio.run(arena.durable(timeout=30))
    return arena.history.newest


def put(key: str, value: Any) -> Callable[[Any], object]:
    """Return what sets a key."""
    return lambda root: root.__setitem__(key, value)


def writer(arena: Arena, path: str) -> int | None:
    """Return the number of a path's last writer, which is that of the first of its changes."""
    last = arena.history.last_writer(path)
    first = next((change.commit for change in arena.history.changes(path)), None)
    assert last == first
    return None if last is None else last.seq


def told(differences: Any) -> list[str]:
    """Return differences comparably."""
    return sorted(map(str, differences))


@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize(
    ("make", "path", "set_x"),
    [
        (lambda x, y: {"x": x, "y": y}, "root['a']['x']", lambda a: a.__setitem__("x", 1)),
        (lambda x, y: Pair(x=x, y=y), "root['a'].x", lambda a: setattr(a, "x", 1)),
        (lambda x, y: [x, y], "root['a'][0]", lambda a: a.__setitem__(0, 1)),
        (lambda x, y: Deque([x, y]), "root['a'][0]", lambda a: a.__setitem__(0, 1)),
        (lambda x, y: Array([x, y], "i8"), "root['a'][0]", lambda a: a.__setitem__(0, 1)),
        (lambda x, y: {"x": {"z": [x]}, "y": y}, "root['a']['x']['z'][0]", lambda a: a["x"]["z"].__setitem__(0, 1)),
    ],
    ids=["dict", "record", "list", "deque", "array", "deep"],
)
def test_a_container_is_replaced_by_an_altered_copy(
    arena: Arena, make: Callable[[int, int], Any], path: str, set_x: Callable[[Any], object], times: int
) -> None:
    """What the copy has as it was before was written by whoever had changed it there."""
    first = done(arena, put("a", make(0, 0)))
    last = done(arena, lambda root: set_x(root["a"]))
    for y in range(times):
        done(arena, put("a", make(1, y + 1)))
        done(arena, put("a", make(1, y + 1)))
    assert [change.commit.seq for change in arena.history.changes(path)] == [last, first]
    assert writer(arena, path) == last


def test_a_copy_in_a_great_commit(arena: Arena) -> None:
    """A commit that has written more than a record has room to name has perhaps replaced what the path leads through."""

    def greatly(root: Any) -> None:
        root.update({f"k{i}": i for i in range(2000)})
        root["a"] = {"x": 0, "y": 1}

    first = done(arena, put("a", {"x": 0, "y": 0}))
    done(arena, greatly)
    last = done(arena, lambda root: root["a"].__setitem__("x", 1))
    assert [change.commit.seq for change in arena.history.changes("root['a']['x']")] == [last, first]
    assert writer(arena, "root['a']['x']") == last


def test_a_path_that_nobody_has_written_to(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has no last writer, which takes no state but the newest one to tell."""
    done(arena, put("a", {"x": 0}))
    monkeypatch.setattr(asked, "Stepper", None)
    assert arena.history.last_writer("root['b']['x']") is None


def shift(items: Any, at: int) -> None:
    """Put something in front, and change what was at a position."""
    items.appendleft({"state": "new"}) if isinstance(items, Deque) else items.insert(0, {"state": "new"})
    items[at + 1]["state"] = "x"


def cut(items: Any, at: int) -> None:
    """Take the first one out, and change what was at a position."""
    items.popleft() if isinstance(items, Deque) else items.pop(0)
    items[at - 1]["state"] = "x"


def turn(items: Any, at: int) -> None:
    """Turn it round, and change what was at a position."""
    items[at]["state"] = "x"
    items.reverse()


@pytest.mark.parametrize("move", [shift, cut, turn])
@pytest.mark.parametrize("kind", [list, Deque])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_what_moves_and_changes_in_one_commit(
    arena: Arena, kind: Callable[[list[Any]], Any], move: Callable[[Any, int], None], at: int
) -> None:
    """Is told by position, once: items of a List or a Deque, and what is in them."""

    def item(n: int) -> dict[str, Any]:
        return {"state": n, "more": {"a": Array([n, 0], "i8")}}

    def change(root: Any) -> None:
        deep = root["l"][at]["more"]
        deep["n"] = 1
        deep["a"][1] = 7
        with deep["a"].edit() as view:
            view[0] = 9
        move(root["l"], at)

    before = done(arena, put("l", kind([item(n) for n in range(4)])))
    after = done(arena, change)
    history = arena.history
    found = told(history.changed_by(after).differences)
    assert found == told(history.diff(before, after))
    assert len({each.partition(": ")[0] for each in found}) == len(found)
    (change_of_it, _) = history.changes("root['l']")
    assert told(change_of_it.differences) == found


def test_what_is_at_a_key_that_does_not_equal_itself(arena: Arena) -> None:
    """NaN is a key like others: what is changed there has not moved."""
    done(arena, lambda root: root.__setitem__(float("nan"), {"x": 0}))
    after = done(arena, lambda root: root[float("nan")].__setitem__("x", 1))
    assert told(arena.history.changed_by(after).differences) == ["root[nan]['x']: 0 -> 1"]
